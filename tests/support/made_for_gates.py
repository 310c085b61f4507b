"""Data made for the gates of techniques: each maker runs the part of a stage that measures, and returns the record.

`MADE` has, for each gate, a maker and the arguments with which it passes, warns and fails.
"""

import math
from functools import cache
from types import SimpleNamespace

import numpy as np
from glasses import factor, structure_factor
from kinematical_peaks import ENERGY, Q_PIXEL, spots
from kinematical_peaks import disks_of as disks_of_patterns
from lattice_points import OBLIQUE, disks_of, from_lists, turn
from recipes_in_tests import recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.calibrate import ShadowRotation, rotation_from_points
from gpu4d.crystal.lattice import canonical
from gpu4d.deflection.validity import potential_validity
from gpu4d.workflow import Record, RunState
from gpu4d.workflow.stages import aberrations, dpc, magnetic, orientation, shadow
from gpu4d.workflow.stages.acquisition_checks import PatternChecks
from gpu4d.workflow.stages.drift import Drift
from gpu4d.workflow.stages.ellipse import Ellipse
from gpu4d.workflow.stages.fem import Fem
from gpu4d.workflow.stages.glass_strain import GlassStrain
from gpu4d.workflow.stages.lattice_checks import LatticeChecks
from gpu4d.workflow.stages.origin import BeamOrigin
from gpu4d.workflow.stages.parallax import ParallaxStage
from gpu4d.workflow.stages.ptychography import Ptychography
from gpu4d.workflow.stages.rdf import Rdf
from gpu4d.workflow.stages.side_bands import Ssb
from gpu4d.workflow.stages.strain import Strain

SHAPE, ORIGIN = (12, 10), (63.0, 64.5)


def state_of(shape=(*SHAPE, 32, 32), settings=None, calibration=None, **results):
    cube = DataCube(np.zeros(shape, np.uint16), calibration or gpu4d.Calibration())
    return RunState(cube, recipe(**(settings or {})), Record(), results=results)


def origin_surface(sigma):
    """Direct disks of a radius of 8 px that lie off their plane by this much along each axis."""
    rng = np.random.default_rng(0)
    beam = np.array(ORIGIN) + 0.05 * np.stack(np.indices(SHAPE), -1) + rng.normal(0, sigma, (*SHAPE, 2))
    disks = from_lists([np.array([[x, y, 500.0, 0.02, 0.02]]) for x, y in beam.reshape(-1, 2)], SHAPE)
    state = state_of((*SHAPE, 128, 128), braggvectors=disks, template=SimpleNamespace(radius=8.0))
    BeamOrigin().finish(state, {})
    return state.record


def pattern_drift(size):
    """A beam on a descan that is alike along both axes, and that moves by this much more from the first row to the last."""
    x, y = np.indices(SHAPE)
    noise = np.random.default_rng(0).normal(0, 0.2, (2, *SHAPE))
    com = 0.2 * np.stack([x, y]) + noise + np.stack([size * x / SHAPE[0], 0 * x])
    state = state_of(com=com, technique="dpc", disk=SimpleNamespace(radius=6.0))
    assert PatternChecks().wanted(state).wanted
    PatternChecks().finish(state, {})
    return state.record


def lattice_share(grains):
    """So many grains, turned against each other, in equal parts of the scan."""
    grain = np.arange(np.prod(SHAPE)).reshape(SHAPE) % grains
    turns = np.stack([turn(0.35 * k) for k in range(grains)])
    lattice = gpu4d.find_lattice(disks_of(OBLIQUE, turns[grain], shape=SHAPE), origin=ORIGIN)
    return _lattice_checked(lattice, None)


def lattice_spacing(spacing):
    """A lattice of 15 and 25 px with a pixel size that gives the shorter vector this spacing, in Å."""
    return _lattice_checked(gpu4d.find_lattice(disks_of(OBLIQUE, shape=SHAPE), origin=ORIGIN), spacing)


def _lattice_checked(lattice, spacing):
    q_pixel = None if spacing is None else 1 / (spacing * min(lattice.lengths))
    state = state_of(calibration=gpu4d.Calibration(q_pixel=q_pixel), lattice=lattice, lattice_fit=None)
    LatticeChecks().finish(state, {})
    return state.record


