"""Make the pieces of HTML that a notebook shows: a table of facts, and a small picture beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

LONGEST = 160  # characters of a value: a longer one would fill the screen
UNKNOWN = "not known"

# Styles stand in the elements, because notebooks take no sheet of styles from a result. Colours are those of the notebook, light or dark.
_CARD = "display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start;max-width:900px;font-size:13px;line-height:1.45"
_TITLE = "font-weight:600;margin:0 0 4px 0"
_TABLE = "border-collapse:collapse;border:none;margin:0"
_NAME = "text-align:left;vertical-align:top;font-weight:400;opacity:.7;padding:1px 12px 1px 0;border:none;white-space:nowrap"
_VALUE = "text-align:left;vertical-align:top;padding:1px 0;border:none;overflow-wrap:anywhere"
_FAINT = "opacity:.6"
_PICTURE = "max-width:100%;height:auto;border-radius:3px;background:white"


class Fact(NamedTuple):
    """One line of the table.

    Attributes
    ----------
    name : str
    value : str
        With its unit. Empty for what is not known.
    remark : str
        Where the value comes from, or what it means.
    """

    name: str
    value: str
    remark: str = ""


def fragment(title: str, facts: Sequence[Fact], png: bytes | None = None, about: str = "") -> str:
    """Return a table of facts with a picture as HTML. All texts are escaped.

    Parameters
    ----------
    title : str
    facts : sequence of Fact
    png : bytes, optional
        A PNG file.
    about : str
        What the picture shows, for readers that do not see it.
    """
    rows = "".join(map(_row, facts))
    left = f'<div style="flex:1 1 330px;min-width:0"><div style="{_TITLE}">{_text(title)}</div><table style="{_TABLE}">{rows}</table></div>'
    return f'<div class="gpu4d" style="{_CARD}">{left}{_picture(png, about or title) if png else ""}</div>'


def _row(fact: Fact) -> str:
    value = _text(fact.value) if fact.value else f'<span style="{_FAINT}">{UNKNOWN}</span>'
    remark = f' <span style="{_FAINT}">{_text(fact.remark)}</span>' if fact.remark else ""
    return f'<tr><th style="{_NAME}">{_text(fact.name)}</th><td style="{_VALUE}">{value}{remark}</td></tr>'


def _picture(png: bytes, about: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<div style="flex:0 1 auto"><img alt="{_text(about)}" style="{_PICTURE}" src="data:image/png;base64,{data}"></div>'


def _text(text: str) -> str:
    """Escape a text, and shorten a long one."""
    plain = " ".join(str(text).split())
    return html.escape(plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…", quote=True)
