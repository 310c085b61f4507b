"""From patterns to refined disks: `find_disks`, then `poisson_fit` where it is asked for, on whatever device the patterns are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays, fft
from gpu4d.bragg.find_disks import Disks, find_disks
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.bragg.likelihood.poisson_fit import DiskProfile, disk_profile, poisson_fit
from gpu4d.bragg.refine import refine_positions
from gpu4d.cache import kept_by_content
from gpu4d.device import tables
from gpu4d.device.choose import cpu_threads
from gpu4d.device.threads import in_threads
from gpu4d.operation import using
from gpu4d.probe.shape.disk_shape import not_radial
from gpu4d.probe.shape.grid_profile import GridProfile, grid_profile
from gpu4d.probe.shape.radial_profile import radial_profile, shape_of
from gpu4d.probe.template_kernel import Template

LEAST_SHARE = 32  # patterns of an array that are worth a thread
BATCH = 32  # patterns the definition works on at once, on arrays that have no twin
AGREED = 0.01  # px between the estimators on the probe itself
CLEAN = 0.001  # px of noise in that figure, below which the image is taken as it is: it holds more than its few terms
PHASES = ((0.0, 0.0), (0.25, 0.5), (0.5, 0.25), (-0.25, 0.4), (0.4, -0.3), (-0.4, -0.15), (0.15, -0.45), (-0.15, 0.2))  # px
PLATEAU, GROUND, STEPS = 1e4, 0.02, 10  # counts of that probe, background in its plateaus, steps of its fit


class Zero(NamedTuple):
    """How the two estimators agree on a probe."""

    shift: tuple[float, float]  # px, of the likelihood from the correlation: their zero points
    doubt: str | None  # why the likelihood is not to be trusted with this probe


class _Probe(NamedTuple):
    """A probe without its noise: radius and centre, pixels; intensity of a pixel of its plateau; px of noise in a position.

    `shape` is its intensity by x, y relative to the centre; `doubt` says why that is not to be trusted, or is None.
    """

    radius: float
    centre: np.ndarray
    plateau: float
    noise: float
    shape: Callable[[np.ndarray, np.ndarray], np.ndarray]
    doubt: str | None


def likelihood(template: Template, parameters: int) -> dict[str, Any]:
    """What `search` needs for the fit; `doubt` says why refine="auto" would not make it, or is None; `form` what is fitted."""
    profile, form = disk_profile(template), "a round probe"
    zero = Zero((0.0, 0.0), None)
    if template.fine is not None:  # one zero point, but for uneven disks, whose means differ by 0.003 px at 40 % of slope
        form = "a disk that the scan has shown"
    elif template.probe is not None:
        arguments = (template.probe.astype(np.float64).tobytes(), template.kernel.astype(np.float64).tobytes())
        zero = _zero_point(*arguments, template.shape, template.offset, parameters)
        if not_radial(arguments[0], template.shape) is not None:
            form = "the grid profile of a probe that is not round or not even"
    return {"profile": profile, "parameters": parameters, "spacing": profile.reach + profile.radius, "form": form, **zero._asdict()}


@kept_by_content(maxsize=8)
def _zero_point(probe: bytes, kernel: bytes, shape: tuple[int, int], offset: tuple[float, float], parameters: int) -> Zero:
    """Both estimators on the probe without its noise (unless there is next to none), in the middle of the detector.

    The correlation is made with the kernel of that smooth probe (and the template's trench): the noise of the vacuum image moves
    its maximum, and would be taken for a difference.
    """
    image, given = (np.frombuffer(b).reshape(shape) for b in (probe, kernel))
    round_ = not_radial(probe, shape) is None
    known = _round(image, probe) if round_ else _by_grid(image, probe, parameters)
    middle = np.array(shape) // 2
    at = known.centre - np.floor(known.centre) + middle
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    if known.noise < CLEAN:
        smooth = np.maximum(np.roll(image, tuple((middle - np.floor(known.centre)).astype(int)), (0, 1)) / known.plateau, 0.0)
    else:
        smooth = known.shape(x - at[0], y - at[1])
    raw = _summit(image, Template(given, offset, known.radius))
    origin = np.rint(raw - offset)  # the pixel of the probe that the kernel has at [0, 0]
    trench = given - np.roll(image, tuple(-origin.astype(int)), (0, 1)) / image.sum()
    moved = origin + middle - np.floor(known.centre)
    peak = np.roll(smooth, tuple(-moved.astype(int)), (0, 1)) / smooth.sum()
    mapped = Template(peak + trench, offset, known.radius)
    table = disk_profile(image)
    by_fit = _fits(smooth[None], at[None], table, parameters)[0]
    if not np.isfinite(by_fit).all():
        return Zero((0.0, 0.0), known.doubt or "the fit of the probe itself fails")
    doubt = known.doubt
    if round_:
        shift = by_fit - _summit(smooth, mapped)
        apart = float(np.hypot(*(shift + moved + offset - at)))
        reason = f"the probe is uneven: likelihood and correlation place it {apart:.3f} px apart"
    else:  # the correlation of a form with corners has another zero at every sub-pixel position: the mean of them is taken
        copies = [at + phase for phase in PHASES]
        shift = np.mean([c - _summit(known.shape(x - c[0], y - c[1]), mapped) for c in copies], 0)
        apart = float(np.hypot(*(by_fit - at)))
        reason = f"the grid profile of the probe misses its own image by {apart:.3f} px"
    if doubt is None and apart > AGREED + known.noise / 2:
        doubt = reason
    return Zero((float(shift[0]), float(shift[1])), doubt)


def _round(image: np.ndarray, probe: bytes) -> _Probe:
    radial = radial_profile(probe, image.shape)
    form = shape_of(image, radial)
    return _Probe(radial.disk.radius, np.array(radial.disk[:2]), form.plateau, form.noise, form.image, None)


def _by_grid(image: np.ndarray, probe: bytes, parameters: int) -> _Probe:
    """With the doubts that a probe raises which is not round or not even."""
    profile = grid_profile(probe, image.shape)
    disk, value = profile.disk, profile.value
    x, y = np.arange(image.shape[0])[:, None] - disk.qx, np.arange(image.shape[1])[None, :] - disk.qy
    here = value(x, y)
    slopes = [(value(x + d, y + e) - value(x - d, y - e)) / 0.2 for d, e in ((0.1, 0.0), (0.0, 0.1))]
    noise = profile.noise / np.sqrt(min((s**2 / np.maximum(here, GROUND)).sum() for s in slopes))
    unknown = _unknown(profile, image, parameters)
    doubt = (
        None if unknown <= AGREED else f"the probe is not round, and its image tells only to {unknown:.3f} px what lies between the pixels"
    )
    plateau = float((image * here).sum() / (here * here).sum())
    return _Probe(disk.radius, np.array(disk[:2]), plateau, float(noise), value, doubt)


def _unknown(profile: GridProfile, image: np.ndarray, parameters: int) -> float:
    """rms by which the fit misses sub-pixel shifted copies of another shape that is as good, their common shift taken off, pixels."""
    table = disk_profile(image)
    half = int(np.ceil(table.reach)) + 2
    at = half + np.asarray(PHASES)
    x, y = (np.arange(2 * half + 1.0) - at[:, i, None] for i in (0, 1))
    missed = _fits(profile.other(x[:, :, None], y[:, None, :]), at, table, parameters) - at
    return float(np.sqrt(((missed - missed.mean(0)) ** 2).mean()))


def _fits(smooth: np.ndarray, at: np.ndarray, table: DiskProfile, parameters: int) -> np.ndarray:
    """Where the likelihood finds a disk each in images (n, Qx, Qy) of plateau 1, from `at`; NaN where it fails."""
    counts, one = PLATEAU * (np.maximum(smooth, 0.0) + GROUND), np.ones(len(at), np.int64)
    with using("definition"):
        fit = poisson_fit(counts, at[:, :1], at[:, 1:], one, table.table, table.pixels, parameters=parameters, iterations=STEPS)
    return np.where(fit.ok, np.concatenate([fit.x, fit.y], 1), np.nan)


def _summit(image: np.ndarray, template: Template) -> np.ndarray:
    """Exact maximum of an image's n = 1 map, pixels."""
    cross = fft.irfft2(fft.rfft2(image) * template_spectrum(template), image.shape)[None]
    x, y = (np.full((1, 1), float(i)) for i in np.unravel_index(cross[0].argmax(), image.shape))
    x, y, _ = refine_positions(cross, x, y, "correlation", 2, climb=False)
    return np.array([x[0, 0], y[0, 0]])


def search(frames: Any, arguments: dict[str, Any], options: dict[str, Any], fit: dict[str, Any] | None = None) -> Disks:
    """`find_disks` with its host arrays moved beside the frames, then the likelihood fit; definitions in batches, which bound
    their memory."""
    given = [tables.beside(arguments[name], frames) for name in ("spectrum", "moments", "allowed")]
    mask = None if arguments["mask"] is None else tables.beside(arguments["mask"], frames)
    call = {**options, "mask": mask, "fill_width": arguments["fill_width"]}
    template = [tables.beside(a, frames) for a in (fit["profile"].table, fit["profile"].pixels)] if fit else None

    def one(some: Any) -> Disks:
        disks = find_disks(some, *given, **call)
        return disks if fit is None else _fitted(some, disks, template, mask, fit)

    if find_disks.choose(frames, *given, **call) != "definition" or frames.shape[0] <= BATCH:
        return one(frames)
    xp = arrays.namespace(frames)
    ends = [min(i + BATCH, frames.shape[0]) for i in range(0, frames.shape[0], BATCH)]
    parts = [one(frames[max(0, end - 1) // BATCH * BATCH : end, ...]) for end in ends]
    return Disks(*(xp.concat(columns) for columns in zip(*parts)))


def _fitted(frames: Any, disks: Disks, template: Any, mask: Any, fit: dict[str, Any]) -> Disks:
    """Positions and standard errors of the likelihood where its fit succeeds, of the correlation elsewhere; zero point of the latter."""
    xp = arrays.namespace(frames)
    start = [v + shift for v, shift in zip((disks.qx, disks.qy), fit["shift"])]
    found = poisson_fit(frames, *start, disks.count, *template, mask, parameters=fit["parameters"], spacing=fit["spacing"])
    sx, sy = (
        xp.where(found.ok, xp.sqrt(xp.where(found.ok, v, xp.ones_like(v))), old) for v, old in ((found.xx, disks.sx), (found.yy, disks.sy))
    )
    qx, qy = (xp.where(found.ok, v - shift, old) for v, shift, old in zip((found.x, found.y), fit["shift"], (disks.qx, disks.qy)))
    return disks._replace(qx=qx, qy=qy, sx=sx, sy=sy)


def search_in_threads(frames: Any, arguments: dict[str, Any], options: dict[str, Any], fit: dict[str, Any] | None) -> Disks:
    """`search` with the frames shared out among threads, where compiled code holds no lock."""
    workers = min(cpu_threads(), frames.shape[0] // LEAST_SHARE) if find_disks.choose(frames) == "cpu" else 1
    if workers < 2:
        return search(frames, arguments, options, fit)
    ends = [frames.shape[0] * i // workers for i in range(workers + 1)]
    shares = in_threads(lambda i, j: search(frames[i:j, ...], arguments, options, fit), ends, ends[1:])
    xp = arrays.namespace(frames)
    return Disks(*(xp.concat(columns) for columns in zip(*shares)))