def _ring(ratio, dose, seed=0, wave=0.0):
    """A mean pattern of a halo behind an ellipse, whose radius goes up and down three times around the ring by a share of it."""
    x, y = np.indices((96, 96)) - 47.5
    r = np.hypot(x / math.sqrt(ratio), y * math.sqrt(ratio)) / (1 + wave * np.cos(3 * np.arctan2(y, x)))
    expected = 0.2 + np.exp(-(((r - 26) / 4) ** 2)) + 40 * np.exp(-((r / 1.7) ** 4))
    return np.random.default_rng(seed).poisson(dose * expected, (20, *r.shape))


def _ellipse(patterns):
    state = RunState(DataCube(patterns.reshape(4, 5, 96, 96).astype(np.uint16)), recipe(), Record())
    state.results = {"mean_pattern": patterns.mean(0), "total": patterns.sum((1, 2)).reshape(4, 5)}
    Ellipse().finish(state, {})
    return state.record


def ellipse_significance(values):
    """A halo behind an ellipse, the dose of its patterns, and which noise they have."""
    return _ellipse(_ring(*values))


def ellipse_rings(wave):
    return _ellipse(_ring(1.02, 40.0, wave=wave))


@cache
def _gold_rings():
    spacings = 4.0786 / np.sqrt([3, 4, 8, 11, 12, 16])
    x, y = np.indices((120, 120)) - np.array([58.7, 60.4])[:, None, None]
    r = np.hypot(x, y)
    expected = 0.2 + sum(np.exp(-(((r - 1 / (d * 0.019)) / 1.5) ** 2)) for d in spacings) + 40 * np.exp(-((r / 1.7) ** 4))
    counts = np.random.default_rng(0).poisson(600 * expected).astype(float)
    return gpu4d.calibrate.fit_rings(counts, [gpu4d.structures.Structure.standard("Au")], q_pixel=0.019, energy=200e3)


def ring_pixel(times):
    """Rings of gold, and a pixel size that is given wrong by a factor."""
    state = state_of(calibration=gpu4d.Calibration(q_pixel=0.019 * times))
    Ellipse()._pixel(state, _gold_rings(), "6 rings of Au")
    return state.record


def _shadow(by="images", **values):
    known = {"angle": 0.3, "error": 0.01, "transpose": False, "scale": 0.5, "correlation": 0.7, "margin": 2.0, "half_turn": "fringes"}
    state = state_of()
    shadow._gate(state, ShadowRotation(**{**known, "fringes": 8.0, **values}), by)
    return state.record


def shadow_margin(margin):
    return _shadow(margin=margin)


def shadow_correlation(correlation):
    return _shadow(correlation=-correlation)


def shadow_side(fringes):
    return _shadow(fringes=-fringes, half_turn="fringes" if fringes >= 5 else "undecided")


def _points(sigma, turn=0.3, seed=0):
    rng = np.random.default_rng(seed)
    seen = rng.uniform(0, 60, (6, 2))
    c, s = math.cos(turn), math.sin(turn)
    return rotation_from_points(seen @ np.array([[c, s], [-s, c]]) + rng.normal(0, sigma, seen.shape), seen, defocus=-1.0)


def shadow_error(sigma):
    """Six points of a shadow image that are marked with this error, px."""
    state = state_of()
    shadow._gate(state, _points(sigma), "points")
    return state.record


def shadow_points(degrees):
    """Images and points that tell rotations so far apart."""
    state = state_of()
    shadow._agreement_gate(state, _points(0.1), _points(0.1, 0.3 + math.radians(degrees)))
    return state.record


