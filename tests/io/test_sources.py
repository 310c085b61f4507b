"""Scans in files of every layout: what is read is what h5py or NumPy would read, for every cut, from several threads."""

import gc
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from stored_scans import SHAPE, check_source, counts, write

import gpu4d
from gpu4d.errors import InputError

# ---------------------------------------------------------------- contiguous HDF5


@pytest.mark.parametrize(
    "dtype", ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">u2", ">i4", ">u8", ">f2", ">f4", ">f8"]
)
def test_contiguous_hdf5_is_mapped_and_right_in_every_type(tmp_path, dtype):
    data = counts(dtype=dtype)
    write(tmp_path / "a.h5", data)
    source = gpu4d.open(tmp_path / "a.h5").source
    assert "mapped at byte" in source.description
    native = np.dtype(dtype).isnative and dtype != "f2"
    assert source.resident == native
    check_source(source, data)
    assert source.dtype == {"bool": np.uint8, "f2": np.float32, ">f2": np.float32}.get(dtype, np.dtype(dtype).newbyteorder("="))


def test_mapped_frames_are_read_only_views_and_no_hdf5_handle_stays_open(tmp_path):
    write(tmp_path / "a.h5", counts())
    gc.collect()  # errors that earlier tests have caught may still hold a file
    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    source = gpu4d.open(tmp_path / "a.h5").source
    frames = source.read(slice(0, 2), slice(0, 3))
    assert not frames.flags.writeable
    assert np.shares_memory(frames, source.read(slice(0, 6), slice(0, 10)))
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == before


