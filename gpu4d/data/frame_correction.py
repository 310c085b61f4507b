"""Raw frames corrected in one pass: dark, streaks, gain, X-ray hits and bad pixels as one correction that a source carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ArrayT, DType
from gpu4d.data.arguments import real_values
from gpu4d.data.bad_pixel_correction import BadPixelCorrection, FoundPixels, MarkedPixels, bad_pixel_correction
from gpu4d.data.correct_frames import correct_frames
from gpu4d.data.corrections import dtype_like
from gpu4d.data.storable import Storable
from gpu4d.data.streaks import RADIUS, Streaks, edge_pixels
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_number


@dataclass(frozen=True, eq=False)
class Hits(Storable, stored="usual lit certain: Qx Qy"):
    """Which values of a corrected frame only an X-ray or cosmic ray has, and what replaces them. Each is a number or (Qx, Qy).

    Parameters
    ----------
    usual : float or (Qx, Qy)
        Value that a pixel of a hit gets.
    lit : float or (Qx, Qy)
        Above it, one of the eight pixels about a hit is part of it.
    certain : float or (Qx, Qy)
        Above it, a pixel is a hit. More than nine such pixels in a square of 7 × 7 are a disk of the beam, and stay.

    Raises
    ------
    InputError
        NaN, or `lit` above `certain`.

    Examples
    --------
    >>> Hits(usual=0.0, lit=40.0, certain=200.0).planes((1, 2)).tolist()
    [[[0.0, 0.0]], [[40.0, 40.0]], [[200.0, 200.0]]]
    """

    usual: ArrayLike
    lit: ArrayLike
    certain: ArrayLike

    def __post_init__(self) -> None:
        for name in ("usual", "lit", "certain"):
            value = real_values(getattr(self, name), name, "a number or (Qx, Qy)").astype(np.float32)
            if value.ndim not in (0, 2) or np.isnan(value).any():
                raise InputError(f"{name} is {value.shape}{' with NaN' * bool(np.isnan(value).any())}: need a number or one for each pixel")
            object.__setattr__(self, name, value)
        if (np.asarray(self.lit) > np.asarray(self.certain)).any():
            raise InputError("lit is above certain: a pixel that is surely a hit is lit by it, so need lit ≤ certain")

    def __repr__(self) -> str:
        usual, lit, certain = (float(np.median(np.asarray(value))) for value in (self.usual, self.lit, self.certain))
        return f"Hits(usual {usual:.3g}, lit {lit:.3g}, certain {certain:.3g}, medians over the pixels)"

    def planes(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the three planes (3, Qx, Qy) float32 for a detector."""
        given = [np.asarray(value) for value in (self.usual, self.lit, self.certain)]
        if wrong := [value.shape for value in given if value.shape not in ((), shape)]:
            raise InputError(f"values of hits are {wrong[0]}, the detector is {shape}: need one value per pixel, or one number")
        return np.stack([np.broadcast_to(value, shape) for value in given]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class FrameCorrection(Storable, stored="background gain bad_pixels taken_from: Qx Qy"):
    """Background off, streaks off, gain divided by, hits and bad pixels replaced: what comes out is float32.

    The order is that of `gpu4d.data.correct_frames`, which does it in one pass. The units stay those of the detector (ADU).

    Parameters
    ----------
    background : (Qx, Qy) real
        Subtracted from every frame: mean of frames without a beam, and streaks that stay through the scan.
    gain : (Qx, Qy) real, optional
        Divided by. Pixels without a positive gain are bad.
    streaks : Streaks, optional
    hits : Hits, optional
        In the units of corrected frames.
    bad_pixels : (Qx, Qy) bool, optional
        Each takes the value of its nearest good pixel. Pixels whose background or gain is NaN are bad, too.
    taken_from : (Qx, Qy) int, optional
        Number qx · Qy + qy of the pixel whose value each bad pixel takes; by default the nearest good one.

    Raises
    ------
    InputError
        Planes of different shapes, or no good pixel.

    Examples
    --------
    >>> raw = np.array([[[104, 120, 999]]], "uint16")
    >>> correction = FrameCorrection([[100, 100, 100]], gain=[[1.0, 2.0, 1.0]], bad_pixels=[[False, False, True]])
    >>> correction.apply(raw).tolist(), correction.description
    ([[[4.0, 10.0, 10.0]]], 'background subtracted, divided by the gain, 1 bad pixel replaced')
    """

    background: ArrayLike
    gain: ArrayLike | None = None
    streaks: Streaks | None = None
    hits: Hits | None = None
    bad_pixels: np.ndarray | Sequence[Sequence[bool]] | None = None
    taken_from: np.ndarray | None = None
    _tables: dict[str, np.ndarray] = field(init=False, repr=False)  # what `correct_frames` takes beside the frames
    _bad: BadPixelCorrection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        background = _plane(self.background, "background", None)
        shape: tuple[int, int] = background.shape  # type: ignore[assignment]
        gain = None if self.gain is None else _plane(self.gain, "gain", shape)
        if self.streaks is not None and self.streaks.weights.shape != shape:
            raise InputError(f"streaks are of a detector of {self.streaks.weights.shape}, the background is {shape}: need one shape")
        bad = np.zeros(shape, bool) if self.bad_pixels is None else _plane(self.bad_pixels, "bad_pixels", shape) != 0
        bad |= ~np.isfinite(background)
        background = np.where(np.isfinite(background), background, 0.0)
        if gain is not None:
            unknown = ~(np.isfinite(gain) & (gain > 0))
            bad, gain = bad | unknown, np.where(unknown, 1.0, gain)
        correction = BadPixelCorrection(bad, self.taken_from)
        found = {"background": background} | ({} if gain is None else {"gain": gain})
        if self.streaks is not None:
            found["edge"] = np.where(bad, 0.0, self.streaks.weights)
        if self.hits is not None:
            limits = self.hits.planes(shape)
            limits[1:, bad] = np.inf
            found["hits"] = limits
        if bad.any():
            found["taken_from"] = np.asarray(correction.taken_from)
        mine = {"background": background, "gain": gain, "bad_pixels": bad, "taken_from": correction.taken_from}
        for name, value in (*mine.items(), ("_tables", found), ("_bad", correction)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"FrameCorrection({self.description}, of {'×'.join(map(str, self.detector_shape))})"

    @property
    def description(self) -> str:
        said = ["background subtracted"] if np.any(self.background) else []
        said += [] if self.streaks is None else [f"{self.streaks.description} subtracted"]
        said += [] if self.gain is None else ["divided by the gain"]
        said += [] if self.hits is None else ["X-ray hits replaced"]
        said += [self._bad.description] if np.any(self.bad_pixels) else []
        return ", ".join(said) or "single precision"

    @property
    def detector_shape(self) -> tuple[int, int]:
        return np.shape(self.background)  # type: ignore[return-value]

    def dtype(self, native: DType) -> DType:
        """Return float32, in the library of the native dtype."""
        return dtype_like(native, "float32")

    def apply(self, frames: ArrayT) -> ArrayT:
        """Return corrected patterns (..., Qx, Qy) float32."""
        if tuple(frames.shape[-2:]) != self.detector_shape:
            raise InputError(f"the patterns are {tuple(frames.shape[-2:])}, the correction is for {self.detector_shape}: need one shape")
        given: dict[str, Any] = {name: self._beside(table, frames) for name, table in self._tables.items()}
        if self.streaks is not None:
            given |= {"clip": self.streaks.clip, "axis": self.streaks.axis}
        return correct_frames(frames, given.pop("background"), **given)

    def _beside(self, table: np.ndarray, frames: Any) -> Any:
        return table if isinstance(frames, np.ndarray) else tables.beside(table, frames)

    def bytes_needed(self, n_frames: int) -> int:
        """Return the bytes of the tables, also in the types that kernels read, and of the lines of every frame."""
        return 2 * sum(table.nbytes for table in self._tables.values()) + 16 * n_frames * sum(self.detector_shape)

    def cropped(self, qx: slice, qy: slice) -> FrameCorrection | None:
        """Return the correction for cropped patterns. None with streaks or hits, or a bad pixel whose good neighbour is outside."""
        bad = self._bad.cropped(qx, qy)
        if bad is None or self.streaks is not None or self.hits is not None:
            return None
        gain = None if self.gain is None else np.asarray(self.gain)[qx, qy]
        return FrameCorrection(np.asarray(self.background)[qx, qy], gain, None, None, np.asarray(bad.mask), bad.taken_from)

    def swapped(self) -> FrameCorrection:
        """Return the correction for patterns (Qy, Qx)."""
        bad = self._bad.swapped()
        gain = None if self.gain is None else np.asarray(self.gain).T
        streaks = None if self.streaks is None else self.streaks.swapped()
        hits = None if self.hits is None else Hits(*(np.asarray(v).T for v in (self.hits.usual, self.hits.lit, self.hits.certain)))
        return FrameCorrection(np.asarray(self.background).T, gain, streaks, hits, np.asarray(bad.mask), bad.taken_from)


def frame_correction(
    shape: tuple[int, int],
    valid: np.ndarray | None,
    *,
    dark: ArrayLike | None,
    gain: ArrayLike | None,
    streaks: Streaks | ArrayLike | bool | None,
    hits: Hits | None,
    bad_pixels: ArrayLike | FoundPixels | MarkedPixels | None,
) -> FrameCorrection:
    """Make the correction from what a user gives to `DataCube.corrected`.

    Parameters
    ----------
    shape : (Qx, Qy)
        Of the detector.
    valid : (Qx, Qy) bool or None
        The detector mask.
    dark, gain, streaks, hits, bad_pixels
        As for `DataCube.corrected`.

    Raises
    ------
    InputError
    """
    level = np.zeros(shape) if dark is None else mean_of_darks(dark, shape)
    response = None if gain is None else _plane(gain, "gain", shape)
    if hits is not None and not isinstance(hits, Hits):
        raise InputError(f"hits={hits!r}: need what gpu4d.preprocess.background measured (.hits), or gpu4d.data.Hits(usual, lit, certain)")
    bad = None if bad_pixels is None else np.asarray(bad_pixel_correction(bad_pixels, shape, valid).mask)
    return FrameCorrection(level, response, _streaks(streaks, shape, valid), hits, *all_bad(level, response, bad, valid))


def all_bad(
    background: np.ndarray, gain: ArrayLike | None, bad: np.ndarray | None, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Add pixels without a background or a gain to bad pixels. Return them, and the pixels whose values they take.

    Parameters
    ----------
    background : (Qx, Qy) float64
    gain : (Qx, Qy) real or None
        Not positive, or NaN, where a pixel has none.
    bad : (Qx, Qy) bool or None
        Known bad pixels.
    valid : (Qx, Qy) bool or None
        The detector mask: pixels that it excludes give no values.
    """
    every = ~np.isfinite(background)
    if gain is not None:
        response = _plane(gain, "gain", background.shape)
        every |= ~(np.isfinite(response) & (response > 0))
    if bad is not None:
        every |= bad
    found = bad_pixel_correction(every, background.shape, valid)  # type: ignore[arg-type]
    return np.asarray(found.mask), found.taken_from


def mean_of_darks(dark: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    """Return the mean (Qx, Qy) float64 of one dark frame or of a stack (..., Qx, Qy). Pixels that are NaN in a frame are left out there.

    Raises
    ------
    InputError
        Another detector, or no frames.
    """
    frames = real_values(dark, "dark", "frames without a beam (..., Qx, Qy)")
    if frames.ndim < 2 or frames.shape[-2:] != tuple(shape) or not frames.size:
        raise InputError(f"dark is {frames.shape}, the detector is {tuple(shape)}: need one or more frames of this detector without a beam")
    values = frames.reshape(-1, *shape)
    total, count = np.zeros(shape), np.zeros(shape, np.int64)
    for frame in values:  # one at a time: no copy of all
        known = np.isfinite(frame)
        total += np.where(known, frame, 0)
        count += known
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _streaks(given: Streaks | ArrayLike | bool | None, shape: tuple[int, int], valid: np.ndarray | None) -> Streaks | None:
    if given is None or given is False or isinstance(given, Streaks):
        return given or None
    if given is True or np.ndim(arrays.unwrapped(given)) == 0:
        return Streaks(edge_pixels(shape, RADIUS if given is True else real_number(given, "streaks"), valid))
    edge = _plane(given, "streaks", shape) != 0
    return Streaks(edge if valid is None else edge & valid)


def _plane(given: ArrayLike, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return one value per detector pixel on the host, float64."""
    plane = real_values(given, name, "one value per detector pixel").astype(np.float64)
    if plane.ndim != 2 or 0 in plane.shape or (shape is not None and plane.shape != tuple(shape)):
        raise InputError(f"{name} is {plane.shape}, need {'(Qx, Qy)' if shape is None else tuple(shape)}: one value per detector pixel")
    return plane
