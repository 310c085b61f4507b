"""Put our functions in the place of py4DSTEM's, and take them out again."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from gpu4d.errors import InputError
from gpu4d.interop.py4dstem import _detection, _dpc, _images, _lattices, _phase
from gpu4d.interop.py4dstem._library import library
from gpu4d.interop.py4dstem._replacing import Place, Replacement

log = logging.getLogger("gpu4d")

# What can be replaced, by the word that `accelerate` takes. Each is a function, because py4DSTEM is imported only when it is called.
PARTS: dict[str, Callable[[], Iterable[Replacement]]] = {
    "disks": _detection.replacements,
    "images": _images.replacements,
    "phase": _phase.replacements,
    "lattice": _lattices.replacements,
    "dpc": _dpc.replacements,
}
USUAL = ("disks", "images", "phase", "lattice")  # those that give py4DSTEM's numbers

_lock = threading.Lock()
_users: Counter[str] = Counter()  # of each part: accelerations that are in force
_originals: dict[str, list[tuple[Place, Callable[..., Any]]]] = {}  # of each part: what stood where


class Acceleration:
    """An acceleration of py4DSTEM that is in force until `undo`, or until its `with` block ends.

    Attributes
    ----------
    parts : tuple of str
        What it replaces.

    Examples
    --------
    >>> fast = gpu4d.interop.py4dstem.accelerate()  # doctest: +SKIP
    >>> fast.undo()  # doctest: +SKIP
    """

    def __init__(self, parts: tuple[str, ...]):
        self.parts = parts
        self._in_force = True
        with _lock:
            done: list[str] = []
            try:
                for part in parts:
                    _begin(part)
                    done.append(part)
            except BaseException:
                for part in done:
                    _end(part)
                raise

    def undo(self) -> None:
        """Give py4DSTEM its own functions back, unless another acceleration needs ours. A second call does nothing."""
        with _lock:
            if self._in_force:
                self._in_force = False
                for part in self.parts:
                    _end(part)

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"Acceleration({', '.join(self.parts)}: {'in force' if self._in_force else 'undone'})"


def accelerate(parts: str | Iterable[str] = USUAL) -> Acceleration:
    """Let py4DSTEM compute with gpu4d, under its own names, rules, thresholds, orders and types.

    Replaced are

    * "disks": `find_Bragg_disks`, also as a method of a DataCube,
    * "images": `get_virtual_image` of a DataCube,
    * "phase": the centre of mass in `preprocess` of DPC and ptychography,
    * "lattice": `fit_basis_vectors` of a StrainMap, `add_indices_to_braggvectors` and `fit_lattice_vectors_all_DPs`,
    * "dpc", only if it is asked for: `reconstruct` of DPC gives the phase that its iterations approach, whatever `max_iter` is.

    What we do not do, as a filter function or CUDA=True, goes to py4DSTEM's own function. The log of "gpu4d" says so once, with the
    reason. There are no progress bars.

    Parameters
    ----------
    parts : str or sequence of str
        What to replace. By default "disks", "images", "phase" and "lattice", which give py4DSTEM's numbers.

    Returns
    -------
    Acceleration
        In force at once. Use it in a `with` statement, or call its `undo`.

    Raises
    ------
    InputError
        A part is not known, or py4DSTEM is not installed.

    Notes
    -----
    The replacement holds for the whole process, in all threads. Accelerations may be nested, and begun and undone from any thread: the
    last one that ends gives the functions back. A call that runs at that moment ends with the function that it began with.

    Positions of disks differ from py4DSTEM's by up to 5e-4 px, because maps are computed in float32. Two maxima whose heights differ by
    less than 1e-6 of the strongest may change places.

    Examples
    --------
    >>> with gpu4d.interop.py4dstem.accelerate():  # doctest: +SKIP
    ...     braggvectors = datacube.find_Bragg_disks(template=probe.kernel, minPeakSpacing=12, edgeBoundary=6)
    """
    chosen = (parts,) if isinstance(parts, str) else tuple(parts)
    for part in chosen:
        if part not in PARTS:
            raise InputError(f"accelerate({part!r}): need one or several of {', '.join(map(repr, PARTS))}")
    library()
    return Acceleration(tuple(dict.fromkeys(chosen)))


def _begin(part: str) -> None:
    """Replace the functions of a part, unless they are replaced already."""
    if _users[part] == 0:
        held: list[tuple[Place, Callable[..., Any]]] = []
        _originals[part] = held
        try:
            for replacement in PARTS[part]():
                for place in _places(replacement):
                    own = vars(place.owner)[place.name]
                    held.append((place, own))
                    setattr(place.owner, place.name, _replaced(part, own, replacement))
        except BaseException:
            _restore(part)
            raise
    _users[part] += 1


def _end(part: str) -> None:
    _users[part] -= 1
    if _users[part] == 0:
        _restore(part)


def _restore(part: str) -> None:
    for place, own in reversed(_originals.pop(part, [])):
        setattr(place.owner, place.name, own)


def _places(replacement: Replacement) -> list[Place]:
    """Return where the function stands: in its class, or under its name in all modules of py4DSTEM that have imported it."""
    owner, name = replacement.place.owner, replacement.place.name
    if inspect.isclass(owner):
        return [replacement.place]
    own = getattr(owner, name)
    modules = [m for m in list(sys.modules.values()) if getattr(m, "__name__", "").partition(".")[0] == "py4DSTEM"]
    return [Place(module, name) for module in modules if vars(module).get(name) is own]


def _replaced(part: str, own: Callable[..., Any], replacement: Replacement) -> Callable[..., Any]:
    """Return a function that calls ours, or py4DSTEM's where ours refuses, and when the part is no longer in force.

    The latter happens to a script that imported the function by name while it was in force.
    """
    signature, said = inspect.signature(own), set[str]()

    @functools.wraps(own)
    def call(*args: Any, **options: Any) -> Any:
        if not _users[part]:
            return own(*args, **options)
        try:
            bound = signature.bind(*args, **options)
        except TypeError:
            return own(*args, **options)  # raises the same, in py4DSTEM's words
        bound.apply_defaults()
        given = dict(bound.arguments)
        reason = replacement.refuses(given)
        if reason is not None:
            if reason not in said:
                said.add(reason)
                log.info("py4DSTEM's own %s runs, because %s", own.__qualname__, reason)
            return own(*args, **options)
        return replacement.ours(own, given)

    return call
