"""What limits a disk's position, one study a function: each simulates with seeds, finds, and compares with the bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gpu4d.benchmarks.crowded import crowded, dense
from gpu4d.benchmarks.disk_bound import Profile, bullseye, closed_form, soft
from gpu4d.benchmarks.disk_forms import FORMS
from gpu4d.benchmarks.disk_scenes import Found, Scene, exact_maxima, find, lattice, scene
from gpu4d.benchmarks.strain_bound import strain

from gpu4d import BraggDisks, refine_template
from gpu4d.errors import InputError
from gpu4d.probe import Template, measure_disk, synthetic, template

Row = dict[str, Any]
LIKELIHOOD: dict[str, Any] = {"refine": "likelihood"}
CORRELATION: dict[str, Any] = {"refine": "correlation"}
PEERS: dict[str, Any] = {"refine": "upsample", "upsample": 16, "power": 0.85, "refine_power": 0.85}
METHODS = {"likelihood": LIKELIHOOD, "correlation": CORRELATION, "x16 grid, n = 0.85": PEERS}
OURS = {"likelihood": LIKELIHOOD, "correlation": CORRELATION}
LEAST_SEEN = 20  # disks, for an rms
POWERS = (0.0, 0.25, 0.5, 0.7, 0.85, 0.95, 1.0)
EXACT = 6  # patterns whose correlation maxima are computed in double precision


def window(some: Scene) -> float:
    """Radius of the likelihood's window, as documented: R + max(3, 2 + 1.3 w)."""
    return some.profile.radius + max(3.0, 2.0 + 1.3 * some.profile.edge)


def compare(some: Scene, kernel: Any, methods: dict[str, dict[str, Any]], /, **labels: Any) -> Iterator[Row]:
    """A row a method: what it made of the scene beside the bounds."""
    bounds = {free: some.bound(free, None if free == 2 else window(some)) for free in (2, 4, 6, 8)}
    for name, options in methods.items():
        yield {**labels, "method": name, **judged([find(some, kernel, **options)], bounds)}


def judged(parts: list[Found], bounds: dict[int, np.ndarray]) -> Row:
    """rms, bias, honesty, recall. `parts` share the bounds; their mean errors are taken off for "rms without offset"."""
    seen = np.concatenate([f.seen for f in parts])
    missed = [f.errors.shape[0] for f in parts]
    out: Row = {"disks": int(seen.size), "recall": float(seen.mean()), "false": sum(f.false for f in parts) / sum(missed)}
    limits = {free: np.concatenate([v] * len(parts)) if len(v) != len(seen) else v for free, v in bounds.items()}
    if seen.sum() < LEAST_SEEN:
        return out
    errors, sigmas = (np.concatenate([getattr(f, name) for f in parts])[seen] for name in ("errors", "sigmas"))
    rms = float(np.sqrt((errors**2).mean()))
    scatter = np.concatenate([f.errors[f.seen] - f.errors[f.seen].mean(0) for f in parts])
    out["rms"] = rms
    out["rms without offset"] = float(np.sqrt((scatter**2).mean()))
    for free, v in limits.items():
        out[f"bound {free}"] = float(np.sqrt(v[seen].mean()))
    out["ratio"] = rms / out["bound 2"]
    out["ratio error"] = out["ratio"] * float(np.std(errors**2)) / (2 * rms**2 * np.sqrt(errors.size))
    out["bias x"], out["bias y"] = (float(b) for b in errors.mean(0))
    out["bias error"] = rms / float(np.sqrt(len(errors)))
    known = np.isfinite(sigmas)
    if known.any():
        out["inside 1 sigma"] = float((np.abs(errors) <= sigmas)[known].mean())
        out["sigma over error"] = float(np.sqrt((sigmas[known] ** 2).mean() / (errors[known] ** 2).mean()))
    return out


def distance_from_maximum(some: Scene, probe: Any, **options: Any) -> Row:
    """How far found positions lie from the exact maximum of the correlation."""
    some = some.part(slice(EXACT))
    at = some.positions + find(some, probe, **options).errors
    off = np.abs(exact_maxima(some.patterns, probe, at) - at)
    return {"off the exact maximum, largest": float(np.nanmax(off)), "off the exact maximum, rms": float(np.sqrt(np.nanmean(off**2)))}


