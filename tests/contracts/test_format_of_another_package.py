"""A file format of another package is opened like our own, by its entry point alone."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError


@pytest.fixture
def file(tmp_path):
    data = np.arange(2 * 3 * 4 * 5, dtype="<u2").reshape(2, 3, 4, 5)
    path = tmp_path / "scan.any"
    path.write_bytes(b"TOY4D 2 3 4 5 200e3\n" + data.tobytes())
    return path, data


def test_it_is_opened_and_swept(with_toy, file):
    path, data = file
    cube = gpu4d.open(path)
    assert cube.shape == (2, 3, 4, 5) and cube.calibration.energy == 200e3 and cube.metadata["words"][0] == b"2"
    np.testing.assert_array_equal(np.asarray(gpu4d.sweep(cube, gpu4d.MaxPattern())), data.max((0, 1)))
    assert gpu4d.open(path, calibration=gpu4d.Calibration(energy=80e3)).calibration.energy == 80e3


def test_messages_name_it(with_toy, file, tmp_path):
    with pytest.raises(InputError, match="leave --dataset out"):
        gpu4d.open(file[0], dataset="/x")
    (tmp_path / "other").write_text("something else")
    with pytest.raises(InputError, match=r"a text file.*HDF5.*\.npy.*toy files"):
        gpu4d.open(tmp_path / "other")


def test_without_it_the_file_is_unknown(file):
    with pytest.raises(InputError, match="of an unknown format"):
        gpu4d.open(file[0])
