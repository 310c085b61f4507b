"""`gpu4d.convert`: every target gives back the bits, the calibration and the metadata; a killed conversion goes on; damage is found."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import cli_convert
from gpu4d.data.events import EventSource
from gpu4d.data.source import ArraySource
from gpu4d.errors import InputError
from gpu4d.io.formats import carried
from gpu4d.io.writing import checksum, chunks, encoders, plain_files, pump, targets, zarr_files

TARGETS = [
    ("a.h5", {"codec": "lz4"}),
    ("a.emd", {"codec": "zstd"}),
    ("a.hdf5", {"codec": "none"}),
    ("a.hspy", {"codec": "lz4"}),
    ("a.zarr", {"codec": "zstd"}),
    ("b.zarr", {"codec": "none"}),
    ("c.zarr", {"to": "zarr2"}),
    ("a.zspy", {}),
    ("a.npy", {}),
    ("a.raw", {}),
]
VENDOR = {
    "attributes": {"/": {"operator": "ü", "DIMENSION_LIST": "of the file alone"}, "/scan/data": {"gain": 1.5}},
    "detector": {"dwell": 1e-3, "times": np.arange(5.0), "modes": [1, 2, {"name": None}], "pair": (1, 2), "on": True, "bad": float("nan")},
}


@pytest.fixture
def small(monkeypatch):
    """Small chunks, tiles and shards, so that a small scan has many of each, ragged ones too."""
    for name, size in (("CHUNK_BYTES", 1 << 13), ("LEAST_BYTES", 1 << 12), ("MOST_BYTES", 1 << 14)):
        monkeypatch.setattr(chunks, name, size)
    monkeypatch.setattr(pump, "MOST_TILE", 1 << 15)
    monkeypatch.setattr(zarr_files, "SHARD_BYTES", 1 << 16)


def made(dtype="uint16"):
    values = np.random.default_rng(0).poisson(3, (11, 13, 37, 33)).astype(dtype)
    known = gpu4d.Calibration(q_pixel=0.02, r_pixel=3.0, energy=2e5, semiangle=1.5, rotation=0.3, transpose=True)
    known.set(origin=np.random.default_rng(1).normal(17, 0.1, (11, 13, 2)), ellipse=(1.02, 1.0, 0.4))
    mask = np.ones((37, 33), bool)
    mask[3, 4] = False
    return gpu4d.DataCube(values, known, {"path": "/elsewhere.h5", "dataset": None, **VENDOR}, mask, "a scan"), values


def same(found, expected):
    """Compare nested metadata; NaN equals NaN."""
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
    equal = np.array_equal(found, expected, equal_nan=isinstance(expected, float))
    return equal and isinstance(found, np.ndarray) == isinstance(expected, np.ndarray)


@pytest.mark.parametrize("name, how", TARGETS)
def test_every_target_gives_back_the_scan(tmp_path, small, name, how):
    cube, values = made()
    done = gpu4d.convert(cube, tmp_path / name, **how)
    again = gpu4d.open(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(again), values)
    assert again.name == "a scan" and again.dtype == values.dtype and done.verified
    known, found = cube.calibration.known(), again.calibration.known()
    assert set(found) - set(known) <= {"probe_radius"}  # which opening works out from the others
    for field, value in known.items():
        np.testing.assert_array_equal(found[field], value, err_msg=field)
    np.testing.assert_array_equal(again.detector_mask, cube.detector_mask)
    expected = {**VENDOR, "attributes": {"/": {"operator": "ü"}, "/scan/data": {"gain": 1.5}}}
    assert same(again.metadata["source"], expected)
    # by the definition, with Python alone
    rows = checksum.pattern_hashes(np.ascontiguousarray(np.asarray(again)))
    assert done.checksum == checksum.checksum(rows, values.shape, values.dtype)
    assert sorted(os.listdir(tmp_path)) == sorted({name, *([name + ".json"] if done.format in ("npy", "raw") else [])})
    assert not [f for f in tmp_path.rglob("*.part")]
    # and once more: metadata do not pile up
    gpu4d.convert(tmp_path / name, tmp_path / "b.h5")
    assert same(gpu4d.open(tmp_path / "b.h5").metadata["source"], expected)


@pytest.mark.parametrize("blocks", [(1, 1), (4, 4), (1, 5), (11, 13), (3, 64)])
def test_tiles_cover_the_scan_once_and_hold_whole_chunks(blocks, small):
    class Blocks(ArraySource):
        pass

    source = Blocks(np.zeros((11, 13, 37, 33), "uint16"))
    source.blocks = blocks
    for most in (1, 1 << 15, 1 << 30):
        chosen = chunks.choose_chunks(source)
        assert 1 <= chosen[0] <= 11 and 1 <= chosen[1] <= 13
        seen = np.zeros((11, 13), int)
        for tile in chunks.tiles(source, chosen, most):
            seen[tile.rows, tile.columns] += 1
            assert not tile.rows.start % chosen[0] and not tile.columns.start % chosen[1]
            assert all(not stop % chunk or stop == n for stop, chunk, n in zip((tile.rows.stop, tile.columns.stop), chosen, (11, 13)))
        assert (seen == 1).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_other_types_keep_their_bits(tmp_path, dtype):
    _, values = made(dtype)
    for name in ("a.h5", "a.zarr", "a.npy"):
        gpu4d.convert(values, tmp_path / name)
        again = np.asarray(gpu4d.open(tmp_path / name))
        assert again.dtype == values.dtype and np.array_equal(again, values)


def test_hdf5_reads_what_was_encoded_outside_it(tmp_path, small, need):
    """The filters are those of the HDF5 library, which decodes every chunk."""
    need("hdf5plugin")
    cube, values = made()
    for codec in ("lz4", "zstd", "none"):
        gpu4d.convert(cube, tmp_path / f"{codec}.h5", codec=codec)
        with h5py.File(tmp_path / f"{codec}.h5") as file:
            data = file["gpu4d/a scan/data"]
            np.testing.assert_array_equal(data[()], values)
            assert (data.chunks is None) == (codec == "none") and data.attrs["checksum_kind"] == "blake2b of XXH64"
            assert file["gpu4d/a scan"].attrs["python_class"] == "DataCube" and file.attrs["version_major"] == 1


def test_views_are_converted_as_they_are(tmp_path):
    cube, values = made()
    part = cube.crop(rx=(2, 9), ry=(1, 12)).bin(detector=3)
    gpu4d.convert(part, tmp_path / "a.zarr")
    again = gpu4d.open(tmp_path / "a.zarr")
    expected = values[2:9, 1:12, :36, :33].reshape(7, 11, 12, 3, 11, 3).sum((3, 5))
    np.testing.assert_array_equal(np.asarray(again), expected)
    assert again.calibration.q_pixel == pytest.approx(0.06) and again.calibration.origin.shape == (7, 11, 2)


def test_corrections_are_said(tmp_path):
    cube, _ = made()
    bad = np.zeros((37, 33), bool)
    bad[5, 5] = True
    done = gpu4d.convert(cube.corrected(bad_pixels=bad), tmp_path / "a.zarr")
    assert any("1 bad pixel replaced" in note for note in done.notes)
    gpu4d.convert(tmp_path / "a.zarr", tmp_path / "b.h5")  # and stay said
    assert "1 bad pixel replaced" in gpu4d.open(tmp_path / "b.h5").metadata["metadata"]["corrections"]["applied"]


def test_counted_scans_stay_events_in_emd(tmp_path):
    offsets, pixels = np.array([0, 2, 2, 3, 5, 6, 6]), np.array([1, 5, 7, 0, 2, 11])
    cube = gpu4d.DataCube(EventSource(offsets, pixels, (2, 3), (3, 4)))
    done = gpu4d.convert(cube, tmp_path / "a.h5")
    assert "events" in done.notes[0] and "events" in gpu4d.open(tmp_path / "a.h5").source.description
    dense = gpu4d.convert(cube, tmp_path / "a.npy")
    assert any("became patterns" in note for note in dense.notes)
    assert done.verified and done.checksum == dense.checksum == gpu4d.convert(tmp_path / "a.h5", tmp_path / "a.zarr").checksum
    part = gpu4d.convert(gpu4d.open(tmp_path / "a.h5").crop(rx=(0, 1)), tmp_path / "part.h5")
    assert any("only a whole scan stays events" in note for note in part.notes)
    with pytest.raises(InputError, match="events are not compressed"):
        gpu4d.convert(cube, tmp_path / "b.h5", codec="zstd")
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.npy", "a.npy.json", "a.zarr", "part.h5"]
    for name in ("a.h5", "a.npy", "a.zarr"):
        np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / name)), np.asarray(cube))


def test_metadata_are_left_out_only_if_asked(tmp_path):
    cube, _ = made()
    done = gpu4d.convert(cube, tmp_path / "a.zarr", drop_metadata=True)
    assert done.notes == ("metadata were left out: attributes, detector",)
    again = gpu4d.open(tmp_path / "a.zarr")
    assert "source" not in again.metadata and again.calibration.energy == 2e5


ODD = {
    "big": 10**40,
    "many": [10**40, 1],
    "turn": 1 + 2j,
    "marked": {"__array__": "x"},
    "bytes of no text \udcff": "\udcff",
    "a/b": {"": 1},
}


@pytest.mark.parametrize("name", ["a.h5", "a.hspy", "a.zarr", "a.zspy", "a.npy"])
def test_odd_metadata_are_kept(tmp_path, name):
    scan = np.ones((2, 3, 2, 7), "uint8")  # the detector is smaller than that of any scan of another program
    gpu4d.convert(gpu4d.DataCube(scan, metadata=ODD), tmp_path / name)
    again = gpu4d.open(tmp_path / name)
    assert same(again.metadata["source"], ODD) and np.array_equal(np.asarray(again), scan)


def test_metadata_that_are_not_read_back_are_no_conversion(tmp_path, monkeypatch):
    cube, _ = made()
    monkeypatch.setattr(carried, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="metadata are not read back as they were"):
        gpu4d.convert(cube, tmp_path / "a.h5")
    circle = {}
    circle["inside"] = circle
    with pytest.raises(InputError, match="dictionaries inside themselves"):
        gpu4d.convert(gpu4d.DataCube(np.ones((2, 3, 4, 5)), metadata=circle), tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.h5", "a.zarr", "a.raw"])
def test_ctrl_c_while_it_is_read_back_keeps_what_is_written(tmp_path, name):
    _, values = made()
    np.save(tmp_path / "in.npy", values)

    def stop(stage, done, total):
        if stage == "verify" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu4d.convert(tmp_path / "in.npy", tmp_path / name, progress=stop)
    done = gpu4d.convert(tmp_path / "in.npy", tmp_path / name)
    assert done.continued == values.shape[0] * values.shape[1] and done.verified
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / name)), values)


def test_what_is_written_wrongly_is_found(tmp_path, monkeypatch):
    cube, _ = made()
    place = plain_files.Block.place

    def flipped(self, tile, patterns):
        patterns = patterns.copy()
        patterns[0, 0, 0, 0] ^= 1
        place(self, tile, patterns)

    monkeypatch.setattr(plain_files.Block, "place", flipped)
    with pytest.raises(InputError, match=r"rows 0.* were not written as they were read"):
        gpu4d.convert(cube, tmp_path / "a.npy")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    cube, _ = made()
    gpu4d.convert(cube, tmp_path / "in.npy")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(plain_files.os, "pwrite", full)
        with pytest.raises(InputError, match=r"No space left on device.*the same command goes on then"):
            gpu4d.convert(tmp_path / "in.npy", tmp_path / "a.raw")
    assert gpu4d.convert(tmp_path / "in.npy", tmp_path / "a.raw").verified


@pytest.mark.parametrize(
    "out, how, words",
    [
        ("a.png", {}, "stands for no format that can be written"),
        ("a.npy", {"codec": "lz4"}, "npy files are not compressed"),
        ("a.h5", {"codec": "gzip"}, "accepted are lz4"),
        ("a.h5", {"to": "tiff"}, "accepted are emd"),
        ("no/such/folder/a.h5", {}, "no such folder"),
        ("there.h5", {}, "exists; choose another name"),
        ("folder.zarr", {"overwrite": True}, "directory without a zarr store"),
        ("folder.zarr", {"overwrite": True, "to": "emd"}, "is a directory"),
        ("in.npy", {"overwrite": True}, "is the scan itself"),
    ],
)
def test_refused(tmp_path, out, how, words):
    np.save(tmp_path / "in.npy", np.ones((2, 3, 4, 5), "uint8"))
    (tmp_path / "there.h5").write_bytes(b"mine")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(InputError, match=words):
        gpu4d.convert(tmp_path / "in.npy", tmp_path / out, **how)
    assert sorted(os.listdir(tmp_path)) == ["folder.zarr", "in.npy", "there.h5"]
    assert (tmp_path / "there.h5").read_bytes() == b"mine"


def test_replaced_if_asked(tmp_path):
    cube, values = made()
    for name in ("a.zarr", "a.h5"):
        gpu4d.convert(values[:2], tmp_path / name)
        gpu4d.convert(cube, tmp_path / name, overwrite=True)
        np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / name)), values)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.zarr"]


# ---------------------------------------------------------------- killed at any moment

PROGRAM = """
import os, random, signal, sys, time
import numpy as np
import gpu4d
from gpu4d.io.writing import chunks, pump, zarr_files
chunks.CHUNK_BYTES, chunks.LEAST_BYTES, pump.MOST_TILE, zarr_files.SHARD_BYTES = 1 << 13, 1 << 12, 1 << 14, 1 << 16
os.chdir(sys.argv[1])
for name in ("warm.h5", "warm.zarr", "warm.raw"):  # children find everything imported and compiled
    gpu4d.convert(np.ones((1, 1, 4, 4), "uint16"), name)

