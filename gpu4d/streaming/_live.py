"""Reduce the patterns of a live source as they come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypedDict, TypeVar, Unpack, overload, runtime_checkable

from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.datacube import DataCube
from gpu4d.device.choose import DeviceLike
from gpu4d.errors import BrokenScanError, InputError
from gpu4d.streaming.engine import Finishes
from gpu4d.streaming.live_sweep import LiveSweep
from gpu4d.streaming.progress import Counter, Progress
from gpu4d.streaming.reduction import Reduction, Result

log = logging.getLogger("gpu4d")

R = TypeVar("R", covariant=True)
Portion = Array | tuple[ArrayLike | None, Array]  # patterns in scan order, or positions and patterns


@runtime_checkable
class DescribedFrames(Protocol):
    """Patterns of a scan that says what it is: `gpu4d.io.live.LiveFrames`, and what other programs make like it."""

    scan: DataCube

    def __iter__(self) -> Iterator[Portion]: ...


@runtime_checkable
class GivesScans(Protocol):
    """Scans one after the other: `gpu4d.io.live.SocketSource`, and what other programs make like it."""

    def next_scan(self) -> DescribedFrames:
        """Wait for the next scan."""
        ...


LiveSource = Iterable[Portion] | DescribedFrames | GivesScans


class LiveOptions(TypedDict, total=False):
    """Keyword arguments of `live`."""

    device: DeviceLike
    memory: int | float | str | None
    where: ArrayLike | None
    progress: Progress
    watch: Callable[[LiveSweep], object] | None
    every: float


@overload
def live(
    source: LiveSource,
    reductions: Mapping[str, Reduction | str],
    scan: DataCube | None = None,
    **options: Unpack[LiveOptions],
) -> dict[str, Result]: ...


@overload
def live(source: LiveSource, reductions: Finishes[R], scan: DataCube | None = None, **options: Unpack[LiveOptions]) -> R: ...


def live(
    source: LiveSource,
    reductions: Mapping[str, Reduction | str] | Finishes[object],
    scan: DataCube | None = None,
    *,
    device: DeviceLike = "auto",
    memory: int | float | str | None = None,
    where: ArrayLike | None = None,
    progress: Progress = False,
    watch: Callable[[LiveSweep], object] | None = None,
    every: float = 1.0,
) -> Result:
    """Reduce a scan while its patterns come from a generator, or from another program through a socket.

    The source is asked for more patterns as fast as they can be taken. If the reductions are slower, it is slowed, and nothing is lost.
    All patterns have been reduced when this returns.

    Parameters
    ----------
    source : iterable, or gpu4d.io.live.SocketSource
        An iterable yields patterns, (n, Qx, Qy) or (Qx, Qy), in scan order, or pairs (positions, patterns) in any order, as
        `LiveSweep.feed` takes them. It may end early. Of a `SocketSource`, the next scan is taken.
    reductions : mapping of str to Reduction, or one Reduction
        As of `gpu4d.sweep`.
    scan : DataCube, optional
        What is known of the scan: `gpu4d.data.live_scan` makes it. A source that is no plain iterable brings its own, which this replaces:
        ``scan=frames.scan.corrected(dark=dark)``.
    device, memory, where
        As of `gpu4d.streaming.LiveSweep`.
    progress : bool or callable
        As of `gpu4d.sweep`: how many patterns were taken.
    watch : callable, optional
        It is called with the `LiveSweep` while patterns come, and may ask for its `results`. Patterns wait meanwhile.
    every : float
        Seconds between two calls of `watch`, at least.

    Returns
    -------
    dict of str to result, or one result
        As `gpu4d.sweep`: with the same bits if all patterns came. Positions that got none are NaN or empty.

    Raises
    ------
    BrokenScanError
        The source failed, or gave something that is no pattern of the scan. Its `results` are those of the patterns that had come.
    InputError
        An argument cannot be used.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> rng = np.random.default_rng(0)
    >>> camera = (rng.poisson(2.0, (16, 16)).astype("uint16") for _ in range(5 * 8))
    >>> out = gpu4d.live(camera, {"mean": gpu4d.MeanPattern()}, gpu4d.data.live_scan((5, 8, 16, 16), "uint16"))
    >>> 1.9 < float(np.mean(out["mean"])) < 2.1
    True
    """
    if isinstance(source, DataCube):
        raise InputError("the source is a DataCube, whose patterns are all there: gpu4d.sweep(cube, reductions) reduces them")
    if isinstance(source, str | bytes):
        raise InputError("the source is a text: give gpu4d.io.live.SocketSource('tcp://host:port'), or an iterable of patterns")
    if isinstance(source, GivesScans):
        source = source.next_scan()
    if scan is None:
        if not isinstance(source, DescribedFrames):
            raise InputError("a plain iterable does not say what it yields: give scan=gpu4d.data.live_scan((Rx, Ry, Qx, Qy), dtype)")
        scan = source.scan
    try:
        portions = iter(source)
    except TypeError:
        raise InputError(
            f"the source is a {type(source).__name__}: need an iterable of patterns, or a gpu4d.io.live.SocketSource"
        ) from None
    with LiveSweep(scan, reductions, device=device, memory=memory, where=where) as taking:
        total = scan.scan_shape[0] * scan.scan_shape[1]
        try:
            with Counter(progress, total) as report:
                _take_all(portions, taking, report, watch, every)
        except _SourceFailed as failure:
            taking.close()
            what = f"the source failed after {taking.arrived} of {total} patterns: {failure}; the results so far are in .results"
            raise BrokenScanError(what, taking.results(), taking.arrived) from failure.__cause__
    if taking.arrived < total:
        log.info("the live scan ended after %d of %d patterns; the others are NaN or empty", taking.arrived, total)
    return taking.results()


class _SourceFailed(Exception):
    """The source raised an error, or gave what cannot be taken."""


def _take_all(portions: Any, taking: LiveSweep, report: Callable[[int], None], watch: Any, every: float) -> None:
    """Feed all portions, and call `watch` between them."""
    end: Any = object()
    due = time.monotonic() + every
    while True:
        before = taking.arrived
        try:
            portion = next(portions, end)
            if portion is end:
                return
            positions, frames = portion if isinstance(portion, tuple) and len(portion) == 2 else (None, portion)
            taking.feed(frames, positions)
        except MemoryError:
            raise
        except Exception as error:
            if error is taking.error:  # of a reduction
                raise
            raise _SourceFailed(" ".join(str(error).split()) or type(error).__name__) from error
        report(taking.arrived - before)
        if watch is not None and time.monotonic() >= due:
            watch(taking)
            due = time.monotonic() + every
