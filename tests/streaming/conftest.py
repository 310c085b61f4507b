"""Small tiles, so that a small scan has many."""

import importlib

import pytest
from threads_left import passing_threads

from gpu4d.streaming import tiles


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of six patterns, several rows of them in a block, so that a small scan has many. No thread may be left behind."""
    module = importlib.import_module("gpu4d.streaming.plan")
    monkeypatch.setattr(tiles, "TILE_BYTES", 6 * 17 * 20 * 2)
    monkeypatch.setattr(module, "CHUNK_BYTES", 36 * 17 * 20 * 2)
    monkeypatch.setattr(tiles, "MOST_BLOCKS", 5)
    before = passing_threads()
    yield
    assert passing_threads() == before
