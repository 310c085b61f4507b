"""Where HDF5 says that chunks are, files that are damaged, and the hint of what is read next. Damage is never a crash."""

import itertools
import os
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
from chunked_files import COMPRESSING, FILTERS, SHAPE, chunks_of, counts, hdf5plugin, write

import gpu4d
from gpu4d.data.source import will_read
from gpu4d.errors import InputError
from gpu4d.io.sources.chunk_index import chunk_index

# ---------------------------------------------------------------- where HDF5 says that chunks are


@pytest.mark.parametrize("name", [None, "gzip", "bitshuffle lz4"])
@pytest.mark.parametrize("state", ["full", "partly written", "enlarged", "shrunk"])
def test_chunks_are_found_whatever_the_dataset_may_grow_to(tmp_path, monkeypatch, name, state):
    """Every pattern of axes that are fixed, may double, or grow without end; HDF5 itself reports some of these chunks at wrong places."""
    monkeypatch.setitem(FILTERS, None, dict)
    shape, chunks, data = (8, 8, 4, 4), (4, 2, 2, 4), counts((8, 8, 4, 4), seed=3)
    every = list(itertools.product("fixed doubled endless".split(), repeat=4))
    for growth in every if name is None else every[::4]:  # a filter adds sizes to the same places
        most = tuple({"fixed": n, "doubled": 2 * n, "endless": None}[g] for n, g in zip(shape, growth))
        path = tmp_path / f"{'-'.join(growth)}.h5"
        with h5py.File(path, "w", libver="latest") as file:
            grows = [g != "fixed" for g in growth]
            first = [n // 2 if g and state == "enlarged" else 2 * n if g and state == "shrunk" else n for n, g in zip(shape, grows)]
            dataset = file.create_dataset("scan", tuple(first), "u2", chunks=chunks, maxshape=most, fillvalue=9, **FILTERS[name]())
            if state == "partly written":
                dataset[:, 2:6] = data[:, 2:6]
                dataset[4:] = data[4:]
            elif state == "full":
                dataset[...] = data
            else:
                dataset[tuple(slice(0, min(n, m)) for n, m in zip(first, shape))] = data[tuple(slice(0, n) for n in first)]
                dataset.resize(shape)
                dataset[4:] = data[4:]
        with h5py.File(path) as file:
            expected = file["scan"][...]
        source = gpu4d.open(path).source
        np.testing.assert_array_equal(source.read(slice(0, 8), slice(0, 8)), expected, err_msg=str(most))
        if growth.count("endless") != 1 or most[0] is None:
            assert type(source).__name__ == "ChunkedSource", f"{most}: nothing is wrong with these"


def test_a_scan_stopped_half_way_that_grows_along_its_columns(tmp_path):
    data = counts((16, 64, 16, 16))
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        options = {"chunks": (8, 8, 16, 16), "maxshape": (16, None, 16, 16), "compression": "gzip"}
        file.create_dataset("scan", data.shape, "u2", **options)[:, :32] = data[:, :32]
    data[:, 32:] = 0
    np.testing.assert_array_equal(gpu4d.open(tmp_path / "a.h5").source.read(slice(0, 16), slice(0, 64)), data)


@pytest.mark.parametrize("wrong", ["over the edge", "between", "twice", "exchanged", "reversed", "skipped filters"])
def test_a_wrong_index_is_noticed(tmp_path, wrong):
    """Chunks reported at places where they are not: the HDF5 library reads then."""
    write(tmp_path / "a.h5", counts((6, 10, 8, 12)), (1, 10, 8, 12))

    class Wrong:
        """What h5py says of a dataset, but for where its chunks are."""

        def __init__(self, dataset):
            self.dataset, self.id = dataset, self

        def __getattr__(self, name):
            return getattr(self.dataset, name) if hasattr(self.dataset, name) else getattr(self.dataset.id, name)

        def chunk_iter(self, note):
            told = []
            self.dataset.id.chunk_iter(lambda chunk: told.append(chunk))
            places = [chunk.chunk_offset for chunk in told]
            if wrong == "over the edge":
                places[3] = (6, 0, 0, 0)
            elif wrong == "between":
                places[3] = (3, 5, 0, 0)
            elif wrong == "twice":
                places[3] = places[4]
            elif wrong == "exchanged":
                places[2], places[5] = places[5], places[2]
            elif wrong == "reversed":
                places[1:] = places[:0:-1]
            mask = int(wrong == "skipped filters")
            for place, chunk in zip(places, told):
                if (stop := note(chunk._replace(chunk_offset=place, filter_mask=mask))) is not None:
                    return stop

    with h5py.File(tmp_path / "a.h5") as file:
        assert chunk_index(file["scan"], (1, 10, 8, 12)) is not None
        assert chunk_index(Wrong(file["scan"]), (1, 10, 8, 12)) is None


# ---------------------------------------------------------------- damage


def overwrite(path, offset, values):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(values))


