"""The table of capabilities says what decorators, classes and marks say."""

import json
import subprocess
import sys

import pytest
from own_process import importing
from project.test_array_arguments import CALLS

import gpu4d
from gpu4d import _capabilities, operation
from gpu4d.cli import run_command
from gpu4d.on_host import REASONS, REASONS_IN_PART, in_part, on_host, why_on_host

TABLE = gpu4d.capabilities()
ROWS = {row.name: row for row in TABLE.functions}
# Containers and their methods, drawings, files, and functions of numbers: no data are computed.
NO_ROWS = {
    "DataCube", "DataCube.corrected", "BraggDisks.at", "Calibration", "PointList", "PointListArray", "RealSlice", "DiffractionSlice",
    "data.Slice", "data.BadPixelCorrection", "data.EventSource", "calibrate.ellipse_matrix", "detectors.disk", "detectors.point",
    "ptychography.SSBLive", "sweep", "rdf of a measured background",
}  # fmt: skip


def test_every_function_of_arrays_has_a_row():
    missing = {name for name in CALLS if name not in ROWS and name.partition(".")[0] not in _capabilities.OTHER_ROOMS}
    assert missing == NO_ROWS


def test_rows_follow_from_the_code():
    com, disks, image, angles = (ROWS[name] for name in ("center_of_mass", "find_bragg_disks", "virtual_image", "orientation.euler_angles"))
    assert (com.operations, com.cpu, com.cuda, com.reductions, com.events) == (("center_of_mass",), "all", "all", ("CenterOfMass",), True)
    assert "find_disks" in disks.operations and disks.reductions == ("BraggDisks",) and in_part(disks.on_host)
    assert image.reductions == ("VirtualImage",) and {"masked_sums", "annular_sums"} <= set(image.operations)
    assert angles.on_host and not in_part(angles.on_host) and not angles.reductions
    assert ROWS["hybrid_correlation"].cpu == ROWS["hybrid_correlation"].cuda == "none", "its FFT is the library's own"
    assert ROWS["polar_transform"].reductions and not ROWS["polar_transform"].events


def test_limits_of_twins_are_those_of_the_decorator():
    found = {row.name: row for row in TABLE.operations}
    assert set(found) == set(operation.all_operations())
    for op in operation.all_operations().values():
        for kind in ("cpu", "cuda"):
            said, twin = getattr(found[op.name], kind), op.twins.get(kind)
            assert bool(said) == (twin is not None)
            assert twin is None or twin.dtypes is None or all(name in said for name in twin.dtypes)
    assert str(operation.KERNEL_FRAME) in found["pattern_sums"].cuda


def test_a_new_function_is_seen_by_what_it_calls(monkeypatch):
    """A mark, an operation and a reduction of a function that was written now."""

    @on_host("curve")
    def smoothed(cube: "gpu4d.DataCube", curve: "gpu4d.arrays.Array") -> None:
        from gpu4d.imaging.masked_sums import masked_sums

        gpu4d.sweep(cube, gpu4d.MaxPattern())
        masked_sums(curve, curve)

    smoothed.__module__ = "gpu4d.imaging.smoothed"
    row = _capabilities._row("smoothed", smoothed, {})
    assert row.operations == ("masked_sums",) and row.on_host == why_on_host(smoothed) and "curves" in row.on_host


def test_the_command_prints_a_table_one_row_or_json(capfd):
    assert run_command(["capabilities"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == "function NumPy CuPy torch JAX CPU twin CUDA twin streams events operations".split()
    assert len([line for line in lines if line.startswith(tuple(ROWS))]) >= len(ROWS)
    assert run_command(["capabilities", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(TABLE.as_dict()))
    assert run_command(["capabilities", "dpc"]) == 0
    assert capfd.readouterr().out.splitlines()[1].startswith("dpc ")
    assert run_command(["capabilities", "center_of_mas"]) == 1
    assert "did you mean 'center_of_mass'" in capfd.readouterr().err


def test_its_help_imports_nothing_heavy():
    code = (
        "import sys; from gpu4d.cli import run_command; run_command(['capabilities', '--help']); "
        "print([m for m in ('numba', 'scipy', 'h5py', 'matplotlib', 'cupy', 'gpu4d.imaging', 'gpu4d._capabilities') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=importing(), check=True)
    assert "Usage: " in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_reasons_say_how_much_is_copied():
    for why in (REASONS | REASONS_IN_PART).values():
        assert any(words in why for words in (" B a", "72 B", "less than 1 MB", "at most", ": the "))
        assert any(row.on_host == why for row in TABLE.functions), f"nothing is marked: {why}"
    with pytest.raises(KeyError):
        on_host("some other reason")(test_reasons_say_how_much_is_copied)
