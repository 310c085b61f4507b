"""The background of raw frames: streaks, darks, defects and hits, against what the frames were made of."""

import h5py
import numpy as np
import pytest
from raw_frames import ADU, NOISE, inside, raw_frames

import gpu4d
from gpu4d.data.sample import patterns_at
from gpu4d.errors import InputError
from gpu4d.preprocess import background, edge_pixels, find_defects

SHAPE = (72, 64)  # not square, and columns without an edge pixel on one side are none


def scene(scan=(6, 6), shape=SHAPE, radius=0.85):
    """Electrons (Rx, Ry, Qx, Qy) of a few disks and a halo inside of a round hole."""
    rng = np.random.default_rng(3)
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])
    mean = np.full(shape, 0.05)
    for cx, cy, height in ((0.5, 0.5, 8.0), (0.4, 0.66, 3.0), (0.62, 0.35, 3.0)):
        mean += height / (1 + np.exp(3 * (np.hypot(x - cx * shape[0], y - cy * shape[1]) - 4.0)))
    return rng.poisson(np.broadcast_to(mean * inside(shape, radius), (*scan, *shape))).astype(float)


@pytest.fixture(scope="module")
def recorded():
    return raw_frames(scene())


def left(made, correction):
    """What corrected frames are off, without defects."""
    off = gpu4d.DataCube(made.raw).corrected(correction).load().source.array - made.clean
    return np.where(made.hot | made.dead, np.nan, off)


def test_shared_frames(shared_data):
    """Better than the simple method that the file names: 0.21 and 2.9 ADU, 10 false pixels, and every hit is gone."""
    with h5py.File(shared_data / "streaks.h5") as file:
        raw, darks, gain = (file[name][()] for name in ("frames", "dark_frames", "gain_reference"))
        truth = {name: file["truth"][name][()] for name in ("electrons", "hot_px", "dead_px", "xray_hits", "streak", "jitter")}
    found = background(gpu4d.DataCube(raw), darks, gain=gain)
    bad = np.zeros(raw.shape[2:], bool)
    bad[tuple(truth["hot_px"].T)] = bad[tuple(truth["dead_px"].T)] = True
    assert bad.sum() == 65 and (found.defects.pixels & bad).sum() == 65 and (found.defects.pixels & ~bad).sum() <= 5
    off = gpu4d.DataCube(raw).corrected(found).load().source.array - 14.0 * truth["electrons"]
    off[..., bad] = np.nan
    hit = np.zeros(raw.shape, bool)
    for a, b, x, y in truth["xray_hits"][:, :4].astype(int):
        for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
            hit[a, b, x + dx, y + dy] = True
    assert np.nanmax(np.abs(off[hit])) < 3 * 14 and found.hits_found == 10
    assert np.sqrt(np.nanmean(off[~hit] ** 2)) <= 2.8
    off[hit] = np.nan
    columns = np.nanmean(off, axis=(0, 1, 2))
    assert np.sqrt(np.mean(columns**2)) <= 0.2
    assert found.noise == pytest.approx(2.6, rel=0.02) and found.level == pytest.approx(0, abs=0.1)
    assert found.streaks_fixed == pytest.approx(truth["streak"].std(), rel=0.1)
    assert found.streaks_changing == pytest.approx(truth["jitter"].std(), rel=0.1)


def test_what_is_left_is_noise(recorded):
    found = background(recorded.raw, recorded.darks, gain=recorded.gain)
    off = left(recorded, found)
    floor = np.sqrt(NOISE**2 * (1 + 1 / 12) + 1 / 12)  # of the readout, of the mean of the darks, of whole numbers
    assert np.sqrt(np.nanmean(off**2)) < 1.1 * floor
    assert np.nanstd(np.nanmean(off, axis=(0, 1, 2))) < 0.35  # of 4 ADU: the darks at some 14 edge pixels of a column
    assert np.array_equal(found.defects.pixels, recorded.hot | recorded.dead)
    assert found.noise == pytest.approx(NOISE, rel=0.05) and found.streaks_changing == pytest.approx(1.5, rel=0.25)
    assert dict(found.said)["streaks along columns are subtracted"].startswith("steps between columns")


