"""Recipes for a purpose, from a look at a scan: what they say is compared with the truth of simulations."""

import json
import re
import shlex

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d import physics
from gpu4d.cli import run_command
from gpu4d.errors import InputError
from gpu4d.workflow import Recipe
from gpu4d.workflow.advising import PURPOSES, look_at, purpose_recipe, suggestions

OPTICS = {"calibration__energy": 80e3, "calibration__semiangle": 32.0}


def written(folder, name, scan):
    path = folder / name
    with h5py.File(path, "w") as file:
        file["scan"] = scan.cube.source.array
    return path


@pytest.fixture(scope="module")
def crystal(tmp_path_factory):
    """Disks of a radius of 5 px, 18 px apart."""
    scan = gpu4d.simulate.bragg_scan((34, 12), (96, 80), spacing=18.0, radius=5.0, dose=60.0, strain_size=0.01, descan=2.0, seed=2)
    return written(tmp_path_factory.mktemp("crystal"), "crystal.h5", scan)


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    scan = gpu4d.simulate.phase_object_scan((10, 12), (32, 32), r_pixel=0.5, semiangle=32.0, dose=1e5, seed=3)
    return written(tmp_path_factory.mktemp("thin"), "thin.h5", scan)


@pytest.fixture(scope="module")
def crystal_look(crystal):
    return look_at(crystal)


@pytest.fixture(scope="module")
def thin_look(thin):
    return look_at(thin, recipe(**OPTICS, calibration__r_pixel=0.5))


def comment(text, key):
    """All that stands above a setting, as one line."""
    block = next(block for block in text.split("\n\n") if re.search(rf"^(# )?{key} = ", block, re.M))
    return " ".join(line.lstrip("# ").strip() for line in block.splitlines())


def test_a_recipe_for_strain_says_what_the_simulation_has(crystal, crystal_look):
    text = purpose_recipe("strain", crystal_look)
    back = Recipe.from_toml(text)
    assert back.analysis.technique == "bragg" and back.advice() == []
    assert {name for name in back.given} <= {"analysis.technique", *PURPOSES["strain"].settings}
    with h5py.File(crystal) as file:
        counts = np.median(file["scan"][...].sum((-1, -2), dtype=np.int64))
    said = comment(text, "min_significance")
    assert abs(float(re.search(r"([\d,]+) in a pattern", said)[1].replace(",", "")) / counts - 1) < 0.05
    said = comment(text, "min_spacing")
    apart, wide = map(float, re.search(r"disks are ([\d.]+) px apart, and ([\d.]+) px wide: they stand apart", said).groups())
    assert abs(apart - 18) < 0.4 and abs(wide - 10) < 0.5
    assert "How to tune: " in said and "Your scan: " in said
    said = comment(text, "power")
    for tried, found in re.findall(r"\d\.\d\d: (\d+\.\d) of (\d+\.\d)", said):
        assert 0 < float(tried) <= float(found) <= 30
    assert "34×12 positions, 96×80 detector pixels" in text and "By itself" not in text


def test_few_patterns_of_all_parts_are_looked_at(crystal_look, tmp_path):
    assert crystal_look.every == 1 and crystal_look.patterns == 34 * 12
    path = tmp_path / "long.npy"
    np.save(path, np.random.default_rng(0).poisson(20, (200, 40, 16, 16)).astype(np.uint8))
    look = look_at(path)
    assert look.every > 1 and look.patterns <= 1024 and min(look.state.cube.scan_shape) >= 8
    assert "the detector shows an even background" in look.state.kind_of_data


