"""Electron counting and hot pixels: against electrons put in by hand, and a detector model whose every electron is known."""

import h5py
import numpy as np
import pytest
from cuda_on_host import HostBackend
from scipy.spatial import cKDTree

from gpu4d import operation
from gpu4d.device.backend import using_backend
from gpu4d.errors import InputError
from gpu4d.preprocess import count_electrons, hot_pixel_median, hot_pixels, thresholds


def one_to_one(found: np.ndarray, truth: np.ndarray, reach: float) -> int:
    """Pairs no farther apart than `reach`, the closest first, each point in one."""
    distance = cKDTree(truth).sparse_distance_matrix(cKDTree(found), reach, output_type="coo_matrix")
    used: tuple[set, set] = (set(), set())
    for i in np.argsort(distance.data):
        a, b = distance.row[i], distance.col[i]
        if a not in used[0] and b not in used[1]:
            used[0].add(a)
            used[1].add(b)
    return len(used[0])


@pytest.fixture(scope="module")
def raw(shared_data):
    with h5py.File(shared_data / "counting_raw.h5") as file:
        return {
            "frames": file["frames"][:],
            "dark": file["dark_frames"][:].mean(axis=0),
            "events": file["truth/events"][:],
            "electron": float(file.attrs["mean_single_electron_adu"]),
            "noise": float(file.attrs["read_noise_adu"]),
            **{name: set(file[f"truth/{name}_px_flat"][:].tolist()) for name in ("hot", "flicker")},
        }


@pytest.mark.shared
def test_electrons_of_a_detector_whose_truth_is_known(raw):
    """From raw frames and darks alone: hot pixels, those that fire by themselves, thresholds, electrons."""
    hot = hot_pixels(raw["dark"])
    assert set(np.flatnonzero(hot)) == raw["hot"]

    def counted(mask):
        limits = thresholds(raw["frames"], raw["dark"], mask=mask)
        return limits, count_electrons(raw["frames"], raw["dark"], *limits[:2], electron=limits.electron, mask=mask)

    _, events = counted(~hot)
    struck = np.zeros(hot.shape, np.int64)
    np.add.at(struck, (events.qx, events.qy), 1)
    fires = hot_pixels(struck)
    assert raw["flicker"] <= set(np.flatnonzero(fires))
    assert fires.sum() < 2 * len(raw["flicker"])

    limits, events = counted(~hot & ~fires)
    assert abs(limits.noise / raw["noise"] - 1) < 0.1
    assert abs(limits.electron / raw["electron"] - 1) < 0.15  # two electrons close together count as one
    points = np.stack([events.qx, events.qy], axis=-1).astype(float)
    found = false = 0
    for i in range(64):
        mine, truth = points[events.offsets[i] : events.offsets[i + 1]], raw["events"][raw["events"][:, 0] == i, 1:3]
        found += one_to_one(mine, truth, 1.0)
        false += np.count_nonzero(cKDTree(truth).query(mine)[0] > 1.5)
    assert found / len(raw["events"]) >= 0.845
    assert false / len(points) <= 3e-4


def test_electrons_put_in_are_found_where_they_are():
    rng = np.random.default_rng(0)
    frames = rng.normal(50, 2, (5, 40, 30))
    where = [(0, 3, 4), (0, 0, 0), (2, 39, 29), (2, 20, 11), (4, 7, 0)]
    for place in where:
        frames[place] += 100
    frames[3, 10, 10] += 5000  # an X-ray
    events = count_electrons(frames.round().astype("uint16"), np.full((40, 30), 50.0), 0.2, 10.0, electron=100.0)
    frame = np.repeat(np.arange(5), np.diff(events.offsets))
    assert list(zip(frame.tolist(), events.qx.tolist(), events.qy.tolist())) == sorted(where)
    np.testing.assert_allclose(events.intensity, 1.0, atol=0.1)


def test_thresholds_are_in_electrons_and_follow_the_gain_of_the_camera():
    rng = np.random.default_rng(1)
    signal = rng.normal(0, 3, (30, 64, 64))
    for frame, x, y in zip(rng.integers(0, 30, 600), rng.integers(1, 63, 600), rng.integers(1, 63, 600)):
        signal[frame, x, y] += 90
        signal[frame, x, y + 1] += 30
    dark = np.full((64, 64), 200.0)
    one, four = thresholds(200 + signal, dark), thresholds(200 + 4 * signal, dark)
    assert abs(one.electron / 120 - 1) < 0.05
    assert abs(four.electron / one.electron - 4) < 1e-3 and abs(four.lower - one.lower) < 1e-4
    assert 4 * 3 < one.lower * one.electron < 6 * 3


