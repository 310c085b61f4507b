"""Measure how the time of each technique grows with the scan, for `gpu4d bench predict`: unscored, in the same run as the score.

An entry is one measured call: a technique on a scan of known shape, dtype and layout. `costs` makes seconds per pattern, per byte and
per scan position of them, for any other scan. Computing is timed on patterns that lie in the memory of the device. Files are timed with
one reduction that is cheap, once for each layout, so that what reading costs is known apart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gpu4d.benchmarks.suite.page_cache import drop
from gpu4d.benchmarks.suite.scaling_inputs import DIFFERENT, ENERGY, Inputs, bright_disk, disk_radius, expected
from gpu4d.benchmarks.suite.workload import QUICK, Place, Unavailable

import gpu4d

LONG = "long"  # longer calls than in tier S, on a CPU: single calls of 20 ms hold a quarter of fixed costs, and noise


class Sizes(NamedTuple):
    """How much the entries of a tier measure."""

    stream_bytes: int  # of scans that are streamed: beyond caches of the CPU, and long calls on a GPU
    search_pixels: int  # of patterns that are searched
    pixel_positions: int  # bright-field pixels times positions
    lists: int  # patterns whose lists are fitted: a lattice is found in up to some thousand
    matched: int  # patterns whose orientation is found
    rounds: int  # timed calls of an entry, after one that is not timed
    enough: float  # s: an entry is not called again after so much time, because a short run has some seventy of them
    sides: tuple[int, ...]  # of detectors that are searched


CPU_SIDES, CARD_SIDES = (64, 128, 192, 256, 384), (64, 128, 192, 256, 512)
SIZES = {
    QUICK: Sizes(2 << 20, 16 * 64**2, 1 << 16, 512, 64, 2, 0.1, (64, 128, 256)),
    "S": Sizes(64 << 20, 112 * 128**2, 1 << 19, 4096, 128, 2, 0.1, CPU_SIDES),
    LONG: Sizes(512 << 20, 1024 * 128**2, 1 << 22, 8192, 1024, 5, 1.0, CPU_SIDES),
    "M": Sizes(1 << 30, 16384 * 128**2, 1 << 25, 16384, 8192, 5, 1.0, CARD_SIDES),
    "L": Sizes(4 << 30, 65536 * 128**2, 1 << 28, 65536, 65536, 5, 1.0, CARD_SIDES),
}
QUARTER = " quarter"  # ends the key of the same entry with a quarter of the patterns: the slope between both is free of fixed costs
AWKWARD = 130  # 2 · 5 · 13: lengths with prime factors above 7 take longer to transform
DISKS, FEW_DISKS = 21, 9
DTYPES = ("uint8", "uint16", "uint32", "float32")
USUAL = 128, "uint16"  # side and dtype of entries in which another thing varies
COLD = "uint16", "float32"  # read from the disk: one-pass takes three times as long on a byte of the second
FILES = (
    *(("contiguous", d) for d in COLD),
    ("chunked", "uint16"),
    *(("lz4", d) for d in ("uint8", "uint16", "uint32")),
    *(("gzip", d) for d in ("uint16", "uint32")),
)
JOINT_SHARE = 64  # disks that are fitted together take some hundred times as long: so many times fewer patterns
SHARE = {"contiguous": 1, "chunked": 1, "lz4": 2, "gzip": 8}  # files that take longer to make and to decode are so much smaller


class Entry(NamedTuple):
    """A measurement that is ready to run: what it is, the call, and what to do before each call."""

    facts: dict[str, Any]
    call: Callable[[], Any]
    before: Callable[[], Any] | None = None
    rounds: int | None = None  # where they are long: fewer than the tier's


def measure(place: Place, tier: str, seed: int, skip: Collection[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one entry after the other, for the key "scaling" of a result.

    Parameters
    ----------
    place : Place
    tier : {"quick", "S", "long", "M", "L"}
    seed : int
    skip : collection of str
        Keys that an earlier run has measured. They are left out.

    Yields
    ------
    str, dict
        Key, and what was measured: technique, detector, dtype, layout, patterns, disks, samples in seconds of one call, median.
        What cannot be measured here has "skipped" with the reason in place of samples.
    """
    sizes = SIZES[tier]
    inputs, log = Inputs(place, seed, sizes.stream_bytes), logging.getLogger("gpu4d")
    level = log.level
    log.setLevel(logging.ERROR)  # scans this small are not fit for every technique, and gpu4d says so
    try:
        for key, make in entries(inputs, sizes).items():
            if key in skip:
                continue
            try:
                entry = make()
                samples = _timed(entry, place, entry.rounds or sizes.rounds, sizes.enough)
            except (ImportError, MemoryError, Unavailable, gpu4d.errors.Gpu4dError, OSError) as error:
                yield key, {"skipped": f"{type(error).__name__}: {error}"}
                continue
            yield key, {**entry.facts, "samples": samples, "median": float(np.median(samples))}
    finally:
        log.setLevel(level)
        inputs.close()


