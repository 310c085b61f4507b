"""py4DSTEM on our engine gives its own numbers, in its own types and order, and gets its functions back."""

import importlib.util
import logging
import threading

import h5py
import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.interop import py4dstem as ours
from gpu4d.interop.py4dstem._accelerate import USUAL

RULES = {"sigma_cc": 2, "upsample_factor": 16, "minRelativeIntensity": 0.02, "minPeakSpacing": 12, "edgeBoundary": 6, "maxNumPeaks": 70}
SCAN = (6, 5)


@pytest.fixture(scope="module")
def library(need):
    found = need("py4DSTEM")
    need("matplotlib").use("Agg")
    yield found
    need("matplotlib.pyplot").close("all")


@pytest.fixture(scope="module")
def bragg(library, shared_data):
    """A few patterns of the shared Bragg set, their truth, and the kernel that py4DSTEM makes of its probe."""
    spec = importlib.util.spec_from_file_location("make_bragg_data", shared_data.parent / "prototypes" / "make_bragg_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patterns, probe, truth = module.make_bragg(np.random.default_rng(1), nr=6)
    kernel = library.Probe(probe).get_kernel(mode="sigmoid", radii=(6.0, 12.0))
    return patterns[:, :5], kernel, truth["origin"][:, :5]


def assert_same_points(theirs, found, within):
    """The same disks in the same order."""
    theirs, found = theirs.data, found.data
    assert found.dtype == theirs.dtype and len(found) == len(theirs)
    for name in theirs.dtype.names:
        np.testing.assert_allclose(found[name], theirs[name], atol=within)


def assert_same_vectors(theirs, found, within=1e-3):
    assert type(found) is type(theirs) and found.name == theirs.name and found.Rshape == theirs.Rshape
    for position in np.ndindex(*theirs.Rshape):
        assert_same_points(theirs.raw[position], found.raw[position], within)


@pytest.mark.parametrize("subpixel", ["pixel", "poly", "multicorr"])
@pytest.mark.parametrize("power", [1.0, 0.85])
def test_disks_of_the_bragg_set(library, bragg, subpixel, power):
    patterns, kernel, _ = bragg
    theirs, mine = library.DataCube(patterns), library.DataCube(patterns)
    options = RULES | {"subpixel": subpixel, "corrPower": power}
    expected = theirs.find_Bragg_disks(template=kernel, **options)
    with ours.accelerate("disks"):
        found = mine.find_Bragg_disks(template=kernel, **options)
    assert min(len(expected.raw[p].data) for p in np.ndindex(*SCAN)) > 10
    assert_same_vectors(expected, found)
    assert found.calibration is mine.calibration and list(mine.treekeys) == ["braggvectors"]
    assert found.metadata["gen_params"].keys == expected.metadata["gen_params"].keys


@pytest.mark.parametrize("name", ["poisson_1e5", "poisson_5e3"])
def test_disks_and_strain_of_gold(library, shared_data, name):
    """In the axes of the file; the vectors that are fitted follow the disks."""
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        patterns, probe = file[name][6:18:3, 6:18:3], file["truth/vacuum_probe"][()]
    kernel = library.Probe(probe).get_kernel(mode="sigmoid", radii=(6.0, 12.0))
    options = RULES | {"minPeakSpacing": 8, "minRelativeIntensity": 0.005}

    def strained():
        vectors = library.DataCube(patterns).find_Bragg_disks(template=kernel, **options)
        vectors.calibration.set_origin((64.0, 64.0))
        vectors.setcal(center=True, ellipse=False, pixel=False, rotate=False)
        return vectors, strain_of(library, vectors)

    expected, strain = strained()
    with ours.accelerate():
        found, same = strained()
    assert_same_vectors(expected, found)
    for label in ("e_xx", "e_yy", "e_xy", "theta", "mask"):
        np.testing.assert_allclose(same.get_slice(label).data, strain.get_slice(label).data, atol=1e-4)


def strain_of(library, vectors):
    """py4DSTEM's own way from Bragg vectors to strain."""
    found = library.StrainMap(braggvectors=vectors)
    found.choose_basis_vectors(
        minSpacing=6, minAbsoluteIntensity=0.01, maxNumPeaks=60, edgeBoundary=4, vis_params={"vmin": 0, "vmax": 0.99}
    )
    found.set_max_peak_spacing(max_peak_spacing=3)
    found.fit_basis_vectors()
    found.get_strain()
    return found


def test_other_data_and_smoothed_patterns(library, bragg):
    """Positions, masks, arrays; `sigma` is another name of `sigma_cc`; `sigma_dp` keeps whole numbers whole."""
    patterns, kernel, _ = bragg
    cube = library.DataCube(patterns)
    chosen = np.zeros(SCAN, bool)
    chosen[1, 2] = chosen[4, 0] = True
    function = lambda *args, **options: library.braggvectors.diskdetection.find_Bragg_disks(*args, template=kernel, **RULES, **options)  # noqa: E731
    other = {name: value for name, value in RULES.items() if name != "sigma_cc"}
    calls = [
        lambda: [cube.find_Bragg_disks(template=kernel, data=(2, 3), **RULES)],
        lambda: cube.find_Bragg_disks(template=kernel, data=(np.array([0, 1]), np.array([3, 2])), **RULES),
        lambda: cube.find_Bragg_disks(template=kernel, data=chosen, **RULES),
        lambda: [cube.find_Bragg_disks(template=kernel, data=(0, 0), sigma=1, **other)],
        lambda: [cube.find_Bragg_disks(template=kernel, data=(0, 0), sigma_dp=1.3, **RULES)],
        lambda: [function(patterns[0, 1])],
        lambda: function(patterns[1]),
    ]
    for call in calls:
        expected = call()
        with ours.accelerate():
            found = call()
        assert len(found) == len(expected) > 0
        for a, b in zip(expected, found):
            assert type(a) is type(b) and a.name == b.name
            assert_same_points(a, b, 1e-3)


def test_virtual_images_are_equal(library, bragg):
    patterns, _, origin = bragg
    weights = np.random.default_rng(0).random(patterns.shape[2:])
    calls = [
        ("annular", ((64, 64), (20, 50)), {}),
        ("circle", ((0, 0), 9), {"centered": True}),
        ("circle", ((0, 0), 9), {"centered": True, "shift_center": True}),
        ("rectangle", (10, 60, 20, 90), {}),
        ("point", (64, 63), {}),
        ("mask", weights, {}),
    ]
    for number, (mode, geometry, options) in enumerate(calls):
        made = []
        for fast in (False, True):
            cube = library.DataCube(patterns)
            cube.calibration.set_origin((origin[..., 0], origin[..., 1]))
            with ours.accelerate("images" if fast else "phase"):
                made.append(cube.get_virtual_image(mode, geometry, verbose=False, name=f"image {number}", **options))
            assert f"image {number}" in cube.treekeys
        expected, found = made
        assert type(found) is type(expected) and found.data.dtype == expected.data.dtype
        assert found.metadata["gen_params"].keys == expected.metadata["gen_params"].keys
        if mode == "mask":
            np.testing.assert_allclose(found.data, expected.data, rtol=1e-12)
        else:
            np.testing.assert_array_equal(found.data, expected.data)


def test_centre_of_mass_and_phase(library):
    """The centre of mass of DPC is equal; its phase is the one that very many iterations approach."""
    y, x = np.mgrid[:20, :24] / 4
    potential = np.sin(x) * np.cos(1.3 * y) + 0.4 * np.sin(2 * x + y)
    dx, dy = np.gradient(potential)
    pattern = lambda i, j: np.exp(-((np.arange(24)[:, None] - 11 - 4 * dx[i, j]) ** 2 + (np.arange(22) - 10 - 4 * dy[i, j]) ** 2) / 12)  # noqa: E731
    cube = library.DataCube((1000 * np.array([[pattern(i, j) for j in range(24)] for i in range(20)])).astype(np.uint16))
    for name, size, unit in (("R", 2.0, "A"), ("Q", 0.05, "A^-1")):
        getattr(cube.calibration, f"set_{name}_pixel_size")(size)
        getattr(cube.calibration, f"set_{name}_pixel_units")(unit)

    def prepared():
        dpc = library.process.phase.DPC(datacube=cube, energy=80e3, verbose=False)
        return dpc.preprocess(plot_center_of_mass=False, plot_rotation=False, force_com_rotation=0, force_com_transpose=False)

    expected = prepared()
    with ours.accelerate():
        found = prepared()
    for name in ("_com_measured_x", "_com_measured_y", "_com_x", "_com_y"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-5)
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    expected.reconstruct(max_iter=6000, stopping_criterion=0.0, backtrack=False, progress_bar=False)
    with ours.accelerate("dpc"):
        assert found.reconstruct(progress_bar=False) is found
    phase, goal = (d.object_phase - d.object_phase.mean() for d in (found, expected))
    assert np.linalg.norm(phase - goal) < 0.03 * np.linalg.norm(goal)
    assert len(found.error_iterations) == 2 and found.error <= expected.error * 1.05


def test_lattice_fits_of_any_vectors(library):
    """Indexing and fits of scattered vectors with elliptical and turned calibrations, and positions with too few of them."""
    rng = np.random.default_rng(3)
    basis = np.array([[20.0, 1.0], [-2.0, 19.0]])
    orders = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)])
    lists = library.PointListArray(dtype=[("qx", float), ("qy", float), ("intensity", float)], shape=(4, 3))
    for number, position in enumerate(np.ndindex(4, 3)):
        some = rng.permutation(25)[: (4 if number == 5 else 22)]
        rows = np.zeros(len(some), lists.dtype)
        q = orders[some] @ basis @ (np.eye(2) + rng.normal(0, 0.01, (2, 2))) + (63, 64) + rng.normal(0, 0.3, (len(some), 2))
        rows["qx"], rows["qy"], rows["intensity"] = q[:, 0], q[:, 1], rng.uniform(10, 400, len(some))
        lists[position].add(rows)
    strains = []
    for fast in (False, True):
        vectors = library.BraggVectors((4, 3), (128, 128))
        vectors.set_raw_vectors(lists)
        calibration = vectors.calibration
        calibration.set_origin((63.2, 63.9))
        calibration.set_ellipse((1.04, 1.0, 0.3))
        calibration.set_Q_pixel_size(0.02)
        calibration.set_Q_pixel_units("A^-1")
        calibration.set_QR_rotflip((0.4, True))
        vectors.setcal()
        with ours.accelerate("lattice" if fast else "images"):
            strains.append(strain_of(library, vectors))
    expected, found = strains
    for position in np.ndindex(4, 3):
        assert_same_points(expected.bragg_vectors_indexed[position], found.bragg_vectors_indexed[position], 1e-9)
    np.testing.assert_allclose(found.g1g2_map.data, expected.g1g2_map.data, atol=1e-9)
    assert list(found.g1g2_map.slicelabels) == list(expected.g1g2_map.slicelabels)
    assert found.g1g2_map.get_slice("mask").data.sum() == 11
    np.testing.assert_array_equal(found.mask, expected.mask)
    for label in ("e_xx", "e_yy", "e_xy", "theta"):  # relative to the mean over the positions that have a fit
        np.testing.assert_allclose(found.get_slice(label).data, expected.get_slice(label).data, atol=1e-9)


