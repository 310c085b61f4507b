"""The loop of a worker: one task for every line on standard input, one JSON line for every answer.

Runs in the environment of a peer, so it needs NumPy and nothing else. A request is
``{"task": name, "options": {...}, "save": path or null}``; the answer is ``{"seconds": s, "about": {...}}`` or ``{"error": traceback}``.
A task is a function of the folder of inputs and the options. It prepares everything that is not to be timed and returns the call
to time and a function that turns the call's result into arrays. What was prepared is kept: the first request of a task and its
options runs the call once more, untimed, as the warm-up. The task "forget" drops all that was prepared: the inputs are about to change.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

Prepared = tuple[Callable[[], Any], Callable[[Any], dict[str, Any]]]
Task = Callable[..., Prepared]


def serve(tasks: dict[str, Task], about: Callable[[], dict[str, Any]]) -> None:
    """Answer requests until standard input ends. What the tasks print goes to standard error."""
    folder = pathlib.Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepared: dict[str, Prepared] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["task"] == "about":
            return {"seconds": 0.0, "about": about()}
        if request["task"] == "forget":
            prepared.clear()
            return {"seconds": 0.0}
        key = json.dumps([request["task"], request["options"]], sort_keys=True)
        if key not in prepared:
            prepared[key] = tasks[request["task"]](folder, **request["options"])
            prepared[key][0]()
        call, arrays = prepared[key]
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        if request["save"]:
            np.savez(request["save"], **arrays(result))
        return {"seconds": seconds}

    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception:
            traceback.print_exc()
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=answers, flush=True)
