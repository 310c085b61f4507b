"""Hold what a reconstruction changes from sweep to sweep, and keep it in a file."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.errors import InputError

PARTS = ("object", "probes", "object_momentum", "probe_momentum")


@dataclass
class State:
    """What a reconstruction changes.

    Attributes
    ----------
    object : (S, X, Y) complex
        Transmission of the slices, in detector axes.
    probes : (M, N, N) complex
        Ψ in the aperture's plane, zero frequency first.
    object_momentum, probe_momentum
        The last steps of both.
    positions : (n, 2) float64
        Å, in scan axes.
    losses : list of float
        One for each sweep that is done.
    """

    object: Any
    probes: Any
    object_momentum: Any
    probe_momentum: Any
    positions: np.ndarray
    losses: list[float] = field(default_factory=list)


def write_state(path: str | os.PathLike[str], state: State, settings: dict[str, Any]) -> None:
    """Write a state beside its place, and rename the file when it is complete. An older one stays until then."""
    path = os.fspath(path)
    beside = f"{path}.part"
    try:
        with open(beside, "wb") as file:
            parts = {name: arrays.to_numpy(getattr(state, name)) for name in PARTS}
            parts |= {"positions": state.positions, "losses": np.array(state.losses)}
            np.savez(file, allow_pickle=False, settings=np.array(json.dumps(settings, sort_keys=True)), **parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if os.path.exists(beside):
            os.remove(beside)
        raise InputError(f"the checkpoint {path} cannot be written ({error.strerror}): give a place with room") from error


def read_state(path: str | os.PathLike[str], like: Any, settings: dict[str, Any]) -> State:
    """Read a state that was made with the same settings, into the library and on the device of the array `like`."""
    name = os.fspath(path)
    try:
        with np.load(name, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
        kept = json.loads(str(found["settings"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{name} is no checkpoint of a reconstruction ({error}): give a file that checkpoint= wrote") from error
    wanted = json.loads(json.dumps(settings, sort_keys=True))
    other = [key for key in sorted(kept.keys() | wanted.keys()) if kept.get(key) != wanted.get(key)]
    if other:
        text = "; ".join(f"{key} was {kept.get(key)}, now {wanted.get(key)}" for key in other)
        raise InputError(f"{name} was made with other settings ({text}): give the same ones, or start without resume=")
    objects, probes, object_momentum, probe_momentum = (arrays.from_numpy(found[part], like) for part in PARTS)
    return State(objects, probes, object_momentum, probe_momentum, found["positions"], [float(v) for v in found["losses"]])
