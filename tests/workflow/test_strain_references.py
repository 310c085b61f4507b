"""Every reference and axis of strain that `gpu4d.strain_map` takes, in a recipe and on the command line."""

import math

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.cli import run_command
from gpu4d.cli_flags import with_flags
from gpu4d.crystal.reference import Reference
from gpu4d.errors import InputError
from gpu4d.workflow import Recipe, analyse, run
from gpu4d.workflow.pipeline import save_results
from gpu4d.workflow.recipe import to_toml
from gpu4d.workflow.report.pictures import stages_that_made_something
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stages import known_stages
from gpu4d.workflow.strain_figures import percent
from gpu4d.workflow.strain_reference import LARGEST_MISFIT, Detector, as_named_here, kept_reference, reference_for
from gpu4d.workflow.structure_names import structure_named

STRAIN = next(stage for stage in known_stages() if stage.name == "strain")


@pytest.fixture(scope="module")
def made():
    return gpu4d.simulate.bragg_scan((10, 9), (96, 96), spacing=20.0, radius=4.0, dose=80.0, strain_size=0.01, seed=4)


@pytest.fixture(scope="module")
def measured(made):
    return analyse(made.cube)


def again(state, **settings):
    """The strain of a run whose disks and lattice are those of an earlier one."""
    given = recipe(**settings)
    new = RunState(gpu4d.DataCube(state.cube.source, state.calibration.copy()), given, results=dict(state.results))
    new.results.pop("strain", None)
    STRAIN.check(new)
    STRAIN.reductions(new)
    STRAIN.finish(new, {})
    return new


def vectors(truth, units="px", by=1.0):
    return ", ".join(repr(float(v)) for v in np.concatenate([truth["g1"], truth["g2"]]) * by) + f" {units}"


def in_basis_of(state, truth):
    """The true vectors by the names that the run gave them."""
    found, true = state["lattice"].matrix, np.stack([truth["g1"], truth["g2"]])
    rows = np.rint(found @ np.linalg.inv(true)) @ true
    return {"g1": rows[0], "g2": rows[1]}


def test_vectors_give_the_true_strain(made, measured):
    """Relative to the true unstrained lattice, and not to a median of the scan, strain is that of the simulation."""
    g = in_basis_of(measured, made.truth)
    named = again(measured, strain__reference=vectors(g))
    q = measured.calibration.q_pixel
    physical = again(measured, strain__reference=vectors(g, "1/A", q))
    for name in ("exx", "eyy", "exy"):
        ours = np.asarray(getattr(named["strain"], name))
        off = ours - made.truth[name]
        assert np.abs(np.median(off)) < 5e-4 and np.std(off) < 1e-3, "of 1 %; feet of neighbours pull disks by 3e-4"
        np.testing.assert_allclose(np.asarray(getattr(physical["strain"], name)), ours, atol=1e-12)
    assert "two vectors" in named.record.decisions[0].what
    unknown = gpu4d.Calibration()
    state = RunState(gpu4d.DataCube(measured.cube.source, unknown), recipe(strain__reference=vectors(g, "1/Å")), results=measured.results)
    STRAIN.finish(state, {})
    assert [line for line in state.record.warnings if "give --q-pixel" in line]


def test_vectors_in_one_over_angstrom_have_no_ellipse(made, measured):
    """The ellipse is put back, because vectors in px are those on the detector as measured."""
    g, q = in_basis_of(measured, made.truth), measured.calibration.q_pixel
    state = RunState(measured.cube, recipe(), results=dict(measured.results))
    state.cube = gpu4d.DataCube(measured.cube.source, measured.calibration.copy())
    state.calibration.set(ellipse=(1.03, 1.0, 0.4))
    here = Detector(measured.cube.detector_shape, 1)
    rows = reference_for(vectors(g, "1/Å", q), state.recipe, measured["lattice_fit"], state.calibration, here).reference
    back = rows @ gpu4d.calibrate.ellipse_matrix((1.03, 1.0, 0.4)).T
    np.testing.assert_allclose(back, [g["g1"], g["g2"]], rtol=1e-12)


def test_another_result_gives_its_reference(measured, tmp_path):
    first = again(measured, strain__reference=[0, 4, 0, 9])
    save_results(first, tmp_path / "result.h5")
    for path in (tmp_path / "result.h5", tmp_path):
        other = again(measured, strain__reference=str(path))
        np.testing.assert_allclose(np.asarray(other["strain"].exx), np.asarray(first["strain"].exx), atol=1e-12)
    assert "the lattice of" in other.record.decisions[0].what


