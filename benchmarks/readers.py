"""Measure how fast files of detectors are read, as a share of a floor in the same run.

    python -m benchmarks.readers [--only dectris velox …] [--megabytes 256] [--rounds 7] [--threads 2] [--write]

A file of each format is made from its description. All its patterns are read into buffers that are used again, by threads that take blocks
in turn. The floor is the same loop over a plain file of the same patterns, mapped; for compressed files it is h5py reading the same
datasets. Rounds are interleaved, the files are in the page cache, and every value is compared before anything is timed.
With `--write` the ratios go into `results/readers.json`, from which the table of formats in the documentation is made.

A format adds a function to `CASES`: it writes a file of about so many megabytes into a folder, and returns its path, the patterns
(Rx, Ry, Qx, Qy), and what `gpu4d.open` is told.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import gpu4d
from gpu4d.data.source import Source
from gpu4d.io.sources.mapped import MappedSource

RESULTS = Path(__file__).parent / "results" / "readers.json"
BLOCK_BYTES = 8 << 20  # of patterns that a thread reads at a time
Written = tuple[Path, np.ndarray, dict[str, Any]]
Case = Callable[[Path, int], Written]
CASES: dict[str, Case] = {}
LIBRARY: dict[str, Callable[[Path], Callable[[], None]]] = {}  # floors that are not a mapped file: makes the loop to be timed


def case(name: str) -> Callable[[Case], Case]:
    """Add a case to the registry."""

    def add(write: Case) -> Case:
        CASES[name] = write
        return write

    return add


def counts(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    """Return Poisson counts of a bright disk that wanders, and a tail: 64 different patterns, repeated."""
    generator = np.random.default_rng(0)
    x, y = np.meshgrid(*(np.arange(n) - n / 2 for n in shape[2:]), indexing="ij")
    some = [
        generator.poisson(20.0 * (np.hypot(x - 3 * np.sin(k), y - 3 * np.cos(k)) < shape[2] / 9) + 2.0 * np.exp(-np.hypot(x, y) / 30))
        for k in range(64)
    ]
    number = np.arange(shape[0] * shape[1]) % 64
    return np.array(some, dtype)[number].reshape(shape)


def scan_of(megabytes: int, detector: tuple[int, int], itemsize: int) -> tuple[int, int, int, int]:
    """Return the shape of a scan of 64 columns with about so many bytes."""
    return max(2, round(megabytes * 1e6 / (64 * detector[0] * detector[1] * itemsize))), 64, *detector


# ---------------------------------------------------------------- formats


@case("dectris")
def dectris(folder: Path, megabytes: int) -> Written:
    """ARINA: bitshuffle and LZ4, one pattern a chunk, in files of 1000 patterns."""
    import h5py
    import hdf5plugin

    values = counts(scan_of(megabytes, (192, 192), 2))
    frames, in_a_file = values.reshape(-1, 192, 192), 1000
    with h5py.File(folder / "a_master.h5", "w") as file:
        data, _ = file.create_group("entry/data"), file.create_group("entry/instrument/detector/detectorSpecific")
        for k, first in enumerate(range(0, len(frames), in_a_file), 1):
            name, part = f"a_data_{k:06d}.h5", frames[first : first + in_a_file]
            data[f"data_{k:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            with h5py.File(folder / name, "w") as other:
                other.create_dataset("entry/data/data", data=part, chunks=(1, 192, 192), **hdf5plugin.Bitshuffle(cname="lz4"))
    return folder / "a_master.h5", values, {"scan_shape": values.shape[:2]}


def by_h5py(master: Path) -> Callable[[], None]:
    """Return a loop in which h5py reads the data files of a DECTRIS scan, a hundred patterns at a time."""
    import h5py
    import hdf5plugin  # noqa: F401  registers the filter

    with h5py.File(master) as file:
        group = file["entry/data"]
        parts = [h5py.File(master.parent / group.get(name, getlink=True).filename)["entry/data/data"] for name in group]
    buffer = np.empty((100, *parts[0].shape[1:]), parts[0].dtype)

    def read() -> None:
        for part in parts:
            for first in range(0, len(part), 100):
                stop = min(first + 100, len(part))
                part.read_direct(buffer, np.s_[first:stop], np.s_[: stop - first])

    return read


LIBRARY["dectris"] = by_h5py


def by_h5py_in_chunks(name: str) -> Callable[[Path], Callable[[], None]]:
    """Return what makes a loop in which h5py reads a dataset (Rx, Ry, Qx, Qy) along its chunks."""

    def loop(path: Path) -> Callable[[], None]:
        import h5py

        dataset = h5py.File(path)[name]
        rows, columns = dataset.chunks[:2]
        buffer = np.empty((rows, columns, *dataset.shape[2:]), dataset.dtype)

        def read() -> None:
            for r, c in itertools.product(range(0, dataset.shape[0], rows), range(0, dataset.shape[1], columns)):
                part = np.s_[r : min(r + rows, dataset.shape[0]), c : min(c + columns, dataset.shape[1])]
                dataset.read_direct(buffer, part, np.s_[: part[0].stop - r, : part[1].stop - c])

        return read

    return loop


@case("velox")
def velox(folder: Path, megabytes: int) -> Written:
    """Velox: a chunk for each frame, and frames last."""
    import h5py

    values = counts(scan_of(megabytes, (512, 512), 2), "int16")
    with h5py.File(folder / "a.emd", "w") as file:
        file["Version"] = np.bytes_("8")
        layout = {"chunks": (512, 512, 1), "maxshape": (512, 512, None)}
        data = file.create_dataset("Data/Image/a/Data", (512, 512, values.shape[0] * values.shape[1]), "int16", **layout)
        for n, frame in enumerate(values.reshape(-1, 512, 512)):
            data[:, :, n] = frame
        said = b'{"BinaryResult": {"AcquisitionUnit": "CameraImage"}}'
        file["Data/Image/a/Metadata"] = np.frombuffer(said, "uint8")[:, None]
    return folder / "a.emd", values, {"scan_shape": values.shape[:2]}


@case("topspin")
def topspin(folder: Path, megabytes: int) -> Written:
    """Topspin: a dataset for each pattern."""
    import h5py

    values = counts(scan_of(megabytes, (256, 256), 4), "float32")
    with h5py.File(folder / "a.app5", "w") as file:
        file["Metadata"], file["Version"] = np.bytes_("<Metadata/>"), np.bytes_("1")
        for n, frame in enumerate(values.reshape(-1, 256, 256)):
            file[f"a/{n}/Data"] = frame
            file[f"a/{n}/Metadata"] = np.bytes_("x" * 1400)
    return folder / "a.app5", values, {"scan_shape": values.shape[:2]}


@case("hyperspy")
def hyperspy(folder: Path, megabytes: int) -> Written:
    """HyperSpy: gzip and shuffle, in chunks of 8×8 patterns."""
    import h5py

    values = counts(scan_of(megabytes, (128, 128), 2))
    with h5py.File(folder / "a.hspy", "w") as file:
        layout = {"chunks": (8, 8, 128, 128), "compression": "gzip", "compression_opts": 4, "shuffle": True}
        file.create_dataset("Experiments/a/data", data=values, **layout)
    return folder / "a.hspy", values, {}


LIBRARY["hyperspy"] = by_h5py_in_chunks("Experiments/a/data")


def merlin_headers(frames: int, kind: str, columns: int, rows: int, depth: int) -> list[bytes]:
    """Return headers of Merlin patterns of one chip."""
    head = "MQ1,{:06d},00384,01,{:04d},{:04d},{},   1x1,01,2021-04-15 14:44:00.{:06d},0.001000,MQ1A,,,{},"
    return [head.format(n + 1, columns, rows, kind, n, depth).encode().ljust(384, b"\0") for n in range(frames)]


@case("merlin")
def merlin(folder: Path, megabytes: int) -> Written:
    """Merlin: 12 bit, counted, the highest byte and the last row first, a header before each pattern."""
    values = counts(scan_of(megabytes, (256, 256), 2))
    frames = values.reshape(-1, 256, 256)
    with open(folder / "a.mib", "wb") as file:
        for header, frame in zip(merlin_headers(len(frames), "U16", 256, 256, 12), frames):
            file.write(header + frame[::-1].astype(">u2").tobytes())
    return folder / "a.mib", values, {"scan_shape": values.shape[:2]}


@case("merlin RAW 6 bit")
def merlin_raw(folder: Path, megabytes: int) -> Written:
    """Merlin RAW: the last of eight pixels first."""
    values = np.minimum(counts(scan_of(megabytes, (256, 256), 1)), 63).astype(np.uint8)
    frames = values.reshape(-1, 256, 256)
    with open(folder / "a.mib", "wb") as file:
        for header, frame in zip(merlin_headers(len(frames), "R64", 256, 256, 6), frames):
            file.write(header + frame[::-1].reshape(-1, 8)[:, ::-1].tobytes())
    return folder / "a.mib", values, {"scan_shape": values.shape[:2]}


@case("merlin RAW 1 bit")
def merlin_bits(folder: Path, megabytes: int) -> Written:
    """Merlin RAW: a bit a pixel, the last of 64 pixels first. The file has an eighth of the bytes of its patterns."""
    values = (counts(scan_of(megabytes, (256, 256), 1)) > 2).astype(np.uint8)
    frames = values.reshape(-1, 256, 256)
    with open(folder / "a.mib", "wb") as file:
        for header, frame in zip(merlin_headers(len(frames), "R64", 256, 256, 1), frames):
            file.write(header + np.packbits(frame[::-1], bitorder="little").reshape(-1, 8)[:, ::-1].tobytes())
    return folder / "a.mib", values, {"scan_shape": values.shape[:2]}


@case("empad")
def empad(folder: Path, megabytes: int) -> Written:
    """EMPAD: two rows that are no pixels behind each pattern."""
    values = counts(scan_of(megabytes, (128, 128), 4), "float32")
    path = folder / f"scan_x{values.shape[1]}_y{values.shape[0]}.raw"
    with open(path, "wb") as file:
        for frame in values.reshape(-1, 128, 128):
            file.write(frame.tobytes() + bytes(1024))
    return path, values, {}


@case("raw")
def raw(folder: Path, megabytes: int) -> Written:
    """Plain numbers behind a header each."""
    values = counts(scan_of(megabytes, (256, 256), 2))
    with open(folder / "a.raw", "wb") as file:
        for frame in values.reshape(-1, 256, 256):
            file.write(bytes(256) + frame.tobytes())
    return folder / "a.raw", values, {"layout": gpu4d.RawLayout(values.shape, "uint16", 256, 256)}


@case("zarr")
def zarr_shards(folder: Path, megabytes: int) -> Written:
    """Sharded zarr 3, chunks of about 1 MB with Blosc (bitshuffle, LZ4), as `gpu4d convert` writes it."""
    values = counts(scan_of(megabytes, (128, 128), 2))
    gpu4d.convert(values, folder / "scan.zarr", verify=False)
    return folder / "scan.zarr", values, {}


def by_zarr_python(path: Path) -> Callable[[], None]:
    """Return a loop in which zarr-python reads a few rows of the scan at a time, with its own threads."""
    import zarr

    array = zarr.open_array(path, mode="r")
    rows = max(1, BLOCK_BYTES // (array.nbytes // array.shape[0]))

    def read() -> None:
        for first in range(0, array.shape[0], rows):
            array[first : first + rows]

    return read


LIBRARY["zarr"] = by_zarr_python

# ---------------------------------------------------------------- measurement


def blocks(source: Source) -> list[tuple[slice, slice]]:
    """Return rectangles of whole natural blocks and about `BLOCK_BYTES`, in the order of the scan."""
    rows, columns = source.blocks
    frame = int(np.prod(source.shape[2:])) * np.dtype(source.dtype).itemsize
    columns = min(source.shape[1], columns * max(1, BLOCK_BYTES // (rows * columns * frame)))
    firsts = itertools.product(range(0, source.shape[0], rows), range(0, source.shape[1], columns))
    return [(slice(r, min(r + rows, source.shape[0])), slice(c, min(c + columns, source.shape[1]))) for r, c in firsts]


def by_gpu4d(source: Source, threads: int) -> Callable[[], None]:
    """Return a loop in which threads read all patterns into buffers of their own."""
    todo = blocks(source)
    first = todo[0]
    shape = (first[0].stop, first[1].stop, *source.shape[2:])
    buffers = [np.empty(shape, source.dtype) for _ in range(threads)]

    def work(k: int) -> None:
        for rows, columns in todo[k::threads]:
            buffer = buffers[k][: rows.stop - rows.start, : columns.stop - columns.start]
            got = source.read(rows, columns, buffer)
            if got is not buffer:
                np.copyto(buffer, got)

    pool = ThreadPoolExecutor(threads)

    def read() -> None:
        list(pool.map(work, range(threads)))

    return read


def measure(name: str, megabytes: int, rounds: int, threads: int) -> tuple[str, str]:
    """Return one line, rate of a format, of its floor, and their ratio; and the ratio in words."""
    with tempfile.TemporaryDirectory() as folder:
        path, values, told = CASES[name](Path(folder), megabytes)
        began = time.perf_counter()
        source = gpu4d.open(path, **told).source
        opened = time.perf_counter() - began
        for row in range(values.shape[0]):
            got = source.read(slice(row, row + 1), slice(0, values.shape[1]))
            assert np.array_equal(got[0], values[row]), f"{name}: row {row} is read wrongly"
        if name in LIBRARY:
            floor, floor_name = LIBRARY[name](path), LIBRARY[name].__name__.removeprefix("by_").replace("_", "-")
        else:
            np.save(Path(folder) / "plain.npy", values)
            plain = gpu4d.open(Path(folder) / "plain.npy").source
            assert isinstance(plain, MappedSource)
            floor, floor_name = by_gpu4d(plain, threads), "mapped"
        ways = {name: by_gpu4d(source, threads), floor_name: floor}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, read in ways.items():
                began = time.perf_counter()
                read()
                if number:  # the first round fills caches
                    seconds[way].append(time.perf_counter() - began)
        rates = {way: values.nbytes / statistics.median(took) / 1e9 for way, took in seconds.items()}
        ratios = sorted(b / a for a, b in zip(seconds[name], seconds[floor_name]))
        words = f"{statistics.median(ratios):.2f}" + (" × h5py" if floor_name == "h5py" else "")
        line = (
            f"{name:12} {rates[name]:6.2f} GB/s   {floor_name} {rates[floor_name]:6.2f} GB/s   ratio {words} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})   opened in {1e3 * opened:.0f} ms   {source.description}"
        )
        return line, words


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write the ratios, beside those of formats that are not measured")
    given = parser.parse_args()
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in given.only:
        line, known[name] = measure(name, given.megabytes, given.rounds, given.threads)
        print(line, flush=True)
    if given.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
