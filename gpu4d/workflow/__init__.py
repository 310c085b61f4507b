"""From a file to a report: recipes, stages, decisions, quality gates.

`run` does what `gpu4d run` does; `analyse` does it in memory, for a DataCube.
"""

from gpu4d.workflow.analysis import Analysis, analyse
from gpu4d.workflow.pipeline import Result, run
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.record import Record

__all__ = ["Analysis", "Recipe", "Record", "Result", "analyse", "run"]
