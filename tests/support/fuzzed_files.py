"""Files of many layouts with some bytes changed, opened and read: what became of each. Runs in a process of its own, which may end.

``python fuzzed_files.py FOLDER`` reads numbers of cases from its input, a line each, and prints a line for each.
"""

import logging
import os
import sys
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

import gpu4d
from gpu4d.errors import Gpu4dError
from gpu4d.io import load_image, read_emd
from gpu4d.testing.example_results import example

SHAPE = (4, 6, 12, 10)
CHUNKS = {"chunks": (2, 3, 12, 10)}
SMALL = {"chunks": (1, 1, 12, 10), "maxshape": (None, None, 12, 10)}
CROSSING = {"chunks": (3, 4, 5, 7)}

H5 = {
    "contiguous": {},
    "big-endian": {"dtype": ">u2"},
    "floats": {"dtype": "f4"},
    "chunks": CHUNKS,
    "gzip": {**CHUNKS, "compression": "gzip"},
    "gzip shuffle, crossing": {**CROSSING, "compression": "gzip", "shuffle": True},
    "shuffle": {**CHUNKS, "shuffle": True},
    "lzf": {**CHUNKS, "compression": "lzf"},
    "checksum": {**CHUNKS, "fletcher32": True},
    "gzip checksum": {**CROSSING, "compression": "gzip", "fletcher32": True},
    "scale-offset": {**CHUNKS, "scaleoffset": 0},
    "bitshuffle": {**CHUNKS, **hdf5plugin.Bitshuffle(cname="none")},
    "bitshuffle lz4": {**CHUNKS, **hdf5plugin.Bitshuffle(cname="lz4")},
    "bitshuffle zstd": {**CROSSING, **hdf5plugin.Bitshuffle(cname="zstd")},
    "lz4": {**CHUNKS, **hdf5plugin.LZ4()},
    "zstd": {**CHUNKS, **hdf5plugin.Zstd()},
    "blosc": {**CHUNKS, **hdf5plugin.Blosc()},
    "growing": {**SMALL, "compression": "gzip"},
    "growing, latest": {**SMALL, "compression": "gzip", "libver": "latest"},
    "growing in one axis, latest": {"chunks": (1, 6, 12, 10), "maxshape": (None, *SHAPE[1:]), "libver": "latest"},
    "fixed, latest": {**CHUNKS, "compression": "gzip", "libver": "latest"},
    "one chunk, latest": {"chunks": SHAPE, "compression": "gzip", "libver": "latest"},
    "user block": {**CHUNKS, "compression": "gzip", "userblock_size": 1024},
}
OURS = ["result of gpu4d", "result of gpu4d, counted", "results of gpu4d"]
LAYOUTS = [*H5, "virtual", "links", "npy", "npy big-endian", "npy frames", *OURS]


