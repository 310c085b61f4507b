"""Commands of README and of the pages do what they are there for: each is executed beside the files that its page speaks of.

`test_page_commands.py` reads all commands as the program reads them. Here they run, in the order of the page, in a folder for each page. A
command that stands on several pages beside the same files runs once. What does not run is in one table, with the reason.
"""

import http.cookiejar
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import page_files as files
import pytest
from forking import Forks
from own_process import importing
from page_commands import CHECKOUT, PAGES, Command, check_gpu4d, commands

pytestmark = [
    pytest.mark.slow,  # two hundred commands
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs commands in forks"),
]

# The beginning of a command, and why it is read only.
NOT_RUN = {
    "python3 -m venv": ".ci/run makes environments by README's lines",
    "pip install": ".ci/run installs into fresh environments",
    "python3 -m pip": "downloads packages for a machine without a network",
    "pytest": "it is this program; .ci/run runs README's line and the slow tests",
    "sphinx-build": ".ci/run builds the site",
    "git": "changes the checkout",
    "gpu4d warm": "compiles for minutes; tests/workflow/test_prepare.py",
    "gpu4d bench run": "a minute and more; tests/benchmarks/test_suite_run.py runs it with the smallest inputs",
    "gpu4d bench kernels": "minutes; tests/benchmarks/test_benchmarks.py runs it with the smallest inputs",
    "gpu4d bench verify gpu4d-bench-S.json --data": "makes all inputs anew; tests/benchmarks/test_suite_verify.py",
    "gpu4d bench verify R.json --data": "the same",
    "gpu4d run scan.h5 --scheduler": "needs a cluster; tests/streaming/test_distributed.py starts one",
    "gpu4d info scan.h5 --plan --memory 256MB --device cuda:0": "needs a GPU",
    "python3 -P benchmarks/on_a_gpu.py": ".ci/run rehearses it",
    "python benchmarks/peers/": "installs other programs; tests/benchmarks/test_peers.py",
    "python -m benchmarks.peers.": "the same",
    "python benchmarks/precision.py": "minutes; tests/benchmarks/test_precision.py runs it with --quick",
    "python benchmarks/predict_check.py": "minutes; tests/benchmarks/test_suite_predict.py runs it with --quick",
    "python -m gpu4d.benchmarks.suite.results_page": "writes into the checkout; tests/benchmarks/test_suite_results_page.py",
    "python -m gpu4d.benchmarks.iterative": "a minute, and has no smaller form",
    "python benchmarks/direct_ptychography.py": "minutes; tests/benchmarks/test_direct_ptychography.py calls its parts",
    "python -m gpu4d.benchmarks.call_overhead": "a minute; tests/benchmarks/test_benchmarks.py runs it with few calls",
    "python -m gpu4d.benchmarks.counting_occupancy": "a minute, and has no smaller form",
    "sbatch": "tasks_of_a_cluster below",
    "dask": "a_script_of_a_page below",
    "srun": "the same",
}
# Flags that let a script end in seconds.
FEW = {
    "python benchmarks/bragg_cpu.py": "--only strain --quick",
    "python benchmarks/live.py": "--scan 8 --rounds 1 --detector 16",
    "python -m benchmarks.convert": "--rows 2 --rounds 1 --to h5 --codec lz4",
    "python -m benchmarks.readers": "--megabytes 1 --rounds 1 --only merlin",
    "python -m gpu4d.benchmarks.view_drag": "--side 16",
    "python -m gpu4d.benchmarks.view_drag --page": "--side 32",
}
# A page may say that a command fails.
CODES: dict[str, int] = {}
# What is put in the place of words of a page, so that seconds are enough.
SMALLER = {
    "16.5 GiB": "64 MB",
    "--scan-shape 128,64": "--scan-shape 8,8",
    "--scan-shape 512,512": "--scan-shape 16,16",
    "--every 30 --until-idle 3600": "--every 0.2 --until-idle 1",
    "/data/today": "data/today",
    "--workers 4": "--workers 2",
    "scan.h5 --structure Au": "scan.h5 --crop 0,4,0,4 --structure Au",
    "grains.h5 --structure Au": "grains.h5 --crop 0,4,0,4 --structure Au",
    "orientation.h5 --structure Au": "orientation.h5 --crop 0,4,0,4 --structure Au",
    "--reference crystal": "--crop 0,4,0,4 --reference crystal",
}
RESULT = CHECKOUT / "benchmarks" / "results" / "bench-S-amd-epyc-2-cores-20261201.json"
# Files that pages speak of. A page of its own list comes first.
USUAL = {
    "scan.h5": files.crystal,
    "second.h5": files.second_crystal,
    "vacuum.h5": files.vacuum,
    "gold.h5": files.rings,
    "grains.h5": files.crystal,
    "orientation.h5": files.crystal,
    "glass.h5": files.glass,
    "frames.npy": files.row_of_frames,
    "scan.mib": files.merlin,
    "scan.raw": files.plain_numbers,
    "scan.tpx3": files.events,
    "dark.h5": files.dark,
    "gain.h5": files.gain,
    "beam_stop.npy": files.stop((96, 96)),
    "gpu4d-bench-S.json": files.copy_of(RESULT),
}
OF_A_PAGE: dict[str, dict[str, files.Maker]] = {
    "README.md": {"scan.h5": files.known_object},  # `export` needs what the file says of the beam
    "docs/how-to/batch.md": {
        "2026-12-01/one.mib": files.merlin,
        "2026-12-02/night/two.h5": files.thin_object,
        "data/today/three.h5": files.thin_object,
        "scan.h5": files.thin_object,
        "R.toml": files.text('[analysis]\ntechnique = "images"\n'),
    },
    "docs/how-to/benchmark.md": {f"{name}.json": files.other_machine(RESULT, name) for name in ("mine", "theirs", "A", "B", "C", "R")},
    "docs/how-to/classification.md": {"classes.toml": files.block_of("docs/how-to/classification.md", "[classification]")},
    "docs/how-to/cluster.md": {"scan.h5": files.thin_object},
    "docs/how-to/compare.md": {"pairs.h5": files.two_ways},
    "docs/how-to/iterative-ptychography.md": {"scan.h5": files.known_object},
    "docs/how-to/orientation.md": {"oxide.cif": files.OXIDE, "gold.h5": files.rings},
    "docs/how-to/plan-an-experiment.md": {
        "experiment.toml": files.block_of("docs/how-to/plan-an-experiment.md", "scan_shape ="),
        "scan.h5": files.known_object,
    },
    "docs/how-to/predict.md": {"theirs.json": files.copy_of(RESULT)},
    "docs/how-to/raw-data.md": {"scan.h5": files.raw_frames},
    "docs/how-to/strain.md": {"other.h5": files.second_crystal},
    "docs/how-to/strain-looks-wrong.md": {"recipe.toml": files.text('[strain]\nmethod = "cepstrum"\n')},
    "docs/how-to/convert.md": {"scan.mib": files.large_merlin, "scan.h5": files.none},
    "docs/questions/data-out.md": {"scan.h5": files.none},
    "docs/questions/phase-wrong-sign.md": {"scan.h5": files.thin_object},
    "docs/questions/profile-corners.md": {"scan.h5": files.glass, "beam_stop.npy": files.stop((64, 64))},
    "docs/questions/ssb-nothing-sensible.md": {"scan.h5": files.thin_object},
    "docs/questions/strain-at-edges.md": {"first.h5": files.crystal},
    "docs/questions/which-rotation.md": {"scan.h5": files.thin_object},
}
# What a page takes for granted: results of earlier runs.
BEFORE = {
    "docs/how-to/compare.md": ("gpu4d run scan.h5 -o result", "gpu4d run scan.h5 --reference 0,8,0,32 -o earlier"),
    "docs/how-to/orientation.md": ("gpu4d calibrate gold.h5 --standard Au --energy 200e3 -o calibration.toml",),
    "docs/how-to/strain.md": ("gpu4d run other.h5",),
    "docs/how-to/view.md": ("gpu4d run scan.h5 -o result",),
    "docs/questions/strain-at-edges.md": ("gpu4d run first.h5",),
}


