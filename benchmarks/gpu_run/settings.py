"""What a run was asked for, and how its stages are told."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import sys
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

ENVIRONMENT, TESTS, KERNELS, STREAMING, PROFILER, SUMMARY = FILES = (
    "env.txt",
    "tests.jsonl",
    "kernels.jsonl",
    "streaming.jsonl",
    "profiler.txt",
    "summary.txt",
)


@dataclass(frozen=True)
class Settings:
    """Of a run; every stage gets them on its command line.

    Attributes
    ----------
    out : Path
        Where the six files go.
    rehearse : bool
        Without a GPU: the real CuPy on host memory, small sizes.
    tests : {"all", "quick", "none"}
    failed : bool
        Only the tests that failed earlier.
    checkout : str
        The source tree the tests are taken from; "" without one.
    """

    out: Path
    rehearse: bool = False
    tests: str = "all"
    failed: bool = False
    checkout: str = ""

    @property
    def scratch(self) -> Path:
        """A folder in memory for what is large and need not last: always the same for one OUT, so that a killed run's files are found."""
        memory = Path("/dev/shm")
        where = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
        return where / f"gpu4d-{os.getuid()}-{hashlib.sha256(str(self.out.resolve()).encode()).hexdigest()[:12]}"

    def arguments(self) -> list[str]:
        """The same settings as options of a command line."""
        found = []
        for one in fields(self):
            value = getattr(self, one.name)
            option = f"--{one.name.replace('_', '-')}"
            if value is True:
                found.append(option)
            elif value is not False:
                found.append(f"{option}={value}")
        return found

    def environment(self) -> dict[str, str]:
        """Of every stage."""
        found = {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # or the first array of JAX takes three quarters of the card
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        for library in ("OPENBLAS", "OMP", "MKL"):
            found[f"{library}_NUM_THREADS"] = "1"
        if self.rehearse:
            found["PYTHONPATH"] = stand_in(self.checkout).environment()["PYTHONPATH"]
        return found


def stand_in(checkout: str) -> ModuleType:
    """The real CuPy on a CUDA made of host memory, of the tests of a checkout."""
    folder = str(Path(checkout) / "tests" / "support")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("gpu_without_gpu")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that stand for `Settings`, `out` apart."""
    parser.add_argument("--rehearse", action="store_true", help="run without a GPU and with small sizes, to see that the run itself works")
    parser.add_argument("--tests", choices=("all", "quick", "none"), default="all", help="how many of the tests are run")
    parser.add_argument("--failed", action="store_true", help="run only the tests that failed earlier")
    parser.add_argument("--checkout", default="", help="source tree whose tests are run; by default the current folder")


def of(given: argparse.Namespace) -> Settings:
    """Settings from a command line."""
    checkout = given.checkout or next(
        (str(p) for p in (Path.cwd(), Path(__file__).parents[2]) if (p / "tests" / "kernels" / "test_on_a_gpu.py").is_file()), ""
    )
    values = {one.name: getattr(given, one.name) for one in fields(Settings)}
    return Settings(**(values | {"out": Path(given.out).resolve(), "checkout": checkout}))
