"""The benchmark checks before it times, and reports what it says."""

import json

import numpy as np
import pytest
from gpu4d.benchmarks import kernels

from gpu4d.operation import OPERATIONS


@pytest.mark.slow
def test_quick_run_on_the_cpu():
    rows, floors, about = kernels.run("cpu", quick=True)
    assert {r.operation for r in rows} == {c.operation for c in kernels.CASES}
    assert all(r.seconds > 0 and r.bytes > 0 and 0 < r.floor for r in rows) and min(floors) > 0
    back = json.loads(kernels.as_json(rows, floors, about))
    assert back["rows"][0]["fraction"] == pytest.approx(rows[0].fraction) and back["machine"]["numpy"] == np.__version__
    assert all(r.operation in kernels.table(rows, floors, about) for r in rows)


def test_a_wrong_answer_is_not_timed(monkeypatch):
    op = kernels.operation("masked_sums")
    monkeypatch.setattr(op, "definition", lambda p, m: op.implementation("cpu")(p, m) + 1)
    with pytest.raises(AssertionError, match=r"masked_sums: error .* not timed"):
        kernels.run("cpu", quick=True, only=["masked_sums"])


def test_every_kernel_has_a_case():
    missing = {name for name, op in OPERATIONS.items() if "cuda" in op.twins} - {c.operation for c in kernels.CASES}
    assert not missing - {"center_of_mass"}, "center_of_mass is first_moments and a division"


def test_every_case_has_a_name_of_its_own():
    assert len({case.key for case in kernels.CASES}) == len(kernels.CASES)


def test_command_line(tmp_path, capsys):
    pytest.importorskip("click")
    from gpu4d.cli import run_command

    path = tmp_path / "figures.json"
    assert run_command(["bench", "kernels", "--quick", "--device", "cpu", "--only", "first_moments", "--json", str(path)]) == 0
    assert "first_moments" in capsys.readouterr().out and json.loads(path.read_text())["rows"][0]["operation"] == "first_moments"
    assert run_command(["bench", "kernels", "--only", "nothing"]) == 1
    assert "there is no such operation" in capsys.readouterr().err


def test_the_floor_of_hot_pixels_is_the_bytes_of_the_kernel():
    """In and out in the native dtype, and one for the flag."""
    case = next(case for case in kernels.CASES if case.operation == "hot_pixel_median")
    assert case.bytes(np.zeros((3, 4, 5), np.uint16)) == 3 * 4 * 5 * (2 + 2 + 1)


def test_the_cost_of_a_call_is_measured_after_its_answer_is_checked(capsys, monkeypatch):
    from gpu4d.benchmarks import call_overhead
    from gpu4d.cpu_fallback import first_moments

    call_overhead.main(["--calls", "10"])
    printed = capsys.readouterr().out
    for case in call_overhead.cases():
        (row,) = [line for line in printed.splitlines() if line.startswith(f"| {case.name} |")]
        call, overhead, *parts = (int(cell) for cell in row.strip("| ").split("|")[1:])
        assert abs(call - sum(parts)) <= 3 and abs(overhead - sum(parts[1:])) <= 3, row
    twin = first_moments.first_moments
    monkeypatch.setattr(first_moments, "first_moments", lambda *given: twin(*given) + 1)
    (moments,) = [case for case in call_overhead.cases() if case.name == "first_moments"]
    with pytest.raises(AssertionError, match="first_moments"):
        call_overhead.check(moments)
