"""Every setting of a recipe: a run reads it, a page or a test names it, and it says how to choose its value."""

import re

import numpy as np
import pytest
from blank_pictures import not_rendered
from recipes_in_tests import recipe

import gpu4d
from gpu4d.io.toml import literal
from gpu4d.workflow import Recipe, analyse
from gpu4d.workflow.inputs import open_scan
from gpu4d.workflow.keeping.watching import SETTING, Watch, WatchedRecipe
from gpu4d.workflow.recipe.text import explain

OPTICS = {"calibration__energy": 80e3, "calibration__semiangle": 25.0, "calibration__r_pixel": 0.4}
KNOWN = {"calibration__energy": 200e3, "calibration__semiangle": 3.0, "calibration__r_pixel": 20.0}


def test_each_says_how_to_choose_its_value():
    without = [name for name, _, rule in Recipe().values() if not rule.tune]
    assert not without, f"settings without `tune`: {without}"
    for name, _, rule in Recipe().values():
        assert rule.tune.rstrip("”").endswith("."), f"{name}: {rule.tune}"
        for sentence in re.split(r"(?<=[.:;]) ", rule.tune):
            assert len(sentence.split()) <= 40, f"{name}: one thought a sentence: {sentence}"
    assert explain(Recipe()).count("How to tune: ") == len(list(Recipe().values()))


def test_each_is_named_by_a_page_or_a_test(checkout):
    """A setting that stands nowhere is either dead or nobody can find it."""
    pages = [path for path in (checkout / "docs").rglob("*.md") if path.name != "recipes.md"]
    tests = [path for path in (checkout / "tests").rglob("*.py") if path.name != "test_every_setting.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*pages, *tests, checkout / "docs" / "how-to" / "recipes.md"])
    nowhere = []
    for name, _, _ in Recipe().values():
        section, _, key = name.partition(".")
        flag = "--" + key.replace("_", "-")
        wanted = rf"{section}\.{key}\b|{section}__{key}\b|\[{section}\][^\[]*\b{key} ?=|`{key} = |`{key}`|{flag}\b"
        if section != "gates" and not re.search(wanted, text):
            nowhere.append(name)
    assert not nowhere, f"settings that neither a page nor a test names: {nowhere}"


class Seen(WatchedRecipe):
    """A recipe that remembers which settings are read. What goes over all settings alike, as the advice of a run does, is not counted."""

    def __init__(self, given, watch):
        super().__init__(given, watch)
        self._plain = self.__dict__.pop("unwatched")

    def values(self):
        return self._plain.values()

    def as_dict(self):
        return self._plain.as_dict()


def read_by(work, **settings):
    """Return the settings that a piece of work reads of a recipe."""
    watch = Watch(str)
    seen = Seen(recipe(**settings), watch)
    watch.begin()
    work(seen)
    return {name.partition(" ")[2] for name in watch.reads if name.startswith(f"{SETTING} ")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    np.save(folder / "frames.npy", np.random.default_rng(0).poisson(5, (20, 24, 24)).astype(np.uint8))
    thin = gpu4d.simulate.phase_object_scan((10, 10), (24, 24), r_pixel=0.4, dose=1e5, rotation=0.3, seed=1)
    np.save(folder / "second.npy", np.asarray(thin.cube.source.array).swapaxes(0, 1))
    np.save(folder / "thin.npy", thin.cube.source.array)
    np.save(folder / "shadow.npy", np.asarray(thin.cube.source.array[0, 0], float))
    return folder


def of_frames(place):
    return lambda seen: analyse(open_scan(place / "frames.npy", seen), seen, cleaned=True)


def of_thin(place):
    return lambda seen: analyse(gpu4d.DataCube(np.load(place / "thin.npy")), seen)


def of_crystal(seen):
    made = gpu4d.simulate.bragg_scan((5, 5), (64, 64), spacing=14.0, radius=3.0, dose=60.0, seed=2)
    analyse(gpu4d.DataCube(made.cube.source.array), seen)


def of_glass(seen):
    made = gpu4d.simulate.amorphous_scan((5, 5), (64, 64), radius=18.0, beam_radius=2.0, q_pixel=0.0225, seed=1)
    analyse(gpu4d.DataCube(made.cube.source.array), seen)


def read_by_runs(place):
    """Return the settings that some run reads: one of each technique, of the smallest scans on which its stages run."""
    second, shadow = str(place / "second.npy"), str(place / "shadow.npy")
    points = [[1, 1, 2, 3], [1, 8, 3, 20], [8, 1, 18, 2], [7, 7, 17, 19]]
    crystal = {**KNOWN, "analysis__technique": "bragg", "classification__on": True, "classification__classes": 2}
    found = read_by(of_frames(place), input__scan_shape=[4, 4], input__flyback=1, analysis__technique="images", corrections__streaks="on")
    found |= read_by(of_crystal, **crystal, orientation__structures=["Au"], strain__axis="g1", strain__along="both",
                     drift__jitter=True)  # fmt: skip
    found |= read_by(of_thin(place), **OPTICS, analysis__technique="ssb", drift__second=second, shadow__images=shadow, shadow__points=points,
                     shadow__side="under")  # fmt: skip
    found |= read_by(of_thin(place), **OPTICS, analysis__technique="dpc", shadow__images=shadow, shadow__positions=[[4, 4]])
    found |= read_by(of_thin(place), **OPTICS, analysis__technique="ptychography", ptychography__sweeps=1)
    found |= read_by(of_thin(place), **OPTICS, analysis__technique="magnetic", magnetic__second=second)
    found |= read_by(of_glass, **{**KNOWN, "calibration__q_pixel": 0.0225}, analysis__technique="amorphous", rdf__composition="Cu50Zr50",
                     ellipse__inner=0.3, ellipse__outer=0.9)  # fmt: skip
    return found


@pytest.mark.slow
def test_some_run_reads_each(place, blank_pictures):
    """A setting that no stage of any technique reads is dead."""
    pytest.importorskip("gemmi")
    unread = {name for name, _, _ in Recipe().values()} - read_by_runs(place)
    assert not unread, f"settings that no run reads: {sorted(unread)}"


assert literal and not_rendered