def test_background_alone_has_no_thresholds():
    rng = np.random.default_rng(2)
    with pytest.raises(InputError, match="no electrons"):
        thresholds(rng.normal(100, 3, (4, 32, 32)), np.full((32, 32), 100.0))
    with pytest.raises(InputError, match="no width"):
        thresholds(np.zeros((4, 32, 32), "uint16"), np.zeros((32, 32)))


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (np.nan, 1.0)])
def test_thresholds_out_of_order_are_refused(lower, upper):
    with pytest.raises(InputError, match="0 < lower < upper"):
        count_electrons(np.zeros((2, 4, 4)), np.zeros((4, 4)), lower, upper)


def test_shapes_of_counting_are_checked():
    with pytest.raises(InputError, match="dark is"):
        count_electrons(np.zeros((2, 4, 4)), np.zeros((4, 5)), 0.5, 1.0)
    with pytest.raises(InputError, match="electron=0"):
        count_electrons(np.zeros((2, 4, 4)), np.zeros((4, 4)), 0.5, 1.0, electron=0.0)


def test_an_electron_becomes_points_of_its_position():
    frames = np.zeros((2, 3, 6, 5), "uint16")
    frames[1, 2, 4, 3] = 9
    points = count_electrons(frames, np.zeros((6, 5)), 0.5, 3.0, electron=9.0).points((2, 3))
    assert points.counts.tolist() == [[0, 0, 0], [0, 0, 1]]
    assert (points[1, 2].qx.tolist(), points[1, 2].qy.tolist(), points[1, 2].intensity.tolist()) == ([4.0], [3.0], [1.0])


@pytest.mark.parametrize("dose", [0.02, 3.0, 300.0])
def test_counts_are_not_hot_and_hot_pixels_are(dose):
    rng = np.random.default_rng(3)
    frames = rng.poisson(dose, (40, 64, 64)).astype("uint16")
    corrected, hot = hot_pixel_median(frames)
    assert hot.mean() < 1e-5 and np.array_equal(corrected[~hot], frames[~hot])
    spoiled = frames.copy()
    spoiled[::2, 10, 20] = spoiled[::3, 0, 63] = int(8 * dose + 50)
    corrected, hot = hot_pixel_median(spoiled)
    assert hot[::2, 10, 20].all() and hot[::3, 0, 63].all() and not hot[1::2, 10, 20].any()
    assert np.abs(corrected[::2, 10, 20].astype(float) - dose).max() < 4 * np.sqrt(dose) + 2


def test_the_edge_of_a_disk_is_not_hot():
    x, y = np.arange(64)[:, None], np.arange(64)[None, :]
    disk = np.where(np.hypot(x - 31.5, y - 31.5) < 12, 4000.0, 10.0)
    frames = np.random.default_rng(4).poisson(disk, (20, 64, 64))
    assert not hot_pixel_median(frames, threshold=5.0)[1].any()


def test_masked_pixels_are_replaced_and_say_nothing():
    frame = np.full((6, 7), 10.0, "float32")
    mask = np.ones((6, 7), bool)
    mask[2:4, 3:5] = False
    frame[~mask] = (np.nan, 1e9, -5.0, 0.0)
    corrected, hot = hot_pixel_median(frame, mask=mask)
    assert (corrected == 10).all() and not hot.any()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "uint32", "int64", "float32", "float64"])
def test_pixels_that_are_not_hot_keep_every_bit(dtype, need, monkeypatch):
    """In a library that cannot choose between integers without a sign, as torch on CUDA cannot."""
    strict = need("array_api_strict")
    choose = strict.where

    def where(condition, x, y, /):
        assert str(x.dtype).rpartition(".")[2] not in ("uint16", "uint32"), "not implemented for unsigned integers"
        return choose(condition, x, y)

    monkeypatch.setattr(strict, "where", where)
    rng, kind = np.random.default_rng(2), np.dtype(dtype).kind
    top = 1.0 if kind == "b" else 1e30 if kind == "f" else min(float(np.iinfo(dtype).max), 2.0**62)
    frames = (rng.random((3, 9, 8)) * 0.9 * top).astype(dtype)  # bits down to the last one
    if kind == "f":
        frames[0, 0, 0] = np.nan
    mask = np.ones((9, 8), bool)
    mask[4, 4] = False
    corrected, hot = hot_pixel_median(strict.asarray(frames), mask=strict.asarray(mask))
    kept = ~np.asarray(hot) & mask
    assert np.asarray(corrected).dtype == dtype and kept.sum() > 150
    assert np.asarray(corrected)[kept].tobytes() == frames[kept].tobytes()
    neighbours = np.sort(np.delete(frames[:, 3:6, 3:6].reshape(3, 9).astype(np.float64), 4, axis=1))
    middle = (neighbours[:, 3] + neighbours[:, 4]) / 2
    np.testing.assert_array_equal(np.asarray(corrected)[:, 4, 4], (middle if kind == "f" else np.floor(middle + 0.5)).astype(dtype))


