"""One sweep feeds all statistics and the strain of a glass: the bits of a sweep for each,
also from a file larger than the memory."""

import functools

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.amorphous import PatternMoments, RingStrain, SpotFluctuation, halo_reference
from gpu4d.data import EventSource
from gpu4d.errors import MemoryBudgetError
from gpu4d.rings import RadialVariance

SCAN = gpu4d.simulate.amorphous_scan((37, 29), (48, 44), radius=13.0, width=2.0, dose=9e3, seed=6)
COUNTS = SCAN.cube.source.array
ORIGIN = SCAN.truth["origin"]
GLASS = np.linspace(8.0, 3.0, 11)  # counts a pixel of each ring
RINGS = {"n_r": 11, "r_max": 22.0}


@functools.cache  # compiled code runs when a test asks, not while every worker imports this file
def reference_of_the_scan():
    return halo_reference(SCAN.cube, origin=ORIGIN, ellipse=(1.0, 1.0, 0.0))


def reductions(origin=ORIGIN, reference=None):
    return {
        "rings": gpu4d.RingStatistics(origin, **RINGS),
        "variance": RadialVariance(origin, **RINGS),
        "moments": PatternMoments(),
        "spots": SpotFluctuation(GLASS, 1.7, origin, **RINGS),
        "strain": RingStrain(reference or reference_of_the_scan(), origin),
    }


def numbers(result):
    """All arrays of a result."""
    if isinstance(result, gpu4d.rings.RingProfiles):
        return result.pixels, result.sums, result.squares
    if isinstance(result, tuple):
        return tuple(result)
    return (*(part.data for part in (result.exx, result.eyy, result.exy, result.residual)), result.covariance, result.origin)


def as_bytes(results):
    return {name: [np.asarray(part).tobytes() for part in numbers(result)] for name, result in results.items()}


@pytest.fixture(scope="module")
def alone():
    """Each in a sweep of its own, with the scan in memory."""
    found = {name: gpu4d.sweep(SCAN.cube, reduction, device="cpu") for name, reduction in reductions().items()}
    assert np.isfinite(np.asarray(found["strain"].exx)).mean() > 0.99 and found["rings"].sums.sum() > 1e6
    assert found["variance"].positions.max() == found["moments"].positions == 37 * 29
    return as_bytes(found)


def test_one_sweep_gives_the_bits_of_a_sweep_for_each(alone):
    assert as_bytes(gpu4d.sweep(SCAN.cube, reductions(), device="cpu")) == alone


def from_file(path, data, chunks, asked):
    """Sweep a file with the least memory that this takes; return the results and that memory."""
    with h5py.File(path, "w") as file:
        file.create_dataset("scan", data=data, chunks=chunks)
    cube = gpu4d.open(path, dataset="/scan")
    with pytest.raises(MemoryBudgetError) as refused:
        gpu4d.sweep(cube, asked(), device="cpu", memory=1000)
    least = refused.value.asked
    return gpu4d.sweep(cube, asked(), device="cpu", memory=least), least


@pytest.mark.parametrize("chunks", [None, (5, 3, 48, 44)])
def test_so_does_a_file_read_with_the_least_memory(alone, tmp_path, chunks):
    found, _ = from_file(tmp_path / "scan.h5", COUNTS, chunks, reductions)
    assert as_bytes(found) == alone


@pytest.mark.slow
def test_so_does_a_file_larger_than_the_memory(tmp_path):
    scan = gpu4d.simulate.amorphous_scan((11, 12), (64, 60), radius=18.0, dose=9e3, seed=7)
    data = np.tile(scan.cube.source.array, (10, 8, 1, 1))
    origin = np.tile(scan.truth["origin"], (10, 8, 1))
    reference = halo_reference(scan.cube, origin=scan.truth["origin"], ellipse=(1.0, 1.0, 0.0))
    found, least = from_file(tmp_path / "scan.h5", data, (4, 6, 64, 60), lambda: reductions(origin, reference))
    assert least < data.nbytes, "else this shows nothing"
    assert as_bytes(found) == as_bytes(gpu4d.sweep(gpu4d.DataCube(data), reductions(origin, reference), device="cpu"))


def test_so_do_the_events_of_a_counted_scan(alone):
    flat = COUNTS.reshape(37 * 29, -1)
    position, pixel = np.nonzero(flat)
    first = np.searchsorted(position, np.arange(len(flat) + 1))
    source = EventSource(first, pixel, COUNTS.shape[:2], COUNTS.shape[2:], flat[position, pixel].astype(np.uint16), "uint16")
    assert as_bytes(gpu4d.sweep(gpu4d.DataCube(source), reductions(), device="cpu")) == alone
