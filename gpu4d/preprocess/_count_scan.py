"""Count all electrons of a scan of raw frames, and say how far the counts can be trusted."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import scan_mask
from gpu4d.data.datacube import DataCube
from gpu4d.data.events import EventSource
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.sample import patterns_at
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.io import load_images, open
from gpu4d.on_host import on_host
from gpu4d.preprocess._counting_setup import CountingSetup, counting_setup
from gpu4d.preprocess.counted_electrons import CountedElectrons
from gpu4d.real_arrays import real_array
from gpu4d.sizes import format_bytes
from gpu4d.streaming import sweep
from gpu4d.streaming.engine import VisitOptions

SAMPLE_BYTES = 128 << 20  # of the sample of frames, which is held several times as floats
MARGIN = 1.5  # times the electrons of the sample: what memory is planned for
SMOOTH = 5  # px: least side of the square over which the rate of electrons is taken as even
SEEN = 1000  # pixels of all frames in this square, at least: fewer electrons tell the rate so badly that the loss comes out too large
# px² around an electron in which another one is lost, measured with simulated frames (benchmarks/counting_occupancy.py). Maxima of 3 × 3
# pixels hide at least those 9 px².
LOSS_AREA = {"maxima": 10.0, "places": 10.0, "likelihood": 3.5}


@dataclass(frozen=True)
class CountedScan(Storable, stored="occupancy: [e/px]; raw_bytes event_bytes: [B]"):
    """A scan of raw frames after counting.

    Attributes
    ----------
    cube : DataCube
        The electrons as a scan of events. Its dtype is uint8, its detector has `upsample` times the pixels.
    points : PointListArray or None
        Places (qx, qy in px of the raw frames) and signals of all electrons, if they were asked for.
    setup : CountingSetup
    mode : str
    electrons : int
    occupancy : float
        Electrons per usable pixel and frame.
    coincidence_loss : float
        Share of the electrons that neighbours hide, from the rate at every place of the detector: 1 − n / λ with n = (1 − exp(−A λ)) / A
        where A is the area about an electron in which it hides others.
    false_share : float
        Share of the counted electrons that the noise of pixels is expected to give.
    raw_bytes, event_bytes : int
        Bytes of the raw frames, and of the events in memory.
    """

    cube: DataCube
    points: PointListArray | None
    setup: CountingSetup
    mode: str
    electrons: int
    occupancy: float
    coincidence_loss: float
    false_share: float
    raw_bytes: int
    event_bytes: int

    @property
    def compression(self) -> float:
        """Bytes of the raw frames over bytes of the events."""
        return self.raw_bytes / self.event_bytes

    def __repr__(self) -> str:
        return (
            f"CountedScan({self.electrons} electrons by {self.mode}, {self.occupancy:.2g} per pixel and frame, coincidence loss "
            f"{self.coincidence_loss:.1%}, false {self.false_share:.1g}, {format_bytes(self.event_bytes)}: {self.compression:.0f} times "
            f"less than the frames)"
        )


@on_host("raw")
def count_scan(
    raw: DataCube | Array | str | os.PathLike[str],
    dark: ArrayLike | str | None = None,
    *,
    mode: str = "maxima",
    gain: ArrayLike | None = None,
    setup: CountingSetup | None = None,
    upsample: int = 1,
    places: bool = False,
    sample: int = 64,
    seed: int = 0,
    memory: int | float | str | None = None,
    **options: Unpack[VisitOptions],
) -> CountedScan:
    """Count the electrons of a scan of raw frames. Thresholds and bad pixels are found in a random sample of the frames.

    Parameters
    ----------
    raw : DataCube, (Rx, Ry, Qx, Qy) array, or path
        Frames as the detector writes them. They are read once, in pieces, after the sample.
    dark : (..., Qx, Qy) array, or str
        Frames without a beam, or their mean. Several frames tell bad pixels better. "FILE:/path" names them in a file. Not needed
        with a `setup`.
    mode : {"maxima", "places", "likelihood"}
        "maxima": local maxima of 3 × 3 pixels, the fastest (`count_electrons`). "places": the same, to a part of a pixel.
        "likelihood": also finds electrons that strike neighbouring pixels (`fit_electrons`); for more than about 0.005 electrons
        per pixel and frame.
    gain : (Qx, Qy) array, optional
        Relative response of every pixel.
    setup : CountingSetup, optional
        From an earlier scan, or from `counting_setup` with limits of your own.
    upsample : int
        Pixels of the events in each pixel of the detector, along each axis; 2 for super-resolution. For places and likelihood. The
        calibration follows.
    places : bool
        Whether to keep places and signals of all electrons, `points`, too. For places and likelihood.
    sample : int
        Number of frames of the sample.
    seed : int
        Of the sample.
    memory, **options
        As in `gpu4d.sweep`: device, where, progress, …

    Returns
    -------
    CountedScan

    Raises
    ------
    InputError
        No dark frames and no setup, shapes that do not fit, or frames in which no single electrons can be told.

    Examples
    --------
    >>> import gpu4d
    >>> raw = gpu4d.simulate.raw_frames((6, 6), (64, 64), occupancy=0.004, seed=3)
    >>> counted = count_scan(raw.cube, raw.darks)
    >>> counted.cube.shape, bool(0.8 < counted.electrons / len(raw.electrons) < 1)
    ((6, 6, 64, 64), True)
    """
    cube = open(raw) if isinstance(raw, str | os.PathLike) else raw if isinstance(raw, DataCube) else _cube_of(raw)
    if setup is None:
        if dark is None:
            raise InputError("counting needs the level of the detector: give dark= (frames without a beam, or their mean) or setup=")
        ground = load_images(dark) if isinstance(dark, str) else dark
        where = scan_mask(options.get("where"), cube.scan_shape)
        setup = counting_setup(_random_frames(cube, where, sample, seed), ground, gain=gain, mask=cube.detector_mask)
    elif dark is not None or gain is not None:
        raise InputError("a setup has its dark and gain: give either setup= or dark= and gain=")
    inside = (setup.edges[:-1] >= setup.lower) & (setup.edges[:-1] < setup.upper)
    expected = MARGIN * float(setup.pixels[inside].sum()) / setup.frames + 1
    reduction = CountedElectrons(setup, mode, upsample=upsample, places=places, per_frame=expected)
    result = sweep(cube, reduction, memory=memory, **options)
    source, points = result if isinstance(result, tuple) else (result, None)
    return _judged(cube, source, points, setup, reduction, options.get("where"))


def _cube_of(raw: Array) -> DataCube:
    return DataCube(real_array(raw, "raw", "frames of a scan (Rx, Ry, Qx, Qy), or a DataCube, or a path"))


def _random_frames(cube: DataCube, where: np.ndarray | None, sample: int, seed: int) -> np.ndarray:
    """Read frames of random positions, in the order of the scan."""
    if isinstance(sample, bool) or not isinstance(sample, int | np.integer) or sample < 1:
        raise InputError(f"sample={sample!r}: need a whole number of frames, 1 or more")
    allowed = np.argwhere(np.ones(cube.scan_shape, bool) if where is None else where)
    if not len(allowed):
        raise InputError("where leaves no position: True marks positions that are counted")
    most = max(1, SAMPLE_BYTES // max(int(np.prod(cube.detector_shape)) * 4, 1))
    chosen = np.random.default_rng(seed).choice(len(allowed), min(sample, most, len(allowed)), replace=False)
    return patterns_at(cube, allowed[np.sort(chosen)])


def _judged(
    cube: DataCube,
    source: EventSource,
    points: PointListArray | None,
    setup: CountingSetup,
    reduction: CountedElectrons,
    where: ArrayLike | None,
) -> CountedScan:
    upsample, shape = reduction.upsample, cube.detector_shape
    visited = scan_mask(where, cube.scan_shape)
    frames = int(np.prod(cube.scan_shape)) if visited is None else int(visited.sum())
    fine = np.bincount(source.pixels, minlength=source.shape[2] * source.shape[3])
    struck = fine.reshape(shape[0], upsample, shape[1], upsample).sum(axis=(1, 3))
    usable = int(reduction.valid.sum())
    electrons = int(struck.sum())
    raw = frames * int(np.prod(shape)) * np.dtype(str(cube.dtype).split(".")[-1]).itemsize
    mask = reduction.valid if upsample == 1 else np.kron(reduction.valid, np.ones((upsample, upsample), bool))
    counted = DataCube(source, cube.calibration.binned(1 / upsample, 1), cube.metadata, mask, cube.name)
    return CountedScan(
        cube=counted,
        points=points,
        setup=setup,
        mode=reduction.mode,
        electrons=electrons,
        occupancy=electrons / max(usable * frames, 1),
        coincidence_loss=_loss(struck, reduction.valid, frames, LOSS_AREA[reduction.mode]),
        false_share=min(setup.false_rate * usable * frames / electrons, 1.0) if electrons else 0.0,
        raw_bytes=raw,
        event_bytes=source.pixels.nbytes + source.offsets.nbytes,
    )


def _loss(struck: np.ndarray, valid: np.ndarray, frames: int, area: float) -> float:
    """Return the share of electrons that is hidden by others, from the counted rate about every pixel."""
    from scipy.ndimage import uniform_filter

    counts = np.where(valid, struck, 0).astype(np.float64)
    side = max(SMOOTH, math.ceil(math.sqrt(SEEN / max(frames, 1))) | 1)
    good = uniform_filter(valid.astype(np.float64), side, mode="constant")
    rate = uniform_filter(counts, side, mode="constant") / np.where(good > 0, good, np.inf) / max(frames, 1)
    filled = np.minimum(area * rate, 1 - math.exp(-5))  # beyond it counting is saturated, and says nothing of the rate
    true = -np.log1p(-filled) / area
    total = float((true * valid).sum())
    return 1 - float((rate * valid).sum()) / total if total > 0 else 0.0
