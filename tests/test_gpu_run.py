"""The run on a machine with a GPU (`benchmarks/on_a_gpu.py`) ends in time, ends everything it started, and loses nothing that was known."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gpu4d.benchmarks import kernels
from gpu4d.benchmarks.gpu_run import predictions, records, settings, summary
from gpu4d.benchmarks.gpu_run.processes import LONGEST_LINE, Group

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are followed through /proc")

# The script itself, with other stages: [name, share, file, code, keeps_output], those that keep it only once; the code gets OUT.
DRIVER = """
import json, sys
from gpu4d.benchmarks import on_a_gpu
from gpu4d.benchmarks.gpu_run import stages

specs = json.loads(sys.argv[1])
stages.plan = lambda chosen: [
    stages.Stage(name, share, file, [sys.executable, "-P", "-c", code, str(chosen.out)], keeps_output=keeps, once=keeps)
    for name, share, file, code, keeps in specs
]
stages.part = lambda name, chosen: [sys.executable, "-c", "import time; time.sleep(1000)", str(chosen.out)]
sys.exit(on_a_gpu.main(sys.argv[2:]))
"""
# Forty records with ten thousand characters each, those left out that an earlier start has made.
ROWS = """
import sys, time
from pathlib import Path
from gpu4d.benchmarks.gpu_run import records
path = Path(sys.argv[1]) / "{file}"
for key in map(str, range(40)):
    if key not in records.settled(path):
        records.record(path, key, "started")
        time.sleep(0.01)
        records.record(path, key, "done", text="x" * 10_000)
"""


def rows(file: str) -> str:
    return ROWS.format(file=file)


def begin(out: Path, specs: list, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-P", "-c", DRIVER, json.dumps(specs), str(out), "--checkout", str(out.parent), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def complete(out: Path, specs: list, *options: str) -> tuple[int, str, float]:
    """Exit code, output and seconds of a run."""
    start = time.monotonic()
    process = begin(out, specs, *options)
    said = process.communicate(timeout=120)[0]
    return process.returncode, said, time.monotonic() - start


def processes_of(out: Path) -> list[str]:
    """Command lines of living processes that name this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(out) in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


def assert_all_gone(out: Path) -> None:
    until = time.monotonic() + 5
    while processes_of(out) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_of(out) == []


def assert_readable(out: Path) -> None:
    """Every line that is complete is whole, and no file is more than may be fetched."""
    for name in settings.FILES:
        path = out / name
        if not path.exists():
            continue
        assert path.stat().st_size < 16 << 20
        for line in path.read_bytes().split(b"\n")[:-1]:
            if name.endswith(".jsonl"):
                assert {"key", "outcome"} <= set(json.loads(line))
            else:
                line.decode()


@pytest.fixture
def out(tmp_path):
    """A folder for results; its scratch folder is taken away."""
    folder = tmp_path / "out"
    yield folder
    shutil.rmtree(settings.Settings(folder).scratch, ignore_errors=True)


# ---------------------------------------------------------------- cuts


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_keeps_what_was_known_and_goes_on(out, times):
    specs = [
        ["first", 60, settings.KERNELS, rows(settings.KERNELS), False],
        ["second", 60, settings.STREAMING, rows(settings.STREAMING), False],
    ]
    moments = random.Random(0)
    known: Counter = Counter()
    for _ in range(times):
        process = begin(out, specs)
        time.sleep(moments.uniform(0.2, 3.0))
        process.kill()
        process.communicate()
        assert_all_gone(out)
        assert_readable(out)
        now = Counter({name: len(records.latest(out / name)) for name in (settings.KERNELS, settings.STREAMING)})
        assert not known - now, "what was known is lost"
        known = now
    code, said, _ = complete(out, specs)
    assert code == 0, said
    for name in (settings.KERNELS, settings.STREAMING):
        ended = Counter(one["key"] for one in records.read(out / name) if one["outcome"] == "done")
        assert ended == Counter(map(str, range(40))), "each once, and none again"
    assert summary.stages(out) == {"first": "done", "second": "done"}
    assert sorted(p.name for p in out.iterdir()) == sorted(settings.FILES)


def test_told_to_end_it_ends_everything_and_says_what_it_knows(out):
    specs = [["rows", 60, settings.KERNELS, rows(settings.KERNELS) + "\ntime.sleep(1000)", False]]
    process = begin(out, specs)
    while len(records.latest(out / settings.KERNELS)) < 40:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=10)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert_all_gone(out)
    assert (out / settings.SUMMARY).read_text().strip() == said.strip()


