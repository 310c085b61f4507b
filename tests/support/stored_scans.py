"""Scans in files, and the check that a source gives what h5py or NumPy would."""

import h5py
import numpy as np

SHAPE = (6, 10, 8, 12)


CUTS = [(slice(0, 6), slice(0, 10)), (slice(1, 5), slice(2, 9)), (slice(5, 6), slice(9, 10)), (slice(2, 4), slice(0, 10))]


def counts(shape=SHAPE, dtype=np.uint16, seed=0):
    generator = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        return generator.normal(size=shape).astype(dtype)
    low, high = (0, 200) if dtype.kind == "u" else (-100, 100)
    return generator.integers(low, high, shape).astype(dtype)


def check_source(source, expected):
    """Every cut, with and without a buffer, equals the array; the buffer is used unless the source is resident."""
    assert source.shape == expected.shape
    assert source.dtype.isnative and source.dtype.kind in "iuf"
    for rows, columns in CUTS:
        if rows.stop > expected.shape[0] or columns.stop > expected.shape[1]:
            continue
        want = expected[rows, columns]
        np.testing.assert_array_equal(source.read(rows, columns), want)
        buffer = np.full(want.shape, 77, source.dtype)
        got = source.read(rows, columns, buffer)
        np.testing.assert_array_equal(got, want)
        assert source.resident or got is buffer


def write(path, data, name="scan", **options):
    with h5py.File(path, "w", **{k: options.pop(k) for k in ("userblock_size", "libver") if k in options}) as file:
        return file.create_dataset(name, data=data, **options).name
