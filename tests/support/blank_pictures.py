"""Runs whose pictures are made but not rendered: rendering takes half of the time of a run of a small scan."""

import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from gpu4d import plot
from gpu4d.plot.canvas import figure_of

SAVE, SAVING = plot.save, "gpu4d.workflow.report.pictures.plot.save"


@contextmanager
def not_rendered() -> Iterator[None]:
    """Leave a blank picture in the place of every figure of a run.

    Stages still make their figures, and folder and report get a picture for each. `tests/workflow/test_run.py` and `tests/plot` draw them.
    """
    with patch(SAVING, _blank):
        yield


def render_none() -> None:
    """Leave blank pictures in the place of all that this process would render from here on."""
    patch(SAVING, _blank).start()


def _blank(picture, path, dpi=160):
    assert figure_of(picture).axes, f"{path}: a picture without a panel"
    Path(path).write_bytes(_bytes(Path(path).suffix))
    return path


@functools.cache
def _bytes(suffix: str) -> bytes:
    from matplotlib.figure import Figure

    with tempfile.TemporaryDirectory() as folder:
        return SAVE(Figure(figsize=(0.1, 0.1)), Path(folder) / f"blank{suffix}").read_bytes()
