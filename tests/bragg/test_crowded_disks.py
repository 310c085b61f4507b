"""Disks close to each other: found, located without bias, and with the error that the counts allow."""

import numpy as np
import pytest

import gpu4d
from gpu4d.bragg.likelihood.hidden_disks import FITTED, hidden_disks
from gpu4d.bragg.likelihood.joint_fit import OPEN, joint_fit
from gpu4d.bragg.likelihood.poisson_fit import disk_profile

RADIUS, EDGE = 5.0, 0.8


def disk(shape, at, radius=RADIUS, edge=EDGE):
    r = np.hypot(np.arange(shape[0])[:, None] - at[0], np.arange(shape[1]) - at[1])
    return 1 / (1 + np.exp(np.clip(4 * (r - radius) / edge, -60, 60)))


def template(shape):
    return gpu4d.probe.template(gpu4d.probe.synthetic(shape, RADIUS, edge=EDGE))


def frames_of(shape, places, heights, n, seed=0, ground=0.05):
    mean = ground + sum(h * disk(shape, p) for p, h in zip(places, heights))
    return np.random.default_rng(seed).poisson(np.broadcast_to(mean, (n, *shape))).astype("uint32")


def nearest(found, place):
    """The disk nearest to a place: its error and standard errors, or None beyond 2 px."""
    away = np.hypot(found.qx - place[0], found.qy - place[1])
    if not len(away) or away.min() > 2:
        return None
    k = int(away.argmin())
    return np.array([found.qx[k] - place[0], found.qy[k] - place[1]]), np.array([found.sx[k], found.sy[k]])


CENTRE = np.array([63.3, 64.2])
SCENES = {  # distance in radii, direction, heights of the bright and the weak disk
    "weak-at-2.4-radii": (2.4, 0.3, 200, 40),
    "weaker-at-3-radii": (3.0, 0.3, 200, 10),
    "faint-at-3-radii": (3.0, 0.3, 200, 5),
    "hundredth-at-3.4-radii": (3.4, 0.3, 200, 2),
    "overlapping-equals": (1.6, 1.1, 100, 100),
    "hidden-twentieth": (1.8, 2.0, 2000, 100),
    "hidden-hundredth-many-counts": (2.2, -0.7, 20000, 200),
    "few-counts": (2.0, 0.9, 30, 8),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_disk_beside_another_one_is_not_shifted(name):
    """Mean error of 60 patterns within the claimed error of the mean, for both disks, and the claimed error is the scatter."""
    distance, angle, bright, weak = SCENES[name]
    along = np.array([np.cos(angle), np.sin(angle)])
    places = (CENTRE, CENTRE + distance * RADIUS * along)
    frames = frames_of((128, 128), places, (bright, weak), 60, seed=3)
    found = list(gpu4d.find_bragg_disks(frames, template((128, 128))))
    assert sum(len(f.qx) for f in found) <= 60 * 2 + 1  # one false disk in sixty patterns may pass five standard errors
    for place in places:
        matched = [m for f in found if (m := nearest(f, place)) is not None]
        assert len(matched) >= 58
        error, claimed = (np.array([m[i] for m in matched]) for i in (0, 1))
        scatter = np.sqrt((error**2).mean())
        assert np.abs(error.mean(0)).max() < 3.5 * scatter / np.sqrt(len(matched))
        assert 0.8 < scatter / np.sqrt((claimed**2).mean()) < 1.25


def test_errors_of_two_disks_are_at_the_joint_bound():
    """rms over the Cramér-Rao bound with both disks and the background unknown. 240 numbers: 1.08 and three standard errors of it."""
    from gpu4d.benchmarks.crowded import bound, pairs
    from gpu4d.benchmarks.disk_scenes import find

    for dose, ratio, separation in ((300.0, 5.0, 1.6), (3000.0, 100.0, 2.0), (20000.0, 20.0, 2.4)):
        some = pairs(dose, ratio, separation, 120, seed=5)
        found = find(some, gpu4d.probe.template(some.probe()), refine="likelihood")
        assert found.seen.all() and found.false == 0
        least = bound(some, some.profile.radius + 3.3)
        for k in (0, 1):
            assert np.sqrt((found.errors[:, k] ** 2).mean()) / least[k] < 1.08 + 3 * 0.5 / np.sqrt(120)
            inside = np.mean(np.abs(found.errors[:, k]) <= found.sigmas[:, k])
            assert 0.60 < inside + 2 * 0.03 and inside - 2 * 0.03 < 0.76


@pytest.mark.parametrize("spacing", [9.5, 11.0, 12.5])
@pytest.mark.parametrize("angle", [90.0, 60.0])
def test_a_dense_lattice_is_where_it_is(spacing, angle):
    """25 disks of random heights that overlap or nearly touch. The correlation has half of them, most 0.1 to 1 px off."""
    shape = (112, 112)
    a = np.array([[spacing, 0.7], spacing * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])])
    rng = np.random.default_rng(1)
    places = np.array([(55.7, 55.2) + h * a[0] + k * a[1] for h in range(-2, 3) for k in range(-2, 3)])
    heights = rng.uniform(40, 250, (6, 25))
    heights[:, 12] = 600.0
    scan = np.stack([frames_of(shape, places, high, 1, seed)[0] for seed, high in enumerate(heights)])
    errors, claimed, outwards = [], [], []
    for one in gpu4d.find_bragg_disks(scan, template(shape)):
        for place in places:
            match = nearest(one, place)
            if match is not None:
                errors.append(match[0])
                claimed.append(match[1])
                away = place - places[12]
                outwards.append(match[0] @ away / max(np.hypot(*away), 1.0))
    errors, claimed = np.array(errors), np.array(claimed)
    assert len(errors) >= 0.8 * 150
    assert np.mean((np.abs(errors) > 4 * claimed + 0.01).any(1)) <= 0.05
    everywhere = spacing < 2 * RADIUS and angle == 60.0  # disks overlap with six others, and some stay hidden
    assert np.median(np.abs(errors)) < (1.5 if everywhere else 1.2) * 0.674 * np.median(claimed)
    assert abs(np.median(outwards)) < 0.02


