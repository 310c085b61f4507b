"""Where rings end, and rings that do not fit into shared memory: kernels of polar_transform.cu on the host shim."""

import numpy as np
import pytest
from cuda_on_host import HostBackend

import gpu4d
from gpu4d.device.backend import using_backend
from gpu4d.rings import radial_sums, ring_moments


def test_rings_that_do_not_fit_into_shared_memory_are_made_in_ranges():
    rng = np.random.default_rng(3)
    counts, origins = rng.poisson(4, (2, 40, 45)).astype("uint16"), rng.uniform(15, 25, (2, 2))
    options = {"n_r": 1500, "r_max": 30.0}
    expected = radial_sums.definition(counts, origins, **options)
    for kilobytes, ranges in ((64, 3), (227, 1)):
        host = HostBackend(shared=kilobytes * 1024)
        with using_backend(host), gpu4d.using("cuda"):
            found = radial_sums(counts, origins, **options)
        assert host.launched[0][1] == (2 * ranges,)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("origin", [(5.0, 5.0), (4.5, 4.5), (4.2, -1.3), (30.0, 4.999999999)])
def test_the_border_between_rings_is_the_definitions(origin):
    """Pixels on a border to the last bit: the kernel decides in single precision only where that is safe."""
    counts = np.arange(33 * 41).reshape(1, 33, 41).astype("uint16")
    for options in ({"r_max": 50.0, "n_r": 50}, {"r_max": 25.0, "n_r": 100}, {"r_max": 40.0, "n_r": 40, "ellipse": (5.0, 4.0, 0.0)}):
        expected = radial_sums.definition(counts, np.asarray(origin), **options)
        with using_backend(HostBackend()), gpu4d.using("cuda"):
            found = radial_sums(counts, np.asarray(origin), **options)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_moments_and_medians_in_ranges_and_on_borders(dtype):
    """Rings of each pattern's own ellipse, on borders to the last bit, where a range of them fits into shared memory."""
    rng = np.random.default_rng(5)
    values = rng.poisson(4, (3, 33, 41)).astype(dtype)
    if dtype == "float32":
        values = values * np.float32(0.7) - np.float32(2.0)
        values[1, 5, 6:9], values[2, 0, 0] = np.nan, -0.0
    origins, ellipses = np.asarray([(5.0, 5.0), (4.5, 4.5), (4.2, -1.3)]), np.asarray([(5.0, 4.0, 0.0), (1.0, 1.0, 0.3), (1.3, 1.0, 0.7)])
    options = {"n_r": 700, "r_max": 50.0, "ellipse": ellipses, "median": True}
    expected = ring_moments.definition(values, origins, **options)
    for kilobytes in (16, 227):
        with using_backend(HostBackend(shared=kilobytes * 1024)), gpu4d.using("cuda"):
            found = ring_moments(values, origins, **options)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)
