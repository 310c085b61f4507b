"""The methods paragraph and its references: what was used is cited, with the numbers of the run, and nothing else."""

import re
from pathlib import Path

import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.workflow import Stage
from gpu4d.workflow.analyse import analyse
from gpu4d.workflow.report.citations import CITATIONS, as_bibtex, as_text
from gpu4d.workflow.report.methods import keys_in, methods, numbered
from gpu4d.workflow.report.pictures import stages_that_made_something
from gpu4d.workflow.stages import known_stages

pytestmark = pytest.mark.usefixtures("only_blank_pictures")


def written(state):
    return methods(state, stages_that_made_something(state))


def test_a_strain_run_cites_what_it_used(results):
    found = written(results.state)
    assert set(found.keys) == {"gpu4d", "pekin2017", "savitzky2021", "ozdol2015"}
    for words in (
        "14 × 12 positions in steps of 20 Å", "96 × 80 detector pixels", "at 200 kV", "semi-angle of 3 mrad", "exponent 0.85",
        "finite definition", f"{len(results.record.gates)} quality gates",
    ):  # fmt: skip
        assert words in found.text, words
    radius = f"{results.state['disk'].radius:.2f} ± "
    assert f"bright-field disk has a radius of {radius}" in found.text


def test_a_phase_is_of_other_publications(thin):
    known = gpu4d.Calibration(energy=80e3, semiangle=25.0, r_pixel=0.4)
    found = written(analyse(gpu4d.DataCube(thin.cube.source, known), recipe(analysis__technique="wdd")))
    assert {"rodenburg1992", "bangun2023", "mullercaspary2017", "lazic2016"} <= set(found.keys)
    assert not {"rodenburg1993", "pekin2017", "ozdol2015"} & set(found.keys)


def test_images_alone_cite_the_program_alone():
    cube = gpu4d.DataCube(np.random.default_rng(0).poisson(3.0, (4, 5, 16, 16)).astype("uint8"))
    found = written(analyse(cube, recipe(analysis__technique="images")))
    assert found.keys == ("gpu4d",) and "4 × 5 positions, with 16 × 16 detector pixels at each, was recorded." in found.text


def test_the_files_of_a_run(results):
    text = (results.folder / "methods.txt").read_text(encoding="utf-8")
    bib = (results.folder / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{(\w+),", bib, flags=re.M)
    numbers = [int(n) for n in re.findall(r"^\[(\d+)\] ", text, flags=re.M)]
    assert numbers == list(range(1, len(keys) + 1)), "each reference in the text has an entry"
    paragraph = text.split("References")[0]
    cited = {int(n) for group in re.findall(r"\[([\d, ]+)\]", paragraph) for n in group.split(",")}
    assert cited == set(numbers), "each reference is cited, and each citation has one"
    assert "@" not in paragraph


def test_numbers_are_those_of_first_use():
    found = numbered("A [@ozdol2015]. B [@pekin2017; @ozdol2015]. C [@pekin2017].")
    assert found.text == "A [1]. B [1, 2]. C [2]." and found.keys == ("ozdol2015", "pekin2017")


@pytest.mark.parametrize("cites", [(), ("nobody1999",)])
def test_a_stage_cites_what_it_names_and_what_is_in_the_table(results, cites):
    class Wrong(Stage):
        name, title = "wrong", "wrong"

        def methods(self, state):
            return "It was done [@nobody1999]."

    Wrong.cites = cites
    with pytest.raises(ValueError, match="nobody1999"):
        methods(results.state, [Wrong()])


def test_each_stage_names_publications_of_the_table():
    for stage in known_stages():
        assert set(stage.cites) <= set(CITATIONS), stage.name
    used = {key for stage in known_stages() for key in stage.cites}
    assert set(CITATIONS) == used | {"gpu4d"}, "a publication that no stage cites is of no use"


def test_fields_that_results_rest_on_are_those_of_a_calibration():
    for stage in known_stages():
        for name in stage.rests_on:
            assert hasattr(gpu4d.Calibration(), name), (stage.name, name)


@pytest.mark.parametrize("key", CITATIONS)
def test_an_entry_is_complete(key):
    one = CITATIONS[key]
    assert one.title in as_text(key) and str(one.year if one.journal else gpu4d.__version__) in as_text(key)
    entry = as_bibtex([key])
    assert entry.count("{") == entry.count("}") and f"{{{key}," in entry
    if one.journal:
        assert re.fullmatch(r"10\.\d{4,}/\S+", one.doi) and f"doi = {{{one.doi}}}" in entry


def test_gpu4d_is_cited_as_its_citation_file_says(checkout):
    text = (Path(checkout) / "CITATION.cff").read_text(encoding="utf-8")
    said = dict(re.findall(r'^(?:  - )?(title|license|name|version): "?([^"\n]+)"?$', text, flags=re.M))
    entry = as_bibtex(["gpu4d"])
    assert said["title"] in entry and said["name"] in entry and said["license"] in entry and said["version"] in entry


def test_keys_without_brackets_are_no_citations():
    assert keys_in("mail@example.org and [1, 2]") == []
