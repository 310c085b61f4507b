"""Arguments of opening and saving that users mistake."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError


@pytest.mark.parametrize(
    "shape", [(4.5, 6), (4, 6.9), ("4", "6"), (24,), (4, 6, 1), 24, (0, 24), (-4, -6), (4, float("nan")), "46", (4, True)]
)
def test_a_scan_shape_is_two_whole_numbers(tmp_path, shape):
    np.save(tmp_path / "frames.npy", np.ones((24, 8, 8), "uint16"))
    with pytest.raises(InputError, match="two whole numbers"):
        gpu4d.open(tmp_path / "frames.npy", scan_shape=shape)


@pytest.mark.parametrize("shape", [(4, 6), [4, 6], np.array([4, 6]), (4.0, np.int64(6))])
def test_whole_numbers_of_any_kind_are_a_scan_shape(tmp_path, shape):
    np.save(tmp_path / "frames.npy", np.ones((24, 8, 8), "uint16"))
    assert gpu4d.open(tmp_path / "frames.npy", scan_shape=shape).scan_shape == (4, 6)


def test_save_takes_a_path_and_a_mapping(tmp_path):
    with pytest.raises(InputError, match="need a mapping of names to results"):
        gpu4d.save(tmp_path / "x.h5", np.ones((2, 2)))
    with pytest.raises(InputError, match="path of a file first, got ndarray"):
        gpu4d.save(np.ones((2, 2)), {"bf": np.ones((2, 2))})
    with pytest.raises(InputError, match="masked array"):
        gpu4d.save(tmp_path / "x.h5", {"bf": np.ma.masked_array(np.ones((2, 2)), np.eye(2, dtype=bool))})
    assert list(tmp_path.iterdir()) == []
