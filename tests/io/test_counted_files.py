"""Counted scans in EMD files: the same integers after a round trip, nothing loaded at opening, damaged files refused."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.data import EventSource
from gpu4d.errors import InputError
from gpu4d.io import read_emd
from gpu4d.io.formats import emd_events

SHAPE = (5, 7, 12, 9)


def counts(seed=1):
    values = np.random.default_rng(seed).poisson(0.1, SHAPE).astype("uint16")
    values[2, 3] = 0  # a position without an event
    return values


def events(values, with_counts, dtype="uint16"):
    """The scan of the counts, as events: several for a pixel, or one with its count."""
    flat = values.reshape(-1, SHAPE[2] * SHAPE[3])
    frame, pixel = np.nonzero(flat)
    often = flat[frame, pixel]
    if not with_counts:
        frame, pixel = np.repeat(frame, often), np.repeat(pixel, often)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(frame, minlength=len(flat)))])
    return EventSource(offsets, pixel, SHAPE[:2], SHAPE[2:], often if with_counts else None, dtype=dtype)


def saved(path, with_counts=False, **others):
    cube = gpu4d.DataCube(events(counts(), with_counts), gpu4d.Calibration(q_pixel=0.02, energy=2e5), name="scan")
    gpu4d.save(path, {"counted": cube, **others})
    return cube


@pytest.mark.parametrize("with_counts", [False, True])
@pytest.mark.parametrize("piece", [1, 20, 1 << 20])
def test_the_same_integers_come_back(tmp_path, monkeypatch, with_counts, piece):
    monkeypatch.setattr(emd_events, "PIECE_EVENTS", piece)
    cube = saved(tmp_path / "a.h5", with_counts, bf=gpu4d.RealSlice(np.ones(SHAPE[:2])))
    opened = gpu4d.open(tmp_path / "a.h5")
    assert opened.name == "counted" and opened.dtype == cube.dtype and opened.calibration.q_pixel == 0.02
    np.testing.assert_array_equal(np.asarray(opened), counts())
    found, given = opened.source.read_events(slice(0, 5), slice(0, 7)), cube.source
    np.testing.assert_array_equal(found.offsets, given.offsets)
    np.testing.assert_array_equal(found.pixels, given.pixels)
    assert (found.counts is None) == (not with_counts)
    if with_counts:
        np.testing.assert_array_equal(found.counts, given.counts)
    assert set(read_emd(tmp_path / "a.h5")) >= {"counted", "bf"}
    np.testing.assert_array_equal(np.asarray(read_emd(tmp_path / "a.h5")["counted"]), counts())


def test_lists_for_other_programs_hold_the_same_pixels(tmp_path):
    saved(tmp_path / "a.h5", with_counts=True)
    with h5py.File(tmp_path / "a.h5") as file:
        group = file["gpu4d/counted"]
        assert group.attrs["emd_group_type"] == "pointlistarray" and group.attrs["python_class"] == "PointListArray"
        lists = group["data"][()]
        assert "emd_group_type" not in group["events"].attrs
    dense = np.zeros(SHAPE, int)
    for at in np.ndindex(SHAPE[:2]):
        dense[at][lists[at]["qx"], lists[at]["qy"]] = lists[at]["counts"]
    np.testing.assert_array_equal(dense, counts())


def test_a_file_that_was_opened_can_be_saved_again(tmp_path):
    saved(tmp_path / "a.h5", with_counts=True)
    again = gpu4d.open(tmp_path / "a.h5")
    with pytest.raises(InputError, match="is the file that"):
        gpu4d.save(tmp_path / "a.h5", {"counted": again}, overwrite=True)
    gpu4d.save(tmp_path / "b.h5", {"counted": again})
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "b.h5")), counts())


def test_opening_reads_no_event(tmp_path):
    """Events that cannot be read are missed only when patterns are."""
    saved(tmp_path / "a.h5")
    opened = gpu4d.open(tmp_path / "a.h5")
    with open(tmp_path / "a.h5", "r+b") as file:
        file.truncate(opened.source.stored.offset + 8)
    with pytest.raises(InputError, match="truncated"):
        opened[4, 6]


def test_a_sweep_takes_the_events(tmp_path):
    saved(tmp_path / "a.h5")
    make = {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "max": gpu4d.MaxPattern()}
    a, b = (gpu4d.sweep(cube, make) for cube in (gpu4d.open(tmp_path / "a.h5"), gpu4d.DataCube(counts())))
    for name in make:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]))


def test_events_of_chunked_datasets_are_read_by_the_library(tmp_path):
    saved(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        group = file["gpu4d/counted/events"]
        pixels = group["pixels"][:]
        del group["pixels"]
        group.create_dataset("pixels", data=pixels.astype(">u4"), chunks=(16,), compression="gzip")
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.h5")), counts())


def test_of_several_scans_one_is_named(tmp_path):
    other = gpu4d.DataCube(np.ones((2, 2, 8, 8), "uint8"))
    saved(tmp_path / "a.h5", dense=other)
    with pytest.raises(InputError, match="several scans: /gpu4d/counted, /gpu4d/dense/data"):
        gpu4d.open(tmp_path / "a.h5")
    assert gpu4d.open(tmp_path / "a.h5", dataset="gpu4d/counted").shape == SHAPE
    assert gpu4d.open(tmp_path / "a.h5", dataset="/gpu4d/dense/data").shape == (2, 2, 8, 8)
    with pytest.raises(InputError, match="leave it out"):
        gpu4d.open(tmp_path / "a.h5", dataset="/gpu4d/counted", scan_shape=(7, 5))


def test_an_empty_scan_and_a_mask(tmp_path):
    mask = np.ones((12, 9), bool)
    mask[3, 4] = False
    empty = EventSource(np.zeros(36, int), np.zeros(0, int), SHAPE[:2], SHAPE[2:])
    gpu4d.save(tmp_path / "a.h5", {"none": gpu4d.DataCube(empty, detector_mask=mask)})
    opened = gpu4d.open(tmp_path / "a.h5")
    assert not np.asarray(opened).any()
    np.testing.assert_array_equal(opened.detector_mask, mask)


def spoil(change):
    def spoiled(path):
        with h5py.File(path, "a") as file:
            change(file["gpu4d/counted/events"])

    return spoiled


def replace(name, values):
    def change(group):
        if name in group:
            del group[name]
        if values is not None:
            group.create_dataset(name, data=values)

    return spoil(change)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (replace("offsets", np.arange(5)), "5 offsets for 35 positions"),
        (replace("offsets", np.arange(36)[::-1].copy()), "do not run from 0"),
        (replace("offsets", np.zeros((6, 6), int)), "no whole numbers 'offsets'"),
        (replace("pixels", None), "no whole numbers 'pixels'"),
        (replace("pixels", np.zeros(3, int)), "do not run from 0 to its 3 events"),
        (replace("counts", np.ones(2, int)), "2 counts for"),
        (spoil(lambda group: group.attrs.__setitem__("shape", [5, 7, 0, 9])), "need \\(Rx, Ry, Qx, Qy\\)"),
        (spoil(lambda group: group.attrs.__setitem__("shape", "large")), "need \\(Rx, Ry, Qx, Qy\\)"),
        (spoil(lambda group: group.attrs.__setitem__("dtype", "c16")), "a type that no counts have"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, damage, said):
    saved(tmp_path / "a.h5")
    damage(tmp_path / "a.h5")
    with pytest.raises(InputError, match=said) as caught:
        gpu4d.open(tmp_path / "a.h5")
    assert "\n" not in str(caught.value)


def test_pixels_outside_of_the_detector_are_refused_when_they_are_read(tmp_path):
    saved(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["gpu4d/counted/events/pixels"][0] = 108
    with pytest.raises(InputError, match="outside of 0 to 107"):
        np.asarray(gpu4d.open(tmp_path / "a.h5"))


def test_negative_counts_are_refused_when_they_are_read(tmp_path):
    source = EventSource([0, 2, 3], [1, 1, 2], (1, 2), (2, 2), counts=[1, 2, 3])
    gpu4d.save(tmp_path / "scan.h5", {"scan": gpu4d.DataCube(source)})
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["gpu4d/scan/events/counts"]
        file["gpu4d/scan/events/counts"] = np.array([1, -2, 3])
    with pytest.raises(InputError, match="negative counts: it is damaged"):
        np.asarray(gpu4d.open(tmp_path / "scan.h5"))