# Commands of sentences that stand for their name: alone they would say what they need.
NAMES = {"gpu4d plan", "gpu4d bench run", "python benchmarks/cepstrum.py"}
PLACEHOLDER = re.compile(r"[A-Z_]+(\[[^]]*\])?(\.\w+)?")
RUN = """
import sys, webbrowser
import click
from blank_pictures import render_none

sys.argv = ["gpu4d", *WORDS]
webbrowser.open = click.launch = lambda *_, **__: True
render_none()
from gpu4d.cli import run_command

sys.exit(run_command(sys.argv[1:]))
"""
SCRIPT = """
import runpy, sys

sys.argv = [*WORDS]
sys.path.insert(0, "CHECKOUT")
if sys.argv[0] == "-m":
    module = sys.argv[1]
    del sys.argv[0]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
else:
    runpy.run_path("CHECKOUT/" + sys.argv[0], run_name="__main__")
""".replace("CHECKOUT", str(CHECKOUT))
RUNS = ("gpu4d", "python", "python3", "printf")  # programs whose commands are run here


def whole(command: Command) -> bool:
    """Say whether a command can be typed as it stands: a sentence may have its name alone, or FILE in place of a file."""
    if not command.in_sentence:
        return True
    if command.text in NAMES or any(PLACEHOLDER.fullmatch(word) for word in command.words):
        return False
    if command.program != "gpu4d":
        return True
    try:
        check_gpu4d([*command.words])
    except Exception:
        return False
    return True


