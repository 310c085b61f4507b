"""Every setting of a recipe: a run reads it, a page or a test names it, and it says how to choose its value."""

import importlib
import re

import numpy as np
import pytest
from blank_pictures import not_rendered
from recipes_in_tests import recipe

import gpu4d
from gpu4d.cli_flags import FLAGS
from gpu4d.workflow import Recipe, analyse
from gpu4d.workflow.inputs import open_scan
from gpu4d.workflow.keeping.watching import SETTING, Watch, WatchedRecipe
from gpu4d.workflow.recipe.text import explain

OPTICS = {"calibration__energy": 80e3, "calibration__semiangle": 32.0, "calibration__r_pixel": 0.5}
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
    files = [*(checkout / "docs").rglob("*.md"), *(checkout / "tests" / "workflow").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    flags = {name: "--" + flag.replace("_", "-") for flag, name in FLAGS.items()}
    nowhere = []
    for name, _, _ in Recipe().values():
        section, _, key = name.partition(".")
        flag = flags.get(name, "--" + key.replace("_", "-"))
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


CALLS = ("scan_drift", "dpc", "ssb", "reconstruct", "classify", "fem", "rdf", "match_orientations", "amorphous_strain")  # of the library
PLACES = {"reconstruct": "gpu4d.workflow.stages.ptychography", "match_orientations": "gpu4d.orientation"}


def read_by(work, **settings):
    """Return the settings that a piece of work reads of a recipe, and the options with which it calls the library."""
    watch, given, asked = Watch(str), recipe(**settings), {}

    def recorded(name, call):
        def called(*positional, **options):
            asked.setdefault(name, options)
            return call(*positional, **options)

        return called

    watch.begin()
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            place = importlib.import_module(PLACES.get(name, "gpu4d"))
            patch.setattr(place, name, recorded(name, getattr(place, name)))
        work(Seen(given, watch))
    return {name.partition(" ")[2] for name in watch.reads if name.startswith(f"{SETTING} ")}, asked


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    np.save(folder / "frames.npy", np.random.default_rng(0).poisson(5, (20, 24, 24)).astype(np.uint8))
    thin = gpu4d.simulate.phase_object_scan((10, 10), (32, 32), r_pixel=0.5, semiangle=32.0, dose=1e5, rotation=0.3, seed=1)
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


OF_A_LIBRARY_CALL = {  # settings that a run hands on: a value other than the default, and the option that has it
    "drift.max_drift": (3.5, "scan_drift", "max_drift", 3.5),
    "dpc.bragg_angle": (7.0, "dpc", "bragg_angle", 7.0),
    "phase.epsilon": (0.02, "ssb", "epsilon", 0.02),
    "ptychography.modes": (2, "reconstruct", "modes", 2),
    "ptychography.source": (0.3, "reconstruct", "source", 0.3),
    "ptychography.correct_positions": (True, "reconstruct", "correct_positions", True),
    "classification.smooth": (0.7, "classify", "smooth", 0.7),
    "fem.normalise": (True, "fem", "normalise", "total"),
    "rdf.density": (0.06, "rdf", "density", 0.06),
    "rdf.low_r_rounds": (3, "rdf", "low_r_rounds", 3),
    "orientation.step_degrees": (4.0, "match_orientations", "step", np.radians(4.0)),
    "orientation.min_disks": (5, "match_orientations", "min_peaks", 5),
    "orientation.overlaps": (False, "match_orientations", "overlaps", False),
}


OF_FILES = {"orientation.ang"}  # read when results are written: tests/workflow/test_orientation_of_a_run.py


def set_of(*sections):
    """Return the values of that table for some sections, as keywords of `recipe`."""
    return {n.replace(".", "__"): row[0] for n, row in OF_A_LIBRARY_CALL.items() if n.partition(".")[0] in sections}


@pytest.fixture(scope="module")
def runs(place):
    """What runs read, and the options of their calls: one of each technique, of the smallest scans on which its stages run."""
    pytest.importorskip("gemmi")
    second, shadow = str(place / "second.npy"), str(place / "shadow.npy")
    points = [[1, 1, 2, 3], [1, 8, 3, 28], [8, 1, 26, 2], [7, 7, 25, 26]]
    thin = OPTICS | set_of("dpc")
    classes = {"classification__on": True, "classification__classes": 2}
    axes = {"strain__axis": "g1", "strain__along": "both", "drift__jitter": True, "orientation__structures": ["Au"]}
    axes |= {"calibration__q_pixel": 0.035}  # 14 px are the 0.49 1/Å of (200)
    ring = {"calibration__q_pixel": 0.0225, "ellipse__inner": 0.3, "ellipse__outer": 0.9, "rdf__composition": "Cu50Zr50"}
    of_points = {"shadow__images": shadow, "shadow__points": points, "shadow__side": "under"}
    asked = (
        (of_frames(place), {"input__scan_shape": [4, 4], "input__flyback": 1, "corrections__streaks": "on"}, "images", ()),
        (of_crystal, KNOWN | classes | axes, "bragg", ("classification", "orientation")),
        (of_thin(place), thin | of_points | {"drift__second": second}, "ssb", ("phase", "drift")),
        (
            of_thin(place),
            thin | {"shadow__images": shadow, "shadow__positions": [[4, 4]], "shadow__center": [16, 16], "shadow__radius": 8},
            "dpc",
            (),
        ),
        (of_thin(place), thin | {"ptychography__sweeps": 1}, "ptychography", ("ptychography",)),
        (of_thin(place), thin, "parallax", ()),
        (of_thin(place), thin | {"magnetic__second": second}, "magnetic", ()),
        (of_glass, KNOWN | ring, "amorphous", ("fem", "rdf")),
    )
    reads, calls = set(), {}
    with not_rendered():
        for work, settings, technique, sections in asked:
            seen, called = read_by(work, **settings, **set_of(*sections), analysis__technique=technique)
            reads |= seen
            for name, options in called.items():
                calls.setdefault(name, []).append(options)
    return reads, calls


@pytest.mark.slow
def test_some_run_reads_each(runs):
    """A setting that no stage of any technique reads is dead."""
    unread = {name for name, _, _ in Recipe().values()} - runs[0] - OF_FILES
    assert not unread, f"settings that no run reads: {sorted(unread)}"


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_A_LIBRARY_CALL)
def test_the_value_reaches_the_calculation(runs, name):
    _, call, option, expected = OF_A_LIBRARY_CALL[name]
    assert expected in [options.get(option) for options in runs[1][call]]
