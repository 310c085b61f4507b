"""Bragg disks of resident patterns: found by hybrid correlation, and refined by the Poisson likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.oracle import BY_LOT, SURE, Part, drawn, judged, precise, right_shape
from gpu4d.benchmarks.suite.workload import COMPUTE, Check, Place, Prepared, Size, Workload, WrongAnswer, implementations, pattern_sizes
from gpu4d.benchmarks.suite.workloads.disk_scene import GROUND, CorrelationTheory, DiskScene

import gpu4d
from gpu4d.bragg.likelihood.poisson_fit import DiskProfile, PoissonFit, disk_profile, poisson_fit
from gpu4d.device.choose import cpu_threads
from gpu4d.device.threads import in_threads

MOST_FAILED = 1e-3  # of the patterns: of a million fits of faint disks some ten do not converge in three steps
DEFINED = 4  # patterns that are compared with the definition, which takes 0.1 s for each
PIECE = 1 << 14  # patterns whose disks are compared with all true ones at a time: 60 MB

BIAS = 0.05  # px: a correlation finds disks up to 0.03 px beside their truth without noise, because neighbours reach into its trench
POSITION = 2e-3  # px: twins end within 2e-5 px of the maximum on the CPU, single precision within 1e-3 px
INTENSITY = 1e-4  # of the largest
ERROR = 1e-2  # of a standard error: twins read its Hessian at the nearest 1/64 px
ERROR_NOISE = 0.6  # of a standard error: it comes from the counts, and of the faintest disks it has noise of 7 %

START = 0.2  # px: starts of the likelihood lie in a square of this side about the truth, as those of a correlation do
PARAMETERS = 6  # position, height, background and its two slopes
STEPS = 3  # of the fit
FIT_FLOPS = 80.0  # of a pixel and a step: 27 products for the Fisher matrix and the slope, and the model
FIT_BIAS = 0.02  # px: a template read at 1/16 px, and slopes of a background that is level
FIT_POSITION = 0.02  # of a standard error: sums of a window in single precision
FIT_NOISE = 0.6  # of variances, whose model is the fitted one


def bragg_disks(place: Place, size: Size, seed: int) -> Prepared:
    """Find disks by hybrid correlation, refine their positions on the map of the same spectrum, and compute standard errors.

    Least bytes: every pattern is read once, five numbers are written for each disk. Least flops: one real transform of each pattern
    and two back, for the hybrid map and the map that positions are refined on, and their products.
    """
    n, side = size["patterns"], size["detector"]
    scene = DiskScene.make(side, seed)
    patterns, template = scene.patterns(place.xp, n, seed), gpu4d.probe.template(scene.probe)
    cube = gpu4d.DataCube(patterns.reshape(n // 64, 64, side, side))

    def call() -> Any:
        return gpu4d.find_bragg_disks(cube, template, refine="correlation", device=place.device, progress=False)

    def arrays(found: Any) -> dict[str, np.ndarray]:
        return {"offsets": place.host(found.offsets), **{name: place.host(found.flat(name)) for name in FIELDS}}

    def check(found: dict[str, np.ndarray]) -> Check:
        return _check_search(place, scene, template, patterns, found)

    return Prepared(
        call,
        arrays,
        check,
        n,
        data.digest(place.xp, patterns, place.xp.asarray(template.kernel)),
        bytes=float(patterns.nbytes + n * scene.disks * 5 * 8),
        flops=n * _transforms(side, 2),
        moved="read",
        implementation=implementations(patterns, "find_disks"),
        inputs=lambda: _inputs(place, scene, patterns),
    )


FIELDS = ("qx", "qy", "intensity", "sx", "sy")


def _inputs(place: Place, scene: DiskScene, patterns: Any) -> dict[str, np.ndarray]:
    """Return what other tools get, as `gpu4d.benchmarks.suite.peers` names it."""
    truth = scene.positions[scene.variants(len(patterns))]
    return {"patterns": place.host(patterns), "probe": scene.probe, "radius": np.asarray(scene.profile.radius), "positions": truth}


def _transforms(side: int, maps: int) -> float:
    """Return the flops of a real transform of a pattern and of inverses to some maps, products included."""
    pixels = side * side
    return (1 + maps) * 2.5 * pixels * np.log2(pixels) + maps * 12 * pixels / 2


def _check_search(place: Place, scene: DiskScene, template: Any, patterns: Any, found: dict[str, np.ndarray]) -> Check:
    """Compare all disks with the truth and its theory, and those of a few patterns with the definition."""
    n, most = len(patterns), scene.disks
    right_shape("offsets", found["offsets"], (n + 1,))
    wrong = np.flatnonzero(found["offsets"] != most * np.arange(n + 1))
    if len(wrong):
        raise WrongAnswer(f"there are {most} disks in every pattern; near pattern {max(wrong[0] - 1, 0)} another number was found")
    for name in FIELDS:
        right_shape(name, found[name], (n * most,))
    values = {name: found[name].reshape(n, most) for name in FIELDS}
    theory, variant = CorrelationTheory.of(scene, template), scene.variants(n)[:, None]
    which = _nearest(scene, values)
    truth = scene.positions[variant, which]
    sx, sy = theory.sx[variant, which], theory.sy[variant, which]
    off = np.stack([values["qx"], values["qy"]], -1) - truth
    some = drawn(n, DEFINED)
    parts = {
        "qx": Part(off[..., 0], SURE * sx + BIAS),
        "qy": Part(off[..., 1], SURE * sy + BIAS),
        "intensity": Part(values["intensity"] - theory.height[variant, which], SURE * theory.noise[variant, which]),
        "sx": Part(sx / values["sx"] - 1, ERROR_NOISE),
        "sy": Part(sy / values["sy"] - 1, ERROR_NOISE),
        **_defined_search(place.host(patterns[place.xp.asarray(some)]), template, {k: v[some] for k, v in values.items()}),
    }
    oracle = f"the truth and its counting noise for all disks, and the definition in float64 for {DEFINED} patterns {BY_LOT}"
    return precise(judged(parts, sum(v.size for v in found.values()), oracle), np.sqrt((off**2).mean()), scene.bound, "px")


def _nearest(scene: DiskScene, values: dict[str, np.ndarray]) -> np.ndarray:
    """Return the number of the true disk that is nearest to each found one, (n, K). Each true disk must have one."""
    n, most = values["qx"].shape
    which = np.empty((n, most), np.int64)
    for i in range(0, n, PIECE):
        truth = scene.positions[scene.variants(n)[i : i + PIECE], None]
        x, y = (values[name][i : i + PIECE, :, None] - truth[..., axis] for axis, name in enumerate(("qx", "qy")))
        which[i : i + PIECE] = (x * x + y * y).argmin(-1)
    twice = np.flatnonzero((np.sort(which, axis=1) != np.arange(most)).any(axis=1))
    if len(twice):
        raise WrongAnswer(f"pattern {twice[0]}: a disk was not found, and another one twice or where there is none")
    return which


def _defined_search(patterns: np.ndarray, template: Any, values: dict[str, np.ndarray]) -> dict[str, Part]:
    """Compare some patterns with the definition, which lists disks in the same order: from strong to weak."""
    with gpu4d.using("definition"):
        lists = gpu4d.find_bragg_disks(patterns, template, refine="correlation")
    if len(lists) != values["qx"].size:
        raise WrongAnswer(f"the definition finds {len(lists)} disks where {values['qx'].size} were found")
    want = {name: lists.flat(name).reshape(values[name].shape) for name in FIELDS}
    allowed = {"qx": POSITION, "qy": POSITION, "intensity": INTENSITY * want["intensity"].max()}
    allowed |= {name: ERROR * want[name] for name in ("sx", "sy")}
    return {f"{name} (definition)": Part(values[name] - want[name], allowed[name]) for name in FIELDS}


def refine_disks(place: Place, size: Size, seed: int) -> Prepared:
    """Fit position, height and sloping background of known disks by the Poisson likelihood, each in its window, without the search.

    This is the operation `poisson_fit`, in as many threads as the search takes. Starts lie up to 0.1 px from the truth in either axis.
    Least bytes: every pattern is read once, eight numbers are written for each disk. Least flops: three steps of Fisher scoring with six
    parameters, 80 flops for each pixel of the window.
    """
    xp = place.xp
    n, side = size["patterns"], size["detector"]
    scene = DiskScene.make(side, seed)
    patterns, profile = scene.patterns(xp, n, seed), disk_profile(scene.probe)
    start = scene.positions[scene.variants(n)] + START * (data.uniform(seed + 2, 2 * n * scene.disks).reshape(n, -1, 2) - 0.5)
    x, y = (xp.asarray(np.ascontiguousarray(start[..., axis])) for axis in (0, 1))
    count = xp.full(n, scene.disks, np.int64)
    table, pixels = xp.asarray(profile.table), xp.asarray(profile.pixels)
    pieces = 1 if place.on_gpu else min(cpu_threads(), n)
    ends = [n * i // pieces for i in range(pieces + 1)]

    def fit(i: int, j: int) -> PoissonFit:
        given = patterns[i:j], x[i:j], y[i:j], count[i:j], table, pixels
        return poisson_fit(*given, parameters=PARAMETERS, iterations=STEPS, spacing=profile.spacing)

    def call() -> list[PoissonFit]:
        return list(in_threads(fit, ends, ends[1:])) if pieces > 1 else [fit(0, n)]

    def arrays(found: list[PoissonFit]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([place.host(getattr(part, name)) for part in found]) for name in PoissonFit._fields}

    def check(found: dict[str, np.ndarray]) -> Check:
        for name, value in found.items():
            right_shape(name, value, (n, scene.disks))
        failed = np.flatnonzero(~found["ok"].all(1))
        if len(failed) > MOST_FAILED * n + 1:
            raise WrongAnswer(f"ok: fits failed in {len(failed)} of {n} patterns")
        some = np.union1d(drawn(n, DEFINED), failed)  # a fit may fail where the one of the definition does
        defined = _defined_fit(place.host(patterns[xp.asarray(some)]), start[some], profile, {k: value[some] for k, value in found.items()})
        return _check_fit(scene, profile, found, defined)

    return Prepared(
        call,
        arrays,
        check,
        n,
        data.digest(xp, patterns, x, y),
        bytes=float(patterns.nbytes + n * scene.disks * 8 * 8),
        flops=n * scene.disks * STEPS * FIT_FLOPS * len(profile.pixels),
        rate="gemm",
        moved="read",
        implementation=implementations(patterns, "poisson_fit"),
        inputs=lambda: _inputs(place, scene, patterns),
    )


def _check_fit(scene: DiskScene, profile: DiskProfile, found: dict[str, np.ndarray], defined: dict[str, Part]) -> Check:
    """Compare all fits with the truth and their Cramér–Rao covariance, and take in the comparison of a few with the definition."""
    v, good = scene.variants(len(found["ok"])), found["ok"]
    covariance = np.linalg.inv(scene.information(PARAMETERS, profile.reach))
    xx, xy, yy = (covariance[..., i, j][v] for i, j in ((0, 0), (0, 1), (1, 1)))
    sa, sb = (np.sqrt(covariance[..., i, i])[v] for i in (2, 3))
    heights, off = scene.heights[v], np.stack([found["x"], found["y"]], -1) - scene.positions[v]
    parts = {
        "x": Part(off[..., 0], SURE * np.sqrt(xx) + FIT_BIAS),
        "y": Part(off[..., 1], SURE * np.sqrt(yy) + FIT_BIAS),
        "amplitude": Part(found["amplitude"] - heights, SURE * sa + FIT_BIAS * heights),
        "background": Part(found["background"] - GROUND, SURE * sb + FIT_BIAS * heights),
        "xx": Part(xx / found["xx"] - 1, FIT_NOISE),
        "yy": Part(yy / found["yy"] - 1, FIT_NOISE),
        "xy": Part(found["xy"] - xy, FIT_NOISE * np.sqrt(xx * yy)),
    }
    parts = {
        name: Part(*(np.broadcast_to(value, good.shape)[good] for value in (part.difference, part.allowed))) for name, part in parts.items()
    } | defined
    oracle = f"the truth and its Cramér–Rao covariance for all disks, and the definition in float64 for {DEFINED} patterns {BY_LOT}"
    return precise(judged(parts, sum(a.size for a in found.values()), oracle), np.sqrt((off[good] ** 2).mean()), scene.bound, "px")


def _defined_fit(patterns: np.ndarray, start: np.ndarray, profile: DiskProfile, found: dict[str, np.ndarray]) -> dict[str, Part]:
    """Compare some patterns with the definition."""
    x, y = np.ascontiguousarray(start[..., 0]), np.ascontiguousarray(start[..., 1])
    count = np.full(len(x), x.shape[1], np.int64)
    with gpu4d.using("definition"):
        want = poisson_fit(
            patterns, x, y, count, profile.table, profile.pixels, parameters=PARAMETERS, iterations=STEPS, spacing=profile.spacing
        )
    if not np.array_equal(found["ok"], want.ok):
        raise WrongAnswer("ok: fits fail in other places than those of the definition")
    sigma = np.sqrt(want.xx)
    allowed = {"x": FIT_POSITION * sigma, "y": FIT_POSITION * np.sqrt(want.yy)}
    allowed |= {name: 1e-3 * np.nanmax(want.amplitude) for name in ("amplitude", "background")}
    allowed |= {name: ERROR * np.sqrt(want.xx * want.yy) for name in ("xx", "xy", "yy")}
    good = want.ok
    limits = {name: np.broadcast_to(limit, good.shape)[good] for name, limit in allowed.items()}
    return {f"{name} (definition)": Part((found[name] - getattr(want, name))[good], limit) for name, limit in limits.items()}


WORKLOADS = [
    Workload(
        "bragg-disks",
        "hybrid correlation and peaks",
        COMPUTE,
        "patterns",
        pattern_sizes(quick=64, S=384, M=32768, L=262144),
        bragg_disks,
        "The 21 disks of every pattern by hybrid correlation, with positions to a fraction of a pixel and their standard errors: "
        "the longest step on the way to a strain map.",
    ),
    Workload(
        "refine-disks",
        "positions of disks by the Poisson likelihood",
        COMPUTE,
        "patterns",
        pattern_sizes(quick=64, S=1024, M=32768, L=262144),
        refine_disks,
        "Position, height and sloping background of 21 disks of every pattern by maximum likelihood, each in its own window. "
        "Only the fit is timed, from starts as the correlation gives them.",
    ),
]
