"""Analyse one scan of a batch in a process of its own, so that a crash or a lack of memory ends this scan alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu4d.workflow.batch.find import Found

DONE, FAILED, SKIPPED, UNCHANGED, WAITING = "done", "failed", "skipped", "unchanged", "waiting"
COMMAND = ("-m", "gpu4d")  # gpu4d of this Python, which need not be on the path of the shell
STOPPED = 3  # exit code of a run that stopped at a gate, as its recipe asked
GATES = re.compile(r" \d+ of \d+ quality gates passed\.$")  # at the end of a headline: the table has a column for it
LAST = 4000  # characters of the output of a process that are looked at for its error
KILLED = {"SIGKILL": "probably the machine had no memory left", "SIGSEGV": "a crash", "SIGBUS": "its file was cut short, or a crash"}


@dataclass
class Outcome:
    """What became of one file.

    Attributes
    ----------
    name : str
        Of the file, with the dataset if it has several.
    path : str
    status : str
        "done", "failed", "skipped" (no scan), "unchanged" (done by an earlier batch), or of a plan "waiting" (will be analysed).
    technique, headline : str
        What the run chose and found.
    gates : list of int
        How many quality gates passed, and how many there are.
    seconds : float
    folder : str
        Of the result, relative to that of the batch.
    error : str
        Why it failed or was skipped.
    pictures : list of str
        Names of the pictures, the most important first.
    inputs : str
        Digest of the file, settings and code that the result follows from.
    """

    name: str
    path: str
    status: str
    technique: str = ""
    headline: str = ""
    gates: list[int] = field(default_factory=lambda: [0, 0])
    seconds: float = 0.0
    folder: str = ""
    error: str = ""
    pictures: list[str] = field(default_factory=list)
    inputs: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def analyse_apart(found: Found, out: Path, recipe: Path, cache: bool = True, timeout: float | None = None, exact: bool = False) -> Outcome:
    """Run `gpu4d run` on a scan in another process, and return what became of it.

    Parameters
    ----------
    found : Found
    out : Path
        Folder for the result. An earlier result is replaced.
    recipe : Path
        File with the settings.
    cache : bool
        Keep what stages make, for later runs.
    timeout : float, optional
        Seconds after which the run is ended.
    exact : bool
        Read large files as a whole to see whether they have changed.
    """
    arguments = ["run", str(found.path), "-o", str(out), "--overwrite", "--json", "--quiet", "--recipe", str(recipe)]
    arguments += ["--dataset", found.dataset] if found.dataset else []
    arguments += [*([] if cache else ["--no-cache"]), *(["--exact"] if exact else [])]
    outcome = Outcome(found.name, str(found.path), FAILED, folder=out.name)
    start = time.perf_counter()
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *COMMAND, *arguments], text=True, errors="replace", **pipes)
    try:
        said, complained = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        outcome.error = f"it took longer than {timeout:g} s, and was ended"
        return _timed(outcome, start)
    except BaseException:
        _end(process)
        raise
    _timed(outcome, start)
    if process.returncode not in (0, STOPPED):
        outcome.error = _why(process.returncode, complained)
        return outcome
    try:
        result = json.loads(said)
    except ValueError:
        outcome.error = f"the run said nothing that can be read: {said[-200:]!r}"
        return outcome
    if process.returncode == STOPPED:
        outcome.error = f"stopped at the gate “{result['stopped']}”: the report says what to do"
    else:
        outcome.status = DONE
    outcome.technique, outcome.headline = str(result.get("technique") or ""), GATES.sub("", result["headline"])
    outcome.gates = [sum(bool(gate["passed"]) for gate in result["gates"]), len(result["gates"])]
    outcome.pictures = result.get("pictures", [])
    return outcome


def _timed(outcome: Outcome, start: float) -> Outcome:
    outcome.seconds = round(time.perf_counter() - start, 2)
    return outcome


def _end(process: subprocess.Popen[str]) -> None:
    """End a process, and wait until it has ended: cleanly, or after ten seconds at once."""
    process.terminate()
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _why(code: int, complained: str) -> str:
    """Return the error of a run in one line."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}" + (f": {KILLED[name]}" if name in KILLED else "")
    lines = [line for line in complained[-LAST:].splitlines() if line.strip()]
    own = [line.removeprefix("gpu4d: ") for line in lines if line.startswith("gpu4d: ")]
    return (own or lines or [f"the process ended with code {code}"])[-1]
