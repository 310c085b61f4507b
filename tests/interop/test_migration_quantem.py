"""Every row of the page for users of quantem, asserted with quantem itself."""

import importlib
import inspect

import numpy as np
import pytest
from interop_scans import our_strain, strained
from migration_rows import assert_same_rows, python_of, rows_of

import gpu4d
from gpu4d import physics
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.interop.quantem import from_quantem, to_quantem
from gpu4d.probe.wavefunction import chi

ROWS = rows_of("from-quantem")


def _of(module, name):
    return getattr(importlib.import_module(f"quantem.{module}"), name)


def _dataset(**options):
    array = np.random.default_rng(0).poisson(5, (3, 4, 24, 20)).astype("u2")
    return array, _of("core.datastructures", "Dataset4dstem").from_array(array, **options)


def _default(name):
    return inspect.signature(_of("diffraction.bragg_vectors", "BraggVectors").detect_disks).parameters[name].default


def _ours(name):
    return inspect.signature(gpu4d.find_bragg_disks).parameters[name].default


def axes(cells):
    array, dataset = _dataset()
    np.testing.assert_array_equal(np.asarray(from_quantem(dataset)), array)
    assert from_quantem(dataset.get_dp_mean(attach=False)).shape == (24, 20)


def units(cells):
    _, dataset = _dataset(sampling=(2, 2, 0.2, 0.2), units=("nm", "nm", "1/nm", "1/nm"))
    known = from_quantem(dataset).calibration
    assert (known.r_pixel, known.q_pixel) == (pytest.approx(20.0), pytest.approx(0.02))


def origin(cells):
    _, dataset = _dataset(sampling=(1, 1, 0.02, 0.02), units=("A", "A", "A^-1", "A^-1"), origin=(0, 0, -0.22, -0.18))
    np.testing.assert_allclose(from_quantem(dataset).calibration.origin, (11, 9))
    assert from_quantem(_dataset()[1]).calibration.origin is None


def rotation(cells):
    matrix = _of("core.datastructures.dataset4dstem", "q_to_r_matrix")
    for degrees, transpose in ((30.0, False), (-70.0, True)):
        np.testing.assert_allclose(matrix(degrees, transpose), scan_matrix(np.radians(degrees), transpose), atol=1e-15)
        _, dataset = _dataset()
        dataset.metadata.update({"q_to_r_rotation_ccw_deg": degrees, "q_transpose": transpose})
        known = from_quantem(dataset).calibration
        assert (known.rotation, known.transpose) == (pytest.approx(np.radians(degrees)), transpose)


def means(cells):
    array, dataset = _dataset()
    out = gpu4d.sweep(gpu4d.DataCube(array), {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()}, progress=False)
    np.testing.assert_allclose(dataset.get_dp_mean(attach=False).array, out["mean"].data, rtol=1e-6)
    np.testing.assert_array_equal(dataset.get_dp_max(attach=False).array, out["max"].data)


def circles(cells):
    array, dataset = _dataset()
    distance = np.hypot(*(np.indices((24, 20)) - np.array([12, 10])[:, None, None]))
    theirs = dataset.get_virtual_image(mode="circle", geometry=((12, 10), 5), attach=False).array
    np.testing.assert_allclose(theirs, (array * (distance <= 5)).sum((2, 3)))
    ours = gpu4d.virtual_image(gpu4d.DataCube(array), gpu4d.detectors.disk(5, (12, 10)), progress=False)
    np.testing.assert_array_equal(ours.data, (array * (distance < 5)).sum((2, 3)))


def center_of_mass(cells):
    cube = gpu4d.simulate.phase_object_scan((5, 6), (32, 32), r_pixel=0.5).cube
    cube.calibration.set(origin=(16, 16))
    raster = _of("diffractive_imaging.dataset_models", "PtychographyDatasetRaster").from_dataset4dstem(to_quantem(cube), verbose=0)
    raster.preprocess(com_fit_function="constant", force_com_rotation=0.0, force_com_transpose=False, plot_rotation=False, plot_com=False)
    np.testing.assert_allclose(np.moveaxis(raster.com_measured, 0, -1), gpu4d.center_of_mass(np.asarray(cube)), atol=1e-4)


