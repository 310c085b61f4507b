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
LEAST_PATTERNS, LEAST_DISKS = 16, 30  # fewer do not decide anything
SAMPLE = SampleSize(most=64, most_bytes=32 << 20, part=4, least=LEAST_PATTERNS)  # a second of work, or less
SHARE = 8  # patterns that a thread works on at a time
ONCE, EACH = 128, 40  # bytes per pixel of a pattern: templates and zero points, held once; work arrays of each thread

# The comparison of two numbers of parameters
SHARP = 0.1  # px: largest standard error of a disk that is used; above it the fit is not linear in the counts
KEPT = 0.98  # part of the differences that is used: the largest 2 % are left out
KEPT_SQUARE = 0.8556  # mean square of a Gaussian without its largest 2 %, in units of the whole one
WORTH = 0.01  # part of the variance that 4 parameters must save
FLAT = 1.25  # ratio T of `choose_parameters` below which 4 replace 6; near 1, because a bias does not average out
SLOPED = 2.0  # ratio T above which 8 replace 6
SURE = 2.0  # standard errors by which T must lie beyond its limit
ENOUGH = 1000  # disks: with more than twice as many only every second pattern is used, with three times every third, …
CONFIRMED = 0.25  # part of the expected drop of the lattice's squared residual that 8 parameters must reach
RESIDUAL_NOISE = 0.05  # relative noise of that residual: a smaller expected change could not be seen
LOOKED_AT = 100  # disks whose counts are compared with the model, for their scatter
WEIGHINGS = 3  # rounds of that comparison's fit; each weighs the pixels by the model of the round before


class Choice(NamedTuple):
    """Parameters of the fit, and why."""

    parameters: int
    reason: str


def choose_for_scan(cube: DataCube, search: DiskSearch, where: ArrayLike | None = None, memory: int | float | str | None = None) -> Choice:
    """`choose_parameters` from a sample of a scan that `memory` must hold.

    The sample depends on the scan alone, and so does the choice, with one exception: where a cap is given that not even one thread
    could keep, 6 are taken and nothing is read.
    """
    sample = sample_places(cube, where, SAMPLE)
    patterns, pixels = int(np.prod(sample.shape)), int(np.prod(cube.detector_shape))
    cap = float("inf") if memory is None else parse_memory(memory)

    def held(threads: int) -> int:
        reading = min(threads, len(sample.places)) * scratch_bytes(cube.source)
        looking = (ONCE + min(threads, ceil(patterns / SHARE)) * EACH) * pixels
        return patterns * pixels * itemsize(cube.dtype) + max(reading, looking)

    if held(1) > cap:
        return Choice(USUAL_PARAMETERS, f"looking at the scan takes {format_bytes(held(1))}, memory= allows {format_bytes(cap)}")
    share: Callable[..., Any] = in_threads if held(cpu_threads()) <= cap else map
    return choose_parameters(read_sample(cube, sample, share), search, share)


