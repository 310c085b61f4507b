"""A folder for the results of a run."""

import shutil

import pytest
from gpu4d.benchmarks.gpu_run import settings


@pytest.fixture
def out(tmp_path):
    """A folder for results; its scratch folder is taken away."""
    folder = tmp_path / "out"
    yield folder
    shutil.rmtree(settings.Settings(folder).scratch, ignore_errors=True)
