"""What the page for users of py4DSTEM says in its tables is true."""

import inspect

import numpy as np
import pytest
from migration_rows import assert_same_rows, rows_of

import gpu4d
from gpu4d.interop import py4dstem as ours

ROWS = rows_of("from-py4dstem")
PATTERNS = np.random.default_rng(0).poisson(5, (4, 5, 16, 18)).astype(np.uint16)


def default_of(function, name):
    return inspect.signature(function).parameters[name].default


def part_is_known(name):
    def check(library, cells):
        acceleration = ours.accelerate(name)
        acceleration.undo()
        assert acceleration.parts == (name,)
        assert (name in inspect.signature(ours.accelerate).parameters["parts"].default) == ("only if it is asked for" not in cells[0])

    return check


def both_ways_exist(library, cells):
    assert all(callable(getattr(ours, name.strip(" `"))) for name in cells[0].split(","))


def patterns_stay_in_the_file(library, cells):
    assert callable(library.import_file) and callable(gpu4d.open)


def mean_is_equal(library, cells):
    np.testing.assert_allclose(
        library.DataCube(PATTERNS).get_dp_mean().data, gpu4d.sweep(gpu4d.DataCube(PATTERNS), gpu4d.MeanPattern()).data
    )


def maximum_is_equal(library, cells):
    found = gpu4d.sweep(gpu4d.DataCube(PATTERNS), gpu4d.MaxPattern()).data
    np.testing.assert_array_equal(library.DataCube(PATTERNS).get_dp_max().data, found)


def binning_is_equal(library, cells):
    cube = library.DataCube(PATTERNS.copy())
    cube.bin_Q(2)
    np.testing.assert_array_equal(cube.data, np.asarray(gpu4d.DataCube(PATTERNS).bin(detector=2)))


def image_is_equal(mode, geometry, detector):
    def check(library, cells):
        theirs = library.DataCube(PATTERNS).get_virtual_image(mode, ((8, 9), geometry), verbose=False)
        np.testing.assert_array_equal(theirs.data, gpu4d.virtual_image(gpu4d.DataCube(PATTERNS), detector, origin=(8, 9)).data)

    return check


def kernel_is_equal(kind, theirs, mine):
    def check(library, cells):
        image = gpu4d.probe.synthetic((48, 40), 5.0)
        kernel = library.Probe(image).get_kernel(mode=kind, origin=(24, 20), **theirs)
        made = gpu4d.probe.template(image, kind, center=(24.0, 20.0), radius=5.0, background=False, **mine)
        np.testing.assert_allclose(made.kernel, kernel, atol=1e-15)

    return check


def defaults_are(theirs, mine):
    """Defaults of both searches, as (option, value). An absent option of ours is None."""

    def check(library, cells):
        assert default_of(library.DataCube.find_Bragg_disks, theirs[0]) == theirs[1]
        if mine is not None:
            assert default_of(gpu4d.find_bragg_disks, mine[0]) == mine[1]

    return check


def spacing_follows_the_template(library, cells):
    defaults_are(("minPeakSpacing", 60), ("min_spacing", None))(library, cells)
    probe = gpu4d.probe.template(gpu4d.probe.synthetic((48, 48), 6.0))
    assert gpu4d.BraggDisks(probe).limits.min_spacing == pytest.approx(float(cells[1].split()[0]) * probe.radius)


def edge_follows_the_template(library, cells):
    defaults_are(("edgeBoundary", 20), ("edge", None))(library, cells)
    probe = gpu4d.probe.template(gpu4d.probe.synthetic((48, 48), 5.6))
    assert gpu4d.BraggDisks(probe).limits.edge == int(np.ceil(probe.radius))


def powers_differ(library, cells):
    defaults_are(("corrPower", 1), ("power", 0.85))(library, cells)
    assert default_of(gpu4d.find_bragg_disks, "refine_power") == 1.0


def significance_instead_of_smoothing(library, cells):
    defaults_are(("sigma_cc", 2), ("min_significance", 5.0))(library, cells)


def intensities_are_heights(library, cells):
    """On the refined map a disk is as high as the correlation with its kernel, on the smoothed one lower."""
    probe = gpu4d.probe.synthetic((64, 64), 5.0)
    kernel = library.Probe(probe).get_kernel(mode="sigmoid", origin=(32, 32), radii=(5.0, 10.0))
    theirs = library.DataCube((100 * probe)[None, None]).find_Bragg_disks(template=kernel, minPeakSpacing=10, edgeBoundary=5)
    mine = gpu4d.find_bragg_disks((100 * probe)[None], probe)
    heights = [(100 * probe * np.roll(k, (32, 32), axis=(0, 1))).sum() for k in (gpu4d.probe.template(probe).kernel, kernel)]
    assert mine.flat("intensity")[0] == pytest.approx(heights[0], rel=0.02)
    assert 0.5 * heights[1] < theirs.raw[0, 0].data["intensity"][0] < 0.95 * heights[1]