@pytest.mark.parametrize("userblock", [512, 4096])
@pytest.mark.parametrize("options", [{}, {"chunks": (4, 4, 8, 12)}, {"chunks": (4, 4, 8, 12), "compression": "gzip", "shuffle": True}])
def test_user_block_is_skipped(tmp_path, userblock, options):
    data = counts()
    write(tmp_path / "a.h5", data, userblock_size=userblock, **options)
    with open(tmp_path / "a.h5", "r+b") as file:
        file.write(b"not HDF5 at all " * (userblock // 16))
    check_source(gpu4d.open(tmp_path / "a.h5").source, data)


def test_dataset_between_alignments_is_copied(tmp_path, shared_data):
    path = shared_data / "vendor" / "emd" / "py4DSTEM_size2x3x4x5.h5"
    with h5py.File(path) as file:
        dataset = file["datacube_root/datacube/data"]
        assert dataset.id.get_offset() % 4, "the file no longer has a float32 dataset at an odd offset"
        expected = dataset[()]
    source = gpu4d.open(path).source
    assert not source.resident
    check_source(source, expected)
    assert source.read(slice(0, 2), slice(0, 3)).flags.aligned


@pytest.mark.parametrize("fill", [None, 7])
@pytest.mark.parametrize("chunks", [None, (3, 4, 8, 12)])
def test_never_written_data_are_the_fill_value(tmp_path, fill, chunks):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("scan", SHAPE, "u2", fillvalue=fill, chunks=chunks)
    check_source(gpu4d.open(tmp_path / "a.h5").source, np.full(SHAPE, fill or 0, np.uint16))


def test_compact_dataset(tmp_path):
    data = counts((2, 3, 4, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(data.shape)
        dataset = h5py.h5d.create(file.id, b"scan", h5py.h5t.NATIVE_UINT16, space, dcpl=create)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data)
    check_source(gpu4d.open(tmp_path / "a.h5").source, data)


def test_twelve_bits_in_sixteen_are_left_to_the_library(tmp_path):
    data = counts() & 0x0FFF
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kind = h5py.h5t.STD_U16LE.copy()
        kind.set_precision(12)
        kind.set_offset(4)
        dataset = h5py.h5d.create(file.id, b"scan", kind, h5py.h5s.create_simple(SHAPE))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data)
    check_source(gpu4d.open(tmp_path / "a.h5").source, data)


# ---------------------------------------------------------------- external and virtual


@pytest.mark.parametrize("pieces", [1, 2])
def test_external_files(tmp_path, monkeypatch, pieces):
    data = counts()
    raw = data.tobytes()
    cut = len(raw) // pieces
    external = []
    for i in range(pieces):
        (tmp_path / f"raw{i}.bin").write_bytes(b"head" + raw[i * cut : (i + 1) * cut])
        external.append((str(tmp_path / f"raw{i}.bin"), 4, cut))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("scan", SHAPE, "u2", external=external)
    check_source(gpu4d.open(tmp_path / "a.h5").source, data)
    (tmp_path / "raw0.bin").write_bytes(b"head" + raw[: cut // 2])
    with pytest.raises(InputError, match=r"raw0\.bin: the file is too short"):
        gpu4d.open(tmp_path / "a.h5")
    (tmp_path / "raw0.bin").unlink()
    with pytest.raises(InputError, match=r"raw0\.bin, which is not there"):
        gpu4d.open(tmp_path / "a.h5")


def test_virtual_dataset_of_several_files(tmp_path):
    data = counts()
    layout = h5py.VirtualLayout(SHAPE, "u2")
    for i in range(2):
        write(tmp_path / f"part{i}.h5", data[3 * i : 3 * i + 3])
        layout[3 * i : 3 * i + 3] = h5py.VirtualSource(f"part{i}.h5", "scan", (3, *SHAPE[1:]))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("scan", layout)
    check_source(gpu4d.open(tmp_path / "a.h5").source, data)
    (tmp_path / "part1.h5").unlink()
    with pytest.raises(InputError, match=r"part1\.h5, which is not there"):
        gpu4d.open(tmp_path / "a.h5")


def test_links_into_other_files_are_followed_to_the_bytes(tmp_path):
    data = counts()
    write(tmp_path / "raw.h5", data)
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["entry/data"] = h5py.ExternalLink("raw.h5", "/scan")
        file["entry/gone"] = h5py.ExternalLink("gone.h5", "/scan")
    source = gpu4d.open(tmp_path / "master.h5").source
    assert source.resident and source.path.endswith("raw.h5")
    check_source(source, data)


def test_groups_of_other_files_keep_their_path_here(tmp_path):
    data = counts()
    write(tmp_path / "raw.h5", data, "deep/scan")
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["entry"] = h5py.ExternalLink("raw.h5", "/deep")
    cube = gpu4d.open(tmp_path / "master.h5")
    assert cube.name == "scan"
    check_source(cube.source, data)
    assert gpu4d.open(tmp_path / "master.h5", dataset="/entry/scan").shape == SHAPE


# ---------------------------------------------------------------- chunks


CHUNKINGS = [(1, 1, 8, 12), (4, 4, 8, 12), (3, 10, 4, 5), (6, 10, 8, 12), (4, 3, 5, 7)]


@pytest.mark.parametrize("chunks", CHUNKINGS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", ">u2", ">f2", "bool"])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {"shuffle": True}], ids=str)
def test_chunks_decoded_here(tmp_path, chunks, dtype, options):
    data = counts(dtype=dtype)
    write(tmp_path / "a.h5", data, chunks=chunks, **options)
    source = gpu4d.open(tmp_path / "a.h5").source
    # nothing tells whether chunks over the edge were shuffled, where a shuffle is all there is
    by_library = options == {"shuffle": True} and any(n % c for n, c in zip(SHAPE, chunks))
    assert type(source).__name__ == ("LibrarySource" if by_library else "ChunkedSource")
    assert source.blocks == chunks[:2]
    check_source(source, data)


@pytest.mark.parametrize("name", ["bitshuffle", "lz4", "zstd", "lzf", "fletcher32"])
def test_chunks_decoded_by_the_library(tmp_path, name):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    options = {
        "bitshuffle": lambda: dict(hdf5plugin.Bitshuffle(cname="lz4")),
        "lz4": lambda: dict(hdf5plugin.LZ4()),
        "zstd": lambda: dict(hdf5plugin.Zstd()),
        "lzf": lambda: {"compression": "lzf"},
        "fletcher32": lambda: {"compression": "gzip", "fletcher32": True},
    }[name]()
    data = counts(dtype=">u2")
    write(tmp_path / "a.h5", data, chunks=(4, 4, 8, 12), **options)
    source = gpu4d.open(tmp_path / "a.h5").source
    assert source.blocks == (4, 4) and name in source.description
    check_source(source, data)


def test_chunks_that_skipped_their_filters_or_were_never_written(tmp_path):
    expected = np.full(SHAPE, 5, np.uint16)
    expected[:4, :4], expected[4:, 8:] = 1, 2
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("scan", SHAPE, "u2", chunks=(4, 4, 8, 12), compression="gzip", shuffle=True, fillvalue=5)
        dataset[4:, 8:] = 2
        dataset.id.write_direct_chunk((0, 0, 0, 0), np.ones((4, 4, 8, 12), "u2").tobytes(), filter_mask=0b11)
    check_source(gpu4d.open(tmp_path / "a.h5").source, expected)


def test_every_chunk_is_read_once_for_one_block(tmp_path, monkeypatch):
    data = counts((8, 8, 8, 8))
    write(tmp_path / "a.h5", data, chunks=(4, 4, 8, 4), compression="gzip")
    source = gpu4d.open(tmp_path / "a.h5").source
    read = []
    original = source._bytes
    monkeypatch.setattr(source, "_bytes", lambda offset, size: read.append((offset, size)) or original(offset, size))
    source.read(slice(0, 4), slice(0, 8))
    with h5py.File(tmp_path / "a.h5") as file:
        chunks = [file["scan"].id.get_chunk_info_by_coord((0, y, 0, q)) for y in (0, 4) for q in (0, 4)]
    once = sorted(byte for chunk in chunks for byte in range(chunk.byte_offset, chunk.byte_offset + chunk.size))
    assert sorted(byte for offset, size in read for byte in range(offset, offset + size)) == once


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}], ids=["raw", "gzip", "lzf"])
def test_many_threads_read_the_same_file(tmp_path, options):
    data = counts((32, 16, 16, 16))
    write(tmp_path / "a.h5", data, chunks=(4, 4, 16, 16), **options)
    source = gpu4d.open(tmp_path / "a.h5").source
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: source.read(slice(i % 32, i % 32 + 1), slice(0, 16)).copy(), range(128)))
    assert all(np.array_equal(block[0], data[i % 32]) for i, block in enumerate(got))