def targets(patterns: int) -> Iterator[Row]:
    """A scan of strained crystal, 21 uneven disks a pattern; electrons a pixel of the direct disk."""
    for dose in (100.0, 300.0, 1000.0, 3000.0, 20000.0):
        some = lattice(dose, scan=max(4, round((2.5 * patterns) ** 0.5)))
        probe = template(some.probe())
        yield from compare(some, probe, {name: METHODS[name] for name in METHODS if name != "correlation"}, dose=dose)
        for row in compare(some, probe, {"correlation": CORRELATION}, dose=dose):
            yield row | distance_from_maximum(some, probe, **CORRELATION)
        yield from compare(some, template(some.probe(), trench=(6.0, 15.0)), {"correlation, trench 1–2.5 R": CORRELATION}, dose=dose)


def dose(patterns: int) -> Iterator[Row]:
    """Electrons in a disk."""
    for i, electrons in enumerate((30.0, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6)):
        some = scene(electrons, patterns=patterns, seed=i)
        extra = {"closed form": closed_form(6.0, 1.0, some.heights[0, 0], 0.02 * some.heights[0, 0])}
        yield from compare(some, template(some.probe()), METHODS, electrons=electrons, **extra)


def power(patterns: int) -> Iterator[Row]:
    """n of the map that disks are located on; and of the map they are found on, where counts are few."""
    for i, electrons in enumerate((1e3, 1e4, 1e6)):
        for use, scatter in (("locate", 0.0), ("locate, scattered", 0.5)):
            some = scene(electrons, scatter=scatter, patterns=patterns, seed=i)
            methods = {f"{n:g}": {"refine": "correlation", "refine_power": n} for n in POWERS}
            for row in compare(some, template(some.probe()), methods, use=use, electrons=electrons):
                yield {**row, "n": float(row["method"])}
    for dose in (0.5, 1.0, 2.0, 5.0, 10.0):
        some = lattice(dose, scan=max(4, round(patterns**0.5)))
        probe = template(some.probe())
        methods = {f"{n:g}": {"refine": "correlation", "power": n} for n in POWERS}
        for row in compare(some, probe, methods, use="find", electrons=dose * some.profile.electrons()):
            yield {**row, "n": float(row["method"])}


def templates(patterns: int) -> Iterator[Row]:
    """Kind of the template and its trench for the correlation; a wrong radius or edge for the likelihood."""
    kernels: dict[str, dict[str, Any]] = {
        "sigmoid 1–3 R": {},
        "sigmoid 1–2.5 R": {"trench": (6.0, 15.0)},
        "sigmoid 1–2 R": {"trench": (6.0, 12.0)},
        "sigmoid 1–1.5 R": {"trench": (6.0, 9.0)},
        "gaussian": {"kind": "gaussian"},
        "logistic": {"kind": "logistic"},
        "flat": {"kind": "flat"},
    }
    wrong = {"true": (6.0, 1.0), "radius + 0.1 px": (6.1, 1.0), "radius + 0.3 px": (6.3, 1.0), "radius + 1 px": (7.0, 1.0)}
    wrong |= {"edge 0.5 px": (6.0, 0.5), "edge 2 px": (6.0, 2.0)}
    for dose in (2.0, 100.0, 20000.0):
        crystal = lattice(dose, scan=max(4, round(patterns**0.5)))
        for name, options in kernels.items():
            kernel = template(crystal.probe(), **options)
            electrons = dose * crystal.profile.electrons()
            yield from compare(crystal, kernel, {"correlation": CORRELATION}, on="crystal", electrons=electrons, template=name)
    for i, electrons in enumerate((1e4, 1e6)):
        some = scene(electrons, patterns=patterns, seed=i)
        for name, (radius, edge) in wrong.items():
            yield from compare(
                some,
                template(synthetic((128, 128), radius, edge=edge)),
                OURS,
                on="even disks",
                electrons=electrons,
                template=f"disk, {name}",
            )


def edge(patterns: int) -> Iterator[Row]:
    """Width of the disk's edge, pixels."""
    for electrons in (1e4, 3e5):
        for i, width in enumerate((0.5, 0.75, 1.0, 1.5, 2.0, 3.0)):
            some = scene(electrons, profile=soft(6.0, width), patterns=patterns, seed=i)
            extra = {"closed form": closed_form(6.0, width, some.heights[0, 0], 0.02 * some.heights[0, 0])}
            yield from compare(some, template(some.probe()), METHODS, electrons=electrons, edge=width, **extra)


