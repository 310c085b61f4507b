"""Give the images of bright-field pixels in groups to direct ptychography: from a scan, or from a stack in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.device.threads import in_threads
from gpu4d.ptychography.bright_field_stack import bright_field_stacks
from gpu4d.ptychography.ssb_sum import ssb_sum
from gpu4d.streaming.engine import SweepOptions
from gpu4d.streaming.place import processors_for
from gpu4d.streaming.reduction import Reduction

GROUP = {"cpu": 32, "cuda": 1024, "definition": 16}  # most pixels that are transformed and summed at once
GROUP_BYTES = 1 << 29  # of their spectra; group sizes follow from the scan's shape alone, so that sums do not depend on memory
WAITING = 16  # groups whose sums may be in memory at the same time


class PixelSource(Protocol):
    """Where the images of the pixels of a disk come from."""

    @property
    def scan_shape(self) -> tuple[int, int]: ...

    @property
    def kind(self) -> str:
        """Which implementation sums them: a key of `GROUP`."""
        ...

    def parts(self, group: int, held: int = 0) -> Iterator[tuple[slice, Any]]:
        """Yield which pixels, and their images (p, Rx, Ry). `held`: bytes that the caller holds for each."""
        ...


@dataclass
class ScanPixels:
    """Images of pixels of a scan, in as many passes as the memory needs.

    Attributes
    ----------
    others : mapping of str to Reduction
        Reductions that share the first pass.
    found : dict
        Their results, after the first pass.
    """

    cube: DataCube
    pixels: np.ndarray
    options: SweepOptions
    others: Mapping[str, Reduction] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def scan_shape(self) -> tuple[int, int]:
        return self.cube.scan_shape

    @property
    def kind(self) -> str:
        return ssb_sum.kind_for("complex64", processors_for(self.cube, self.options.get("device", "auto"))[0][0].sample(self.cube.dtype))

    def parts(self, group: int, held: int = 0) -> Iterator[tuple[slice, Any]]:
        wanted = {name: one for name, one in self.others.items() if name not in self.found}
        return bright_field_stacks(self.cube, self.pixels, group, held=held, others=wanted, found=self.found, **self.options)


@dataclass
class HeldPixels:
    """Images of pixels that are in memory, (P, Rx, Ry)."""

    stack: Any

    @property
    def scan_shape(self) -> tuple[int, int]:
        return self.stack.shape[1], self.stack.shape[2]

    @property
    def kind(self) -> str:
        return ssb_sum.kind_for("complex64", self.stack)

    def parts(self, group: int, held: int = 0) -> Iterator[tuple[slice, Any]]:
        yield slice(0, self.stack.shape[0]), self.stack


def group_size(source: PixelSource) -> int:
    """Return how many pixels are transformed together."""
    rx, ry = source.scan_shape
    return max(1, min(GROUP[source.kind], GROUP_BYTES // (8 * rx * (ry // 2 + 1))))


def in_order(source: PixelSource, work: Callable[..., Any], *columns: Iterable[Any]) -> Iterator[Any]:
    """Yield work(…) in order. On the CPU, threads work on several at the same time, and few results wait."""
    if source.kind != "cpu":
        yield from map(work, *columns)
        return
    calls = list(zip(*columns))
    for first in range(0, len(calls), WAITING):
        yield from in_threads(work, *zip(*calls[first : first + WAITING]))


def filled(xp: Any, images: Any, bad: Any) -> Any:
    """Return images in which positions without a pattern have the mean of the other positions."""
    good = xp.astype(~bad, images.dtype)
    clean = xp.where(bad, xp.zeros_like(images), images)
    mean = xp.sum(clean, axis=(1, 2), keepdims=True) / xp.sum(good)
    return xp.where(bad, mean, clean)


def blanked(values: Any, missing: np.ndarray | None) -> Any:
    """Return values (Rx, Ry) with NaN at positions without a pattern."""
    if missing is None:
        return values
    xp = arrays.namespace(values)
    return xp.where(arrays.from_numpy(missing, values), xp.full_like(values, math.nan), values)
