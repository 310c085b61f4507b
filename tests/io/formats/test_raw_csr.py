"""raw_csr of LiberTEM: a TOML file and three files of numbers, made from its description."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.formats.raw_csr import RawCsr
from gpu4d.testing.formats import FormatTests

SCAN, DETECTOR = (3, 4), (5, 7)
TOML = """# written by hand
[params]

filetype = "raw_csr"
nav_shape = [{nav}]
sig_shape = [5, 7]

[raw_csr]

indptr_file = "{indptr}"
indptr_dtype = "{types[0]}"

indices_file = "coords.dat"
indices_dtype = "{types[1]}"

data_file = "values.dat"
data_dtype = "{types[2]}"
"""


def write(path, types=("<i4", "<i4", "<i4"), nav="3, 4", indptr="rowind.dat"):
    """Write a scan of which some pixels have counts. Return its patterns."""
    rng = np.random.default_rng(0)
    values = rng.poisson(0.3, (*SCAN, *DETECTOR)) * (rng.random((*SCAN, *DETECTOR)) < 0.5)
    flat = values.reshape(12, 35)
    positions, pixels = np.nonzero(flat)
    offsets = np.searchsorted(positions, np.arange(13))
    path.write_text(TOML.format(types=types, nav=nav, indptr=indptr))
    for name, numbers, dtype in zip(("rowind.dat", "coords.dat", "values.dat"), (offsets, pixels, flat[positions, pixels]), types):
        path.with_name(name).write_bytes(numbers.astype(dtype).tobytes())
    return values.astype(np.dtype(types[2]).newbyteorder("="))


class TestRawCsr(FormatTests):
    format, ending = RawCsr(), ".toml"

    def write(self, path):
        return write(path)


class TestBigEndian(FormatTests):
    format, ending = RawCsr(), ".toml"

    def write(self, path):
        return write(path, (">u8", ">u2", ">u4"))


def test_sums_of_events(tmp_path):
    values = write(tmp_path / "a.toml")
    cube = gpu4d.open(tmp_path / "a.toml")
    np.testing.assert_array_equal(np.asarray(gpu4d.virtual_image(cube, np.ones(DETECTOR, bool))), values.sum((2, 3)))
    assert cube.metadata["toml"]["params"]["filetype"] == "raw_csr" and cube.source.offsets[-1] == (values != 0).sum()


def test_a_scan_of_one_axis(tmp_path):
    write(tmp_path / "a.toml", nav="12")
    assert gpu4d.open(tmp_path / "a.toml").scan_shape == (1, 12)
    assert gpu4d.open(tmp_path / "a.toml", scan_shape=(4, 3)).scan_shape == (4, 3)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"nav": "5, 4"}, "a.toml has 12 patterns, and it states a scan of 5×4 positions"),
        ({"nav": '"x"'}, "nav_shape is .*: need a list of whole numbers"),
        ({"types": ("<i4", "<i4", "<f4")}, "data_dtype is <f4: accepted are whole numbers"),
        ({"types": ("<i4", "<i8", "<i4"), "cut": "coords.dat"}, "it is truncated, or of another type"),
        ({"cut": "rowind.dat"}, "truncated"),
        ({"cut": "values.dat"}, "truncated"),
        ({"indptr": "../rowind.dat"}, "accepted are files in the folder of the TOML file"),
        ({"indptr": "/etc/hostname"}, "accepted are files in the folder of the TOML file"),
        ({"indptr": "gone.dat"}, "gone.dat, its file of indptr, is not there"),
        ({"text": "x = " + "[" * 5000}, "no readable TOML"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, given, message):
    cut, text = given.pop("cut", None), given.pop("text", "")
    write(tmp_path / "a.toml", **given)
    if cut:
        (tmp_path / cut).write_bytes((tmp_path / cut).read_bytes()[:-3])
    (tmp_path / "a.toml").write_text((tmp_path / "a.toml").read_text() + text)
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.toml").source.read(slice(0, 3), slice(0, 4))


@pytest.mark.parametrize("name, number", [("rowind.dat", -5), ("coords.dat", 35), ("coords.dat", -1), ("values.dat", -1)])
def test_numbers_that_are_no_good_are_refused(tmp_path, name, number):
    write(tmp_path / "a.toml")
    numbers = np.fromfile(tmp_path / name, "<i4")
    numbers[3] = number
    (tmp_path / name).write_bytes(numbers.tobytes())
    with pytest.raises(InputError, match="damaged"):
        gpu4d.open(tmp_path / "a.toml").source.read(slice(0, 3), slice(0, 4))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    """Links within the folder, and all files linked into one other folder, are fine."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    values = write(tmp_path / "a" / "a.toml")
    write(tmp_path / "b" / "a.toml")
    (tmp_path / "b" / "coords.dat").unlink()
    (tmp_path / "b" / "coords.dat").symlink_to(tmp_path / "a" / "coords.dat")
    for file in (tmp_path / "a").iterdir():
        (tmp_path / "c" / file.name).symlink_to(file)
    with pytest.raises(InputError, match=r"coords.dat is a link that leads to .*, out of the folder of .*: copy the file there"):
        gpu4d.open(tmp_path / "b" / "a.toml")
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "c" / "a.toml")), values)
