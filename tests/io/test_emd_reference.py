"""Results name a scan that HDF5 cannot link to, and open it again as it was opened."""

import shutil

import numpy as np
import pytest

import gpu4d
from gpu4d.io import read_emd

SCAN, DETECTOR = (3, 5), (8, 6)


def values():
    return np.random.default_rng(0).poisson(3, (*SCAN, *DETECTOR)).astype("uint16")


def behind_headers(path):
    """Plain numbers, the highest byte first, a header of 20 bytes before each pattern."""
    path.write_bytes(b"".join(bytes(20) + frame.astype(">u2").tobytes() for frame in values().reshape(-1, *DETECTOR)))
    return gpu4d.open(path, scan_shape=SCAN, layout=gpu4d.RawLayout(DETECTOR, ">u2", 20, 20))


def zarr(path):
    gpu4d.convert(values(), path.with_suffix(".zarr"))
    return gpu4d.open(path.with_suffix(".zarr"))


@pytest.mark.parametrize("make", [behind_headers, zarr])
def test_a_scan_is_found_again_also_if_all_was_moved(tmp_path, make):
    (tmp_path / "a").mkdir()
    cube = make(tmp_path / "a" / "scan.raw")
    gpu4d.save(tmp_path / "a" / "result.h5", {"cube": cube, "bf": gpu4d.RealSlice(np.ones(SCAN))})
    for folder in ("a", "b"):
        if folder == "b":
            shutil.move(tmp_path / "a", tmp_path / "b")
        again = read_emd(tmp_path / folder / "result.h5")["cube"]
        np.testing.assert_array_equal(np.asarray(again), values())
    assert len(list((tmp_path / "b").iterdir())) == 2  # the patterns were not copied


def test_a_scan_that_is_gone_is_left_out_with_a_warning(tmp_path, caplog):
    cube = behind_headers(tmp_path / "scan.raw")
    gpu4d.save(tmp_path / "result.h5", {"cube": cube, "bf": gpu4d.RealSlice(np.ones(SCAN))})
    (tmp_path / "scan.raw").unlink()
    found = read_emd(tmp_path / "result.h5")
    assert "cube" not in found and "bf" in found
    assert "is not there" in caplog.text
