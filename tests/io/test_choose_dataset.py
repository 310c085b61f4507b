"""Which dataset of a file is the scan: axes of length one, tables beside it, links that lead nowhere, scan shapes that are none."""

import os

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError

SCAN = np.random.default_rng(0).poisson(5, (4, 6, 12, 10)).astype("u2")


def made(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name.replace("__", "/")] = data
    return path


def refused(path, *words, **arguments):
    with pytest.raises(InputError) as caught:
        gpu4d.open(path, **arguments)
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line
    return line


def values(path, **arguments):
    cube = gpu4d.open(path, **arguments)
    return cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1]))


# ---------------------------------------------------------------- axes of length one


@pytest.mark.parametrize(
    "shape", [(1, 4, 6, 12, 10), (4, 1, 6, 12, 10), (4, 6, 1, 12, 10), (4, 6, 12, 1, 10), (4, 6, 12, 10, 1), (1, 4, 6, 1, 12, 10)]
)
@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}, {"chunks": True, "scaleoffset": 0}],
    ids=["contiguous", "chunks", "gzip", "by HDF5"],
)
def test_axes_of_length_one_are_left_away(tmp_path, shape, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("scan", data=SCAN.reshape(shape), **options)
    for named in (None, "scan"):
        np.testing.assert_array_equal(values(tmp_path / "a.h5", dataset=named), SCAN)
    np.testing.assert_array_equal(values(tmp_path / "a.h5", scan_shape=(8, 3)), SCAN.reshape(8, 3, 12, 10))


def test_axes_of_length_one_in_other_layouts(tmp_path):
    np.save(tmp_path / "a.npy", SCAN[:, :, None])
    np.testing.assert_array_equal(values(tmp_path / "a.npy"), SCAN)
    made(tmp_path / "a.h5", scan=SCAN.astype(">u2")[None])
    with h5py.File(tmp_path / "v.h5", "w") as file:
        layout = h5py.VirtualLayout((2, 1, 6, 12, 10), ">u2")
        layout[:, 0] = h5py.VirtualSource("a.h5", "scan", (1, *SCAN.shape))[0, 1:3]
        file.create_virtual_dataset("half", layout)
    np.testing.assert_array_equal(values(tmp_path / "v.h5"), SCAN[1:3])


def test_axes_of_length_one_stay_where_there_are_only_four(tmp_path):
    assert gpu4d.open(made(tmp_path / "a.h5", line=SCAN[:1])).shape == (1, 6, 12, 10)
    assert gpu4d.open(made(tmp_path / "b.h5", line=SCAN[:1, None])).shape == (1, 6, 12, 10)
    refused(made(tmp_path / "c.h5", five=np.ones((2, 3, 2, 8, 8))), "/five 2×3×2×8×8", "need a dataset with four dimensions")


# ---------------------------------------------------------------- a scan beside tables


TABLES = {
    "settings": np.zeros((4, 6, 1, 27), "u1"),
    "pairs": np.zeros((4, 6, 2, 2)),
    "rotations": np.zeros((4, 6, 3, 3)),
    "positions": np.zeros((4, 6, 34, 2)),
    "text": np.full((4, 6, 8, 8), b"abc"),
    "empty": np.zeros((0, 6, 8, 8)),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_beside_a_scan_is_not_in_the_way(tmp_path, table):
    for n, scan in enumerate((SCAN, SCAN[:, :, None].astype(">u2"))):
        cube = gpu4d.open(made(tmp_path / f"{n}.h5", a__table=TABLES[table], expt__scan=scan))
        assert cube.source.dataset == "/expt/scan" and cube.shape == SCAN.shape


@pytest.mark.parametrize("table", [name for name in TABLES if name not in ("text", "empty")])
def test_a_table_alone_is_no_scan_unless_it_is_named(tmp_path, table):
    path = made(tmp_path / "a.h5", a__table=TABLES[table])
    refused(path, "no scan, but /a/table", "dataset='/a/table'")
    assert gpu4d.open(path, dataset="a/table").shape == TABLES[table].shape


def test_what_a_file_calls_a_cube_is_one_however_small(tmp_path):
    gpu4d.save(tmp_path / "a.h5", {"small": gpu4d.DataCube(np.ones((2, 3, 2, 2), "u1"))})
    assert gpu4d.open(tmp_path / "a.h5").shape == (2, 3, 2, 2)


def test_a_type_that_numpy_does_not_have(tmp_path):
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_size(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"odd", kind, h5py.h5s.create_simple((2, 2, 8, 8)))
        file["scan"] = SCAN
    assert gpu4d.open(tmp_path / "a.h5").shape == SCAN.shape
    refused(tmp_path / "a.h5", "a type that NumPy does not have", "accepted are", dataset="odd")


# ---------------------------------------------------------------- links


def test_missing_linked_files_are_named(tmp_path, caplog):
    path = tmp_path / "master.h5"
    with h5py.File(path, "w") as file:
        for i in (1, 2):
            file[f"entry/data/data_{i:06d}"] = h5py.ExternalLink(f"data_{i:06d}.h5", "/entry/data")
        file["entry/mask"] = np.zeros((12, 10), "u4")
    refused(path, "links to cannot be opened: data_000001.h5 (not there), data_000002.h5 (not there)", scan_shape=(4, 6))
    refused(path, "data_000001.h5, which is not there", scan_shape=(4, 6), dataset="/entry/data/data_000001")
    made(tmp_path / "data_000001.h5", entry__data=SCAN.reshape(24, 12, 10))
    assert gpu4d.open(path, scan_shape=(4, 6)).shape == SCAN.shape
    assert "data_000002.h5" in caplog.text, "what is missing is said, also if there is something to open"
    made(tmp_path / "data_000001.h5", other=SCAN)
    refused(path, "/entry/data/data_000001 is a link into the file data_000001.h5", "/entry is not there", dataset="entry/data/data_000001")


def test_a_chain_of_links_names_its_last_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan"] = h5py.ExternalLink("b.h5", "/scan")
        file["soft"] = h5py.SoftLink("/scan")
        file["nowhere"] = h5py.SoftLink("/gone/x")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["scan"] = h5py.ExternalLink("c.h5", "/scan")
    refused(tmp_path / "a.h5", "cannot be opened: c.h5 (not there)")
    refused(tmp_path / "a.h5", "c.h5, which is not there", dataset="soft")
    refused(tmp_path / "a.h5", "/nowhere is a link to /gone/x", dataset="nowhere")
    made(tmp_path / "c.h5", scan=SCAN)
    for dataset in (None, "scan", "soft"):
        np.testing.assert_array_equal(values(tmp_path / "a.h5", dataset=dataset), SCAN)


def test_an_absolute_link_to_a_file_that_was_moved_along_is_found_beside(tmp_path):
    (tmp_path / "there").mkdir()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan"] = h5py.ExternalLink("/no/such/folder/raw.h5", "/scan")
    made(tmp_path / "raw.h5", scan=SCAN)
    np.testing.assert_array_equal(values(tmp_path / "a.h5"), SCAN)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_link_to_a_pipe_is_no_endless_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan"] = h5py.ExternalLink("pipe", "/x")
    refused(tmp_path / "a.h5", "cannot be opened: pipe (not readable)")
    refused(tmp_path / "a.h5", "is not a regular file", dataset="scan")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        layout = h5py.VirtualLayout(SCAN.shape, "u2")
        layout[...] = h5py.VirtualSource("pipe", "x", SCAN.shape)
        file.create_virtual_dataset("scan", layout)
        file.create_dataset("raw", SCAN.shape, "u2", external=[(str(tmp_path / "pipe"), 0, h5py.h5f.UNLIMITED)])
    refused(tmp_path / "v.h5", "is not a regular file", dataset="scan")
    refused(tmp_path / "v.h5", "is not a regular file", dataset="raw")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["scan"] = h5py.ExternalLink("a.h5", "/scan")
    refused(tmp_path / "b.h5", "is not a regular file", dataset="scan")


def test_rings_of_links_beside_a_scan(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan"], file["x"], file["y"] = SCAN, h5py.SoftLink("/y"), h5py.SoftLink("/x")
        file["me"] = h5py.ExternalLink("a.h5", "/me")
        file["group"] = h5py.SoftLink("/")
        inner = file.create_group("deep")
        for _ in range(3000):
            inner = inner.create_group("d")
    np.testing.assert_array_equal(values(tmp_path / "a.h5"), SCAN)
    refused(tmp_path / "a.h5", "ring of links", dataset="x")
    refused(tmp_path / "a.h5", "ring of links", dataset="me")


def test_virtual_datasets_of_themselves_and_of_each_other(tmp_path):
    def virtual(path, of):
        with h5py.File(path, "w") as file:
            layout = h5py.VirtualLayout(SCAN.shape, "u2")
            layout[...] = h5py.VirtualSource(of, "scan", SCAN.shape)
            file.create_virtual_dataset("scan", layout)

    virtual(tmp_path / "self.h5", ".")
    virtual(tmp_path / "a.h5", "b.h5")
    virtual(tmp_path / "b.h5", "a.h5")
    for name in ("self.h5", "a.h5"):
        refused(tmp_path / name, "virtual dataset in a ring")


def test_names_that_are_no_text(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["caf\xe9".encode("latin-1")] = SCAN
        file["b\nwarning: all is well\x1b[31m"] = SCAN
    line = refused(tmp_path / "a.h5", r"/caf\xe9 4×6×12×10", r"\nwarning")
    assert "\x1b" not in line and "b'" not in line
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("caf\xe9".encode("latin-1"), data=SCAN, chunks=True, scaleoffset=0)
    np.testing.assert_array_equal(values(tmp_path / "b.h5"), SCAN)


# ---------------------------------------------------------------- scan shapes


@pytest.mark.parametrize("shape", [(4.5, 6), (4, 6.9), ("4", "6"), (True, 24), "46", {4: 6}, (np.nan, 6), (4, None)])
def test_a_scan_shape_that_is_not_two_whole_numbers(tmp_path, shape):
    np.save(tmp_path / "a.npy", SCAN.reshape(24, 12, 10))
    made(tmp_path / "a.h5", frames=SCAN.reshape(24, 12, 10))
    for name in ("a.npy", "a.h5"):
        with pytest.raises(InputError):
            gpu4d.open(tmp_path / name, scan_shape=shape)


@pytest.mark.parametrize("shape", [[4, 6], (np.int64(4), np.uint8(6)), np.array([4, 6]), (4.0, 6.0), np.array([4.0, 6.0])])
def test_whole_numbers_of_any_kind(tmp_path, shape):
    np.save(tmp_path / "a.npy", SCAN.reshape(24, 12, 10))
    assert gpu4d.open(tmp_path / "a.npy", scan_shape=shape).scan_shape == (4, 6)