@pytest.mark.parametrize("name", COMPRESSING)
@pytest.mark.parametrize("where", ["beginning", "everything"])
def test_a_damaged_chunk_is_named(tmp_path, name, where):
    source = write(tmp_path / "a.h5", counts(), (3, 5, 8, 12), name)
    corner, offset, size = chunks_of(tmp_path / "a.h5")[3]
    overwrite(tmp_path / "a.h5", offset, b"\xff" * (16 if where == "beginning" else size))
    with pytest.raises(InputError) as error:
        source.read(slice(0, 6), slice(0, 10))
    for part in ("a.h5", "/scan", str(tuple(corner)), "damaged"):
        assert part in str(error.value)
    assert source.read(slice(0, 3), slice(0, 5)).any(), "the other chunks are still there"


@pytest.mark.parametrize("name", ["bitshuffle lz4", "bitshuffle zstd", "lz4", "lz4, small blocks"])
@pytest.mark.parametrize(
    ("at", "values"),
    [
        (0, [0x7F] * 8),  # a size that no memory holds
        (0, [0] * 8),
        (7, [1]),  # one more or less than a chunk has
        (8, [0, 0, 0, 7]),  # blocks of odd lengths
        (12, [0x7F, 0xFF, 0xFF, 0xFF]),  # a block far larger than the chunk
        (12, [0xFF] * 4),
        (12, [0] * 4),
    ],
    ids=str,
)
def test_headers_are_checked_before_the_codec_sees_them(tmp_path, name, at, values):
    source = write(tmp_path / "a.h5", counts(), (6, 10, 8, 12), name)
    (_, offset, _), *_ = chunks_of(tmp_path / "a.h5")
    overwrite(tmp_path / "a.h5", offset + at, values)
    with pytest.raises(InputError, match="damaged"):
        source.read(slice(0, 6), slice(0, 10))


def test_a_chunk_that_decodes_to_too_little_is_an_error(tmp_path):
    """Every length fits, but there is less in it than a chunk holds."""
    for name in ("shuffle gzip", "zstd", "blosc", "lz4", "bitshuffle lz4"):
        with h5py.File(tmp_path / "small.h5", "w") as file:
            small = file.create_dataset("scan", data=counts((1, 1, 8, 12)), chunks=(1, 1, 8, 12), **FILTERS[name]())
            packed = small.id.read_direct_chunk((0, 0, 0, 0))[1]
        with h5py.File(tmp_path / "a.h5", "w") as file:
            dataset = file.create_dataset("scan", SHAPE, "u2", chunks=SHAPE, **FILTERS[name]())
            dataset.id.write_direct_chunk((0, 0, 0, 0), packed)
        with pytest.raises(InputError, match="damaged"):
            gpu4d.open(tmp_path / "a.h5").source.read(slice(0, 6), slice(0, 10))