def power(cells):
    assert _default("corr_power") == 1.0 and _ours("power") == 0.85


def thresholds(cells):
    names = inspect.signature(_of("diffraction.bragg_vectors", "BraggVectors").detect_disks).parameters
    assert _default("min_abs_intensity") == 0.0 and not [name for name in names if "rel" in name]
    assert _ours("min_significance") == 5.0 and _ours("min_relative_intensity") == 0.0 and _ours("min_absolute_intensity") == 0.0


def spacing(cells):
    assert (_default("min_spacing"), _default("edge_boundary")) == (0.0, 1) and (_ours("min_spacing"), _ours("edge")) == (None, None)


def number(cells):
    assert _default("max_num_peaks") == 1000 and _ours("max_peaks") == 70


def subpixel(cells):
    assert (_default("subpixel"), _default("upsample_factor")) == ("upsample", 16) and (_ours("refine"), _ours("upsample")) == ("auto", 16)


def fields(cells):
    made = _of("core.datastructures", "Vector").from_data([[np.array([[3.0, 7.0, 9.0]])]], fields=("q_row", "q_col", "intensity"))
    found = from_quantem(made)
    assert (found[0, 0].qx[0], found[0, 0].qy[0]) == (3.0, 7.0)


def origins(cells):
    simulated = gpu4d.simulate.bragg_scan((4, 5), (64, 64), radius=4.0, spacing=14.0, descan=2.0, dose=300.0)
    disks = gpu4d.find_bragg_disks(simulated.cube, gpu4d.probe.synthetic((64, 64), 4.0), refine="correlation", progress=False)
    workflow = _of("diffraction.bragg_vectors", "BraggVectors").from_dataset(to_quantem(simulated.cube))
    workflow.peaks = to_quantem(disks)
    ours = gpu4d.calibrate.origin(disks)
    theirs = workflow.measure_origins(center=tuple(simulated.truth["origin"].mean((0, 1))))
    np.testing.assert_allclose(theirs, ours.fitted, atol=0.1)


def strain(cells):
    _, basis, g = strained()
    _, found = our_strain(basis, g, definition="infinitesimal")
    made = _of("diffraction.strain", "StrainMap")(g[..., 0, :], g[..., 1, :], g.shape[:2], False, g1_ref=basis[0], g2_ref=basis[1])
    for theirs, ours in (("e_rr", "exx"), ("e_cc", "eyy"), ("e_rc", "exy")):
        np.testing.assert_allclose(getattr(made, theirs).array, getattr(found, ours).data, atol=1e-9)
    assert inspect.signature(gpu4d.strain_map).parameters["definition"].default == "finite"


def phi(cells):
    _, basis, g = strained()
    _, found = our_strain(basis, g, definition="infinitesimal")
    np.testing.assert_allclose(to_quantem(found).phi.array, found.rotation.data, atol=1e-12)
    np.testing.assert_allclose(found.rotation.data, -found.theta.data, atol=1e-15)
    assert np.abs(found.rotation.data).max() > 1e-3


def metric(cells):
    method = _of("diffraction.bragg_vectors", "BraggVectors").calculate_strain_map
    assert inspect.signature(method).parameters["calculation_metric"].default == "median"
    assert inspect.signature(gpu4d.strain_map).parameters["reference"].default == "median"


GRID = {"gpts": (32, 30), "sampling": (0.4, 0.5), "energy": 80e3, "semiangle_cutoff": 25.0, "soft_edges": False}


