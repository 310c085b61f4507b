"""Say what a scan suggests for the settings of a recipe, from a few of its patterns."""

from gpu4d.workflow.advising.collect import suggestions
from gpu4d.workflow.advising.look import Look, look_at
from gpu4d.workflow.advising.purposes import PURPOSES, purpose_recipe
from gpu4d.workflow.advising.suggestion import Suggestion

__all__ = ["PURPOSES", "Look", "Suggestion", "look_at", "purpose_recipe", "suggestions"]
