"""`strain.method` of a recipe: strain from the cepstrum in a run, beside that from disks."""

import numpy as np
import pytest

import gpu4d
from gpu4d.workflow.analyse import analyse
from gpu4d.workflow.recipe import Recipe


@pytest.fixture(scope="module")
def made():
    """A scan with small disks, so that its cepstrum shows many maxima."""
    return gpu4d.simulate.bragg_scan((7, 8), (80, 80), radius=3.5, spacing=15.0, reach=3.2, dose=150.0, strain_size=0.01, seed=2)


def state_of(made, method):
    recipe = Recipe()
    recipe["strain"].method = method
    return analyse(gpu4d.DataCube(made.cube.source, gpu4d.Calibration()), recipe)


def test_both_ways_give_the_same_strain(made):
    disks, cepstrum = (state_of(made, method) for method in ("disks", "cepstrum"))
    for name in ("exx", "eyy", "exy", "theta"):
        truth = made.truth[name] - np.median(made.truth[name])
        for state, limit in ((disks, 1.5e-3), (cepstrum, 2e-3)):
            found = np.asarray(getattr(state["strain"], name))
            assert np.sqrt(np.nanmean((found - np.nanmedian(found) - truth) ** 2)) < limit, name
    said = [str(line) for line in cepstrum.record.decisions]
    assert any("power cepstrum" in line and "100 % of the patterns" in line for line in said)
    assert not any("cepstrum" in str(line) for line in disks.record.decisions)


def test_an_unknown_method_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('[strain]\nmethod = "holography"\n', encoding="utf-8")
    with pytest.raises(gpu4d.errors.Gpu4dError, match="cepstrum"):
        Recipe.load(path)
