"""What the chunks of a file may change: how often bytes are read. Results have the same bits for every chunking, memory and device."""

import operator
from typing import ClassVar

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.io.sources.codecs import Inflate
from gpu4d.streaming import SumReduction, plan, tiles
from gpu4d.streaming.tiles import LARGEST_NATURAL_TILE, TILE_BYTES, cut, segment_of


class Squares(SumReduction):
    """Sum of the squares of all patterns, as another package may write it."""

    sums: ClassVar = {"squares": operator.add}

    def bytes_needed(self, scan, n_frames):
        return self.held_bytes(scan, 8 * scan.shape[2] * scan.shape[3]) + 8 * n_frames * scan.shape[2] * scan.shape[3]

    def update(self, frames, positions):
        self.add(positions, squares=(frames.astype(np.float64) ** 2).sum(0))

    def finish(self):
        return self.result("squares")


def floats(shape, seed=0):
    """Values of very different size: sums in another order have other last bits."""
    rng = np.random.default_rng(seed)
    return (rng.random(shape) * rng.choice([1e-6, 1.0, 1e6], (*shape[:2], 1, 1))).astype("f4")


def asked(scan_shape):
    weights = np.random.default_rng(1).random(scan_shape)
    origin = 3 + np.random.default_rng(2).random((*scan_shape, 2))
    return {
        "mean": gpu4d.MeanPattern(),
        "weighted": gpu4d.MeanPattern(weights=weights),
        "aligned": gpu4d.MeanPattern(origin=origin),
        "squares": Squares(),
        "max": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
    }


def bits(cube, **options):
    return {name: np.asarray(one).tobytes() for name, one in gpu4d.sweep(cube, asked(cube.scan_shape), **options).items()}


