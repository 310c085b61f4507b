"""Kernels alone on the GPU, hot ones first: each case of the benchmark checked, then timed; a record as soon as it is known."""

from __future__ import annotations

import contextlib
import faulthandler
import statistics
import sys
import time
from dataclasses import asdict
from typing import Any

from gpu4d.benchmarks import kernels
from gpu4d.benchmarks.clock import Floors, floors
from gpu4d.benchmarks.gpu_run import records
from gpu4d.benchmarks.gpu_run.settings import KERNELS, Settings
from gpu4d.benchmarks.gpu_run.test_reports import DEVICE_LOST, device_is_lost

from gpu4d.device.backend import CupyBackend, using_backend

HOT = (
    "frame_reductions find_disks refine_disks peak_errors poisson_fit separate_disks joint_fit ssb_sum gather_pixels count_electrons "
    "masked_sums first_moments polar_transform radial_sums hot_pixel_median shifted_patterns"
).split()
LIMIT = 60.0  # seconds of one case; beyond it hangs
CALLS = 7  # for the host's share
SMALL = 2  # patterns of a rehearsal
FLOORS = "floors"  # key of their record


class Counting(CupyBackend):
    """The current device, whose launches of own kernels are counted."""

    launches = 0

    def launch(self, *launch: Any) -> None:
        self.launches += 1
        super().launch(*launch)


def in_order() -> list[kernels.Case]:
    """The cases, hot operations first."""
    rank = {name: number for number, name in enumerate(HOT)}
    return sorted(kernels.CASES, key=lambda case: rank.get(case.operation, len(rank)))


def main(settings: Settings) -> bool:
    from gpu4d.device import choose

    path = settings.out / KERNELS
    settled = records.settled(path)
    xp, on_gpu = kernels.array_library(choose("cuda:0"))
    about = kernels.machine(on_gpu)
    limits = _floors(settings, xp, about["device"])
    good, prepared = True, None
    for case in in_order():
        if case.key in settled:
            continue
        records.record(path, case.key, "started")
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        try:
            prepared = kernels.prepare(case, xp, on_gpu=on_gpu, patterns=SMALL if settings.rehearse else None)
            row = kernels.measure(prepared, limits, on_gpu=on_gpu, rounds=1 if settings.rehearse else 9)
            more = host_side(prepared, xp, 1 if settings.rehearse else CALLS)
            records.record(path, case.key, "done", card=about["device"], fraction=row.fraction, rate=row.rate, **more, **asdict(row))
        except Exception as error:  # whatever a kernel raises belongs into the report
            good = False
            records.record(path, case.key, "failed", card=about["device"], why=f"{type(error).__name__}: {str(error)[:1500]}")
            if device_is_lost():
                sys.exit(DEVICE_LOST)
        finally:
            faulthandler.cancel_dump_traceback_later()
            prepared = None
            xp.get_default_memory_pool().free_all_blocks()
    return good


def _floors(settings: Settings, xp: Any, card: str) -> Floors:
    """What the card can do, measured once; those of an earlier start where it was this card."""
    path = settings.out / KERNELS
    known = records.latest(path).get(FLOORS, {})
    if known.get("card") == card:
        return Floors(known["copy"], known["fft"], known["gemm"])
    limits = floors(xp, on_gpu=True, quick=settings.rehearse)
    records.record(path, FLOORS, "done", card=card, **limits._asdict())
    return limits


def host_side(prepared: kernels.Prepared, xp: Any, times: int) -> dict[str, Any]:
    """What a call costs the host while the device is idle: seconds, and launches of own kernels; all that is counted without a GPU."""
    call, options, given = prepared.call, prepared.keywords, prepared.given
    call(*given, **options)
    seconds = []
    for _ in range(times):
        xp.cuda.runtime.deviceSynchronize()
        start = time.perf_counter()
        call(*given, **options)
        seconds.append(time.perf_counter() - start)
    found = {"host_seconds": statistics.median(seconds)}
    counting = Counting()
    stand_in = sys.modules.get("gpu_without_gpu")
    with using_backend(counting), stand_in.counting() if stand_in else contextlib.nullcontext() as block:
        call(*given, **options)
    if block is not None:
        found |= {name: getattr(block.counts, name) for name in ("launches", "waits", "uploads")}
    return found | {"own_launches": counting.launches}
