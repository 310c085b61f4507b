"""The steps of iterative ptychography: gradients against finite differences, adjoints, modes, placement; in float64."""

import math

import numpy as np
import pytest

import gpu4d
from gpu4d import fft
from gpu4d.ptychography.experiment import Experiment
from gpu4d.ptychography.iterative.add_patches import add_patches, take_patches
from gpu4d.ptychography.iterative.depth import depth_filtered
from gpu4d.ptychography.iterative.grid import Grid
from gpu4d.ptychography.iterative.likelihood import misfits
from gpu4d.ptychography.iterative.positions import position_equations
from gpu4d.ptychography.iterative.probes import orthogonal, source_modes
from gpu4d.ptychography.iterative.wave_gradients import wave_gradients
from gpu4d.ptychography.iterative.wave_model import WaveModel, forward, propagator, ramps, squared, whole

N = 6  # pixels: odd sizes and several modes and slices are tried, so small ones


def problem(slices=2, modes=2, shape=(N, N + 1), likelihood="poisson", masked=True, seed=0):
    rng = np.random.default_rng(seed)
    step = propagator(shape, 0.1, (0.2, -0.1), 0.04, 30.0) if slices > 1 else None
    measured = np.ones(shape)
    measured[1, 2] = measured[3, 0] = 0
    model = WaveModel(shape, step, measured if masked else None, likelihood, 0.1)
    patches = 1 + 0.3 * (rng.normal(size=(slices, 3, *shape)) + 1j * rng.normal(size=(slices, 3, *shape)))
    probes = rng.normal(size=(modes, *shape)) + 1j * rng.normal(size=(modes, *shape))
    places = rng.uniform(1, 3, (3, 2))
    counts = rng.poisson(3.0, (3, *shape)).astype(float)
    return model, patches, probes, places, counts


def loss(model, patches, probes, places, counts):
    _, detector = forward(model, patches, probes, ramps(places, model.shape, probes))
    options = {"likelihood": model.likelihood, "background": model.background}
    return float(misfits(counts, squared(detector).sum(1), model.measured, **options)[0].sum())


def gradients(model, patches, probes, places, counts, implementation="definition", **options):
    """Those for an object in which the patches lie side by side, so that they are gradients of patches."""
    slices, n, nx, ny = patches.shape
    beside = patches.transpose(0, 2, 1, 3).reshape(slices, nx, n * ny)
    corners = np.array([[0, i * ny] for i in range(n)])
    options = {"likelihood": model.likelihood, "background": model.background, **options}
    with gpu4d.using(implementation):
        found = wave_gradients(
            beside, corners, probes, *ramps(places, model.shape, probes), counts, model.measured, model.propagator, **options
        )
    return found._replace(**{k: getattr(found, k).reshape(slices, nx, n, ny).transpose(0, 2, 1, 3) for k in ("wanted", "light")})


@pytest.mark.parametrize("likelihood", ["poisson", "amplitude"])
@pytest.mark.parametrize(("slices", "modes"), [(1, 1), (3, 2)])
def test_gradients_are_those_of_the_misfit(likelihood, slices, modes):
    """A small step dz changes L by 2 Re Σ conj(∂L/∂z*) dz, for object and probes."""
    model, patches, probes, places, counts = problem(slices, modes, likelihood=likelihood)
    found = gradients(model, patches, probes, places, counts)
    assert float(found.misfit.sum()) == pytest.approx(loss(model, patches, probes, places, counts), rel=1e-12)
    rng, h = np.random.default_rng(1), 1e-6
    for _ in range(3):
        d = rng.normal(size=patches.shape) + 1j * rng.normal(size=patches.shape)
        slope = (loss(model, patches + h * d, probes, places, counts) - loss(model, patches - h * d, probes, places, counts)) / (2 * h)
        assert 2 * math.prod(model.shape) * np.vdot(found.wanted, d).real == pytest.approx(slope, rel=1e-6)
        d = rng.normal(size=probes.shape) + 1j * rng.normal(size=probes.shape)
        slope = (loss(model, patches, probes + h * d, places, counts) - loss(model, patches, probes - h * d, places, counts)) / (2 * h)
        assert 2 * np.vdot(found.probes, d).real == pytest.approx(slope, rel=1e-6)


