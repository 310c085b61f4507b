"""What cannot be read or written is refused in one clear line, and nothing half-written is left."""

import os
import stat
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import DataCube, RealSlice
from gpu4d.errors import InputError
from gpu4d.io import read_emd, save

SCAN = np.arange(3 * 4 * 6 * 6, dtype="u2").reshape(3, 4, 6, 6)


def refused(path, *words, **arguments):
    """The one line of the error; all `words` are in it."""
    with pytest.raises(InputError) as caught:
        gpu4d.open(path, **arguments)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    for word in words:
        assert word in line, line
    return line


@pytest.fixture
def file(tmp_path):
    """An HDF5 file with several datasets."""
    path = tmp_path / "several.h5"
    with h5py.File(path, "w") as f:
        f["a/scan"], f["b"] = SCAN, SCAN.astype("f4")[:, :, :5]
        f["image"], f["stack"] = SCAN[0, 0], SCAN.reshape(12, 6, 6)
        f["truth/field"] = SCAN[..., :2, :2]
    return path


# ---------------------------------------------------------------- opening


def test_no_file(tmp_path):
    refused(tmp_path / "nothing.h5", "no such file", "HDF5", ".npy")


def test_no_path_at_all():
    with pytest.raises(InputError, match=r"got ndarray: for an array in memory use gpu4d\.DataCube"):
        gpu4d.open(SCAN)


def test_no_regular_file():
    if not os.path.exists("/dev/null"):
        pytest.skip("needs /dev/null")
    refused("/dev/null", "is not a regular file")


def test_a_directory(tmp_path):
    refused(tmp_path, "is a directory", "give one file")