def _waves(theirs, ours):
    wave = _of("diffractive_imaging.complex_probe", "fourier_space_probe")(**GRID, aberration_coefs=theirs).numpy()
    kx, ky = np.fft.fftfreq(32, 0.4)[:, None], np.fft.fftfreq(30, 0.5)
    lit = np.abs(wave) > 1e-6
    return np.abs(np.angle(wave * np.exp(1j * chi(kx, ky, ours, 80e3))))[lit].max()


def aberrations(cells):
    for given in ({"C10": -90.0}, {"C12": 15.0, "phi12": 0.4}, {"C21": 300.0, "phi21": -1.1}, {"C30": 2e4}):
        assert _waves(given, given) < 1e-4


def defocus(cells):
    standard = _of("diffractive_imaging.complex_probe", "standardize_aberration_coefs")
    assert float(standard({"defocus": 90.0})["C10"]) == -90.0
    assert _waves(standard({"defocus": 90.0}), {"defocus": 90.0}) < 1e-4
    assert _waves({"defocus": 90.0}, {}) < 1e-4, "ignored"


def beam(cells):
    assert _of("core.utils.utils", "electron_wavelength_angstrom")(200e3) == pytest.approx(physics.wavelength(200e3), rel=1e-6)
    wave = _of("diffractive_imaging.complex_probe", "fourier_space_probe")(**GRID).numpy()
    kx, ky = np.fft.fftfreq(32, 0.4)[:, None], np.fft.fftfreq(30, 0.5)
    inside = np.hypot(kx, ky) <= physics.angle_to_frequency(25.0, 80e3)
    np.testing.assert_array_equal(np.abs(wave) > 1e-6, inside)


CHECKS = dict(
    zip(
        (
            "`Dataset4dstem.from_array(array)`",
            "`dataset.sampling`, `dataset.units`",
            "`dataset.origin`",
            '`metadata["q_to_r_rotation_ccw_deg"]`, `metadata["q_transpose"]`',
            "`dataset.get_dp_mean()`, `dataset.get_dp_max()`",
            '`dataset.get_virtual_image(mode="circle", geometry=(c, r))`',
            "`com_measured`",
            "`detect_disks(corr_power=1.0)`",
            "`detect_disks(min_abs_intensity=0.0)`",
            "`detect_disks(min_spacing=0.0, edge_boundary=1)`",
            "`detect_disks(max_num_peaks=1000)`",
            '`detect_disks(subpixel="upsample", upsample_factor=16)`',
            "`Vector` fields `q_row`, `q_col`",
            "`measure_origins()`",
            "`calculate_strain_map()`",
            "`StrainMap.phi`",
            '`calculation_metric="median"`',
            '`aberration_coefs={"C10": …}`',
            "`defocus`",
            "`energy`, `semiangle_cutoff`",
        ),
        (
            axes,
            units,
            origin,
            rotation,
            means,
            circles,
            center_of_mass,
            power,
            thresholds,
            spacing,
            number,
            subpixel,
            fields,
            origins,
            strain,
            phi,
            metric,
            aberrations,
            defocus,
            beam,
        ),
        strict=True,
    )
)


def test_every_row_has_a_check():
    assert_same_rows(ROWS, CHECKS)


@pytest.mark.parametrize("row", CHECKS)
def test_row(row, need):
    need("quantem")
    CHECKS[row](ROWS[row])


def test_the_python_of_the_page_runs(need, tmp_path, monkeypatch):
    need("quantem")
    monkeypatch.chdir(tmp_path)
    simulated = gpu4d.simulate.bragg_scan((3, 4), (64, 64), radius=4.0, spacing=14.0).cube
    gpu4d.save("scan.h5", {"cube": simulated})
    names = {"dataset": to_quantem(simulated), "probe": gpu4d.probe.synthetic((64, 64), 4.0)}
    exec(python_of("from-quantem"), names)
    assert names["vector"].shape == (3, 4) and names["dataset"].shape == (3, 4, 64, 64)
