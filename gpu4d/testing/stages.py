"""Tests of what every stage of a run must do. A package with its own technique can inherit them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gpu4d
from gpu4d.plot.canvas import figure_of
from gpu4d.streaming.reduction import Reduction
from gpu4d.workflow.picture import Picture
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.schedule import carry_out, check
from gpu4d.workflow.settings import Rule, checked
from gpu4d.workflow.stage import Reason, Stage
from gpu4d.workflow.stages import known_stages


class StageTests:
    """Tests of a `Stage`, for pytest. A subclass names the stage, and may choose the scan and the recipe.

    The stage is tested in a whole run with all stages that are installed. So it must be known to `gpu4d.workflow.stages`, by the
    table there or by an entry point of the group "gpu4d.stages". Runs with the same scan, recipe and stages are kept, so that several
    test classes share one.

    Attributes
    ----------
    name : str
        Name of the stage.
    optional : tuple of str
        Results in its `makes` that are not made with this scan and recipe, without a warning.

    Examples
    --------
    >>> class TestTechnique(StageTests):
    ...     name = "technique"
    >>> TestTechnique().test_its_settings_explain_themselves()
    """

    name: ClassVar[str]
    optional: ClassVar[tuple[str, ...]] = ()
    runs: ClassVar[dict[Any, tuple[RunState, dict[str, Watched]]]] = {}

    def cube(self) -> gpu4d.DataCube:
        """Return a small scan on which the stage runs. By default a thin phase object."""
        made = gpu4d.simulate.phase_object_scan((12, 11), (32, 32), r_pixel=0.6, dose=2e4, seed=1)
        return gpu4d.DataCube(made.cube.source, gpu4d.Calibration(energy=80e3, semiangle=25.0, r_pixel=0.6))

    def recipe(self) -> Recipe:
        """Return the settings of the run. Override it if the stage needs others than the defaults."""
        return Recipe()

    @property
    def stage(self) -> Stage:
        """The stage of this name among those that are installed."""
        found = [stage for stage in known_stages() if stage.name == self.name]
        assert len(found) == 1, f"{len(found)} installed stages are called {self.name!r}: need one"
        return found[0]

    # ---------------------------------------------------------------- its description

    def test_says_what_it_is(self):
        """Test that it has a name, a title, tuples of results, and a section of the recipe if it has settings."""
        stage = self.stage
        assert isinstance(stage, Stage) and stage.title and isinstance(stage.place, int)
        for what in ("needs", "uses", "makes"):
            names = getattr(stage, what)
            assert isinstance(names, tuple) and all(isinstance(name, str) for name in names), f"{what} = {names!r}: need a tuple of names"
        assert not set(stage.makes) & {*stage.needs, *stage.uses}, "it waits for what it makes"
        assert stage.settings is None or stage.section, "settings need the name of a section"

    def test_its_settings_explain_themselves(self):
        """Test that each setting has a rule with an explanation, and a default that the rule accepts or None."""
        for field in dataclasses.fields(self.stage.settings) if self.stage.settings is not None else ():
            rule = field.metadata.get("rule")
            assert isinstance(rule, Rule) and rule.explain, f"{field.name}: make it with gpu4d.workflow.settings.setting"
            if field.default is not None:
                checked(field.name, field.default, rule)

    def test_fits_among_the_others(self):
        """Test that other stages make what it needs, that no two make the same, and that none wait for each other."""
        check(known_stages())
        makers = {name for stage in known_stages() for name in stage.makes}
        assert {*self.stage.needs} <= makers, f"no stage makes {sorted({*self.stage.needs} - makers)}"

    # ---------------------------------------------------------------- what it does in a run

    def test_gives_a_reason(self):
        """Test that it gives a reason, and that it runs on this scan."""
        reason = self._run()[0].reasons[self.name]
        assert isinstance(reason, Reason) and reason.why
        assert reason.wanted, f"it does not run on this scan ({reason.why}): choose another cube or recipe"

    def test_asks_for_reductions(self):
        """Test that it asks for reductions, by its own names."""
        for name, reduction in self._watched().asked.items():
            assert isinstance(name, str) and isinstance(reduction, Reduction), f"{name}: need a gpu4d.streaming.Reduction"

    def test_makes_what_it_says(self):
        """Test that its results are those in `makes`, and that a warning says why one is missing."""
        watched, made = self._watched(), self._watched().made
        assert made <= {*self.stage.makes}, f"{sorted(made - {*self.stage.makes})} is missing in makes"
        missing = {*self.stage.makes} - made - {*self.optional}
        assert not missing or watched.warned, f"{sorted(missing)} is not made, and no warning says why"

    def test_reads_what_it_says(self):
        """Test that it reads only results named in `needs` or `uses`, because its place in a run follows from these."""
        known = {*self.stage.needs, *self.stage.uses, *self.stage.makes}
        assert self._watched().read <= known, f"it looks at {sorted(self._watched().read - known)}: name it in needs or uses"

    def test_its_pictures_have_captions(self):
        """Test that each picture has a name, a section, a title, a caption and a figure."""
        import matplotlib.pyplot as plt

        state, _ = self._run()
        for picture, drawn in self.stage.pictures(state):
            assert isinstance(picture, Picture) and all((picture.name, picture.section, picture.title, picture.caption))
            plt.close(figure_of(drawn))  # says what is needed, if it is neither a figure nor what a function of gpu4d.plot returns

    def test_its_headline_is_a_sentence(self):
        """Test that its headline is a sentence, or None if another stage has the main result."""
        headline = self.stage.headline(self._run()[0])
        assert headline is None or (isinstance(headline, str) and headline)

    # ---------------------------------------------------------------- the run

    def _run(self) -> tuple[RunState, dict[str, Watched]]:
        """Return the state at the end of a run with all stages, and a record of each stage."""
        kind = type(self)
        key = kind.cube, kind.recipe, tuple(map(type, known_stages()))
        if key not in StageTests.runs:
            watched = [Watched(stage) for stage in known_stages()]
            state = WatchedState(self.cube(), self.recipe(), Record())
            with state.record.listening():
                carry_out(watched, state)
            StageTests.runs[key] = state, {one.name: one for one in watched}
        return StageTests.runs[key]

    def _watched(self) -> Watched:
        return self._run()[1][self.name]


@dataclasses.dataclass
class WatchedState(RunState):
    """A state of a run that notes in `read` which results are read."""

    read: set[str] = dataclasses.field(default_factory=set)

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str) -> Any:
        """Return a result by its name, or None."""
        self.read.add(name)
        return super().get(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(str(name))


class Watched(Stage):
    """A stage that notes what another one reads, asks for and makes.

    Attributes
    ----------
    read, made : set of str
        Names of results that it read, and of results that it made.
    asked : dict of str to Reduction
    warned : bool
        Whether it gave a warning.
    """

    def __init__(self, stage: Stage):
        self.stage = stage
        for what in ("name", "title", "settings", "section", "needs", "uses", "makes", "place"):
            setattr(self, what, getattr(stage, what))
        self.read: set[str] = set()
        self.made: set[str] = set()
        self.asked: dict[str, Any] = {}
        self.warned = False

    def wanted(self, state: Any) -> Reason:
        """Ask the stage."""
        return self._noting(state, self.stage.wanted, state)

    def reductions(self, state: Any) -> dict[str, Any]:
        """Ask the stage, and keep the answer."""
        self.asked = self._noting(state, self.stage.reductions, state)
        return self.asked

    def finish(self, state: Any, results: dict[str, Any]) -> None:
        """Let the stage finish."""
        self._noting(state, self.stage.finish, state, results)

    def _noting(self, state: Any, call: Any, *arguments: Any) -> Any:
        state.read.clear()
        before, warnings = set(state.results), len(state.record.warnings)
        answer = call(*arguments)
        self.read |= state.read
        self.made |= set(state.results) - before
        self.warned = self.warned or len(state.record.warnings) > warnings
        return answer
