"""A day at a microscope of 200 kV: a folder of small simulated scans of several kinds and formats, and of files that are none.

Each scan has what physics says of it: the technique that suits it, words of its headline, results that it must have, and some that it
cannot have.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from spot_scenes import disk

import gpu4d

ENERGY = 200e3  # eV
SIDE = 96  # pixels along a side of most detectors here
GOLD = np.sqrt([3.0, 4.0, 8.0, 11.0])  # radii of the rings of a face-centred cubic metal, of those below 111 … 311, in 1/a
EMPAD_XML = (
    '<root><software_version>1.2.2</software_version><raw_file filename="{raw}"/><pix_x>{y}</pix_x><pix_y>{x}</pix_y>'
    "<iom_measurements><high_voltage>200000.0</high_voltage></iom_measurements></root>"
)


@dataclass(frozen=True)
class Expected:
    """What a batch should make of a file.

    Attributes
    ----------
    technique : str
        Empty for a file that is no scan.
    says : str
        Words of its headline, or of the reason why it failed or was skipped.
    makes, without : tuple of str
        Results that its file has, and that it does not have.
    """

    technique: str = ""
    says: str = ""
    makes: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


STRAINED = ("braggvectors", "strain", "bf", "mean_pattern")
NO_CRYSTAL = ("strain", "braggvectors")
NO_PHASE = ("dpc_phase",)
SCANS = {
    "alloy.h5": Expected("bragg", "train", STRAINED, NO_PHASE),
    "empad_alloy.raw": Expected("bragg", "train", STRAINED, NO_PHASE),
    "merlin_alloy.mib": Expected("bragg", "train", STRAINED, NO_PHASE),
    "grains.npy": Expected("bragg", "everal grains or phases", ("braggvectors", "bf"), NO_PHASE),
    "atoms.emd": Expected("dpc", "hase", ("dpc_phase", "com", "bf"), NO_CRYSTAL),
    "atoms_float.h5": Expected("dpc", "hase", ("dpc_phase", "com", "bf"), NO_CRYSTAL),
    "lorentz.h5": Expected("dpc", "hase", ("com", "bf"), NO_CRYSTAL),
    "glass.h5": Expected("amorphous", "amorphous", ("mean_pattern", "bf"), (*NO_CRYSTAL, *NO_PHASE)),
    "gold_standard.h5": Expected("images", "many small crystals", ("mean_pattern", "bf"), (*NO_CRYSTAL, *NO_PHASE)),
    "shutter_closed.npy": Expected("images", "empty scan", ("mean_pattern",), (*NO_CRYSTAL, *NO_PHASE)),
    "raw_frames.h5": Expected("images", "count them first", ("mean_pattern",), (*NO_CRYSTAL, *NO_PHASE)),
    "two_scans.h5:/first": Expected("bragg", "train", STRAINED, NO_PHASE),
    "two_scans.h5:/second": Expected("amorphous", "amorphous", ("mean_pattern",), (*NO_CRYSTAL, *NO_PHASE)),
}
FAILED = {"cut_short.h5": Expected(says="truncated"), "empty.mib": Expected(says="empty")}
SKIPPED = {"notes.txt": Expected(says="not a scan"), "empad_alloy.xml": Expected(says="belongs to empad_alloy.raw")}


def write_day(folder: Path) -> None:
    """Write all files into a folder."""
    alloy = crystal(3).astype("uint16")
    _hdf5(folder / "alloy.h5", scan=alloy)
    _empad(folder / "empad_alloy.raw", crystal(4, (128, 128), scan=(6, 6)))
    merlin(folder / "merlin_alloy.mib", crystal(5, scan=(8, 8)).astype("uint8"))
    np.save(folder / "grains.npy", grains().astype("uint32"))
    gpu4d.save(folder / "atoms.emd", {"datacube": atoms(2e4)})
    _hdf5(folder / "atoms_float.h5", scan=atoms(None).source.array.astype("f4"))
    _hdf5(folder / "lorentz.h5", scan=lorentz().astype("uint16"))
    _hdf5(folder / "glass.h5", scan=glass(6).astype("uint16"))
    _hdf5(folder / "gold_standard.h5", scan=gold().astype("uint16"))
    np.save(folder / "shutter_closed.npy", np.random.default_rng(7).poisson(2.0, (8, 8, SIDE, SIDE)).astype("uint8"))
    _hdf5(folder / "raw_frames.h5", scan=gpu4d.simulate.raw_frames((6, 6), (SIDE, SIDE), occupancy=0.01, seed=8).cube.source.array)
    _hdf5(folder / "two_scans.h5", first=crystal(9, scan=(8, 6)).astype("uint16"), second=glass(10).astype("uint16"))
    whole = (folder / "alloy.h5").read_bytes()
    (folder / "cut_short.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mib").write_bytes(b"")
    (folder / "notes.txt").write_text("Tuesday: alloy, glass, gold\n")
    (folder / ".autosave.h5").write_text("")


def crystal(seed, detector=(SIDE, SIDE), scan=(10, 8)):
    """A strained crystal whose disks do not touch."""
    made = gpu4d.simulate.bragg_scan(scan, detector, spacing=18.0, radius=5.0, dose=60.0, strain_size=0.01, seed=seed)
    return made.cube.source.array


def grains():
    """Two grains beside each other, of one lattice in two orientations."""
    halves = [
        gpu4d.simulate.bragg_scan((10, 5), (SIDE, SIDE), spacing=18.0, radius=5.0, dose=60.0, strain_size=0.0, angle=angle, seed=seed)
        for seed, angle in ((11, 5.0), (12, 35.0))
    ]
    return np.concatenate([half.cube.source.array for half in halves], axis=1)


def atoms(dose):
    """A thin object with atoms: no disk beside the bright-field disk."""
    return gpu4d.simulate.phase_object_scan((24, 24), (32, 32), r_pixel=0.4, energy=ENERGY, semiangle=15.0, dose=dose, seed=1).cube


def lorentz():
    """A sharp disk of a parallel beam that two magnetic domains deflect to opposite sides."""
    x = np.arange(16)
    shift = 0.8 * np.tanh((x - 7.5) / 1.5)
    means = np.stack([60 * disk((48, 48), (23.6, 23.4 + by), 10.0) + 0.02 for by in shift])
    return np.random.default_rng(2).poisson(np.broadcast_to(means[:, None], (16, 16, 48, 48)))


def glass(seed):
    """A glass: one diffuse ring."""
    return gpu4d.simulate.amorphous_scan((8, 8), (SIDE, SIDE), seed=seed).cube.source.array


def gold():
    """A standard of gold: sharp spots of many small crystals on rings."""
    shape, center, radius = (128, 128), (63.6, 63.3), 1.2
    rng, mean = np.random.default_rng(3), np.full((8, 8, *shape), 0.03)
    for ring, strength in zip(GOLD * 30 / GOLD[0], (40, 20, 12, 10)):
        for place in np.ndindex(8, 8):
            for turn in rng.uniform(0, 2 * np.pi, 14):
                mean[place] += strength * disk(shape, (center[0] + ring * np.cos(turn), center[1] + ring * np.sin(turn)), radius)
    return rng.poisson(mean + 1500 * disk(shape, center, radius))


def _hdf5(path, **scans):
    with h5py.File(path, "w") as file:
        for name, values in scans.items():
            file[name] = values


def _empad(path, values):
    """Write patterns as an EMPAD does: 128 rows of pixels, then two of numbers that are none, and an XML file beside them."""
    x, y = values.shape[:2]
    rows = np.zeros((x, y, 130, 128), "<f4")
    rows[:, :, :128] = values
    path.write_bytes(rows.tobytes())
    path.with_suffix(".xml").write_text(EMPAD_XML.format(raw=path.name, x=x, y=y))


def merlin(path, values):
    """Write patterns as a Merlin does, the last row of each first, with time stamps a millisecond apart and a pause after each row."""
    begin = datetime.datetime(2026, 12, 1, 9, 30)
    with open(path, "wb") as file:
        for number, (at, picture) in enumerate((place, values[place]) for place in np.ndindex(values.shape[:2])):
            stamp = (begin + datetime.timedelta(milliseconds=number + 5 * at[0])).strftime("%Y-%m-%d %H:%M:%S.%f")
            head = f"MQ1,{number + 1:06d},00384,01,{values.shape[3]:04d},{values.shape[2]:04d},U08,   1x1,01,{stamp},0.001000,0,0,0,"
            file.write(head.encode().ljust(384, b"\0") + picture[::-1].astype("u1").tobytes())