def conversion(out, codec, steps):
    "Fork a child that converts, and that an alarm ends at once some time after some steps. Return what it said last."
    told, tell = os.pipe()
    delay = random.uniform(1e-6, 0.003)
    child = os.fork()
    if child == 0:
        count = iter(range(10**6))
        def said(stage, done, total):
            os.write(tell, b"step\\n")
            if next(count) == steps:
                signal.setitimer(signal.ITIMER_REAL, delay)  # without a handler: the system ends the process, as by SIGKILL
            time.sleep(0.0005)
        done = gpu4d.convert("in.npy", out, codec=codec, progress=said, threads=1)
        os.write(tell, b"complete %d\\n" % done.continued)
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as lines:
        last = ""
        for last in lines:
            pass
    os.waitpid(child, 0)
    return last

random.seed(4)
for out, codec in (("a.h5", "lz4"), ("b.h5", "none"), ("c.zarr", "zstd"), ("d.npy", "none"), ("e.hspy", "zstd"), ("f.zspy", "lz4")):
    kills, last = 0, ""
    while "complete" not in last and not os.path.exists(out):
        last = conversion(out, codec, random.randint(1, 9) if kills < 5 else 10**6)
        kills += 1
    print(out, kills, last.split()[-1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_at_any_moment_the_same_command_goes_on(tmp_path):
    _, values = made()
    np.save(tmp_path / "in.npy", values)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 6
    for name, kills, continued in lines:
        assert int(kills) > 3, done.stdout
        assert continued == "step" or int(continued) > 0, done.stdout  # it went on, unless the last kill came after the end
        np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / name)), values)
        assert not (tmp_path / f".{name}.converting").exists()


