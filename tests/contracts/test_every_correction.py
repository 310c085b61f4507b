"""Every correction of the library, and one of another package, keeps to the contract."""

import re
from pathlib import Path

import numpy as np
from contracts import toy_correction

import gpu4d
from gpu4d.data import BadPixelCorrection
from gpu4d.data.corrections import Corrections
from gpu4d.testing.corrections import CorrectionTests

SHAPE = (12, 10)


def bad(seed=0, share=0.1):
    return np.random.default_rng(seed).random(SHAPE) < share


class TestBadPixels(CorrectionTests):
    def make(self):
        return BadPixelCorrection(bad())


class TestManyBadPixels(CorrectionTests):
    """Many have their nearest good pixel outside of cropped patterns."""

    def make(self):
        return BadPixelCorrection(bad(share=0.9))


class TestNoBadPixel(CorrectionTests):
    def make(self):
        return BadPixelCorrection(np.zeros(SHAPE, bool))


class TestDark(CorrectionTests):
    def make(self):
        return toy_correction.Dark(np.random.default_rng(3).normal(5.0, 1.0, SHAPE).astype(np.float32))

    def test_it_subtracts(self):
        frames = self.frames()
        np.testing.assert_allclose(self.make().apply(frames), frames.astype(np.float64) - self.make().dark, rtol=1e-6, atol=1e-6)


def test_several_are_applied_in_their_order():
    """Dark first, then bad pixels: in the other order the value of a good pixel would lose the dark level of a bad one."""
    dark, pixels = TestDark().make(), BadPixelCorrection(bad())
    frames = TestDark().frames()
    cube = gpu4d.DataCube(frames.reshape(4, 6, *SHAPE)).corrected(dark).corrected(bad_pixels=bad())
    expected = pixels.apply(dark.apply(frames))
    assert cube.dtype == np.float32 and cube.corrections.description == "dark image subtracted, " + pixels.description
    np.testing.assert_array_equal(cube.load().source.array, expected.reshape(4, 6, *SHAPE))
    other = dark.apply(pixels.apply(frames))
    assert not np.array_equal(expected, other)


def test_the_plan_counts_what_lies_beside_each_other():
    """Raw uint16 → float32 → float32: at most two results at once, and what lasts once."""
    dark, pixels = TestDark().make(), BadPixelCorrection(bad())
    both, n, frame = Corrections((dark, pixels)), 7, 4 * 12 * 10
    lasting = dark.bytes_needed(0) + pixels.bytes_needed(0)
    assert both.bytes_needed(0, SHAPE, np.dtype("uint16")) == lasting
    first, second = n * frame + dark.bytes_needed(n) - dark.bytes_needed(0), 2 * n * frame + pixels.bytes_needed(n) - pixels.bytes_needed(0)
    assert both.bytes_needed(n, SHAPE, np.dtype("uint16")) == lasting + max(first, second)


def test_a_correction_is_a_file_of_the_size_the_page_shows(checkout):
    page = (checkout / "docs" / "contributing" / "checklists.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"toy_correction\.py \| (\d+) \+", page)
    assert int(shown) == len(Path(toy_correction.__file__).read_text(encoding="utf-8").splitlines())
