"""Electrons fitted to raw frames: places, electrons in neighbouring pixels, and what must not be split."""

import numpy as np
import pytest
from scipy.special import ndtr

import gpu4d
from gpu4d.errors import InputError
from gpu4d.preprocess import ChargeModel, count_electrons, fit_electrons

SPREAD = 0.38
MODEL = ChargeModel(SPREAD, 0.025)
FLAT = np.full((24, 30), 50.0)


def frame_of(electrons, noise=0.0, seed=0):
    """A frame (1, 24, 30) with electrons (x, y, signal) of 100 ADU: the charge in a pixel is the integral of a normal distribution."""
    frame = np.random.default_rng(seed).normal(0, noise, (24, 30)) if noise else np.zeros((24, 30))
    for x, y, signal in electrons:
        px, py = (np.diff(ndtr((np.arange(n + 1) - 0.5 - c) / SPREAD)) for n, c in zip(frame.shape, (x, y)))
        frame += 100 * signal * px[:, None] * py
    return (frame + 50)[None]


def fitted(frames, model=MODEL, **options):
    return fit_electrons(frames, FLAT, 0.12, 10.0, model, electron=100.0, **options)


def test_places_are_known_to_a_part_of_a_pixel():
    rng = np.random.default_rng(0)
    truth = [(6 * i + 3 + rng.uniform(-0.5, 0.5), 6 * j + 3 + rng.uniform(-0.5, 0.5), 1.0) for i in range(4) for j in range(5)]
    found = fitted(frame_of(truth))
    order = np.lexsort((np.rint(found.qy / 6 - 0.5), np.rint(found.qx / 6 - 0.5)))
    np.testing.assert_allclose(np.stack([found.qx, found.qy, found.intensity], -1)[order], truth, atol=0.01)


def test_places_in_noise_are_near_the_limit_that_the_pixels_set():
    """The Cramér–Rao bound of place and signal from the same weights, averaged over places in a pixel."""
    rng = np.random.default_rng(1)
    errors, bounds = [], []
    for seed in range(12):
        truth = [(6 * i + 3 + rng.uniform(-0.5, 0.5), 6 * j + 3 + rng.uniform(-0.5, 0.5), 1.0) for i in range(4) for j in range(5)]
        found = fitted(frame_of(truth, 2.5, seed))
        assert len(found.qx) == len(truth)
        order = np.lexsort((np.rint(found.qy / 6 - 0.5), np.rint(found.qx / 6 - 0.5)))
        errors.append(np.stack([found.qx, found.qy], -1)[order] - np.array(truth)[:, :2])
        for x, y, signal in truth:
            step = 1e-4
            slopes = [
                (frame_of([(x + a, y + b, signal + c)]) - frame_of([(x - a, y - b, signal - c)]))[0].ravel() / (2 * step)
                for a, b, c in np.eye(3) * step
            ]
            bounds.append(np.linalg.inv(np.stack(slopes) @ np.stack(slopes).T / 2.5**2)[0, 0])
    assert np.sqrt(np.mean(np.square(errors))) < 1.35 * np.sqrt(np.mean(bounds))  # fits weigh bright pixels less, for their gain


@pytest.mark.parametrize("away", [(0, 1), (1, 1), (1, 0), (1.2, 0.6)])
def test_two_electrons_in_neighbouring_pixels_are_both_found(away):
    pair = [(10.1, 12.2, 1.0), (10.1 + away[0], 12.2 + away[1], 1.1)]
    frame = frame_of(pair, 2.5)
    found = fitted(frame)
    assert len(count_electrons(frame, FLAT, 0.12, 10.0, electron=100.0).qx) < 2 or away == (1.2, 0.6)
    assert len(found.qx) == 2
    distance = np.hypot(*(np.stack([found.qx, found.qy])[:, :, None] - np.array(pair).T[:2, None]))
    assert min(distance.trace(), distance[::-1].trace()) < 0.4


@pytest.mark.parametrize("place", [(10.0, 12.0), (10.5, 12.0), (10.45, 12.45)])
def test_one_bright_electron_stays_one(place):
    for signal in (0.5, 1.0, 1.5):
        assert len(fitted(frame_of([(*place, signal)], 2.5)).qx) == 1


def test_with_one_electron_each_the_groups_are_those_of_local_maxima():
    raw = gpu4d.simulate.raw_frames((2, 3), (48, 40), occupancy=0.02, seed=4)
    frames, dark = raw.cube.source.array, raw.darks.mean(0)
    maxima = count_electrons(frames, dark, 0.15, 10.0, electron=120.0)
    one = fit_electrons(frames, dark, 0.15, 10.0, MODEL, electron=120.0, most=1)
    np.testing.assert_array_equal(one.offsets, maxima.offsets)
    assert np.hypot(one.qx - maxima.qx, one.qy - maxima.qy).max() < 2.7


def test_frames_do_not_know_of_each_other():
    raw = gpu4d.simulate.raw_frames((1, 6), (64, 50), occupancy=0.05, seed=5)
    frames, dark = raw.cube.source.array[0], raw.darks.mean(0)
    whole = fit_electrons(frames, dark, 0.15, 10.0, MODEL, electron=120.0)
    for i in range(6):
        alone = fit_electrons(frames[i : i + 1], dark, 0.15, 10.0, MODEL, electron=120.0)
        part = slice(*whole.offsets[i : i + 2])
        for a, b in zip(alone[1:], whole[1:]):
            assert a.tobytes() == b[part].tobytes()


def test_an_x_ray_a_masked_pixel_and_a_nan_frame_give_no_electron():
    frames = np.concatenate([frame_of([(5, 5, 40.0), (15.2, 20.1, 1.0)]), frame_of([(8, 8, 1.0)]), np.full((1, 24, 30), np.nan)])
    mask = np.ones((24, 30), bool)
    mask[7:10, 7:10] = False
    found = fitted(frames, mask=mask)
    assert found.offsets.tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose((found.qx[0], found.qy[0]), (15.2, 20.1), atol=0.02)


def test_no_frames_no_electrons():
    assert fitted(np.empty((0, 24, 30))).offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (ChargeModel(0.0, 0.02), "spread from 0.1"),
        (ChargeModel(0.4, 0.0), "noise > 0"),
        (ChargeModel(0.4, 0.02, 0.3, -1.0), "penalty of 0 or more"),
        (ChargeModel(0.4, 0.02, np.nan), "energy_spread from"),
        ((0.4,), "need a ChargeModel"),
        (ChargeModel("wide", 0.02), "spread is 'wide'"),
    ],
)
def test_impossible_models_are_refused(model, said):
    with pytest.raises(InputError, match=said):
        fitted(frame_of([]), model)


def test_impossible_numbers_of_electrons_are_refused():
    with pytest.raises(InputError, match="most=5"):
        fitted(frame_of([]), most=5)