def test_auto_takes_what_a_run_decides(crystal_look, thin_look):
    of_crystal, of_thin = (purpose_recipe("auto", look) for look in (crystal_look, thin_look))
    assert "[strain]" in of_crystal and "[dpc]" not in of_crystal and "# technique = " in of_crystal
    assert "[dpc]" in of_thin and "[phase]" in of_thin and "[strain]" not in of_thin
    assert Recipe.from_toml(of_thin).analysis.technique == "auto"
    with pytest.raises(InputError, match="needs the scan"):
        purpose_recipe("auto")


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_purpose_writes_a_valid_recipe_with_and_without_a_scan(purpose, crystal_look):
    for look in (None, crystal_look):
        text = purpose_recipe(purpose, look, recipe(analysis__scenario=["large-fov"], calibration__energy=200e3))
        back = Recipe.from_toml(text)
        assert back.analysis.technique == PURPOSES[purpose].technique and back.origin.fit == "quadratic" and back.advice() == []
        assert back.calibration.energy == 200e3 and "Scenario large-fov: use quadratic" in comment(text, "fit")
        assert ("Your scan" in text) == (look is not None)
        assert ("By itself" in text) == (look is not None and PURPOSES[purpose].technique != "bragg")


def test_steps_and_counting_noise_of_a_phase_object(thin, thin_look):
    text = purpose_recipe("ssb", thin_look)
    step, limit = map(float, re.search(r"a step of ([\d.]+) Å against λ/\(4α\) = ([\d.]+) Å", comment(text, "aberrations")).groups())
    assert step == 0.5 and abs(limit - physics.wavelength(80e3) / (4 * 32e-3)) < 5e-4
    with h5py.File(thin) as file:
        patterns = file["scan"][...].astype(float)
    x = np.arange(32.0)
    total = patterns.sum((-1, -2))
    mean = (patterns.sum(-1) @ x) / total
    spread = np.median((patterns.sum(-1) @ x**2) / total - mean**2)
    error = float(re.search(r"an error of ([\d.]+) px", comment(text, "descan"))[1])
    assert abs(error / np.sqrt(spread / np.median(total)) - 1) < 0.25, "√(variance of a pattern / counts), from the patterns themselves"


def test_a_limit_that_the_disks_nearly_reach_is_raised(crystal):
    assert suggestions(look_at(crystal, recipe(bragg__max_peaks=8)), ("bragg.max_peaks",))["bragg.max_peaks"].value == 16


def test_overlapping_disks_are_told(tmp_path):
    """Disks of a radius of 8.1 px, 16 px apart, with an image of the probe: they have no rim of their own to be measured on."""
    scan = gpu4d.simulate.bragg_scan((8, 8), (96, 96), spacing=16.0, radius=8.1, dose=300.0, strain_size=0.0, descan=0.5, seed=1)
    np.save(tmp_path / "probe.npy", gpu4d.probe.synthetic((96, 96), 8.1))
    look = look_at(written(tmp_path, "overlap.h5", scan), recipe(probe__file=str(tmp_path / "probe.npy")))
    why = suggestions(look, ("lattice.fit",))["lattice.fit"].why
    assert "16.1 px apart, and 16.2 px wide: they overlap: the lattice is fitted to whole patterns" in why and "image of the probe" in why
    assert look.state["technique"] == "bragg"


def test_the_ring_and_the_beam_of_a_glass(tmp_path):
    scan = gpu4d.simulate.amorphous_scan((8, 8), (96, 96), radius=28.0, beam_radius=2.0, q_pixel=0.0145, seed=1)
    path = written(tmp_path, "glass.h5", scan)
    look = look_at(path, recipe(calibration__q_pixel=0.0145))
    found = suggestions(look, ("amorphous_strain.reference", "rdf.band_low", "bragg.max_peaks"))
    assert re.search(r"ring of 2[789] px, 0\.(39|40|41|42)", found["amorphous_strain.reference"].why)
    assert found["rdf.band_low"].value is None and "0.2 lies between" in found["rdf.band_low"].why
    wide = suggestions(look_at(path, recipe(calibration__q_pixel=0.006)), ("rdf.band_low",))["rdf.band_low"]
    assert 2 * 0.006 < wide.value < 28 * 0.006 < 0.2, "the default lies beyond the ring then"


