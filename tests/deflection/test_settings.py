"""Settings of the integration: written once for both operations and for what their twins accept."""

import inspect

import numpy as np
import pytest

from gpu4d.deflection.integrate_gradient import Settings, integrate_gradient, integrate_iteratively


@pytest.mark.parametrize("operation", [integrate_gradient, integrate_iteratively], ids=lambda op: op.name)
def test_settings_are_the_arguments_of_the_operations(operation):
    _, *given = inspect.signature(operation.definition).parameters.values()
    assert [(p.name, p.default) for p in given] == list(Settings()._asdict().items())


def test_the_padded_plane_counts_for_the_kernels():
    """By position and by name: 2¹⁵ × 2¹⁵ samples fit, twice the side does not."""
    plane = np.broadcast_to(np.float32(1), (2**15, 2**15, 2))
    refused = [
        integrate_gradient.unsupported("cuda", plane),
        integrate_gradient.unsupported("cuda", plane, 1.0, 0.0, 0.0, "padded", 2.0),
        integrate_gradient.unsupported("cuda", plane, boundary="padded", padding_factor=2.0),
    ]
    assert all("2³¹ samples" in reason for reason in refused)
    assert integrate_gradient.unsupported("cuda", plane, boundary="padded", padding_factor=1.0) is None
