"""Corrections in a sweep: raw patterns travel, each chunk is corrected once where it is reduced, and the plan knows."""

import tracemalloc
from dataclasses import dataclass, field

import numpy as np
import pytest
from contracts.toy_correction import Dark

import gpu4d
from gpu4d.data import BadPixelCorrection
from gpu4d.data.corrections import Corrections, dtype_like
from gpu4d.errors import MemoryBudgetError
from gpu4d.preprocess import fill_from_neighbours
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming import plan
from gpu4d.testing.accounting import AccountingProcessor

SHAPE = (26, 18, 40, 48)


def counts(dtype="uint16", shape=SHAPE):
    return np.random.default_rng(0).poisson(3.0, shape).astype(dtype)


def bad_mask(shape=SHAPE):
    return np.random.default_rng(1).random(shape[2:]) < 0.02


class Stored:
    """A scan that is read into buffers, in blocks of its own."""

    resident, description = False, "made up"

    def __init__(self, data, blocks=(1, 1)):
        self.data, self.shape, self.dtype, self.blocks = data, data.shape, data.dtype, blocks

    def read(self, rows, columns, out=None):
        if out is None:
            return self.data[rows, columns].copy()
        out[...] = self.data[rows, columns]
        return out


@dataclass(frozen=True, eq=False)
class Counted(Dark):
    """Notes how many patterns each of its calls had, and fails in those it is told to."""

    calls: list = field(default_factory=list)
    fails: tuple = ()

    def apply(self, frames):
        self.calls.append(len(frames))
        if len(self.calls) in self.fails:
            raise MemoryError("as asked")
        return super().apply(frames)


def dark():
    return np.random.default_rng(2).normal(1.0, 0.2, SHAPE[2:]).astype(np.float32)


def reductions():
    disk = np.hypot(*(np.indices(SHAPE[2:]) - 20)) < 6
    return {
        "mean": gpu4d.MeanPattern(),
        "weighted": gpu4d.MeanPattern(weights=np.linspace(0, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE[:2])),
        "max": gpu4d.MaxPattern(),
        "image": gpu4d.VirtualImage({"disk": disk, "rest": ~disk}),
        "com": gpu4d.CenterOfMass(),
        "stack": BrightFieldStack(disk),
    }


def as_bytes(results):
    return {name: np.asarray(result).tobytes() for name, result in results.items()}


@pytest.mark.parametrize("device", ["cpu", "accounting"])
@pytest.mark.parametrize("kind", [np.asarray, Stored])
def test_each_pattern_is_corrected_once_for_all_reductions(device, kind):
    """With one reduction and with six, some of them fed tile by tile: the same calls, of chunks, all patterns once."""
    seen = []
    for asked in ({"mean": gpu4d.MeanPattern()}, reductions()):
        correction = Counted(dark())
        cube = gpu4d.DataCube(kind(counts())).corrected(correction)
        processor = AccountingProcessor() if device == "accounting" else device
        todo = plan(cube, asked, device=processor)
        gpu4d.sweep(cube, asked, device=processor)
        assert sum(correction.calls) == SHAPE[0] * SHAPE[1]
        assert max(correction.calls) <= todo.scan.update_frames
        seen.append(sorted(correction.calls))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("correction", ["bad pixels", "dark", "both"])
def test_bits_do_not_depend_on_memory_threads_or_the_way(dtype, correction, monkeypatch):
    data, found = counts(dtype), []
    steps = {"bad pixels": (BadPixelCorrection(bad_mask()),), "dark": (Dark(dark()),)}
    steps["both"] = steps["dark"] + steps["bad pixels"]
    for threads, memory, device in (
        ("1", "400 MB", "cpu"),
        ("3", "400 MB", "cpu"),
        ("2", "7 MB", "cpu"),
        ("1", "400 MB", "link"),
        ("1", "9 MB", "link"),
    ):
        monkeypatch.setenv("GPU4D_THREADS", threads)
        cube = gpu4d.DataCube(Stored(data, (4, 3))).corrected(*steps[correction])
        on = AccountingProcessor(memory=1e9) if device == "link" else device
        found.append(as_bytes(gpu4d.sweep(cube, reductions(), device=on, memory=memory)))
        if device == "link":
            assert on.counts["bytes copied"] == data.nbytes, "raw patterns travel, in their own dtype"
            assert not on.faults and not on.leaks()
    for other in found[1:]:
        assert other == found[0]


def test_results_are_those_of_corrected_patterns():
    """Whole numbers to the last bit, also where the corrected scan is a mapped file or lies in an array."""
    expected = as_bytes(gpu4d.sweep(gpu4d.DataCube(fill_from_neighbours(counts(), ~bad_mask())), reductions()))
    for source in (counts(), Stored(counts()), np.asfortranarray(counts())):
        assert as_bytes(gpu4d.sweep(gpu4d.DataCube(source).corrected(bad_pixels=bad_mask()), reductions())) == expected


def test_positions_and_pixels_that_are_left_out():
    where, valid = np.random.default_rng(3).random(SHAPE[:2]) < 0.3, np.random.default_rng(4).random(SHAPE[2:]) > 0.1
    raw = gpu4d.DataCube(counts(), detector_mask=valid).corrected(bad_pixels=bad_mask())
    clean = gpu4d.DataCube(raw.load().source.array, detector_mask=valid)
    found, expected = (as_bytes(gpu4d.sweep(cube, reductions(), where=where)) for cube in (raw, clean))
    assert found == expected