def test_what_py4dstem_refuses_is_refused_in_its_words(library, bragg):
    """Wrong numbers, places, masks and calibrations; and a mask of complex weights, which only py4DSTEM takes."""
    patterns, kernel, _ = bragg
    cube, options = library.DataCube(patterns), RULES | {"template": kernel}
    dpc = library.process.phase.DPC(datacube=cube, energy=80e3, verbose=False)
    weights = np.full(patterns.shape[2:], 1j)
    calls = [
        lambda: cube.find_Bragg_disks(**options | {"edgeBoundary": 6.5}),
        lambda: cube.find_Bragg_disks(**options | {"minPeakSpacing": None}),
        lambda: cube.find_Bragg_disks(**options | {"upsample_factor": 2}),
        lambda: cube.find_Bragg_disks(data=(9, 9), **options),
        lambda: cube.get_virtual_image("circle", ((0, 0), 9), shift_center=True, verbose=False),
        lambda: dpc.preprocess(dp_mask=np.ones((3, 128)), plot_center_of_mass=False, plot_rotation=False),
    ]
    for call in calls:
        said = []
        for parts in ("lattice", USUAL):
            with ours.accelerate(parts), pytest.raises(Exception) as error:  # py4DSTEM raises many kinds
                call()
            said.append((type(error.value), str(error.value)))
        assert said[0] == said[1]
    with ours.accelerate():
        image = cube.get_virtual_image("mask", weights, verbose=False)
        assert len(cube.find_Bragg_disks(data=(0, 0), **options | {"maxNumPeaks": 0}).data) == 0
    np.testing.assert_allclose(image.data, 1j * patterns.sum((2, 3)))