def test_a_damaged_chunk_is_an_error_not_numbers(tmp_path):
    write(tmp_path / "a.h5", counts(), chunks=(6, 10, 8, 12), compression="gzip")
    with h5py.File(tmp_path / "a.h5") as file:
        where = file["scan"].id.get_chunk_info(0)
    with open(tmp_path / "a.h5", "r+b") as file:
        file.seek(where.byte_offset + 20)
        file.write(b"\xff" * 200)
    cube = gpu4d.open(tmp_path / "a.h5")
    with pytest.raises(InputError, match="/scan cannot be read"):
        cube[0, 0]


# ---------------------------------------------------------------- .npy


@pytest.mark.parametrize("dtype", ["bool", "u2", ">u2", "f2", ">f8"])
def test_npy_is_mapped(tmp_path, dtype):
    data = counts(dtype=dtype)
    np.save(tmp_path / "a.npy", data)
    cube = gpu4d.open(tmp_path / "a.npy")
    assert cube.name == "a" and ".npy, mapped at byte 128" in cube.source.description
    check_source(cube.source, data)


def test_npy_in_fortran_order_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(counts()))
    with pytest.raises(InputError, match="Fortran order"):
        gpu4d.open(tmp_path / "a.npy")


# ---------------------------------------------------------------- frames and a scan shape


@pytest.mark.parametrize("scan_shape", [(6, 10), (10, 6), (60, 1), (1, 60), (4, 15)])
@pytest.mark.parametrize("chunks", [None, (1, 8, 12), (7, 8, 12), (20, 4, 12), (60, 8, 12)])
def test_frames_with_a_scan_shape(tmp_path, scan_shape, chunks):
    data = counts((60, 8, 12))
    write(tmp_path / "a.h5", data, chunks=chunks)
    source = gpu4d.open(tmp_path / "a.h5", scan_shape=scan_shape).source
    rows, columns = scan_shape
    expected = data.reshape(*scan_shape, 8, 12)
    check_source(source, expected)
    b = source.blocks
    assert 1 <= b[0] <= rows and 1 <= b[1] <= columns
    got = np.concatenate(
        [
            np.concatenate(
                [source.read(slice(x, min(x + b[0], rows)), slice(y, min(y + b[1], columns))) for y in range(0, columns, b[1])], 1
            )
            for x in range(0, rows, b[0])
        ]
    )
    np.testing.assert_array_equal(got, expected)


def test_four_dimensions_take_another_scan_shape(tmp_path):
    data = counts()
    for name, options in (("a.h5", {}), ("b.h5", {"chunks": (4, 4, 8, 12)})):
        write(tmp_path / name, data, **options)
        check_source(gpu4d.open(tmp_path / name, scan_shape=(5, 12)).source, data.reshape(5, 12, 8, 12))


def test_frames_in_npy_and_by_the_library(tmp_path):
    data = counts((60, 8, 12), ">u2")
    np.save(tmp_path / "a.npy", data)
    write(tmp_path / "a.h5", data, chunks=(7, 8, 12), compression="lzf")
    for name in ("a.npy", "a.h5"):
        check_source(gpu4d.open(tmp_path / name, scan_shape=(6, 10)).source, data.reshape(SHAPE))
