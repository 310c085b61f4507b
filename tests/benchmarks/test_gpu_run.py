"""The run on a machine with a GPU (`benchmarks/on_a_gpu.py`) ends in time, ends everything it started, and loses nothing that was known."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from gpu4d.benchmarks import kernels
from gpu4d.benchmarks.gpu_run import records, settings, summary
from gpu4d.benchmarks.gpu_run.processes import LONGEST_LINE, Group
from runs_of_stages import assert_all_gone, assert_readable, begin, complete, rows

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are followed through /proc")


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
    said = process.communicate(timeout=120)[0]
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
    said = process.communicate(timeout=120)[0]
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
    assert seconds < 8 + 60, "a stage of 1000 s did not keep it"
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
    until = time.monotonic() + 120
    while not lines and time.monotonic() < until:
        time.sleep(0.02)
    assert lines == ["first"] and group.process.poll() is None
    group.end()
    assert group.process.poll() is not None
    group = Group([sys.executable, "-c", "print('x' * 10**6); print('last\\0')"], on_line=lines.append)
    assert group.wait(120) == 0
    assert lines[1:] == ["x" * LONGEST_LINE, "last?"]


# ---------------------------------------------------------------- the whole, as it is run


@pytest.fixture(scope="module")
def site(checkout, tmp_path_factory) -> Path:
    """A folder into which this checkout's wheel was installed, as where there is no network; with the code that numba has compiled here."""
    copy = tmp_path_factory.mktemp("source") / "gpu4d"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "docs", "tests"))
    made, folder = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", made, copy], check=True, cwd=made)
    wheel = next(made.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-index", "--no-deps", "--target", folder, wheel], check=True, cwd=made)
    kept = folder / "gpu4d" / "cpu_fallback" / "__pycache__"
    kept.mkdir(exist_ok=True)
    for file in (checkout / "cpu_fallback" / "__pycache__").glob("*.nb?"):
        shutil.copy(file, kept)
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