def test_a_cropped_scan_travels_cropped_and_raw():
    """Bytes on the link are those of the crop; a binned scan is corrected by the readers, and travels binned."""
    cube = gpu4d.DataCube(Stored(counts())).corrected(bad_pixels=np.arange(SHAPE[2] * SHAPE[3]).reshape(SHAPE[2:]) == 1000)
    for view, nbytes in ((cube.crop(qx=(8, 32)), counts().nbytes * 24 // 40), (cube.bin(detector=2), counts().nbytes // 2)):
        device = AccountingProcessor()
        found = gpu4d.sweep(view, gpu4d.MaxPattern(), device=device)
        np.testing.assert_array_equal(np.asarray(found), view.load().source.array.max((0, 1)))
        assert device.counts["bytes copied"] == nbytes


@pytest.mark.parametrize("fails", [(1,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("device", ["cpu", "accounting"])
def test_memory_that_runs_out_while_correcting(fails, device, monkeypatch):
    """What no reduction has taken comes again, in smaller chunks."""
    monkeypatch.setenv("GPU4D_THREADS", "1")
    expected = as_bytes(gpu4d.sweep(gpu4d.DataCube(Stored(counts())).corrected(Dark(dark())), reductions(), device="cpu"))
    cube = gpu4d.DataCube(Stored(counts())).corrected(Counted(dark(), fails=fails))
    processor = AccountingProcessor() if device == "accounting" else device
    assert as_bytes(gpu4d.sweep(cube, reductions(), device=processor)) == expected
    if device == "accounting":
        assert not processor.faults and not processor.leaks()


def test_sources_without_corrections_are_not_touched(monkeypatch):
    """No call, no copy, no byte more in the plan."""
    cube, asked = gpu4d.DataCube(counts()), reductions()
    plain = plan(cube, asked, device="cpu")
    assert not plain.corrections
    monkeypatch.setattr(Corrections, "apply", lambda self, frames: pytest.fail("nothing is to be corrected"))
    gpu4d.sweep(cube, asked, device="cpu")
    corrected = plan(cube.corrected(bad_pixels=bad_mask()), asked, device="cpu")
    assert corrected.held_bytes > plain.held_bytes and corrected.cut == plain.cut


def test_the_plan_says_so():
    todo = plan(gpu4d.DataCube(counts()).corrected(bad_pixels=bad_mask()), {"mean": gpu4d.MeanPattern()}, device="cpu")
    assert f"corrected where it is reduced, once for each chunk: {bad_mask().sum()} bad pixels replaced" in todo.describe()


@dataclass(frozen=True, eq=False)
class Widened:
    """Patterns as float64 after a copy as float32: much more memory than the raw ones."""

    description, detector_shape = "widened", None

    def dtype(self, native):
        return dtype_like(native, "float64")

    def apply(self, frames):
        return frames.astype(np.float32).astype(np.float64)

    def bytes_needed(self, n_frames):
        return 4 * SHAPE[2] * SHAPE[3] * n_frames

    def cropped(self, qx, qy):
        return self

    def swapped(self):
        return self


OF_PYTHON = 1_500_000  # bytes of threads, futures, slices and code loaded on the way


@pytest.mark.parametrize("device", ["cpu", "accounting"])
@pytest.mark.parametrize("correction", [Widened(), Dark(dark()), BadPixelCorrection(bad_mask())], ids=["widened", "dark", "bad pixels"])
def test_a_sweep_holds_what_its_plan_says(device, correction, monkeypatch):
    """Measured by what Python, NumPy included, asks of the system."""
    monkeypatch.setenv("GPU4D_THREADS", "2")

    def swept(shape):
        cube = gpu4d.DataCube(Stored(counts(shape=shape))).corrected(correction)
        on = AccountingProcessor() if device == "accounting" else device
        asked = {"max": gpu4d.MaxPattern()}
        todo = plan(cube, asked, device=on)
        tracemalloc.start()
        gpu4d.sweep(cube, asked, device=on)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, todo.bytes + todo.staging_bytes

    swept((4, 4, *SHAPE[2:]))  # compiled code is loaded
    peak, promised = swept((96, 64, *SHAPE[2:]))
    assert peak <= promised + OF_PYTHON, f"{peak / 1e6:.2f} MB held, {promised / 1e6:.2f} MB promised"
    if device == "accounting":
        assert promised <= 3 * peak, f"{peak / 1e6:.2f} MB held, {promised / 1e6:.2f} MB promised"


def test_the_least_memory_and_a_byte_less():
    cube = gpu4d.DataCube(Stored(counts(shape=(32, 32, *SHAPE[2:])))).corrected(Widened())
    device = AccountingProcessor()
    with pytest.raises(MemoryBudgetError) as refused:
        gpu4d.sweep(cube, gpu4d.MaxPattern(), device=device, memory=1000)
    least = refused.value.asked
    np.testing.assert_array_equal(
        np.asarray(gpu4d.sweep(cube, gpu4d.MaxPattern(), device=device, memory=least)), cube.source.source.data.max((0, 1))
    )
    todo = plan(cube, {"max": gpu4d.MaxPattern()}, device=device, memory=least)
    assert device.peak <= least - todo.held_bytes, "buffers alone: raw patterns"
    with pytest.raises(MemoryBudgetError):
        gpu4d.sweep(cube, gpu4d.MaxPattern(), device=device, memory=least - 1)