def test_told_to_end_again_and_again_it_still_says_what_it_knows(out):
    specs = [["rows", 60, settings.KERNELS, rows(settings.KERNELS) + "\ntime.sleep(1000)", False]]
    process = begin(out, specs)
    while len(records.latest(out / settings.KERNELS)) < 40:
        assert process.poll() is None
        time.sleep(0.05)
    while process.poll() is None:
        process.terminate()
        time.sleep(0.01)
    said = process.communicate(timeout=10)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert_all_gone(out)
    assert (out / settings.SUMMARY).read_text().strip() == said.strip()


def test_what_an_earlier_run_left_is_continued_in_another_folder(out, tmp_path):
    earlier = tmp_path / "earlier"
    specs = [["rows", 60, settings.KERNELS, rows(settings.KERNELS), False]]
    assert complete(earlier, specs)[0] == 0
    path = earlier / settings.KERNELS
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:20]) + b'\n{"key": "torn", "outc')
    (earlier / settings.ENVIRONMENT).write_text("")
    code, said, _ = complete(out, specs, "--resume", str(earlier))
    assert code == 0, said
    ended = Counter(one["key"] for one in records.read(out / settings.KERNELS) if one["outcome"] == "done")
    assert ended == Counter(map(str, range(40)))
    assert "torn" not in (out / settings.KERNELS).read_text()
    code, _, _ = complete(out, specs)
    assert code == 0 and len(list(records.read(out / settings.KERNELS))) == 80, "what is done is not begun again"


# ---------------------------------------------------------------- stages that misbehave

STUBBORN = """
import os, signal, subprocess, sys, time
for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(one, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", sys.argv[1]], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
while True:
    time.sleep(1000)
"""


def test_the_deadline_is_kept_whatever_a_stage_does_about_it(out):
    specs = [["stubborn", 60, settings.KERNELS, STUBBORN, False], ["late", 60, settings.KERNELS, rows(settings.KERNELS), False]]
    code, said, seconds = complete(out, specs, "--deadline", "8")
    assert seconds < 8 + 5
    assert code == 2 and "stages cut: stubborn" in said
    assert_all_gone(out)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("crashes", "import os; os.abort()"),
        ("raises", "raise RuntimeError('no')"),
        ("hangs", "import time; time.sleep(1000)"),
        (
            "leaves a child",
            "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)', sys.argv[1]])",
        ),
        ("floods", "import os\nwhile True: os.write(1, b'x' * 100 + b'\\n')"),
        ("floods without an end of line", "import os\nfor _ in range(3000): os.write(1, b'x' * 100_000)"),
        (
            "writes garbage",
            "import os, sys\nos.write(1, bytes(range(256)) * 50)\nopen(sys.argv[1] + '/kernels.jsonl', 'ab').write(bytes(range(256)))",
        ),
        ("is not there", None),
    ],
)
def test_a_stage_that_misbehaves_does_not_stop_the_next(out, name, code):
    bad = [name, 3, settings.PROFILER, code or "import gpu4d_of_which_nobody_has_heard", True]
    specs = [bad, ["good", 60, settings.STREAMING, rows(settings.STREAMING), False]]
    _, said, _ = complete(out, specs, "--deadline", "460")
    assert len(records.latest(out / settings.STREAMING)) == 40, said
    assert summary.stages(out)["good"] == "done"
    assert_all_gone(out)
    for file in settings.FILES:
        assert (out / file).stat().st_size < 16 << 20


def test_a_stage_goes_on_behind_what_it_broke_off_with(out):
    code = rows(settings.KERNELS).replace("time.sleep(0.01)", "time.sleep(0.01)\n        if key in ('3', '7'): import os; os.abort()")
    specs = [["rows", 100, settings.KERNELS, code, False]]
    assert complete(out, specs)[0] == 0
    tried = Counter((one["key"], one["outcome"]) for one in records.read(out / settings.KERNELS))
    assert tried["3", "broke off"] == tried["7", "broke off"] == records.TRIES
    assert set(records.latest(out / settings.KERNELS)) == set(map(str, range(40))) - {"3", "7"}
    assert "without an end: 3, 7" in (out / settings.SUMMARY).read_text()


