"""A long-lived process in the environment of a peer (or of gpu4d) that runs one task at a time and says how long it took."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import threading
from typing import Any

import numpy as np

BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
SERVE = pathlib.Path(__file__).resolve().parent  # of serve.py, which scripts of plug-ins import too
LIMIT = 900.0  # s: a task that takes longer hangs


class WorkerError(RuntimeError):
    """A task failed, or its process ended."""


class Worker:
    """One process; `run` gives the seconds of one call of a task."""

    def __init__(self, python: pathlib.Path, script: pathlib.Path, folder: pathlib.Path, *, one_thread: bool, log: pathlib.Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in BLAS and k != "PYTHONPATH"}
        environment |= {"MPLBACKEND": "Agg", "PEER_THREADS": "1" if one_thread else "", "PYTHONPATH": str(SERVE)}
        environment |= dict.fromkeys(BLAS, "1") if one_thread else {}
        self.log = log
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [str(python), str(script), str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=folder,
            )  # fmt: skip

    def ask(self, task: str, options: dict[str, Any] | None = None, save: pathlib.Path | None = None) -> dict[str, Any]:
        """The worker's answer to one request."""
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"task": task, "options": options or {}, "save": str(save) if save else None}
        line = ""
        watch = threading.Timer(LIMIT, self.process.kill)
        watch.start()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        watch.cancel()
        if not line:
            code = self.process.wait()
            raise WorkerError(f"{task}: the process ended with code {code}: {_last_line(self.log.read_text(errors='replace'))}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{task}: {_last_line(answer['error'])}")
        return answer

    def run(self, task: str, options: dict[str, Any], save: pathlib.Path | None = None) -> float:
        return float(self.ask(task, options, save)["seconds"])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def arrays_of(path: pathlib.Path) -> dict[str, np.ndarray]:
    """What a task saved."""
    with np.load(path) as stored:
        return dict(stored)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
