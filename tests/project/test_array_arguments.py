"""Every public function takes odd arrays, or refuses them with one line. None of them is written to.

`CALLS` has one entry for each public function that takes arrays. An entry names the arrays of a call that works. The test gives other
things in their place, one at a time. What is only another form of the same numbers must give the same result. Anything else may give a
result or an `InputError` of one line, and no other exception.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import Gpu4dError

RNG = np.random.default_rng(7)
SCAN, DETECTOR = (5, 6), (24, 20)
PROBE = gpu4d.probe.synthetic(DETECTOR, 3.0)
PATTERNS = RNG.poisson(40 * PROBE + 0.5, (*SCAN, *DETECTOR)).astype("float32")
FRAMES = RNG.normal(100, 3, (12, *DETECTOR))
FRAMES[np.arange(12), RNG.integers(3, 20, 12), 9] += 150
DARK = np.full(DETECTOR, 100.0)
RAW_SCAN = gpu4d.simulate.raw_frames((3, 3), (32, 32), occupancy=0.01, bad_pixels=2, seed=1)
MASK = np.ones(DETECTOR, bool)
MASK[0, 3] = False
WHERE = np.ones(SCAN, bool)
WHERE[0, 0] = False
ORIGINS = np.stack(np.broadcast_arrays(11.5 + 0.1 * np.arange(5)[:, None], 9.5 - 0.1 * np.arange(6)), -1)
COM = np.stack(np.meshgrid(np.sin(np.arange(5.0)), np.cos(np.arange(6.0)), indexing="ij"), -1)
PHASE = np.add.outer(np.sin(np.arange(9.0)), np.cos(np.arange(8.0)))
WAVES = np.add.outer(np.sin(np.arange(12)), np.cos(0.8 * np.arange(12))) + 0.6 * np.sin(np.multiply.outer(np.arange(12), np.arange(12)) / 7)
GRADIENT = np.stack(np.gradient(PHASE), -1)
POSITIONS = np.stack(np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij"), -1)
ORDERS = np.mgrid[-1:2, -1:2].reshape(2, -1).T
BASIS = np.array([[6.0, 0.5], [-0.5, 6.0]])
SPOTS = np.tile(ORDERS @ BASIS + (11.5, 9.5), (30, 1))
DISKS = gpu4d.PointListArray(np.arange(31) * 9, {"qx": SPOTS[:, 0], "qy": SPOTS[:, 1], "intensity": np.ones(270)}, SCAN)
FIT = gpu4d.fit_lattice(DISKS, BASIS, origin=(11.5, 9.5))
SMALL_DISKS = gpu4d.simulate.bragg_scan((3, 4), (32, 32), spacing=7.0, radius=1.8, dose=300.0, seed=1)
REAL_SPACE = np.linalg.inv(np.stack([SMALL_DISKS.truth["g1"], SMALL_DISKS.truth["g2"]])).T * 32.0
TWO = gpu4d.PointListArray(np.arange(3) * 9, {name: DISKS.flat(name)[:18] for name in DISKS.fields}, (1, 2))
TWO = gpu4d.fit_lattice(TWO, BASIS, origin=(11.5, 9.5))
STEM = RNG.normal(size=(32, 32)).cumsum(0).cumsum(1)  # an image with structure of all sizes
NODES = np.mgrid[-2:3, -2:3].reshape(2, -1).T @ np.array([[12.0, 2.0], [-2.0, 12.0]]) + (11.5, 9.5)
SHAKEN = np.tile(NODES, (30, 1)) + RNG.normal(0, 0.1, (750, 2))
SHAKEN = gpu4d.PointListArray(np.arange(31) * 25, {"qx": SHAKEN[:, 0], "qy": SHAKEN[:, 1], "intensity": np.ones(750)}, SCAN)
RADII = np.hypot(np.arange(44)[:, None] - 22, np.arange(42) - 21)
POWDER = RNG.poisson(5 + 200 * np.exp(-(((RADII - 10) / 1.5) ** 2)) + 150 * np.exp(-(((RADII - 16) / 1.5) ** 2)))
RING = 5.0 * np.stack([np.cos(np.arange(12.0)), 1.1 * np.sin(np.arange(12.0))], -1)
CUBIC = gpu4d.structures.Structure("cubic", (3.32,) * 3 + (90,) * 3, "P m -3 m", (gpu4d.structures.Site("Cu", (0, 0, 0)),))
QUADRANTS = gpu4d.detectors.segmented(0.0, 9.0, 4)
SPOT = gpu4d.probe.measure_disk(PROBE)
GLASS = gpu4d.simulate.amorphous_scan((3, 4), (40, 38), radius=12.0, width=2.0, seed=1)
GLASS_ORIGINS, GLASS_MASK, GLASS_ROWS = GLASS.truth["origin"], np.ones((40, 38), bool), np.ones((3, 4), bool)
GLASS_MASK[20, 30] = GLASS_ROWS[2, 1] = False
TURNS = gpu4d.orientation.matrices_of(RNG.uniform(0.1, 3.0, (4, 3)))


RINGS = np.arange(0.05, 2.0, 0.05)
SHELL = (1 + 4 * np.sinc(5.4 * RINGS) * np.exp(-RINGS)) / (1 + RINGS) ** 2  # one shell at 2.7 Å
DOSES = RNG.uniform(1, 2, (*SCAN, 7))


def glass(p: Any, k: Any, f: Any = 1 / (1 + RINGS), e: Any = None, **options: Any) -> Any:
    few = {"background": None, "r": np.linspace(0.5, 8, 40)}
    found = gpu4d.rdf(p, k=k, factor=f, error=e, density=0.05, **{**few, **options})
    return found.structure_factor, found.reduced, found.reduced_error


def oriented(origin: Any, where: Any) -> Any:
    options: dict[str, Any] = {"thickness": 30.0, "disk_radius": 3.0, "maxima": 2, "step": 0.15, "overlaps": False}
    found = gpu4d.orientation.match_orientations(DISKS, CUBIC, origin=origin, where=where, energy=200e3, q_pixel=0.05, **options)
    return found.matrices


def reconstructed(**given: Any) -> Any:
    return gpu4d.ptychography.reconstruct(cube(), sweeps=1, **given).phase


def cube() -> gpu4d.DataCube:
    return gpu4d.DataCube(PATTERNS, gpu4d.Calibration(q_pixel=0.05, r_pixel=1.0, energy=200e3, semiangle=4.0, origin=(11.5, 9.5)))


def swept(reduction: Any) -> Any:
    return gpu4d.sweep(cube(), reduction)


def live(pupil: Any, mask: Any) -> gpu4d.ptychography.SSBLive:
    whole = cube()
    found = gpu4d.ptychography.SSBLive(SCAN, DETECTOR, whole.calibration, rotation=0.0, pupil=pupil, detector_mask=mask)
    found.update(whole.source.array.reshape(-1, *DETECTOR))
    return found


# Results that some calls take. They are made when a test asks for them, not while every worker imports this file.


@functools.cache
def cepstrum() -> gpu4d.crystal.MeanCepstrum:
    return gpu4d.crystal.mean_cepstrum(SMALL_DISKS.cube, REAL_SPACE)


@functools.cache
def glass_ring() -> gpu4d.amorphous.HaloReference:
    return gpu4d.amorphous.halo_reference(GLASS.cube, origin=GLASS_ORIGINS, ellipse=(1, 1, 0))


@functools.cache
def statistics() -> Any:
    return swept(gpu4d.RingStatistics())


@functools.cache
def aligned() -> Any:
    return gpu4d.parallax(cube(), aberrations={}, rotation=0.0)


class Call:
    """A call of a public function that works, and the arguments of it that are arrays."""

    def __init__(self, function: Callable[..., Any], **given: Any):
        self.function, self.given = function, given


CALLS: dict[str, Call] = {
    "BraggDisks": Call(lambda t: swept(gpu4d.BraggDisks(t, refine=None)), t=PROBE),
    "CenterOfMass": Call(lambda d: swept(gpu4d.CenterOfMass(d)), d=MASK),
    "DataCube": Call(lambda a, m: np.asarray(gpu4d.DataCube(a, detector_mask=m)), a=PATTERNS, m=MASK),
    "Calibration": Call(lambda o, m: gpu4d.Calibration(origin=o, origin_measured=m).origin_mean, o=ORIGINS, m=ORIGINS),
    "MeanPattern": Call(lambda w, o: swept(gpu4d.MeanPattern(w, o)), w=WHERE, o=ORIGINS),
    "PointList": Call(lambda qx: gpu4d.PointList({"qx": qx}).qx, qx=SPOTS[:9, 0]),
    "PointListArray": Call(
        lambda n, qx: gpu4d.PointListArray(n, {"qx": qx}, SCAN).padded()[1], n=np.arange(31) * 9, qx=np.ascontiguousarray(SPOTS[:, 0])
    ),
    "RealSlice": Call(lambda a: np.asarray(gpu4d.RealSlice(a)), a=PHASE),
    "DiffractionSlice": Call(lambda a: np.asarray(gpu4d.DiffractionSlice(a)), a=PHASE),
    "data.Slice": Call(lambda a: repr(gpu4d.data.Slice(a)), a=PHASE),
    "RadialProfile": Call(lambda o, m: swept(gpu4d.RadialProfile(o, mask=m)), o=ORIGINS, m=MASK),
    "VirtualImage": Call(lambda d, o: swept(gpu4d.VirtualImage([d, gpu4d.detectors.disk(2.0)], o)), d=MASK, o=ORIGINS),
    "bragg_vector_map": Call(lambda o, w: gpu4d.bragg_vector_map(DISKS, DETECTOR, origin=o, where=w), o=ORIGINS, w=WHERE),
    "bragg.explain_disks": Call(lambda p, t, m: gpu4d.bragg.explain_disks(p, t, detector_mask=m), p=PATTERNS[0, 0], t=PROBE, m=MASK),
    "rings.find_ring": Call(lambda i, m: gpu4d.rings.find_ring(i, (8.0, 7.0), 3.0, m), i=PATTERNS[0, 0], m=MASK),
    "rings.ring_center": Call(
        lambda i, m: gpu4d.rings.ring_center(i, (8.0, 7.0), gpu4d.rings.Ring(4.0, 2.0, 0.1), m), i=PATTERNS[0, 0], m=MASK
    ),
    "rings.RadialVariance": Call(lambda o, m, w: swept(gpu4d.rings.RadialVariance(o, mask=m, where=w)).mean, o=ORIGINS, m=MASK, w=WHERE),
    "RingStatistics": Call(
        lambda o, m, e: swept(gpu4d.RingStatistics(o, mask=m, ellipse=e)).mean, o=ORIGINS, m=MASK, e=np.full((*SCAN, 3), (1.1, 1.0, 0.2))
    ),
    "fem": Call(lambda o, m, w: gpu4d.fem(cube(), o, mask=m, where=w).rings.value, o=ORIGINS, m=MASK, w=WHERE),
    "amorphous.fem_regions": Call(lambda labels: len(gpu4d.amorphous.fem_regions(statistics(), labels)), labels=WHERE.astype(int)),
    "amorphous.find_crystallites": Call(
        lambda o, m: gpu4d.amorphous.find_crystallites(cube(), o, mask=m, disk=1.2).significance, o=ORIGINS, m=MASK
    ),
    "amorphous.SpotFluctuation": Call(
        lambda p, o, m: swept(gpu4d.amorphous.SpotFluctuation(p, 1.5, o, mask=m)).variance, p=np.linspace(3, 1, 10), o=ORIGINS, m=MASK
    ),
    "bragg.direct_beam": Call(lambda i, t, m: gpu4d.bragg.direct_beam(i, t, m), i=PATTERNS[0, 0], t=PROBE, m=MASK),
    "preprocess.find_nan_pixels": Call(lambda p: gpu4d.preprocess.find_nan_pixels(p), p=PATTERNS),
    "preprocess.is_flat": Call(lambda i: gpu4d.preprocess.is_flat(i, 30), i=PATTERNS[0, 0]),
    "preprocess.raw_frames": Call(lambda p, i: gpu4d.preprocess.raw_frames(p, i), p=PATTERNS[0], i=PATTERNS[0, 0]),
    "bragg.dark_field": Call(
        lambda o, w: np.asarray(gpu4d.bragg.dark_field(DISKS, gpu4d.detectors.disk(7.0), origin=o, where=w)), o=ORIGINS, w=WHERE
    ),
    "bragg.lattice_aperture": Call(lambda v, i: repr(gpu4d.bragg.lattice_aperture(v, 2.0, i)), v=BASIS, i=ORDERS),
    "bragg.reflection": Call(lambda g: repr(gpu4d.bragg.reflection(g, 2.0)), g=BASIS[0]),
    "classification.ClassPatterns": Call(
        lambda w, o: np.asarray(swept(gpu4d.classification.ClassPatterns(w, o))), w=np.stack([WHERE, ~WHERE]), o=ORIGINS
    ),
    "classification.SpotCounts": Call(
        lambda s, r, o: np.asarray(swept(gpu4d.classification.SpotCounts(s, r, o))), s=BASIS, r=np.array([1.5, 2.0]), o=ORIGINS
    ),
    "classification.cooccurrence_seeds": Call(
        lambda p, f: gpu4d.classification.cooccurrence_seeds(p, f, 2),
        p=np.eye(6, dtype=bool)[:, [0, 0, 1, 1]],
        f=np.arange(24.0).reshape(6, 4),
    ),
    "classification.disk_features": Call(
        lambda m, o: gpu4d.classification.disk_features(DISKS, m, origin=o), m=ORDERS[1:] @ BASIS, o=ORIGINS
    ),
    "classification.vector_map_maxima": Call(lambda o: gpu4d.classification.vector_map_maxima(DISKS, 2.0, origin=o), o=ORIGINS),
    "bragg.friedel_symmetry": Call(lambda o: gpu4d.bragg.friedel_symmetry(DISKS, o, DETECTOR, 3.0), o=ORIGINS),
    "find_bragg_disks": Call(lambda p, t: gpu4d.find_bragg_disks(p, t, refine=None), p=PATTERNS, t=PROBE),
    "hybrid_correlation": Call(lambda p, t: gpu4d.hybrid_correlation(p, t), p=PATTERNS[0], t=PROBE),
    "refine_template": Call(lambda w: gpu4d.refine_template(cube(), None, PROBE, where=w, patterns=30).radius, w=np.ones((5, 6), bool)),
    "calibrate.edge_background": Call(lambda m: gpu4d.calibrate.edge_background(m, gpu4d.probe.measure_disk(PROBE)), m=PATTERNS[0, 0]),
    "calibrate.ellipse": Call(lambda p, w: gpu4d.calibrate.ellipse(p, w), p=RING, w=np.ones(12)),
    "calibrate.ellipse_matrix": Call(lambda e: gpu4d.calibrate.ellipse_matrix(e), e=np.array([2.0, 1.0, 0.3])),
    "calibrate.fit_halo": Call(
        lambda p, m: gpu4d.calibrate.fit_halo(p, mask=m, center=(22, 21), radii=(5, 15)).covariance, p=POWDER, m=POWDER >= 0
    ),
    "calibrate.fit_peaks": Call(lambda w: gpu4d.calibrate.fit_peaks(SHAKEN, "square", origin=(11.5, 9.5), where=w).covariance, w=WHERE),
    "calibrate.fit_rings": Call(
        lambda p, m: gpu4d.calibrate.fit_rings(p, [0.5, 0.8], mask=m, center=(22, 21), ellipse=(1, 1, 0), sectors=4).q_pixel,
        p=POWDER,
        m=POWDER >= 0,
    ),
    "calibrate.index_lengths": Call(
        lambda g, d, e: gpu4d.calibrate.index_lengths(g, d, errors=e).misfit, g=np.arange(1.0, 4), d=1 / np.arange(1.0, 4), e=np.ones(3)
    ),
    "calibrate.lattice_ellipse": Call(lambda w: gpu4d.calibrate.lattice_ellipse(FIT, where=w).ellipse, w=WHERE),
    "calibrate.visible_ellipse": Call(lambda w: repr(gpu4d.calibrate.visible_ellipse(FIT, where=w)), w=WHERE),
    "calibrate.origin": Call(lambda d, w: gpu4d.calibrate.origin(d, where=w).fitted, d=ORIGINS, w=WHERE),
    "calibrate.pixel_size": Call(
        lambda g, d, w: gpu4d.calibrate.pixel_size(g, d, w), g=np.arange(1.0, 4), d=1 / np.arange(1.0, 4), w=np.ones(3)
    ),
    "calibrate.covered": Call(lambda m, c: gpu4d.calibrate.covered(m, c, 3.0), m=MASK, c=np.array([2.0, 3.0])),
    "calibrate.rotation_from_points": Call(
        lambda r, q: gpu4d.calibrate.rotation_from_points(r, q, defocus=-1.0).angle, r=ORDERS @ BASIS, q=ORDERS @ BASIS + 2.0
    ),
    "calibrate.shadow_rotation": Call(
        lambda i, s, p: gpu4d.calibrate.shadow_rotation(i, s, p, center=(11.5, 9.5), radius=8.0, defocus=-1.0, scale=0.5).transpose,
        i=STEM,
        s=STEM[4:28, 6:26],
        p=np.array([15.5, 15.5]),
    ),
    "calibrate.rotation": Call(lambda c, w: gpu4d.calibrate.rotation(c, where=w).curve, c=COM, w=np.ones(SCAN, bool)),
    "calibrate.to_scan_axes": Call(lambda v: gpu4d.calibrate.to_scan_axes(v, 0.3), v=COM),
    "center_of_mass": Call(lambda p, m: gpu4d.center_of_mass(p, m), p=PATTERNS, m=MASK),
    "find_lattice": Call(lambda o, w: repr(gpu4d.find_lattice(DISKS, o, where=w)), o=ORIGINS, w=WHERE),
    "crystal.find_lattices": Call(lambda o, w: repr(gpu4d.crystal.find_lattices(DISKS, o, where=w)), o=ORIGINS, w=WHERE),
    "crystal.fit_lattices": Call(
        lambda g, o, w: gpu4d.crystal.fit_lattices(DISKS, g, origin=o, where=w)[0].g1, g=BASIS[None], o=ORIGINS, w=WHERE
    ),
    "fit_lattice": Call(lambda g, o: gpu4d.fit_lattice(DISKS, g, origin=o).g1, g=BASIS, o=ORIGINS),
    "crystal.power_cepstrum": Call(lambda p, w, m: gpu4d.crystal.power_cepstrum(p, window=w, mask=m), p=PATTERNS[0], w=PROBE, m=MASK),
    "crystal.mean_cepstrum": Call(
        lambda v, w: gpu4d.crystal.mean_cepstrum(SMALL_DISKS.cube, v, where=w).power, v=REAL_SPACE, w=np.ones((3, 4), bool)
    ),
    "crystal.cepstral_lattice": Call(lambda v: gpu4d.crystal.cepstral_lattice(SMALL_DISKS.cube, v).g1, v=REAL_SPACE),
    "crystal.CepstralVectors": Call(
        lambda w: gpu4d.sweep(SMALL_DISKS.cube, gpu4d.crystal.CepstralVectors(cepstrum(), window=w)).g1, w=np.ones((32, 32))
    ),
    "crystal.lattice_free_of_origin": Call(lambda w: repr(gpu4d.crystal.lattice_free_of_origin(DISKS, w)), w=WHERE),
    "amorphous_strain": Call(
        lambda p, r, o, m: gpu4d.amorphous_strain(p, reference=r, origin=o, mask=m, ellipse=(1, 1, 0)).exx,
        p=GLASS.cube.source.array,
        r=GLASS_ROWS,
        o=GLASS_ORIGINS,
        m=GLASS_MASK,
    ),
    "amorphous.halo_reference": Call(
        lambda r, o, m: gpu4d.amorphous.halo_reference(GLASS.cube, region=r, origin=o, mask=m, ellipse=(1, 1, 0)).profile,
        r=GLASS_ROWS,
        o=GLASS_ORIGINS,
        m=GLASS_MASK,
    ),
    "amorphous.RingStrain": Call(
        lambda o, m: gpu4d.sweep(GLASS.cube, gpu4d.amorphous.RingStrain(glass_ring(), o, mask=m)).exx, o=GLASS_ORIGINS, m=GLASS_MASK
    ),
    "amorphous.ellipse_to_strain": Call(
        lambda a, b, c: gpu4d.amorphous.ellipse_to_strain(a, b, c)[0], a=1 + 0.1 * PHASE, b=0.1 * PHASE, c=1 - 0.1 * PHASE
    ),
    "strain_map": Call(lambda r, g: gpu4d.strain_map(FIT, region=r).exx + gpu4d.strain_map(FIT, lattice=g).exx, r=WHERE, g=BASIS),
    "crystal.suggest_technique": Call(lambda c: gpu4d.crystal.suggest_technique(c, None, 3.0, SCAN), c=np.full(SCAN, 3)),
    "data.BadPixelCorrection": Call(lambda m: gpu4d.data.BadPixelCorrection(m).apply(PATTERNS), m=~MASK),
    "data.EventSource": Call(
        lambda n, p, c: gpu4d.data.EventSource(n, p, (1, 2), (3, 4), c).read(slice(0, 1), slice(0, 2)),
        n=np.array([0, 1, 3]),
        p=np.array([5, 2, 7]),
        c=np.array([1, 2, 3]),
    ),
    "deflection.boundary_misfit": Call(lambda p, c: gpu4d.deflection.boundary_misfit(p, c), p=PHASE, c=np.moveaxis(GRADIENT, -1, 0)),
    "deflection.integrate_gradient": Call(lambda g: gpu4d.deflection.integrate_gradient(g), g=GRADIENT),
    "deflection.integrate_iteratively": Call(lambda g: gpu4d.deflection.integrate_iteratively(g, max_iterations=2).v, g=GRADIENT),
    "deflection.phase_sign": Call(lambda p, d: gpu4d.deflection.phase_sign(p, d).skew, p=PHASE, d=PHASE**2),
    "deflection.CenterOfMassVariance": Call(lambda d: swept(gpu4d.deflection.CenterOfMassVariance(d)), d=MASK),
    "deflection.curl_free": Call(lambda f: gpu4d.deflection.curl_free(f), f=COM),
    "deflection.curl_free_error": Call(lambda v: gpu4d.deflection.curl_free_error(v), v=COM**2),
    "deflection.descan_surface": Call(lambda f, w: gpu4d.deflection.descan_surface(f, 1, where=w), f=COM, w=WHERE),
    "deflection.divergence": Call(lambda f: gpu4d.deflection.divergence(f), f=COM),
    "deflection.find_shift": Call(lambda a, b: gpu4d.deflection.find_shift(a, b).shift, a=GRADIENT, b=GRADIENT),
    "drift.scattered_average": Call(lambda v, p: gpu4d.drift.scattered_average(v, p, step=1.0, shape=(5, 6))[0], v=COM[..., 0], p=ORIGINS),
    "drift.scan_vectors": Call(lambda p: gpu4d.drift.scan_vectors(p).matrix, p=ORIGINS),
    "scan_drift": Call(
        lambda a, b: gpu4d.scan_drift(a, b, fast_axes=(1, 0), angle=0.0, max_drift=0.5).positions[1], a=WAVES, b=WAVES + 0.01
    ),
    "deflection.phase_error": Call(lambda v, w: gpu4d.deflection.phase_error(v, descan="mean", where=w), v=COM**2, w=WHERE),
    "deflection.resampled": Call(lambda f, s: gpu4d.deflection.resampled(f, s), f=GRADIENT, s=np.array([0.5, -0.25])),
    "deflection.segment_response": Call(lambda p: gpu4d.deflection.segment_response(p, QUADRANTS), p=PROBE),
    "deflection.segmented_center_of_mass": Call(
        lambda i, p: gpu4d.deflection.segmented_center_of_mass(i, p, QUADRANTS)[0], i=PATTERNS[:4, :, 0] + 1, p=PROBE
    ),
    "deflection.share_outside": Call(lambda p, m: gpu4d.deflection.share_outside(p, SPOT, m), p=PATTERNS[0, 0], m=MASK),
    "magnetic_induction": Call(
        lambda c, e, v: gpu4d.magnetic_induction(c, q_pixel=1e-3, rotation=0.0, electric=e, variance=v).measured,
        c=GRADIENT,
        e=GRADIENT,
        v=np.ones((3, 9, 8)),
    ),
    "deflection.remove_descan": Call(lambda f, d: gpu4d.deflection.remove_descan(f, d)[0], f=COM, d=np.array([1.0, 2.0])),
    "dpc": Call(lambda c, d: gpu4d.dpc(c, dark_field=d).phase, c=GRADIENT, d=PHASE**2),
    "polar_transform": Call(lambda p, o, m: gpu4d.polar_transform(p, o, n_theta=8, mask=m), p=PATTERNS, o=ORIGINS, m=MASK),
    "radial_profile": Call(lambda p, o, m: gpu4d.radial_profile(p, o, mask=m), p=PATTERNS, o=ORIGINS, m=MASK),
    "rings.mean_radii": Call(lambda o, m: gpu4d.rings.mean_radii(DETECTOR, o, mask=m), o=ORIGINS, m=MASK),
    "rdf": Call(glass, p=SHELL, k=RINGS, f=1 / (1 + RINGS), e=SHELL * 0 + 0.1),
    "rdf of a measured background": Call(lambda b, r: glass(SHELL, RINGS, background=b, r=r), b=0.1 * SHELL, r=np.linspace(0.5, 8, 40)),
    "amorphous.group_profiles": Call(
        lambda p, g, w, s: gpu4d.amorphous.group_profiles(p, labels=g, where=w, weights=s)[:3], p=DOSES, g=1 * WHERE, w=WHERE, s=1.0 * WHERE
    ),
    "amorphous.sine_transform": Call(gpu4d.amorphous.sine_transform, x=RINGS, values=SHELL, at=np.linspace(0, 3, 5)),
    "structures.electron_scattering_factor": Call(lambda k: gpu4d.structures.electron_scattering_factor("Cu", k), k=RINGS),
    "rings.radial_sums": Call(lambda p, o, m: gpu4d.rings.radial_sums(p, o, mask=m)[0], p=PATTERNS, o=ORIGINS, m=MASK),
    "rings.ring_moments": Call(
        lambda p, o, m, e: gpu4d.rings.ring_moments(p, o, mask=m, ellipse=e, median=True).medians,
        p=PATTERNS,
        o=ORIGINS,
        m=MASK,
        e=np.array([1.1, 1.0, 0.2]),
    ),
    "preprocess.background": Call(
        lambda f, d, g, e, m: gpu4d.preprocess.background(f, d, gain=g, edge=e, mask=m, streaks=True).background,
        f=FRAMES,
        d=DARK,
        g=np.ones(DETECTOR),
        e=np.arange(480).reshape(DETECTOR) % 20 < 4,
        m=MASK,
    ),
    "preprocess.edge_pixels": Call(lambda m: gpu4d.preprocess.edge_pixels(DETECTOR, 0.9, m), m=MASK),
    "preprocess.find_defects": Call(lambda d: gpu4d.preprocess.find_defects(d).pixels, d=FRAMES),
    "preprocess.count_electrons": Call(
        lambda f, d, g, m: gpu4d.preprocess.count_electrons(f, d, 0.3, 10.0, electron=150.0, gain=g, mask=m).qx,
        f=FRAMES,
        d=DARK,
        g=np.ones(DETECTOR),
        m=MASK,
    ),
    "preprocess.fit_electrons": Call(
        lambda f, d, g, m: gpu4d.preprocess.fit_electrons(f, d, 0.3, 10.0, (0.4, 0.03), electron=150.0, gain=g, mask=m).intensity,
        f=FRAMES,
        d=DARK,
        g=np.ones(DETECTOR),
        m=MASK,
    ),
    "preprocess.dark_reference": Call(lambda f: gpu4d.preprocess.dark_reference(f).mask, f=FRAMES),
    "preprocess.counting_setup": Call(
        lambda f, d, g, m: gpu4d.preprocess.counting_setup(f, d, gain=g, mask=m, false_share=0.1).lower,
        f=FRAMES,
        d=DARK,
        g=np.ones(DETECTOR),
        m=MASK,
    ),
    "preprocess.count_scan": Call(
        lambda f, d, g: gpu4d.preprocess.count_scan(f, d, gain=g).electrons, f=RAW_SCAN.cube.source.array, d=RAW_SCAN.darks, g=RAW_SCAN.gain
    ),
    "preprocess.fill_from_neighbours": Call(lambda p, m: gpu4d.preprocess.fill_from_neighbours(p, m), p=PATTERNS, m=MASK),
    "preprocess.find_bad_pixels": Call(lambda m: gpu4d.preprocess.find_bad_pixels(m, 30).mask, m=PATTERNS.mean((0, 1))),
    "preprocess.hot_pixel_median": Call(lambda f, m: gpu4d.preprocess.hot_pixel_median(f, mask=m)[1], f=PATTERNS, m=MASK),
    "preprocess.hot_pixels": Call(lambda f, m: gpu4d.preprocess.hot_pixels(f, mask=m), f=PATTERNS, m=MASK),
    "preprocess.in_counts": Call(lambda t: gpu4d.preprocess.in_counts("float32", t), t=np.full(SCAN, 90.0)),
    "preprocess.crop": Call(lambda d: gpu4d.preprocess.crop(d, rx=(1, 4), qx=(2, 9)), d=PATTERNS),
    "preprocess.bin": Call(lambda d: gpu4d.preprocess.bin(d, detector=2, scan=2), d=PATTERNS),
    "preprocess.select": Call(lambda d, w: gpu4d.preprocess.select(d, w), d=PATTERNS, w=WHERE),
    "preprocess.reshape": Call(lambda f: gpu4d.preprocess.reshape(f, (5, 2), flyback=0, extra=(1, 1)), f=FRAMES),
    "preprocess.scan_shapes": Call(lambda v: str(gpu4d.preprocess.scan_shapes(v)) and None, v=STEM.ravel()),
    "planning.disk_precision": Call(
        lambda e, b: gpu4d.planning.disk_precision(e, 4.0, background=b), e=np.array([100.0, 900.0]), b=np.array([0.1, 0.5])
    ),
    "planning.strain_precision": Call(
        lambda v, o, e, b: gpu4d.planning.strain_precision(v, o, e, 3.0, background=b).disk,
        v=BASIS,
        o=ORDERS,
        e=np.full(9, 500.0),
        b=np.full(9, 0.2),
    ),
    "preprocess.thresholds": Call(
        lambda f, d, g, m: gpu4d.preprocess.thresholds(f, d, gain=g, mask=m, false_share=0.1).noise,
        f=FRAMES,
        d=DARK,
        g=np.ones(DETECTOR),
        m=MASK,
    ),
    "simulate.raw_frames": Call(lambda p: gpu4d.simulate.raw_frames((1, 2), DETECTOR, pattern=p, bad_pixels=0).electrons, p=PROBE),
    "probe.from_vacuum": Call(lambda p, r: gpu4d.probe.from_vacuum(p, r), p=PATTERNS.reshape(-1, *DETECTOR), r=np.ones((1, 30), bool)),
    "probe.patterned": Call(lambda p: gpu4d.probe.patterned(DETECTOR, 6.0, p), p=np.eye(4)),
    "probe.real_space": Call(lambda w: gpu4d.probe.real_space(w, 0.05).intensity, w=PROBE),
    "plot.wave": Call(lambda w: (gpu4d.plot.wave(w), None)[1], w=PHASE),
    "bragg.refine_lattice": Call(
        lambda p, o: gpu4d.bragg.refine_lattice(p, PROBE, TWO, orders=o, overlaps=False).g1,
        p=PATTERNS[:1, :2],
        o=ORDERS,
    ),
    "probe.measure_disk": Call(lambda i, m: gpu4d.probe.measure_disk(i, m), i=PATTERNS.mean((0, 1)), m=MASK),
    "probe.template": Call(lambda p: gpu4d.probe.template(p).kernel, p=PROBE),
    "probe.wavefunction": Call(lambda a: np.abs(gpu4d.probe.wavefunction(a, energy=2e5, q_pixel=0.05)), a=PROBE),
    "ptychography.BrightFieldStack": Call(lambda p: swept(gpu4d.ptychography.BrightFieldStack(p)), p=PROBE > 0.5),
    "ptychography.acbf": Call(lambda o: gpu4d.ptychography.acbf(cube(), rotation=0.0, origin=o).image, o=ORIGINS),
    "ptychography.tilted_dark_field": Call(
        lambda o: gpu4d.ptychography.tilted_dark_field(cube(), aligned(), inner=1.5, outer=3.0, origin=o), o=ORIGINS
    ),
    "ptychography.reconstruct": Call(reconstructed, probe=PROBE, positions=POSITIONS, where=WHERE),
    "fit_aberrations": Call(lambda w: gpu4d.fit_aberrations(cube(), coefficients=["C10"], rotation=0.0, where=w).covariance, w=WHERE),
    "parallax": Call(lambda w: gpu4d.parallax(cube(), aberrations={}, rotation=0.0, where=w).image, w=WHERE),
    "ssb": Call(lambda p: gpu4d.ssb(cube(), rotation=0.0, pupil=p).phase, p=PROBE),
    "wdd": Call(lambda p: gpu4d.wdd(cube(), rotation=0.0, pupil=p).phase, p=PROBE),
    "ptychography.SSBLive": Call(lambda p, m: live(p, m).result().phase, p=PROBE, m=MASK),
    "streaming.load_cube": Call(lambda w: gpu4d.streaming.load_cube(cube(), where=w), w=WHERE),
    "live": Call(lambda p, w: gpu4d.live([p], gpu4d.MeanPattern(), cube(), where=w), p=PATTERNS.reshape(-1, *DETECTOR), w=WHERE),
    "data.live_scan": Call(lambda m: gpu4d.data.live_scan(PATTERNS.shape, "uint16", detector_mask=m).detector_mask, m=MASK),
    "sweep": Call(lambda w: gpu4d.sweep(cube(), gpu4d.MeanPattern(), where=w), w=WHERE),
    "streaming.plan": Call(lambda w: gpu4d.streaming.plan(cube(), {"mean": gpu4d.MeanPattern()}, where=w).budget, w=WHERE),
    "detectors.disk": Call(lambda c: gpu4d.detectors.disk(3.0, c).mask(DETECTOR), c=np.array([11.5, 9.5])),
    "detectors.point": Call(lambda c: gpu4d.detectors.point(c).mask(DETECTOR), c=np.array([11.5, 9.5])),
    "detectors.from_array": Call(lambda m: gpu4d.detectors.from_array(m).mask(DETECTOR), m=MASK),
    "detectors.bragg_spots": Call(lambda p: gpu4d.detectors.bragg_spots(p, 1.5).mask(DETECTOR, (11.5, 9.5)), p=ORDERS @ BASIS),
    "DataCube.corrected": Call(lambda m, d: cube().corrected(dark=d, gain=d, streaks=m, bad_pixels=m)[0, 0], m=~MASK, d=DARK),
    "plot.convergence": Call(lambda v: gpu4d.plot.convergence(v, "convergence") and None, v=np.arange(5.0)),
    "plot.spectrum": Call(lambda d: gpu4d.plot.spectrum(d) and None, d=PHASE),
    "plot.image": Call(lambda d: gpu4d.plot.image(d) and None, d=PHASE),
    "plot.histogram": Call(lambda v: gpu4d.plot.histogram(v, "values") and None, v=PHASE),
    "plot.com": Call(lambda d: gpu4d.plot.com(d) and None, d=np.moveaxis(COM, -1, 0)),
    "BraggDisks.at": Call(lambda p: gpu4d.BraggDisks(PROBE, refine=None).at(cube(), p), p=np.array([[0, 1], [2, 3]])),
    "orientation.match_orientations": Call(oriented, origin=ORIGINS * 0 + (11.5, 9.5), where=WHERE),
    "orientation.misorientation": Call(lambda a, b: gpu4d.orientation.misorientation(a, b, CUBIC), a=TURNS, b=TURNS[::-1].copy()),
    "orientation.direction_colors": Call(lambda v: gpu4d.orientation.direction_colors(v, CUBIC), v=TURNS[:, 0]),
    "orientation.euler_angles": Call(gpu4d.orientation.euler_angles, matrices=TURNS),
    "orientation.matrices_of": Call(gpu4d.orientation.matrices_of, angles=TURNS[0]),
    "orientation.excitation_error": Call(lambda g: gpu4d.orientation.excitation_error(g, 40.0), g=TURNS[0]),
}
NO_ARRAYS = {
    "plot.counting_histogram": "a result",
    "view.Overlays": "a result",
    "view.ScanView": "made by view.view_of",
    "view.ViewServer": "made of a view.ScanView",
    "view.detector_from": "what a page asks",
    "view.export_page": "a cube",
    "view.open_view": "a path",
    "view.page_part": "a cube",
    "view.view_of": "a cube",
    "view.widget": "a cube",
    "notebook.html": "a result",
    "preprocess.ChargeModel": "numbers",
    "preprocess.CountedElectrons": "as preprocess.count_scan",
    "plan_experiment": "what is known of a scan",
    "capabilities": "no arguments",
    "interop.from_dask": "an array of Dask; tests/interop/test_dask.py",
    "interop.to_dask": "a cube",
    "planning.Acquisition": "numbers",
    "planning.Check": "made by plan_experiment",
    "planning.Dose": "made by plan_experiment",
    "planning.ExperimentPlan": "made by plan_experiment",
    "planning.Probe": "made by plan_experiment",
    "planning.Saving": "made by plan_experiment",
    "planning.StrainPrecision": "made by planning.strain_precision",
    "planning.TECHNIQUES": "names",
    "planning.Volume": "made by plan_experiment",
    "preprocess.ScanShape": "made by preprocess.scan_shapes",
    "preprocess.ScanShapeWarning": "a warning",
    "preprocess.ScanShapes": "made by preprocess.scan_shapes",
    "data.FrameCorrection": "as DataCube.corrected",
    "data.Hits": "limits that preprocess.background makes",
    "data.Streaks": "as DataCube.corrected",
    "preprocess.Background": "made by preprocess.background",
    "preprocess.Defects": "made by preprocess.find_defects",
    "preprocess.shows_streaks": "frames, as preprocess.background",
    "deflection.potential_validity": "numbers",
    "deflection.Condition": "made by potential_validity",
    "deflection.Validity": "made by potential_validity",
    "io.load_calibration": "a path",
    "io.save_calibration": "a path and a calibration",
    "io.CalibrationFile": "made by io.load_calibration",
    "orientation.ipf_colors": "a result",
    "orientation.orientation_library": "numbers",
    "orientation.save_ang": "a result",
    "orientation.orientation_misfit": "as orientation.match_orientations",
    "orientation.to_orix": "a result",
    "plot.lattice_map": "a result",
    "plot.drift": "a result, and pictures as plot.image takes them",
    "plot.structure_factor": "a result",
    "plot.pair_distribution": "a result",
    "plot.rings": "a result, and its pattern, which is only drawn",
    "plot.shadow": "a result, and its images, which are only drawn",
    "plot.shadow_points": "a result, and its image, which is only drawn",
    "plot.orientation_legend": "a structure",
    "plot.orientation_map": "a result",
    "structures.STANDARDS": "a table",
    "classify": "origin as bragg.dark_field, where as sweep",
    "classification.outlook": "origin as bragg.dark_field, where as sweep",
    "classification.factorise": "as classification.cooccurrence_seeds; it needs an optional library",
    "detectors.Detector": "made by the others",
    "detectors.as_detector": "as VirtualImage",
    "detectors.annulus": "as detectors.disk",
    "detectors.rectangle": "as detectors.disk",
    "detectors.segmented": "as detectors.disk",
    "plot.bragg_vector_map": "as plot.image",
    "plot.cepstrum": "a result",
    "plot.diffraction": "as plot.image",
    "plot.disks": "as plot.image",
    "plot.class_patterns": "as plot.image",
    "plot.label_map": "as plot.image",
    "plot.profile": "as plot.image",
    "plot.save": "a figure",
    "plot.strain": "a result",
    "plot.vectors": "as plot.com",
    "MaxPattern": "no arguments",
    "Template": "made by probe.template",
    "virtual_image": "as VirtualImage",
    "using": "a word",
    "open": "a path",
    "ScanTiming": "numbers",
    "io.ScanTiming": "numbers",
    "RawLayout": "numbers",
    "io.RawLayout": "numbers",
    "read_emd": "as io.read_emd",
    "interop.to_xarray": "a result",
    "interop.to_hyperspy": "a result",
    "data.Storable": "a base class",
    "save": "tested below",
    "convert": "an array as a DataCube, which is copied to the host",
    "io.convert": "as convert",
    "rings.radii": "numbers",
    "amorphous.HaloReference": "made by amorphous.halo_reference",
    "amorphous.AmorphousStrain": "a result",
    "plot.fem": "a result",
    "amorphous.fem": "as fem",
    "amorphous.fem_map": "a result",
    "amorphous.PatternMoments": "no arguments",
    "crystal.lattice_lengths": "a result",
    "crystal.dilation_and_spacing": "results",
    "crystal.strain_and_brightness": "results",
    "calibrate.is_round": "a Disk",
    "calibrate.scan_matrix": "numbers",
    "io.guard_mapped_files": "a bool",
    "io.load_image": "a path",
    "io.load_images": "a path",
    "io.open": "a path",
    "io.read_emd": "a path",
    "ptychography.hand_over": "a scan",
    "ptychography.read_reconstruction": "a path",
    "io.save": "as save",
    "probe.synthetic": "numbers",
    "probe.angular_momentum": "a result",
    "probe.probe_size": "a result",
    "probe.depth_of_focus": "numbers",
    "probe.FineImage": "made by refine_template",
    "data.ArraySource": "as DataCube",
    "data.Corrections": "corrections",
    "data.CorrectedSource": "sources",
    "data.Events": "as EventSource",
    "simulate.amorphous_scan": "numbers and functions",
    "simulate.bragg_scan": "numbers and functions",
    "simulate.phase_object_scan": "numbers and functions",
}
RESULTS = (
    "Converted",
    "CountedScan",
    "CountingSetup",
    "DarkReference",
    "RawFrames",
    "MagneticInduction",
    "ScanShift",
    "ScanVectors",
    "ScanDrift",
    "CepstralFit",
    "MeanCepstrum",
    "Nodes",
    "ProbeSize",
    "RealSpaceProbe",
    "MeasuredOn",
    "ShadowRotation",
    "Step",
    "Candidates",
    "Classes",
    "Dilation",
    "DirectBeam",
    "EdgeBackground",
    "HaloFit",
    "LatticeEllipse",
    "Lattices",
    "LatticesFit",
    "Relation",
    "LengthFit",
    "PeakFit",
    "Rival",
    "RingFit",
    "RingPlace",
    "RadialStatistics",
    "RDF",
    "GroupedProfiles",
    "RingMoments",
    "RingProfiles",
    "SpotRings",
    "PixelSums",
    "Variance",
    "FEM",
    "Crystallites",
    "LatticeAperture",
    "Ring",
    "Together",
    "Origin",
    "Lattice",
    "LatticeFit",
    "Lengths",
    "Strain",
    "Suggestion",
    "DPC",
    "Sign",
    "BadPixels",
    "Electrons",
    "Thresholds",
    "Disk",
    "SSB",
    "WDD",
    "ThinObject",
    "AberrationFit",
    "CorrectedBrightField",
    "Parallax",
    "Reconstruction",
    "Simulated",
    "Grain",
    "Misfit",
    "Outlook",
    "OrientationLibrary",
    "Orientations",
    "Reflections",
    "Rings",
    "Site",
    "Standard",
    "Structure",
)
OTHER_ROOMS = ("device", "streaming", "testing", "workflow", "physics", "errors")  # no arrays, or interfaces for authors


def same_numbers(valid: np.ndarray) -> dict[str, Any]:
    """Return other forms of the same numbers."""
    backwards = np.ascontiguousarray(valid[::-1])[::-1]
    frozen = valid.copy()
    frozen.flags.writeable = False
    forms = {
        "a list": valid.tolist(),
        "in another order": np.asfortranarray(valid),
        "backwards in memory": backwards,
        "read-only": frozen,
        "in foreign bytes": valid.astype(valid.dtype.newbyteorder()),
        "a masked array without masked values": np.ma.masked_array(valid),
        "a slice": gpu4d.RealSlice(valid),
        "an object that gives an array": Gives(valid),
    }
    return forms | ({"a matrix": np.asmatrix(valid)} if valid.ndim == 2 else {})


class Gives:
    """An array of a library that gpu4d does not know, as a dataset of h5py."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)