def test_a_result_that_cannot_be_the_reference_is_refused(measured, tmp_path):
    gpu4d.save(tmp_path / "images.h5", {"bf": gpu4d.RealSlice(np.ones((3, 3)))})
    with pytest.raises(InputError, match="this result has no lattice") as error:
        again(measured, strain__reference=str(tmp_path / "images.h5"))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="there is no such result"):
        again(measured, strain__reference=str(tmp_path / "nowhere.h5"))
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no result of gpu4d"):
        again(measured, strain__reference=str(tmp_path / "broken.h5"))
    first = again(measured)
    first.calibration.set(q_pixel=2 * measured.calibration.q_pixel)
    save_results(first, tmp_path / "binned.h5")
    other = again(measured, strain__reference=str(tmp_path / "binned.h5"))
    assert "strain" not in other and [w for w in other.record.warnings if "same camera length and binning" in w]


def test_the_crystal_gives_absolute_strain(shared_data):
    """Gold whose unstrained border is known. Multislice patterns make lengths up to 0.3 % too short."""
    cube = gpu4d.open(shared_data / "au_nbed_strain.h5", dataset="/poisson_1e5").crop((0, 8), (0, 8))
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        truth = {"exx": file["truth/eyy"][:8, :8], "eyy": file["truth/exx"][:8, :8]}  # its x is the column, ours the row
    disks = gpu4d.find_bragg_disks(cube, gpu4d.probe.synthetic(cube.detector_shape, 6.0), progress=False)
    origin = gpu4d.calibrate.origin(disks)
    fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)
    q = 0.5e-3 / gpu4d.physics.wavelength(200e3)
    results = {"lattice_fit": fit, "lattice": gpu4d.find_lattice(disks, origin), "braggvectors": disks}

    given = recipe(orientation__structures=["Au"], strain__reference="crystal")
    state = RunState(gpu4d.DataCube(cube.source, gpu4d.Calibration(q_pixel=q, energy=200e3)), given, results=results)
    STRAIN.check(state)
    STRAIN.reductions(state)
    STRAIN.finish(state, {})
    own = gpu4d.strain_map(fit, reference=gpu4d.structures.Structure.standard("Au"), calibration=gpu4d.Calibration(q_pixel=q))
    np.testing.assert_array_equal(np.asarray(state["strain"].exx), np.asarray(own.exx))
    for name, true in truth.items():
        off = np.asarray(getattr(state["strain"], name)) - true
        assert np.abs(np.median(off)) < 4e-3 and np.std(off) < 2e-3
    assert "lattice of Au" in state.record.decisions[0].what and "absolute" in state.record.decisions[0].why
    with pytest.raises(InputError, match="none is named: give --structure"):
        STRAIN.check(RunState(cube, recipe(strain__reference="crystal")))
    with pytest.raises(InputError, match="2 are named"):
        STRAIN.check(RunState(cube, recipe(strain__reference="crystal", orientation__structures=["Au", "Si"])))