def test_hot_pixels_of_the_mean_and_of_the_sum_are_the_same():
    rng = np.random.default_rng(5)
    frames = rng.poisson(0.5, (50, 32, 32)).astype("uint16")
    frames[:, 5, 6] += 2
    frames[:, 31, 0] += 3
    expected = np.zeros((32, 32), bool)
    expected[5, 6] = expected[31, 0] = True
    np.testing.assert_array_equal(hot_pixels(frames), expected)
    np.testing.assert_array_equal(hot_pixels(frames.mean(axis=0), unit=1 / 50), expected)


@pytest.mark.parametrize(
    ("options", "said"), [({"threshold": 0}, "threshold=0"), ({"unit": -1}, "unit=-1"), ({"mask": np.ones(3, bool)}, "mask is")]
)
def test_options_of_hot_pixels_are_checked(options, said):
    with pytest.raises(InputError, match=said):
        hot_pixel_median(np.ones((2, 5, 5)), **options)


def counted_on_shim(frames, dark, seed=7, **options):
    host = HostBackend(seed=seed)
    with using_backend(host), operation.using("cuda"):
        return count_electrons(frames, dark, 0.5, 10.0, electron=4.0, **options), [name for name, *_ in host.launched]


@pytest.mark.parametrize("shape", [(9000, 3, 4), (6, 100, 200), (0, 3, 4), (5, 0, 4)])
def test_electrons_of_many_frames_by_four_launches(shape):
    """More strips than one round of the scan, more than one strip a frame, none at all: the definition's list to the bit."""
    rng = np.random.default_rng(3)
    frames = (rng.random(shape) < 0.1).astype("uint8") * rng.integers(3, 40, shape, dtype="uint8")
    dark = rng.uniform(0, 1, shape[1:])
    with operation.using("definition"):
        want = count_electrons(frames, dark, 0.5, 10.0, electron=4.0)
    found, launched = counted_on_shim(frames, dark)
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    if frames.size:
        assert launched == ["level_and_scale", "mark_electrons_u8", "add_strips", "write_electrons_u8"]


def test_level_and_scale_of_the_kernel_are_the_definitions():
    from gpu4d.kernels.count_electrons import level_and_scale

    from gpu4d.preprocess.count_electrons import per_pixel

    rng = np.random.default_rng(4)
    dark, gain, mask = rng.normal(size=(40, 30)) * 1e3, rng.uniform(0.3, 3, (40, 30)), rng.random((40, 30)) < 0.9
    dark[3], gain[5, :4] = [np.inf] * 15 + [np.nan] * 15, (0, -1, np.nan, np.inf)
    for plane in (None, gain):
        for which in (None, mask):
            with using_backend(HostBackend()):
                found = level_and_scale(dark, 7.3, plane, which)
            for a, b in zip(found, per_pixel(dark, 7.3, plane, which), strict=True):
                assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("shape", [(5, 12, 20), (5, 11, 13)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_hot_pixels_of_the_kernel_are_the_definitions(dtype, shape):
    """Counts on both sides of the one below which no neighbour is looked at; whole vectors and none; masks, thresholds, views."""
    rng = np.random.default_rng(5)
    for top, options in ((3, {}), (12, {"threshold": 3.0}), (200, {"unit": 2.5}), (9, {"mask": rng.random(shape[1:]) < 0.9, "noise": 0.5})):
        frames = rng.integers(0, top, (shape[0] + 1, *shape[1:])).astype(dtype)
        frames[rng.random(frames.shape) < 0.02] = 200
        for part in (frames, frames.reshape(-1)[1 : 1 - frames[0].size].reshape(shape)):  # the second begins one pixel later
            with operation.using("definition"):
                want = hot_pixel_median(part, **options)
            assert want[1].any()
            for seed in (0, 1, 2, 7):
                with using_backend(HostBackend(seed=seed)), operation.using("cuda"):
                    found = hot_pixel_median(part, **options)
                for a, b in zip(found, want, strict=True):
                    np.testing.assert_array_equal(a, b)
