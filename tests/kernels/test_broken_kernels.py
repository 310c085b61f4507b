"""Tests of the test: deliberately broken copies of kernels are caught on the host shim, and the right sources pass.

Three ways to be wrong that a run on small data forgives: a barrier left out, a bound one too large, and an offset of 32 bits where
an array has more than 2³¹ elements. The last needs no such array: the address space of one is reserved, and only its far end touched.
"""

import faulthandler
import math
import mmap
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from cuda_on_host import HostBackend
from cuda_on_host.backend import FAST_TO_COMPILE, OWN_STATICS, SANITIZE
from disk_options import limited, operands
from operations.patterns import bragg_frames
from own_process import sanitized

from gpu4d import operation
from gpu4d.bragg.find_disks import find_disks
from gpu4d.bragg.likelihood.hidden_disks import hidden_disks
from gpu4d.bragg.likelihood.joint_fit import NONE, OPEN, joint_fit
from gpu4d.bragg.likelihood.poisson_fit import disk_profile
from gpu4d.bragg.likelihood.separate_disks import separate_disks
from gpu4d.bragg.refine_disks import refine_disks
from gpu4d.data.correct_frames import correct_frames
from gpu4d.deflection.integrate_gradient import integrate_gradient
from gpu4d.device.backend import inlined, using_backend
from gpu4d.imaging.frame_reductions import frame_reductions
from gpu4d.imaging.masked_sums import annular_sums, masked_sums
from gpu4d.preprocess import ChargeModel, count_electrons, fit_electrons, hot_pixel_median
from gpu4d.probe import synthetic, template
from gpu4d.rings import polar_transform, radial_sums

SEEDS = (0, 1, 2, 7)
MAP_NORESERVE = 0x4000  # Linux; mmap names it from Python 3.13 on
FAR = 2**31 // 256**2 + 1  # a frame of 256 × 256 pixels that begins behind 2³¹


def leaves(result) -> list[np.ndarray]:
    return list(result) if isinstance(result, tuple) else [result]


@dataclass(frozen=True)
class Case:
    """A call, and what is changed in its source."""

    label: str
    file: str
    call: Callable[[], object]
    old: str
    new: str
    tolerance: float = 0.0
    patterns: int = 1  # of a block, for the one at the far end

    def source(self, broken: bool) -> str:
        text = inlined(self.file)
        assert self.old in text, f"{self.label}: the line to break is not in {self.file} any more"
        return text.replace(self.old, self.new) if broken else text

    def run(self, broken: bool, seed: int, **options) -> list[np.ndarray]:
        sources = {self.file: self.source(True)} if broken else None
        with using_backend(HostBackend(seed, sources=sources, **options)), operation.using("cuda"):
            return leaves(self.call())

    def expected(self) -> list[np.ndarray]:
        with operation.using("definition"):
            return leaves(self.call())


def same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a.astype(float), b.astype(float), rtol=tolerance, atol=tolerance, equal_nan=True)
        for a, b in zip(found, expected)
    )


def counts(shape=(3, 37, 41)) -> np.ndarray:
    return np.random.default_rng(0).poisson(4, shape).astype("uint16") + np.uint16(1)


def electrons() -> object:
    frames = counts((3, 97, 90)) % np.uint16(5)
    return count_electrons(frames, np.zeros((97, 90)), 0.6, 5.0, electron=4.0)


def groups() -> object:
    """Charge of 20 on a hundred pixels a frame: groups on both sides of each other's squares."""
    frames = (np.random.default_rng(3).random((2, 37, 41)) < 0.05).astype("uint8") * np.uint8(20)
    return fit_electrons(frames, np.zeros((37, 41)), 0.3, 9.0, ChargeModel(0.38, 0.03), electron=20.0)


def annuli() -> object:
    return annular_sums(counts(), np.full((3, 2), 18.2), np.array([[-1.0, 5.0], [2.0, 9.0], [1.0, 3.0], [4.0, 8.0], [0.0, 30.0]]))


def weights() -> object:
    return masked_sums(counts(), np.full((2, 37, 41), 0.5))


def rings() -> object:
    return radial_sums(counts(), np.asarray([18.2, 20.4]), r_max=21.0)


def peaks() -> tuple[np.ndarray, ...]:
    """A map with one hill, and room for three peaks of which there is one."""
    x, y = np.meshgrid(np.arange(24), np.arange(20), indexing="ij")
    hill = np.exp(-((x - 11.3) ** 2 + (y - 8.8) ** 2) / 18).astype(np.float32)[None]
    return hill, np.array([[11, 0, 0]]), np.array([[9, 0, 0]]), np.array([1])


