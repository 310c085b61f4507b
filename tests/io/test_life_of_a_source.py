"""Sources in other processes and under views, files cut short or moved while they are open, filters that are missing."""

import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
from stored_scans import check_source, counts, write

import gpu4d


@pytest.mark.parametrize("layout", ["mapped", "chunks", "library", "frames", "npy", "cropped"])
def test_sources_travel_by_pickle(tmp_path, layout):
    data = counts()
    options = {"chunks": {"chunks": (4, 4, 8, 12), "compression": "gzip"}, "library": {"chunks": (4, 4, 8, 12), "compression": "lzf"}}
    np.save(tmp_path / "a.npy", data)
    stored = data.reshape(60, 8, 12) if layout == "frames" else data
    write(tmp_path / "a.h5", stored, **options.get(layout, {}))
    cube = gpu4d.open(tmp_path / ("a.npy" if layout == "npy" else "a.h5"), scan_shape=(6, 10) if layout == "frames" else None)
    if layout == "cropped":
        cube, data = cube.crop(rx=(1, 5)), data[1:5]
    cube.source.read(slice(0, 1), slice(0, 1))
    sent = pickle.dumps(cube.source)
    assert len(sent) < 5000
    check_source(pickle.loads(sent), data)


def test_views_of_a_file(tmp_path):
    data = counts()
    write(tmp_path / "a.h5", data, chunks=(4, 4, 8, 12), compression="gzip")
    cube = gpu4d.open(tmp_path / "a.h5")
    np.testing.assert_array_equal(cube.crop(rx=(1, 4), qy=(2, 9)).load().source.array, data[1:4, :, :, 2:9])
    np.testing.assert_array_equal(cube.bin(detector=2).load().source.array, data.reshape(6, 10, 4, 2, 6, 2).sum((3, 5)))
    np.testing.assert_array_equal(cube.swap_axes(detector=True)[1, 2].data, data[1, 2].T)


SHORTENED = """
import os, sys, gpu4d
from gpu4d.errors import InputError
cube = gpu4d.open(sys.argv[1], scan_shape=(4, 16))
first = cube[0, 0].data.sum()
os.truncate(sys.argv[1], os.path.getsize(sys.argv[1]) // 2)
try:
    cube.source.read(slice(0, 4), slice(0, 16)).sum()
except InputError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("layout", ["hdf5", "npy", "chunks", "gzip"])
def test_a_file_shortened_while_it_is_open_is_an_error_not_a_crash(tmp_path, layout):
    data = counts((64, 64, 64))
    path = tmp_path / "a.bin"
    if layout == "npy":
        with open(path, "wb") as file:
            np.save(file, data)
    else:
        options = {"chunks": {"chunks": (16, 64, 64)}, "gzip": {"chunks": (16, 64, 64), "compression": "gzip"}}
        write(path, data, **options.get(layout, {}))
    done = subprocess.run([sys.executable, "-c", SHORTENED, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:") and "copy it again" in done.stdout


CUT_WHILE_SUMMED = """
import os, sys, threading, numba, numpy as np, gpu4d
from gpu4d.errors import InputError

@numba.njit(nogil=True)
def total(values):
    s = 0
    for v in values:
        s += v
    return s

def add(view, how):
    return total(view) if how == "numba" else int(view.sum()) if how == "numpy" else len(bytes(view[: 1 << 20]))

total(np.zeros(3, np.uint8))
for repeat in range(6):
    np.save(sys.argv[1], np.ones((64, 16, 64, 64), np.uint8))
    cube = gpu4d.open(sys.argv[1])
    view = cube.source.read(slice(0, 64), slice(0, 16)).reshape(-1)
    parts = np.array_split(view, 6)
    started = threading.Barrier(7)
    def work(part, how):
        started.wait()
        for _ in range(3):
            add(part, how)
    threads = [threading.Thread(target=work, args=(p, h)) for p, h in zip(parts, ("numba", "numpy", "bytes") * 2)]
    for t in threads:
        t.start()
    started.wait()
    os.truncate(sys.argv[1], 5000)
    for t in threads:
        t.join()
    assert view[-1] == 0 and view[0] == 1
    np.save(sys.argv[1] + ".tmp.npy", np.ones((64, 16, 64, 64), np.uint8))
    with open(sys.argv[1], "r+b") as file, open(sys.argv[1] + ".tmp.npy", "rb") as whole:
        file.write(whole.read())
    try:
        cube[0, 0]
        print("no error")
    except InputError as error:
        print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the handler for such faults is for Linux")