def background(patterns: int) -> Iterator[Row]:
    """Even background over the height of a disk; and a sloping one, with 4 and 6 parameters."""
    methods = {f"likelihood, {p}": {**LIKELIHOOD, "parameters": p} for p in (4, 6, "auto")} | {"correlation": CORRELATION}
    for i, level in enumerate((0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)):
        some = scene(1e4, background=0.0, flat=level, patterns=patterns, seed=i)
        height = some.heights[0, 0]
        extra = {"counts per pixel": level * height, "closed form": closed_form(6.0, 1.0, height, level * height)}
        yield from compare(some, template(some.probe()), methods, kind="even", level=level, ramp=0.0, electrons=1e4, **extra)
    for electrons in (1e4, 3e5):
        for i, ramp in enumerate((0.0, 0.001, 0.003, 0.006, 0.01)):
            some = scene(electrons, background=0.0, flat=0.2, ramp=ramp, patterns=patterns, seed=i)
            # ramp × level: change of the background over a pixel, relative to the disk's height
            yield from compare(some, template(some.probe()), methods, kind="slope", level=0.2, ramp=0.2 * ramp, electrons=electrons)


def patterned(patterns: int) -> Iterator[Row]:
    """A plain probe of radius 9 px and a bullseye of the same size and the same number of electrons."""
    for i, electrons in enumerate((3e2, 1e3, 1e4, 1e5, 3e5, 1e6)):
        for name, profile in (("plain", soft(9.0)), ("bullseye", bullseye(9.0))):
            some = scene(electrons, profile=profile, patterns=round(1.6 * patterns), seed=i)
            yield from compare(some, template(some.probe()), METHODS, electrons=electrons, probe=name)
    for electrons in (1e4, 1e5, 1e6):
        for i, counts in enumerate((1e2, 1e3, 1e4, 1e5)):
            labels = {"electrons": electrons, "probe": "bullseye, noisy vacuum image"}
            yield from noisy_template(bullseye(9.0), electrons, counts, patterns, i, tuple(OURS), **labels)


def tilt(patterns: int) -> Iterator[Row]:
    """Intensity that slopes inside the disks: rms of the relative change over one radius, each axis."""
    methods: dict[str, dict[str, Any]] = {f"likelihood, {p}": {**LIKELIHOOD, "parameters": p} for p in (4, 6, 8, "auto")}
    methods |= {"correlation": CORRELATION, "x16 grid, n = 0.85": PEERS}
    for electrons in (1e4, 3e5):
        for i, slope in enumerate((0.0, 0.01, 0.03, 0.1, 0.3)):
            some = scene(electrons, tilt=slope, patterns=patterns, seed=i)
            yield from compare(some, template(some.probe()), methods, electrons=electrons, tilt=slope)


def vacuum(patterns: int) -> Iterator[Row]:
    """A template made of a vacuum image of few counts; as many images as make the error of the template an average."""
    for electrons in (1e4, 1e6):
        for i, counts in enumerate((10.0, 30.0, 100.0, 300.0, 1e3, 1e4, 1e5)):
            yield from noisy_template(soft(), electrons, counts, patterns, i, (*OURS, "correlation, measured disk"), electrons=electrons)


