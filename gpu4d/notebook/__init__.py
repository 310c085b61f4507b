"""Show results in notebooks: a table of facts with units, and a small picture.

Results show themselves if they are the last line of a cell (`_repr_html_`). `html` returns the same text, for other pages.
"""

from gpu4d.notebook.card import html

__all__ = ["html"]


def __dir__() -> list[str]:
    return list(__all__)
