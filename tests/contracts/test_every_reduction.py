"""Every reduction of the library, and one of another package, keeps to the contract."""

import inspect
from pathlib import Path

import numpy as np
from contracts import toy_reduction

import gpu4d
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming import PerPositionReduction, SumReduction
from gpu4d.testing.reductions import ReductionTests

SHAPE = (16, 20)


def floats(mask=True):
    """A scan of floats, with pixels that do not count."""
    rng = np.random.default_rng(3)
    valid = rng.random(SHAPE) > 0.1 if mask else None
    return gpu4d.DataCube(rng.normal(5.0, 2.0, (13, 9, *SHAPE)).astype("float32"), detector_mask=valid)


def origins():
    return np.stack(np.meshgrid(np.linspace(7, 9, 13), np.linspace(8, 11, 9), indexing="ij"), -1)


def ring_arrays(result):
    """The arrays of ring statistics; what is in them as it is."""
    if isinstance(result, gpu4d.rings.RingProfiles):
        return [a for a in (result.pixels, result.sums, result.squares, result.median) if a is not None]
    return result


class TestVirtualImage(ReductionTests):
    def make(self):
        return gpu4d.VirtualImage({"bf": gpu4d.detectors.disk(4.0), "adf": gpu4d.detectors.annulus(4.0, 7.0)})


class TestVirtualImageOfFloats(ReductionTests):
    cube = staticmethod(floats)

    def make(self):
        weights = np.random.default_rng(4).random(SHAPE)
        return gpu4d.VirtualImage({"bf": gpu4d.detectors.disk(4.0), "weights": weights}, origins())


class TestMeanPattern(ReductionTests):
    def make(self):
        return gpu4d.MeanPattern()


class TestAlignedMeanPattern(ReductionTests):
    cube = staticmethod(floats)

    def make(self):
        return gpu4d.MeanPattern(weights=np.random.default_rng(1).random((13, 9)), origin=origins())


class TestMaxPattern(ReductionTests):
    cube = staticmethod(floats)

    def make(self):
        return gpu4d.MaxPattern()


class TestRadialVariance(ReductionTests):
    cube = staticmethod(floats)

    def make(self):
        where = np.random.default_rng(2).random((13, 9)) > 0.2
        return gpu4d.rings.RadialVariance(origins(), n_r=7, r_max=9.0, where=where)


class TestRadialVarianceOfCounts(ReductionTests):
    def make(self):
        return gpu4d.rings.RadialVariance((7.3, 9.1))


class TestRingStatistics(ReductionTests):
    cube = staticmethod(floats)

    def make(self):
        ellipses = np.eye(2) + np.random.default_rng(5).normal(0, 0.05, (13, 9, 2, 2))
        return gpu4d.RingStatistics(origins(), n_r=7, r_max=9.0, ellipse=ellipses, median=True)

    def bits(self, result):
        return super().bits(ring_arrays(result))


class TestRingStatisticsOfCounts(ReductionTests):
    def make(self):
        return gpu4d.RingStatistics((7.3, 9.1), r_max=13.0)

    def bits(self, result):
        return super().bits(ring_arrays(result))


class TestSpotFluctuation(ReductionTests):
    def make(self):
        return gpu4d.amorphous.SpotFluctuation(np.linspace(5.0, 2.0, 8), 1.6, origins())


class TestPatternMoments(ReductionTests):
    cube = staticmethod(floats)

    def make(self):
        return gpu4d.amorphous.PatternMoments()


class TestCenterOfMass(ReductionTests):
    def make(self):
        return gpu4d.CenterOfMass()


class TestBraggDisks(ReductionTests):
    def make(self):
        return gpu4d.BraggDisks(gpu4d.probe.synthetic(SHAPE, 2.5), min_significance=1.0, refine="correlation")


class TestBrightFieldStack(ReductionTests):
    def make(self):
        return BrightFieldStack([3, 40, 41, 319])


class TestBrightFieldStackOfFloats(ReductionTests):
    cube = staticmethod(lambda: floats(mask=False))

    def make(self):
        return BrightFieldStack(np.hypot(*(np.mgrid[:16, :20] - 8)) < 4)


class TestToy(ReductionTests):
    def make(self):
        return toy_reduction.Brightest()

    def test_it_finds_the_brightest_pixel(self):
        np.testing.assert_array_equal(gpu4d.sweep(self.cube(), self.make()), np.asarray(self.cube().source.array).max((2, 3)))


def test_a_reduction_is_three_short_methods():
    """On a base class, and with the file it stands in, in at most 25 lines."""
    assert len(Path(toy_reduction.__file__).read_text().splitlines()) <= 25
    written = [name for name, _ in inspect.getmembers(toy_reduction.Brightest, inspect.isfunction) if name in vars(toy_reduction.Brightest)]
    assert written == ["bytes_needed", "finish", "update"]


def test_reductions_of_the_library_stand_on_the_bases():
    for kind in (gpu4d.VirtualImage, gpu4d.CenterOfMass, BrightFieldStack):
        assert issubclass(kind, PerPositionReduction)
    for kind in (gpu4d.MeanPattern, gpu4d.MaxPattern):
        assert issubclass(kind, SumReduction)
