"""Stages of the fused disk kernel, each callable alone on the host shim, and scenes for them."""

from pathlib import Path

import numpy as np
import pytest
from cuda_on_host import HostBackend
from disk_options import limited, operands
from gpu4d.kernels import fused_disks
from operations.patterns import bragg_frames

from gpu4d.bragg.find_disks import correlation_maps
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.bragg.template_transforms import template_moments
from gpu4d.device.backend import inlined, using_backend
from gpu4d.probe import Template, synthetic, template

SIZES = tuple(fused_disks.PLANS)


SEEDS = (0, 1, 2, 7)


SOURCE = Path(__file__).parents[1] / "kernels" / "fused_stages.cu"
STAGES = SOURCE.read_text().replace('#include "fused_disks.cu"', inlined("fused_disks.cu"))


EVERY_SIZE = pytest.mark.parametrize("size", SIZES)


class Used(HostBackend):
    """Fresh arrays hold sevens: the usual NaN would pass for a padding nobody wrote."""

    def empty(self, shape, dtype):
        array = super().empty(shape, dtype)
        array.fill(7)
        return array


def stage(name: str, size: int, args: tuple, seed: int = 0) -> None:
    """Run one stage in one block."""
    host = HostBackend(seed=seed, sources={"fused_stages.cu": STAGES})
    plan = fused_disks.PLANS[size]
    function = host.function("fused_stages.cu", f"{name}_{size}", (f"SIZE={size}",))
    host.launch(function, (1,), (plan.threads,), args, plan.shared())


def packed(image: np.ndarray) -> np.ndarray:
    """Rows 2r and 2r + 1 as real and imaginary part of packed row r."""
    return np.ascontiguousarray(image[0::2] + 1j * image[1::2], np.complex64)


def unset(*shape: int, dtype: str = "complex64") -> np.ndarray:
    return np.full(shape, {"f": np.nan, "c": np.nan, "i": -7, "u": 77}[np.dtype(dtype).kind], dtype)


def close(found: np.ndarray, wanted: np.ndarray, limit: float) -> None:
    error = np.sqrt((np.abs(found - wanted) ** 2).mean() / (np.abs(wanted) ** 2).mean())
    assert error <= limit, f"error {error:.1e} of the root mean square, allowed {limit:.0e}"


def a_template(size: int, radius: float = 3.2) -> Template:
    return template(synthetic((size, size), radius))


def a_map(size: int, power: float = 0.85, seed: int = 0) -> np.ndarray:
    """A correlation map as the kernel would have it, in float32 precision."""
    counts = bragg_frames((size, size), 1, seed=seed)
    kernel = a_template(size)
    found = correlation_maps(counts, template_spectrum(kernel), template_moments(kernel), None, 0.0, power, 1.0)
    return found.hybrid[0].astype(np.float32)


def a_scene(size: int, radius: float = 3.2, dtype: str = "uint16", seed: int = 3):
    """Counts, their maps in float64, and the template's moments."""
    kernel = a_template(size, radius)
    counts = bragg_frames((size, size), 1, dtype, seed)
    moments = template_moments(kernel)
    return counts, correlation_maps(counts, template_spectrum(kernel), moments, None, 0.0, 0.85, 1.0), moments


def fused(patterns: np.ndarray, given: tuple, seed: int = 0, sources: dict | None = None, **options):
    host = Used(seed=seed, sources=sources)
    with using_backend(host):
        found = fused_disks.find_disks(patterns, *given, **limited(**options))
    assert [name for name, *_ in host.launched] == [f"find_disks_{patterns.shape[-1]}"] * bool(len(patterns))
    return found


def given_for(size: int, radius: float = 3.2) -> tuple:
    return operands(a_template(size, radius))


def assert_same(found, wanted, pixels: float = 2e-5, errors: float = 3e-3) -> None:
    assert np.array_equal(found.count, wanted.count)
    for name in ("qx", "qy"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0, atol=pixels)
    np.testing.assert_allclose(found.intensity, wanted.intensity, rtol=2e-5)
    for name in ("sx", "sy"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=errors)


def greedy(pixels: np.ndarray, size: int, spacing: float, most: int, taken: list) -> list:
    """Pixels, strongest first, at least `spacing` from those taken."""
    for at in pixels:
        i, j = divmod(int(at), size)
        if len(taken) < most and all((i - a) ** 2 + (j - b) ** 2 >= max(spacing**2, 1) for a, b in taken):
            taken = [*taken, (i, j)]
    return taken
