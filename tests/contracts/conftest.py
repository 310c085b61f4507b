"""The toys of other packages, installed by their entry points alone."""

import sys
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gpu4d import extensions
from gpu4d.io import formats
from gpu4d.workflow import stages


@contextmanager
def installed(room, known, name, value):
    """Install what an entry point of the group of a room names; `known` is the room's list of all that are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        entry = EntryPoint(name, value, room.GROUP)
        patch.setattr(extensions, "entry_points", lambda group: [entry] if group == room.GROUP else [])
        known.cache_clear()
        yield
    known.cache_clear()
    sys.modules.pop(value.partition(":")[0], None)


@pytest.fixture
def with_toy():
    """The toy format is installed."""
    with installed(formats, formats.known_formats, "toy", "toy_format:Toy"):
        yield


@pytest.fixture
def with_corner():
    """The toy technique is installed."""
    with installed(stages, stages.known_stages, "corner", "toy_stage:Corner"):
        yield