def test_functions_come_back_after_errors_and_nested_use(library, bragg, caplog):
    from py4DSTEM.braggvectors import diskdetection

    patterns, kernel, _ = bragg
    own, method = diskdetection.find_Bragg_disks, library.DataCube.get_virtual_image
    with pytest.raises(ZeroDivisionError), ours.accelerate():
        from py4DSTEM.braggvectors.diskdetection import find_Bragg_disks as kept

        assert kept is not own and library.DataCube.get_virtual_image is not method
        raise ZeroDivisionError
    assert diskdetection.find_Bragg_disks is own and library.DataCube.get_virtual_image is method
    with caplog.at_level(logging.INFO, "gpu4d"):
        assert len(kept(patterns[0, 0], kernel, filter_function=lambda p: p, **RULES).data) > 10  # now py4DSTEM's, so nothing is logged
    assert not caplog.records
    outer, inner = ours.accelerate(), ours.accelerate("disks")
    outer.undo()
    outer.undo()
    assert diskdetection.find_Bragg_disks is not own and library.DataCube.get_virtual_image is method
    inner.undo()
    assert diskdetection.find_Bragg_disks is own and "undone" in repr(inner)
    threads = [threading.Thread(target=lambda: [ours.accelerate().undo() for _ in range(20)]) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert diskdetection.find_Bragg_disks is own
    with caplog.at_level(logging.INFO, "gpu4d"), ours.accelerate("disks"):
        for _ in range(2):
            library.DataCube(patterns[:1, :1]).find_Bragg_disks(template=kernel, filter_function=lambda p: p, **RULES)
        with pytest.raises(TypeError, match="unexpected keyword"):
            library.DataCube(patterns[:1, :1]).find_Bragg_disks(template=kernel, sigma_of_nothing=1)
    said = [r.message for r in caplog.records if "py4DSTEM's own" in r.message]
    assert said == ["py4DSTEM's own find_Bragg_disks runs, because filter_function is given, which ours does not do"]
    with pytest.raises(InputError, match="need one or several of 'disks'"):
        ours.accelerate("everything")
