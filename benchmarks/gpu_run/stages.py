"""The plan of a run, and how it is carried out: every stage within its share of one deadline, none in another's way."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu4d.benchmarks.gpu_run import records, summary
from gpu4d.benchmarks.gpu_run.processes import Deadline, Group
from gpu4d.benchmarks.gpu_run.settings import ENVIRONMENT, FILES, KERNELS, PROFILER, STREAMING, TESTS, Settings

USUAL = 460.0  # seconds of a run, which shares are given for
FOR_THE_SUMMARY = 3.0  # seconds before the deadline in which nothing runs any more
LEAST = 4.0  # seconds below which no stage is begun: Python and CuPy take as long to start
MOST_STARTS = 9  # of one stage in one turn, where it breaks off each time behind something new
ENDED = (0, 3)  # exit codes of a part that came to its end: all good, something failed
PYTEST_ENDED = (0, 1, 5)  # of pytest: all passed, some failed, none were left


@dataclass(frozen=True)
class Stage:
    """One command and its share of the time.

    Attributes
    ----------
    name : str
    share : float
        Seconds, of a run of 460; of a longer or shorter one as much more or less.
    file : str
        What it writes to: records itself, or by the lines of its output.
    command : sequence of str
    keeps_output : bool
        Whether every line it prints belongs into the file.
    again : bool
        Also where an earlier run has been through with it on another machine.
    once : bool
        A second turn would only say the same again.
    environment : dict, optional
    ended : tuple of int
        Exit codes of a stage that came to its end.
    """

    name: str
    share: float
    file: str
    command: Sequence[str]
    keeps_output: bool = False
    again: bool = False
    once: bool = False
    environment: dict[str, str] | None = None
    ended: tuple[int, ...] = ENDED


def part(name: str, settings: Settings, *rest: str) -> list[str]:
    """Command of a part of this package."""
    return [sys.executable, "-P", "-m", "gpu4d.benchmarks.gpu_run", name, *rest, *settings.arguments()]


def plan(settings: Settings) -> list[Stage]:
    """Every stage, in order of its worth: what is known early cannot be lost to a cut."""
    tests = _test_stages(settings)
    stages = [
        Stage("environment", 30, ENVIRONMENT, part("environment", settings), keeps_output=True, again=True, once=True),
        Stage("compile", 40, ENVIRONMENT, part("compile", settings), keeps_output=True, again=True),
        *tests[:1],
        Stage("kernels", 90, KERNELS, part("kernels", settings)),
        Stage("streaming", 60, STREAMING, part("streaming", settings)),
        *tests[1:],
        Stage("profilers", 60, PROFILER, part("profilers", settings), keeps_output=True, once=True),
    ]
    return [stage for stage in stages if stage.name.startswith("tests")] if settings.failed else stages


def _test_stages(settings: Settings) -> list[Stage]:
    folder = Path(settings.checkout) / "tests"
    if settings.tests == "none" or not settings.checkout or importlib.util.find_spec("pytest") is None:
        return []
    first, alone = "kernels/test_on_a_gpu.py", "streaming/test_gpu_streaming.py"
    marked = {p.relative_to(folder).as_posix() for p in folder.rglob("test_*.py") if re.search(r"mark\.gpu\b", p.read_text())}
    marked |= {"operations/test_definitions.py", "operations/test_options.py"}  # the marks stand with the libraries they try
    others = sorted(marked - {first, alone, "benchmarks/test_gpu_run.py", "project/test_packaging.py"})
    few = settings.tests == "quick"
    only = ["-k", "(first_moments or masked_sums) and not torch and not jax"] if few else []
    many = 2 if settings.rehearse else 8
    # Both are measured by the stage "streaming", at greater length.
    slow = ("test_a_file_in_the_page_cache_fills_the_link", "test_copies_hide_behind_computing")
    at_speed = [f"--deselect=tests/{alone}::{name}[cuda:0]" for name in slow]
    few_sweeps = ["-k", "two_streams or work_areas"] if few else []
    return [
        _pytest("tests-kernels", 60, settings, many, [first], only),
        _pytest("tests-operations", 90, settings, many, ["operations/test_definitions.py"] if few else others, only),
        _pytest("tests-sweeps", 50, settings, 1, [alone], [*at_speed, *few_sweeps]),
    ]


def _pytest(name: str, share: float, settings: Settings, workers: int, files: list[str], options: list[str]) -> Stage:
    """Tests in workers, which may be lost without the rest; every report is a record at once."""
    command = [sys.executable, "-P", "-m", "pytest", "-p", "gpu4d.benchmarks.gpu_run.test_reports", "-q", "--tb=short", "-m", "gpu"]
    if settings.rehearse:
        command += ["-p", "gpu_without_gpu"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(workers), "--max-worker-restart", "20"]
    environment = {
        "GPU4D_RUN_RECORDS": str(settings.out / TESTS),
        "GPU4D_RUN_SETTLED": str(settings.scratch / "settled-tests.json"),
        "GPU4D_RUN_FAILED": "1" if settings.failed else "",
    }
    return Stage(name, share, TESTS, [*command, *options, *(f"tests/{f}" for f in files)], environment=environment, ended=PYTEST_ENDED)


class Run:
    """Carries out a plan by a deadline.

    Parameters
    ----------
    stages : list of Stage
    settings : Settings
    deadline : Deadline
    say : callable
        What is told while it runs.
    """

    def __init__(self, stages: list[Stage], settings: Settings, deadline: Deadline, say: Callable[[str], None]):
        self.stages, self.settings, self.deadline, self.say = stages, settings, deadline, say
        self.groups: list[Group] = []

    def everything(self) -> None:
        """Every stage within its share; then those that were cut or broke off get what time is left."""
        out = self.settings.out
        for name in FILES:
            records.repair(out / name)
            (out / name).touch()
        here = machine()
        before, here_before = set(summary.stages_done(out)), set(summary.stages_done(out, here))
        records.append(out / ENVIRONMENT, f"run begins {time.strftime('%Y-%m-%d %H:%M:%S')}, {self.deadline.left:.0f} s, machine {here}")
        stretch, open_ones = self.deadline.left / USUAL, []
        for stage in self.stages:
            if stage.name in (here_before if stage.again else before) and not self.settings.failed:
                continue
            written = self._size(stage)
            ended, begun = self._attempt(stage, stage.share * stretch)
            if not ended and not stage.once and (self._size(stage) > written or not begun):  # what only hangs would do so again
                open_ones.append(stage)
        for number, stage in enumerate(open_ones):
            self._attempt(stage, (self.deadline.left - FOR_THE_SUMMARY) / (len(open_ones) - number))

    def in_the_background(self, command: Sequence[str], name: str) -> None:
        """Start what other stages profit from, behind all of them; what it prints is kept with the environment."""
        into = self.settings.out / ENVIRONMENT
        say = lambda line: records.append(into, f"{name}: {line}")  # noqa: E731
        self.groups.append(Group(command, on_line=say, environment=self.settings.environment(), nice=10))

    def end(self) -> None:
        """Kill whatever runs."""
        for group in self.groups:
            group.end()
        shutil.rmtree(self.settings.scratch, ignore_errors=True)

    def _attempt(self, stage: Stage, share: float) -> tuple[bool, bool]:
        """Run a stage, again where it broke off behind something new; whether it came to its end, and whether there was time to begin."""
        seconds = min(share, self.deadline.left - FOR_THE_SUMMARY)
        if seconds < min(LEAST, share):
            self._note(stage, "no time", 0.0)
            return False, False
        start, outcome = time.monotonic(), "cut"
        for _ in range(MOST_STARTS):
            left = start + seconds - time.monotonic()
            if left < 0.5:
                break
            self._prepare(stage)
            written = self._size(stage)
            group = self._start(stage)
            code = group.wait(left)
            self.groups.remove(group)
            outcome = "cut" if code is None else "done" if code in stage.ended else f"broke off with code {code}"
            if outcome in ("cut", "done") or stage.keeps_output or self._size(stage) == written:
                break
            records.blame(self.settings.out / stage.file, written)
        self._note(stage, outcome, time.monotonic() - start, () if outcome == "done" or stage.keeps_output else tuple(group.last))
        return outcome == "done", True

    def _start(self, stage: Stage) -> Group:
        into = self.settings.out / stage.file
        group = Group(
            stage.command,
            on_line=(lambda line: records.append(into, line)) if stage.keeps_output else None,
            environment=self.settings.environment() | (stage.environment or {}),
            folder=Path(self.settings.checkout) if self.settings.checkout else None,
        )
        self.groups.append(group)
        return group

    def _prepare(self, stage: Stage) -> None:
        """Workers of tests must agree on what is done: they read it from a file that does not grow meanwhile."""
        self.settings.scratch.mkdir(exist_ok=True)
        if stage.file == TESTS:
            from gpu4d.benchmarks.gpu_run.test_reports import write_settled

            write_settled(self.settings.out / TESTS, self.settings.scratch / "settled-tests.json")

    def _size(self, stage: Stage) -> int:
        path = self.settings.out / stage.file
        return path.stat().st_size if path.exists() else 0

    def _note(self, stage: Stage, outcome: str, seconds: float, last: Sequence[str] = ()) -> None:
        line = f"stage {stage.name}: {outcome}, {seconds:.1f} s"
        for one in (line, *(f"  {stage.name}| {said}" for said in last if said.strip())):
            records.append(self.settings.out / ENVIRONMENT, one)
        self.say(f"[{self.deadline.passed:5.0f} s] {line}")
        with contextlib.suppress(Exception):  # a summary that fails must not end the run; the last one says why
            summary.write(self.settings.out, self.settings.checkout)


def machine() -> str:
    """A mark of this machine since its last start."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    known = boot.read_text() if boot.exists() else ""
    return hashlib.sha256(f"{platform.node()} {known}".encode()).hexdigest()[:12]


def workers() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
