"""From patterns to refined disks: `find_disks`, then `poisson_fit` where it is asked for, on whatever device the patterns are."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays, fft
from gpu4d.bragg.find_disks import Disks, find_disks
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.bragg.poisson_fit import disk_profile, poisson_fit
from gpu4d.bragg.radial_profile import radial_profile, shape_of
from gpu4d.bragg.refine import refine_positions
from gpu4d.device.choose import cpu_threads
from gpu4d.device.threads import in_threads
from gpu4d.operation import using
from gpu4d.probe.template_kernel import Template

LEAST_SHARE = 32  # patterns of an array that are worth a thread
BATCH = 32  # patterns the definition works on at once, on arrays that have no twin
UNEVEN = 0.03  # radii rms from a circle: where the likelihood is no better than the correlation
RIM_NOISE, RAY_NOISE = 2.5, 8.0  # the most that both measures of it have been seen to exceed the noise of ten harmonics by, on circles
AGREED = 0.01  # px between the estimators on the probe itself
CLEAN = 0.001  # px of noise in that figure, below which the image is taken as it is: it holds more than its few terms
PLATEAU, GROUND, STEPS = 1e4, 0.02, 10  # counts of that probe, background in its plateaus, steps of its fit


class Zero(NamedTuple):
    """How the two estimators agree on a probe."""

    shift: tuple[float, float]  # px, of the likelihood from the correlation: their zero points
    doubt: str | None  # why the likelihood is not to be trusted with this probe


def likelihood(template: Template, parameters: int) -> dict[str, Any]:
    """What `search` needs for the fit; `doubt` says why refine="auto" would not make it, or is None."""
    profile = disk_profile(template)
    zero = Zero((0.0, 0.0), None)
    if template.probe is not None:
        arguments = (template.probe.astype(np.float64).tobytes(), template.kernel.astype(np.float64).tobytes())
        zero = _zero_point(*arguments, template.shape, template.offset, parameters)
    return {"profile": profile, "parameters": parameters, "spacing": profile.reach + profile.radius, **zero._asdict()}


@lru_cache(maxsize=8)
def _zero_point(probe: bytes, kernel: bytes, shape: tuple[int, int], offset: tuple[float, float], parameters: int) -> Zero:
    """Both estimators on the probe without its noise (`shape_of`, unless there is next to none), in the middle of the detector.

    The correlation is made with the kernel of that smooth probe (and the template's trench): the noise of the vacuum image moves
    its maximum, and would be taken for a difference.
    """
    image, given = (np.frombuffer(b).reshape(shape) for b in (probe, kernel))
    radial = radial_profile(probe, shape)
    form = shape_of(image, radial)
    allowed, doubt = UNEVEN * radial.disk.radius, None
    if form.rim**2 > allowed**2 + (RIM_NOISE * form.noise) ** 2 or radial.disk.residual > allowed + RAY_NOISE * form.noise:
        off = max(form.rim, radial.disk.residual)
        doubt = f"the probe's rim lies {off:.2f} px rms off a circle, more than {UNEVEN:.0%} of its radius"
    centre, middle = np.array(radial.disk[:2]), np.array(shape) // 2
    at = centre - np.floor(centre) + middle
    if form.noise < CLEAN:
        smooth = np.maximum(np.roll(image, tuple((middle - np.floor(centre)).astype(int)), (0, 1)) / form.plateau, 0.0)
    else:
        smooth = form.image(np.arange(shape[0])[:, None] - at[0], np.arange(shape[1])[None, :] - at[1])
    raw = _summit(image, Template(given, offset, radial.disk.radius))
    origin = np.rint(raw - offset)  # the pixel of the probe that the kernel has at [0, 0]
    trench = given - np.roll(image, tuple(-origin.astype(int)), (0, 1)) / image.sum()
    moved = origin + middle - np.floor(centre)
    peak = np.roll(smooth, tuple(-moved.astype(int)), (0, 1)) / smooth.sum()
    by_map = _summit(smooth, Template(peak + trench, offset, radial.disk.radius))
    counts = PLATEAU * (smooth + GROUND)
    table, x, y = disk_profile(image), np.full((1, 1), at[0]), np.full((1, 1), at[1])
    with using("definition"):
        fit = poisson_fit(counts[None], x, y, np.ones(1, np.int64), table.table, table.pixels, parameters=parameters, iterations=STEPS)
    if not fit.ok[0, 0]:
        return Zero((0.0, 0.0), doubt or "the fit of the probe itself fails")
    by_fit = np.array([fit.x[0, 0], fit.y[0, 0]])
    apart = float(np.hypot(*(by_fit - by_map + moved + offset - at)))
    if doubt is None and apart > AGREED + form.noise / 2:
        doubt = f"the probe is uneven: likelihood and correlation place it {apart:.3f} px apart"
    shift = by_fit - by_map
    return Zero((float(shift[0]), float(shift[1])), doubt)


def _summit(image: np.ndarray, template: Template) -> np.ndarray:
    """Exact maximum of an image's n = 1 map, pixels."""
    cross = fft.irfft2(fft.rfft2(image) * template_spectrum(template), image.shape)[None]
    x, y = (np.full((1, 1), float(i)) for i in np.unravel_index(cross[0].argmax(), image.shape))
    x, y, _ = refine_positions(cross, x, y, "correlation", 2, climb=False)
    return np.array([x[0, 0], y[0, 0]])


def search(frames: Any, arguments: dict[str, Any], options: dict[str, Any], fit: dict[str, Any] | None = None) -> Disks:
    """`find_disks` with its host arrays moved beside the frames, then the likelihood fit; definitions in batches, which bound
    their memory."""
    given = [arrays.from_numpy(arguments[name], frames) for name in ("spectrum", "moments", "allowed")]
    mask = None if arguments["mask"] is None else arrays.from_numpy(arguments["mask"], frames)
    call = {**options, "mask": mask, "fill_width": arguments["fill_width"]}
    template = [arrays.from_numpy(a, frames) for a in (fit["profile"].table, fit["profile"].pixels)] if fit else None

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