def test_lines_of_an_output_come_at_once_and_the_longest_are_cut(tmp_path):
    lines: list[str] = []
    code = "import sys, time; print('first', flush=True); time.sleep(1000)"
    group = Group([sys.executable, "-c", code], on_line=lines.append)
    until = time.monotonic() + 20
    while not lines and time.monotonic() < until:
        time.sleep(0.02)
    assert lines == ["first"] and group.process.poll() is None
    group.end()
    assert group.process.poll() is not None
    group = Group([sys.executable, "-c", "print('x' * 10**6); print('last\\0')"], on_line=lines.append)
    assert group.wait(20) == 0
    assert lines[1:] == ["x" * LONGEST_LINE, "last?"]


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


# ---------------------------------------------------------------- the whole, as it is run


@pytest.fixture(scope="module")
def site(checkout, tmp_path_factory) -> Path:
    """A folder into which this checkout's wheel was installed, as where there is no network."""
    copy = tmp_path_factory.mktemp("source") / "gpu4d"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "docs", "tests"))
    made, folder = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", made, copy], check=True, cwd=made)
    wheel = next(made.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-index", "--no-deps", "--target", folder, wheel], check=True, cwd=made)
    return folder


def records_of(out: Path) -> int:
    """How much is known: records of all files."""
    return sum(len(records.lines(out / name)) for name in (settings.TESTS, settings.KERNELS, settings.STREAMING))


def script(checkout: Path, site: Path, out: Path, *options: str) -> subprocess.Popen:
    """The script of a checkout, with what the wheel brought."""
    command = [sys.executable, "-P", str(checkout / "benchmarks" / "on_a_gpu.py"), str(out), *options]
    environment = os.environ | {"PYTHONPATH": str(site), "no_proxy": "*", "PIP_NO_INDEX": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=checkout)


@pytest.mark.slow
def test_without_a_gpu_it_says_what_is_missing(checkout, site, out):
    code = "import gpu4d.benchmarks.gpu_run as run; print(run.__file__)"
    where = subprocess.run([sys.executable, "-P", "-c", code], env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(site)
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() > 0:
            pytest.skip("there is a GPU")
    except Exception as error:  # absent, or without a driver: that is what is wanted here
        print(error)
    process = script(checkout, site, out, "--tests", "none", "--deadline", "120")
    said = process.communicate(timeout=140)[0]
    assert process.returncode in (1, 2), said
    assert {p.name for p in out.iterdir()} == set(settings.FILES)
    known = (out / settings.ENVIRONMENT).read_text()
    assert "packages: gpu4d" in known and re.search(r"^a kernel of gpu4d: (absent|FAILED)", known, re.MULTILINE)
    assert summary.stages(out)["environment"] == "done" and "broke off" in summary.stages(out)["kernels"]
    assert "kernels| " in known, "why a stage broke off is kept"
    assert_all_gone(out)


@pytest.mark.slow
def test_a_rehearsal_killed_again_and_again_comes_to_its_end(checkout, site, out):
    """The whole plan on the CuPy without a GPU, from a wheel; the moments are counted in what is known, so that all stages are met."""
    from gpu_without_gpu import why_not

    if reason := why_not():
        pytest.skip(reason)
    options = ("--rehearse", "--tests", "quick", "--deadline", "560")
    moments, known = random.Random(1), Counter()
    for number in range(20):
        process = script(checkout, site, out, *options)
        few = number < 6  # in the first stages, whose lines are no records
        enough = records_of(out) + moments.randint(1, 25)
        until = time.monotonic() + (moments.uniform(0.5, 10) if few else 90)
        while process.poll() is None and records_of(out) < enough and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert_all_gone(out)
        assert_readable(out)
        now = Counter({name: len(records.latest(out / name)) for name in (settings.TESTS, settings.KERNELS, settings.STREAMING)})
        assert not known - now, "what was known is lost"
        known = now
    start = time.monotonic()
    process = script(checkout, site, out, *options)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert time.monotonic() - start < 560 + 5
    assert sorted(p.name for p in out.iterdir()) == sorted(settings.FILES)
    assert {case.key for case in kernels.CASES} <= set(records.latest(out / settings.KERNELS))
    assert len(said.strip().split("\n")) <= summary.MOST_LINES + 30
    for name in (settings.TESTS, settings.KERNELS, settings.STREAMING):
        ended = Counter(one["key"] for one in records.read(out / name) if one["outcome"] in records.FINAL)
        assert ended and set(ended.values()) == {1}, "each once"
    assert_all_gone(out)