@pytest.mark.parametrize("left, right", [(0.05, 0.2), (0.2, 0.4), (0.4, 0.02), (1.0, 0.1)])
def test_brightness_is_no_strain(left, right):
    """First-order disks that are brighter in one half of an unstrained crystal: no step of strain, and the true length."""
    shape, g1, g2 = (96, 96), np.array([12.5, 1.0]), np.array([-1.0, 12.5])

    def crystal(share):
        places, heights = [], []
        for h in (-1, 0, 1):
            for k in (-1, 0, 1):
                places.append(np.array([47.7, 47.2]) + h * g1 + k * g2)
                heights.append(200 * (1.0 if h == k == 0 else share * np.exp(-0.15 * (h * h + k * k))))
        return 0.05 + sum(a * disk(shape, p) for p, a in zip(places, heights))

    rng = np.random.default_rng(1)
    halves = [crystal(left), crystal(right)]
    scan = np.stack([[rng.poisson(halves[column >= 6]) for column in range(12)] for _ in range(6)]).astype("uint16")
    disks = gpu4d.find_bragg_disks(gpu4d.DataCube(scan), template(shape))
    origin = gpu4d.calibrate.origin(disks)
    fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)
    strain = gpu4d.strain_map(fit)
    for e in (np.asarray(strain.exx), np.asarray(strain.eyy)):
        noise = 1.25 * np.hypot(np.nanstd(e[:, 6:]), np.nanstd(e[:, :6])) / np.sqrt(36)
        assert abs(np.nanmedian(e[:, 6:]) - np.nanmedian(e[:, :6])) < max(0.0015, 4 * noise)
    assert abs(np.hypot(*strain.reference.g1) / np.hypot(*g1) - 1) < 0.002


def test_a_pattern_of_separate_disks_gets_no_others():
    """A strained crystal at many counts, on a curved background: nothing is hidden there."""
    for dose in (100.0, 20000.0):
        scan = gpu4d.simulate.bragg_scan((5, 5), dose=dose, seed=2)
        disks = gpu4d.find_bragg_disks(scan.cube, scan.probe, parameters=6)
        truth = scan.truth["positions"]
        assert np.asarray(disks.counts).tolist() == [[truth.shape[2]] * 5] * 5


