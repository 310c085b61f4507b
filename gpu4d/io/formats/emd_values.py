"""Write numbers, texts and small arrays of results as EMD metadata, and make them again, with their Python types.

EMD metadata have numbers, texts, arrays, tuples and lists of one kind, and dictionaries. What they do not have becomes a dictionary with an
entry `TYPE`, which other programs show as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.storable import Storable, class_named
from gpu4d.errors import InputError

TYPE = "_type"
SMALL = 64  # values: larger arrays are no metadata, but arrays of the file


def is_small(value: Any) -> bool:
    """Say whether an array may be metadata: it is small, or empty, which EMD has no arrays for, or text."""
    return value.ndim == 0 or value.size <= SMALL or value.dtype.kind in "USO"


def encoded(value: Any, name: str) -> Any:
    """Return a value as EMD metadata have it, so that `decoded` makes it again.

    Parameters
    ----------
    value : None, bool, number, text, array, another result, or tuples, lists and dictionaries of these
    name : str
        What it is, for errors.

    Raises
    ------
    InputError
        A value of another kind.

    Examples
    --------
    >>> encoded((1, "a"), "pair"), decoded(encoded((1, "a"), "pair"))
    ({'_type': 'tuple', '0': 1, '1': 'a'}, (1, 'a'))
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if arrays.is_array(value):
        return _array(arrays.to_numpy(value), name)
    if isinstance(value, Number):
        return value
    if isinstance(value, Storable):
        parts = {part: encoded(held, f"{name}.{part}") for part, held in value.to_parts().items()}
        return {TYPE: "result", "class": value.stored_name(), "parts": parts}
    if isinstance(value, Mapping):
        return _mapping(value, name)
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return _sequence(value, name)
    raise InputError(f"{name} is a {type(value).__name__}, which cannot be saved: need numbers, texts, arrays, or results")


def _array(values: np.ndarray, name: str) -> Any:
    if values.dtype.kind in "US":
        return {TYPE: "texts", "shape": values.shape, "values": values.ravel().astype(str).tolist()}
    if values.dtype.kind not in "biufc":
        raise InputError(f"{name} is an array of {values.dtype}, which cannot be saved: need numbers or texts")
    return values if values.ndim else {TYPE: "number", "values": values.reshape(1)}


def _mapping(value: Mapping[Any, Any], name: str) -> dict[str, Any]:
    plain = all(isinstance(key, str) and key and "\0" not in key for key in value) and TYPE not in value
    if plain:
        return {key: encoded(held, f"{name}[{key!r}]") for key, held in value.items()}
    return {TYPE: "dict", "keys": encoded(tuple(value), f"keys of {name}"), "values": encoded(list(value.values()), name)}


def _sequence(value: tuple[Any, ...] | list[Any], name: str) -> Any:
    alike = {type(held) for held in value} or {float}
    if (len(alike) == 1 and alike <= {int, float, complex, bool}) or (alike == {str} and value):
        return value
    return {TYPE: type(value).__name__} | {str(i): encoded(held, f"{name}[{i}]") for i, held in enumerate(value)}


def decoded(value: Any) -> Any:
    """Return what `encoded` was given. Raise InputError for a result of a class that is not known."""
    if isinstance(value, list | tuple):
        return type(value)(decoded(held) for held in value)
    if not isinstance(value, Mapping):
        return value
    kind = value.get(TYPE)
    if kind == "result":
        return class_named(str(value["class"])).from_parts(decoded(value["parts"]))
    if kind == "texts":
        return np.array(list(value["values"]), dtype=str).reshape(tuple(int(n) for n in value["shape"]))
    if kind == "number":
        return np.asarray(value["values"]).reshape(())
    if kind == "dict":
        return dict(zip(decoded(value["keys"]), decoded(value["values"])))
    if kind in ("tuple", "list"):
        held = [decoded(value[str(i)]) for i in range(len(value) - 1)]
        return tuple(held) if kind == "tuple" else held
    return {key: decoded(held) for key, held in value.items()}
