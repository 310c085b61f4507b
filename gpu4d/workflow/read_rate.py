"""Measure how fast a scan is read in the tiles of a sweep."""

from __future__ import annotations

import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.data.sample import end_to_end
from gpu4d.streaming.plan import Plan

FEW_TILES, MEASURED_BYTES, MEASURED_SECONDS = 8, 64 << 20, 0.2  # of a file: limits of what is read to measure its speed


def read_rate(cube: DataCube, todo: Plan) -> tuple[float, int]:
    """Measure the bytes per second of a file on tiles spread over the scan, at most 64 MB or 0.2 s. Return also the number of tiles.

    As many threads read as in a sweep, because decoding takes time in each.
    """
    places = [tile for block in range(todo.scan.blocks) for tile in itertools.islice(todo.tiles(block), 1)]
    threads = min(max(todo.readers, todo.lanes), len(places), max(1, min(todo.budget, MEASURED_BYTES) // todo.tile_bytes))
    most = max(1, min(len(places), threads * -(-FEW_TILES // threads), MEASURED_BYTES // todo.tile_bytes))
    chosen = [places[i] for i in end_to_end(np.arange(len(places)), most)]
    buffers = [np.zeros(todo.cut.frames * math.prod(cube.detector_shape), cube.dtype) for _ in range(threads)]
    cube.source.read(slice(0, 1), slice(0, 1))  # opens the file, and loads the decoder

    def read(own: int) -> tuple[float, int, int, float]:
        """Return start time, number of tiles, bytes, and end time."""
        start, tiles, nbytes = time.perf_counter(), 0, 0
        for tile in chosen[own::threads]:
            shape = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start, *cube.detector_shape
            into = buffers[own][: math.prod(shape)].reshape(shape)
            found = cube.source.read(tile.rows, tile.columns, into)
            if found is not into:
                np.copyto(into, found)
            tiles, nbytes = tiles + 1, nbytes + into.nbytes
            if time.perf_counter() - start > MEASURED_SECONDS:
                break
        return start, tiles, nbytes, time.perf_counter()

    with ThreadPoolExecutor(threads) as pool:
        starts, tiles, nbytes, ends = zip(*pool.map(read, range(threads)))
    return sum(nbytes) * todo.cut.amplification / (max(ends) - min(starts)), sum(tiles)