def choose_parameters(patterns: np.ndarray, search: DiskSearch, share: Callable[..., Any] = in_threads) -> Choice:
    """4, 6 or 8: the number with the least mean squared error of the positions.

    More parameters cost variance and take away bias. For the same counts, the fits with p and with q > p parameters differ by

        E (x_q − x_p)² = var_q − var_p + bias_p²

    where the larger model holds (Hausman, Econometrica 46, 1251, 1978), so T = Σ w (x_q − x_p)² / Σ w (var_q − var_p) is
    1 + bias_p² / (var_q − var_p), and above 2 the larger model has the smaller squared error. 8 are taken where T of 6 and 8 is
    surely above 2; 4 where T of 4 and 6 is surely below 1.25; else 6. Weights are 1 / var_6, the largest 2 % of the differences are left
    out, and only disks with standard errors below 0.1 px have a say.

    What is inside the disks may be no slope, and then 8 parameters are misled just as 6 are. Where the patterns have a lattice, 8 must
    therefore take at least a quarter of (T − 2) Σ w (var_8 − var_6) off its squared residual. Where they have none, or one that
    the disks miss by so much that this could not be seen, var_8 − var_6 is taken times what the counts scatter about the model, in
    units of Poisson noise: values that are no electrons are no slopes. A shift that goes linearly with the order looks like strain,
    and no lattice tells it: such a scan keeps 6.

    Parameters
    ----------
    patterns : (rows, columns, Qx, Qy) array of the host
    search : DiskSearch
        With a fit of 6 parameters.
    share : callable
        `in_threads`, or `map` for one of them.

    Returns
    -------
    Choice
        6 for fewer than 16 patterns or 30 disks that tell.
    """
    n = patterns.shape[0] * patterns.shape[1]
    if n < LEAST_PATTERNS:
        return Choice(USUAL_PARAMETERS, f"{n or 'no'} pattern{'' if n == 1 else 's'}: too few to tell")
    with using("cpu"):  # whatever the scan is reduced on: the choice must not depend on it
        e = Evidence(patterns, search, share)
    disks, seen = int(e.sharp.sum()), f"{int(e.sharp.sum())} disks of {len(e.patterns)} patterns"
    if disks < LEAST_DISKS:
        return Choice(USUAL_PARAMETERS, f"{seen} are located to {SHARP} px: too few to tell")
    unsure = SURE / disks**0.5
    t = e.ratio(6, 8)
    if t.excess * (1 - unsure) > SLOPED:  # worth the time of its own zero point
        doubt, t = e.give_zero_point(8), e.ratio(6, 8)
        if t.excess * (1 - unsure) > SLOPED:
            return Choice(USUAL_PARAMETERS, f"with 8, {doubt}") if doubt else _with_slopes(e, t, unsure, seen)
    ground = e.ratio(4, 6)
    if ground.excess * (1 + unsure) < FLAT and ground.extra > WORTH:
        doubt, ground = e.give_zero_point(4), e.ratio(4, 6)
        if not doubt and ground.excess * (1 + unsure) < FLAT:
            return Choice(4, f"{seen} see no slope of the background, whose fit would cost {ground.extra:.1%} of the variance")
    return Choice(USUAL_PARAMETERS, f"{seen} differ by {t.excess:.1f} times what noise explains from where 8 see them: no slopes inside")


def _with_slopes(e: Evidence, t: Ratio, unsure: float, seen: str) -> Choice:
    """8 if the lattice confirms them, or if there is none that could and the noise is that of counts."""
    differ = f"{seen} differ by {t.excess:.1f} times what noise explains from where 8 see them"
    gain = (t.excess - SLOPED) * t.extra
    residual = e.lattice_residuals()
    if residual is not None and RESIDUAL_NOISE * residual[6] < gain:
        says = f"the lattice's squared residual is {residual[8]:.2f} with 8, {residual[6]:.2f} with 6"
        confirmed = residual[6] - residual[8] > CONFIRMED * gain
        return Choice(8, f"{differ}; {says}") if confirmed else Choice(USUAL_PARAMETERS, f"{differ}, but {says}: no slopes")
    noise = max(e.dispersion(), 1.0)
    if t.excess / noise * (1 - unsure) > SLOPED:
        return Choice(8, f"{differ}: slopes inside")
    return Choice(USUAL_PARAMETERS, f"{differ}, but values scatter {noise:.1f} times as counts do: no slopes")


class Ratio(NamedTuple):
    """Two numbers of parameters compared.

    Attributes
    ----------
    excess : float
        T of `choose_parameters`; NaN where the larger number has no larger variance: it says nothing then.
    extra : float
        What the larger costs, in variances of 6.
    """

    excess: float
    extra: float


