"""Everything a machine with a GPU is to be asked, in one run: the tests that need it, then the benchmark, correctness first.

    python benchmarks/on_a_gpu.py OUT [--quick]

from the root of a checkout in which `gpu4d[cuda12,test]` (or cuda13) is installed. Writes OUT/tests.txt and OUT/streaming-tests.txt,
OUT/sanitizer-*.txt where compute-sanitizer is there, OUT/kernels.txt and .json, OUT/streaming.txt and .json. It needs 16 GB of space
for temporary files (TMPDIR), and as much free host memory: files are read from the page cache. Exit code 1 if a test or a check failed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def step(name: str, command: list[str], out: Path, limit: int) -> bool:
    """Run one command, keep what it prints, go on whatever comes of it."""
    print(f"== {name}", flush=True)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit)
        text, good = done.stdout, done.returncode == 0
    except subprocess.TimeoutExpired as error:
        so_far = error.stdout or ""
        text, good = f"{so_far.decode() if isinstance(so_far, bytes) else so_far}\nstopped after {limit} s\n", False
    (out / f"{name}.txt").write_text(text)
    print(text[-3000:], "ok" if good else "FAILED", flush=True)
    return good


def benchmark(out: Path, quick: bool) -> bool:
    from gpu4d.benchmarks import kernels

    good = True
    rows: list[Any] = []
    limits: Any = None
    about: dict[str, Any] = {}
    for name in dict.fromkeys(case.operation for case in kernels.CASES):  # one that fails must not take the others' figures with it
        try:
            new, limits, about = kernels.run("cuda:0", quick=quick, only=[name])
            rows += new
        except Exception as error:  # whatever a kernel raises belongs into the report
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            good = False
    if limits is not None:
        (out / "kernels.txt").write_text(kernels.table(rows, limits, about))
        (out / "kernels.json").write_text(kernels.as_json(rows, limits, about))
        print(kernels.table(rows, limits, about))
    return good


def streaming(out: Path, quick: bool) -> bool:
    """Files through the link; chunks of 256 MB need a file of 16 GB."""
    size = ["--quick"] if quick else ["--size", "16.5 GiB"]
    script = str(Path(__file__).with_name("streaming.py"))
    command = [sys.executable, "-P", script, "--device", "cuda:0", "--json", str(out / "streaming.json"), *size]
    return step("streaming", command, out, 900)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true", help="small inputs: to see that it runs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pytest = [sys.executable, "-P", "-m", "pytest", "-q", "-m", "gpu"]
    stream = "tests/test_gpu_streaming.py"
    good = step("tests", [*pytest, "tests", f"--ignore={stream}"], given.out, 400)
    good = step("streaming-tests", [*pytest, "-s", stream], given.out, 600) and good
    if shutil.which("compute-sanitizer") and not given.quick:
        for tool in ("memcheck", "racecheck", "synccheck"):
            check = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *pytest]
            good = step(f"sanitizer-{tool}", [*check, "tests", "-k", "definitions_answer"], given.out, 600) and good
    good = benchmark(given.out, given.quick) and good
    good = streaming(given.out, given.quick) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