def test_the_share_leaves_the_smallest_error():
    """Streaks of single frames below the noise of a line: all of what an edge shows is worse than its share, and none is worse."""
    made = raw_frames(scene((16, 16)), darks=400, jitter=0.6)
    found = background(made.raw, made.darks, gain=made.gain)
    share = found.streaks.share
    assert 0.1 < share.min() and share.max() < 0.8
    errors = []
    for factor in (0.0, 1.0, 1 / share):
        streaks = gpu4d.data.Streaks(found.edge, "columns", share * factor, found.streaks.clip)
        other = gpu4d.data.FrameCorrection(found.background, found.gain, streaks, None, found.bad_pixels)
        errors.append(np.nanmean(np.nanmean(left(made, other)[:, :, 20:50], axis=2) ** 2))
    assert errors[1] < 0.97 * min(errors[0], errors[2])


def test_rows_without_a_dark(recorded):
    """The same frames turned: the lines are rows. Without a dark the offset goes, too; pixels keep the differences of the offset."""
    turned = np.swapaxes(recorded.raw, 2, 3)
    found = background(turned)
    assert found.streaks.along == "rows" and found.defects.pixels.sum() <= 12
    off = gpu4d.DataCube(turned).corrected(found).load().source.array[:, :, :4] - np.swapaxes(recorded.clean, 2, 3)[:, :, :4]
    assert np.abs(np.nanmedian(off, axis=(0, 1, 3))).max() < 1.5


def test_disks_are_not_moved_by_streaks(shared_data):
    """Bragg disks of a scan with streaks and noise added, and taken off again: within 0.02 px of those of the scan itself."""
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        counts = file["poisson_1e5"][:6, :6].astype(float)
    hole = inside(counts.shape[2:], 0.85)
    made = raw_frames(counts * hole, jitter=2.0, seed=4)
    clean = gpu4d.DataCube((made.clean).astype("float32"))
    mean = np.asarray(gpu4d.sweep(clean, gpu4d.MeanPattern(), device="cpu"))
    disk = gpu4d.probe.measure_disk(mean)
    template = gpu4d.probe.template(gpu4d.probe.synthetic(counts.shape[2:], disk.radius))
    options = {"refine": "correlation", "max_peaks": 9, "edge": 20}
    found = background(made.raw, made.darks, gain=made.gain)
    disks = [gpu4d.find_bragg_disks(cube, template, **options) for cube in (clean, gpu4d.DataCube(made.raw).corrected(found))]
    shifts = []
    for rx in range(6):
        for ry in range(6):
            a, b = (np.stack([d[rx, ry].qx, d[rx, ry].qy], -1) for d in disks)
            away = np.hypot(*(a[:, None] - b).transpose(2, 0, 1))
            shifts.append((b[away.argmin(1)] - a)[away.min(1) < 1])
    shifts = np.concatenate(shifts)
    assert len(shifts) > 200 and np.abs(shifts.mean(0)).max() < 0.02


def test_flickering_pixels():
    """In darks; in the frames alone, inside a disk and beside it. A spot that comes and goes is none."""
    made = raw_frames(scene((8, 8)))
    raw, rng = made.raw.astype(float), np.random.default_rng(1)
    on = rng.random((8, 8)) < 0.4
    raw[..., 37, 31][on] += 500  # inside the bright disk
    raw[..., 20, 40][on] += 120
    spot = np.hypot(np.arange(72)[:, None] - 50, np.arange(64) - 30) < 1.3
    raw[rng.random((8, 8)) < 0.3] += 200 * spot
    found = background(raw, made.darks, gain=made.gain).defects
    assert np.argwhere(found.flickering).tolist() == [[20, 40], [37, 31]]
    darks = np.random.default_rng(2).normal(100, 2, (20, 40, 30))
    darks[::3, 7, 7] += 15
    assert np.argwhere(find_defects(darks).flickering).tolist() == [[7, 7]]


