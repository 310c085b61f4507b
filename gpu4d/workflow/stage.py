"""What a stage of a run is: the one interface a technique joins `gpu4d run` by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from gpu4d.streaming.reduction import Reduction, Result
    from gpu4d.workflow.picture import Drawn
    from gpu4d.workflow.run_state import RunState
    from gpu4d.workflow.settings import Section


@dataclass(frozen=True)
class Reason:
    """Whether a stage runs, and why. Both are kept and shown, whichever way it goes."""

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

    A run takes its order from `needs`, `uses` and `makes`; no stage calls another one. Stages that are ready at the same time share
    one pass over the scan.

    Attributes
    ----------
    name : str
        Of the stage.
    title : str
        What it does, in a few words: for progress and for the report.
    settings : type or None
        A dataclass whose fields are made by `gpu4d.workflow.settings.setting`: its section of the recipe. A method `contradiction`
        may return what is wrong with values that do not go together.
    section : str
        Name of that section.
    needs : tuple of str
        Results of other stages. Where one of them cannot be had, this stage does not run, and the report says why.
    uses : tuple of str
        Results that are used where they exist: the stage waits until each is there or cannot be had.
    makes : tuple of str
        Results it leaves in the state. A stage that cannot make one of them says so in a warning and leaves it out.
    place : int
        Place of its pictures and of its headline in the report; small numbers come first.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    settings: ClassVar[type | None] = None
    section: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    place: ClassVar[int] = 50

    def given(self, state: RunState) -> Section:
        """Return this stage's section of the recipe."""
        return state.recipe[self.section]

    def wanted(self, state: RunState) -> Reason:
        """Decide whether this stage makes sense for this scan. Asked once, when everything it needs and uses is settled."""
        return yes("part of every run")

    def reductions(self, state: RunState) -> dict[str, Reduction]:
        """Return what it asks of the next pass over the scan, by names of its own; nothing for stages that work on small results."""
        return {}

    def finish(self, state: RunState, results: dict[str, Result]) -> None:
        """Work on the results of the pass: products, decisions, gates, key figures.

        Parameters
        ----------
        state : RunState
            Where it reads what it needs and leaves what it makes.
        results : dict
            Of its own reductions, by the names it gave them.
        """

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        """Draw what it made. Called after all stages, and only if this one ran."""
        return iter(())

    def headline(self, state: RunState) -> str | None:
        """Return the first sentence of the report, if this stage has the answer to the whole run; None otherwise."""
        return None