def disks_by_cross_correlation() -> object:
    """Both maps are one at that power: a warp judges maxima that another one found."""
    kernel = operands(template(synthetic((64, 64), 3.2)))
    patterns = bragg_frames((64, 64), 2)
    return find_disks(patterns, *kernel, **limited(power=1.0, min_spacing=4.8, max_peaks=12))


def many_frames() -> object:
    """Groups of 17 frames, of which shared memory holds the sums of 16 at a time; two warps have pixels."""
    frames = np.random.default_rng(5).integers(0, 65536, (1030, 64, 32)).astype("uint16")
    return frame_reductions(frames, np.ones((1, 64, 32), bool))


def turning_point(frames: np.ndarray) -> object:
    """Sums of a row that lies on the border of two rings but for rounding: they go 0 1 0 1 ... where else they fall and then rise."""
    far, long = np.asarray([-838166.0, 335282.5]), (2000.0, 1.0, math.pi / 2 + 1e-7)
    return radial_sums(frames, far, n_r=2, r_max=1676331.9664733696, ellipse=long)


def far_row() -> object:
    """Values whose sum depends on the order they are added in."""
    frames = np.zeros((1, 3, 32), np.float32)
    frames[0, 0] = np.resize([1.0, 2.0**60, -(2.0**60)], 32)
    return turning_point(frames)


BARRIERS = [
    Case("sum-of-a-block", "masked_sums.cu", annuli, "  __syncthreads();\n  if (warp == 0)", "  if (warp == 0)"),
    Case("sum-used-again", "masked_sums.cu", annuli, "  v = warp_sum(v);\n  __syncthreads();", "  v = warp_sum(v);"),
    Case("histograms-empty", "polar_transform.cu", rings, "  __syncthreads();\n\n  const FastRings", "\n  const FastRings"),
    Case(
        "histograms-full",
        "polar_transform.cu",
        rings,
        "  __syncthreads();\n  for (int i = threadIdx.x; i < rings",
        "  for (int i = threadIdx.x; i < rings",
    ),
    Case("electrons-before", "count_electrons.cu", electrons, "  __syncthreads();\n  offset_t at", "  offset_t at"),
    Case(
        "groups-named-before",
        "fit_electrons.cu",
        groups,
        "  __syncthreads();\n  for (offset_t g = offsets[frame]",
        "  for (offset_t g = offsets[frame]",
        1e-5,
    ),
    Case(
        "lines-of-columns",
        "correct_frames.cu",
        lambda: correct_frames(counts(), np.ones((37, 41)), edge=np.ones((37, 41))),
        "  __syncthreads();\n  if (warp != 0",
        "  if (warp != 0",
        1e-5,
    ),
    Case("candidates", "fused_disks.cu", disks_by_cross_correlation, "  ceiling = floor;\n  __syncthreads();", "  ceiling = floor;", 4e-3),
    Case("sums-used-again", "frame_reductions.cu", many_frames, "v] = sum;\n    }\n    __syncthreads();", "v] = sum;\n    }"),
    Case("turning-point", "polar_transform.cu", far_row, "lane, last, ok);\n        __syncwarp();", "lane, last, ok);"),
]

BOUNDS = [
    Case("read-behind-a-frame", "masked_sums.cu", weights, "i + s * THREADS < end;", "i + s * THREADS <= end;"),
    Case("word-behind-a-strip", "count_electrons.cu", electrons, "word < WORDS; word += 8", "word <= WORDS; word += 8"),
    Case(
        "corrected-frame",
        "correct_frames.cu",
        lambda: correct_frames(counts(), np.ones((37, 41))),
        "i < min(first + 1024, pixels);",
        "i <= min(first + 1024, pixels);",
        1e-6,
    ),
    Case(
        "lines-of-a-frame",
        "correct_frames.cu",
        lambda: correct_frames(counts(), np.ones((37, 41)), edge=np.ones((37, 41))),
        "column < ny : row < nx",
        "column + 1 < ny : row < nx",
        1e-5,
    ),
    Case("hot-pixel", "hot_pixel_median.cu", lambda: hot_pixel_median(counts()), "min(first + 4, pixels);", "min(first + 5, pixels + 1);"),
    Case(
        "polar-sample",
        "polar_transform.cu",
        lambda: polar_transform(counts(), np.asarray([18.2, 20.4]), n_theta=5, n_r=7),
        "if (i >= n_theta * n_r) return;",
        "if (i > n_theta * n_r) return;",
        1e-6,
    ),
    Case(
        "phase",
        "integrate_gradient.cu",
        lambda: integrate_gradient(np.random.default_rng(0).normal(size=(2, 9, 12, 2))),
        "if (i >= rx * ry) return;",
        "if (i > rx * ry) return;",
        1e-10,
    ),
]

