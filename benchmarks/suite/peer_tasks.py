"""The built-in peers: what each does of which workload, how its inputs are written, and when its answer agrees with ours.

Their scripts and agreements are those of `benchmarks/peers/compare.py`. Peers are slow where patterns go one by one: they get an even
choice of them, and rates are compared.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gpu4d.benchmarks.peers import comparisons
from gpu4d.benchmarks.peers.environments import ENVIRONMENTS
from gpu4d.benchmarks.peers.orientation import angle
from gpu4d.benchmarks.peers.table import Check
from gpu4d.benchmarks.suite.page_cache import drop
from gpu4d.benchmarks.suite.peers import Arrays, Given, Ours, Peer, Task
from gpu4d.benchmarks.suite.workload import Place

import gpu4d
from gpu4d import physics

SCAN_PATTERNS = 4096  # of a pass that a peer gets at most: 134 MB of 128², a second or so
SAME_LATTICE = 0.005  # px rms: less than the error of either, which is 0.006 px; tools weight disks in other ways
POSITIONS = 1024  # of a lattice fit: a second or so
MATCHED = 32  # positions whose orientations a peer looks for: seconds
FEW = 64  # patterns for tools that find disks in one pattern after another: seconds
SINGLE = 1e-5  # of the largest: sums with weights in float32, as peers make them


def evenly(n: int, most: int) -> np.ndarray:
    """Return at most so many indices, spread over the scan."""
    return np.linspace(0, n - 1, min(n, most)).astype(int)


# ---------------------------------------------------------------- passes over patterns


def write_scan(folder: pathlib.Path, inputs: Arrays, about: Mapping[str, Any] | None = None, most: int = SCAN_PATTERNS) -> Given:
    """Write scan.h5, contiguous, with masks.npy where there are masks, and what is known of the scan as scan.json."""
    import h5py

    patterns = inputs["patterns"]
    n = int(np.prod(patterns.shape[:-2]))
    chosen = None
    if n > most:
        chosen = evenly(n, most)
        patterns = patterns.reshape(n, *patterns.shape[-2:])[chosen][None]
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("data", data=patterns)
    if "masks" in inputs:
        np.save(folder / "masks.npy", inputs["masks"])
    center = [side / 2 for side in patterns.shape[-2:]]
    (folder / "scan.json").write_text(json.dumps({"center": center, **(about or {})}))
    return Given({}, chosen, 1.0 if chosen is None else len(chosen) / n)


def of_chosen(ours: Arrays, inputs: Arrays, given: Given) -> Arrays:
    """Return our images and centres of mass of the patterns that the peer got, flat; patterns of the whole only if it got all."""
    found: Arrays = {}
    for name in ("images", "com"):
        if name in ours:
            flat = ours[name].reshape(len(ours[name]), -1)
            found[name] = flat if given.chosen is None else flat[:, given.chosen]
    if given.chosen is None:
        found |= {name: ours[name] for name in ("mean", "max") if name in ours}
    return found


def same_counts(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Compare sums of counts, which are equal or wrong, and centres of mass."""
    return comparisons.same_images(folder, _flat(theirs, ours), ours)