def odd_things(valid: np.ndarray) -> dict[str, Any]:
    """Return what is wrong, or right but unusual, in the place of an array."""
    number = valid.astype(np.float64)
    masked = np.ma.masked_array(valid, mask=np.arange(valid.size).reshape(valid.shape) == 1)
    large, nan, infinite = number.copy(), number.copy(), number.copy()
    large.flat[1], nan.flat[1], infinite.flat[1] = 1e308, np.nan, np.inf
    objects = valid.astype(object)
    objects.flat[0] = None
    out = {
        "masked": masked,
        "complex": number + 1j,
        "text": valid.astype("U9"),
        "bytes": valid.astype("S9"),
        "objects": objects,
        "dates": np.full(valid.shape, np.datetime64("2024-01-01")),
        "spans of time": np.full(valid.shape, np.timedelta64(1, "s")),
        "records": np.zeros(valid.shape, [("a", "f4")]),
        "long double": number.astype(np.longdouble),
        "half": number.astype(np.float16),
        "all NaN": np.full(valid.shape, np.nan),
        "one NaN": nan,
        "one infinite": infinite,
        "1e308": large,
        "all 1e308": np.full(valid.shape, 1e308),
        "zeros": np.zeros_like(valid),
        "one value": valid.ravel()[:1],
        "flat": valid.ravel(),
        "one axis more": valid[None],
        "one row less": valid[1:],
        "one column less": valid[..., 1:],
        "a column": valid[..., :1],
        "no rows": valid[:0],
        "no columns": valid[..., :0],
        "no axes": valid.ravel()[0],
        "a zero-dimensional array": np.array(1.5),
        "one item": valid[0],
        "uint64 at its end": np.full(valid.shape, 2**64 - 1, "u8"),
        "a ragged list": [[1, 2], [3]],
        "an empty list": [],
        "a list of text": ["a", "b"],
        "a file": "scan.h5",
        "a number": 3.5,
        "True": True,
        "a dictionary": {"a": 1},
        "a set": {1, 2},
        "a class": np.ndarray,
        "a module": np,
        "a generator": (i for i in range(3)),
        "a cube": cube(),
        "disks": DISKS,
        "a huge whole number": 10**400,
        "a list with a hole": [[None, 1.0]],
    }
    return out


