"""Orientations of disks that are on a GPU: nothing but the result goes to the host, and what a block of positions costs in launches.

PYTHONPATH=tests/support python -m pytest -p gpu_without_gpu -m gpu tests/orientation/test_on_a_gpu.py
"""

import contextlib

import numpy as np
import pytest
from kinematical_peaks import ENERGY, ORIGIN, Q_PIXEL, disks_of, spots
from scipy.spatial.transform import Rotation

import gpu4d
from gpu4d import arrays
from gpu4d.orientation import match_orientations, misorientation
from gpu4d.orientation.candidates import find_candidates
from gpu4d.orientation.library import library_of
from gpu4d.orientation.overlap import find_overlap
from gpu4d.orientation.peaks import Peaks, lab_frame, lab_peaks
from gpu4d.structures import Structure

pytestmark = pytest.mark.gpu
GOLD = Structure.standard("Au")
KNOWN = {"energy": ENERGY, "q_pixel": Q_PIXEL, "origin": (ORIGIN, ORIGIN), "thickness": 40.0, "disk_radius": 2.0}


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def some_disks(cupy, n=4):
    """Disks of gold, of which every second pattern has two grains, on the host and on the device."""
    turns = Rotation.random(2 * n, random_state=2).as_matrix()
    patterns = [spots(GOLD, turn) for turn in turns]
    mixed = [tuple(map(np.concatenate, zip(a, b))) if k % 2 else a for k, (a, b) in enumerate(zip(patterns[::2], patterns[1::2]))]
    host = disks_of(mixed)
    fields = {name: cupy.asarray(host.flat(name)) for name in host.fields}
    return host, gpu4d.PointListArray(cupy.asarray(host.offsets), fields, host.shape)


def test_orientations_of_disks_on_the_device(cupy):
    host, there = some_disks(cupy)
    one, other = (match_orientations(disks, GOLD, **KNOWN) for disks in (host, there))
    assert isinstance(other.matrices, np.ndarray)
    np.testing.assert_array_equal(other.second.found, one.second.found)
    sure = one.grain.found & ~one.ambiguous
    assert sure.any() and one.second.found.any()
    assert np.degrees(misorientation(other.matrices, one.matrices, GOLD))[sure].max() < 1e-4
    np.testing.assert_allclose(other.margin[sure], one.margin[sure], rtol=1e-3, atol=1e-3)


def block(cupy):
    """What `match_orientations` gives to its steps for a block of positions."""
    from gpu4d.orientation.candidates import FitOptions

    host, there = some_disks(cupy)
    frame = lab_frame(np.broadcast_to([ORIGIN, ORIGIN], (*host.shape, 2)), gpu4d.Calibration(), Q_PIXEL)
    peaks = lab_peaks(there, frame, 0.2, 0.08, 0.2)
    library = library_of(GOLD, energy=ENERGY, thickness=40.0, g_max=1.3)
    return peaks, [library], FitOptions(0.05, None, 0.1, 1.25, 0.2, 0.08, 0.2, 6)


def test_no_step_of_a_block_crosses_the_host(cupy, monkeypatch):
    peaks, libraries, options = block(cupy)
    overlaps = find_overlap(peaks, find_candidates(peaks, libraries, options), libraries, options)  # tables are on the device now
    assert overlaps.rows.shape[0] > 0

    def refuse(*_args, **_options):
        raise AssertionError("an array went to the host")

    with monkeypatch.context() as patch, contextlib.ExitStack():
        patch.setattr(cupy, "asnumpy", refuse)
        patch.setattr(arrays, "to_numpy", refuse)
        found = find_candidates(peaks, libraries, options)
        find_overlap(peaks, found, libraries, options)
    assert isinstance(found.turns, cupy.ndarray)


def test_launches_do_not_grow_with_the_block(cupy):
    gpu_without_gpu = pytest.importorskip("gpu_without_gpu")
    if not gpu_without_gpu.active():
        pytest.skip("counts are those of the CuPy of tests/support/gpu_without_gpu: pytest -p gpu_without_gpu -m gpu")
    peaks, libraries, options = block(cupy)
    twice = Peaks(*(cupy.concatenate([a, a]) for a in peaks))
    seen = []
    for some in (peaks, peaks, twice):
        with gpu_without_gpu.counting() as counted:
            find_candidates(some, libraries, options)
        seen.append(counted)
    assert seen[2].launches == seen[1].launches <= 300, seen[1].kernels
    assert seen[1].uploads == 0, "the library is on the device already"
