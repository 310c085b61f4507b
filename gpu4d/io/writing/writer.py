"""Define how a scan is written into a file of some format, a tile at a time, so that it can be resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.io.formats.carried import Document
from gpu4d.io.writing.chunks import Chunks, Tile
from gpu4d.io.writing.encoders import Encoder
from gpu4d.io.writing.journal import Record
from gpu4d.io.writing.pump import Done

Place = Callable[[Tile, np.ndarray], None]


@dataclass(frozen=True)
class Job:
    """What is written.

    Attributes
    ----------
    cube : DataCube
    codec : str
    chunks : (int, int)
        Positions in a chunk.
    tiles : list of Tile
        In the order in which they are written.
    path : str
        Of the unfinished file or folder.
    """

    cube: DataCube
    codec: str
    chunks: Chunks
    tiles: list[Tile]
    path: str


class StartAgain(Exception):
    """What an earlier process has written cannot be continued."""


class Writer(Protocol):
    """Writes one scan.

    Attributes
    ----------
    folder : bool
        True if a scan is a folder.
    beside : bool
        True if the document of the scan is a file of its own beside it.
    encode : Encoder or None
        Encodes chunks in the reading threads.
    place : callable (tile, patterns) or None
        Writes a tile in the reading thread, for scans without chunks.
    """

    folder: ClassVar[bool]
    beside: ClassVar[bool]
    encode: Encoder | None
    place: Place | None

    def __init__(self, job: Job): ...

    def begin(self, records: list[Record]) -> int:
        """Open the file. Return how many of the records of an earlier process stand: their tiles are there, and whole."""
        ...

    def put(self, part: Done) -> list[Record]:
        """Write a tile. Return the records of tiles that are complete now, at least `hashes`."""
        ...

    def finish(self, known: Document) -> None:
        """Write what is known of the scan, and complete the file."""
        ...

    def close(self) -> None:
        """Close everything, whether it is complete or not. May be called twice."""
        ...


def record_of(part: Done, **more: Any) -> Record:
    """Return the record of a tile."""
    from gpu4d.io.writing.journal import as_text

    return {"tile": [part.tile.rows.start, part.tile.columns.start], "hashes": as_text(part.hashes), **more}
