"""Compile what a run needs, once for a computer, as a step of its own that says how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpu4d.compiled import ENTRIES
from gpu4d.compiled_cache import is_kept
from gpu4d.operation import OPERATIONS, all_operations
from gpu4d.workflow.record import Record

if TYPE_CHECKING:
    from gpu4d.data.datacube import DataCube
    from gpu4d.streaming.reduction import Reduction

TITLE = "preparing gpu4d for this computer, once"
SIDE, ROUND = 32, 22  # pixels: sides of the patterns that are tried, without and with a prime factor above 7


class Job(NamedTuple):
    """Something to compile: a call that needs it, and the compiled function that shows whether it was done before."""

    operation: str
    shown_by: str  # name in `gpu4d.compiled.ENTRIES`
    call: Callable[[DataCube], object]


def prepare(names: Sequence[str], cube: DataCube, record: Record, device: str = "auto") -> None:
    """Compile jobs that were never compiled on this computer. Nothing happens, and nothing is said, if there are none.

    It runs in the calling thread: Ctrl-C ends it at once.

    Parameters
    ----------
    names : sequence of str
        Names of `JOBS`.
    cube : DataCube
        Scan that will be analysed. It is not read.
    record : Record
        Shows the step and its time.
    device : str
        Device of the run. For GPUs nothing is done here.
    """
    from gpu4d.device.choose import Device, choose_all

    todo = [JOBS[name] for name in names if not _is_done(JOBS[name])]
    if not todo or not all(isinstance(chosen, Device) and chosen.kind == "cpu" for chosen in choose_all(device)):
        return
    small = _small_scan(cube)
    with record.stage(TITLE) as progress:
        for number, job in enumerate(todo):
            progress(number, len(todo))
            job.call(small)
        progress(len(todo), len(todo))


def warm(record: Record) -> None:
    """Compile everything that runs of usual scans need."""
    import gpu4d

    for dtype in ("uint16", "uint8", "float32"):
        cube = gpu4d.DataCube(np.zeros((1, 1, SIDE, SIDE), dtype))
        small = _small_scan(cube)
        with record.stage(f"{TITLE}: {dtype}") as progress:
            for number, job in enumerate(JOBS.values()):
                progress(number, len(JOBS))
                job.call(small)
            progress(len(JOBS), len(JOBS))


def _is_done(job: Job) -> bool:
    if job.operation not in OPERATIONS:
        all_operations()
    OPERATIONS[job.operation].implementation("cpu")  # imports the twin, and so makes its entries
    return job.shown_by not in ENTRIES or is_kept(ENTRIES[job.shown_by])


def _small_scan(cube: DataCube) -> DataCube:
    """Return a scan of two tiny patterns that needs the same code as this one: its dtype, a mask, primes in the detector's sides."""
    import gpu4d
    from gpu4d.cpu_fallback.plane_transform import long_primes_of

    side = ROUND if long_primes_of(*cube.detector_shape) else SIDE
    patterns = np.zeros((1, 2, side, side), cube.dtype)
    patterns[:, :, 8:13, 8:13] = 1
    small = gpu4d.DataCube(patterns)
    if cube.detector_mask is not None:
        small.detector_mask = np.arange(side * side).reshape(side, side) > 0
    return small


def _sums(cube: DataCube) -> None:
    import gpu4d

    whole = gpu4d.detectors.from_array(np.ones(cube.detector_shape, bool))
    asked: dict[str, Reduction] = {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "com": gpu4d.CenterOfMass()}
    gpu4d.sweep(cube, {**asked, "total": gpu4d.VirtualImage(whole)}, device="cpu")


def _disks(cube: DataCube) -> None:
    import gpu4d

    template = gpu4d.probe.template(gpu4d.probe.synthetic(cube.detector_shape, 3.0))
    gpu4d.BraggDisks(template, refine="correlation").at(cube, [(0, 0)])


def _fits(cube: DataCube) -> None:
    import gpu4d

    template = gpu4d.probe.template(gpu4d.probe.synthetic(cube.detector_shape, 3.0))
    gpu4d.BraggDisks(template, refine="likelihood", parameters=6).at(cube, [(0, 0)])


def _rings(cube: DataCube) -> None:
    import gpu4d

    gpu4d.sweep(cube, gpu4d.RadialProfile((10.0, 10.0)), device="cpu")


def _classes(cube: DataCube) -> None:
    import gpu4d
    from gpu4d.classification import ClassPatterns, SpotCounts

    middle, ones = (10.0, 10.0), np.ones((1, *cube.scan_shape))
    gpu4d.sweep(cube, {"counts": SpotCounts([[3.0, 0.0]], 2.0, middle), "patterns": ClassPatterns(ones, middle)}, device="cpu")


def _orientations(cube: DataCube) -> None:
    """Match three peaks with five reflections. Their arrays have the same types for every scan."""
    from gpu4d.orientation.correlate_orientations import correlate_orientations
    from gpu4d.orientation.distinct_orientations import distinct_orientations
    from gpu4d.orientation.refine_orientations import refine_orientations

    g = np.array([(1.0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0)]) / 4
    peaks = np.stack([g[[0, 1, 3], 0], g[[0, 1, 3], 1], np.ones(3), np.full(3, 0.1), np.full(3, 0.01)], -1)[None]
    table = np.ones((9, 2, 4))
    correlate_orientations(np.ascontiguousarray(peaks[..., :3]), np.array([0.25, 0.35]), table, table, width=0.05)
    numbers = {"wave_number": 40.0, "thickness": 30.0, "radius": 0.06, "reach": 0.1, "least": 0.02, "q_max": 0.8, "q_min": 0.1}
    counts = np.array([3])
    refine_orientations(np.eye(3)[None, None], peaks, counts, g, np.ones(5), **numbers, unit=0.05, relative=0.1, rough=0, steps=2)
    one = np.eye(3)[None]
    distinct_orientations(one[None], np.ones((1, 1)), np.zeros((1, 1), int), one, np.zeros(1, int), angle=0.05, count=2)


JOBS = {
    "sums": Job("frame_reductions", "frame_reductions._reduce_narrow_counts", _sums),
    "disks": Job("find_disks", "find_disks._find", _disks),
    "rings": Job("radial_sums", "ring_moments._narrow_sums", _rings),
    "classes": Job("annular_sums", "masked_sums._annuli", _classes),
    "orientations": Job("refine_orientations", "refine_orientations._refine", _orientations),
    "fits": Job("hidden_disks", "hidden_disks._look_at_all", _fits),
}
