"""End to end: from a file to strain maps, by functions that users call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import END_TO_END, Check, Place, Prepared, Size, Workload, WrongAnswer, implementations
from gpu4d.benchmarks.suite.workloads.disk import PATH
from gpu4d.benchmarks.suite.workloads.strained_scan import ORDERS, ORIGIN, RADIUS, SIDE, StrainedScan, strain_components

import gpu4d

FIELDS = ("qx", "qy", "intensity")  # of the disks, that are checked
STRAIN = ("exx", "eyy", "exy", "theta")
DRAWN = 3  # patterns, drawn in the run, whose disks are searched again by the definition in float64
PIXEL_TOLERANCE = 1e-3  # px and parts of the brightest disk: single precision moves a maximum by 5e-5
STRAIN_TOLERANCE = 1e-8  # of strain: the fit is in float64, and its numbers of up to 128 px have 1e-14
SAFE = 7.0  # standard errors: one of 10¹¹ values lies farther out by chance
WIDER = 1.5  # standard errors of disks found by correlation over the least that counts permit, at most
BIAS = 0.03, 3e-4  # px and strain: a disk of pixels is compared with one between them


def file_to_strain(place: Place, size: Size, seed: int) -> Prepared:
    """Open a file in the page cache, find disks, origin and lattice, fit every lattice, and make strain maps.

    Every pattern is read once. Two maps of a correlation take three transforms of 2.5 N log2 N; what follows is small beside them.
    """
    scan, shape = StrainedScan.make(seed), (size["rows"], size["columns"])
    patterns = scan.patterns(place, shape, seed)
    path = place.folder / f"file-to-strain-{shape[0]}x{shape[1]}-{seed}.h5"
    digest = data.digest(place.xp, patterns)
    write(place, path, patterns)
    kinds = implementations(patterns[0, :1], "find_disks", "peak_errors")
    del patterns
    if place.on_gpu:
        place.xp.get_default_memory_pool().free_all_blocks()
    template = gpu4d.probe.template(data.disk((SIDE, SIDE), RADIUS, (SIDE / 2, SIDE / 2), 2.0))
    region, positions = scan.region(shape), shape[0] * shape[1]
    first_row = np.zeros(shape, bool)
    first_row[0] = True

    def search(given: Any, **options: Any) -> Any:
        return gpu4d.find_bragg_disks(given, template, refine="correlation", **options)

    def call() -> Any:
        disks = search(gpu4d.open(path), device=place.device, progress=False)
        origin = gpu4d.calibrate.origin(disks)
        lattice = gpu4d.find_lattice(disks, origin, where=first_row)
        local = gpu4d.fit_lattice(disks, lattice, origin=origin, outliers=None)
        return disks, gpu4d.strain_map(local, region=region)

    def arrays(found: Any) -> dict[str, np.ndarray]:
        disks, strain = found
        lists = {name: place.host(disks.flat(name)) for name in FIELDS}
        return {"offsets": place.host(disks.offsets), **lists, **{name: place.host(getattr(strain, name).data) for name in STRAIN}}

    def check(found: dict[str, np.ndarray]) -> Check:
        lists = Lists.of(found, scan, scan.states(shape).reshape(-1))
        expect_true_disks(lists, scan)
        worst = [unlike_definition(path, lists, scan, search) / PIXEL_TOLERANCE]
        maps = np.stack([found[name] for name in STRAIN], -1).reshape(-1, 4)
        worst.append(float(np.abs(maps - strain_of(lists, region)).max()) / STRAIN_TOLERANCE)
        away, least = (maps - strain_components(scan.deformation)[lists.states]), scan.strain_errors[lists.states]
        expect_true_strain(away, least)
        strained = ~region.reshape(-1)
        return Check(
            max(worst),
            1.0,
            sum(v.size for v in found.values()),
            f"true disks and strain everywhere; disks of {DRAWN} patterns drawn in the run by the definition, to {PIXEL_TOLERANCE:g} px; "
            f"least squares of all disks in float64, to {STRAIN_TOLERANCE:g}",
            scatter=float(np.sqrt((away[strained, :3] ** 2).mean())),
            bound=float(np.sqrt((least[strained, :3] ** 2).mean())),
            unit="strain",
        )

    return Prepared(
        call,
        arrays,
        check,
        positions,
        digest,
        bytes=float(2 * SIDE**2 * positions),
        flops=float(3 * 2.5 * SIDE**2 * np.log2(SIDE**2) * positions),
        moved="disk_warm",
        more={"host_to_device": float(2 * SIDE**2 * positions)} if place.on_gpu else {},
        cache="page cache",
        close=lambda: path.unlink(missing_ok=True),
        implementation=kinds,
    )


def write(place: Place, path: Any, patterns: Any) -> None:
    """Write patterns of a device as one plain block of an HDF5 file, row by row."""
    import h5py

    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(PATH, patterns.shape, "uint16")
        for row in range(len(patterns)):
            dataset[row] = place.host(patterns[row])


class Lists(NamedTuple):
    """Disks of all patterns, one after the other.

    Attributes
    ----------
    q : (m, 2) px
    intensity : (m,)
    pattern : (m,)
        Number of the pattern.
    order : (m,)
        Which of the orders is nearest on the true lattice, as an index.
    states : (n,)
        State of strain of every pattern.
    """

    q: np.ndarray
    intensity: np.ndarray
    pattern: np.ndarray
    order: np.ndarray
    states: np.ndarray

    @classmethod
    def of(cls, found: Mapping[str, np.ndarray], scan: StrainedScan, states: np.ndarray) -> Lists:
        """Sort the disks of each pattern by their order. Raises `WrongAnswer` unless every pattern has as many disks as are there."""
        n, offsets = len(states), found["offsets"].astype(np.int64)
        if not np.array_equal(offsets, len(ORDERS) * np.arange(n + 1)) or any(len(found[name]) != offsets[-1] for name in FIELDS):
            raise WrongAnswer(f"not every pattern has {len(ORDERS)} disks: {len(found['qx'])} in {n} patterns")
        if not all(np.isfinite(found[name]).all() for name in FIELDS) or not (found["intensity"] > 0).all():
            raise WrongAnswer("some disks have no position or no intensity")
        pattern, q = np.repeat(np.arange(n), len(ORDERS)), np.stack([found["qx"], found["qy"]], -1).astype(float)
        inverse = np.linalg.inv(scan.lattices)[states[pattern]]
        h, k = np.rint(((q - ORIGIN)[:, None] @ inverse)[:, 0].T)
        order = np.where((np.abs(h) <= 2) & (np.abs(k) <= 2), 5 * (h + 2) + k + 2, -1).astype(int)
        place = np.lexsort((order, pattern))
        return cls(q[place], found["intensity"].astype(float)[place], pattern, order[place], states)


def expect_true_disks(lists: Lists, scan: StrainedScan) -> None:
    """Raise an error unless every true disk is found once, where it is, and nothing else is."""
    seen = np.zeros((len(lists.states), len(ORDERS)), int)
    inside = lists.order >= 0
    np.add.at(seen, (lists.pattern[inside], lists.order[inside]), 1)
    if not (seen == 1).all():
        raise WrongAnswer(f"{int((seen != 1).sum())} of {seen.size} disks are not found once, but not at all or more often")
    state = lists.states[lists.pattern]
    away = np.abs(lists.q - scan.positions[state, lists.order])
    wrong = ~(away <= SAFE * WIDER * scan.disk_errors[state, lists.order] + BIAS[0])
    if wrong.any():
        raise WrongAnswer(f"{int(wrong.sum())} of {wrong.size} coordinates of disks are farther from the truth than counts permit")


def expect_true_strain(away: np.ndarray, least: np.ndarray) -> None:
    """Raise an error unless all strain is as near to the truth as counts permit."""
    wrong = ~(np.abs(away) <= SAFE * WIDER * least + BIAS[1])
    if wrong.any():
        raise WrongAnswer(f"{int(wrong.sum())} of {wrong.size} components of strain are farther from the truth than counts permit")


def unlike_definition(path: Any, lists: Lists, scan: StrainedScan, search: Any) -> float:
    """Return how far disks are from those of the definition, in px and in parts of the brightest one, in patterns drawn in the run."""
    import h5py

    drawn = np.frombuffer(os.urandom(8 * DRAWN), np.uint64) % np.uint64(len(lists.states))
    with h5py.File(path) as file:
        columns = file[PATH].shape[1]
        patterns = np.stack([file[PATH][divmod(i, columns)] for i in drawn.tolist()])
    with gpu4d.using("definition"):
        disks = search(patterns)
    found = {"offsets": disks.offsets, **{name: disks.flat(name) for name in FIELDS}}
    wanted = Lists.of(found, scan, lists.states[drawn.astype(int)])
    mine = (len(ORDERS) * drawn.astype(int)[:, None] + np.arange(len(ORDERS))).reshape(-1)
    q, intensity = np.abs(lists.q[mine] - wanted.q), np.abs(lists.intensity[mine] - wanted.intensity)
    return max(float(q.max()), float(intensity.max() / wanted.intensity.max()))


def strain_of(lists: Lists, region: np.ndarray) -> np.ndarray:
    """Return the strain of every pattern from its disks, (n, 4): least squares weighted with the intensity, by NumPy in float64."""
    n, k = len(lists.states), len(ORDERS)
    orders = ORDERS[lists.order].reshape(n, k, 2)
    rho = np.concatenate([np.ones((n, k, 1)), orders], 2)
    root = np.sqrt(lists.intensity).reshape(n, k, 1)
    middle = lists.q - ORIGIN  # numbers stay small
    normal = np.matmul((root * rho).swapaxes(1, 2), root * rho)
    found = np.linalg.solve(normal, np.matmul((root * root * rho).swapaxes(1, 2), middle.reshape(n, k, 2)))
    lattices = found[:, 1:]
    reference = np.median(lattices[region.reshape(-1)], 0)
    return strain_components(np.matmul(np.linalg.inv(lattices), reference))


WORKLOADS = [
    Workload(
        "file-to-strain",
        "from a file to strain maps",
        END_TO_END,
        "positions",
        {
            tier: {"rows": rows, "columns": columns}
            for tier, rows, columns in (("quick", 4, 4), ("S", 16, 16), ("M", 128, 256), ("L", 448, 512))
        },
        file_to_strain,
        "Open, find disks, origin, lattice, local lattices, strain: what a user waits for between a scan and its maps.",
    ),
]
