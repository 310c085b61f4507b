"""gpu4d's side of every comparison: ``python gpu4d_tasks.py FOLDER`` in its own environment, see serve.py."""

import json
import platform
from typing import Any

import numpy as np
from serve import Prepared, serve

import gpu4d
from gpu4d.device.choose import cpu_threads
from gpu4d.streaming import Reduction


def bragg(folder, refine) -> Prepared:
    cube = gpu4d.open(folder / "bragg.npy")
    patterns = np.asarray(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1])))
    template = gpu4d.probe.template(np.load(folder / "probe.npy"))
    chosen = np.load(folder / "bragg_chosen.npy")
    memory = gpu4d.DataCube(patterns)

    def call():
        return gpu4d.find_bragg_disks(memory, template, refine=refine, progress=False)

    def arrays(disks):
        flat = [disks[i // cube.shape[1], i % cube.shape[1]] for i in chosen]
        return lists((np.asarray(d.qx), np.asarray(d.qy)) for d in flat) | {"all_counts": np.asarray(disks.counts)}

    return call, arrays


def lists(points):
    """Lists of different lengths as one array and where each begins."""
    points = [np.stack(p, -1) for p in points]
    return {"points": np.concatenate(points), "starts": np.cumsum([0, *map(len, points)])}


def lattice(folder) -> Prepared:
    """Origin measured and fitted, local lattices, strain; the mean lattice is given, as it is to the peers."""
    data = np.load(folder / "points.npz")
    n_x, n_y, n = data["intensity"].shape
    fields = {"qx": data["q"][..., 0].ravel(), "qy": data["q"][..., 1].ravel(), "intensity": data["intensity"].ravel()}
    disks = gpu4d.PointListArray(np.arange(n_x * n_y + 1) * n, fields, (n_x, n_y))
    mean = np.stack([data["g1"], data["g2"]])

    def call():
        origin = gpu4d.calibrate.origin(disks, fit="plane")
        fit = gpu4d.fit_lattice(disks, mean, origin=origin)
        return origin, fit, gpu4d.strain_map(fit, lattice=mean, definition="first_order")

    def arrays(result):
        origin, fit, strain = result
        maps = {name: np.asarray(getattr(strain, name)) for name in ("exx", "eyy", "exy", "theta")}
        return maps | {"origin": origin.fitted, "g1": fit.g1, "g2": fit.g2}

    return call, arrays


def orientation(folder) -> Prepared:
    """Orientations with a library that was made beforehand, as the peer's is; no second grains, because the peer looks for none."""
    data = np.load(folder / "orientation.npz")
    qx, qy, intensity = data["peaks"].T
    disks = gpu4d.PointListArray(data["starts"], {"qx": qx, "qy": qy, "intensity": intensity}, (1, len(data["turns"])))
    gold, origin = gpu4d.structures.Structure.standard("Au"), (float(data["origin"]),) * 2
    energy, q_pixel, thickness = (float(data[name]) for name in ("energy", "q_pixel", "thickness"))

    def call():
        return gpu4d.orientation.match_orientations(
            disks, gold, origin=origin, disk_radius=2.0, overlaps=False, energy=energy, q_pixel=q_pixel, thickness=thickness
        )

    def arrays(found):
        return {"turns": found.matrices[0], "alternatives": found.grain.alternative[0], "ambiguous": found.ambiguous[0]}

    return call, arrays


def one_pass(folder) -> Prepared:
    """Mean, maximum, four ring images and centre of mass, from the file, in one pass."""
    about = json.loads((folder / "scan.json").read_text())
    center = tuple(about["center"])
    rings = {f"ring {i}": gpu4d.detectors.annulus(inner, outer, center=center) for i, (inner, outer) in enumerate(about["rings"])}

    cube = gpu4d.open(folder / "scan.h5")  # loading is not timed, LiberTEM's neither

    def call():
        wanted: dict[str, Reduction] = {
            "mean": gpu4d.MeanPattern(),
            "max": gpu4d.MaxPattern(),
            "images": gpu4d.VirtualImage(rings),
            "com": gpu4d.CenterOfMass(),
        }
        return gpu4d.sweep(cube, wanted, device="cpu", progress=False)

    return call, lambda found: {name: np.asarray(found[name]) for name in ("mean", "max", "images", "com")}


def read(folder) -> Prepared:
    """One thread reads the same pages: the largest of the file's bytes taken as 64-bit words. No peer, but the floor."""
    import h5py

    with h5py.File(folder / "scan.h5") as file:
        data = file["data"]
        words = np.memmap(folder / "scan.h5", np.uint64, "r", data.id.get_offset(), (data.size // 4,))

    def call():
        return words.max()

    return call, lambda largest: {"largest": np.asarray(largest)}


def ssb(folder) -> Prepared:
    about = json.loads((folder / "scan.json").read_text())
    cube = gpu4d.open(folder / "scan.h5")
    cube = gpu4d.DataCube(np.asarray(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1]))))
    cube.calibration.set(
        energy=about["energy"], semiangle=about["semiangle"], q_pixel=about["q_pixel"], r_pixel=about["r_pixel"], how="simulation"
    )

    def call():
        return gpu4d.ssb(cube, mode="exact", origin=tuple(about["center"]), progress=False)

    return call, lambda found: {
        "phase": np.asarray(found.phase),
        "transmission": np.asarray(found.transmission),
        "incident": found.incident,
    }


def dpc(folder) -> Prepared:
    data = np.load(folder / "field.npz")
    com, q_pixel, r_pixel = data["com"], float(data["q_pixel"]), float(data["r_pixel"])

    def call():
        return gpu4d.dpc(com, rotation=0.0, transpose=False, descan=None, q_pixel=q_pixel, r_pixel=r_pixel)

    return call, lambda found: {"phase": np.asarray(found.phase)}


def measured(data) -> gpu4d.DataCube:
    """A cube with its pixel sizes; nothing else is known of it."""
    known: dict[str, Any] = {name: float(data[name]) for name in ("energy", "semiangle", "q_pixel", "r_pixel")}
    return gpu4d.DataCube(data["patterns"], gpu4d.Calibration(**known, rotation=0.0))


def parallax(folder) -> Prepared:
    with np.load(folder / "far.npz") as stored:
        cube = measured(dict(stored))

    def call():
        return gpu4d.parallax(cube, progress=False)

    return call, lambda found: {"C10": np.asarray(found.aberrations["C10"])}


def iterative(folder, sweeps) -> Prepared:
    with np.load(folder / "near.npz") as stored:
        data = dict(stored)
    cube, aberrations = measured(data), {"defocus": float(data["defocus"])}

    def call():
        return gpu4d.ptychography.reconstruct(cube, sweeps=sweeps, aberrations=aberrations, progress=False)

    return call, lambda found: {"phase": np.asarray(found.phase), "pixel": np.asarray(found.phase.pixel_size)}


def versions():
    return {"gpu4d": gpu4d.__version__, "numpy": np.__version__, "python": platform.python_version(), "threads": cpu_threads()}


if __name__ == "__main__":
    serve(
        {
            "bragg": bragg,
            "lattice": lattice,
            "orientation": orientation,
            "one pass": one_pass,
            "read": read,
            "ssb": ssb,
            "dpc": dpc,
            "parallax": parallax,
            "iterative": iterative,
        },
        versions,
    )
