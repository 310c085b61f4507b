"""No kernel has a race, and the check that says so reports the barriers that are left out of copies of them."""

import contextlib

import numpy as np
import pytest
from racecheck import Found, RaceBackend, barriers, instrumented
from racecheck.calls import check, disk_call, examples, far_origin, operations

from gpu4d import operation
from gpu4d.device.backend import inlined, using_backend

pytestmark = pytest.mark.skipif(instrumented.why_not() is not None, reason=instrumented.why_not() or "")
SLOW, EXHAUSTIVE = pytest.mark.slow, pytest.mark.exhaustive


@pytest.mark.parametrize(
    ("name", "every"),
    [*(pytest.param(name, False, id=name, marks=SLOW) for name in operations()), pytest.param("find_disks", True, marks=EXHAUSTIVE)],
)
def test_no_two_accesses_of_a_kernel_race(name, every):
    found = check(name, examples(name, every))
    assert found.accesses > 0, "no example reached a kernel"
    assert not found.reports, "\n".join(found.texts)


# ---------------------------------------------------------------- broken copies of kernels

LEFT_OUT = {  # the file, the code before the barrier, an operation, and calls that need it
    "block sums": ("masked_sums.cu", "  v = warp_sum(v);\n  ", "annular_sums", lambda: examples("annular_sums")),
    "columns of a transform": (
        "fused_disks.cu",
        "  filter_columns<N>(plane, filter, twiddle, me);\n  ",
        "find_disks",
        lambda: [disk_call((64, 64))],
    ),
    "exchange within a warp": ("fused_disks.cu", "  put_spread<N>(region, v, t);\n  ", "find_disks", lambda: [disk_call((64, 64))]),
    "list of candidates": ("fused_disks.cu", "  ceiling = floor;\n  ", "find_disks", lambda: [disk_call((64, 64), power=1.0)]),
    "refined by parabola alone": (
        "fused_disks.cu",
        "int i = (int)fields[p], j = (int)fields[stride + p];\n    ",
        "find_disks",
        lambda: [disk_call((64, 64), refine="parabola", refine_power=0.85)],
    ),
    "vote before a write": ("find_disks.cu", "__ballot_sync(FULL_WARP, keep);\n    ", "find_disks", lambda: [disk_call((66, 72))]),
    "more frames than sums": (
        "frame_reductions.cu",
        "tile) * values + v] = sum;\n    }\n    ",
        "frame_reductions",
        lambda: [e for e in examples("frame_reductions") if e.label == "many"],
    ),
    "turning point": ("polar_transform.cu", "ring, value, lane, last, ok);\n        ", "radial_sums", lambda: [far_origin()]),
}


@SLOW
@pytest.mark.parametrize("which", LEFT_OUT)
def test_a_barrier_left_out_is_reported(which):
    file, before, name, calls = LEFT_OUT[which]
    found = Found()
    with contextlib.suppress(RuntimeError):  # some launches do not end well then
        check(name, calls(), found=found, sources={file: barriers.without(file, before)})
    kinds = {report.kind for report in found.reports}
    assert kinds & {"RACE", "WEAK"}, "nothing is reported"
    assert any(file in text or ".cuh:" in text for text in found.texts), found.texts
    assert not check(name, calls()).reports, "the right source is reported, too"


@SLOW
def test_a_barrier_of_power_one_is_not_needed_at_others():
    """The candidates of a warp are judged by another one only where the map that finds them is the one that judges them."""
    file, before, name, _ = LEFT_OUT["list of candidates"]
    assert not check(name, [disk_call((64, 64), power=0.85)], sources={file: barriers.without(file, before)}).reports


# ---------------------------------------------------------------- what orders two accesses, on kernels of a few lines

SMALL = """
#include "common.cuh"
extern "C" __global__ void small(int* out) {
  __shared__ int box[64];
  const int t = threadIdx.x, other = (t + APART) % blockDim.x;
  BEFORE
  box[t] = t;
  BETWEEN
  out[blockIdx.x * STRIDE + t] = box[other];
}
"""


def kinds(apart: int, between: str = "", before: str = "", blocks: int = 1, stride: int = 64) -> set[str]:
    """What is reported of 64 threads that each write a place in shared memory and read that of another."""
    defines = (f"APART={apart}", f"BETWEEN={between}", f"BEFORE={before}", f"STRIDE={stride}")
    host = RaceBackend(sources={"small.cu": SMALL.replace('#include "common.cuh"', inlined("common.cuh"))})
    host.launch(host.function("small.cu", "small", defines), (blocks,), (64,), (np.zeros(64 * blocks, np.int32),), 0)
    return {report.kind for report in host.found.reports if report.kind != "UNSET"}


@SLOW
@pytest.mark.parametrize(
    ("between", "lane", "warp"),
    [
        ("", {"RACE"}, {"RACE"}),
        ("__syncthreads();", set(), set()),
        ("__syncwarp();", set(), {"RACE"}),
        ("__ballot_sync(FULL_WARP, t);", {"WEAK"}, {"RACE"}),
        ("__shfl_sync(FULL_WARP, t, 0);", {"WEAK"}, {"RACE"}),
        ("__ballot_sync(FULL_WARP, t); __syncwarp();", set(), {"RACE"}),
    ],
)
def test_what_orders_threads(between, lane, warp):
    """The lanes of a warp, and the threads of two warps."""
    assert {"RACE"} & kinds(32, between) == warp & {"RACE"}
    assert kinds(0, between) == set(), "a thread is in order with itself"
    neighbours = kinds(1, f"if (t % 32 < 31) {{}} {between}")
    assert neighbours == lane | warp, "lane 31 reads the other warp's"


@SLOW
def test_lanes_of_a_mask_are_ordered_and_no_others():
    half = "__syncwarp(t & 16 ? 0xffff0000u : 0x0000ffffu);"
    assert kinds(0, half) == set()
    assert kinds(16, half) == {"RACE"}


@SLOW
def test_a_barrier_before_both_orders_nothing():
    assert kinds(32, before="__syncthreads();") == {"RACE"}


@SLOW
def test_blocks_race_where_they_write_the_same_place():
    assert kinds(0, blocks=2) == set()
    assert kinds(0, blocks=2, stride=0) == {"RACE"}


@SLOW
def test_atomics_race_with_plain_accesses_alone():
    both = "atomicAdd(&box[0], 1);"
    assert kinds(0, between=f"__syncthreads(); {both} __syncthreads();") == set()
    assert kinds(0, between=f"__syncthreads(); {both}") == {"RACE"}


@SLOW
def test_threads_that_step_aside_change_answers_only_where_nothing_orders_them():
    """Between the read and the write of a sum, say: then a sum is lost."""
    call = far_origin()
    file, before, name, _ = LEFT_OUT["turning point"]

    def answer(every: int, sources: dict[str, str]) -> list:
        with using_backend(RaceBackend(yield_every=every, sources=sources)), operation.using("cuda"):
            return [part.tolist() for part in operation.OPERATIONS[name](*call.args, **call.options)]

    right = answer(0, {})
    broken = {file: barriers.without(file, before)}
    assert answer(2, {}) == answer(3, {}) == right
    assert answer(0, broken) == right, "the broken copy gives itself away without it"
    assert answer(2, broken) != right


@SLOW
def test_reports_name_file_and_line():
    file, before, name, _ = LEFT_OUT["block sums"]
    found = check(name, examples(name)[:1], sources={file: barriers.without(file, before)})
    assert any("masked_sums.cu:" in text and "common.cuh:" in text for text in found.texts), found.texts
    assert any("threads " in report.example for report in found.reports)
