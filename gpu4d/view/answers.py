"""Answer the requests of a page. The same requests come over HTTP and from a notebook."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.view.scan_view import ScanView, Spoken, detector_from

LONGEST_NAME = 64  # characters by which a page names itself
MOST_CLIENTS = 256  # pages whose newest requests are remembered


class Outdated(Exception):
    """A newer request has come, and the answer is not needed any more."""


class Newest:
    """Tells requests of a page that a newer one of the same kind has come.

    Examples
    --------
    >>> newest = Newest()
    >>> first = newest.ticket("page 1", "image")
    >>> second = newest.ticket("page 1", "image")
    >>> first.outdated, second.outdated, newest.ticket("page 2", "image").outdated
    (True, False, False)
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def ticket(self, client: str, kind: str) -> Ticket:
        """Take the next number of a client and a kind of request."""
        with self._lock:
            number = self._numbers.pop((client, kind), 0) + 1
            self._numbers[client, kind] = number  # the last in the order of the dictionary
            while len(self._numbers) > MOST_CLIENTS:
                del self._numbers[next(iter(self._numbers))]
        return Ticket(self, (client, kind), number)

    def is_newest(self, key: tuple[str, str], number: int) -> bool:
        """Say whether no later number was taken."""
        return self._numbers.get(key, number) == number


class Ticket:
    """The number of a request among those of its kind."""

    def __init__(self, newest: Newest, key: tuple[str, str], number: int):
        self._newest, self._key, self._number = newest, key, number

    @property
    def outdated(self) -> bool:
        """Say whether a newer request has come."""
        return not self._newest.is_newest(self._key, self._number)

    def go_on(self, *_: int) -> None:
        """Raise Outdated if a newer request has come. It is called as the progress of a sweep."""
        if self.outdated:
            raise Outdated


class Answers:
    """Answers requests for one scan.

    Parameters
    ----------
    view : ScanView
    """

    def __init__(self, view: ScanView):
        self.view = view
        self.newest = Newest()
        self._turn = threading.Lock()  # one computation at a time: each of them uses all cores

    def answer(self, request: Spoken) -> tuple[Spoken, np.ndarray]:
        """Return the answer to a request: what is said of it, and its values.

        Parameters
        ----------
        request : dict
            `ask` is "image" (with `detector`, `exact`, `follow`), "map" or "summary" (with `name`), "pattern" (with `position`), "region"
            (with `rows`, `columns`). `client` names the page.

        Returns
        -------
        dict, (n, m) float64

        Raises
        ------
        InputError
            There is no such request, or what it names is not there.
        Outdated
            A newer request of the same page and kind has come.
        """
        kind = str(request.get("ask")) if isinstance(request, dict) else ""
        ways = {"image": self._image, "map": self._map, "summary": self._summary, "pattern": self._pattern, "region": self._region}
        if kind not in ways:
            raise InputError(f"ask is {kind!r}: accepted are {', '.join(ways)}")
        channel = "image" if kind in ("image", "map") else "pattern"
        ticket = self.newest.ticket(str(request.get("client", ""))[:LONGEST_NAME], channel)
        with self._turn:
            ticket.go_on()
            said, values = ways[kind](request, ticket)
        return {"ask": kind, "shape": list(values.shape), **said}, np.ascontiguousarray(values, np.float64)

    def _image(self, request: Spoken, ticket: Ticket) -> tuple[Spoken, np.ndarray]:
        asked: Any = request.get("detector", {})
        detector = detector_from(asked)
        follow = bool(request.get("follow", False))
        values, exact = self.view.virtual_image(detector, bool(request.get("exact", True)), ticket.go_on, follow)
        pixels = int(detector.mask(self.view.cube.detector_shape, None, self.view.cube.calibration.ellipse).sum())
        return {"exact": exact, "pixels": pixels, "units": "counts"}, values

    def _map(self, request: Spoken, _: Ticket) -> tuple[Spoken, np.ndarray]:
        name = str(request.get("name"))
        if name not in self.view.maps:
            raise InputError(f"there is no map {name!r}; there are {', '.join(self.view.maps) or 'none'}")
        return {"exact": True, "name": name, "units": self.view.maps[name].units}, np.asarray(self.view.maps[name], np.float64)

    def _summary(self, request: Spoken, _: Ticket) -> tuple[Spoken, np.ndarray]:
        held = {"mean": self.view.mean, "max": self.view.largest}
        name = str(request.get("name"))
        if name not in held:
            raise InputError(f"there is no pattern {name!r}; there are {', '.join(held)}")
        return {"name": name}, held[name]

    def _pattern(self, request: Spoken, _: Ticket) -> tuple[Spoken, np.ndarray]:
        rx, ry = _whole(request.get("position"), 2, "position")
        if not (0 <= rx < self.view.cube.shape[0] and 0 <= ry < self.view.cube.shape[1]):
            raise InputError(f"position ({rx}, {ry}) is outside the scan {self.view.cube.scan_shape}")
        return {"position": [rx, ry], **self.view.drawn_at(rx, ry)}, self.view.pattern(rx, ry)

    def _region(self, request: Spoken, ticket: Ticket) -> tuple[Spoken, np.ndarray]:
        ranges = [_whole(request.get(axis), 2, axis) for axis in ("rows", "columns")]
        for (first, last), size in zip(ranges, self.view.cube.scan_shape):
            if not 0 <= first < last <= size:
                raise InputError(f"region {ranges} is outside the scan {self.view.cube.scan_shape}, or empty")
        rows, columns = ((first, last) for first, last in ranges)
        return {"rows": list(rows), "columns": list(columns)}, self.view.mean_of(rows, columns, ticket.go_on)


def packed(said: Spoken, values: np.ndarray) -> bytes:
    """Return an answer as bytes: the length of the text (uint32, little-endian), the text (JSON), the values (float64, little-endian).

    The text is filled with spaces, so that the values begin at a multiple of 8 bytes.
    """
    text = json.dumps(said).encode()
    text += b" " * (-(4 + len(text)) % 8)
    return len(text).to_bytes(4, "little") + text + values.astype("<f8", copy=False).tobytes()


def _whole(given: Any, count: int, name: str) -> list[int]:
    """Return whole numbers of a request."""
    if not isinstance(given, list) or len(given) != count or not all(isinstance(v, int) and not isinstance(v, bool) for v in given):
        raise InputError(f"{name} is {given!r}: need {count} whole numbers")
    return given
