"""Raw frames corrected as they are read: dark, gain, streaks, hits and bad pixels, as one correction."""

import tracemalloc

import numpy as np
import pytest

import gpu4d
from gpu4d.data import BadPixelCorrection, FrameCorrection, Hits, Streaks
from gpu4d.data.correct_frames import correct_frames
from gpu4d.data.views import CorrectedSource
from gpu4d.errors import InputError
from gpu4d.preprocess import edge_pixels
from gpu4d.testing.corrections import CorrectionTests

SHAPE = (12, 10)


def plane(low, high, seed):
    return np.random.default_rng(seed).uniform(low, high, SHAPE)


def bad_mask():
    bad = np.zeros(SHAPE, bool)
    bad[3, 4] = bad[4, 4] = bad[0, 0] = True
    return bad


EDGE = edge_pixels(SHAPE, 1.0)


class TestDarkAndGain(CorrectionTests):
    def make(self):
        return FrameCorrection(plane(3, 6, 0), plane(0.8, 1.2, 1), bad_pixels=bad_mask())


class TestEverything(CorrectionTests):
    """With streaks and hits, which need pixels outside of a crop."""

    def make(self):
        streaks = Streaks(EDGE, share=np.linspace(0.5, 1, 10), clip=60.0)
        return FrameCorrection(plane(3, 6, 0), plane(0.8, 1.2, 1), streaks, Hits(15.0, 60.0, 200.0), bad_mask())

    def frames(self, dtype="uint16"):
        frames = super().frames(dtype)
        frames[4, 5, 5], frames[9, 0, 9] = 250, 250
        return frames


class TestRows(CorrectionTests):
    def make(self):
        return FrameCorrection(np.zeros(SHAPE), streaks=Streaks(EDGE, "rows"))


def test_the_formula():
    """Frame by frame and pixel by pixel, in double precision, from the words of the docstring."""
    raw = np.random.default_rng(2).poisson(30.0, (5, *SHAPE)).astype("uint16")
    raw[1, 6, 5] = 2000  # a hit inside
    raw[1, 6, 6] = 200  # a pixel that it lights
    raw[2, 0, 3] = 3000  # a hit at the edge
    raw[3, 2:8, 2:8] = 1500  # a disk of the beam
    dark, gain = plane(3, 6, 0), plane(0.8, 1.2, 1)
    share = np.linspace(0.5, 1, 10)
    made = FrameCorrection(dark, gain, Streaks(EDGE, share=share, clip=90.0), Hits(25.0, 120.0, 1000.0), bad_mask()).apply(raw)
    for frame, found in zip(raw.astype(float), made):
        value = frame - dark
        for y in range(10):
            used = [value[x, y] for x in range(12) if EDGE[x, y] and not bad_mask()[x, y] and abs(value[x, y]) <= 90]
            value[:, y] -= share[y] * np.mean(used) if used else 0.0
        value /= gain
        bright = value > 1000
        for x, y in np.argwhere(value > 120):
            near = bright[max(0, x - 1) : x + 2, max(0, y - 1) : y + 2].any()
            if near and bright[max(0, x - 3) : x + 4, max(0, y - 3) : y + 4].sum() <= 9:
                value[x, y] = 25.0
        expected = BadPixelCorrection(bad_mask()).apply(value)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert made[1, 6, 5] == made[1, 6, 6] == made[2, 0, 3] == 25.0 and (made[3, 2:8, 2:8] > 900).all()


def test_keywords_make_one_correction():
    rng = np.random.default_rng(0)
    raw, darks = rng.poisson(40.0, (3, 4, *SHAPE)).astype("uint16"), rng.poisson(9.0, (6, *SHAPE)).astype("uint16")
    gain = plane(0.8, 1.2, 1)
    clean = gpu4d.DataCube(raw).corrected(dark=darks, gain=gain, bad_pixels=bad_mask())
    assert len(clean.corrections.steps) == 1 and clean.dtype == np.float32
    assert clean.corrections.description == "background subtracted, divided by the gain, 3 bad pixels replaced"
    expected = BadPixelCorrection(bad_mask()).apply((raw - darks.mean(0)) / gain)
    np.testing.assert_allclose(clean.load().source.array, expected, rtol=1e-5, atol=1e-4)
    assert not gpu4d.DataCube(raw).corrected(streaks=False).corrections
    level = gpu4d.DataCube(raw).corrected(streaks=1.0).load().source.array
    np.testing.assert_allclose(np.where(EDGE, level, 0).sum(-2), 0, atol=1e-3)


