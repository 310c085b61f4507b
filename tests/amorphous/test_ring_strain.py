"""The reduction to the strain of a glass: the same bits for every chunking, and its memory."""

import functools

import numpy as np
import pytest
from watched import watched

import gpu4d
from gpu4d.amorphous import RingStrain, halo_reference
from gpu4d.errors import MemoryBudgetError
from gpu4d.simulate import amorphous_scan
from gpu4d.testing.reductions import ReductionTests

SCAN = amorphous_scan((9, 7), (40, 44), radius=12.0, width=2.0, dose=2e4, seed=4)


@functools.cache  # compiled code runs when a test asks, not while every worker imports this file
def reference():
    return halo_reference(SCAN.cube, origin=SCAN.truth["origin"], ellipse=(1.0, 1.0, 0.0))


class TestRingStrain(ReductionTests):
    def make(self):
        return RingStrain(reference(), SCAN.truth["origin"])

    def cube(self):
        return SCAN.cube

    def bits(self, result):
        parts = result.exx.data, result.eyy.data, result.exy.data, result.covariance, result.origin, result.scale.data, result.residual.data
        return tuple(np.asarray(part).tobytes() for part in parts)


@pytest.mark.parametrize("implementation", ["cpu", "definition"])
def test_it_stays_within_the_memory_of_its_plan(implementation, tmp_path):
    np.save(tmp_path / "scan.npy", np.tile(SCAN.cube.source.array, (2, 2, 1, 1)))
    cube = gpu4d.DataCube(gpu4d.open(tmp_path / "scan.npy").source, detector_mask=np.arange(44) != np.full((40, 1), 9))
    make = lambda: RingStrain(reference(), (20.3, 21.8))  # noqa: E731
    with gpu4d.using(implementation):
        with pytest.raises(MemoryBudgetError) as refused:
            gpu4d.sweep(cube, make(), device=watched("cpu"), memory=1000)
        processor, least = watched("cpu"), refused.value.asked
        found = gpu4d.sweep(cube, make(), device=processor, memory=least)
        assert processor.opened[0].peak <= least
    assert np.asarray(found.mask).mean() > 0.9
    expected = gpu4d.sweep(cube, make(), device="cpu")
    np.testing.assert_allclose(np.asarray(found.exx), np.asarray(expected.exx), atol=2e-5)
