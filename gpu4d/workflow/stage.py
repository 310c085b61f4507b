"""Define a stage of a run: the interface through which a technique joins `gpu4d run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from gpu4d.streaming.reduction import Reduction, Result
    from gpu4d.workflow.gates import GateRule
    from gpu4d.workflow.picture import Drawn
    from gpu4d.workflow.run_state import RunState
    from gpu4d.workflow.settings import Section


@dataclass(frozen=True)
class Reason:
    """Whether a stage runs, and why. The report shows both for every stage."""

    wanted: bool
    why: str


def yes(why: str) -> Reason:
    """Return the reason of a stage that runs."""
    return Reason(True, why)


def no(why: str) -> Reason:
    """Return the reason of a stage that does not run."""
    return Reason(False, why)


class Stage:
    """One technique, or one step that techniques share.

    The order of a run follows from `needs`, `uses` and `makes`. No stage calls another one. Stages that are ready at the same time
    share one pass over the scan.

    Attributes
    ----------
    name : str
        Name of the stage.
    title : str
        What it does, in a few words, for progress bars and the report.
    guide : tuple of str
        Letters of the guide's stages that it belongs to, as ("R",). Empty for a technique that the guide has not.
    settings : type or None
        A dataclass for its section of the recipe. Fields are made by `gpu4d.workflow.settings.setting`. A method `contradiction`
        may return a text if values contradict each other.
    section : str
        Name of that section.
    needs : tuple of str
        Results of other stages. If one of them cannot be made, this stage does not run, and the report says why.
    uses : tuple of str
        Results that are used if they exist. The stage waits until each exists or cannot be made.
    makes : tuple of str
        Results that it stores in the state. A stage that cannot make one of them gives a warning and leaves it out.
    compiles : tuple of str
        Names of `gpu4d.workflow.prepare.JOBS`: what it needs on the CPU that takes seconds to compile. It is compiled before `reductions`
        is called.
    rests_on : tuple of str
        Fields of the calibration that its numbers are as right as. The report says which of them were not measured.
    cites : tuple of str
        Keys of `gpu4d.workflow.report.citations` that `methods` may name.
    gates : tuple of GateRule
        Gates of its own, for stages of other packages: gpu4d's are in `gpu4d.workflow.gates`. Their limits are settings of the recipe's
        section [gates], as those of all gates. `state.record.measure(rule, value, words)` compares a number with them.
    place : int
        Place of its pictures and of its headline in the report. Small numbers come first.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    guide: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[type | None] = None
    section: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    compiles: ClassVar[tuple[str, ...]] = ()
    rests_on: ClassVar[tuple[str, ...]] = ()
    cites: ClassVar[tuple[str, ...]] = ()
    gates: ClassVar[tuple[GateRule, ...]] = ()
    place: ClassVar[int] = 50

    def given(self, state: RunState) -> Section:
        """Return this stage's section of the recipe."""
        return state.recipe[self.section]

    def check(self, state: RunState) -> None:
        """Refuse settings that cannot be carried out, such as a file that is not there. Called before any work is done.

        Raises
        ------
        InputError
        """

    def wanted(self, state: RunState) -> Reason:
        """Decide whether this stage makes sense for this scan. Called once, when all results it needs and uses are made or cannot be."""
        return yes("part of every run")

    def reductions(self, state: RunState) -> dict[str, Reduction]:
        """Return the reductions that it wants in the next pass, by its own names. Empty for stages that work on small results."""
        return {}

    def finish(self, state: RunState, results: dict[str, Result]) -> None:
        """Work on the results of the pass: store results, and record decisions, gates and key figures.

        Parameters
        ----------
        state : RunState
            Holds the results it needs, and receives the results it makes.
        results : dict
            Results of its own reductions, by the names it gave them.
        """

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        """Draw its results. Called after all stages, and only if this one ran."""
        return iter(())

    def files(self, state: RunState, folder: Path) -> None:
        """Write files for other programs into the result folder. Called after all stages, and only if this one made a result."""

    def headline(self, state: RunState) -> str | None:
        """Return the first sentence of the report if this stage has the main result of the run, else None."""
        return None

    def has_result(self, state: RunState) -> bool:
        """Return whether its headline tells an answer of the run. False for one that only says what is missing."""
        return True

    def methods(self, state: RunState) -> str:
        """Return what it did as sentences of the methods section of a paper, with numbers and units. Empty if it needs none.

        A citation stands as ``[@key]`` or ``[@key; @key]`` behind what it is of. The keys are those in `cites`. Called after all stages,
        and only if this one ran.
        """
        return ""