def check(call: Call, name: str, odd: Any) -> str:
    """Call with something odd for one argument: return what came of it, after looking at the error and at the other arguments."""
    given = {k: v.copy() for k, v in call.given.items()}
    given[name] = odd
    before = {k: v.copy() for k, v in given.items() if isinstance(v, np.ndarray)}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            call.function(**given)
            said = ""
        except Gpu4dError as error:
            said = str(error)
    assert "\n" not in said, said
    for k, v in before.items():
        assert v.dtype == given[k].dtype and v.tobytes() == given[k].tobytes(), f"{k} was written to"
    return said


DRAWN = ("plot.image", "plot.histogram", "plot.com", "plot.spectrum", "plot.convergence")  # masked values are drawn as missing ones
COMPLEX = {("RealSlice", "a"), ("DiffractionSlice", "a"), ("data.Slice", "a"), ("ssb", "p"), ("wdd", "p"), ("ptychography.SSBLive", "p")}
COMPLEX |= {("ptychography.reconstruct", "probe")}
COMPLEX |= {("probe.wavefunction", "a"), ("probe.real_space", "w"), ("plot.wave", "w")}  # where values may be complex
CASES = [(name, argument) for name, call in CALLS.items() for argument in call.given]


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_odd_things_give_a_result_or_one_line(name: str, argument: str) -> None:
    call = CALLS[name]
    wrong = []
    for what, odd in odd_things(call.given[argument]).items():
        try:
            said = check(call, argument, odd)
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {str(error)[:150]}")
            continue
        allowed = (what == "complex" and (name, argument) in COMPLEX) or (what == "masked" and name in DRAWN)
        if what in REFUSED and not said and not allowed:
            wrong.append(f"{what}: taken without a word")
    assert not wrong, "\n".join(wrong)


