"""A pytest plugin for a run that may be cut at any moment: every report is a record as soon as it is known.

Tests that have been through are left out, and in the order of the rest CuPy's rows come before those of other libraries, what loses the
device last. A test that hangs ends its worker, and so does one after which the device is lost, or all later ones would fail with it.
`GPU4D_RUN_RECORDS` names the file of records, `GPU4D_RUN_SETTLED` one written by `write_settled`; `GPU4D_RUN_FAILED` asks for the tests
that failed earlier, alone.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu4d.benchmarks.gpu_run import records

LONGEST = 6000  # characters of a traceback: a thousand failures fit into a file of 16 MiB
LIMIT = 120.0  # seconds of one test
DEVICE_LOST = 70  # exit code
LATER = ("torch", "jax")  # in a test's name: after the others
LAST = ("lost_device",)

_stderr = os.dup(2)  # before pytest catches what is written there


def write_settled(reports: Path, into: Path) -> None:
    """What has been through, and what failed of it, for the workers of one start."""
    failed = [key for key, one in records.latest(reports).items() if one["outcome"] == "failed"]
    into.write_text(json.dumps({"settled": sorted(records.settled(reports)), "failed": failed}))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    path = os.environ.get("GPU4D_RUN_SETTLED", "")
    known = json.loads(Path(path).read_text()) if path and Path(path).exists() else {"settled": [], "failed": []}
    settled, failed = set(known["settled"]), set(known["failed"])
    wanted = (lambda item: item.nodeid in failed) if os.environ.get("GPU4D_RUN_FAILED") else (lambda item: item.nodeid not in settled)
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = sorted((item for item in items if wanted(item)), key=_turn)


def _turn(item: pytest.Item) -> int:
    if any(word in item.name for word in LAST):
        return 2
    return int(any(word in item.name for word in LATER))


def _record(key: str, outcome: str, **more: Any) -> None:
    path = os.environ.get("GPU4D_RUN_RECORDS")
    if path and "PYTEST_XDIST_WORKER" not in os.environ:
        records.record(Path(path), key, outcome, **more)


def pytest_runtest_logstart(nodeid: str) -> None:
    _record(nodeid, "started")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed or (report.skipped and report.when == "setup") or report.when == "call":
        outcome = {"passed": "done", "failed": "failed", "skipped": "skipped"}[report.outcome]
        why = {} if report.passed else {"when": report.when, "why": _shortened(_text(report))}
        _record(report.nodeid, outcome, seconds=round(report.duration, 4), **why)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _record(report.nodeid, "failed", when="collect", why=_shortened(report.longreprtext))


def _text(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext


def _shortened(text: str) -> str:
    """Front and end: the test and the error."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 3]}\n[...]\n{text[-2 * LONGEST // 3 :]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        if "PYTEST_XDIST_WORKER" in os.environ and device_is_lost():
            os.write(_stderr, f"the device is lost after {item.nodeid}; another worker goes on\n".encode())
            os._exit(DEVICE_LOST)


def device_is_lost() -> bool:
    """Whether the CUDA context of this process answers with an error that does not go away."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return False
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return False
        cupy.cuda.runtime.deviceSynchronize()
    except cupy.cuda.runtime.CUDARuntimeError:
        try:
            cupy.cuda.runtime.deviceSynchronize()  # an error of one call is told once
        except cupy.cuda.runtime.CUDARuntimeError:
            return True
    return False