def test_another_scan_under_the_same_name_is_not_mixed_in(tmp_path, small):
    """An unfinished conversion of a file that was written anew since is begun again."""
    _, values = made()

    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if done > total // 2:
            raise Stop

    np.save(tmp_path / "in.npy", values)
    with pytest.raises(Stop):
        gpu4d.convert(tmp_path / "in.npy", tmp_path / "a.h5", progress=stop)
    assert (tmp_path / ".a.h5.converting").exists()
    np.save(tmp_path / "in.npy", values[::-1])
    done = gpu4d.convert(tmp_path / "in.npy", tmp_path / "a.h5")
    assert done.continued == 0
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.h5")), values[::-1])
    with pytest.raises(Stop):
        gpu4d.convert(tmp_path / "in.npy", tmp_path / "b.h5", progress=stop)
    broken = tmp_path / ".b.h5.converting"  # bytes of a chunk that never reached the disk
    with open(broken, "r+b") as file:
        file.seek(broken.stat().st_size // 2)
        file.write(bytes(64))
    done = gpu4d.convert(tmp_path / "in.npy", tmp_path / "b.h5")
    assert 0 < done.continued < 11 * 13
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "b.h5")), values[::-1])


def test_two_processes_do_not_write_the_same_file(tmp_path, small):
    _, values = made()
    np.save(tmp_path / "in.npy", values)
    refused = []

    def second(stage, done, total):
        if not refused:
            with pytest.raises(InputError, match="another process is converting into this file"):
                gpu4d.convert(tmp_path / "in.npy", tmp_path / "a.h5")
            refused.append(stage)

    gpu4d.convert(tmp_path / "in.npy", tmp_path / "a.h5", progress=second)
    assert refused


def test_the_command_line_names_what_can_be_written():
    assert cli_convert.CODECS == tuple(encoders.CODECS)
    assert cli_convert.TARGETS == tuple(target.name for target in targets.TARGETS)