def make(folder, layout):
    """Write a file of a layout. Return its path, and the arguments to open it."""
    data = np.random.default_rng(0).poisson(3, SHAPE).astype("u2")
    path = folder / f"{layout.replace(' ', '-')}.h5"
    arguments = {}
    if layout in H5:
        options = dict(H5[layout])
        with h5py.File(path, "w", **{key: options.pop(key) for key in ("libver", "userblock_size") if key in options}) as file:
            data = data.astype(options.pop("dtype", "u2"))
            d = file.create_dataset("entry/scan", data=data, **options)
            d.attrs["note"], d.attrs["energy"], file.attrs["instrument"] = "counts of a detector", 3e5, "a microscope"
            file["entry/image"] = data[0, 0]
    elif layout in ("virtual", "links"):
        with h5py.File(folder / "raw.h5", "w") as file:
            file["scan"] = data
        with h5py.File(path, "w") as file:
            if layout == "virtual":
                virtual = h5py.VirtualLayout(SHAPE, "u2")
                virtual[:2], virtual[2:] = (h5py.VirtualSource("raw.h5", "scan", SHAPE)[part] for part in (slice(2, 4), slice(0, 2)))
                file.create_virtual_dataset("scan", virtual)
            else:
                file["a/soft"], file["b/external"] = h5py.SoftLink("/b/external"), h5py.ExternalLink("raw.h5", "/scan")
        arguments = {"dataset": "scan" if layout == "virtual" else "a/soft"}
    elif layout.startswith("npy"):
        path = path.with_suffix(".npy")
        np.save(path, data.reshape(24, 12, 10) if "frames" in layout else data.astype(">u2" if "big" in layout else "u2"))
        arguments = {"scan_shape": (4, 6)} if "frames" in layout else {}
    else:
        items = {
            "bf": gpu4d.RealSlice(data.sum((2, 3)) * 1.0, units="counts"),
            "cube": gpu4d.DataCube(data, gpu4d.Calibration(q_pixel=0.02)),
        }
        if "counted" in layout:
            fields = {name: np.arange(5.0) for name in ("qx", "qy", "intensity")}
            items["disks"] = gpu4d.PointListArray(np.minimum(np.arange(25), 5), fields, SHAPE[:2])
        if layout == "results of gpu4d":  # classes with parts of every kind, and parts inside parts
            items = {name: example(name) for name in ("Origin", "LatticesFit", "Simulated", "Candidates", "RDF", "Calibration")}
        gpu4d.save(path, items, overwrite=True, settings={"a": [1, 2], "b": {"c": "text"}}, log=["one", "two"])
    return path, arguments


def change(rng, raw):
    """Return the bytes of a file with a few of them changed, most often near its beginning, or with its end cut off."""
    raw = bytearray(raw)
    kind, near = rng.integers(0, 8), int(rng.choice([600, 4096, len(raw)]))
    if kind == 0:
        return raw[: int(rng.integers(0, len(raw)))]
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(0, min(near, len(raw)))), int(rng.choice([1, 1, 2, 4, 8, 16]))
        new = {1: bytes(length), 2: b"\xff" * length, 3: rng.bytes(length)}.get(int(kind))
        raw[at : at + length] = new if new is not None else bytes(b ^ (1 << int(rng.integers(0, 8))) for b in raw[at : at + length])
    return raw


def values(cube):
    return np.asarray(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1])))


def as_hdf5_reads(path, dataset):
    """The values as h5py reads them; None if it does not."""
    try:
        with h5py.File(path) as file:
            return file[dataset][()]
    except Exception:
        return None


def one_case(folder, number, originals):
    """Say what became of a case: same, other, refused. Anything else that is raised is a fault."""
    rng, layout = np.random.default_rng(number), LAYOUTS[number % len(LAYOUTS)]
    if layout not in originals:
        path, arguments = make(folder, layout)
        originals[layout] = path, arguments, path.read_bytes()
    path, arguments, raw = originals[layout]
    bad = bytes(change(rng, raw))
    path.write_bytes(bad)
    found = []
    for job in (lambda: values(gpu4d.open(path, **arguments)), lambda: read_emd(path), lambda: load_image(f"{path}:/entry/image")):
        try:
            found.append(job())
        except Gpu4dError as error:
            if not str(error).isprintable():
                return f"fault {layout}: more than one line: {error!r}"
            found.append(None)
        except Exception as error:
            return f"fault {layout}: {type(error).__name__}: {error}".replace("\n", " ")
    if path.read_bytes() != bad:
        return f"fault {layout}: the file was written to"
    if found[0] is None:
        return "refused"
    if layout in H5 and (expected := as_hdf5_reads(path, "entry/scan")) is not None and expected.size == found[0].size:
        same = np.array_equal(found[0].reshape(-1), expected.reshape(-1), equal_nan=expected.dtype.kind == "f")
        right = np.array_equal(found[0], np.random.default_rng(0).poisson(3, SHAPE))  # where HDF5 misses a chunk that is there
        return "same" if same else "right" if right else f"other {layout}"
    return "read"


def main():
    logging.getLogger("gpu4d").setLevel(logging.CRITICAL)
    folder, originals = Path(sys.argv[1]), {}
    os.chdir(folder)
    for line in sys.stdin:
        print(one_case(folder, int(line), originals), flush=True)


if __name__ == "__main__":
    main()
