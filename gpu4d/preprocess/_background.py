"""Measure the background of raw frames: the corrections that turn them into clean patterns, and what was found."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import pixel_mask, real_values
from gpu4d.data.datacube import DataCube
from gpu4d.data.frame_correction import FrameCorrection, all_bad, mean_of_darks
from gpu4d.data.sample import grid_positions, patterns_at, spread_evenly
from gpu4d.data.streaks import ALONG, RADIUS, Streaks, edge_pixels
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.preprocess.defects import Defects, find_defects, flickering_alone, median_without_nan, outlying
from gpu4d.preprocess.edge_levels import EdgeLevels, best_along, edge_levels, edge_sample
from gpu4d.preprocess.find_hits import LEAST_FRAMES, FoundHits, find_hits
from gpu4d.preprocess.usual_values import usual_values
from gpu4d.real_arrays import real_array, real_number

MOST = 128  # frames that are measured: their noise is far below that of any dark reference
SAMPLE_BYTES = 32 << 20  # of these frames in single precision; fewer frames of large detectors
LEAST = 8  # frames that are measured of any detector
INNER = 3  # the inner third of the edge pixels, nearest to the beam, shows whether signal reaches the edge
CLIP = 5.0  # standard deviations: edge pixels farther from the background are hits


@dataclass(frozen=True, eq=False)
class Background(FrameCorrection, stored="edge: Qx Qy; noise error level level_error streaks_fixed streaks_changing: [ADU]"):
    """What `background` measured: a correction, for ``cube.corrected(found)``, and what it says of the frames.

    Attributes
    ----------
    background, gain, streaks, hits, bad_pixels
        As `FrameCorrection` has them. `background` is dark and streaks that stay.
    defects : Defects
        Pixels that do not measure.
    edge : (Qx, Qy) bool
        Pixels that no electron reaches.
    noise : float
        Standard deviation of an edge pixel over the frames, in the units of the raw frames.
    error : float
        Standard error of the background of a pixel inside: noise of the dark frames, or without them how much pixels differ.
    level, level_error : float
        What is left at the third of the edge that is nearest to the beam, above the rest of the edge, without the streaks; and its
        standard error. Signal reaches the edge where this is above zero.
    streaks_fixed, streaks_changing : float
        Standard deviation of the streaks that stay through the frames, and of those that change from frame to frame. 0 if there are none.
    frames : int
        Number of frames that were measured.
    hits_found : int
        Hits in these frames; 0 where hits were not looked for.
    said : tuple of (str, str)
        What is corrected and what is not, and why.
    """

    defects: Defects | None = None
    edge: np.ndarray | None = None
    noise: float = 0.0
    error: float = 0.0
    level: float = 0.0
    level_error: float = 0.0
    streaks_fixed: float = 0.0
    streaks_changing: float = 0.0
    frames: int = 0
    hits_found: int = 0
    said: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        edge = f"level at the edge {self.level:.2g} ± {self.level_error:.1g}"
        return f"Background({self.description}; noise {self.noise:.3g}, {edge})"

    def swapped(self) -> Background:
        """Return the same for patterns (Qy, Qx)."""
        plain = super().swapped()
        defects = None if self.defects is None else Defects(*(part.T for part in self.defects))
        edge = None if self.edge is None else self.edge.T
        mine = {f.name: getattr(self, f.name) for f in fields(Background) if f.init}
        changed = {f.name: getattr(plain, f.name) for f in fields(FrameCorrection) if f.init}
        return Background(**{**mine, **changed, "defects": defects, "edge": edge})


class _Darks(NamedTuple):
    """Mean of the frames without a beam, their number, and the pixels that do not work in them. 0 frames: none were given."""

    mean: np.ndarray
    frames: int
    defects: Defects


@on_host("raw")
def background(
    frames: DataCube | Array,
    dark: ArrayLike | None = None,
    /,
    *,
    gain: ArrayLike | None = None,
    radius: float = RADIUS,
    edge: ArrayLike | None = None,
    streaks: str | bool = "auto",
    hits: str | bool = "auto",
    threshold: float = 5.0,
    mask: ArrayLike | None = None,
) -> Background:
    """Measure the background of raw frames, and the pixels that do not measure.

    A frame is v = gain · signal + dark + streak of its line + noise. The dark reference was taken at another time, and streaks moved
    since. They are seen at the edge of the detector, where no electron arrives (guide 5.1): what stays is the mean over all frames,
    what changes is measured in each. Where a line has n edge pixels with noise σ, and streaks change by the variance v, the share
    v / (v + σ²/n) of what a single frame shows is subtracted: the linear estimate with the smallest error. Edge pixels themselves take
    their level from dark and frames together, by the number of each.

    Parameters
    ----------
    frames : DataCube or (..., Qx, Qy) real
        Raw frames. At most 128 are read, spread over the scan. NaN pixels do not count.
    dark : (Qx, Qy) or (..., Qx, Qy) real, optional
        Frames without a beam, or their mean. Single frames show flickering pixels, too.
    gain : (Qx, Qy) real, optional
        Response of every pixel, to divide by.
    radius : float
        Edge pixels are outside of a circle about the middle of the detector; this is its radius over half the shorter side. The guide
        recommends 0.85 to 0.95 (`background_mask_radius`): as small as possible without pixels that the beam reaches.
    edge : (Qx, Qy) bool, optional
        True at pixels that no electron reaches, instead of `radius`.
    streaks : {"auto", "columns", "rows"} or bool
        Lines of the detector whose levels are measured. "auto": those whose two halves agree. True: columns or rows, where they agree
        better. False: none.
    hits : {"auto"} or bool
        Whether to replace hits of X-rays, values far above the usual ones of a pixel and its neighbours. "auto": if they fall on the
        edge and inside alike, or are brighter than the beam is anywhere; then only those. It needs 8 frames.
    threshold : float
        In σ, for hot, dead and flickering pixels. The guide recommends 3 to 5 (`hot_pixel_threshold`).
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. By default the detector mask of the cube.

    Returns
    -------
    Background
        A correction for `cube.corrected`. Its `said` tells what was decided.

    Raises
    ------
    InputError
        No frames, planes of another shape, no edge pixels, unknown words.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> raw = 100 + rng.normal(0, 2, (40, 64, 64)) + rng.normal(0, 5, 64)
    >>> raw[:, 20:40, 20:40] += 50
    >>> dark = 100 + rng.normal(0, 2, (20, 64, 64))
    >>> found = background(raw, dark)
    >>> found.description, bool(abs(found.noise - 2) < 0.1)
    ('background subtracted', True)
    >>> clean = found.apply(raw)
    >>> bool(abs(clean[:, :20].mean(axis=(0, 1))).max() < 1), bool(abs(clean[:, 20:40, 20:40].mean() - 50) < 0.5)
    (True, True)
    """
    stack, valid = _sample(frames, mask)
    shape: tuple[int, int] = stack.shape[1:]
    threshold = real_number(threshold, "threshold")
    _check(streaks, hits, threshold)
    darks = _darks(dark, shape, threshold)
    beyond = _edge(edge, radius, shape, valid)
    usable = beyond & np.isfinite(darks.mean) & ~darks.defects.pixels
    if not usable.any():
        raise InputError("no edge pixel is left: all are masked, or do not work in the dark frames; give another radius, or edge=")
    sample = edge_sample(stack, darks.mean, usable)
    levels = edge_levels(sample, streaks if isinstance(streaks, str) and streaks in ALONG else best_along(sample))
    lines, why = _lines(levels, streaks)
    said = [why]
    whole, ground, between = darks.mean, darks.mean, None
    if lines is not None:
        whole, between = darks.mean + lines.image, _between(lines, usable)
        ground = _ground(whole, darks.frames > 0, lines, len(stack))
    bare = FrameCorrection(ground, gain, between, None, darks.defects.pixels)
    clean = _filled(bare.apply(stack))
    defects = _defects(darks, ground, clean, beyond, levels, threshold)
    found, more = _hits(clean, hits, beyond & ~defects.pixels, levels)
    said += [*more, *_said_of(defects, darks)]
    level, level_error = _left_at_the_edge(_mean_without_hits(clean, found) + ground - whole, beyond & ~defects.pixels)
    return Background(
        *(ground, gain, between, None if found is None else found.limits),
        *all_bad(ground, gain, defects.pixels, valid),
        defects=defects,
        edge=beyond,
        noise=levels.noise,
        error=math.sqrt(_error_of_darks(levels, len(stack))),
        level=level,
        level_error=level_error,
        streaks_fixed=0.0 if lines is None else _spread(lines),
        streaks_changing=0.0 if between is None or lines is None else math.sqrt(lines.between),
        frames=len(stack),
        hits_found=0 if found is None else found.inside + found.at_edge,
        said=tuple(said),
    )


@on_host("raw")
def shows_streaks(
    frames: np.ndarray, radius: float = RADIUS, mask: np.ndarray | None = None, edge: np.ndarray | None = None
) -> tuple[bool, str]:
    """Say whether a few frames show streaks at the edge of the detector, and why. It is a quick look before `background`.

    Parameters
    ----------
    frames : (n, Qx, Qy) real
        Raw. 16 are enough.
    radius, edge
        As for `background`.
    mask : (Qx, Qy) bool, optional
    """
    shape: tuple[int, int] = frames.shape[1:]  # type: ignore[assignment]
    beyond = _edge(edge, radius, shape, np.ones(shape, bool) if mask is None else mask)
    sample = edge_sample(frames, np.zeros(shape), beyond)
    lines, (_, why) = _lines(edge_levels(sample, best_along(sample)), "auto")
    return lines is not None, why


def _sample(frames: DataCube | Array, mask: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Return some frames (n, Qx, Qy) float32 on the host, and which pixels count."""
    if isinstance(frames, DataCube):
        shape = frames.detector_shape
        if not frames.scan_shape[0] * frames.scan_shape[1]:
            raise InputError("the scan has no positions: need at least one frame")
        stack = patterns_at(frames, grid_positions(np.ones(frames.scan_shape, bool), _most(shape)))
        mask = frames.detector_mask if mask is None else mask
    else:
        given = real_array(frames, "frames", "raw frames (..., Qx, Qy)")
        if len(given.shape) < 2 or 0 in given.shape:
            raise InputError(f"frames are {tuple(given.shape)}: need at least one frame (..., Qx, Qy)")
        shape = tuple(given.shape[-2:])
        flat = arrays.namespace(given).reshape(given, (-1, *shape))
        stack = np.stack([arrays.to_numpy(flat[int(i), :, :]) for i in spread_evenly(np.arange(flat.shape[0]), _most(shape))])
    valid = pixel_mask(mask, shape, "mask")
    return stack.astype(np.float32), np.ones(shape, bool) if valid is None else valid