def turned(set_theirs, mine, key):
    """A vector that both calibrate."""

    def check(library, cells):
        disks = gpu4d.PointListArray(np.array([0, 1]), {"qx": np.array([3.0]), "qy": np.array([5.0]), "intensity": np.ones(1)}, (1, 1))
        theirs = ours.to_braggvectors(disks, (16, 16))
        theirs.calibration.set_origin((0, 0))
        theirs.calibration.set_QR_rotation(0.0)
        set_theirs(theirs.calibration)
        theirs.setcal(center=True, ellipse=key == "ellipse", pixel=False, rotate=key != "ellipse")
        known = gpu4d.Calibration(**mine)
        moved = np.array([[3.0, 5.0]])
        if known.ellipse is not None:
            moved = moved @ gpu4d.data.ellipse.ellipse_matrix(known.ellipse).T
        expected = gpu4d.calibrate.to_scan_axes(moved, known.rotation or 0.0, bool(known.transpose))[0]
        found = theirs.cal[0, 0].data
        np.testing.assert_allclose((found["qx"][0], found["qy"][0]), expected, atol=1e-12)

    return check


def energy_is_in_volts(library, cells):
    assert gpu4d.Calibration(energy=80e3).wavelength == pytest.approx(library.process.utils.electron_wavelength_angstrom(80e3), rel=1e-6)


def semiangle_is_in_mrad(library, cells):
    theirs = ours.to_calibration(gpu4d.Calibration(semiangle=2.5))
    assert theirs.get_convergence_semiangle_mrad() == 2.5


def strained(library):
    """The strain of a lattice that is longer along x and turned: theirs from vectors, ours from the same."""
    turn, stretch = 0.01, np.diag([1 / 1.02, 1.0])
    g1, g2 = np.array([20.0, 1.0]), np.array([-2.0, 19.0])
    beta = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ stretch
    values = np.array([0, 0, *(beta @ g1), *(beta @ g2), 0, 1], float)[:, None, None]
    labels = ["x0", "y0", "g1x", "g1y", "g2x", "g2y", "error", "mask"]
    fitted = library.data.RealSlice(data=values, slicelabels=labels, name="g1g2_map")
    theirs = library.process.strain.latticevectors.get_strain_from_reference_g1g2(fitted, g1, g2)
    orders = np.array([(h, k) for h in (-1, 0, 1) for k in (-1, 0, 1)])
    q = orders @ np.stack([beta @ g1, beta @ g2]) + 40
    disks = gpu4d.PointListArray(np.array([0, 9]), {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(9)}, (1, 1))
    fit = gpu4d.fit_lattice(disks, np.stack([g1, g2]), origin=(40.0, 40.0))
    return theirs, gpu4d.strain_map(fit, lattice=np.stack([g1, g2]), definition="first_order"), turn


def strain_is_equal(library, cells):
    theirs, mine, _ = strained(library)
    for label, field in (("e_xx", "exx"), ("e_yy", "eyy"), ("e_xy", "exy")):
        np.testing.assert_allclose(getattr(mine, field).data, theirs.get_slice(label).data, atol=1e-9)
    assert default_of(gpu4d.strain_map, "definition") == "finite"


def theta_has_one_sign(library, cells):
    theirs, mine, turn = strained(library)
    np.testing.assert_allclose(mine.theta.data, theirs.get_slice("theta").data, atol=1e-9)
    assert mine.rotation.data[0, 0] == pytest.approx(-mine.theta.data[0, 0]) and abs(mine.rotation.data[0, 0] - turn) < 5e-4


def lattice_fits_are_equal(library, cells):
    rng = np.random.default_rng(5)
    orders = np.array([(h, k) for h in (-1, 0, 1) for k in (-1, 0, 1)])
    basis = np.array([[12.0, 1.0], [-1.0, 11.0]])
    q, weight = orders @ basis + 40 + rng.normal(0, 0.1, (9, 2)), rng.uniform(1, 30, 9)
    lists = library.PointListArray(dtype=[(n, float) for n in ("qx", "qy", "intensity")] + [("g1_ind", int), ("g2_ind", int)], shape=(1, 1))
    rows = np.zeros(9, lists.dtype)
    for name, column in zip(lists.dtype.names, (q[:, 0], q[:, 1], weight, orders[:, 0], orders[:, 1])):
        rows[name] = column
    lists[0, 0].add(rows)
    theirs = library.process.strain.latticevectors.fit_lattice_vectors_all_DPs(lists)
    disks = gpu4d.PointListArray(np.array([0, 9]), {"qx": q[:, 0], "qy": q[:, 1], "intensity": weight}, (1, 1))
    fit = gpu4d.fit_lattice(disks, basis, origin=(40.0, 40.0), weights="py4dstem", outliers=None)
    np.testing.assert_allclose(np.r_[fit.g1[0, 0], fit.g2[0, 0]], theirs.data[2:6, 0, 0], atol=1e-9)
    assert default_of(gpu4d.fit_lattice, "weights") == "sqrt"


