"""HDF5 files with chunks of many kinds, and the check that they are read right."""

import h5py
import numpy as np
import pytest

import gpu4d

hdf5plugin = pytest.importorskip("hdf5plugin")


SHAPE = (6, 10, 8, 12)


CHUNKINGS = [(1, 1, 8, 12), (4, 4, 8, 12), (3, 10, 4, 5), (6, 10, 8, 12), (3, 1, 5, 7)]  # whole, ragged, cut across the detector


FILTERS = {
    "bitshuffle": lambda: dict(hdf5plugin.Bitshuffle(cname="none")),
    "bitshuffle lz4": lambda: dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "bitshuffle lz4, small blocks": lambda: dict(hdf5plugin.Bitshuffle(nelems=64, cname="lz4")),
    "bitshuffle zstd": lambda: dict(hdf5plugin.Bitshuffle(cname="zstd")),
    "lz4": lambda: dict(hdf5plugin.LZ4()),
    "lz4, small blocks": lambda: dict(hdf5plugin.LZ4(nbytes=64)),
    "zstd": lambda: dict(hdf5plugin.Zstd()),
    "blosc": lambda: dict(hdf5plugin.Blosc()),
    "blosc bitshuffle zstd": lambda: dict(hdf5plugin.Blosc(cname="zstd", shuffle=2)),
    "gzip": lambda: {"compression": "gzip"},
    "shuffle gzip": lambda: {"compression": "gzip", "shuffle": True},
    "shuffle lz4": lambda: {"shuffle": True, **hdf5plugin.LZ4()},
    "shuffle zstd": lambda: {"shuffle": True, **hdf5plugin.Zstd()},
}


COMPRESSING = [name for name in FILTERS if name != "bitshuffle"]


def counts(shape=SHAPE, dtype="u2", seed=0):
    """Poisson counts and a little of everything else: compressible, but no two chunks alike."""
    generator = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    values = generator.poisson(2.0, shape).astype(np.float64)
    values[..., 0] = generator.integers(0, 100, shape[:-1])
    return (values - (3 if dtype.kind in "if" else 0)).astype(dtype)


def write(path, data, chunks, name="bitshuffle lz4", **options):
    with h5py.File(path, "w", **{k: options.pop(k) for k in ("userblock_size", "libver") if k in options}) as file:
        file.create_dataset("scan", data=data, chunks=chunks, **FILTERS[name](), **options)
    return gpu4d.open(path).source


def chunks_of(path):
    """Offset, bytes of every chunk, by the HDF5 library."""
    with h5py.File(path) as file:
        found = []
        file["scan"].id.chunk_iter(lambda chunk: found.append((chunk.chunk_offset, chunk.byte_offset, chunk.size)))
    return found


def check(source, expected):
    for rows, columns in [(slice(0, 6), slice(0, 10)), (slice(1, 5), slice(2, 9)), (slice(5, 6), slice(9, 10)), (slice(0, 4), slice(4, 8))]:
        want = expected[rows, columns]
        np.testing.assert_array_equal(source.read(rows, columns), want)
        buffer = np.full(want.shape, 77, source.dtype)
        assert source.read(rows, columns, buffer) is buffer
        np.testing.assert_array_equal(buffer, want)
        wide = np.full((*want.shape[:3], want.shape[3] + 3), 77, source.dtype)  # a buffer with gaps between its rows
        source.read(rows, columns, wide[..., 1:-2])
        np.testing.assert_array_equal(wide[..., 1:-2], want)
        assert (wide[..., 0] == 77).all() and (wide[..., -2:] == 77).all()