def reason(command: Command) -> str | None:
    """Return the line of the table that says why a command is not run."""
    return next((start for start in NOT_RUN if f"{command.text} ".startswith(start if start[-1] in "/." else f"{start} ")), None)


def asked(page: str) -> list[Command]:
    """Return commands of a page that can be typed, without parts of scripts."""
    return [one for one in commands(page) if whole(one) and (one.program in RUNS or reason(one))]


class Kitchen:
    """Runs commands. What a command wrote is kept for the next page that has it."""

    def __init__(self, home: Path):
        self.home = home
        variables = {"HOME": str(home), "GPU4D_CACHE": str(home / "kept"), "BROWSER": "true"}
        self.forks = Forks("gpu4d.cli", "gpu4d.workflow.pipeline", "gpu4d.workflow.report.report", "blank_pictures", **variables)
        self.environment = importing() | variables
        self.done: dict[tuple[str, ...], tuple[int, str, list[Path]]] = {}  # exit code, what was said, what was written

    def once(self, command: Command, page: str, folder: Path) -> tuple[int, str]:
        """Run a command, or take what it wrote for another page with the same files."""
        there = tuple(name for name, make in OF_A_PAGE.get(page, {}).items() if name in command.text and USUAL.get(name) is not make)
        key = (command.text, *there, page if there else "")
        if key not in self.done:
            before = set(folder.iterdir())
            code, said = self.run(command.program, [*smaller(command.words), *FEW.get(command.text, "").split()], folder)
            self.done[key] = (code, said, sorted(set(folder.iterdir()) - before))
            return code, said
        code, said, written = self.done[key]
        for one in written:
            if one.is_dir() and not (folder / one.name).exists():
                shutil.copytree(one, folder / one.name, symlinks=True)
            elif one.is_file() and not (folder / one.name).exists():
                shutil.copy2(one, folder / one.name)
        return code, said

    def run(self, program: str, words: list[str], folder: Path) -> tuple[int, str]:
        """Run a command of gpu4d, or one of Python."""
        if program != "gpu4d":
            return self.forks.run(SCRIPT.replace("WORDS", repr(words)), folder, self.home / "said.txt")
        if words[0] == "view" and "--export" not in words:
            return self.served(words, folder)
        return self.forks.run(RUN.replace("WORDS", repr(words)), folder, self.home / "said.txt")

    def served(self, words: list[str], folder: Path) -> tuple[int, str]:
        """Start a server, open its page, and end it by Ctrl-C."""
        command = [sys.executable, "-m", "gpu4d", *words]
        process = subprocess.Popen(command, cwd=folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = ""
        for line in process.stdout:
            said += line
            if address := re.search(r"http://\S+", line):
                browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
                assert b"<html" in browser.open(address[0], timeout=60).read()
                process.send_signal(signal.SIGINT)
        assert re.search(r"http://", said), said
        return process.wait(), said


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kitchen]:
    made = Kitchen(tmp_path_factory.mktemp("home"))
    yield made
    made.forks.close()


