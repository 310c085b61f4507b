"""Advise to convert a scan whose chunks make every pass over it slow, with the time that a pass would save: for `gpu4d info`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import below_views
from gpu4d.io.sources.chunked import ChunkedSource, LibrarySource
from gpu4d.io.sources.codecs import steps
from gpu4d.io.writing.chunks import choose_chunks
from gpu4d.io.writing.encoders import Bitshuffle
from gpu4d.io.writing.pump import native
from gpu4d.sizes import format_bytes
from gpu4d.streaming.plan import Plan
from gpu4d.workflow.read_rate import read_rate

SMALL_CHUNK, LARGE_CHUNK = 64 << 10, 64 << 20  # bytes: a call for each costs as much as the work; a pass holds several
TWICE = 1.2  # a pass reads so many times the bytes of the file, or more, because its chunks do not fit
WORTH = 2.0  # how many times faster a pass must become
LEAST_SECONDS = 1.0  # that a pass must save
ROUNDS = 3


def rechunking(cube: DataCube, todo: Plan, path: str | Path, dataset: str | None, scan_shape: Any) -> list[str]:
    """Return what to do about a badly chunked file, and what it saves. Nothing for others, of which nothing is read.

    Parameters
    ----------
    cube : DataCube
    todo : Plan
        Of a pass over the scan.
    path, dataset, scan_shape
        As given to open it.
    """
    why = _suspicion(cube, todo)
    if not why:
        return []
    now = cube.nbytes / read_rate(cube, todo)[0] * todo.cut.amplification
    then = cube.nbytes / (_decoding_rate(cube) * max(todo.readers, todo.lanes, 1))
    if now < WORTH * then or now - then < LEAST_SECONDS:
        return []
    words = ["gpu4d", "convert", str(path), f"{Path(path).stem}-lz4.h5"]
    words += [] if dataset is None else ["--dataset", dataset]
    words += [] if not scan_shape else ["--scan-shape", ",".join(map(str, scan_shape))]
    return [
        f"{'; '.join(why)}: a pass over the scan reads for about {now:.3g} s, at best {then:.2g} s in chunks of whole patterns with LZ4",
        f"{shlex.join(words)}   (once, and each pass saves about {now - then:.2g} s)",
    ]


def _suspicion(cube: DataCube, todo: Plan) -> Sequence[str]:
    """Say what is unusual about the chunks of a file, by its description alone."""
    below = below_views(cube.source)
    if not isinstance(below, LibrarySource) or not below.chunk_bytes:
        return ()
    found = []
    if todo.cut.amplification >= TWICE:
        found.append(f"chunks do not fit the memory of a pass, which reads {todo.cut.amplification:.1f} times the bytes")
    chunks = below.chunks if isinstance(below, ChunkedSource) else None
    if chunks is None:
        found.append("chunks are decoded by the HDF5 library, one at a time")
    elif any(c < n for c, n in zip(chunks[2:], below.shape[2:])):
        found.append(f"chunks {chunks} cut the patterns of {below.shape[2]}×{below.shape[3]} pixels")
    if below.chunk_bytes < SMALL_CHUNK:
        found.append(f"chunks have {format_bytes(below.chunk_bytes)} only")
    if below.chunk_bytes > LARGE_CHUNK:
        found.append(f"chunks have {format_bytes(below.chunk_bytes)}, which each thread holds")
    if "gzip" in below.description:
        found.append("gzip is slow to decode")
    return found


def _decoding_rate(cube: DataCube) -> float:
    """Measure the bytes per second at which one thread decodes some patterns in the chunks that `gpu4d convert` writes."""
    rows, columns = choose_chunks(cube.source)
    part = arrays.to_numpy(cube.source.read(slice(0, min(rows, cube.shape[0])), slice(0, min(columns, cube.shape[1]))))
    values = np.ascontiguousarray(part, native(cube.dtype))
    encode = Bitshuffle("lz4", values.itemsize)
    number, (block, flag) = encode.filter
    undo = steps([(number, (0, 0, values.itemsize, block, flag))], values.itemsize)
    assert undo is not None
    packed, out = encode(values), np.empty(values.nbytes, np.uint8)
    best = min(_seconds(lambda: undo[0].undo(packed, out)) for _ in range(ROUNDS))
    return values.nbytes / best


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