@pytest.mark.parametrize(
    ("method", "reference", "words"),
    [("disks", "45, 3, -3, 45 px", "45.10 and 45.10 px long"), ("cepstrum", "0.49,0,0,0.49 1/A", "give --q-pixel")],
)
def test_a_run_whose_reference_is_refused_ends_with_a_report_that_says_why(tmp_path, capsys, blank_pictures, method, reference, words):
    """Everything else is measured and kept: the scan was read, and the disks were found."""
    made = gpu4d.simulate.bragg_scan((6, 6), (96, 96), spacing=20.0, radius=4.0, dose=80.0, strain_size=0.005, seed=5)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = np.asarray(made.cube)
    (tmp_path / "r.toml").write_text(f'[strain]\nmethod = "{method}"\n')
    out = tmp_path / "out"
    assert (
        run_command(["run", str(tmp_path / "scan.h5"), "--recipe", str(tmp_path / "r.toml"), "--reference", reference, "-o", str(out)]) == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "no strain:" in said and words in said and "Reference of the strain: none that can be used" in said
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "No strain: the lattice was measured" in report and words in report
    assert "braggvectors" in gpu4d.io.read_emd(out / "result.h5")
    assert (out / "cepstrum.png").is_file() == (method == "cepstrum") and not (out / "strain.png").exists()


def test_none_in_place_of_a_result_is_not_made(measured):
    state = RunState(measured.cube, recipe(), results={"mean_cepstrum": None}, reasons=dict(measured.reasons))
    assert stages_that_made_something(state) == []
    state.keep("strain", measured["strain"])
    assert [stage.name for stage in stages_that_made_something(state)] == ["strain"]


CHANGES = [[[0, 1], [1, 0]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[1, 0], [1, 1]], [[1, 0], [2, 1]], [[1, 1], [-1, 0]]]


@pytest.mark.parametrize("change", CHANGES)
def test_the_names_of_vectors_do_not_matter(made, measured, change, tmp_path):
    """Swapped, turned by 90°, both signs, (10) and (11), (10) and (21), turned by 60°: the lattice, and so the strain, is the same."""
    g = in_basis_of(measured, made.truth)
    named = again(measured, strain__reference=vectors(g))
    rows = np.array(change) @ np.stack([g["g1"], g["g2"]])
    other = again(measured, strain__reference=vectors({"g1": rows[0], "g2": rows[1]}))
    for part in ("exx", "eyy", "exy", "theta"):
        np.testing.assert_allclose(np.asarray(getattr(other["strain"], part)), np.asarray(getattr(named["strain"], part)), atol=1e-12)
    said = [d.what for d in other.record.decisions if d.what.startswith("Vectors of the reference")]
    assert len(said) == 1 and "g1 = " in said[0] and not [d for d in named.record.decisions if "Vectors of" in d.what]
    first = again(measured)
    first.products["strain_reference"] = kept_reference(
        Reference(*rows, "a test"), measured["lattice_fit"], Detector(measured.cube.detector_shape, 1)
    )
    save_results(first, tmp_path / "result.h5")
    result = again(measured, strain__reference=str(tmp_path / "result.h5"))
    np.testing.assert_allclose(np.asarray(result["strain"].exx), np.asarray(named["strain"].exx), atol=1e-12)


def test_names_of_hexagonal_vectors_and_handedness():
    """Turned by 60°, the vectors of a hexagon are the same lattice; a mirrored oblique lattice is none that strain can make."""
    hexagon = 20.0 * np.array([[1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    oblique = np.array([[20.0, 0.0], [5.0, 25.0]])

    def fit_of(rows):
        h, k = np.mgrid[-2:3, -2:3].reshape(2, -1)
        q = np.stack([h, k], -1) @ rows + 80.0
        points = {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(25)}
        return gpu4d.fit_lattice(gpu4d.PointListArray(np.array([0, 25]), points, (1, 1)), rows, origin=(80.0, 80.0))

    angle = math.radians(60)
    turned = hexagon @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    rows, said = as_named_here("", turned * 1.02, fit_of(hexagon), 0.15)
    np.testing.assert_allclose(rows, hexagon * 1.02, atol=1e-9)
    assert said
    for other in (oblique * [1, -1], oblique * 1.2, oblique / 1.2, 2 * oblique, np.diag([20.0, 30.0])):
        with pytest.raises(InputError, match="no lattice like that of this scan"):
            as_named_here("", other, fit_of(oblique), LARGEST_MISFIT)


def test_a_result_of_another_binning_is_converted_or_refused(made, measured, tmp_path):
    """The same detector with 2 × 2 pixels summed has half as many px between its disks. Without the binning, lengths tell."""
    first = again(measured, strain__reference=[0, 4, 0, 9])
    first.calibration.q_pixel = None
    rows, shape = first["strain"].reference.matrix, measured.cube.detector_shape

    def saved(detector, scale):
        reference = Reference(*(rows * scale), "a test")
        first.products["strain_reference"] = kept_reference(reference, measured["lattice_fit"], detector)
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
        save_results(first, file)
        return again(measured, strain__reference=str(file))

    other = saved(Detector((shape[0] // 2, shape[1] // 2), 2), 0.5)
    np.testing.assert_allclose(np.asarray(other["strain"].exx), np.asarray(first["strain"].exx), atol=1e-12)
    assert [d for d in other.record.decisions if "times 2" in d.what and "squares of 2×2 pixels" in d.why]
    for detector in (Detector((shape[0] // 2, shape[1] // 2), 1), Detector(shape, 1)):
        other = saved(detector, 0.5)
        assert "strain" not in other
        assert [w for w in other.record.warnings if "10.0" in w and "px long" in w and "same camera length" in w]
    other = saved(Detector((shape[0] + 4, shape[1]), 1), 1.01)
    assert "strain" in other and [d for d in other.record.decisions if "taken for px of this scan" in d.what]
    assert Detector((10, 10), 3).same_file_pixels(Detector((16, 15), 2)), "31 or 30 pixels; the last do not fill a square"
    assert not Detector((10, 10), 3).same_file_pixels(Detector((14, 15), 2))


@pytest.mark.slow
def test_runs_with_and_without_binning_have_the_same_unstrained_lattice(tmp_path):
    """The real thing: both runs read the same file."""
    made = gpu4d.simulate.bragg_scan((8, 8), (192, 192), spacing=40.0, radius=8.0, dose=200.0, strain_size=0.005, seed=6)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = np.asarray(made.cube)
    run(tmp_path / "scan.h5", tmp_path / "binned", recipe=recipe(input__bin_detector=2))
    full = run(tmp_path / "scan.h5", tmp_path / "full", recipe=recipe(strain__reference=str(tmp_path / "binned")))
    assert np.abs(np.nanmedian(np.asarray(full.state["strain"].exx))) < 2e-3
    assert [d for d in full.state.record.decisions if "times 2" in d.what]


def test_capitals_of_a_structure_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = with_flags(None, {"reference": "crystal", "structure": ["au"]})
    given.resolve()
    assert structure_named(given.orientation.structures[0]).name == structure_named("AU").name == "Au"
    with pytest.raises(InputError, match="structure Aau: there is no such standard"):
        structure_named("Aau")


def test_large_percentages_have_no_exponent():
    assert [percent(v, "+") for v in (-2.1, 0.034, 9.94, 9.96, 99.7, 104.0)] == ["-2.1", "+0.034", "+9.9", "+10", "+100", "+104"]
    assert percent(100.0) == "100" and percent(float("nan")) == "nan"


def test_axes_turn_the_tensor(measured):
    plain = again(measured)["strain"]
    turned = again(measured, strain__axis=30.0)["strain"]
    c, s = math.cos(math.radians(30)), math.sin(math.radians(30))
    exx, eyy, exy = (np.asarray(getattr(plain, n)) for n in ("exx", "eyy", "exy"))
    np.testing.assert_allclose(np.asarray(turned.exx), c * c * exx + s * s * eyy + 2 * s * c * exy, atol=1e-9)
    state = again(measured, strain__axis="g1", strain__along="both")
    along = state["strain"]
    np.testing.assert_allclose(np.asarray(along.exx), np.asarray(plain.along("g1")), atol=1e-9)
    np.testing.assert_allclose(np.asarray(state.products["strain_along_g2"]), np.asarray(plain.along("g2")), atol=1e-9)
    names = [picture.name for picture, _ in STRAIN.pictures(state)]
    assert {"strain", "strain_along_g1", "strain_along_g2"} <= set(names)
    assert [d for d in state.record.decisions if "x along g1" in d.why]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("usual", ["median", "crystal", "[rx0, rx1, ry0, ry1]", "px or 1/Å", "result.h5"]),
        ("medain", ["did you mean", "median"]),
        ("12, 0, 0, 12", ["without a unit"]),
        ("0,0,0,0 px", ["not zero and not parallel", "px"]),
        ("12,0,24,0 px", ["not zero and not parallel"]),
        ("0.1,0.2,-0.2,-0.4 1/A", ["not parallel", "1/Å"]),
        ([[12.0, 0.0], [0.0, 12.0]], ["need their unit"]),
        ([1.5, 3, 0, 4], ["whole numbers"]),
        ([5, 5, 0, 3], ["rx0 < rx1"]),
        (7, ["median"]),
    ],
)
def test_references_that_are_refused_say_what_is_accepted(value, words):
    with pytest.raises(InputError) as error:
        recipe(strain__reference=value)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_recipes_and_flags_take_the_same_forms(tmp_path):
    text = '[strain]\nreference = "12.1, 0.3, -0.3, 12.1 px"\naxis = "g2"\nalong = "both"\n'
    written = Recipe.from_toml(text)
    assert Recipe.from_toml(to_toml(written)).strain == written.strain
    assert Recipe.from_toml(to_toml(written, comments=False)).strain == written.strain
    flags = with_flags(None, {"reference": "0.1,0,0,0.1 1/A", "axis": "30", "along": "g1", "ellipse": [1.03, 25.0]})
    assert flags.strain.reference == "0.1,0,0,0.1 1/A" and flags.strain.axis == 30.0 and flags.ellipse.given == [1.03, 25.0]
    flags.resolve()
    assert flags.strain.reference == "0.1,0,0,0.1 1/A", "vectors are no path"
    (tmp_path / "r.toml").write_text('[strain]\nreference = "first/result.h5"\n')
    assert Recipe.load(tmp_path / "r.toml").strain.reference == str(tmp_path / "first" / "result.h5")
    with pytest.raises(InputError, match="a number from -360 to 360 in degrees, or g1 or g2"):
        with_flags(None, {"axis": "g3"})
    with pytest.raises(InputError, match="need a/b from 1 to 2"):
        with_flags(None, {"ellipse": [0.9, 25.0]})