def _filled(frames: np.ndarray) -> np.ndarray:
    """Give NaN and infinite values the median of their pixel over the frames, which no hit changes; 0 where it has none."""
    known = np.isfinite(frames)
    if known.all():
        return frames
    middle = median_without_nan(np.where(known, frames, np.nan), 0)
    return np.where(known, frames, np.where(np.isfinite(middle), middle, 0.0)).astype(np.float32)


def _most(shape: tuple[int, int]) -> int:
    return int(np.clip(SAMPLE_BYTES // (4 * shape[0] * shape[1]), LEAST, MOST))


def _check(streaks: Any, hits: Any, threshold: float) -> None:
    if not (isinstance(streaks, bool) or streaks in ("auto", *ALONG)):
        raise InputError(f"streaks={streaks!r}: need 'auto', 'columns', 'rows', True or False")
    if not (isinstance(hits, bool) or hits == "auto"):
        raise InputError(f"hits={hits!r}: need 'auto', True or False")
    if not threshold > 0:
        raise InputError(f"threshold={threshold:g}: need more than 0, best 3 to 5")


def _darks(dark: ArrayLike | None, shape: tuple[int, int], threshold: float) -> _Darks:
    if dark is None:
        return _Darks(np.zeros(shape), 0, Defects(*np.zeros((3, *shape), bool)))
    mean = mean_of_darks(dark, shape)
    stack = real_values(dark, "dark").reshape(-1, *shape)
    return _Darks(mean, len(stack), find_defects(stack, threshold))


def _edge(edge: ArrayLike | None, radius: float, shape: tuple[int, int], valid: np.ndarray) -> np.ndarray:
    if edge is None:
        return edge_pixels(shape, radius, valid)
    given = pixel_mask(edge, shape, "edge")
    assert given is not None
    if not (given & valid).any():
        raise InputError("edge marks no pixel that counts: True marks pixels that no electron reaches")
    return given & valid


def _lines(levels: EdgeLevels, streaks: str | bool) -> tuple[EdgeLevels | None, tuple[str, str]]:
    """Decide whether lines are subtracted, and say why."""
    how = f"steps between {levels.along} of the two halves of the edge correlate by {levels.agreement:.2f} ({levels.significance:.1f} σ)"
    if streaks is False or (streaks == "auto" and levels.quiet and not levels.streaks):
        return None, ("no streaks are subtracted", how if streaks else "as given")
    if streaks == "auto" and not levels.quiet:
        return None, ("no streaks are subtracted", "pixels at the edge do not have the same noise: the beam reaches them, or it is counted")
    return levels, (f"streaks along {levels.along} are subtracted", how)


def _error_of_darks(lines: EdgeLevels, frames: int) -> float:
    """Return the variance by which the level of a pixel may be off: how edge pixels of the frames differ from dark and line."""
    rest = (lines.pixels - lines.image)[np.isfinite(lines.pixels)]
    return max(float(np.var(rest)) - lines.noise**2 / frames, 0.0) if rest.size else 0.0


def _ground(whole: np.ndarray, with_dark: bool, lines: EdgeLevels, frames: int) -> np.ndarray:
    """Return what is subtracted: of edge pixels the mean of dark and frames, by their noise; of others dark and line, `whole`."""
    rest = lines.pixels - lines.image
    known = np.isfinite(rest)
    of_frames, of_dark = lines.noise**2 / frames, _error_of_darks(lines, frames)
    weight = 1.0 if not with_dark else of_dark / (of_dark + of_frames) if of_dark > 0 else 0.0
    return np.where(known, whole + weight * np.where(known, rest, 0.0), whole)


def _between(lines: EdgeLevels, usable: np.ndarray) -> Streaks | None:
    """Return the streaks of single frames, None where lines do not change by more than noise explains."""
    if not lines.changes:
        return None
    clip = CLIP * math.sqrt(lines.noise**2 + lines.between)
    return Streaks(usable & np.isfinite(lines.pixels), lines.along, lines.share, clip)


def _defects(darks: _Darks, ground: np.ndarray, clean: np.ndarray, edge: np.ndarray, levels: EdgeLevels, threshold: float) -> Defects:
    """Add what the frames show: pixels that flicker, and, without a dark, hot and dead pixels at an edge that no electron reaches."""
    hot, dead, unsteady = darks.defects
    if not darks.frames and levels.quiet:
        usual = usual_values(clean)
        more = outlying(np.where(edge, usual.mean + ground, np.nan), threshold, levels.noise / math.sqrt(usual.frames))
        hot, dead = hot | more[0], dead | more[1]
    if len(clean) >= LEAST_FRAMES:
        unsteady = unsteady | flickering_alone(clean, threshold, levels.noise)
    return Defects(hot, dead, unsteady)


def _hits(clean: np.ndarray, wanted: str | bool, edge: np.ndarray, levels: EdgeLevels) -> tuple[FoundHits | None, list[tuple[str, str]]]:
    if wanted is False:
        return None, []
    if len(clean) < LEAST_FRAMES:
        return None, [("hits of X-rays are not looked for", f"there are {len(clean)} frames; {LEAST_FRAMES} show what a pixel usually has")]
    found = find_hits(clean, edge, levels.noise)
    seen = f"{found.at_edge} at the edge and {found.inside} inside, in {len(clean)} frames"
    if wanted is True or found.even:
        return found, [("hits of X-rays are replaced", seen)]
    if found.above_all and levels.quiet:
        brighter = f"{seen}; {found.above_all} brighter than the beam is anywhere ({found.brightest:.4g})"
        return found.above_the_beam(), [("hits of X-rays that are brighter than the beam are replaced", brighter)]
    return None, [
        ("no hits of X-rays are replaced", f"{seen}: X-rays fall everywhere alike, and are narrow")
    ] if found.inside + found.at_edge else []


def _said_of(defects: Defects, darks: _Darks) -> list[tuple[str, str]]:
    number = int(defects.pixels.sum())
    if not number:
        return []
    hot, dead, unsteady = (int(part.sum()) for part in defects)
    where = f"{darks.frames} dark frames and the scan" if darks.frames else "the scan"
    return [(f"{number} bad pixels take the value of a neighbour", f"{hot} hot, {dead} dead and {unsteady} flickering in {where}")]


def _left_at_the_edge(mean: np.ndarray, edge: np.ndarray) -> tuple[float, float]:
    """Return the mean of the inner third of the edge above that of the rest, and its standard error."""
    nx, ny = edge.shape
    away = np.hypot(np.arange(nx)[:, None] - (nx - 1) / 2, np.arange(ny) - (ny - 1) / 2)
    inner = edge & (away <= np.quantile(away[edge], 1 / INNER)) if edge.any() else edge
    a, b = mean[inner], mean[edge & ~inner]
    if not a.size or not b.size:
        return 0.0, 0.0
    return float(a.mean() - b.mean()), math.sqrt(float(a.var()) / a.size + float(b.var()) / b.size)


def _mean_without_hits(clean: np.ndarray, found: FoundHits | None) -> np.ndarray:
    """Return the mean of corrected frames, (Qx, Qy) float64."""
    if found is None:
        return clean.mean(axis=0, dtype=np.float64)
    return np.where(clean > np.asarray(found.limits.lit), np.asarray(found.limits.usual), clean).mean(axis=0, dtype=np.float64)


def _spread(lines: EdgeLevels) -> float:
    """Return the standard deviation of the lines over the detector."""
    return float(np.std(lines.lines[lines.counts > 0])) if (lines.counts > 0).any() else 0.0