UNWRITTEN = [  # NaN is the answer there: memory nobody wrote must not look like it
    Case(
        "no-peak-here",
        "refine_disks.cu",
        lambda: refine_disks(*peaks(), "parabola"),
        "x[k] = y[k] = height[k] = nan_value();\n    return;",
        "return;",
        1e-5,
    ),
    Case(
        "no-disk-here",
        "refine_disks.cu",
        lambda: refine_disks(*peaks()),
        "if (slot && !some) x[k] = y[k] = height[k] = nan_value();",
        "",
        1e-3,
    ),
]


def caught(case: Case) -> str:
    """How a broken copy gives itself away, or nothing."""
    expected = case.expected()
    for seed in SEEDS:
        try:
            found = case.run(True, seed)
        except (AssertionError, RuntimeError) as error:
            return str(error)
        if not same(found, expected, case.tolerance):
            return f"another answer, order {seed}"
    return ""


def end_with(case: Case) -> None:
    """End the process with 1 where a broken copy is caught, with 0 where it is not; a crash needs no traceback of pytest's."""
    faulthandler.disable()
    sys.exit(bool(caught(case)))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*BARRIERS, *BOUNDS, *UNWRITTEN], ids=lambda case: case.label)
def test_broken_copies_are_caught_and_the_right_ones_are_not(case):
    """The right source in two orders, because `test_every_kernel.py` has the others; the broken one until it is caught."""
    expected = case.expected()
    for seed in (0, 7):
        assert same(case.run(False, seed), expected, case.tolerance), f"the right source fails in order {seed}"
    process = multiprocessing.get_context("fork").Process(target=end_with, args=(case,))
    process.start()  # a process of its own, because what is broken may well crash
    process.join()
    assert process.exitcode, f"{case.old!r} -> {case.new!r} goes unnoticed"


TWICE = """
#include "common.cuh"
template <class T>
DEVICE T* box() {
  __shared__ T held[1];
  return held;
}
extern "C" __global__ void put(int* out) { *out = *box<int>(), *box<int>() = VALUE; }
"""


def test_two_compilations_of_a_source_have_shared_memory_of_their_own():
    """The second must not find what the first left behind, but poison."""
    host = HostBackend(sources={"twice.cu": TWICE.replace('#include "common.cuh"', inlined("common.cuh"))})
    found = []
    for value in (5, 7, 5):
        out = np.zeros(1, np.int32)
        host.launch(host.function("twice.cu", "put", (f"VALUE={value}",)), (1,), (1,), (out,), 0)
        found.append(int(out[0]))
    assert found == [-1, -1, -1], "shared memory nobody wrote is all ones"
    assert OWN_STATICS in SANITIZE


def test_writing_behind_an_array_is_said():
    assert "wrote behind an array" in caught(next(case for case in BOUNDS if case.label == "phase"))


# ---------------------------------------------------------------- more than 2³¹ elements


