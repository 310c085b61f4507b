"""Files of plain numbers, which say nothing of themselves: with offset, gaps and either byte order, and layouts that do not fit."""

import numpy as np
import pytest

import gpu4d
from gpu4d import RawLayout
from gpu4d.cli import run_command
from gpu4d.cli_flags import with_flags
from gpu4d.errors import InputError
from gpu4d.testing.sources import SourceTests
from gpu4d.workflow.inputs import open_scan

SHAPE = (3, 4, 6, 9)


def write(path, dtype=">u2", offset=7, gap=5, last_gap=True):
    values = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    between = b"\xee" * gap
    data = between.join(pattern.tobytes() for pattern in values.reshape(-1, *SHAPE[2:]))
    path.write_bytes(b"\xff" * offset + data + (between if last_gap else b""))
    return values.astype(values.dtype.newbyteorder("="))


class TestGaps(SourceTests):
    def make(self, tmp_path):
        values = write(tmp_path / "a.bin")
        return gpu4d.open(tmp_path / "a.bin", layout=RawLayout(SHAPE, "uint16", 7, 5, "big")).source, values


class TestOneBlock(SourceTests):
    def make(self, tmp_path):
        values = write(tmp_path / "a.bin", "<f4", offset=64, gap=0)
        return gpu4d.open(tmp_path / "a.bin", layout=RawLayout((6, 9), "float32", 64), scan_shape=(3, 4)).source, values


def test_a_last_gap_may_be_missing(tmp_path):
    write(tmp_path / "a.bin", last_gap=False)
    assert gpu4d.open(tmp_path / "a.bin", layout=RawLayout((6, 9), ">u2", 7, 5), scan_shape="frames").scan_shape == (1, 12)
    assert gpu4d.open(tmp_path / "a.bin", layout=RawLayout(SHAPE, ">u2", 7, 5), scan_shape=(2, 6)).scan_shape == (2, 6)


@pytest.mark.parametrize(
    "layout, message",
    [
        (
            RawLayout(SHAPE, ">u2", 7, 6),
            r"needs 1369 bytes \(3×4 patterns of 6×9 uint16, 108 bytes a pattern, 6 between two, 7 before.* 1363, 6 fewer",
        ),
        (RawLayout(SHAPE, "u1", 7, 5), "needs 710 bytes .* the file has 1363, 653 more"),
        (RawLayout((6, 9), ">u2", 7, 6), "the file has 1363 bytes, 11 whole patterns and a rest of 102"),
        (RawLayout((600, 900), ">u2"), "the file has 1363 bytes, 0 whole patterns and a rest of 1363"),
        (RawLayout((6, 9), ">u2", 5000), "0 whole patterns"),
        (RawLayout((6, 9), ">u2", 7, 5), r"has 12 patterns, and its scan shape is not stated.* 3,4, 4,3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_their_numbers(tmp_path, layout, message):
    write(tmp_path / "a.bin")
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.bin", layout=layout)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((6,), "u2"), "shape of the layout is"),
        (((0, 9), "u2"), "of at least 1"),
        (((6, 9), "c8"), "accepted are real numbers"),
        (((6, 9), "no type"), "dtype of the layout is no type"),
        (((6, 9), "u2", -1), "offset of the layout is -1"),
        (((6, 9), "u2", 0, 1.5), "gap of the layout is 1.5"),
        (((6, 9), "<u2", 0, 0, "big"), "contradict each other"),
        (((6, 9), "u2", 0, 0, "middle"), 'need "little" or "big"'),
    ],
)
def test_impossible_layouts_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        RawLayout(*arguments)


def test_other_arguments(tmp_path):
    write(tmp_path / "a.bin")
    with pytest.raises(InputError, match=r"of an unknown format.* if it is plain numbers, describe them: layout=gpu4d.RawLayout"):
        gpu4d.open(tmp_path / "a.bin")
    with pytest.raises(InputError, match="the format raw needs layout="):
        gpu4d.open(tmp_path / "a.bin", format="raw")
    with pytest.raises(InputError, match="layout describes plain numbers, and format is 'npy'"):
        gpu4d.open(tmp_path / "a.bin", format="npy", layout=RawLayout(SHAPE, ">u2"))
    with pytest.raises(InputError, match="is a folder: the format raw reads files"):
        gpu4d.open(tmp_path, layout=RawLayout(SHAPE, ">u2"))
    with pytest.raises(InputError, match="layout is a tuple"):
        gpu4d.open(tmp_path / "a.bin", layout=SHAPE)


def test_flags_describe_a_file(tmp_path, capsys):
    """`info` prints the command that opens it again."""
    path, values = tmp_path / "a.bin", write(tmp_path / "a.bin")
    flags = ["--shape", "6,9", "--dtype", "uint16", "--offset", "7", "--gap", "5", "--order", "big", "--scan-shape", "3,4"]
    assert run_command(["info", str(path), *flags]) == 0
    said = capsys.readouterr().out
    assert "3×4 scan positions, 6×9 detector pixels, uint16" in said and "--shape 6,9 --dtype '>u2' --offset=7 --gap=5" in said
    assert run_command(["plan", str(path), *flags]) == 0
    assert "3×4 positions, 6×9 pixels, uint16" in capsys.readouterr().out
    assert run_command(["info", str(path), "--gap", "5"]) != 0
    assert "--gap describes a file of plain numbers: give --shape and --dtype too" in capsys.readouterr().err
    recipe = with_flags(None, {"shape": [6, 9], "dtype": "uint16", "offset": 7, "gap": 5, "order": "big", "scan_shape": [3, 4]})
    np.testing.assert_array_equal(np.array(open_scan(path, recipe).source.read(slice(0, 3), slice(0, 4))), values)
