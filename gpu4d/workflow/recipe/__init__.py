"""Settings of a run: sections, the recipe, and its text for readers."""

from gpu4d.workflow.recipe.recipe import Recipe, default, known_sections
from gpu4d.workflow.recipe.schema import recipe_schema
from gpu4d.workflow.recipe.text import explain, to_toml

__all__ = ["Recipe", "default", "explain", "known_sections", "recipe_schema", "to_toml"]