def far_frames() -> np.ndarray:
    """(FAR + 1, 256, 256) uint8 of which only the last frame exists, with as much address space before them: what a 32-bit offset
    reaches is there, and empty."""
    size = (FAR + 1) * 256**2
    memory = mmap.mmap(-1, size + 2**31, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    frames = np.frombuffer(memory, np.uint8)[2**31 :].reshape(-1, 256, 256)
    frames[-1] = np.random.default_rng(0).poisson(4, (256, 256))
    return frames


def hidden(frames: np.ndarray) -> object:
    """Beside a faint disk in noise, with a limit that noise passes."""
    profile, one = disk_profile(synthetic((33, 33), 3.2)), np.ones((len(frames), 1))
    given = (frames, 100 * one, 120 * one, 0.1 * one, one.astype(int), one[:, 0].astype(int), profile.table, profile.pixels)
    return hidden_disks(*given, np.ones((256, 256), bool), radius=3.2, least=1.0)


TEN_BLOCKS = 3641  # patterns: the last of ten blocks that take one pattern after the other begins behind nine times as many


def disks_in_the_last(frames: np.ndarray) -> None:
    """A bright disk and a hidden one in the last frame."""
    mean = sum(height * synthetic((256, 256), 3.2, at) for height, at in ((90.0, (120.4, 120.0)), (25.0, (120.1, 128.3))))
    frames[-1] = np.random.default_rng(1).poisson(4 + mean)


def together(frames: np.ndarray) -> object:
    """One disk in the last frame that is not fitted yet."""
    disks_in_the_last(frames)
    profile, at = disk_profile(synthetic((33, 33), 3.2)), np.full((len(frames), 1), 120.2)
    role = np.full(at.shape, NONE)
    role[-1] = OPEN
    with mock.patch("gpu4d.kernels.joint_fit.block_count", lambda *_: 10):
        return joint_fit(frames, at, at, at, role, profile.table, profile.pixels)


def separate(frames: np.ndarray) -> object:
    """The same, and the one that it hides."""
    disks_in_the_last(frames)
    profile, at = disk_profile(synthetic((33, 33), 3.2)), np.full((len(frames), 3), 120.2)
    count = np.zeros(len(frames), int)
    count[-1] = 1
    alone = (*[at] * 5, at < 0)
    with mock.patch("gpu4d.kernels.separate_disks.block_count", lambda *_: 10):
        options = {"radius": 3.2, "spacing": profile.spacing, "significance": 4.0}
        return separate_disks(frames, count, at, *alone, profile.table, profile.pixels, np.ones((256, 256), bool), **options)


def weighted(frames: np.ndarray) -> object:
    """In one slice: the launch that adds slices has its far end elsewhere."""
    with mock.patch("gpu4d.kernels.masked_sums.SLICE", 256**2):
        return masked_sums(frames, np.full((1, 256, 256), 0.5))


OVERFLOWS = [
    Case(
        "hidden",
        "hidden_disks.cu",
        hidden,
        "for (offset_t pattern = blockIdx.x; pattern < n;",
        "for (int pattern = blockIdx.x; pattern < n;",
    ),
    Case(
        "together",
        "joint_fit.cu",
        together,
        "patterns.from(offset_t(i) * given.nx * given.ny)",
        "patterns.from(i * given.nx * given.ny)",
        1e-3,
        TEN_BLOCKS,
    ),
    Case(
        "separate",
        "separate_disks.cu",
        separate,
        "const Given& given, offset_t i) {\n  Lists&",
        "const Given& given, int i) {\n  Lists&",
        1e-3,
        TEN_BLOCKS,
    ),
    Case(
        "rings",
        "polar_transform.cu",
        lambda frames: radial_sums(frames, np.asarray([120.3, 130.1]), n_r=4),
        "patterns, offset_t pattern, const Rings& place",
        "patterns, int pattern, const Rings& place",
    ),
    Case(
        "weights",
        "masked_sums.cu",
        weighted,
        "const offset_t pattern = offset_t(blockIdx.x) * TOGETHER,",
        "const int pattern = blockIdx.x * TOGETHER; const offset_t",
        patterns=8,
    ),
    Case(
        "annuli",
        "masked_sums.cu",
        lambda frames: annular_sums(frames, np.full((len(frames), 2), 120.3), np.array([[2.0, 50.0]])),
        "const offset_t pattern = blockIdx.x;",
        "const int pattern = blockIdx.x;",
    ),
]


def far_end(case: Case, broken: bool, flags: tuple[str, ...] | None = None) -> bool:
    """Whether the last frame's answer is the definition's."""
    frames = far_frames()
    host = HostBackend(sources={case.file: case.source(broken)}, flags=flags, first_block=FAR // case.patterns)
    with using_backend(host), operation.using("cuda"):
        found = [part[-1:] for part in leaves(case.call(frames))]
    with operation.using("definition"):
        return same(found, leaves(case.call(frames[-1:].copy())), case.tolerance)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reserves address space as Linux does")
@pytest.mark.parametrize("case", OVERFLOWS, ids=lambda case: case.label)
def test_offsets_have_64_bits(case):
    flags = (*FAST_TO_COMPILE, "-fwrapv")  # what a GPU does: it wraps
    assert far_end(case, False, flags)
    assert not far_end(case, True, flags), "an offset of 32 bits goes unnoticed"


# ---------------------------------------------------------------- under sanitizers, in a process of their own


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="preloads the sanitizer as Linux does")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("t.BOUNDS[0].run({broken}, 0, flags=SANITIZE)", "heap-buffer-overflow"),
        ("assert t.far_end(t.OVERFLOWS[0], {broken}, SANITIZE)", "signed integer overflow"),
    ],
    ids=["read-behind-a-frame", "offset-of-32-bits"],
)
def test_sanitizers_say_what_is_wrong(code, said):
    """The right source passes, and then the broken one ends the process."""
    env = sanitized() | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    del env["GPU4D_SANITIZE"]  # flags are given for each call
    lines = ("import test_broken_kernels as t", "from cuda_on_host.backend import SANITIZE", code.format(broken=False))
    text = "\n".join((*lines, "print('passed', flush=True)", code.format(broken=True), "print('not seen')"))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["passed"], done.stdout + done.stderr[-2000:]
    assert done.returncode != 0 and said in done.stderr, done.stderr[-2000:]
