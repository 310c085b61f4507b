"""Write the gates of a run into its result file as a table, and read them back."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu4d.errors import InputError
from gpu4d.io.reading import read_emd
from gpu4d.workflow.gates import FAIL, PASS, Band
from gpu4d.workflow.record import Gate

NAME = "gates"  # of the table among the metadata of the file
RESULT = "result.h5"  # of a result folder
TEXTS = ("name", "key", "status", "unit", "measured", "expected", "advice")
LIMITS = ("warn_low", "warn_high", "fail_low", "fail_high")


def gates_table(gates: Sequence[Gate]) -> dict[str, list[str] | list[float]]:
    """Return gates as columns: texts, the value, and its limits. NaN stands for a limit or a number that there is not.

    Examples
    --------
    >>> table = gates_table([Gate("Curl", False, "30 %", "at most 25 %", "look", 30.0, "%", (None, 25.0), (None, 45.0))])
    >>> table["status"], table["value"], table["warn_high"], table["warn_low"]
    (['warn'], [30.0], [25.0], [nan])
    """
    columns: dict[str, list[str] | list[float]] = {text: [str(getattr(gate, text)) for gate in gates] for text in TEXTS}
    columns["value"] = [_number(gate.value) for gate in gates]
    bands = [(*gate.warn, *gate.fail) for gate in gates]
    columns.update((name, [_number(band[i]) for band in bands]) for i, name in enumerate(LIMITS))
    return columns


def read_gates(result: str | os.PathLike[str]) -> list[Gate]:
    """Return the gates of a run from its result file.

    Parameters
    ----------
    result : path
        A result folder, or its result.h5.

    Returns
    -------
    list of Gate
        Empty if the run had none, as results of versions before this table.

    Raises
    ------
    InputError
        No result of gpu4d, or a table that is damaged.
    """
    path = Path(result)
    path = path / RESULT if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file: give the folder that `gpu4d run` wrote, or its {RESULT}")
    table: Mapping[str, Any] = read_emd(path, only=()).get(NAME) or {}
    if not table:
        return []
    try:
        count = len(table["name"])
        columns = {name: [table[name][i] for i in range(count)] for name in (*TEXTS, "value", *LIMITS)}
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path}: its table of gates is damaged ({error}): run the analysis again") from None
    return [_gate({name: column[i] for name, column in columns.items()}) for i in range(count)]


def plain(gate: Gate) -> dict[str, object]:
    """Return a gate for JSON, with its status in a word. A number that is not finite is null there."""
    held = {**asdict(gate), "status": gate.status}
    return held if gate.value is None or math.isfinite(gate.value) else {**held, "value": None}


def _gate(row: Mapping[str, Any]) -> Gate:
    value, status = float(row["value"]), row["status"]
    words = row["name"], status == PASS, row["measured"], row["expected"], row["advice"]
    known = None if math.isnan(value) else value
    return Gate(*words, known, row["unit"], _band(row, "warn"), _band(row, "fail"), status == FAIL, row["key"])


def _band(row: Mapping[str, Any], word: str) -> Band:
    return _limit(row[f"{word}_low"]), _limit(row[f"{word}_high"])


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _limit(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
