"""Environments of tests that run in a process of their own, because what they run may crash."""

import os
import subprocess
import sys


def importing() -> dict[str, str]:
    """Return the environment of a process that imports what this one does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def sanitized() -> dict[str, str]:
    """Return the environment of a process with address and undefined-behaviour sanitizers, in which kernels are built for them."""
    asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    return os.environ | {
        "LD_PRELOAD": asan,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "GPU4D_SANITIZE": "1",
    }


def call_in(folder, module: str, call: str) -> subprocess.CompletedProcess:
    """Call a function of a module of tests in this folder."""
    command = [sys.executable, "-c", f"import {module}; {module}.{call}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=importing())
