"""Recipes: settings that are taken and refused."""

import re
import tomllib

import pytest
from recipes_in_tests import recipe

from gpu4d.errors import InputError
from gpu4d.workflow import Recipe
from gpu4d.workflow.recipe import explain, to_toml


def test_a_new_recipe_reads_back_to_the_defaults():
    text = to_toml(Recipe())
    back = Recipe.from_toml(text)
    assert back.as_dict() == Recipe().as_dict() and back.advice() == []
    for name, _, _ in Recipe().values():
        assert re.search(rf"^(# )?{name.split('.')[1]} = ", text, re.M), f"{name} is not in the recipe"


def test_every_setting_survives_the_round_trip():
    given = recipe(
        input__dataset='a "quoted" path/ü', input__scan_shape=[3, 4], calibration__transpose=True, bragg__max_peaks=33, bragg__power=0.9,
        strain__reference=[0, 4, 2, 8], dpc__lambda1=1e-4, compute__memory="1 GiB", images__adf_outer=4,
        classification__on=False, orientation__structures=["Au", "/a/my.cif"],
    )  # fmt: skip
    for comments in (True, False):
        assert Recipe.from_toml(to_toml(given, comments)).as_dict() == given.as_dict()
    assert set(tomllib.loads(to_toml(given, comments=False))) == {
        "input",
        "calibration",
        "bragg",
        "strain",
        "dpc",
        "compute",
        "images",
        "classification",
        "orientation",
    }


@pytest.mark.parametrize(
    "text, says",
    [
        ("[brag]\npower = 1", ["[brag]", "'bragg'"]),
        ("[bragg]\npowr = 0.9", ["'powr'", "'power'"]),
        ("[bragg]\npower = 1.5", ["bragg.power = 1.5", "0 to 1"]),
        ("[bragg]\npower = true", ["bragg.power", "a number"]),
        ("[bragg]\nmax_peaks = 2.5", ["max_peaks", "a whole number"]),
        ("[bragg]\nmin_spacing = nan", ["min_spacing", "px"]),
        ('[bragg]\nrefine = "corelation"', ["'corelation'", "'correlation'", "parabola"]),
        ("[calibration]\nenergy = 80", ["energy", "eV"]),
        ('[calibration]\ntranspose = "yes"', ["true or false"]),
        ("[input]\nscan_shape = [3]", ["2 whole numbers"]),
        ('[strain]\nreference = "usual"', ["median", "[rx0, rx1, ry0, ry1]"]),
        ("[strain]\nreference = [5, 5, 0, 3]", ["rx0 < rx1"]),
        ("[images]\nadf_inner = 4.0\nadf_outer = 2.0", ["adf_outer", "larger"]),
        ('[compute]\nmemory = "much"', ["'much'", "512 MB"]),
        ("[classification]\non = 1", ["true, false or", '"auto"']),
        ("[orientation]\nstructures = []", ["a list of names (Au, Ag", "or of files"]),
        ("[orientation]\nstructures = [3]", ["a list of names"]),
        ("bragg = 3", ["[bragg]"]),
        ("[bragg\n", ["not valid TOML", "recipe new"]),
    ],
)
def test_mistakes_in_a_recipe_are_named(text, says):
    with pytest.raises(InputError) as error:
        Recipe.from_toml(text, "r.toml")
    assert all(word in str(error.value) for word in says), str(error.value)


def test_only_what_the_user_set_is_measured_against_the_guide():
    assert Recipe().bragg.upsample == 16 and Recipe().advice() == [], "our defaults lie outside on purpose"
    (line,) = recipe(bragg__upsample=32).advice()
    assert "bragg.upsample = 32" in line and "4 – 8" in line
    assert recipe(bragg__upsample=8, bragg__power=0.9, bragg__max_peaks=70).advice() == []


def test_paths_in_a_recipe_start_at_its_folder(tmp_path):
    (tmp_path / "r.toml").write_text('[probe]\nfile = "vacuum.h5:/probe"\n')
    assert Recipe.load(tmp_path / "r.toml").probe.file == f"{tmp_path}/vacuum.h5:/probe"


def test_explain_says_everything_of_everything():
    text = explain(recipe(bragg__power=0.9))
    for name, _, rule in Recipe().values():
        assert name in text and rule.explain.split(".")[0][:30] in text.replace("\n    ", " ")
    assert "bragg.power = 0.9   [test]" in text and len(Recipe().sections) == 24