def test_a_file_cut_short_is_an_error(tmp_path):
    source = write(tmp_path / "a.h5", counts(), (6, 10, 8, 12))
    (_, offset, size), *_ = chunks_of(tmp_path / "a.h5")
    os.truncate(tmp_path / "a.h5", offset + size // 2)
    with pytest.raises(InputError, match="truncated"):
        source.read(slice(0, 6), slice(0, 10))


FUZZ = """
import ctypes, mmap, sys
import h5py, numpy as np
import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.sources import chunked

class Guarded:
    # every buffer ends where memory ends: who reads or writes one byte more is killed
    def __init__(self):
        self.held = {}
    def bytes(self, name, size):
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if (name, pages) not in self.held:
            area = mmap.mmap(-1, pages + mmap.PAGESIZE)
            start = ctypes.addressof(ctypes.c_char.from_buffer(area))
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + pages), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
            self.held[name, pages] = area
        return np.frombuffer(self.held[name, pages], np.uint8, size, pages - size)

path, seed = sys.argv[1], int(sys.argv[2])
chunked.scratch = guarded = Guarded()
chunked.READ_AT_ONCE = 0  # each chunk ends at its own forbidden page
generator = np.random.default_rng(seed)
source = gpu4d.open(path).source
assert type(source).__name__ == "ChunkedSource"
(rx, ry, qx, qy), whole = source.shape, source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))
number = 0
offset, size = int(source.index.offsets[number]), int(source.index.sizes[number])
with open(path, "rb") as file:
    file.seek(offset)
    good = np.frombuffer(file.read(size), np.uint8)
damaged = silent = 0
with open(path, "r+b", buffering=0) as file:
    for i in range(300):
        bad = good.copy()
        n = int(generator.integers(1, 5))
        at = generator.integers(0, min(size, (16, 40, size)[i % 3]), n)
        bad[at] = generator.integers(0, 256, n) if i % 2 else bad[at] ^ (1 << generator.integers(0, 8, n)).astype(np.uint8)
        file.seek(offset)
        file.write(bad.tobytes())
        source.index.sizes[number] = int(generator.integers(0, size)) if i % 5 == 0 else size
        out = guarded.bytes("out", whole.nbytes).view(whole.dtype).reshape(whole.shape)
        try:
            source.read(slice(0, rx), slice(0, ry), out)
            silent += 1
        except InputError as error:
            assert "damaged" in str(error), error
            damaged += 1
    file.seek(offset)
    file.write(good.tobytes())
source.index.sizes[number] = size
np.testing.assert_array_equal(source.read(slice(0, rx), slice(0, ry)), whole)
print(damaged, silent)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with mprotect")
@pytest.mark.parametrize("name", COMPRESSING)
def test_damage_never_crashes_and_never_reaches_over_a_buffer(tmp_path, name):
    """Bytes of a chunk changed at random and its length cut short, in another process, with buffers that end at forbidden pages."""
    write(tmp_path / "a.h5", counts((2, 6, 32, 40)), (2, 5, 32, 40), name)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FUZZ), tmp_path / "a.h5", "1"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    damaged, _ = map(int, done.stdout.split())
    assert damaged > 60, "hardly anything that was changed was noticed: does the test change the right bytes?"


# ---------------------------------------------------------------- the hint


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no hints about files")
def test_the_hint_covers_the_chunks_of_the_patterns_and_no_others(tmp_path, monkeypatch):
    data = counts((12, 15, 16, 16))
    source = write(tmp_path / "a.h5", data, (4, 5, 8, 16))
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, start, length, advice: asked.append((start, length)))
    source.will_read(slice(3, 5), slice(5, 10))
    covered, expected = np.zeros((2, os.path.getsize(tmp_path / "a.h5")), int)
    for start, length in asked:
        covered[start : start + length] += 1
    for (x, y, *_), offset, size in chunks_of(tmp_path / "a.h5"):
        expected[offset : offset + size] = x < 5 and x + 4 > 3 and y < 10 and y + 5 > 5
    np.testing.assert_array_equal(covered, expected)
    assert len(asked) < 8, "chunks that follow each other are asked for together"


@pytest.mark.parametrize("layout", ["mapped", "chunks", "plain chunks", "library", "frames", "frames in chunks", "memory", "npy"])
def test_the_hint_changes_nothing(tmp_path, layout):
    data = counts()
    if layout == "memory":
        cube = gpu4d.DataCube(data)
    elif layout == "npy":
        np.save(tmp_path / "a.npy", data)
        cube = gpu4d.open(tmp_path / "a.npy")
    else:
        options = {
            "chunks": {"chunks": (4, 4, 8, 12), **hdf5plugin.Bitshuffle()},
            "plain chunks": {"chunks": (4, 4, 8, 12)},
            "library": {"chunks": (4, 4, 8, 12), "compression": "lzf"},
            "frames in chunks": {"chunks": (7, 8, 12), **hdf5plugin.LZ4()},
        }.get(layout, {})
        frames = layout.startswith("frames")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("scan", data=data.reshape(60, 8, 12) if frames else data, **options)
        cube = gpu4d.open(tmp_path / "a.h5", scan_shape=(6, 10) if frames else None)
    cropped = cube.crop(rx=(1, 6), ry=(2, 10), qx=(2, 8))
    views = {"itself": cube, "cropped": cropped, "binned": cube.bin(scan=2), "swapped": cube.swap_axes(scan=True)}
    for view in views.values():
        source = view.source
        rx, ry = source.shape[:2]
        before = np.array(source.read(slice(0, rx), slice(0, ry)))
        for rows, columns in [(slice(0, rx), slice(0, ry)), (slice(1, rx), slice(1, 2)), (slice(rx - 1, rx), slice(0, ry))]:
            assert will_read(source, rows, columns) is None
        np.testing.assert_array_equal(source.read(slice(0, rx), slice(0, ry)), before)
    np.testing.assert_array_equal(cube.source.read(slice(0, 6), slice(0, 10)), data)


def test_views_pass_the_hint_on_for_their_own_patterns():
    class Told:
        shape, dtype, blocks, resident, description = (12, 16, 8, 8), np.dtype("u2"), (1, 1), False, "told"

        def __init__(self):
            self.asked = []

        def will_read(self, rows, columns):
            self.asked.append((rows.start, rows.stop, columns.start, columns.stop))

    from gpu4d.data.views import BinnedSource, CroppedSource, SwappedSource
    from gpu4d.io.sources.layout import ReshapedScan

    def asked(view, rows, columns):
        view.source.asked.clear()
        view.will_read(slice(*rows), slice(*columns))
        return view.source.asked

    assert asked(CroppedSource(Told(), (slice(2, 10), slice(3, 16), slice(0, 4), slice(0, 8))), (0, 4), (1, 5)) == [(2, 6, 4, 8)]
    assert asked(BinnedSource(Told(), 2, 2), (1, 3), (0, 4)) == [(2, 6, 0, 8)]
    assert asked(SwappedSource(Told(), True, False), (1, 3), (0, 4)) == [(0, 4, 1, 3)]
    # 8 columns of 24 scan positions a row: rows of 16 positions in the file
    assert asked(ReshapedScan(Told(), (8, 24)), (0, 2), (0, 24)) == [(0, 3, 0, 16)]
    assert asked(ReshapedScan(Told(), (8, 24)), (1, 2), (0, 10)) == [(1, 2, 8, 16), (2, 3, 0, 2)]
