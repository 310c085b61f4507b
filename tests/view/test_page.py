"""The page with a scan inside: what it holds, and that it holds it as it says."""

import base64
import json
import re
import zlib

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.view import Overlays, export_page, page_part
from gpu4d.view.page import first_bins, next_bins, packed_scan, quantised


def cube_of(data):
    """Return the patterns of a packed scan, (Rx, Ry, Qx, Qy), as a page computes them."""
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(data["cube"])), np.dtype(data["kind"]).newbyteorder("<"))
    about = data["about"]
    stack = numbers.reshape(*about["detector"], *about["scan"])
    return np.moveaxis(data["offset"] + data["step"] * stack.astype("float64"), (0, 1), (2, 3))


def test_counts_of_a_small_scan_are_in_the_page_as_they_are(counts):
    data = packed_scan(counts, title="t")
    assert data["kind"] == "uint8" and data["about"]["title"] == "t" and "exact" in data["about"]["notes"][0]
    assert np.array_equal(cube_of(data), counts.source.array)


def test_binned_counts_are_sums(counts):
    data = packed_scan(counts, bin=2)
    sums = counts.source.array.reshape(9, 11, 10, 2, 12, 2).sum(axis=(3, 5))
    assert np.array_equal(cube_of(data), sums)
    assert "summed 2×2" in data["about"]["notes"][0] and data["about"]["q"]["size"] == pytest.approx(0.04)
    assert data["note"] == "binned counts"


def test_values_that_are_no_small_counts_are_rounded_and_the_page_says_by_how_much():
    values = np.random.default_rng(0).normal(1e5, 1e5, (3, 4, 8, 8))
    data = packed_scan(gpu4d.DataCube(values))
    assert np.abs(cube_of(data) - values).max() <= 0.5000001 * data["step"] and data["step"] < np.ptp(values) / 60_000
    assert f"multiples of {data['step']:.3g}" in data["about"]["notes"][0] and data["note"] == "rounded counts"
    large = np.full((2, 2, 8, 8), 70_000, "uint32")
    np.testing.assert_allclose(cube_of(packed_scan(gpu4d.DataCube(large))), large)


def test_whole_numbers_keep_their_values():
    for dtype, top in (("uint8", 255), ("uint16", 65535), ("float32", 300), ("int64", 7)):
        kind, step, offset, numbers = quantised(np.array([0, 1, top], dtype))
        assert (step, offset) == (1.0, 0.0) and numbers.tolist() == [0, 1, top] and kind == ("uint8" if top < 256 else "uint16")
    assert quantised(np.array([np.nan, 1.0]))[3].tolist() == [0, 1]


def test_masked_pixels_are_marked(counts):
    mask = np.ones(counts.detector_shape, bool)
    mask[3, 4] = False
    data = packed_scan(gpu4d.DataCube(counts.source.array, detector_mask=mask))
    assert np.array_equal(np.frombuffer(zlib.decompress(base64.b64decode(data["valid"])), np.uint8).reshape(mask.shape) != 0, mask)


def test_a_page_stays_below_its_size():
    noise = gpu4d.DataCube(np.random.default_rng(0).integers(0, 200, (16, 16, 64, 64)).astype("uint8"))
    data = packed_scan(noise, most="300 kB")
    assert len(json.dumps(data)) <= 300_000 and data["about"]["detector"] != [64, 64]
    fixed = packed_scan(noise, most="300 kB", bin=2)
    assert fixed["about"]["detector"] == [32, 32] and fixed["about"]["scan"][0] < 16 and "positions summed" in fixed["about"]["notes"][0]
    with pytest.raises(InputError, match="allow more"):
        packed_scan(noise, most="5 kB")


def test_bins_become_coarser_step_by_step_until_nothing_is_left():
    cube = gpu4d.DataCube(np.zeros((64, 32, 256, 256), "uint8"))
    bins, seen = (1, 1), []
    while bins is not None:
        seen.append(bins)
        bins = next_bins(cube, bins, fixed=False)
    assert seen == sorted(seen) and seen[-1] == (32, 4)
    assert first_bins(cube, 10**9, None) == (4, 1)  # no finer than 64 pixels
    assert first_bins(cube, 10**9, 1) == (1, 1)


def test_overlays_are_in_binned_pixels(counts):
    qx, qy = np.array([9.5, 3.0]), np.array([12.0, 4.0])
    ends = np.concatenate([[0], np.full(99, 2)])
    disks = gpu4d.PointListArray(ends, {"qx": qx, "qy": qy, "intensity": np.ones(2)}, (9, 11))
    plane = gpu4d.RealSlice(np.arange(99.0).reshape(9, 11) - 50, "e_xx", "1")
    data = packed_scan(counts, bin=2, maps={"strain e_xx": plane}, overlays=Overlays(disks, np.array([[6.0, 0], [0, 8.0]])))
    assert data["disks"][0] == [[4.5, 5.75], [1.25, 1.75]] and data["disks"][1] == []
    assert data["about"]["lattice"] == [[3.0, 0.0], [0.0, 4.0]]
    assert data["about"]["maps"] == [{"name": "strain e_xx", "units": "1", "signed": True}]


def test_nothing_in_the_data_ends_the_script(counts, tmp_path):
    page = export_page(counts, tmp_path / "a.html", title="</script><!--<script>alert(1)").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "<!--<script>" not in page.split("<body>")[1]
    assert json.loads(re.search(r'id="gpu4d-view-data">(.*?)</script>', page, re.S)[1].replace("<\\!--", "<!--"))["kind"] == "uint8"
    assert not re.search(r'(src|href)="', page)  # it needs no other file


def test_a_page_is_not_replaced_without_being_asked(counts, tmp_path):
    export_page(counts, tmp_path / "a.html")
    with pytest.raises(InputError, match="exists"):
        export_page(counts, tmp_path / "a.html")
    export_page(counts, tmp_path / "a.html", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    with pytest.raises(InputError, match="need 1 to 20"):
        packed_scan(counts, bin=21)


def test_parts_of_a_page_have_names_of_their_own(counts):
    part = page_part(counts, name="scan-2")
    assert '<div id="scan-2" class="gpu4d-view">' in part and "<html" not in part
    with pytest.raises(InputError, match="letters"):
        page_part(counts, name='x" onclick="')
