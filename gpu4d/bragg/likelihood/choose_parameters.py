"""Choose the number of fit parameters (4, 6 or 8) that gives the smallest position error for this scan.

This is not always the number that fits the counts best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.bragg.disk_search import DiskSearch
from gpu4d.bragg.find_disks import Disks
from gpu4d.bragg.likelihood.fit import USUAL_PARAMETERS, Fit
from gpu4d.bragg.likelihood.poisson_fit import LEAST, PoissonFit, template_at
from gpu4d.data import DataCube, PointListArray
from gpu4d.data.datacube import itemsize
from gpu4d.data.sample import SampleSize, end_to_end, read_sample, sample_places
from gpu4d.data.source import scratch_bytes
from gpu4d.device.choose import cpu_threads
from gpu4d.device.memory import parse_memory
from gpu4d.device.threads import in_threads
from gpu4d.errors import InputError
from gpu4d.operation import using
from gpu4d.sizes import format_bytes

# The sample
LEAST_PATTERNS, LEAST_DISKS = 16, 30  # with fewer, 6 parameters are used
SAMPLE = SampleSize(most=64, most_bytes=32 << 20, part=4, least=LEAST_PATTERNS)  # a second of work, or less
SHARE = 8  # patterns that a thread works on at a time
ONCE, EACH = 128, 40  # bytes per pixel of a pattern: templates and zero points (once), and work arrays (each thread)

# The comparison of two numbers of parameters
SHARP = 0.1  # px: largest standard error of a disk that is used; above it the fit is not linear in the counts
KEPT = 0.98  # part of the differences that is used; the largest 2 % are left out
KEPT_SQUARE = 0.8556  # mean square of a Gaussian without its largest 2 %, in units of the whole one
WORTH = 0.01  # part of the variance that 4 parameters must save to be chosen
FLAT = 1.25  # ratio T of `choose_parameters` below which 4 replace 6; near 1, because a bias does not average out
SLOPED = 2.0  # ratio T above which 8 replace 6
SURE = 2.0  # standard errors by which T must lie beyond its limit
ENOUGH = 1000  # disks: with twice as many only every second pattern is used, with three times as many every third, …
CONFIRMED = 0.25  # part of the expected drop of the lattice's squared residual that 8 parameters must reach
RESIDUAL_NOISE = 0.05  # relative noise of that residual: a smaller expected change could not be seen
LOOKED_AT = 100  # disks whose counts are compared with the model, to measure their scatter
WEIGHINGS = 3  # rounds of the fit in this comparison; each round weights the pixels by the model of the previous round


class Choice(NamedTuple):
    """Number of parameters of the fit, and the reason for it."""

    parameters: int
    reason: str


def choose_for_scan(cube: DataCube, search: DiskSearch, where: ArrayLike | None = None, memory: int | float | str | None = None) -> Choice:
    """Read a sample of a scan within `memory`, and call `choose_parameters` with it.

    The sample depends on the scan alone, and so does the choice. There is one exception. If `memory` is too small for even one thread,
    nothing is read and 6 parameters are used.
    """
    sample = sample_places(cube, where, SAMPLE)
    patterns, pixels = int(np.prod(sample.shape)), int(np.prod(cube.detector_shape))
    cap = float("inf") if memory is None else parse_memory(memory)

    def held(threads: int) -> int:
        """Return the bytes that this call allocates with so many threads."""
        reading = min(threads, len(sample.places)) * scratch_bytes(cube.source)
        looking = (ONCE + min(threads, ceil(patterns / SHARE)) * EACH) * pixels
        return patterns * pixels * itemsize(cube.dtype) + max(reading, looking)

    if held(1) > cap:
        return Choice(USUAL_PARAMETERS, f"looking at the scan takes {format_bytes(held(1))}, memory= allows {format_bytes(cap)}")
    share: Callable[..., Any] = in_threads if held(cpu_threads()) <= cap else map
    return choose_parameters(read_sample(cube, sample, share), search, share)


def choose_parameters(patterns: np.ndarray, search: DiskSearch, share: Callable[..., Any] = in_threads) -> Choice:
    """Choose the number of parameters (4, 6 or 8) with the least mean squared error of the positions.

    More parameters increase the variance and reduce the bias. If the larger model holds, the fits of the same counts with p and with
    q > p parameters differ by

        E (x_q − x_p)² = var_q − var_p + bias_p²

    (Hausman, Econometrica 46, 1251, 1978). So T = Σ w (x_q − x_p)² / Σ w (var_q − var_p) is 1 + bias_p² / (var_q − var_p). Above 2 the
    larger model has the smaller squared error. The choice is

    * 8, if T of 6 and 8 is above 2 by more than its uncertainty and the check below confirms it;
    * 4, if T of 4 and 6 is below 1.25 by more than its uncertainty;
    * else 6.

    The weights w are 1 / var_6. The largest 2 % of the differences are left out. Only disks with standard errors below 0.1 px are used
    for the choice.

    The check of 8 is needed because structure inside the disks may be no slope. Then 8 parameters give a wrong position, as 6 do. If
    the patterns have a lattice, 8 must reduce its squared residual by at least a quarter of (T − 2) Σ w (var_8 − var_6). This cannot
    be seen if there is no lattice, or if the disks are far from it. Then var_8 − var_6 is multiplied by the scatter of the counts
    around the model, in units of Poisson noise. The reason is that values that are no electrons scatter more without any slope. A
    shift that is linear in the index looks like strain, and a lattice cannot detect it. Such a scan keeps 6.

    Parameters
    ----------
    patterns : (rows, columns, Qx, Qy) array
        On the host.
    search : DiskSearch
        Its fit must have 6 parameters.
    share : callable
        `in_threads`, or `map` to use one thread.

    Returns
    -------
    Choice
        6 for fewer than 16 patterns, or fewer than 30 disks that can be used.
    """
    n = patterns.shape[0] * patterns.shape[1]
    if n < LEAST_PATTERNS:
        return Choice(USUAL_PARAMETERS, f"{n or 'no'} pattern{'' if n == 1 else 's'}: too few to tell")
    with using("cpu"):  # on any device: the choice must not depend on the device of the sweep
        e = SampleFits(patterns, search, share)
    disks, seen = int(e.sharp.sum()), f"{int(e.sharp.sum())} disks of {len(e.patterns)} patterns"
    if disks < LEAST_DISKS:
        return Choice(USUAL_PARAMETERS, f"{seen} are located to {SHARP} px: too few to tell")
    unsure = SURE / disks**0.5
    t = e.ratio(6, 8)
    if t.excess * (1 - unsure) > SLOPED:  # only then is the time to measure its zero point worth it
        doubt, t = e.subtract_zero_point(8), e.ratio(6, 8)
        if t.excess * (1 - unsure) > SLOPED:
            return Choice(USUAL_PARAMETERS, f"with 8, {doubt}") if doubt else _with_slopes(e, t, unsure, seen)
    ground = e.ratio(4, 6)
    if ground.excess * (1 + unsure) < FLAT and ground.extra > WORTH:
        doubt, ground = e.subtract_zero_point(4), e.ratio(4, 6)
        if not doubt and ground.excess * (1 + unsure) < FLAT:
            return Choice(4, f"{seen} show no slope of the background; fitting one would cost {ground.extra:.1%} of the variance")
    return Choice(USUAL_PARAMETERS, f"{_difference(seen, t)}: no slopes are fitted")


def _with_slopes(e: SampleFits, t: Ratio, unsure: float, seen: str) -> Choice:
    """Choose 8 if the lattice confirms it. Without a usable lattice, choose 8 if the scatter of the counts does not explain T."""
    differ = _difference(seen, t)
    gain = (t.excess - SLOPED) * t.extra
    residual = e.lattice_residuals()
    if residual is not None and RESIDUAL_NOISE * residual[6] < gain:
        says = f"the squared residual of the lattice is {residual[8]:.2f} with 8 and {residual[6]:.2f} with 6"
        confirmed = residual[6] - residual[8] > CONFIRMED * gain
        return Choice(8, f"{differ}; {says}") if confirmed else Choice(USUAL_PARAMETERS, f"{differ}, but {says}: no slopes are fitted")
    noise = max(e.dispersion(), 1.0)
    if t.excess / noise * (1 - unsure) > SLOPED:
        return Choice(8, f"{differ}: slopes inside disks are fitted")
    return Choice(USUAL_PARAMETERS, f"{differ}, but values scatter {noise:.1f} times as much as counts: no slopes are fitted")


def _difference(seen: str, t: Ratio) -> str:
    """Describe T of 6 and 8 parameters for the reason of a choice."""
    return f"the squared difference of positions with 6 and 8 parameters is {t.excess:.1f} times what noise explains ({seen})"


class Ratio(NamedTuple):
    """Two numbers of parameters compared.

    Attributes
    ----------
    excess : float
        T of `choose_parameters`. NaN if the larger number of parameters has no larger variance, because T then has no meaning.
    extra : float
        Additional variance of the larger number, in units of the variance with 6.
    """

    excess: float
    extra: float


class SampleFits:
    """Disks of a sample, each fitted with 4, 6 and 8 parameters.

    Attributes
    ----------
    patterns : (n, Qx, Qy)
        Patterns of the sample. If it has thousands of disks, every second, third, … of them.
    fitted, sharp : (n, K) bool
        Disks for which all three fits succeed, and those of them that are used for the choice.
    position, variance : dict of (2, n, K) float64
        For each number of parameters: px, px².
    """

    def __init__(self, patterns: np.ndarray, search: DiskSearch, share: Callable[..., Any] = in_threads):
        if search.fit is None or search.fit.parameters != USUAL_PARAMETERS:
            raise InputError(f"need a search that fits {USUAL_PARAMETERS} parameters")
        self.template, self.mask, self.shape = search.template, search.correlation.mask, patterns.shape[:2]
        self.patterns = patterns.reshape(-1, *patterns.shape[2:])
        self.usual = search.fit
        self.share = share
        correlate = search.without_fit()
        self.disks = self._shared(Disks, lambda some: correlate(self.patterns[some]))
        step = max(1, int(self.disks.count.sum()) // ENOUGH)
        if step > 1:
            self.patterns, self.disks = self.patterns[::step], Disks(*(v[::step] for v in self.disks))
            self.shape = (1, len(self.patterns))
        self.fits = {p: self._fit(p) for p in (4, 6, 8)}
        self.position = {p: np.stack([f.x, f.y]) - self._shift(self.usual) for p, f in self.fits.items()}
        self.variance = {p: np.stack([f.xx, f.yy]) for p, f in self.fits.items()}
        self.fitted = np.all([f.ok for f in self.fits.values()], axis=0)
        self.sharp = self.fitted & np.all(np.where(self.fitted, self.variance[USUAL_PARAMETERS], np.inf) < SHARP**2, axis=0)

    @staticmethod
    def _shift(fit: Fit) -> np.ndarray:
        """Return the zero point of a fit, (2, 1, 1), pixels."""
        return np.reshape(fit.shift, (2, 1, 1))

    def _shared(self, kind: Any, work: Callable[[slice], Any]) -> Any:
        """Call `work` for a few patterns at a time, and join the results. The parts are the same with any number of threads."""
        shares = [slice(i, i + SHARE) for i in range(0, len(self.patterns), SHARE)]
        return kind(*(np.concatenate(columns) for columns in zip(*self.share(work, shares))))

    def _fit(self, parameters: int) -> PoissonFit:
        """Fit all disks with this number of parameters."""
        model, disks = replace(self.usual, parameters=parameters), self.disks

        def fit(some: slice) -> PoissonFit:
            """Fit the disks of some patterns."""
            return model.locate(self.patterns[some], disks.qx[some], disks.qy[some], disks.count[some], self.mask)

        return self._shared(PoissonFit, fit)

    def subtract_zero_point(self, parameters: int) -> str | None:
        """Subtract the zero point of this number of parameters. Return why it is in doubt, or None. None also if that of 6 is in doubt."""
        own = Fit.prepare(self.template, parameters)
        fit = self.fits[parameters]
        self.position[parameters] = np.stack([fit.x, fit.y]) - self._shift(own)
        return own.doubt if self.usual.doubt is None else None

    def ratio(self, fewer: int, more: int) -> Ratio:
        """Compare the fits with two numbers of parameters."""
        weight = 1 / self.variance[USUAL_PARAMETERS][:, self.sharp]
        square = weight * (self.position[more] - self.position[fewer])[:, self.sharp] ** 2
        extra = float(np.mean(weight * (self.variance[more] - self.variance[fewer])[:, self.sharp]))
        kept = np.sort(square, axis=None)[: int(KEPT * square.size)]
        excess = float(np.sum(kept)) / square.size / KEPT_SQUARE
        return Ratio(excess / extra if extra > 0 else float("nan"), extra)

    def lattice_residuals(self) -> dict[int, float] | None:
        """Return the squared residuals of the lattices with 6 and 8 parameters, in units of the variance of 6. None without a lattice."""
        from gpu4d.beam.brightest_disk import brightest_disk
        from gpu4d.crystal.find_lattice import find_lattice
        from gpu4d.crystal.fit_lattice import fit_lattice

        use = self.fitted
        offsets = np.concatenate([[0], np.cumsum(use.sum(axis=1))])
        fields = {"intensity": self.disks.intensity[use].astype(np.float64)}
        fields |= {name: np.sqrt(v[use]) for name, v in zip(("sx", "sy"), self.variance[USUAL_PARAMETERS])}
        at = {p: dict(zip(("qx", "qy"), self.position[p][:, use])) for p in (6, 8)}
        lists = {p: PointListArray(offsets, {**at[p], **fields}, self.shape) for p in at}
        try:
            origin = brightest_disk(lists[6])
        except InputError:  # no unscattered beam that is brighter than the other disks
            return None
        lattice = find_lattice(lists[6], origin)
        if lattice is None:
            return None
        scale = {p: fit_lattice(d, lattice, origin=origin, weights="errors", outliers=None).error_scale for p, d in lists.items()}
        return {p: v**2 for p, v in scale.items()} if np.isfinite(list(scale.values())).all() else None

    def dispersion(self) -> float:
        """Return the mean of (counts − λ)² / λ over the windows of some disks: 1 for Poisson noise. λ is fitted with 8 parameters."""
        which = np.argwhere(self.sharp)
        which = end_to_end(which, LOOKED_AT)
        fit, profile = self.fits[8], self.usual.profile
        x, y, a, b = (v[tuple(which.T)] for v in (fit.x, fit.y, fit.amplitude, fit.background))
        dx, dy = profile.pixels[:, 0], profile.pixels[:, 1]
        half = int(-dx[0])
        cx, cy = (np.clip(np.rint(w), half, n - 1 - half) for w, n in zip((x, y), self.patterns.shape[1:]))
        i, j = (c.astype(np.int64)[:, None] + d for c, d in ((cx, dx), (cy, dy)))
        counts = self.patterns[which[:, :1], i, j].astype(np.float64)  # only these pixels are converted, not whole patterns
        weight = np.ones_like(counts) if self.mask is None else self.mask[i, j].astype(np.float64)
        counts = np.where(weight > 0, counts, 0.0)
        disk = template_at(profile.table, x - cx, y - cy)[0]
        u, v = (np.broadcast_to(d / half, disk.shape) for d in (dx, dy))
        rows = np.stack([disk, np.ones_like(disk), u, v, u * disk, v * disk], 1)
        model = np.maximum(a[:, None] * disk + b[:, None], LEAST)
        for _ in range(WEIGHINGS):
            weighted = rows * (weight / model)[:, None, :]
            state = np.linalg.solve(weighted @ rows.swapaxes(1, 2), weighted @ counts[:, :, None])
            model = np.maximum((rows.swapaxes(1, 2) @ state)[..., 0], LEAST)
        return float(np.sum(weight * (counts - model) ** 2 / model) / max(np.sum(weight) - 8 * len(which), 1.0))