@pytest.mark.parametrize("options", [[], ["-X", "faulthandler"]], ids=["plain", "faulthandler"])
def test_a_file_shortened_while_its_pages_are_in_work(tmp_path, options):
    """The process lives, the pages read as zeros, and the source is an error from then on, even if the file grows back."""
    command = [sys.executable, *options, "-c", CUT_WHILE_SUMMED, tmp_path / "a.npy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.split() == ["refused"] * 6


CUT_IN_SWEEP = """
import os, sys, numpy as np, gpu4d
np.save(sys.argv[1], np.ones((64, 64, 64, 64), "u2"))
cube = gpu4d.open(sys.argv[1])

class Cutter(gpu4d.MeanPattern):
    def update(self, frames, positions):
        if int(sys.argv[2]) in positions[:, 0]:
            os.truncate(sys.argv[1], 4096)
        super().update(frames, positions)

try:
    print(gpu4d.sweep(cube, Cutter(), progress=False))
except gpu4d.errors.InputError as error:
    print("refused:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the handler for such faults is for Linux")
@pytest.mark.parametrize("row", [0, 30, 63])
def test_a_sweep_over_a_file_that_is_cut_short_is_refused(tmp_path, row):
    """Whether it happens at the first or in the very last rows, no result comes out of invented zeros."""
    command = [sys.executable, "-c", CUT_IN_SWEEP, tmp_path / "a.npy", str(row)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("refused:"), done.stdout + done.stderr


FOREIGN = """
import mmap, sys, numpy as np, gpu4d
np.save(sys.argv[1], np.ones((2, 2, 8, 8)))
gpu4d.open(sys.argv[1])[0, 0]
with open(sys.argv[1], "r+b") as file:
    file.truncate(20000)
    other = mmap.mmap(file.fileno(), 20000)
    file.truncate(0)
    other[15000]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the handler for such faults is for Linux")
def test_faults_of_others_are_left_to_them(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FOREIGN, tmp_path / "a.npy"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode < 0 and "Bus error" in done.stderr


def test_a_missing_filter_is_named(tmp_path):
    """In a process of its own without hdf5plugin, as where it cannot be installed."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    write(tmp_path / "a.h5", counts(), chunks=(4, 4, 8, 12), **dict(hdf5plugin.Bitshuffle()))
    code = textwrap.dedent("""
        import sys
        sys.modules["hdf5plugin"] = None
        import gpu4d
        try:
            gpu4d.open(sys.argv[1])
        except gpu4d.errors.InputError as error:
            print(error)
    """)
    env = {**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5"], capture_output=True, text=True, timeout=60, env=env)
    assert "bitshuffle (number 32008), which is not installed: pip install hdf5plugin" in done.stdout, done.stderr


def test_shared_scans_are_read_as_h5py_reads_them(shared_data):
    for name, dataset in (("au_nbed_strain.h5", "poisson_5e3"), ("rotavirus_cryo_ptycho_96x96_bin4.h5", "data")):
        with h5py.File(shared_data / name) as file:
            expected = file[dataset][10:21, 3:17]
        got = gpu4d.open(shared_data / name, dataset=dataset).source.read(slice(10, 21), slice(3, 17))
        np.testing.assert_array_equal(got, expected)


def test_a_moved_file_keeps_being_read_through_its_map(tmp_path):
    data = counts()
    write(tmp_path / "a.h5", data)
    cube = gpu4d.open(tmp_path / "a.h5")
    shutil.move(tmp_path / "a.h5", tmp_path / "b.h5")
    np.testing.assert_array_equal(cube[2, 3].data, data[2, 3])