def same_weights(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Compare sums under weights, which peers make in float32."""
    found, wanted = _flat(theirs, ours)["images"].astype(float), ours["images"].astype(float)
    return [Check("images differ by, of the largest", float(np.abs(found - wanted).max() / np.abs(wanted).max()), SINGLE)]


def _flat(theirs: Arrays, ours: Arrays) -> Arrays:
    shapes: Arrays = {name: theirs[name].reshape(len(theirs[name]), -1) for name in ("images", "com") if name in theirs}
    whole: Arrays = {name: theirs[name] for name in ("sum", "mean", "max") if name in theirs and "mean" in ours}
    return shapes | whole


def drop_pages(folder: pathlib.Path) -> None:
    """Drop the pages of the scan, so that the next call reads the disk."""
    drop(folder / "scan.h5")


def passes(does: str, name: str, options: Mapping[str, Any], before: Callable[[pathlib.Path], None] | None = None) -> Task:
    return Task(does, name, write_scan, same_counts, options, of_chosen, before=before)


# ---------------------------------------------------------------- Bragg disks and lattices


def write_disks(folder: pathlib.Path, inputs: Arrays) -> Given:
    """Write the files of the tasks "bragg": some patterns, the probe, the truth."""
    patterns = inputs["patterns"].reshape(-1, *inputs["patterns"].shape[-2:])
    chosen = evenly(len(patterns), FEW)
    np.save(folder / "bragg_few.npy", patterns[chosen][None])
    np.save(folder / "probe.npy", inputs["probe"])
    np.save(folder / "bragg_chosen.npy", np.arange(len(chosen)))
    np.savez(folder / "bragg_truth.npz", positions=inputs["positions"][chosen][None])
    return Given({"radius": float(np.asarray(inputs["radius"]))}, chosen, len(chosen) / len(patterns))


def lists_of_chosen(ours: Arrays, inputs: Arrays, given: Given) -> Arrays:
    """Return our disks of the patterns that the peer got: their points one after another, and where each pattern's begin."""
    assert given.chosen is not None, "a part was written"
    starts = ours["offsets"]
    lists = [np.stack([ours["qx"][a:b], ours["qy"][a:b]], -1) for a, b in ((starts[i], starts[i + 1]) for i in given.chosen)]
    return {"points": np.concatenate(lists), "starts": np.cumsum([0, *map(len, lists)])}


def write_points(folder: pathlib.Path, inputs: Arrays) -> Given:
    """Write disks of some positions, 32 in a row, with their true lattices."""
    n = int(np.prod(inputs["intensity"].shape[:2]))
    chosen = evenly(n, POSITIONS)
    per_position = {name: inputs[name] for name in ("q", "intensity", "origin", "local")}
    some = {name: a.reshape(n, *a.shape[2:])[chosen].reshape(-1, min(32, len(chosen)), *a.shape[2:]) for name, a in per_position.items()}
    given: dict[str, Any] = {**some, **{name: inputs[name] for name in ("hk", "g1", "g2")}}
    np.savez(folder / "points.npz", **given)
    return Given({}, chosen, len(chosen) / n)


def lattices_of_chosen(ours: Arrays, inputs: Arrays, given: Given) -> Arrays:
    return {name: ours[name].reshape(-1, 2)[given.chosen] for name in ("g1", "g2")}


def same_vectors(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Compare local lattice vectors, and state the errors of both. Strain has another reference in each tool."""
    with np.load(folder / "points.npz") as stored:
        truth = stored["local"].reshape(-1, 2, 2)
    checks = []
    for i, name in enumerate(("g1", "g2")):
        found = theirs[name].reshape(-1, 2)
        between = found - ours[name]
        checks.append(Check(f"{name} between the two, px rms", float(np.sqrt(np.nanmean(between**2))), SAME_LATTICE))
        checks.append(Check(f"positions without {name} of the peer", float(np.isnan(between).any(-1).mean()), 0.01))
        for who, value in (("gpu4d", ours[name]), ("the peer", found)):
            checks.append(Check(f"{name} of {who} off by, px rms", float(np.sqrt(np.nanmean((value - truth[..., i]) ** 2)))))
    return checks


# ---------------------------------------------------------------- orientations


def write_orientations(folder: pathlib.Path, inputs: Arrays) -> Given:
    """Write the disks of the first positions, whose orientations are drawn at random."""
    n = len(inputs["turns"])
    count = min(n, MATCHED)
    given: dict[str, Any] = {**inputs, "a": gpu4d.structures.Structure.standard("Au").cell[0]}
    np.savez(folder / "orientation.npz", **given)
    return Given({"count": count}, np.arange(count), count / n)


def same_orientations(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Compare orientations by the smallest angle. The peer's crystal is turned by 180° about the beam: it counts z the other way."""
    flipped = np.diag([-1.0, -1.0, 1.0]) @ theirs["turns"]
    mine = ours["matrices"][: len(flipped)]
    with np.load(folder / "orientation.npz") as stored:
        truth = stored["turns"][: len(flipped)]
    between, own, peer = (np.degrees(angle(a, b)) for a, b in ((flipped, mine), (truth, mine), (truth, flipped)))
    return [
        Check("median angle between the two, degrees", float(np.nanmedian(between)), 2.0),
        Check("median error of gpu4d", float(np.nanmedian(own))),
        Check("median error of the peer", float(np.nanmedian(peer))),
        Check("positions that the peer gets wrong by more than 5°", float(np.mean(~(peer < 5)))),
    ]


def disks(does: str, options: Mapping[str, Any], limit: float) -> Task:
    return Task(does, "bragg", write_disks, comparisons.near(limit), options, lists_of_chosen)


def lattice(does: str) -> Task:
    return Task(does, "lattice", write_points, same_vectors, {"origin": "given"}, lattices_of_chosen)


# ---------------------------------------------------------------- phase


def write_optics(folder: pathlib.Path, inputs: Arrays) -> Given:
    """Write a scan with its optics, for ptychography. The peer gets all of it: a part is another scan."""
    energy, semiangle, q_pixel, r_pixel = (float(inputs[name]) for name in ("energy", "semiangle", "q_pixel", "r_pixel"))
    k0 = physics.angle_to_frequency(semiangle, energy)
    about = {
        "energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "wavelength": physics.wavelength(energy),
        "radius": k0 / q_pixel, "sine": physics.wavelength(energy) * k0, "center": [float(c) for c in inputs["origin"]],
    }  # fmt: skip
    return write_scan(folder, inputs, about, most=1 << 62)


def write_field(folder: pathlib.Path, inputs: Arrays) -> Given:
    np.savez(folder / "field.npz", **{name: inputs[name] for name in ("com", "q_pixel", "r_pixel", "phase", "gradient")})  # type: ignore[arg-type]
    return Given()


def resident(place: Place, inputs: Arrays) -> tuple[gpu4d.DataCube, tuple[float, float]]:
    """Return the workload's scan where it computes, with its optics, and the centre of its disk."""
    known: dict[str, Any] = {name: float(inputs[name]) for name in ("energy", "semiangle", "q_pixel", "r_pixel")}
    cube = gpu4d.DataCube(place.xp.asarray(inputs["patterns"]), gpu4d.Calibration(**known, rotation=0.0, transpose=False))
    return cube, (float(inputs["origin"][0]), float(inputs["origin"][1]))


def our_ssb(place: Place, inputs: Arrays) -> Ours:
    """Return our side bands as sums over pixels, without the Wiener filter of the workload, which the peer does not have."""
    cube, origin = resident(place, inputs)

    def call() -> Any:
        return gpu4d.ssb(cube, mode="exact", origin=origin, device=place.device, progress=False)

    return call, lambda found: {"transmission": place.host(found.transmission), "incident": np.asarray(found.incident)}


def our_acbf(place: Place, inputs: Arrays) -> Ours:
    """Return our aberration-corrected bright field of the workload's scan."""
    cube, origin = resident(place, inputs)

    def call() -> Any:
        return gpu4d.ptychography.acbf(cube, {}, origin=origin, device=place.device, progress=False)

    return call, lambda found: {"image": place.host(found.image)}


def same_picture(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Compare images whose scale is a convention: by their correlation, without the mean."""
    a, b = theirs["image"] - theirs["image"].mean(), ours["image"] - ours["image"].mean()
    return [Check("1 − correlation of the images", 1.0 - float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())), 0.05)]


def same_waves(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Compare phases whose transfer is a convention: by the angles between their Fourier coefficients, which no filter changes.

    Two images of the same object have a mean cosine of nearly 1, unrelated ones of 0.
    """
    a, b = (np.fft.fft2(image - image.mean()) for image in (theirs["image"], ours["phase"]))
    product = a * b.conj()
    return [Check("1 − mean cosine between Fourier coefficients", 1.0 - float(product.real.sum() / np.abs(product).sum()), 0.1)]


# ---------------------------------------------------------------- the peers

NO_LIKELIHOOD = "has no refinement by likelihood"
NO_WDD = "has no Wigner distribution deconvolution"

PY4DSTEM = Peer(
    "py4dstem",
    ENVIRONMENTS["py4DSTEM"],
    {
        "one-pass": passes("get_virtual_image ×4, get_dp_mean, get_dp_max, from memory", "images", {}),
        "bragg-disks": disks(
            "find_Bragg_disks(multicorr, ×16, corrPower=0.85)", {"subpixel": "multicorr", "power": 0.85, "smooth": 2.0}, 0.1
        ),
        "lattice-fit": lattice("fit_lattice_vectors_all_DPs, strain"),
        "orientation": Task(
            "match_orientations, zone axes 2° apart",
            "orientation",
            write_orientations,
            same_orientations,
            adapt=lambda ours, inputs, given: {"matrices": ours["matrices"].reshape(-1, 3, 3)},
        ),
        "poisson-solve": Task(
            "DPC.reconstruct, 64 iterations",
            "dpc",
            write_field,
            comparisons.better_phase,
            adapt=lambda ours, inputs, given: {"phase": ours["function"]},
        ),
    },
    {
        "masks-64": "has no weighted sums of many masks in one call: get_virtual_image takes one",
        "refine-disks": NO_LIKELIHOOD,
        "wdd": NO_WDD,
        "ssb": "has no single-side-band ptychography",
    },
)
LIBERTEM = Peer(
    "libertem",
    ENVIRONMENTS["LiberTEM"],
    {
        "one-pass": passes(
            "SumUDF, ApplyMasksUDF, CoMUDF in one run_udf", "one pass", {"products": ["sum", "masks", "com"], "source": "memory"}
        ),
        "masks-64": Task(
            "ApplyMasksUDF, dense", "one pass", write_scan, same_weights, {"products": ["masks"], "source": "memory"}, of_chosen
        ),
        "stream": passes(
            "SumUDF, ApplyMasksUDF, CoMUDF in one run_udf", "one pass", {"products": ["sum", "masks", "com"], "source": "memory"}
        ),
        "disk-cold": passes("the same, from HDF5 whose pages were dropped", "one pass", {"products": ["sum", "masks", "com"]}, drop_pages),
        "bragg-disks": disks("run_fastcorrelation around given nodes, ×20", {"upsample": 20, "pattern": "BackgroundSubtraction"}, 0.15),
        "ssb": Task(
            "SSB_UDF, its masks made beforehand",
            "ssb",
            write_optics,
            comparisons.same_side_bands,
            ours=our_ssb,
            ours_does="single-side-band ptychography, mode exact",
            precise={"dtype": "float64"},
        ),
    },
    {
        "radial-sums": "sums about one centre for all patterns; its shifts are whole pixels",
        "lattice-fit": "has no strain maps",
        "refine-disks": NO_LIKELIHOOD,
        "wdd": NO_WDD,
        "poisson-solve": "has no integration of gradients",
        "orientation": "has no matching of orientations",
    },
)
QUANTEM = Peer(
    "quantem",
    ENVIRONMENTS["quantem"],
    {
        "one-pass": passes("get_virtual_image ×4, get_dp_mean, get_dp_max, from memory", "images", {}),
        "bragg-disks": disks("BraggVectors.detect_disks(upsample, ×16)", {"subpixel": "upsample"}, 0.1),
        "ssb": Task("DirectPtychography, kernel ssb", "direct", write_optics, same_waves, {"kernel": "ssb"}),
        "wdd": Task("DirectPtychography, kernel wdd", "direct", write_optics, same_waves, {"kernel": "wdd"}),
        "lattice-fit": lattice("BraggVectors.fit_lattice, calculate_strain_map"),
    },
    {"refine-disks": NO_LIKELIHOOD},
)
FAST_ACBF = Peer(
    "fast-acbf",
    ENVIRONMENTS["fast-acbf"],
    {
        "ssb": Task(
            "BFSolver.get_acBF", "acbf", write_optics, same_picture, ours=our_acbf, ours_does="aberration-corrected bright field (acbf)"
        ),
    },
    dict.fromkeys(("one-pass", "masks-64", "bragg-disks", "lattice-fit", "wdd", "poisson-solve"), "does tcBF and acBF alone"),
)
PEERS = (PY4DSTEM, LIBERTEM, QUANTEM, FAST_ACBF)
