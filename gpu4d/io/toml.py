"""Write values as TOML. Python reads TOML, but does not write it."""

from __future__ import annotations

import json
from typing import Any


def literal(value: Any) -> str:
    """Write a value as in TOML.

    Examples
    --------
    >>> literal([True, 2, 0.5, "Å"])
    '[true, 2, 0.5, "Å"]'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(v) for v in value) + "]"
    return repr(value)
