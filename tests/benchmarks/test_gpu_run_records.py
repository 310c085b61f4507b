"""What a run on a machine with a GPU writes: tests as records, a summary, predictions, and the parts that measure."""

import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gpu4d.benchmarks import kernels
from gpu4d.benchmarks.gpu_run import predictions, records, settings, summary

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are followed through /proc")


# ---------------------------------------------------------------- tests as records


TESTS = """
import os, sys, time, types, pytest

def test_good():
    pass

def test_bad():
    assert 1 == 2, "one is not two"

@pytest.mark.skip(reason="no moon")
def test_skipped():
    pass

@pytest.fixture
def broken():
    yield
    raise RuntimeError("in its end")

def test_bad_at_its_end(broken):
    pass

class CUDARuntimeError(Exception):
    pass

def lost():
    raise CUDARuntimeError("cudaErrorIllegalAddress")

def test_loses_the_device():
    runtime = types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: 1, deviceSynchronize=lost)
    sys.modules["cupy"] = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
    assert False, "the first that sees it"

def test_crashes():
    os._exit(7)

@pytest.mark.parametrize("n", range(8))
def test_behind(n):
    assert "cupy" not in sys.modules
"""


def reports_of(folder: Path, *options: str, again: str = "") -> tuple[dict, str]:
    """Records of a pytest run with the plugin, and what it printed."""
    from gpu4d.benchmarks.gpu_run.test_reports import write_settled

    path, known = folder / "tests.jsonl", folder / "settled.json"
    write_settled(path, known)
    environment = os.environ | {"GPU4D_RUN_RECORDS": str(path), "GPU4D_RUN_SETTLED": str(known), "GPU4D_RUN_FAILED": again}
    environment.pop("PYTEST_XDIST_WORKER", None)
    plugin = ["-p", "gpu4d.benchmarks.gpu_run.test_reports", "-p", "no:cacheprovider"]
    command = [sys.executable, "-P", "-m", "pytest", "-q", *plugin, *options, "test_some.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return records.latest(path), done.stdout + done.stderr


@pytest.mark.slow
def test_every_report_is_a_record_and_no_worker_takes_others_with_it(tmp_path):
    pytest.importorskip("xdist")
    (tmp_path / "test_some.py").write_text(textwrap.dedent(TESTS))
    found, said = reports_of(tmp_path, "-n", "1", "--max-worker-restart", "5")
    outcome = {key.rpartition("::")[2]: one["outcome"] for key, one in found.items()}
    assert {name for name, what in outcome.items() if what == "failed"} == {
        "test_bad",
        "test_bad_at_its_end",
        "test_loses_the_device",
        "test_crashes",
    }, said
    assert {name for name, what in outcome.items() if what == "done"} == {"test_good", *(f"test_behind[{n}]" for n in range(8))}, said
    assert "one is not two" in found["test_some.py::test_bad"]["why"] and "no moon" in found["test_some.py::test_skipped"]["why"]
    before = len(list(records.read(tmp_path / "tests.jsonl")))
    _, said = reports_of(tmp_path, "-n", "1")
    assert len(list(records.read(tmp_path / "tests.jsonl"))) == before, "none is run again"
    (tmp_path / "test_some.py").write_text(textwrap.dedent(TESTS).replace("assert 1 == 2", "assert 1 == 1"))
    found, said = reports_of(tmp_path, "-n", "1", again="1")
    assert found["test_some.py::test_bad"]["outcome"] == "done", said
    started = Counter(one["key"] for one in records.read(tmp_path / "tests.jsonl") if one["outcome"] == "started")
    assert started["test_some.py::test_bad"] == 2 and started["test_some.py::test_good"] == 1, "only what failed is run again"


def test_rows_of_other_libraries_come_later_and_what_loses_the_device_last(tmp_path):
    names = ("test_lost_device", "test_a_torch", "test_a_cupy", "test_z_cupy", "test_z_jax")
    (tmp_path / "test_some.py").write_text("\n".join(f"def {name}():\n    pass" for name in names))
    reports_of(tmp_path)
    begun = [one["key"].rpartition("::")[2] for one in records.read(tmp_path / "tests.jsonl") if one["outcome"] == "started"]
    assert begun == ["test_a_cupy", "test_z_cupy", "test_a_torch", "test_z_jax", "test_lost_device"]


# ---------------------------------------------------------------- summary


def kernel_record(out: Path, operation: str, label: str, **figures: object) -> None:
    usual = {"fraction": 0.5, "rate": 5e6, "seconds": 0.01, "host_seconds": 3e-4, "own_launches": 3, "card": "one"}
    records.record(out / settings.KERNELS, f"{operation} {label}", "done", operation=operation, label=label, **(usual | figures))


def test_a_summary_says_the_most_important_on_sixty_lines(tmp_path):
    for n in range(1000):
        why = f"def test():\n>   assert {n}\nE   AssertionError: number {n}\n" + "more\n" * 50
        records.record(
            tmp_path / settings.TESTS,
            f"tests/test_a.py::test[{n}]",
            "failed" if n % 3 == 0 else "done",
            **({"why": why} if n % 3 == 0 else {}),
        )
    records.record(tmp_path / settings.TESTS, "tests/test_a.py::test_cut", "started")
    for case in kernels.CASES:
        kernel_record(tmp_path, case.operation, case.label)
    kernel_record(tmp_path, "other", "card", card="two")
    for n in range(30):
        records.append(tmp_path / settings.ENVIRONMENT, f"stage number-{n}: done, 1.0 s")
    said = summary.write(tmp_path)
    lines = said.split("\n")
    assert len(lines) <= summary.MOST_LINES and max(map(len, lines)) <= summary.WIDTH and len(said) < 12_000
    assert "666 passed, 334 failed, 0 skipped, 1 without an end" in said
    assert "test_a.py::test[0]: AssertionError: number 0" in said and "and 324 more in tests.jsonl" in said
    assert "find_disks       128×128            0.50" in said and "figures of 2 different cards" in said
    assert (tmp_path / settings.SUMMARY).read_text() == said + "\n"
    assert summary.exit_code(tmp_path, []) == 1


def test_stages_are_known_by_the_machine_they_ended_on(tmp_path):
    for line in (
        "run begins a, 460 s, machine one",
        "stage x: done, 1.0 s",
        "stage y: cut, 2.0 s",
        "run begins b, 460 s, machine two",
        "stage y: done, 1.0 s",
    ):
        records.append(tmp_path / settings.ENVIRONMENT, line)
    assert summary.stages(tmp_path) == {"x": "done", "y": "done"} and "stages done: x, y" in summary.write(tmp_path)
    assert summary.stages(tmp_path, "one") == {"x": "done", "y": "cut"} and summary.stages_done(tmp_path, "two") == ["y"]


def test_a_summary_of_nothing_is_one(tmp_path):
    assert "no card seen yet" in summary.write(tmp_path)
    assert summary.exit_code(tmp_path, ["kernels"]) == 2


def test_sweeps_are_summed_up_beside_the_link(tmp_path):
    path = tmp_path / settings.STREAMING
    records.record(path, "link, copies of 64 MiB", "done", bytes_per_second=55e9, card="one")
    busy = {"cuda:0 copy": 0.93, "cuda:0 compute": 0.4, "passes": 1.0}
    records.record(
        path, "light sweep, file", "done", seconds=0.1, bytes_per_second=5e10, patterns_per_second=1e6, busy=busy, copy_hidden=0.8
    )
    records.record(path, "disks, correlation, file", "failed", why="ValueError: no\nprobe")
    said = summary.write(tmp_path)
    assert "link, copies of 64 MiB 55.0" in said and "FAILED disks, correlation, file: ValueError: no probe" in said
    (line,) = (line for line in said.split("\n") if "light sweep, file" in line)
    assert "50.0 GB/s" in line and "1 M/s" in line and "copies hidden 0.80" in line and "busy: copy 0.93, compute 0.40" in line


def test_a_record_that_lacks_something_does_not_hide_the_others(tmp_path):
    records.record(tmp_path / settings.KERNELS, "case", "done", operation="find_disks")
    records.record(tmp_path / settings.TESTS, "tests/test_a.py::test", "done")
    said = summary.write(tmp_path)
    assert "kernels: not summed up, KeyError" in said and "1 passed" in said


PAGE = """
# A page

## Predictions for the first run on a GPU

Words.

| kernel and case | before | after | predicted | measured |
| --- | --- | --- | --- | --- |
| `newton_peaks` 256² | 4 passes | 1 pass | 1.2 M patterns/s | |
| `masked_sums`, 128² uint16, 4 masks of float64 weights | 0.1 | 0.5 | five times | |
| the same, 256² | 0.1 | 0.5 | as 128² | |
| something else | | | faster | |

## Another
| newton_peaks | a | b | not of this table | |
"""


def test_predictions_are_held_against_what_was_measured(tmp_path):
    (tmp_path / "docs" / "contributing").mkdir(parents=True)
    (tmp_path / "docs" / "contributing" / "performance-log.md").write_text(PAGE)
    kernel_record(tmp_path, "refine_disks", "128², 21 peaks", rate=2e6)
    kernel_record(tmp_path, "refine_disks", "256², 21 peaks", rate=1.1e6)
    kernel_record(tmp_path, "masked_sums", "128², uint16, 4 masks", rate=9e6)
    kernel_record(tmp_path, "masked_sums", "128², uint16, 4 weights")
    assert len(predictions.table(tmp_path / "docs" / "contributing" / "performance-log.md")) == 4
    lines = summary.write(tmp_path, str(tmp_path)).split("\n")
    (newton,) = (line for line in lines if "newton_peaks" in line)
    assert "1.2 M patterns/s; now 256²" in newton and "1.1 M/s" in newton
    (weighted,) = (line for line in lines if "five times" in line)
    assert "masked_sums, 128²" in weighted and "now 128²" in weighted and "5 M/s" in weighted
    assert any("2 more, or without a case" in line for line in lines) and not any("not of this table" in line for line in lines)


def test_every_prediction_of_the_performance_log_has_a_case_of_its_own(checkout, tmp_path):
    for case in kernels.CASES:
        kernel_record(tmp_path, case.operation, case.label)
    rows = [one for one in records.latest(tmp_path / settings.KERNELS).values()]
    page = checkout / "docs" / "contributing" / "performance-log.md"
    lines = predictions.lines(page, rows, most=100)
    assert len(lines) == len(predictions.table(page)) > 10 and not any("without a case" in line for line in lines)
    about, found = predictions.Subject(frozenset(), frozenset(), frozenset()), []
    for entry in predictions.table(page):
        about = predictions.subject(next(iter(entry.values())), about, {row["operation"] for row in rows})
        found.append(predictions.plainest(predictions.measured(about, rows))["key"])
    assert len(set(found)) == len(found), found


# ---------------------------------------------------------------- the parts


@pytest.mark.parametrize("n", [1, 16, 64, 200])
def test_repeated_inputs_are_those_of_so_many_patterns(n):
    case = next(case for case in kernels.CASES if case.operation == "radial_sums")
    args, _ = case.inputs(n)
    given = case.repeated(args, n, np)
    assert all(np.array_equal(there, np.resize(here, there.shape)) and len(there) == n for here, there in zip(args, given))
    assert case.share(n) * case.bytes(*args) == pytest.approx(case.bytes(*given))


def test_the_kernels_to_compile_are_those_that_launchers_ask_for():
    from gpu4d.benchmarks.gpu_run.compiling import Noting, benchmark_calls, wanted_by

    class OfNoCard(Noting):
        shared_memory = staticmethod(lambda: 227 * 1024)
        multiprocessors = staticmethod(lambda: 132)
        l2_cache = staticmethod(lambda: 50 << 20)

    noting = OfNoCard()
    calls = [one for one in benchmark_calls() if getattr(one[0], "name", "") in ("find_disks", "first_moments")]
    assert wanted_by(calls, noting) == []
    names = {name for found in noting.asked.values() for name in found}
    assert {"find_disks_128", "find_disks_64", "find_disks_192", "filter_columns_256", "strongest_maxima"} <= names
    assert ("fused_disks.cu", ("SIZE=128",)) in noting.asked


def test_the_fft_library_takes_what_the_fused_kernel_could():
    from gpu4d.benchmarks.gpu_run.compiling import Noting, benchmark_calls, wanted_by

    class OfNoCard(Noting):
        shared_memory = staticmethod(lambda: 227 * 1024)
        multiprocessors = staticmethod(lambda: 132)
        l2_cache = staticmethod(lambda: 50 << 20)

    noting = OfNoCard()
    calls = [one for one in benchmark_calls() if getattr(one[0], "__name__", "") == "through_the_fft_library"]
    assert len(calls) == 1 and wanted_by(calls, noting) == []
    assert {file for file, _ in noting.asked} == {"find_disks.cu", "refine_disks.cu"}


def test_profilers_look_at_kernels_that_are_launched():
    from gpu4d.benchmarks.gpu_run.compiling import Noting, wanted_by
    from gpu4d.benchmarks.gpu_run.profilers import CHECKED, PROFILED

    class OfNoCard(Noting):
        shared_memory = staticmethod(lambda: 227 * 1024)
        multiprocessors = staticmethod(lambda: 132)
        l2_cache = staticmethod(lambda: 50 << 20)

    cases = {case.key: case for case in kernels.CASES}
    assert {case for _, case, _ in CHECKED} <= set(cases)
    for name, key, _ in PROFILED:
        noting, case = OfNoCard(), cases[key]
        args, options = case.inputs(2)
        wanted_by([(case.call or kernels.operation(case.operation), args, options)], noting)
        launched = [one for names in noting.asked.values() for one in names]
        assert any(re.search(name, one) for one in launched), f"{key} launches {launched}, not {name}"