REFUSED = (
    "masked",
    "complex",
    "text",
    "bytes",
    "objects",
    "dates",
    "spans of time",
    "records",
    "a ragged list",
    "a list of text",
    "a file",
    "a dictionary",
    "a set",
    "a module",
    "a class",
    "a list with a hole",
)


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_other_forms_of_the_same_numbers_give_the_same(name: str, argument: str) -> None:
    call = CALLS[name]
    right = flat(call.function(**call.given))
    for what, form in same_numbers(call.given[argument]).items():
        if (name, what) == ("DataCube", "an object that gives an array"):
            continue  # refused: it may be a dataset of a file, much larger than memory
        found = flat(call.function(**{**call.given, argument: form}))
        assert len(found) == len(right) and all(same(a, b) for a, b in zip(found, right)), what


def flat(result: Any) -> list[Any]:
    """Return the arrays and numbers of a result."""
    if isinstance(result, gpu4d.PointListArray):
        return [result.offsets, *(result.flat(field) for field in result.fields)]
    if isinstance(result, dict):
        return [part for value in result.values() for part in flat(value)]
    if isinstance(result, tuple):
        return [part for value in result for part in flat(value)]
    return [result if isinstance(result, str) or result is None else np.asarray(result)]


def same(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "biuf":
        return bool(np.all(a == b))
    return np.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True)


def test_every_public_function_is_in_the_table() -> None:
    named = set(CALLS) | {name.rpartition(".")[2] for name in CALLS} | set(NO_ARRAYS)
    missing = []
    for name in gpu4d.__all__:
        found = getattr(gpu4d, name)
        if not inspect.ismodule(found):
            missing += [name] if callable(found) and name not in named else []
        elif name not in OTHER_ROOMS:
            for inner in getattr(found, "__all__", ()):
                known = inner in named or f"{name}.{inner}" in named or inner in RESULTS or inner in gpu4d.__all__
                protocol = getattr(getattr(found, inner), "_is_protocol", False)
                missing += [] if known or protocol or inspect.ismodule(getattr(found, inner)) else [f"{name}.{inner}"]
    assert not missing, " ".join(missing)