class Evidence:
    """Disks of a sample, each fitted with 4, 6 and 8 parameters.

    Attributes
    ----------
    patterns : (n, Qx, Qy)
        Of the sample, or every second, third, … of them where it has thousands of disks.
    fitted, sharp : (n, K) bool
        Disks that all three fits hold; those of them that have a say.
    position, variance : dict of (2, n, K) float64
        By the number of parameters: px, px².
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
        return np.reshape(fit.shift, (2, 1, 1))

    def _shared(self, kind: Any, work: Callable[[slice], Any]) -> Any:
        """The work on a few patterns at a time, the same ones with any number of threads, and joined."""
        shares = [slice(i, i + SHARE) for i in range(0, len(self.patterns), SHARE)]
        return kind(*(np.concatenate(columns) for columns in zip(*self.share(work, shares))))

    def _fit(self, parameters: int) -> PoissonFit:
        model, disks = replace(self.usual, parameters=parameters), self.disks

        def fit(some: slice) -> PoissonFit:
            return model.locate(self.patterns[some], disks.qx[some], disks.qy[some], disks.count[some], self.mask)

        return self._shared(PoissonFit, fit)

    def give_zero_point(self, parameters: int) -> str | None:
        """Move the positions to the zero point of this number of parameters; why that one is in doubt where that of 6 is not."""
        own = Fit.prepare(self.template, parameters)
        fit = self.fits[parameters]
        self.position[parameters] = np.stack([fit.x, fit.y]) - self._shift(own)
        return own.doubt if self.usual.doubt is None else None

    def ratio(self, fewer: int, more: int) -> Ratio:
        weight = 1 / self.variance[USUAL_PARAMETERS][:, self.sharp]
        square = weight * (self.position[more] - self.position[fewer])[:, self.sharp] ** 2
        extra = float(np.mean(weight * (self.variance[more] - self.variance[fewer])[:, self.sharp]))
        kept = np.sort(square, axis=None)[: int(KEPT * square.size)]
        excess = float(np.sum(kept)) / square.size / KEPT_SQUARE
        return Ratio(excess / extra if extra > 0 else float("nan"), extra)

    def lattice_residuals(self) -> dict[int, float] | None:
        """Squared residuals of the patterns' lattices with 6 and 8 parameters, in variances of 6; None where they have no lattice."""
        from gpu4d.calibrate import origin as measure_origin
        from gpu4d.crystal.find_lattice import find_lattice
        from gpu4d.crystal.fit_lattice import fit_lattice

        use = self.fitted
        offsets = np.concatenate([[0], np.cumsum(use.sum(axis=1))])
        fields = {"intensity": self.disks.intensity[use].astype(np.float64)}
        fields |= {name: np.sqrt(v[use]) for name, v in zip(("sx", "sy"), self.variance[USUAL_PARAMETERS])}
        at = {p: dict(zip(("qx", "qy"), self.position[p][:, use])) for p in (6, 8)}
        lists = {p: PointListArray(offsets, {**at[p], **fields}, self.shape) for p in at}
        try:
            origin = measure_origin(lists[6])
        except InputError:  # no beam that is brighter than the other disks
            return None
        lattice = find_lattice(lists[6], origin)
        if lattice is None:
            return None
        scale = {p: fit_lattice(d, lattice, origin=origin, weights="errors", outliers=None).error_scale for p, d in lists.items()}
        return {p: v**2 for p, v in scale.items()} if np.isfinite(list(scale.values())).all() else None

    def dispersion(self) -> float:
        """Mean of (counts − λ)² / λ over the windows of some disks, λ fitted where 8 parameters see them: 1 for Poisson noise."""
        which = np.argwhere(self.sharp)
        which = end_to_end(which, LOOKED_AT)
        fit, profile = self.fits[8], self.usual.profile
        x, y, a, b = (v[tuple(which.T)] for v in (fit.x, fit.y, fit.amplitude, fit.background))
        dx, dy = profile.pixels[:, 0], profile.pixels[:, 1]
        half = int(-dx[0])
        cx, cy = (np.clip(np.rint(w), half, n - 1 - half) for w, n in zip((x, y), self.patterns.shape[1:]))
        i, j = (c.astype(np.int64)[:, None] + d for c, d in ((cx, dx), (cy, dy)))
        counts = self.patterns[which[:, :1], i, j].astype(np.float64)  # no more of the patterns than that
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