def lay_out(page: str, folder: Path) -> None:
    """Write the files that a page's commands name, unless a command of the page writes them."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    for name, make in (USUAL | OF_A_PAGE.get(page, {})).items():
        if re.search(rf"[\s'`]{re.escape(name)}", text) or name in OF_A_PAGE.get(page, {}):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            make(folder / name)


def smaller(words: tuple[str, ...]) -> list[str]:
    """Return the words of a command with smaller numbers."""
    text = "\0".join(words)
    for large, small in SMALLER.items():
        text = text.replace(large, small).replace(large.replace(" ", "\0"), small.replace(" ", "\0"))  # in one word, or in several
    return text.split("\0")


@pytest.mark.parametrize("page", [page for page in PAGES if any(not reason(one) for one in asked(page))])
def test_commands_of_a_page_run(page: str, tmp_path: Path, kitchen: Kitchen) -> None:
    lay_out(page, tmp_path)
    wrong = []
    for line in BEFORE.get(page, ()):
        program, *words = line.split()
        code, said = kitchen.once(Command(program, tuple(words), False, line), page, tmp_path)
        assert code == 0, f"{line}: {said}"
    for command in asked(page):
        if reason(command):
            continue
        if command.program == "printf":
            (tmp_path / command.words[2]).write_text(command.words[0].replace("\\n", "\n"), encoding="utf-8")
            continue
        if command.words[0] == "run" and "-o" not in command.words:  # commands below each other are often alternatives
            shutil.rmtree(tmp_path / f"{Path(command.words[1]).stem}-gpu4d", ignore_errors=True)
        before = time.monotonic()
        code, said = kitchen.once(command, page, tmp_path)
        print(f"{time.monotonic() - before:6.1f} s  {code}  {command.text}\n{said[-600:]}")
        if code != CODES.get(command.text, 0):
            wrong.append(f"{command.text}: exit code {code}\n{said[-800:]}")
    assert not wrong, "\n".join(wrong)


def test_the_table_names_what_is_there() -> None:
    """A line that no page needs any more would hide the next command that begins so."""
    there = {reason(one) for page in PAGES for one in asked(page)}
    assert not set(NOT_RUN) - there
    texts = {one.text for page in PAGES for one in commands(page)}
    assert not (set(CODES) | set(FEW) | NAMES) - texts
    assert all(any(large in text for text in texts) for large in SMALLER)
    assert set(OF_A_PAGE) | set(BEFORE) <= set(PAGES)


def stand_in(place: Path, name: str, script: str) -> None:
    """Write a program of this name."""
    place.mkdir(exist_ok=True)
    (place / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    (place / name).chmod(0o755)


def bash(line: str, folder: Path, programs: Path, kitchen: Kitchen) -> str:
    """Run a line of a shell with these programs before all others, and return what it says."""
    environment = kitchen.environment | {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_tasks_of_a_cluster(tmp_path: Path, kitchen: Kitchen) -> None:
    """Lines with sbatch, in the workspace that the page makes: a stand-in runs the tasks of the array one after the other."""
    page, programs = "docs/how-to/workspace.md", tmp_path / "programs"
    lines = [one.line.removeprefix("$ ") for one in commands(page) if one.program == "sbatch"]
    assert len(lines) == 2
    tasks = 'number=${1##*-}; shift; for i in $(seq "$number"); do SLURM_ARRAY_TASK_ID=$i SLURM_CPUS_PER_TASK=1 bash "$@"; done'
    stand_in(programs, "sbatch", tasks)
    stand_in(programs, "srun", 'exec "$@"')
    stand_in(programs, "gpu4d", f'exec {sys.executable} -m gpu4d "$@"')
    bash("gpu4d init my-scans", tmp_path, programs, kitchen)
    folder = tmp_path / "my-scans"
    files.thin_object(folder / "scans" / "one.h5")
    bash("bash -n slurm-batch.sh; bash -n run-all.sh", folder, programs, kitchen)
    assert "report.html" in bash(lines[1], folder, programs, kitchen)
    assert (folder / "results" / "one" / "report.html").is_file()
    assert "nothing to do" in bash(lines[0], folder, programs, kitchen), "the scan has a result"
    assert "one" in bash("./run-all.sh", folder, programs, kitchen)


def test_a_script_of_a_page(tmp_path: Path, kitchen: Kitchen) -> None:
    """The job for Slurm: stand-ins write the scheduler's file and note how they were called."""
    text = (CHECKOUT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", text, re.S)
    (tmp_path / "job.sh").write_text(script, encoding="utf-8")
    programs = tmp_path / "programs"
    note = 'echo "$(basename $0) $@" >> called'
    stand_in(programs, "dask", note + '\nif [ "$1" = scheduler ]; then echo \'{"address": "tcp://here:1"}\' > "$3"; fi')
    stand_in(programs, "srun", note + '\nexec "$@"')
    stand_in(programs, "gpu4d", note)
    stand_in(programs, "python", f'exec {sys.executable} "$@"')
    bash("bash -n job.sh; SLURM_JOB_ID=7 SLURM_CPUS_PER_TASK=8 bash -eu job.sh", tmp_path, programs, kitchen)
    called = (tmp_path / "called").read_text(encoding="utf-8").splitlines()
    file = f"--scheduler-file {tmp_path}/scheduler-7.json"
    assert {f"dask scheduler {file}", f"srun dask worker {file} --nthreads 8", f"dask worker {file} --nthreads 8"} <= set(called)
    assert called[-1] == "gpu4d run scan.h5 --scheduler tcp://here:1" or "gpu4d run scan.h5 --scheduler tcp://here:1" in called


def test_five_commands_from_nothing_to_a_report(tmp_path: Path, kitchen: Kitchen) -> None:
    """The first block of the tutorial, in an empty folder. Its first line installs, which .ci/run does."""
    text = (CHECKOUT / "docs" / "tutorials" / "first-scan.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", text, re.S)[1].strip().splitlines()
    assert len(block) == 5 and "pip install" in block[0] and all(line.startswith("gpu4d ") for line in block[1:])
    for line in block[1:]:
        (command,) = [one for one in commands("docs/tutorials/first-scan.md") if one.line == line]
        code, said = kitchen.once(command, "docs/tutorials/first-scan.md", tmp_path)
        assert code == 0, f"{line}: {said}"
    assert "Strain" in said
    assert b"<html" in (tmp_path / "first-result" / "report.html").read_bytes()[:200].lower()
