"""One part of the run, in a process of its own: `python -m gpu4d.benchmarks.gpu_run PART --out OUT …`; `stages` starts it."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import sys
import traceback
from pathlib import Path

from gpu4d.benchmarks.gpu_run import settings

ALL_GOOD, SOME_FAILED, BROKE_OFF = 0, 3, 71  # exit codes
PARTS = {
    "environment": "environment",
    "compile": "compiling",
    "kernels": "kernel_rows",
    "warm-up": "warm_up",
    "one-case": "one_case",
    "streaming": "stream_rows",
    "profilers": "profilers",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    settings.add_options(parser)
    given = parser.parse_intermixed_args()
    chosen = settings.of(given)
    faulthandler.enable()
    try:
        module = importlib.import_module(f"gpu4d.benchmarks.gpu_run.{PARTS[given.part]}")
        return ALL_GOOD if module.main(chosen, *given.rest) else SOME_FAILED
    except Exception:  # Python's own code for it, 1, is also that of a test run with failures, and of a watchdog
        traceback.print_exc()
        return BROKE_OFF


if __name__ == "__main__":
    sys.exit(main())
