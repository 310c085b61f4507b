"""Fit disks that are close to each other, and find those that their neighbours hide."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.likelihood.hidden_disks import FITTED, MOST_HIDDEN, PLACED, Hidden, hidden_disks
from gpu4d.bragg.likelihood.joint_fit import ALONE, HIDDEN, NONE, OPEN, JointFit, joint_fit
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

ROUNDS = 5  # searches for hidden disks in one pattern; each subtracts what the one before has found
AT_FIRST = 1  # disks that are examined in every pattern, the brightest; all are where disks are close or hidden
SHADOW = 3.8  # radii: within it a brighter disk moves the maximum of the correlation of a weak one by more than its window reaches
LEAST_PLACE = 0.9  # of the least significance: a place whose z is lower is not fitted


class Separated(NamedTuple):
    """Disks of n patterns, (n, K) each. The other values of a place without a disk have no meaning.

    Attributes
    ----------
    disk : bool
        True where there is a disk. Disks that the fit removed leave an empty place. Hidden disks are at the end.
    x, y : float64, pixels
        Position. Where nothing was fitted it is the start.
    amplitude : float64, counts per pixel
        Height over the background.
    xx, yy : float64, px²
        Variances of the position.
    fitted, together : bool
        True where the disk was fitted at all, and where it was fitted with others.
    """

    disk: Any
    x: Any
    y: Any
    amplitude: Any
    xx: Any
    yy: Any
    fitted: Any
    together: Any


@operation(
    cuda=Twin("gpu4d.kernels.separate_disks", KERNEL_PIXELS, frame=KERNEL_FRAME),
)
def separate_disks(
    patterns: Any,
    count: Any,
    height: Any,
    x: Any,
    y: Any,
    amplitude: Any,
    xx: Any,
    yy: Any,
    ok: Any,
    table: Any,
    pixels: Any,
    allowed: Any,
    /,
    mask: Any = None,
    parameters: int = 6,
    radius: float = 1.0,
    spacing: float = 0.0,
    significance: float = 5.0,
) -> Separated:
    """Fit the disks together that `poisson_fit` left out because others are near, and look for hidden ones.

    All disks are fitted that are near others (`joint_fit`). Then, up to five times, disks that others hide are looked for
    (`hidden_disks`) and fitted with their neighbours. At first only the brightest disk is examined. If it hides one, or if disks were
    fitted together, all are.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real, counts
    count : (n,) int
        Number of disks of the correlation among the K places.
    height : (n, K) real
        Heights of the disks on any common scale. They are only compared.
    x, y, amplitude, xx, yy, ok : (n, K)
        Fits of single disks: fields of `PoissonFit`, with the same `spacing`.
    table, pixels
        From `disk_profile`.
    allowed : (Qx, Qy) bool
        True where a disk may lie.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. Other pixels are not used.
    parameters : {4, 6, 8}
        As in `joint_fit`.
    radius : float
        Radius of a disk, pixels.
    spacing : float
        Disks nearer than this are fitted together, pixels: twice the reach of the window.
    significance : float
        Least amplitude of a disk that has neighbours, in standard errors.

    Returns
    -------
    Separated
        Patterns with a NaN keep the fits of their single disks.

    Notes
    -----
    Without a CUDA kernel this is a sequence of both operations, which have twins for the CPU.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> from gpu4d.bragg.likelihood.poisson_fit import disk_profile, poisson_fit
    >>> at = [(24.2, 20.1), (24.6, 28.0)]
    >>> bright, weak = (gpu4d.probe.synthetic((48, 48), 4.0, center=c) for c in at)
    >>> counts, p = np.rint(2000 * bright + 100 * weak + 5)[None], disk_profile(gpu4d.probe.synthetic((48, 48), 4.0))
    >>> count, height, x, y = np.asarray([1]), np.asarray([[2.0, 0.0]]), np.asarray([[24.0, 0.0]]), np.asarray([[20.0, 0.0]])
    >>> alone = poisson_fit(counts, x, y, count, p.table, p.pixels, spacing=p.spacing)
    >>> fits = (alone.x, alone.y, alone.amplitude, alone.xx, alone.yy, alone.ok)
    >>> found = separate_disks(counts, count, height, *fits, p.table, p.pixels, bright > -1, radius=p.radius, spacing=p.spacing)
    >>> found.disk.tolist(), abs(float(found.x[0, 1]) - 24.6) < 0.05, abs(float(found.y[0, 1]) - 28.0) < 0.05
    ([[True, True]], True, True)
    """
    xp = arrays.namespace(patterns, height, x)
    every, heights = height.shape[1], height
    if isinstance(count, np.ndarray):  # places that stay empty take time
        some = min(every, int(count.max(initial=0)) + MOST_HIDDEN)
        height, x, y, amplitude, xx, yy, ok = (v[:, :some] for v in (height, x, y, amplitude, xx, yy, ok))
    most = height.shape[1]
    slot = xp.arange(most, dtype=count.dtype, device=arrays.device(count))[None, :]
    disk = slot < count[:, None]
    now = Separated(disk, x, y, amplitude, xx, yy, ok, disk & ~disk)
    none = now.together
    joint: dict[str, Any] = {"mask": mask, "parameters": parameters, "spacing": spacing, "significance": significance}
    search: dict[str, Any] = {"mask": mask, "radius": radius, "least": LEAST_PLACE * significance}
    role = _chosen(now.disk, _chosen(now.fitted, ALONE, OPEN), NONE)
    fit = joint_fit(patterns, now.x, now.y, height, role, table, pixels, shadow=SHADOW * radius, **joint)
    now = _updated(now, fit, none)
    around = _chosen(xp.any(now.together, axis=-1), most, AT_FIRST)
    for _ in range(ROUNDS):
        known = xp.isfinite(fit.amplitude) & ~now.fitted  # a hidden disk may be why the fit has not ended
        x, y, amplitude = (xp.where(known, there, here) for there, here in zip(fit, now[1:4]))
        state = _chosen(now.disk, _chosen(now.fitted | known, FITTED, PLACED), 0)
        places = hidden_disks(patterns, x, y, amplitude, state, around, table, pixels, allowed, **search)
        if isinstance(places.count, np.ndarray):  # a device is not asked, because that would wait for it
            if not places.count.any():
                break
            if (used := min(every, int((count + places.count).max()))) > most:  # else disks depended on the other patterns
                most, height, slot = used, heights[:, :used], np.arange(used, dtype=count.dtype)[None, :]
                now = Separated(*(_widened(v, most) for v in now))
        new, now, count = _with_places(now, count, places, slot)
        role = _chosen(now.disk, _chosen(new, HIDDEN, ALONE), NONE)
        fit = joint_fit(patterns, now.x, now.y, height, role, table, pixels, **joint)
        now = _updated(now, fit, new)
        around = _chosen(xp.any(new & now.disk, axis=-1), most, 0)
    return now if most == every else Separated(*(_widened(v, every) for v in now))


def _widened(a: np.ndarray, most: int) -> np.ndarray:
    """Return the array with empty places up to `most`."""
    wide = np.zeros((a.shape[0], most), a.dtype)
    wide[:, : a.shape[1]] = a
    return wide


def _chosen(condition: Any, yes: Any, no: Any) -> Any:
    """Return whole numbers: `yes` where the condition holds, else `no`."""
    xp = arrays.namespace(condition)
    one = xp.ones(condition.shape, dtype=xp.int32, device=arrays.device(condition))
    return xp.where(condition, yes * one, no * one)


def _updated(now: Separated, fit: JointFit, new: Any) -> Separated:
    """Take over a joint fit. Disks that it removed, and new ones that it did not locate, are no disks."""
    xp = arrays.namespace(now.x)
    x, y, amplitude, xx, yy = (xp.where(fit.ok, v, old) for v, old in zip((fit.x, fit.y, fit.amplitude, fit.xx, fit.yy), now[1:6]))
    disk = now.disk & ~fit.gone & (fit.ok | ~new)
    return Separated(disk, x, y, amplitude, xx, yy, (now.fitted | fit.ok) & disk, (now.together | fit.ok) & disk)


def _with_places(now: Separated, count: Any, places: Hidden, slot: Any) -> tuple[Any, Separated, Any]:
    """Put new places after the last disk of each pattern. Return where they are, all disks, and the number of places in use."""
    xp = arrays.namespace(now.x)
    new, x, y = now.disk & ~now.disk, now.x, now.y
    used = int(places.count.max()) if isinstance(places.count, np.ndarray) else MOST_HIDDEN
    for s in range(used):
        here = (slot == (count + s)[:, None]) & (s < places.count)[:, None]
        new, x, y = new | here, xp.where(here, places.x[:, s : s + 1], x), xp.where(here, places.y[:, s : s + 1], y)
    return new, now._replace(disk=now.disk | new, x=x, y=y), count + places.count