def in_chunks(path, data, chunks, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("scan", data=data, chunks=chunks, **options)
    return gpu4d.open(path)


CHUNKS = [
    (1, 1, 16, 12), (5, 7, 16, 12), (3, 3, 3, 3), (24, 20, 4, 4), (4, 20, 16, 12),
    (24, 1, 16, 12), (1, 20, 8, 12), (7, 3, 16, 5), (2, 13, 1, 12), (24, 20, 16, 12), (23, 19, 2, 12),
]  # fmt: skip


@pytest.mark.parametrize(
    "tile_bytes",
    [
        pytest.param(TILE_BYTES, id="whole rows"),
        pytest.param(768 * 24, id="parts of rows"),
        pytest.param(768 * 5, id="few patterns", marks=pytest.mark.slow),
    ],
)
def test_the_same_bits_for_every_chunking_of_a_file(tmp_path, monkeypatch, tile_bytes):
    """With tiles of the usual size, and with smaller ones, which stand for larger patterns."""
    monkeypatch.setattr(tiles, "TILE_BYTES", tile_bytes)
    monkeypatch.setattr(tiles, "LARGEST_NATURAL_TILE", 16 * tile_bytes)
    data = floats((24, 20, 16, 12))
    wanted = bits(gpu4d.DataCube(data))
    for n, chunks in enumerate(CHUNKS):
        cube = in_chunks(tmp_path / f"{n}.h5", data, chunks)
        for memory in ("1 GB", "3 MB", "1 MB"):
            try:
                assert bits(cube, memory=memory) == wanted, (chunks, memory)
            except gpu4d.errors.MemoryBudgetError:
                assert memory != "1 GB"
    where = np.random.default_rng(3).random((24, 20)) < 0.3
    assert bits(gpu4d.DataCube(data), where=where) == bits(in_chunks(tmp_path / "w.h5", data, (5, 7, 16, 12)), where=where)


@pytest.mark.slow
def test_the_same_bits_for_random_shapes_and_chunks(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    for n in range(16):
        shape = tuple(int(k) for k in (*rng.integers(1, 40, 2), *rng.integers(7, 20, 2)))
        data = floats(shape, n)
        monkeypatch.setattr(tiles, "TILE_BYTES", int(data[0, 0].nbytes * rng.integers(1, 60)))
        monkeypatch.setattr(tiles, "LARGEST_NATURAL_TILE", int(data[0, 0].nbytes * rng.integers(60, 400)))
        wanted = bits(gpu4d.DataCube(data))
        for k in range(3):
            chunks = tuple(int(rng.integers(1, s + 1)) for s in shape)
            assert bits(in_chunks(tmp_path / f"{n}{k}.h5", data, chunks)) == wanted, (shape, chunks)
        assert bits(gpu4d.DataCube(data.astype(">f4"))) == wanted


def test_tiles_shrink_to_one_segment_before_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 768 * 24)  # segments of four patterns
    data = floats((24, 20, 16, 12))
    wanted, cubes = (
        bits(gpu4d.DataCube(data)),
        (in_chunks(tmp_path / "f.h5", data, (4, 5, 16, 12)), in_chunks(tmp_path / "g.h5", data, (1, 1, 16, 12))),
    )
    for cube in cubes:
        seen, memory = set[int](), 3_000_000
        with pytest.raises(gpu4d.errors.MemoryBudgetError):
            while True:
                frames = plan(cube, asked((24, 20)), memory=memory).cut.frames
                assert frames in seen or bits(cube, memory=memory) == wanted, memory
                seen.add(frames)
                memory = int(0.98 * memory)
        assert min(seen) == segment_of(768) == 4 and len(seen) > 2


def test_sums_are_those_of_exact_arithmetic():
    data = floats((13, 9, 8, 6))
    mean = np.asarray(gpu4d.sweep(gpu4d.DataCube(data), gpu4d.MeanPattern()))
    np.testing.assert_allclose(mean, data.astype(np.longdouble).mean((0, 1)).astype(float), rtol=1e-14)


# ---------------------------------------------------------------- how often a chunk is decoded


def decoded(monkeypatch, cube, **options):
    """How many chunks are decoded in one sweep."""
    done, undo = [], Inflate.undo
    monkeypatch.setattr(Inflate, "undo", lambda self, packed, out: (done.append(1), undo(self, packed, out))[1])
    found = gpu4d.sweep(cube, gpu4d.MeanPattern(), **options)
    monkeypatch.setattr(Inflate, "undo", undo)
    return len(done), np.asarray(found)


@pytest.mark.parametrize("chunks", [(32, 32, 32, 32), (16, 32, 64, 128), (40, 24, 64, 64), (40, 5, 128, 128)])
def test_a_chunk_is_decoded_once_where_memory_allows_it(tmp_path, monkeypatch, chunks):
    monkeypatch.setattr(tiles, "LARGEST_NATURAL_TILE", 4 << 20)  # stands for blocks above 64 MB
    data = np.random.default_rng(0).poisson(0.02, (40, 32, 128, 128)).astype("u2")
    cube = in_chunks(tmp_path / "a.h5", data, chunks, compression="gzip", compression_opts=1)
    count = int(np.prod([-(-n // c) for n, c in zip(data.shape, chunks)]))
    todo = plan(cube, {"mean": gpu4d.MeanPattern()}, memory="1 GB")
    assert todo.cut.amplification == 1 and todo.bytes <= 1e9 and "larger than a tile" not in " ".join(todo.describe())
    often, mean = decoded(monkeypatch, cube, memory="1 GB")
    assert often == count
    np.testing.assert_array_equal(mean, data.mean((0, 1)))
    little = plan(cube, {"mean": gpu4d.MeanPattern()}, memory="40 MB")
    often, mean = decoded(monkeypatch, cube, memory="40 MB")
    assert little.bytes <= 40e6 and little.cut.amplification < 32 and count <= often <= 2 * little.cut.amplification * count
    np.testing.assert_array_equal(mean, data.mean((0, 1)))


def test_tiles_cover_whole_segments_and_blocks_are_read_as_often_as_the_plan_says():
    rng = np.random.default_rng(5)
    for _ in range(1000):
        shape = tuple(int(n) for n in (*rng.integers(1, 300, 2), 1, 1))
        frame, block = int(2 ** rng.uniform(3, 27)), tuple(int(n) for n in 2 ** rng.uniform(0, 8, 2))
        largest = int(rng.choice([TILE_BYTES, LARGEST_NATURAL_TILE, 1 << 30]))
        pieces = cut(shape, frame, block, largest=largest)
        segment = min(segment_of(frame), shape[1])
        assert pieces.segment == segment and (pieces.columns % segment == 0 or pieces.columns == shape[1])
        bx, by = min(block[0], shape[0]), min(block[1], shape[1])
        assert pieces.rows % bx == 0 or bx % pieces.rows == 0 or pieces.rows == shape[0]
        least = segment * frame
        assert pieces.rows * pieces.columns * frame <= max(largest, TILE_BYTES, least), (shape, frame, block)
        reads = {}
        for x in range(0, shape[0], pieces.rows):
            for y in range(0, shape[1], pieces.columns):
                last = min(x + pieces.rows, shape[0]) - 1, min(y + pieces.columns, shape[1]) - 1
                for i in range(x // bx, last[0] // bx + 1):
                    for j in range(y // by, last[1] // by + 1):
                        reads[i, j] = reads.get((i, j), 0) + 1
        often = sum(reads.values()) / len(reads)
        assert often <= pieces.amplification * (1 + 1e-9) and (often == 1 or pieces.amplification > 1)