def _timed(entry: Entry, place: Place, rounds: int, enough: float) -> list[float]:
    """Return the seconds of single calls, after one that is not timed because it compiles and fills caches."""
    samples = []
    for number in range(rounds + 1):
        if entry.before is not None:
            entry.before()
        place.wait()
        start = time.perf_counter()
        entry.call()
        place.wait()
        if number:
            samples.append(time.perf_counter() - start)
        if sum(samples) > enough:
            break
    return samples


def entries(inputs: Inputs, sizes: Sizes) -> dict[str, Callable[[], Entry]]:
    """Return what is measured, by key, in the order in which it is measured."""
    found: dict[str, Callable[[], Entry]] = {"call": lambda: _streamed(inputs, "one-pass", 16, "uint16", 64 * 16 * 16 * 2)}
    found |= {"call-file": lambda: _from_file(inputs, "contiguous", 16, "uint16", 64 * 16 * 16 * 2)}
    side, dtype = USUAL
    for d in DTYPES:
        for technique in ("one-pass", "read", "radial"):
            found[f"{technique} {side} {d}"] = partial(_streamed, inputs, technique, side, d)
    for s in (64, 256):
        for technique in ("one-pass", "radial"):
            found[f"{technique} {s} {dtype}"] = partial(_streamed, inputs, technique, s, dtype)
    for s in (*sizes.sides, AWKWARD):
        found[f"bragg {s}"] = partial(_search, inputs, sizes, s, DISKS)
    found[f"bragg {side}{QUARTER}"] = partial(_search, inputs, sizes, side, DISKS, share=4)
    for d in ("uint8", "uint32", "float32"):
        found[f"bragg {side} {d}"] = partial(_search, inputs, sizes, side, DISKS, dtype=d)
    found[f"bragg {side} few"] = lambda: _search(inputs, sizes, side, FEW_DISKS)
    fitted = partial(_search, inputs, sizes, disks=DISKS, refine="likelihood", parameters=6)
    for s in (side, 256):
        found[f"bragg-likelihood {s}"] = partial(fitted, s)
        found[f"bragg-likelihood {s}{QUARTER}"] = partial(fitted, s, share=4)
    found[f"bragg-joint {side}"] = partial(fitted, side, tight=0.55, share=JOINT_SHARE)
    found[f"bragg-choose {side}"] = lambda: _choose(inputs, side)
    found |= {"strain": lambda: _strain(sizes.lists), "strain few": lambda: _strain(sizes.lists // 4)}
    found |= {"match": lambda: _match(sizes.matched), "match few": lambda: _match(sizes.matched // 8)}
    for technique in ("ssb", "wdd"):
        for scan, s, radius in ((64, 64, 12.0), (128, 32, 6.0), (256, 16, 3.5)):
            found[f"{technique} {scan}"] = partial(_direct, inputs, sizes, technique, scan, s, radius)
    found |= {"dpc": lambda: _dpc(inputs, (32, max(4, inputs.stream_bytes >> 20)), side), "dpc few": lambda: _dpc(inputs, (8, 8), side)}
    found |= {"dpc wide": lambda: _dpc(inputs, (256, 256), 8), f"measure-disk {side}": lambda: _measure_disk(inputs, side)}
    found |= {"counting": lambda: _counting(inputs), f"counting-setup {side}": lambda: _counting_setup(side)}
    found["events"] = lambda: _events(inputs, side)
    for layout, d in FILES:
        nbytes = inputs.stream_bytes // SHARE[layout]
        found[f"file {layout} {d}"] = partial(_from_file, inputs, layout, side, d, nbytes)
        found[f"file {layout} {d}{QUARTER}"] = partial(_from_file, inputs, layout, side, d, nbytes // 4)
    for d in COLD:
        found[f"cold {d}"] = partial(_from_file, inputs, "contiguous", side, d, inputs.stream_bytes, cold=True)
    found[f"cold {dtype}{QUARTER}"] = partial(_from_file, inputs, "contiguous", side, dtype, inputs.stream_bytes // 4, cold=True)
    return found


def one_pass(cube: gpu4d.DataCube, device: str) -> dict[str, Any]:
    """Make what a first look at a scan needs: mean pattern, centre of mass, bright and dark field, in one sweep."""
    r = min(cube.detector_shape)
    wanted: dict[str, gpu4d.streaming.Reduction] = {
        "mean": gpu4d.MeanPattern(),
        "com": gpu4d.CenterOfMass(),
        "bright": gpu4d.VirtualImage(gpu4d.detectors.disk(r / 8)),
        "dark": gpu4d.VirtualImage(gpu4d.detectors.annulus(r / 8, r / 2)),
    }
    return gpu4d.sweep(cube, wanted, device=device)


def read_all(cube: gpu4d.DataCube, device: str) -> Any:
    """Read every pattern and add them up: the least that a sweep can do."""
    return gpu4d.sweep(cube, gpu4d.MeanPattern(), device=device)


def radial(cube: gpu4d.DataCube, device: str) -> Any:
    """Average every pattern over rings about an origin of its own."""
    scan, (qx, qy) = cube.scan_shape, cube.detector_shape
    along = np.linspace(-2, 2, scan[0])[:, None, None]
    return gpu4d.radial_profile(cube, np.broadcast_to(np.array([qx / 2, qy / 2]) + along, (*scan, 2)), device=device)


SWEPT = {"one-pass": one_pass, "read": read_all, "radial": radial}


def _streamed(inputs: Inputs, technique: str, side: int, dtype: str, nbytes: int | None = None) -> Entry:
    nbytes, call = nbytes or inputs.stream_bytes, SWEPT[technique]
    rows = 64 if nbytes >= 16 << 20 else 8
    scan = rows, max(1, nbytes // (rows * side * side * np.dtype(dtype).itemsize))
    cube = inputs.cube(expected((side, side), DISKS), scan, dtype)
    return Entry(_facts(technique, side, dtype, scan), lambda: call(cube, _device(inputs)))


def _from_file(inputs: Inputs, layout: str, side: int, dtype: str, nbytes: int, cold: bool = False) -> Entry:
    path, n = inputs.file(layout, side, dtype, nbytes)
    stored = path.stat().st_size
    if cold:
        drop(path)  # says why, where the system keeps the pages

    def call() -> None:
        cube = gpu4d.open(path)  # anew each time: the first use of a mapped page costs time, and a scan is read once
        cube.calibration.set(origin=(side / 2, side / 2))
        one_pass(cube, inputs.place.device)

    facts = _facts("one-pass", side, dtype, (8, n // 8)) | {"layout": layout, "stored": stored, "cache": "disk" if cold else "page cache"}
    return Entry(facts, call, before=(lambda: drop(path)) if cold else None)


def _search(inputs: Inputs, sizes: Sizes, side: int, disks: int, *, tight: float = 1.0, share: int = 1, **options: Any) -> Entry:
    """Find Bragg disks. `share`: a so many times smaller number of patterns tells as much."""
    n, dtype = max(16, sizes.search_pixels // (side * side * share) // 8 * 8), options.pop("dtype", "uint16")
    cube = inputs.cube(expected((side, side), disks, tight), (8, n // 8), dtype)
    template = template_of(side)
    given = {"refine": "correlation", **options}
    facts = _facts("bragg", side, dtype, (8, n // 8)) | {"disks": disks, "refine": given["refine"]}
    return Entry(facts, lambda: gpu4d.find_bragg_disks(cube, template, device=_device(inputs), **given), rounds=2 if tight < 1 else None)


def template_of(side: int | tuple[int, int]) -> gpu4d.Template:
    shape = (side, side) if isinstance(side, int) else side
    return gpu4d.probe.template(gpu4d.probe.synthetic(shape, disk_radius(shape)))


def _choose(inputs: Inputs, side: int) -> Entry:
    """Choose the number of fit parameters, as `find_bragg_disks` does first: from 64 patterns."""
    cube, template = inputs.cube(expected((side, side), DISKS), (16, 16)), template_of(side)
    return Entry(_facts("choose", side, "uint16", (8, 8)), lambda: gpu4d.BraggDisks(template, refine="likelihood").choose(cube))


def _strain(n: int) -> Entry:
    """Go from lists of disks to strain maps: origin, lattice, fit, strain."""
    scan, rng = (8, max(8, n // 8)), np.random.default_rng(0)
    nodes = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if h * h + k * k < 8], float) * 22.0 + 64.0
    table = nodes + rng.normal(0, 0.05, (scan[0] * scan[1], len(nodes), 2))
    flat, points = table.reshape(-1, 2), table.shape[0] * table.shape[1]
    height = np.tile(100.0 / (1 + 0.01 * ((nodes - 64.0) ** 2).sum(1)), len(table))
    fields = {"qx": flat[:, 0], "qy": flat[:, 1], "intensity": height, "sx": np.full(points, 0.05), "sy": np.full(points, 0.05)}
    disks = gpu4d.PointListArray(np.arange(len(table) + 1) * len(nodes), fields, scan)
    return Entry(_facts("strain", 0, "", scan) | {"disks": len(nodes)}, lambda: strain_of(disks))


def strain_of(disks: gpu4d.PointListArray) -> Any:
    """Return strain maps of a scan's disks, as the first tutorial does."""
    origin = gpu4d.calibrate.origin(disks, fit="plane")
    lattice = gpu4d.find_lattice(disks, origin)
    return gpu4d.strain_map(gpu4d.fit_lattice(disks, lattice, origin=origin))


def _match(n: int) -> Entry:
    """Find orientations of gold from about 20 disks. Needs the extra crystal."""
    from gpu4d import orientation
    from gpu4d.structures import Structure

    gold, rng, pixel = Structure.standard("Au"), np.random.default_rng(0), 0.02
    reflections, lists = gold.reflections(1.3), []
    for angles in rng.uniform(0, [6.28, 0.9, 6.28], (16, 3)):
        lab = reflections.g @ orientation.matrices_of(angles[None])[0].T
        s = orientation.excitation_error(lab, 1 / gpu4d.physics.wavelength(ENERGY))
        height = 100 * reflections.intensity / reflections.intensity.max() * np.sinc(40.0 * s) ** 2
        strongest = np.argsort(-height)[:24]
        lists.append(np.column_stack([64 + lab[strongest, :2] / pixel, height[strongest]]))
    n = max(16, n // 16 * 16)
    table = np.concatenate([lists[i % 16] for i in range(n)])
    ends = np.cumsum([0, *(len(lists[i % 16]) for i in range(n))])
    disks = gpu4d.PointListArray(ends, dict(zip(("qx", "qy", "intensity"), table.T)), (n // 16, 16))
    known = gpu4d.Calibration(energy=ENERGY, q_pixel=pixel, origin=(64, 64), r_pixel=20.0, probe_radius=2.0)
    call = lambda: orientation.match_orientations(disks, gold, calibration=known, thickness=40.0)  # noqa: E731
    return Entry(_facts("match", 0, "", (n // 16, 16)) | {"disks": len(table) / n}, call)


def _direct(inputs: Inputs, sizes: Sizes, technique: str, scan: int, side: int, radius: float) -> Entry:
    """Make a phase by direct ptychography. The number of bright-field pixels times positions is that of the tier, at most."""
    grow = min(1.0, (sizes.pixel_positions / (scan * scan * np.pi * radius**2)) ** 0.5)
    radius = max(2.0, radius * grow) if grow < 1 else radius
    cube = inputs.focused((scan, scan), side, radius)
    run = getattr(gpu4d, technique)
    pixels = int((np.hypot(*(np.indices((side, side)) - side / 2)) <= radius).sum())
    facts = _facts(technique, side, "uint16", (scan, scan)) | {"pixels": pixels}
    return Entry(facts, lambda: run(cube, origin=(side / 2, side / 2), device=_device(inputs)))


def _dpc(inputs: Inputs, scan: tuple[int, int], side: int) -> Entry:
    cube = inputs.focused(scan, side, side / 4, rotation_known=False)  # it is found then, as of most scans
    return Entry(_facts("dpc", side, "uint16", scan), lambda: gpu4d.dpc(cube, device=_device(inputs)))


def _measure_disk(inputs: Inputs, side: int) -> Entry:
    """Measure centre and radius of the bright-field disk, as direct ptychography does where they are not known."""
    mean = bright_disk((side, side), side / 5)
    return Entry(_facts("measure-disk", side, "", (1, 1)), lambda: gpu4d.probe.measure_disk(mean))


def _raw(n: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return raw frames of a direct detector (8, n // 8, side, side) in which 0.4 % of the pixels are struck, and their dark level."""
    rng = np.random.default_rng(0)
    few = rng.normal(100, 4, (16, side, side)) + 60 * (rng.random((16, side, side)) < 0.004)
    return np.resize(few.clip(0).astype("uint16"), (8, n // 8, side, side)), np.full((side, side), 100.0)


def _counting(inputs: Inputs) -> Entry:
    """Count electrons with thresholds that are known."""
    side, few = 256, _raw(16, 256)
    n = max(64, inputs.stream_bytes // (4 * 2 * side * side) // 8 * 8)
    setup = gpu4d.preprocess.counting_setup(few[0].reshape(-1, side, side), few[1])
    cube = gpu4d.DataCube(inputs.place.xp.asarray(_raw(n, side)[0]))
    return Entry(
        _facts("counting", side, "uint16", (8, n // 8)), lambda: gpu4d.preprocess.count_scan(cube, setup=setup, device=_device(inputs))
    )


def _counting_setup(side: int) -> Entry:
    """Find thresholds in 64 frames, as `count_scan` does first."""
    raw, dark = _raw(64, side)
    return Entry(
        _facts("counting-setup", side, "uint16", (8, 8)), lambda: gpu4d.preprocess.counting_setup(raw.reshape(-1, side, side), dark)
    )


def _events(inputs: Inputs, side: int) -> Entry:
    """Reduce events in host memory, as a detector of events delivers them: 200 in a pattern."""
    each, scan = 200, (64, max(1, inputs.stream_bytes // (64 * 8 * 200)))
    n = scan[0] * scan[1]
    struck = np.random.default_rng(0).integers(0, side * side, each * min(n, DIFFERENT)).astype(np.int32)
    source = gpu4d.data.EventSource(np.arange(n + 1) * each, np.resize(struck, n * each), scan, (side, side))
    cube = gpu4d.DataCube(source, gpu4d.Calibration(origin=(side / 2, side / 2)))
    facts = _facts("one-pass", side, "uint16", scan) | {"events": n * each}
    return Entry(facts, lambda: one_pass(cube, inputs.place.device))


def _device(inputs: Inputs) -> str:
    """Return `device=` for arrays that lie where they are computed on."""
    return "auto" if inputs.place.on_gpu else inputs.place.device


def _facts(technique: str, side: int, dtype: str, scan: tuple[int, int]) -> dict[str, Any]:
    return {"technique": technique, "detector": [side, side], "dtype": dtype, "scan": list(scan), "patterns": scan[0] * scan[1]}