def noisy_template(
    profile: Profile, electrons: float, counts: float, patterns: int, seed: int, methods: tuple[str, ...], /, **labels: Any
) -> Iterator[Row]:
    """Shares of the patterns, each with a vacuum image of its own."""
    images = min(16, max(4, patterns // 6))
    share = max(2, patterns // images)
    some = scene(electrons, profile=profile, patterns=share * images, seed=seed)
    bounds = {free: some.bound(free, None if free == 2 else window(some)) for free in (2, 6)}
    found: dict[str, list[Found]] = {name: [] for name in methods}
    for image in range(images):
        part = some.part(slice(image * share, (image + 1) * share))
        noisy = some.probe(counts, seed=1000 * seed + image)
        disk = measure_disk(noisy)
        smooth = template(synthetic(noisy.shape, disk.radius, edge=disk.edge))  # type: ignore[arg-type]
        for name, parts in found.items():
            options = LIKELIHOOD if name == "likelihood" else CORRELATION
            parts.append(find(part, smooth if name.endswith("disk") else template(noisy), **options))
    for name, parts in found.items():
        yield {**labels, "vacuum counts per pixel": counts, "method": name, **judged(parts, bounds)}


def refined(patterns: int) -> Iterator[Row]:
    """A template before and after the scan itself has refined it; another scan of the same crystal is then judged."""
    shape = (128, 128)
    for i, dose in enumerate((100.0, 3000.0, 20000.0)):
        scan = max(4, round((patterns / 4) ** 0.5))
        some, other = lattice(dose, scan=scan, seed=2 * i), lattice(dose, scan=scan, seed=2 * i + 1)
        starts = {"true": template(some.probe())}
        starts |= {f"vacuum, {counts} counts": template(some.probe(counts, seed=i)) for counts in (1000, 100, 10)}
        starts["no vacuum: disk as measured"] = _measured(some)
        starts |= {f"disk, radius + {more} px": template(synthetic(shape, 6.0 + more)) for more in (0.3, 1.0)}
        starts["disk, edge 2 px"] = template(synthetic(shape, 6.0, edge=2.0))
        for name, start in starts.items():
            after = refine_template(some.patterns, None, start)
            for stage, kernel in (("before", start), ("after", after)):
                yield from compare(other, kernel, {"likelihood": LIKELIHOOD}, dose=dose, template=name, stage=stage)


def _measured(some: Scene) -> Template:
    """A synthetic disk of the radius and edge that the direct disk of one pattern shows."""
    disk = measure_disk(some.patterns[0])
    return template(synthetic(some.patterns.shape[1:], disk.radius, edge=disk.edge))  # type: ignore[arg-type]


def detector(patterns: int) -> Iterator[Row]:
    """Detectors of other sizes, odd and not square ones too."""
    for i, shape in enumerate(((64, 64), (96, 96), (128, 128), (192, 192), (256, 256), (96, 160), (211, 211), (515, 514))):
        enough = max(4, round(patterns * 128 * 128 / (shape[0] * shape[1])))
        some = scene(1e4, patterns=min(enough, 2 * patterns), shape=shape, seed=i)
        probe = template(some.probe())
        for row in compare(some, probe, OURS, detector=f"{shape[0]} × {shape[1]}"):
            yield row | (distance_from_maximum(some, probe, **CORRELATION) if row["method"] == "correlation" else {})


def shapes(patterns: int) -> Iterator[Row]:
    """Probes that are not round or not even, from vacuum images of many and of few counts; electrons a pixel of a disk.

    The common offset of all disks is taken off: the centre of such a form is a matter of taste.
    """
    rng = np.random.default_rng(0)
    for i, (name, form) in enumerate(FORMS.items()):
        for dose in (100.0, 2000.0, 20000.0):
            some = scene(dose * form.electrons(), profile=form, patterns=max(8, patterns // 4), background=0.0, flat=0.03, seed=i)
            bounds = {free: some.bound(free) for free in (2, 6)}
            for counts in (np.inf, 1e4, 300.0):
                center = (64 + rng.uniform(-0.5, 0.5), 64 + rng.uniform(-0.5, 0.5))
                mean = form.image((128, 128), center)
                probe = template(1e4 * mean if np.isinf(counts) else rng.poisson(counts * mean), center=center, radius=form.radius)
                auto = BraggDisks(probe)
                auto.prepare(some.patterns.dtype)
                for method, options in OURS.items():
                    labels = {"form": name, "dose": dose, "vacuum counts per pixel": counts, "auto": auto.refinement, "method": method}
                    try:
                        found = find(some, probe, **options)
                    except InputError as error:
                        yield {**labels, "reason": str(error)}
                        continue
                    offset = np.nanmean(found.errors, (0, 1))
                    found.errors -= offset
                    yield {**labels, **judged([found], bounds), "offset": float(np.hypot(*offset))}


STUDIES: dict[str, Callable[[int], Iterator[Row]]] = {
    "targets": targets,
    "dose": dose,
    "edge": edge,
    "background": background,
    "bullseye": patterned,
    "tilt": tilt,
    "vacuum": vacuum,
    "template": templates,
    "power": power,
    "detector": detector,
    "refined": refined,
    "shapes": shapes,
    "strain": strain,
    "crowded": crowded,
    "dense": dense,
}