@pytest.mark.slow
def test_a_share_of_the_strongest_disk_drops_disks_of_the_crystal(shared_data):
    """Why the scenario of noisy data leaves the threshold as it is (docs/explanation/guide-errata.md, 17.7)."""
    settings = {"input__dataset": "/poisson_5e3", "bragg__power": 1.0}
    found = {}
    for share in (0.0, 0.02, 0.05):
        trial = look_at(shared_data / "au_nbed_strain.h5", recipe(**settings, bragg__min_relative_intensity=share)).trial
        found[share] = float(trial.counts.mean()), trial.lattice
    assert found[0.0][0] > 19 and found[0.0][1].indexed_fraction > 0.99, "no false disk without it"
    assert found[0.02][0] < 0.5 * found[0.0][0] and found[0.05][0] < 1.5


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands(capfd, here, thin):
    given = ["--energy", "80keV", "--semiangle", "32", "--r-pixel", "0.5"]
    assert run_command(["recipe", "new", "--for", "dpc", str(thin), *given, "--scenario", "thick", "-o", "r.toml", "--schema"]) == 0
    out = capfd.readouterr().out
    assert "r.toml written: edit it, then `gpu4d run " in out and [p.name for p in here.iterdir()] == ["r.toml"]
    text = (here / "r.toml").read_text()
    assert (
        text.startswith("#:schema ./gpu4d-recipe.schema.json\n")
        and "pseudo-DPC" in text
        and Recipe.load("r.toml").calibration.energy == 80e3
    )
    assert run_command(["recipe", "check", "r.toml"]) == 0
    assert "note: scenario thick: " in capfd.readouterr().out
    assert run_command(["recipe", "explain", "r.toml", "--only", "dpc.descan", "--scan", str(thin)]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "How to tune: plane removes" in out and "Your scan: a plane through the centres of mass" in out
    assert run_command(["recipe", "stages"]) == 0
    assert "R   Crystalline strain mapping" in capfd.readouterr().out
    assert run_command(["recipe", "schema", "-o", "gpu4d-recipe.schema.json"]) == 0
    assert json.loads((here / "gpu4d-recipe.schema.json").read_text())["properties"]["bragg"]
    capfd.readouterr()
    assert run_command(["recipe", "new", "--scenario", "noisy"]) == 0
    assert Recipe.from_toml(capfd.readouterr().out).bragg.power == 1.0


@pytest.mark.slow
def test_the_commands_of_the_page_run_as_they_stand(capfd, here, crystal, checkout):
    (here / "scan.h5").write_bytes(crystal.read_bytes())
    page = (checkout / "docs" / "how-to" / "recipes.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("gpu4d recipe ")]
    assert len(commands) >= 8
    for words in commands:
        assert run_command(words) == 0, (words, capfd.readouterr().err)
    for name in ("strain.toml", "unknown.toml", "dpc.toml"):
        assert Recipe.load(name).given
    assert Recipe.load("unknown.toml").strain.reference == "auto"


def test_a_scan_is_never_replaced_by_a_recipe(capfd, here, thin):
    scan = here / "scan.h5"
    scan.write_bytes(thin.read_bytes())
    for words in (
        ["new", "scan.h5"],
        ["new", "-o", "scan.h5"],
        ["schema", "-o", "scan.h5"],
        ["new", "--for", "dpc", "scan.h5", "-o", "scan.h5"],
    ):
        assert run_command(["recipe", *words, "--overwrite"]) == 1
        assert "never replaced" in capfd.readouterr().err
    assert scan.read_bytes() == thin.read_bytes() and list(here.iterdir()) == [scan]
    assert run_command(["recipe", "new", "--for", "auto"]) == 1 and "needs the scan" in capfd.readouterr().err
    assert run_command(["recipe", "new", "scan.h5", "-o", "r.toml"]) == 1 and "--for auto" in capfd.readouterr().err
    assert run_command(["recipe", "new", "--for", "strain", "none.h5"]) == 1 and "none.h5" in capfd.readouterr().err
