"""Raw files with a description beside them, written here as the page on converting says."""

import json

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.formats.described import Described
from gpu4d.testing.formats import FormatTests


def write(path, data, **more):
    path.write_bytes(data.tobytes())
    known = {"gpu4d_scan": 1, "name": "scan", "shape": data.shape, "dtype": data.dtype.str, **more}
    path.with_name(path.name + ".json").write_text(json.dumps(known))
    return data.astype(data.dtype.newbyteorder("="))


class TestDescribed(FormatTests):
    format, ending = Described(), ".raw"

    def write(self, path):
        return write(path, np.random.default_rng(0).integers(0, 60000, (3, 5, 7, 6)).astype(">u2"))


def test_calibration_mask_and_metadata_come_with_it(tmp_path):
    known = {
        "calibration": {"energy": 2e5, "Q_pixel_size": 0.02, "Q_pixel_units": "A^-1"},
        "metadata": {"dwell": 0.5, "pair": {"__tuple__": [1]}},
    }
    write(tmp_path / "a.raw", np.ones((3, 5, 7, 6), "<f4"), **known)
    cube = gpu4d.open(tmp_path / "a.raw")
    assert (cube.name, cube.calibration.energy, cube.calibration.q_pixel) == ("scan", 2e5, 0.02)
    assert cube.metadata["source"] == {"dwell": 0.5, "pair": (1,)}


@pytest.mark.parametrize(
    "more, words",
    [
        ({"shape": [3, 5, 7]}, "says no shape"),
        ({"shape": [2**40, 2**40, 7, 6]}, "says no shape"),
        ({"shape": [3, 5, 7, 600]}, "too short|truncated"),
        ({"dtype": "O"}, "values of type O"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path, more, words):
    write(tmp_path / "a.raw", np.ones((3, 5, 7, 6), "<f4"), **more)
    with pytest.raises(InputError, match=words):
        gpu4d.open(tmp_path / "a.raw")