@pytest.mark.parametrize(
    "content, words", [(b"Dear diary,\n" * 99, "is a text file"), (b"\0\1\2\3" * 99, "unknown format"), (b"", "is empty")]
)
def test_another_kind_of_file_with_our_extension(tmp_path, content, words):
    for name in ("a.h5", "a.npy", "a.emd"):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, words, "HDF5", ".npy")


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may read everything")
def test_a_file_we_may_not_read(tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    (tmp_path / "a.npy").chmod(0)
    refused(tmp_path / "a.npy", "cannot be read", "permissions")


def test_several_scans_are_listed(file):
    line = refused(file, "2 datasets could be the scan", "/a/scan 3×4×6×6 uint16", "/b 3×4×5×6 float32")
    assert "/truth/field" not in line, "two by two pixels are no detector"
    assert "--dataset /a/scan" in line and "dataset='/a/scan'" in line


def test_a_chosen_dataset(file):
    assert gpu4d.open(file, dataset="/b").shape == (3, 4, 5, 6)
    assert gpu4d.open(file, dataset="truth/field").shape == (3, 4, 2, 2)
    assert gpu4d.open(file, dataset="a").shape == SCAN.shape, "a group with one scan names it"
    assert gpu4d.open(file, dataset="stack", scan_shape=(4, 3)).shape == (4, 3, 6, 6)


def test_an_unknown_dataset(file):
    refused(file, "no dataset '/c'", "/a/scan 3×4×6×6 uint16", "--dataset", dataset="/c")


def test_a_group_is_no_dataset(file):
    refused(file, "is a group", "/a/scan", dataset="/")


def test_two_dimensions(file, tmp_path):
    refused(file, "/image is 6×6 (2D)", "four dimensions", dataset="/image")
    np.save(tmp_path / "a.npy", SCAN[0, 0])
    refused(tmp_path / "a.npy", "6×6 (2D)", "four dimensions")
    with h5py.File(tmp_path / "only.h5", "w") as f:
        f["image"] = SCAN[0, 0]
    refused(tmp_path / "only.h5", "/image 6×6 uint16", "four dimensions")


def test_no_dataset_at_all(tmp_path):
    h5py.File(tmp_path / "a.h5", "w").close()
    refused(tmp_path / "a.h5", "no dataset at all")


@pytest.mark.parametrize("suffix", ["h5", "npy"])
def test_frames_without_a_scan_shape(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, SCAN.reshape(12, 6, 6))
    else:
        with h5py.File(path, "w") as f:
            f["frames"] = SCAN.reshape(12, 6, 6)
    refused(path, "12×6×6", "--scan-shape Rx,Ry", "scan_shape=(Rx, Ry)")
    refused(path, "scan_shape 5,2 is 10 positions", "has 12 frames", "3,4", scan_shape=(5, 2))
    for wrong in ((12,), (3, 4, 1), (-3, -4), (0, 12), "axb", 12):
        with pytest.raises(InputError, match="need two whole numbers"):
            gpu4d.open(path, scan_shape=wrong)


def test_a_scan_shape_that_does_not_fit_four_dimensions(tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    refused(tmp_path / "a.npy", "scan_shape 4,4 is 16 positions", "12 frames", scan_shape=(4, 4))


def test_a_scan_shape_tells_which_dataset_is_meant(tmp_path):
    """Small arrays of four dimensions (probes, templates) beside the frames are no scan of that shape."""
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["frames"], f["probes"] = SCAN.reshape(12, 6, 6), SCAN[:1, :2]
    refused(tmp_path / "a.h5", "2 datasets could be the scan", "/frames 12×6×6", "/probes 1×2×6×6")
    assert gpu4d.open(tmp_path / "a.h5", scan_shape=(3, 4)).shape == SCAN.shape
    refused(tmp_path / "a.h5", "scan_shape 5,5 is 25 positions", "/probes", scan_shape=(5, 5))


@pytest.mark.skipif("HDF5_USE_FILE_LOCKING" in os.environ, reason="file locking is set from outside")
def test_a_file_that_is_being_written(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as f:
        f["scan"] = SCAN
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        refused(path, "another program has the file open for writing")
        writer.stdin.close()
    assert gpu4d.open(path).shape == SCAN.shape


def test_damaged_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["scan"] = SCAN
    with open(tmp_path / "a.h5", "r+b") as f:
        f.write(b"\x89HDF\r\n\x1a\n" + b"\xff" * 88)
    refused(tmp_path / "a.h5", "HDF5 cannot open it", "damaged")


def test_a_dataset_in_npy(tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    refused(tmp_path / "a.npy", "holds one scan", dataset="/a")


@pytest.mark.parametrize("dtype", ["c8", "S4", [("a", "u2"), ("b", "f4")]], ids=["complex", "text", "compound"])
@pytest.mark.parametrize("suffix", ["h5", "npy"])
def test_values_that_are_no_numbers(tmp_path, dtype, suffix):
    path, data = tmp_path / f"a.{suffix}", np.zeros((3, 4, 6, 6), dtype)
    if suffix == "npy":
        np.save(path, data)
    else:
        with h5py.File(path, "w") as f:
            f["scan"] = data
    refused(path, "values of type", "accepted are real numbers")


def test_an_object_npy_is_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.full((1, 1, 2, 2), None, object), allow_pickle=True)
    refused(tmp_path / "a.npy", "values of type object")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("layout", ["contiguous", "gzip", "npy"])
def test_a_truncated_file(tmp_path, layout, keep):
    data = np.random.default_rng(0).integers(0, 60000, (8, 8, 32, 32)).astype("u2")
    path = tmp_path / ("a.npy" if layout == "npy" else "a.h5")
    if layout == "npy":
        np.save(path, data)
    else:
        with h5py.File(path, "w") as f:
            f.create_dataset("scan", data=data, **({"chunks": (4, 4, 32, 32), "compression": "gzip"} if layout == "gzip" else {}))
    os.truncate(path, int(os.path.getsize(path) * keep))
    refused(path, "truncated", "copy it again")


def test_a_npy_cut_inside_its_header(tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    os.truncate(tmp_path / "a.npy", 50)
    refused(tmp_path / "a.npy", "not a readable .npy file")


def test_files_stay_as_they_are(tmp_path, file):
    file.chmod(stat.S_IRUSR)
    before = file.read_bytes(), os.stat(file).st_mtime_ns
    gpu4d.open(file, dataset="/b").load()
    assert (file.read_bytes(), os.stat(file).st_mtime_ns) == before


def test_not_emd(file, tmp_path):
    with pytest.raises(InputError, match=r"not EMD 1\.0"):
        read_emd(file)
    np.save(tmp_path / "a.npy", SCAN)
    with pytest.raises(InputError, match="not EMD"):
        read_emd(tmp_path / "a.npy")


# ---------------------------------------------------------------- saving

ITEMS = {"bf": RealSlice(np.ones((3, 4)))}


def left_behind(folder):
    return sorted(os.listdir(folder))


def test_an_existing_file_is_refused_or_replaced(tmp_path):
    save(tmp_path / "r.h5", ITEMS)
    before = (tmp_path / "r.h5").read_bytes()
    with pytest.raises(InputError, match=r"r\.h5 exists; .*--overwrite or overwrite=True"):
        save(tmp_path / "r.h5", ITEMS)
    assert (tmp_path / "r.h5").read_bytes() == before
    save(tmp_path / "r.h5", {"adf": RealSlice(np.zeros((3, 4)))}, overwrite=True)
    assert list(read_emd(tmp_path / "r.h5")) == ["versions", "adf"]
    assert left_behind(tmp_path) == ["r.h5"]


def test_no_folder_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        save(tmp_path / "x" / "r.h5", ITEMS)
    with pytest.raises(InputError, match="is a directory"):
        save(tmp_path, ITEMS, overwrite=True)


def test_an_unwritable_folder(tmp_path):
    """By a file system that refuses: /proc takes no files, whoever asks."""
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc")
    with pytest.raises(InputError, match="cannot be written") as caught:
        save("/proc/self/r.h5", ITEMS)
    assert "\n" not in str(caught.value)


def test_the_scan_itself_is_never_overwritten(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as f:
        f["scan"] = SCAN
    before = (tmp_path / "scan.h5").read_bytes()
    os.symlink(tmp_path / "scan.h5", tmp_path / "other.h5")
    cube = gpu4d.open(tmp_path / "scan.h5")
    for view in (cube, cube.crop(rx=(0, 2)), cube.bin(detector=2).crop(rx=(0, 1))):
        for name in ("scan.h5", "other.h5"):
            with pytest.raises(InputError, match="is the file that 'cube' is read from"):
                save(tmp_path / name, {"cube": view}, overwrite=True)
    assert (tmp_path / "scan.h5").read_bytes() == before


@pytest.mark.parametrize(
    "items, words",
    [
        ({"a/b": RealSlice(np.ones((2, 2)))}, "without '/'"),
        ({"": RealSlice(np.ones((2, 2)))}, "cannot be the name"),
        ({"x": object()}, "'x' is a object, which cannot be saved; accepted are DataCube"),
        ({"x": RealSlice(np.ones((2, 2, 2, 2)))}, r"'x' has shape \(2, 2, 2, 2\)"),
        ({"x": np.array(["a"])}, "need numbers"),
        ({"versions": {"a": 1}}, "metadata of that name"),
    ],
)
def test_what_cannot_be_stored(tmp_path, items, words):
    with pytest.raises(InputError, match=words):
        save(tmp_path / "r.h5", {**ITEMS, **items})
    assert left_behind(tmp_path) == []


def test_an_error_half_way_leaves_the_old_file(tmp_path):
    class Broken:
        shape, dtype, blocks, resident, description = (4, 4, 8, 8), np.dtype("u2"), (1, 1), False, "broken"

        def read(self, rows, columns, out=None):
            if rows.stop - rows.start > 1:
                raise KeyboardInterrupt
            return np.zeros((1, 1, 8, 8), "u2")

    save(tmp_path / "r.h5", ITEMS)
    before = (tmp_path / "r.h5").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "r.h5", {"cube": DataCube(Broken())}, overwrite=True)
    assert (tmp_path / "r.h5").read_bytes() == before and left_behind(tmp_path) == ["r.h5"]


FULL_DISK = """
import os, resource, sys
import numpy as np, gpu4d
from gpu4d.io import save
limit, target = int(sys.argv[1]), sys.argv[2]
items = {
    "bf": gpu4d.RealSlice(np.ones((64, 64))),
    "cube": gpu4d.DataCube(np.ones((16, 16, 64, 64), "u2")),
    "adf": gpu4d.RealSlice(np.ones((64, 64))),
    "disks": gpu4d.PointListArray(np.arange(4097), {n: np.arange(4096.0) for n in ("qx", "qy", "intensity")}, (64, 64)),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save(target, items, overwrite=True)
    print("saved")
except gpu4d.errors.InputError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("limit", [100, 5_000, 50_000, 1_000_000, 2_150_000, 2_300_000])
def test_a_full_disk(tmp_path, limit):
    """Whatever the write at which the space ends: one line, exit without a crash, the old file untouched, no scraps."""
    pytest.importorskip("resource")
    save(tmp_path / "r.h5", ITEMS)
    before = (tmp_path / "r.h5").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(limit), tmp_path / "r.h5"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:") and "r.h5 cannot be written (File too large)" in done.stdout
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert (tmp_path / "r.h5").read_bytes() == before and left_behind(tmp_path) == ["r.h5"]