def drift_agreement(values, folder):
    """Two scans whose rows cross: their side, and the share of their contrast that is of the same place."""
    side, same = values
    rng = np.random.default_rng(3)
    here, other = (np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * _smooth(side), s=(side, side)) for _ in range(2))
    there = same * here + math.sqrt(1 - same**2) * other
    pattern = np.where(np.hypot(*(np.indices((16, 16)) - 7.5)) < 5, 20.0, 1.0)
    bright = [np.clip(1 + 0.3 * p[..., None, None] / p.std(), 0.1, None) for p in (here, there)]
    cubes = [rng.poisson(b * pattern).astype(np.uint16) for b in bright]
    np.save(folder / "second.npy", cubes[1])
    settings = {"drift__second": str(folder / "second.npy"), "drift__angle": 0.0, "drift__fast_axes": [1, 0]}
    state = RunState(DataCube(cubes[0]), recipe(**settings), Record())
    state.results["bf"] = gpu4d.RealSlice.calibrated(cubes[0].sum((2, 3)).astype(float), "bf", "counts", None)
    Drift().finish(state, {})
    return state.record


def _smooth(n):
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n))
    return np.exp(-((k / 0.12) ** 2))


# ---------------------------------------------------------------- crystals


def _fitted(f):
    disks = disks_of(OBLIQUE, f, shape=f.shape[:2], sigma=0.02)
    lattice = canonical(OBLIQUE)
    return disks, lattice, gpu4d.fit_lattice(disks, lattice, origin=ORIGIN)


def _strain(f):
    return gpu4d.strain_map(_fitted(f)[2], reference=OBLIQUE, calibration=gpu4d.Calibration(rotation=0.0))


def _gradients(exx=0.0, eyy=0.0, exy=0.0):
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    f[..., 0, 0] += exx
    f[..., 1, 1] += eyy
    f[..., 0, 1] += exy
    f[..., 1, 0] += exy
    return f


def _strain_stage(f, **settings):
    disks, lattice, fit = _fitted(f)
    found = {"lattice": lattice, "lattice_fit": fit, "braggvectors": disks, "mean_cepstrum": None}
    state = state_of((*SHAPE, 128, 128), settings, gpu4d.Calibration(rotation=0.0), **found)
    Strain().finish(state, {})
    return state.record


def strain_measured(reference):
    """A crystal that is compared with itself, or with another lattice."""
    return _strain_stage(_gradients(), strain__reference=reference)


def strain_dilation(size):
    """A part of the crystal that is larger in all directions."""
    grown = size * (np.arange(SHAPE[0]) > 5)[:, None] * np.ones(SHAPE)
    return _strain_stage(_gradients(grown, grown), strain__reference=[0, 5, 0, 10])


def strain_mechanism(part):
    """A crystal that is named sheared, and is, but for a part of its strain that is growth in all directions."""
    wave = 0.01 * np.sin(np.arange(SHAPE[0]) + 0.5)[:, None] * np.ones(SHAPE)
    f = _gradients(part * wave, part * wave, (1 - part) * wave)
    return _strain_stage(f, strain__reference="15.0 -2.0 6.0 24.0 px", strain__mechanism="shear")


def strain_brightness(noise):
    """Strain that follows the brightness of the disks, but for noise of this size, in its own standard deviations."""
    rng = np.random.default_rng(0)
    bright = rng.normal(size=SHAPE)
    f = _gradients(0.004 * (bright + noise * rng.normal(size=SHAPE)))
    disks, _, _ = _fitted(f)
    owner = np.repeat(np.arange(np.prod(SHAPE)), np.diff(disks.offsets))
    disks.flat("intensity")[:] = np.where(disks.flat("intensity") > 1000, 2000, 100 * np.exp(0.3 * bright.ravel()[owner]))
    state = state_of(braggvectors=disks)
    Strain()._brightness_gate(state, _strain(f))
    return state.record