def test_pixels_without_a_dark_or_a_gain_are_bad():
    """They take the value of a good neighbour that is not masked."""
    dark, gain = np.zeros((1, 5)), np.ones((1, 5))
    dark[0, 1], gain[0, 3] = np.nan, 0.0
    cube = gpu4d.DataCube(np.arange(1, 6, dtype="uint8").reshape(1, 1, 1, 5), detector_mask=[[True, True, True, True, False]])
    assert np.asarray(cube.corrected(dark=dark, gain=gain)[0, 0]).tolist() == [[1, 1, 3, 3, 5]]
    stack = np.array([[[1.0, np.nan]], [[3.0, np.nan]]])
    found = gpu4d.DataCube(np.full((1, 1, 1, 2), 7, "uint8")).corrected(dark=stack)
    assert np.asarray(found[0, 0]).tolist() == [[5, 5]] and found.corrections.description.endswith("1 bad pixel replaced")


def test_a_crop_of_dark_and_gain_is_corrected_after_it():
    """So that a sweep moves cropped raw frames. Streaks and hits need the whole frame."""
    raw = gpu4d.DataCube(np.random.default_rng(0).poisson(40.0, (2, 3, *SHAPE)).astype("uint16"))
    dark = plane(3, 6, 0)
    for given, stays in (({}, True), ({"streaks": 1.0}, False), ({"hits": Hits(0, 90, 100)}, False)):
        view = raw.corrected(dark=dark, **given).crop(qx=(2, 9), qy=(3, 8))
        assert isinstance(view.source, CorrectedSource) == stays
        whole = raw.corrected(dark=dark, **given).load().source.array
        np.testing.assert_array_equal(view.load().source.array, whole[:, :, 2:9, 3:8])


def test_no_copy_of_the_scan_in_single_precision_is_held():
    """A sweep over a mapped file corrects tile by tile: it holds a few megabytes, the scan would take 151 MB."""
    raw = np.broadcast_to(np.random.default_rng(0).poisson(40.0, (1, 1, 128, 128)).astype("uint16"), (48, 48, 128, 128))
    cube = gpu4d.DataCube(raw).corrected(dark=np.full((128, 128), 9.0), streaks=0.9, hits=Hits(0, 900, 1000))
    one = {"mean": gpu4d.MeanPattern()}
    gpu4d.sweep(cube.crop(rx=(0, 1)), one, device="cpu")  # compiles
    todo = gpu4d.streaming.plan(cube, one, memory="16 MB", device="cpu")
    tracemalloc.start()
    gpu4d.sweep(cube, one, memory="16 MB", device="cpu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert todo.bytes <= 16e6 and 1e6 < peak < todo.bytes + 2e6 and todo.corrections


def test_read_only_frames_and_empty_scans():
    frames = np.full((2, *SHAPE), 7, "uint16")
    frames.flags.writeable = False
    made = TestEverything().make()
    assert made.apply(frames).shape == frames.shape and made.apply(frames[:0]).shape == (0, *SHAPE)
    swapped = made.swapped()
    np.testing.assert_array_equal(swapped.apply(np.swapaxes(frames, 1, 2)), np.swapaxes(made.apply(frames), 1, 2))
    assert swapped.streaks.along == "rows" and swapped.detector_shape == (10, 12)


def test_what_is_refused_says_what_to_do():
    cube = gpu4d.DataCube(np.zeros((2, 2, *SHAPE), "uint16"))
    for given, said in (
        ({"dark": np.zeros((3, 3))}, r"dark is \(3, 3\), the detector is \(12, 10\)"),
        ({"gain": np.zeros((2, *SHAPE))}, r"gain is \(2, 12, 10\), need \(12, 10\): one value per detector pixel"),
        ({"streaks": 3.0}, "radius=3: no pixel .* need 0.85 to 0.95"),
        ({"streaks": Streaks(np.ones((3, 3), bool))}, r"streaks are of a detector of \(3, 3\)"),
        ({"hits": 500.0}, "need what gpu4d.preprocess.background measured"),
        ({"gain": np.zeros(SHAPE)}, "no good pixel|invert a mask"),
    ):
        with pytest.raises(InputError, match=said):
            cube.corrected(**given)
    with pytest.raises(InputError, match="lit is above certain"):
        Hits(0.0, 10.0, 5.0)
    with pytest.raises(InputError, match="need 'columns'"):
        Streaks(EDGE, "lines")
    with pytest.raises(InputError, match="from 0 to 1"):
        Streaks(EDGE, share=1.5)
    with pytest.raises(InputError, match="clip=-1"):
        Streaks(EDGE, clip=-1.0)
    with pytest.raises(InputError, match="the patterns are"):
        TestEverything().make().apply(np.zeros((4, 4), "uint16"))


@pytest.mark.parametrize("number", [-1, 120, 10**9])
def test_a_pixel_that_does_not_exist_gives_no_value(number):
    """A compiled loop does not check where it reads."""
    taken_from = np.arange(120).reshape(SHAPE)
    taken_from[2, 3] = number
    with pytest.raises(InputError, match=r"taken_from runs from .* need numbers qx · Qy \+ qy from 0 to 119"):
        correct_frames(np.zeros((2, *SHAPE), "uint16"), np.zeros(SHAPE), taken_from=taken_from)