def test_a_hidden_disk_outside_the_allowed_pixels_is_not_looked_for():
    p = disk_profile(gpu4d.probe.synthetic((64, 64), RADIUS, edge=EDGE))
    frames = frames_of((64, 64), [(31.2, 32.4), (43.0, 33.0)], (500, 30), 2)
    at = np.full((2, 1), 31.2), np.full((2, 1), 32.4), np.full((2, 1), 500.0), np.full((2, 1), FITTED), np.full(2, 1)
    allowed = np.ones((64, 64), bool)
    places = hidden_disks(frames, *at, p.table, p.pixels, allowed, radius=RADIUS)
    for i in (0, 1):
        assert (np.hypot(places.x[i] - 43.0, places.y[i] - 33.0) < 3).any()
    allowed[38:] = False
    places = hidden_disks(frames, *at, p.table, p.pixels, allowed, radius=RADIUS)
    assert not (places.x > 38).any()


def test_masked_pixels_and_borders_do_not_move_a_group():
    """Nonsense under the mask, and a disk cut by the border beside a whole one."""
    p = disk_profile(gpu4d.probe.synthetic((64, 64), RADIUS, edge=EDGE))
    places = np.array([(20.3, 6.1), (21.0, 17.2)])
    frames = frames_of((64, 64), places, (300, 200), 40, seed=2)
    mask = np.ones((64, 64), bool)
    mask[18:20, 8:14] = False
    frames[:, ~mask] = 60000
    x, y = (np.broadcast_to(places[:, i] + 0.4, (40, 2)).copy() for i in (0, 1))
    fit = joint_fit(frames, x, y, np.ones((40, 2)), np.full((40, 2), OPEN), p.table, p.pixels, mask=mask, spacing=2 * p.reach)
    assert fit.ok.all()
    for k in (0, 1):
        for found, variance, axis in ((fit.x, fit.xx, 0), (fit.y, fit.yy, 1)):
            score = (found[:, k] - places[k, axis]) / np.sqrt(variance[:, k])
            assert abs(score.mean()) < 3.5 / np.sqrt(40) and 0.7 < score.std() < 1.35


def test_a_disk_that_is_not_there_is_removed():
    p = disk_profile(gpu4d.probe.synthetic((64, 64), RADIUS, edge=EDGE))
    frames = frames_of((64, 64), [(31.2, 32.4)], (500,), 5)
    x, y = np.tile([31.0, 40.0], (5, 1)), np.tile([32.0, 34.0], (5, 1))
    fit = joint_fit(frames, x, y, np.tile([5.0, 1.0], (5, 1)), np.full((5, 2), OPEN), p.table, p.pixels, spacing=16.0, significance=5.0)
    assert fit.gone.tolist() == [[False, True]] * 5 and fit.ok.tolist() == [[True, False]] * 5


def test_a_long_row_of_large_disks_far_from_each_other():
    """Weak disks between bright ones are of their group up to 3.8 radii away. The background of such a group has many nodes."""
    radius = 12.0
    p = disk_profile(gpu4d.probe.synthetic((64, 64), radius))
    places = np.array([(40.0, 30.0 + 44.0 * i) for i in range(8)])
    heights = np.where(np.arange(8) % 2, 20.0, 400.0)
    mean = 0.5 + sum(h * disk((80, 370), q, radius, 1.0) for h, q in zip(heights, places))
    frames = np.random.default_rng(0).poisson(mean, (2, 80, 370)).astype("uint16")
    at = [np.tile(places[:, i] + 0.3, (2, 1)) for i in (0, 1)]
    given = (frames, *at, np.tile(heights, (2, 1)), np.full((2, 8), OPEN), p.table, p.pixels)
    options = {"spacing": p.spacing, "shadow": 3.8 * radius}
    fit = joint_fit(*given, **options)
    assert fit.ok.all() and np.abs(fit.x - 40.0).max() < 0.2
    with gpu4d.using("definition"):
        slow = joint_fit(*given, **options)
    np.testing.assert_allclose(fit.y, slow.y, atol=2e-3)