@cache
def _gold_disks():
    turns = gpu4d.orientation.matrices_of(np.array([[0.4, 0.06, 1.0], [2.0, 0.74, 4.75]]))
    gold = gpu4d.structures.Structure.standard("Au")
    return disks_of_patterns([spots(gold, turns[i // 24]) for i in range(48)], shape=(8, 6))


def pixel_structure(times):
    """Reflections of gold, and a pixel size that is given wrong by a factor."""
    c = gpu4d.Calibration(q_pixel=Q_PIXEL * times, energy=ENERGY)
    origin = SimpleNamespace(fitted=np.full((8, 6, 2), 64.0))
    state = state_of((8, 6, 128, 128), calibration=c, braggvectors=_gold_disks(), origin=origin)
    orientation.Orientation()._pixel(state, [gpu4d.structures.Structure.standard("Au")])
    return state.record


def _orientations(found, margin):
    """100 positions, of which some have an orientation, with a margin to the next one."""
    there = np.arange(100).reshape(10, 10) < found
    grain = SimpleNamespace(found=there, margin=np.where(there, margin, 0.0), ambiguous=there & (margin < 5))
    state = state_of(template=SimpleNamespace(radius=4.0))
    state.products["orientation_distance"] = np.full((10, 10), 0.1)
    orientation._gates(state, SimpleNamespace(grain=grain), there, 100)
    return state.record


def indexed_share(found):
    return _orientations(found, 20.0)


def orientation_margin(margin):
    return _orientations(100, margin)


# ---------------------------------------------------------------- glasses


def halo_model(speckle):
    """Rings of a glass that are brighter and darker around by this share, rms, in steps of 15°."""
    scan = gpu4d.simulate.amorphous_scan((4, 5), (72, 76), radius=21.0, width=2.4, unstrained_rows=2, noise=False)
    expected = np.asarray(scan.cube, dtype=np.float64)
    x, y = np.indices((72, 76)) - np.array([35.5, 37.5])[:, None, None]
    sector = (np.degrees(np.arctan2(y, x)) % 360 // 15).astype(int)
    rng = np.random.default_rng(0)
    uneven = 1 + speckle * rng.uniform(-1.7, 1.7, (20, 24))[:, sector].reshape(expected.shape)
    cube = DataCube(rng.poisson(20 * expected * np.maximum(uneven, 0)).astype(np.uint16))
    found = gpu4d.amorphous_strain(cube, reference="mean", ellipse=(1, 1, 0))
    state = state_of()
    GlassStrain()._speckle_gate(state, found)
    return state.record


def fem_probe(angle):
    state = state_of(calibration=gpu4d.Calibration(semiangle=angle))
    Fem()._gate(state, SimpleNamespace(resolution=15.0 / angle))
    return state.record


def _rdf(k_wrong=1.0, added=0.0):
    """A glass of hard spheres whose profile has a background that is not fitted, or a wrong pixel size."""
    k = np.arange(0.01, 3.0, 0.02)
    profile = 40.0 * factor(k) ** 2 * structure_factor(k) + added * factor(k)
    found = gpu4d.amorphous.rdf(profile, k=k * k_wrong, factor=factor(k * k_wrong), background=None)
    state = state_of()
    Rdf()._gates(state, found)
    return state.record


def rdf_scale(added):
    return _rdf(added=added)


def rdf_density(k_wrong):
    return _rdf(k_wrong)


# ---------------------------------------------------------------- fields and phases


def dpc_potential(thickness):
    """A probe of 24 mrad at 300 keV has a depth of field of 58 Å."""
    validity = potential_validity(energy=300e3, semiangle=24.0, thickness=thickness, r_pixel=0.2)
    com = np.stack(np.gradient(np.random.default_rng(0).normal(size=(12, 12))))
    state = state_of()
    dpc._gates(state, SimpleNamespace(curl=None, validity=validity, phase=np.zeros((12, 12)), com=com))
    return state.record


def magnetic_divergence(false):
    """A field without divergence, of a vector potential, and a part of it that has one, in standard deviations of the counts."""
    rng = np.random.default_rng(0)
    x, y = np.indices((24, 24)) * 2 * np.pi / 24
    potential = np.cos(x) * np.cos(y)
    right, wrong = np.stack(np.gradient(potential)), np.stack([-np.cos(x) * np.sin(y), np.sin(x) * np.cos(y)])
    com = np.moveaxis(right + false * 0.01 * wrong + rng.normal(0, 0.01, (2, 24, 24)), 0, -1)
    variance = np.stack([np.full((24, 24), v) for v in (1e-4, 0.0, 1e-4)])
    found = gpu4d.magnetic_induction(com, q_pixel=1e-4, r_pixel=50.0, rotation=0.0, transpose=False, descan=None, variance=variance)
    state = state_of()
    magnetic._report(state, found)
    return state.record


def side_band_step(times):
    """Steps of so many λ/(4α): a disk of 8 px of 0.05 1/Å has an α/λ of 0.4 1/Å."""
    state = state_of(calibration=gpu4d.Calibration(q_pixel=0.05, r_pixel=times / 1.6))
    Ssb()._gate(state, SimpleNamespace(radius=8.0))
    return state.record


def side_bands(degrees):
    """A thin object, 250 Å out of focus, whose rotation is taken to be wrong by this much."""
    made = gpu4d.simulate.phase_object_scan((24, 24), (32, 32), r_pixel=0.4, dose=5e4, defocus=250.0, seed=3)
    record = Record()
    aberrations.side_bands_gate(record, gpu4d.fit_aberrations(made.cube, coefficients=["C10"], rotation=math.radians(degrees)))
    return record


def parallax_shifts(scatter):
    """Shifts of up to two steps that scatter by this much about the fit."""
    state = state_of()
    ParallaxStage()._gate(state, SimpleNamespace(largest=2.0, scatter=scatter))
    return state.record


def ptychography_convergence(rate):
    """A misfit that falls towards 1 by a factor e in so many sweeps. Negative: it grows."""
    sweeps = np.arange(40)
    found = SimpleNamespace(
        phase=gpu4d.RealSlice.calibrated(np.eye(4), "phase", "rad", 0.5),
        geometry=SimpleNamespace(r_pixel=0.5),
        powers=[1.0],
        loss=list(1 + 9 * np.exp(-sweeps / rate)),
    )
    state = state_of()
    Ptychography()._figures(state, found)
    return state.record


MADE = {  # key: (maker, what passes, what warns, what fails); None: there is nothing between
    "origin_surface": (origin_surface, 0.1, 1.2, 5.0),
    "pattern_drift": (pattern_drift, 0.5, 6.0, 20.0),
    "lattice_share": (lattice_share, 1, 2, 4),
    "lattice_spacing": (lattice_spacing, 2.3, 0.8, 0.23),
    "ellipse_significance": (ellipse_significance, (1.02, 40.0), (1.02, 0.02), (1.0, 0.05, 1)),
    "ellipse_rings": (ellipse_rings, 0.0, 0.03, 0.12),
    "ring_pixel": (ring_pixel, 1.0, 1.025, 1.07),
    "shadow_margin": (shadow_margin, 2.0, 1.2, 1.0),
    "shadow_correlation": (shadow_correlation, 0.7, 0.2, 0.05),
    "shadow_error": (shadow_error, 0.3, 8.0, 40.0),
    "shadow_side": (shadow_side, 8.0, 3.0, 0.5),
    "shadow_points": (shadow_points, 1.0, 4.0, 30.0),
    "drift_agreement": (drift_agreement, (32, 1.0), (24, 1.0), (24, 0.0)),
    "strain_measured": (strain_measured, "median", None, "3.0 0.0 0.0 4.0 px"),
    "strain_dilation": (strain_dilation, 0.01, 0.045, 0.08),
    "strain_mechanism": (strain_mechanism, 0.0, 0.4, 1.0),
    "strain_brightness": (strain_brightness, 4.0, 0.8, 0.05),
    "pixel_structure": (pixel_structure, 1.0, 1.03, 1.08),
    "indexed_share": (indexed_share, 95, 70, 30),
    "orientation_margin": (orientation_margin, 20.0, 3.0, 0.2),
    "halo_model": (halo_model, 0.0, 0.2, 1.0),
    "fem_probe": (fem_probe, 1.0, 5.0, 25.0),
    "rdf_scale": (rdf_scale, 0.0, 1.0, 8.0),
    "rdf_density": (rdf_density, 1.0, 1.7, 2.2),
    "dpc_potential": (dpc_potential, 30.0, 100.0, 400.0),
    "magnetic_divergence": (magnetic_divergence, 0.0, 2.0, 10.0),
    "side_band_step": (side_band_step, 0.6, 1.5, 3.0),
    "side_bands": (side_bands, 0.0, 4.0, 15.0),
    "parallax_shifts": (parallax_shifts, 0.1, 0.5, 1.5),
    "ptychography_convergence": (ptychography_convergence, 4.0, 20.0, -20.0),
}