def phase_is_over_two_pi(library, cells):
    """Both from the same centre of mass."""
    y, x = np.mgrid[:16, :16] / 4
    phase = np.sin(x) * np.cos(y)
    q = np.stack(np.gradient(phase, 2.0), -1) / (2 * np.pi) / 0.05  # detector pixels of 0.05 1/Å, steps of 2 Å
    cube = library.DataCube(np.ones((16, 16, 4, 4), np.float32))
    ours.to_calibration(gpu4d.Calibration(q_pixel=0.05, r_pixel=2.0), cube.calibration)
    zero = np.zeros((16, 16))
    theirs = library.process.phase.DPC(datacube=cube, energy=80e3, verbose=False).preprocess(
        force_com_rotation=0, force_com_transpose=False, force_com_measured=[q[..., 0], q[..., 1]], force_com_shifts=[zero, zero],
        plot_center_of_mass=False, plot_rotation=False,
    )  # fmt: skip
    theirs.reconstruct(max_iter=400, progress_bar=False)
    found, true = (v[2:-2, 2:-2] - v[2:-2, 2:-2].mean() for v in (theirs.object_phase, phase))
    assert (found * true).sum() / (true * true).sum() * 2 * np.pi == pytest.approx(1, abs=0.05)
    mine = gpu4d.dpc(q, q_pixel=0.05, r_pixel=2.0, rotation=0.0, transpose=False, descan=None).phase.data[2:-2, 2:-2]
    assert ((mine - mine.mean()) * true).sum() / (true * true).sum() == pytest.approx(1, abs=0.05)


CHECKS = {
    **{f'`"{name}"`': part_is_known(name) for name in ("disks", "images", "phase", "lattice", "dpc")},
    **{f"`{name}`": both_ways_exist for name in ("DataCube", "Calibration", "Probe", "BraggVectors", "StrainMap")},
    "`py4DSTEM.import_file(path)`": patterns_stay_in_the_file,
    "`datacube.get_dp_mean()`": mean_is_equal,
    "`datacube.get_dp_max()`": maximum_is_equal,
    "`datacube.bin_Q(2)`": binning_is_equal,
    '`get_virtual_image("circle", ((qx, qy), r))`': image_is_equal("circle", 4, gpu4d.detectors.disk(4)),
    '`get_virtual_image("annulus", ((qx, qy), (ri, ro)))`': image_is_equal("annulus", (2, 6), gpu4d.detectors.annulus(2, 6)),
    '`probe.get_kernel("sigmoid", radii=(r1, r2))`': kernel_is_equal("sigmoid", {"radii": (5.0, 10.0)}, {"trench": (5.0, 10.0)}),
    '`probe.get_kernel("flat")`': kernel_is_equal("flat", {}, {}),
    "`minPeakSpacing=60`": spacing_follows_the_template,
    "`edgeBoundary=20`": edge_follows_the_template,
    "`maxNumPeaks=70`": defaults_are(("maxNumPeaks", 70), ("max_peaks", 70)),
    "`corrPower=1`": powers_differ,
    "`sigma_cc=2`": significance_instead_of_smoothing,
    "`minRelativeIntensity=0.005`": defaults_are(("minRelativeIntensity", 0.005), ("min_relative_intensity", 0.0)),
    '`subpixel="multicorr"`': defaults_are(("subpixel", "multicorr"), ("refine", "auto")),
    "`intensity` of a vector": intensities_are_heights,
    "`calibration.set_QR_flip(True)`": turned(lambda c: c.set_QR_flip(True), {"transpose": True, "rotation": 0.0}, "rotate"),
    "`calibration.set_QR_rotation(theta)`": turned(lambda c: c.set_QR_rotation(0.7), {"rotation": 0.7}, "rotate"),
    "`calibration.set_ellipse((a, b, theta))`": turned(lambda c: c.set_ellipse((1.1, 1.0, 0.3)), {"ellipse": (1.1, 1.0, 0.3)}, "ellipse"),
    "`energy=80e3` of DPC": energy_is_in_volts,
    "`convergence_semiangle_mrad`": semiangle_is_in_mrad,
    "`get_strain()`": strain_is_equal,
    "`theta` of a strain map": theta_has_one_sign,
    "weights of the lattice fit: rows × intensity": lattice_fits_are_equal,
    "`dpc.object_phase`": phase_is_over_two_pi,
}


def test_every_row_has_a_check():
    assert_same_rows(ROWS, CHECKS)


@pytest.mark.parametrize("row", CHECKS)
def test_row(row, need):
    library = need("py4DSTEM")
    need("matplotlib").use("Agg")
    CHECKS[row](library, ROWS[row])