def test_hits():
    """X-rays of any height above the beam; a disk that one pattern alone has stays. Asked for, hits below the beam go too."""
    made = raw_frames(scene((8, 8)))
    raw = made.raw.astype(float)
    places = [(0, 0, 30, 10), (3, 4, 60, 50), (5, 5, 3, 3), (7, 1, 50, 22)]
    for a, b, x, y in places:
        raw[a, b, x, y] += 1500
        raw[a, b, x - 1 : x + 2, y] += 150
    raw[2, 2] += 900 * (np.hypot(np.arange(72)[:, None] - 20, np.arange(64) - 20) < 3.5)
    correction = background(raw, made.darks, gain=made.gain)
    clean = correction.apply(raw)
    assert correction.hits_found == 4 and all(clean[place] < 3 * ADU for place in places) and clean[0, 0, 29, 10] < 3 * ADU
    assert clean[2, 2, 20, 20] > 800
    weak = made.raw.astype(float)
    weak[4, 4, 60, 30] += 260
    for hits, gone in (("auto", False), (True, True), (False, False)):
        other = background(weak, made.darks, gain=made.gain, hits=hits)
        assert (other.apply(weak)[4, 4, 60, 30] < 100) == gone and (other.hits is not None) == gone


def test_spots_of_crystals_that_few_patterns_show_are_no_hits():
    """X-rays fall on the edge, too, but are narrower than the spots."""
    x, y = np.arange(72)[:, None], np.arange(64)
    beam = scene((8, 8)) + np.random.default_rng(5).poisson(120 * (np.hypot(x - 36, y - 32) < 4), (8, 8, 72, 64))
    made = raw_frames(beam)
    raw, rng = made.raw.astype(float), np.random.default_rng(1)
    for frame, cx, cy in ((3, 30.3, 44.4), (17, 40.2, 20.1), (40, 25.0, 25.6), (55, 44.8, 40.0)):
        raw[frame // 8, frame % 8] += rng.poisson(50 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3.0)) * ADU
    spots = raw.copy()
    for _ in range(16):
        at = tuple(int(rng.integers(0, n)) for n in raw.shape)
        if spots[at] == raw[at] == made.raw[at]:
            raw[at] += 5000
    found = background(raw, made.darks, gain=made.gain)
    true = background(spots, made.darks, gain=made.gain, hits=False).apply(spots)
    np.testing.assert_allclose(found.apply(spots), true, atol=0.5)  # no spot is taken off
    assert found.hits is not None and (found.apply(raw) - true).max() < 4 * ADU  # X-rays brighter than the beam are


COUNTED = ["two_phase.h5:poisson_300", "amorphous_fem.h5:poisson_1e5"]
MORE = [
    "au_nbed_strain.h5:poisson_1e5",
    "orientation.h5:poisson_10000",
    "mos2_ssb_infocus.h5:noisefree",
    "rotavirus_cryo_ptycho_crop32x32_full256.h5:data",
]


@pytest.mark.parametrize("name", [*COUNTED, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_counts_and_intensities_are_left_alone(name, shared_data):
    """Disks at the edge lie in the same columns above and below, and pixels of grains come and go: neither is a streak or a defect."""
    file, dataset = name.split(":")
    with h5py.File(shared_data / file) as opened:
        found = background(opened[dataset][::4])
    assert found.description == "single precision" and found.hits is None and not found.defects.pixels.any()


def test_signal_at_the_edge_is_seen():
    """A hole that is larger than the radius says: the third nearest to the beam is brighter than the rest."""
    made = raw_frames(scene(radius=1.0) + scene(radius=1.0) * 5)
    found = background(made.raw, made.darks, gain=made.gain, radius=0.85, streaks="columns")
    assert found.level > 5 * found.level_error > 0
    edge = ~inside(SHAPE, 1.01)
    given = background(made.raw, made.darks, gain=made.gain, edge=edge)
    assert abs(given.level) < 4 * given.level_error and np.array_equal(given.edge, edge)


def test_masks_nan_and_few_frames(recorded):
    mask = np.ones(SHAPE, bool)
    mask[:, 30:34] = False
    raw = recorded.raw.astype("float32")
    raw[..., 30:34] = np.nan
    raw[1, 1, 2, 3] = np.nan
    found = background(gpu4d.DataCube(raw, detector_mask=mask), recorded.darks)
    assert found.streaks is not None and not (found.edge & ~mask).any() and np.isfinite(found.noise)
    clean = found.apply(raw)
    assert np.isfinite(clean[..., :30]).sum() == clean[..., :30].size - 1
    one = background(recorded.raw[0, 0], recorded.darks, streaks=True)
    assert one.frames == 1 and one.hits is None and one.streaks is None and one.noise == 0
    assert np.abs(np.median(one.apply(recorded.raw[0, 0])[~inside(SHAPE, 0.9)])) < 2
    np.testing.assert_array_equal(patterns_at(gpu4d.DataCube(raw).corrected(found), [(0, 0)])[0], clean[0, 0])


def test_an_empty_pattern_makes_no_pixel_flicker(recorded):
    """What stands for its values must not hold the hits of other patterns."""
    raw = recorded.raw.astype("float32")
    for at in ((0, 3, 20, 30), (2, 2, 40, 12), (5, 0, 60, 60)):
        raw[at] += 4000.0
    whole = background(raw, recorded.darks)
    raw[1, 2] = np.nan
    found = background(raw, recorded.darks)
    assert not found.defects.flickering.any() and (found.bad_pixels == whole.bad_pixels).all()


def test_edge_pixels():
    edge = edge_pixels((40, 30), 0.9)
    assert not edge[20, 15] and edge[0].all() and edge[20, 0] and not edge[20, 2]
    assert not edge_pixels((40, 30), 0.9, mask=np.zeros((40, 30), bool) | ~edge | (np.arange(30) > 3))[:, :3].any()


def test_what_is_refused_says_what_to_do(recorded):
    raw, darks = recorded.raw, recorded.darks
    for call, said in (
        (lambda: background(raw, darks[:, :5]), r"dark is \(12, 5, 64\), the detector is \(72, 64\)"),
        (lambda: background(raw, gain=np.ones((2, 2))), r"gain is \(2, 2\)"),
        (lambda: background(raw, streaks="lines"), "need 'auto', 'columns', 'rows', True or False"),
        (lambda: background(raw, hits="yes"), "need 'auto', True or False"),
        (lambda: background(raw, threshold=0.0), "threshold=0: need more than 0"),
        (lambda: background(raw, radius=2.0), "radius=2: no pixel"),
        (lambda: background(raw, edge=np.zeros(SHAPE, bool)), "edge marks no pixel"),
        (lambda: background(raw, np.full(SHAPE, np.nan)), "no edge pixel is left"),
        (lambda: background(raw[:0]), "at least one frame"),
        (lambda: background(gpu4d.DataCube(raw[:0])), "no positions"),
        (lambda: find_defects(np.zeros(4)), r"dark is \(4,\)"),
        (lambda: find_defects(darks, threshold=-1.0), "need more than 0"),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_a_hit_in_a_counted_scan_goes_when_asked_for(shared_data):
    """One pixel of 18 counts in one pattern, near the left edge, where others have 0 or 1. Nothing else of 132 patterns changes."""
    with h5py.File(shared_data / "rotavirus_cryo_ptycho_crop32x32_full256.h5") as file:
        counts = file["data"][24:28]
    found = background(counts, hits=True)
    clean = found.apply(counts)
    assert counts[1, 10, 109, 4] == 18 and clean[1, 10, 109, 4] < 1
    assert np.argwhere(clean != counts).tolist() == [[1, 10, 109, 4]]
