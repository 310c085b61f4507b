"""Nothing that is written takes the place of a file that a scan lies in, or is opened by: conversions and results stand beside it."""

import os
import shutil

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.data.events import EventSource
from gpu4d.errors import InputError
from gpu4d.io.raw_files import holds_scan, raw_files

SCAN = np.random.default_rng(0).poisson(2, (6, 8, 16, 16)).astype("uint16")


@pytest.fixture
def parts(tmp_path):
    """A virtual dataset over two files, and one over a whole file, as cameras and results have them."""
    for n in range(2):
        with h5py.File(tmp_path / f"part{n}.h5", "w") as file:
            file["d"] = SCAN[3 * n : 3 * n + 3]
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["d"] = SCAN
    with h5py.File(tmp_path / "of_two.h5", "w") as file:
        layout = h5py.VirtualLayout(SCAN.shape, SCAN.dtype)
        for n in range(2):
            layout[3 * n : 3 * n + 3] = h5py.VirtualSource(f"part{n}.h5", "d", (3, *SCAN.shape[1:]))
        file.create_virtual_dataset("scan", layout)
    with h5py.File(tmp_path / "of_one.h5", "w") as file:
        file["scan"] = h5py.ExternalLink("whole.h5", "d")
    return tmp_path


@pytest.mark.parametrize(
    "scan, out", [("of_two.h5", "part1.h5"), ("of_two.h5", "of_two.h5"), ("of_one.h5", "whole.h5"), ("of_one.h5", "of_one.h5")]
)
def test_files_that_a_scan_consists_of_are_not_replaced(parts, scan, out):
    before = (parts / out).read_bytes()
    os.symlink(parts / out, parts / "link.h5")
    for name in (out, "link.h5"):
        with pytest.raises(InputError, match="is the scan itself, or holds it"):
            gpu4d.convert(parts / scan, parts / name, overwrite=True)
        with pytest.raises(InputError, match="is the file that 'cube' is read from"):
            gpu4d.save(parts / name, {"cube": gpu4d.open(parts / scan)}, overwrite=True, links="copy")
    assert (parts / out).read_bytes() == before
    assert len(raw_files(gpu4d.open(parts / "of_two.h5").crop(rx=(0, 2)))) == 3


def test_results_with_a_link_are_not_replaced_by_the_scan_alone(parts):
    cube = gpu4d.open(parts / "whole.h5")
    items = {"datacube": cube, "bf": gpu4d.virtual_image(cube, gpu4d.detectors.disk(4.0))}
    gpu4d.save(parts / "result.h5", items)
    with pytest.raises(InputError, match="or holds it"):
        gpu4d.convert(parts / "result.h5", parts / "result.h5", overwrite=True)
    again = gpu4d.read_emd(parts / "result.h5")
    gpu4d.save(parts / "result.h5", {key: again[key] for key in items} | {"more": items["bf"]}, overwrite=True)  # the raw file is another
    assert {"bf", "more", "datacube"} <= set(gpu4d.read_emd(parts / "result.h5"))


def test_a_store_is_not_replaced_by_a_scan_that_lies_in_it(tmp_path):
    gpu4d.convert(SCAN, tmp_path / "a.zarr")
    gpu4d.convert(SCAN, tmp_path / "a.zarr/inside.h5")
    for scan in ("a.zarr/inside.h5", "a.zarr"):
        with pytest.raises(InputError, match="or holds it"):
            gpu4d.convert(tmp_path / scan, tmp_path / "a.zarr", overwrite=True)
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.zarr/inside.h5")), SCAN)


def test_results_alone_do_not_replace_a_scan(tmp_path):
    counted = gpu4d.DataCube(EventSource(np.array([0, 2, 2, 3, 5]), np.array([1, 5, 7, 0, 2]), (2, 2), (3, 4)))
    gpu4d.save(tmp_path / "counted.h5", {"cube": counted})
    gpu4d.convert(SCAN, tmp_path / "emd.h5")
    gpu4d.convert(SCAN, tmp_path / "a.hspy")
    gpu4d.save(tmp_path / "plain.h5", {"cube": gpu4d.DataCube(SCAN)}, classes="emdfile")
    np.save(tmp_path / "raw.npy", SCAN)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["d"] = SCAN
    bf = gpu4d.RealSlice(SCAN.sum((2, 3)), "bf")
    for name in sorted(os.listdir(tmp_path)):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InputError, match="holds a scan, and results never replace one"):
            bf.save(tmp_path / name, overwrite=True)
        assert (tmp_path / name).read_bytes() == before
    gpu4d.save(tmp_path / "emd.h5", {"cube": gpu4d.DataCube(SCAN[:2]), "bf": bf}, overwrite=True)  # another scan, as it was asked for


def test_results_replace_results(parts):
    tensors = np.zeros((4, 5, 6, 7))  # four axes, and no scan
    cube = gpu4d.open(parts / "whole.h5")
    for items in ({"tensors": tensors}, {"datacube": cube}, {"bf": gpu4d.RealSlice(np.ones((3, 4)))}):
        gpu4d.save(parts / "result.h5", items, overwrite=True)
        assert not holds_scan(str(parts / "result.h5"))
    (parts / "notes.txt").write_text("no scan")
    assert not holds_scan(str(parts / "notes.txt"))


def test_notes_beside_a_raw_file_are_not_replaced(tmp_path):
    (tmp_path / "a.raw.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"a\.raw\.json exists"):
            gpu4d.convert(SCAN, tmp_path / "a.raw", overwrite=overwrite)
    assert (tmp_path / "a.raw.json").read_text() == "{}" and os.listdir(tmp_path) == ["a.raw.json"]
    (tmp_path / "a.raw.json").unlink()
    gpu4d.convert(SCAN, tmp_path / "a.raw")
    gpu4d.convert(SCAN + 1, tmp_path / "a.raw", overwrite=True)  # its own notes
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.raw")), SCAN + 1)


def test_a_changed_store_is_another_scan(tmp_path, monkeypatch):
    """Chunks of a folder may change without the folder: what was written of the old ones is not continued."""
    from gpu4d.io.writing import chunks, pump

    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr(chunks, "LEAST_BYTES", 1 << 11)
    monkeypatch.setattr(pump, "MOST_TILE", 1 << 12)
    changed = SCAN.copy()
    changed[2] += 1  # neither in the first tile nor in the last one that was written
    gpu4d.convert(SCAN, tmp_path / "a.zarr", to="zarr2")
    gpu4d.convert(changed, tmp_path / "b.zarr", to="zarr2")

    def stop(stage, done, total):
        if stage == "convert" and 2 * done > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu4d.convert(tmp_path / "a.zarr", tmp_path / "out.h5", progress=stop, threads=1)
    shutil.copytree(tmp_path / "b.zarr/2", tmp_path / "a.zarr/2", dirs_exist_ok=True)
    done = gpu4d.convert(tmp_path / "a.zarr", tmp_path / "out.h5", threads=1)
    assert done.continued == 0
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "out.h5")), changed)
