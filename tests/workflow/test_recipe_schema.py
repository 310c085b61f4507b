"""The JSON Schema of a recipe refuses what reading a recipe refuses, and accepts what it accepts."""

import tomllib

import pytest
from recipes_in_tests import recipe

from gpu4d.errors import InputError
from gpu4d.workflow import Recipe
from gpu4d.workflow.recipe import recipe_schema, to_toml
from gpu4d.workflow.settings import KINDS

ACCEPTED = [
    "[bragg]\npower = 1\nmax_peaks = 40.0\nmin_spacing = 3.5",
    '[bragg]\nrefine = "none"',
    '[calibration]\nenergy = "300 keV"\nsemiangle = "0.02rad"\nq_pixel = "0.2 1/nm"\nr_pixel = "0.4Å"\ntranspose = true',
    "[calibration]\nenergy = 80000\nrotation_degrees = -30",
    "[input]\nscan_shape = [3, 4]\nraw_order = 'big'\ncrop_scan = [0, 4, 1, 3]",
    "[compute]\nmemory = '1.5 GiB'",
    "[compute]\nmemory = '1000'",
    "[strain]\nreference = [0, 8, 0, 4]\naxis = 'g1'",
    "[strain]\nreference = '12.1, 0.3, -0.3, 12.1 px'\naxis = '12.5'",
    "[strain]\nreference = 'other/result.h5'\naxis = 12",
    "[classification]\non = 'auto'",
    "[classification]\non = false",
    "[orientation]\nstructures = 'Au'",
    "[orientation]\nstructures = ['Au', 'my.cif']",
    "[analysis]\nscenario = ['noisy', 'thick']",
    "[analysis]\nscenario = 'noisy'",
    "[ellipse]\ngiven = [1.02, 30]",
    "[shadow]\nside = 'under'\npoints = [[1, 2, 3, 4], [2, 2, 3, 4], [3, 3, 4, 5]]",
    "[shadow]\npositions = [3, 4]\nimages = 'a.h5:/shadow'\ndefocus = '3 µm'",
    "[rdf]\ndamping = 'lorch'",
]
REFUSED = {  # kind of rule -> recipes that are refused because of it
    "switch": ["[input]\npreview = 'yes'", "[input]\npreview = 1", "[calibration]\ntranspose = 'no'"],
    "decision": ["[classification]\non = 1", "[classification]\non = 'yes'"],
    "names": ["[orientation]\nstructures = []", "[orientation]\nstructures = [3]", "[orientation]\nstructures = ['']"],
    "words": ["[analysis]\nscenario = []", "[analysis]\nscenario = ['loud']", "[analysis]\nscenario = [1]", "[analysis]\nscenario = 3"],
    "memory": ["[compute]\nmemory = 'much'", "[compute]\nmemory = '3 PB'", "[compute]\nmemory = 0"],
    "text": ["[bragg]\nrefine = 'corelation'", "[bragg]\nrefine = true", "[input]\ndataset = ''", "[input]\ndataset = 3"],
    "file": ["[probe]\nfile = ''", "[probe]\nfile = ['a.h5']"],
    "wholes": [
        "[input]\nscan_shape = [3]", "[input]\nscan_shape = [0, 3]", "[input]\nscan_shape = [1.5, 3]", "[input]\nscan_shape = '3,4'",
    ],
    "region": ["[input]\ncrop_scan = [0, 4]", "[input]\ncrop_scan = [-1, 4, 0, 4]", "[input]\ncrop_scan = [0, 4, 0, 'x']"],
    "reference": [
        "[strain]\nreference = 'usual'", "[strain]\nreference = [0, 8]", "[strain]\nreference = '1, 2, 3 px'",
        "[strain]\nreference = [0, 8, 0.5, 4]",
        "[strain]\nreference = '1, 2, 3, 4'",
    ],
    "numbers": ["[ellipse]\ngiven = [1.02]", "[ellipse]\ngiven = ['1.02', 3]", "[ellipse]\ngiven = 1.02"],
    "rows": ["[shadow]\npositions = [[1]]", "[shadow]\npositions = []", "[shadow]\npositions = [[1, 2], [3]]"],
    "number or word": ["[strain]\naxis = 'g3'", "[strain]\naxis = 400", "[strain]\naxis = true"],
    "number": [
        "[bragg]\npower = 1.5", "[bragg]\npower = true", "[bragg]\npower = '0.9'", "[bragg]\nmin_spacing = inf",
        "[calibration]\nenergy = 80",
        "[calibration]\nenergy = '80 kg'", "[calibration]\nenergy = 'high'",
    ],
    "whole": ["[bragg]\nmax_peaks = 2.5", "[bragg]\nmax_peaks = 0", "[bragg]\nmax_peaks = true"],
}  # fmt: skip
OF_THE_FILE = ["[brag]\npower = 1", "[bragg]\npowr = 0.9", "bragg = 3"]


@pytest.fixture(scope="module")
def problem():
    jsonschema = pytest.importorskip("jsonschema")
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)

    def look(text):
        return next((f"{one.json_path}: {one.message}" for one in checker.iter_errors(tomllib.loads(text))), None)

    return look


def test_default_recipes_and_all_settings_are_accepted(problem):
    assert problem(to_toml(Recipe())) is None
    given = recipe(bragg__max_peaks=33, strain__reference=[0, 4, 2, 8], orientation__structures=["Au"], analysis__scenario=["thick"])
    assert problem(to_toml(given)) is None


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_is_read_is_accepted(problem, text):
    Recipe.from_toml(text)
    assert problem(text) is None


@pytest.mark.parametrize("text", [*OF_THE_FILE, *(text for texts in REFUSED.values() for text in texts)])
def test_what_is_not_read_is_refused(problem, text):
    with pytest.raises(InputError):
        Recipe.from_toml(text)
    assert problem(text) is not None


def test_every_kind_of_rule_was_tried():
    used = {rule.kind for _, _, rule in Recipe().values()}
    assert used == set(KINDS) == set(REFUSED)


def test_what_a_schema_cannot_say_is_left_to_the_check(problem):
    """The page on recipes lists these."""
    for text in ("[input]\ncrop_scan = [4, 0, 0, 4]", "[images]\nadf_inner = 4.0\nadf_outer = 2.0", "[calibration]\nenergy = '1 eV'"):
        assert problem(text) is None
        with pytest.raises(InputError):
            Recipe.from_toml(text)