def test_the_light_is_that_of_every_slice():
    model, patches, probes, places, counts = problem(3, 2)
    found = gradients(model, patches, probes, places, counts, "cpu", of_probes=False)
    incident, _ = forward(model, patches, probes, ramps(places, model.shape, probes))
    for light, wave in zip(found.light, incident):
        np.testing.assert_allclose(light, (np.abs(wave) ** 2).sum(1))
    assert not found.probes.any()


def test_scores_of_positions_are_slopes_of_the_likelihood():
    """The score is the slope; the information is its mean over counts that the model itself draws, by finite differences of E."""
    model, patches, probes, places, counts = problem(2, 2)
    score, information = position_equations(model, patches, probes, ramps(places, model.shape, probes), counts)

    def expected(at):
        return squared(forward(model, patches, probes, ramps(at, model.shape, probes))[1]).sum(1) + model.background

    def likelihood(at):
        mean = expected(at)
        return ((counts * np.log(mean) - mean) * model.measured).sum((1, 2))

    h = 1e-6
    slopes = []
    for axis in np.eye(2) * h:
        np.testing.assert_allclose(
            score @ axis / h, (likelihood(places + axis) - likelihood(places - axis)) / (2 * h), rtol=1e-5, atol=1e-5
        )
        slopes.append((expected(places + axis) - expected(places - axis)) / (2 * h))
    for i, a in enumerate(slopes):
        for j, b in enumerate(slopes):
            np.testing.assert_allclose(information[:, i, j], (a * b * model.measured / expected(places)).sum((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("implementation", ["definition", "cpu"])
def test_a_masked_pixel_has_no_say(implementation):
    model, patches, probes, places, counts = problem()
    other = counts.copy()
    other[:, model.measured == 0] = 1e6
    a, b = (gradients(model, patches, probes, places, c, implementation) for c in (counts, other))
    np.testing.assert_array_equal(a.wanted, b.wanted)
    np.testing.assert_array_equal(a.probes, b.probes)


def test_the_poisson_misfit_is_half_the_deviance():
    counts, expected = np.array([[[0.0, 3.0, 7.0]]]), np.array([[[0.5, 2.0, 7.0]]])
    value, factor = misfits(counts, expected, None, likelihood="poisson", background=0.0)
    assert float(value[0]) == pytest.approx(0.5 + (2 - 3 + 3 * np.log(1.5)), rel=1e-9)
    np.testing.assert_allclose(factor, 1 - counts / expected, atol=1e-9)


def test_a_probe_is_where_its_place_says():
    """A probe that is one pixel wide, moved by whole and by half pixels."""
    probes = np.ones((1, 8, 8), complex)
    wave = fft.ifft2(probes[None] * whole(ramps(np.array([[3.0, 5.0], [2.0, 4.0]]), (8, 8), probes)))
    assert np.unravel_index(np.abs(wave[0, 0]).argmax(), (8, 8)) == (3, 5)
    np.testing.assert_allclose(np.roll(wave[0, 0], (-1, -1), (0, 1)), wave[1, 0], atol=1e-12)


def test_cutting_and_adding_patches_are_adjoint():
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(2, 9, 11)) + 1j * rng.normal(size=(2, 9, 11))
    corners = np.array([[0, 0], [2, 3], [2, 3], [5, 6]])
    values = rng.normal(size=(2, 4, 4, 5)) + 1j * rng.normal(size=(2, 4, 4, 5))
    total = add_patches(values, corners, shape=(9, 11))
    assert np.vdot(take_patches(planes, corners, (4, 5)), values) == pytest.approx(np.vdot(planes, total), rel=1e-12)


# ---------------------------------------------------------------- modes


def test_modes_of_a_source_are_the_blurred_density_matrix():
    rng = np.random.default_rng(0)
    k = np.fft.fftfreq(8, 0.5)
    wave = rng.normal(size=(8, 8)) * (np.hypot(k[:, None], k[None, :]) < 0.6)
    modes = source_modes(wave + 0j, k[:, None], k[None, :], 0.25, 10).reshape(10, -1)
    kx, ky = (np.broadcast_to(a, (8, 8)).ravel() for a in (k[:, None], k[None, :]))
    blur = np.exp(-2 * (np.pi * 0.25) ** 2 * ((kx[:, None] - kx) ** 2 + (ky[:, None] - ky) ** 2))
    full = np.outer(wave.ravel(), wave.ravel()) * blur
    np.testing.assert_allclose(modes.T @ modes.conj(), full, atol=5e-3 * np.abs(full).max())
    overlaps = np.abs(modes @ modes.conj().T) - np.diag((np.abs(modes) ** 2).sum(1))
    assert np.abs(overlaps).max() < 1e-10 * np.abs(full).sum()
    assert len(source_modes(wave + 0j, k[:, None], k[None, :], 0.02, None)) == 1


def test_orthogonal_modes_make_the_same_intensity():
    rng = np.random.default_rng(0)
    modes = rng.normal(size=(3, 5, 4)) + 1j * rng.normal(size=(3, 5, 4))
    found = orthogonal(modes)
    flat, other = modes.reshape(3, -1), found.reshape(3, -1)
    np.testing.assert_allclose(flat.T @ flat.conj(), other.T @ other.conj(), atol=1e-12)
    gram = other @ other.conj().T
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-12 and (np.diff(np.diag(gram).real) < 0).all()
    np.testing.assert_allclose(orthogonal(found), found, atol=1e-12)


# ---------------------------------------------------------------- depth and placement


def test_the_depth_filter_keeps_what_all_slices_share():
    rng = np.random.default_rng(0)
    one = np.exp(1j * rng.normal(0, 0.3, (12, 10)))
    same = np.array([one] * 4)
    np.testing.assert_allclose(depth_filtered(same, 1.0, 10.0, (0.3, 0.3)), same, atol=1e-12)
    wave = np.cos(2 * np.pi * np.arange(12) / 12)[:, None] * np.ones(10)  # k = 1 / 3.6 Å, times the second cosine of the depth
    depth = np.cos(np.pi * 2 * (np.arange(4) + 0.5) / 4)[:, None, None]
    found = depth_filtered(np.exp(0.3j * depth * wave), 3.0, 10.0, (0.3, 0.3))
    weight = 1 - 2 / np.pi * np.arctan((3.0 * 2 / 80 * 3.6) ** 2)
    np.testing.assert_allclose(found, np.exp(0.3j * weight * depth * wave), atol=1e-12)
    coarse = np.exp(1j * np.array([0.1, -0.1, 0.2, -0.2]))[:, None, None] * np.ones((4, 12, 10))
    assert np.angle(depth_filtered(coarse, 1.0, 10.0, (0.3, 0.3))).std(0).max() < 1e-3


def test_free_space_moves_the_focus():
    """A probe of defocus 100 Å is sharpest after 100 Å."""
    from gpu4d.probe.wavefunction import chi

    k = np.fft.fftfreq(32, 0.3)
    wave = (np.hypot(k[:, None], k[None, :]) < 0.5) * np.exp(-1j * chi(k[:, None], k[None, :], {"defocus": 100.0}, 80e3))
    step = propagator((32, 32), k[1], (0.0, 0.0), 0.0417572, 100.0)
    sharp = np.abs(np.fft.ifft2(np.abs(wave))).max()
    assert np.abs(np.fft.ifft2(wave * step)).max() == pytest.approx(sharp, rel=1e-4)
    assert np.abs(np.fft.ifft2(wave)).max() < 0.7 * sharp


@pytest.mark.parametrize("transpose", [False, True])
def test_positions_on_the_grid(transpose):
    """Patches lie inside the object, a probe is in the middle of its patch, and frequencies count from the axis."""
    known = Experiment(80e3, 0.5, 0.1, 0.7, transpose, (7.7, 8.2), 4.0)
    positions = np.random.default_rng(0).uniform(-3, 9, (50, 2))
    grid = Grid.of(known, (16, 15), (16, 16), positions, 1.0)
    corner, place = grid.places(positions)
    assert (corner >= 0).all() and (corner + 16 <= grid.shape).all()
    assert np.abs(place - 8).max() <= 0.5
    back = (corner + place - grid.zero) * grid.pixel @ grid.matrix.T
    np.testing.assert_allclose(back, positions, atol=1e-9)
    assert grid.rows[0] == 8 and grid.columns[0] == 8 and (grid.columns == -1).sum() == 1
    kx, ky = grid.frequencies()
    assert kx[0, 0] == pytest.approx(0.03) and ky[0, 0] == pytest.approx(-0.02)
    measured = grid.measured(None)
    assert measured is not None and (measured[:, grid.columns == -1] == 0).all()
