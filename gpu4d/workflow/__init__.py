"""Analyse a scan from file to report: recipes, stages, decisions, quality gates.

`run` does what `gpu4d run` does. `analyse` does the same in memory, for a DataCube.
"""

from gpu4d.workflow.analyse import analyse
from gpu4d.workflow.pipeline import Result, run
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage

__all__ = ["Reason", "Recipe", "Record", "Result", "RunState", "Stage", "analyse", "run"]


def __dir__() -> list[str]:
    return list(__all__)
