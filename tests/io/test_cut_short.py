"""A mapped file that is cut short or overwritten: never zeros without a word, and what was loaded stays."""

import os
import sys

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.data.sample import patterns_at
from gpu4d.errors import InputError
from gpu4d.io.sources.mapped import MappedSource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing stands between a file cut short and the process")

SHAPE = (4, 8, 64, 64)
VIEWS = {
    "plain": lambda cube: cube,
    "binned": lambda cube: cube.bin(detector=4),
    "cropped": lambda cube: cube.crop(qx=(3, 60), ry=(1, 8)),
    "swapped": lambda cube: cube.swap_axes(detector=True),
    "corrected": lambda cube: cube.corrected(bad_pixels=np.eye(64, dtype=bool)),
    "binned in the scan": lambda cube: cube.bin(scan=2),
}


def scan(dtype="u2"):
    return np.full(SHAPE, 7, dtype)


def written(path, data, kind="npy"):
    if kind == "npy":
        np.save(path, data)
        return gpu4d.open(path)
    with h5py.File(path, "w") as file:
        file["scan"] = data
    return gpu4d.open(path)


def cut_at(monkeypatch, call, left=4096):
    """Cut a mapped file short right after the check before its n-th read."""
    calls, check = [], MappedSource.check_whole

    def once(self):
        check(self)
        calls.append(1)
        if len(calls) == call:
            os.truncate(self.path, left)

    monkeypatch.setattr(MappedSource, "check_whole", once)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["u2", ">u2", "f2", "?"])
def test_what_was_loaded_stays(tmp_path, view, dtype):
    cube = VIEWS[view](written(tmp_path / "a.npy", scan(dtype)))
    expected = np.asarray(gpu4d.sweep(cube, gpu4d.MaxPattern()))
    loaded, one, few = cube.load(), cube[1, 2], patterns_at(cube, [(0, 0), (1, 1)])
    kept = np.asarray(one).copy(), few.copy()
    with open(tmp_path / "a.npy", "r+b") as file:
        file.write(b"\xff" * 200_000)
    os.truncate(tmp_path / "a.npy", 5000)
    np.testing.assert_array_equal(np.asarray(gpu4d.sweep(loaded, gpu4d.MaxPattern())), expected)
    np.testing.assert_array_equal(np.asarray(one), kept[0])
    np.testing.assert_array_equal(few, kept[1])
    with pytest.raises(InputError, match="too short"):
        gpu4d.sweep(cube, gpu4d.MaxPattern())


def test_a_mapped_array_is_loaded_and_one_in_memory_is_not_copied(tmp_path):
    data = scan()
    assert np.shares_memory(gpu4d.DataCube(data).load().source.array, data)
    np.save(tmp_path / "a.npy", data)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for array in (mapped, np.asarray(mapped), mapped[1:]):
        loaded = gpu4d.DataCube(array).load().source.array
        assert not np.shares_memory(loaded, mapped) and (loaded == 7).all()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["u2", ">u2", "f2"])
@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_a_file_cut_short_after_the_check_is_noticed(tmp_path, monkeypatch, view, dtype, kind):
    jobs = {
        "sweep": lambda cube: gpu4d.sweep(cube, gpu4d.MeanPattern()),
        "load": lambda cube: cube.load(),
        "one pattern": lambda cube: cube[-1, -1],
        "patterns": lambda cube: patterns_at(cube, [(1, 2), (-1, -1)]),
        "save": lambda cube: gpu4d.save(tmp_path / "copy.h5", {"cube": cube}, links="copy", overwrite=True),
        "load_cube": lambda cube: gpu4d.streaming.load_cube(cube),
    }
    for name, job in jobs.items():
        with monkeypatch.context() as patch:
            cube = VIEWS[view](written(tmp_path / f"a.{kind}", scan(dtype), kind))
            cut_at(patch, 1)
            with pytest.raises(InputError, match="too short"):
                job(cube)
                pytest.fail(f"{name} took zeros for patterns")
    assert not (tmp_path / "copy.h5").exists()
