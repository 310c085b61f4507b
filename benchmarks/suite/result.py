"""Write the file of a result and read it: one JSON with its own hash, in the form that schema.json publishes."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu4d.errors import InputError

FORMAT = "gpu4d-bench"
VERSION = 1
LARGEST = 64 << 20  # bytes: results have some hundred kilobytes; anything else was given by mistake

Result = dict[str, Any]


def canonical(value: object) -> bytes:
    """Return JSON with sorted keys and without spaces, in UTF-8. Floats are written as Python's repr, the shortest that reads back.

    Examples
    --------
    >>> canonical({"b": 0.1, "a": [1, None]})
    b'{"a":[1,null],"b":0.1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def own_hash(result: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of everything but the key "hash"."""
    return hashlib.sha256(canonical({name: value for name, value in result.items() if name != "hash"})).hexdigest()


def write(result: Mapping[str, Any], path: str | Path, *, overwrite: bool = False) -> Result:
    """Write a result with its hash, beside the file and then renamed, so that there is never half a file. Return what was written.

    Parameters
    ----------
    result : mapping
        Its "hash" is computed here.
    path : path
    overwrite : bool
        Write over a file that exists.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: give another name, or replace it with --overwrite")
    sealed = {name: value for name, value in result.items() if name != "hash"}
    try:
        sealed["hash"] = own_hash(sealed)
        text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: it has a value that JSON does not know ({error}); NaN and infinity are written as null") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return sealed


def read(path: str | os.PathLike[str]) -> Result:
    """Return the result in a file. The file must be JSON of this format and a version that is known; `verify` checks the rest."""
    path = Path(path)
    text = _text(path)
    try:
        found = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        if cut and text.lstrip().startswith("{"):
            raise InputError(f"{path} ends in the middle: copy the file again, or go on with --resume") from None
        raise InputError(f"{path} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply for a result of gpu4d bench run") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        given = repr(found.get("format")) if isinstance(found, dict) and "format" in found else "none"
        raise InputError(f"{path} is no result of gpu4d bench run: its format is {given}, needed is {FORMAT!r}")
    version = found.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{path}: its version is {version!r}, needed is a whole number from 1")
    if version > VERSION:
        raise InputError(f"{path} has version {version}; this gpu4d reads up to {VERSION}: install a newer one (pip install -U gpu4d)")
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} has {path.stat().st_size} bytes; a result has less than {LARGEST}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8; needed is the JSON that gpu4d bench run writes") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which JSON has not; a measured value is a finite number or null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {text}, which is not finite")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice: readers would differ in which of them they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it holds the key {twice!r} twice")
    return found
