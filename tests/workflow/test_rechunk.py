"""`gpu4d info` advises to convert a file whose chunks make passes slow, and only such a file."""

import h5py
import numpy as np
import pytest

from gpu4d.workflow import rechunk
from gpu4d.workflow.describe import describe_file


def written(path, chunks, **options):
    values = np.random.default_rng(0).poisson(1, (24, 32, 32, 32)).astype("uint16")
    with h5py.File(path, "w") as file:
        file.create_dataset("scan", data=values, chunks=chunks, **options)
    return path


@pytest.fixture
def any_saving(monkeypatch):
    """Small files save little: any time counts."""
    monkeypatch.setattr(rechunk, "LEAST_SECONDS", 0.0)


def test_chunks_that_cut_patterns_are_told_with_the_command(tmp_path, any_saving):
    text = describe_file(written(tmp_path / "bad.h5", (4, 4, 4, 4), compression="gzip"))
    advice = text[text.index("chunks     ") : text.index("\ncommand")]
    assert "cut the patterns of 32×32 pixels" in advice and "gzip is slow" in advice
    assert f"gpu4d convert {tmp_path}/bad.h5 bad-lz4.h5" in advice


@pytest.mark.parametrize("chunks", [None, (1, 32, 32, 32), (4, 16, 32, 32)])
def test_nothing_is_said_of_other_files(tmp_path, any_saving, chunks):
    text = describe_file(written(tmp_path / "good.h5", chunks))
    assert "gpu4d convert" not in text


def test_small_savings_are_not_worth_it(tmp_path):
    assert "gpu4d convert" not in describe_file(written(tmp_path / "bad.h5", (4, 4, 4, 4), compression="gzip"))
