"""Runs of `benchmarks/on_a_gpu.py` with other stages, and what they leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from gpu4d.benchmarks.gpu_run import settings

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
    until = time.monotonic() + 60
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
