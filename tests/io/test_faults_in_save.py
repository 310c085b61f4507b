"""Hundreds of faults in `save`: each write, sync and rename fails once, or ends the process. The earlier file or the new one is whole.

``pytest -m slow tests/io/test_faults_in_save.py --cases 3000`` tries more of them.
"""

import builtins
import errno
import hashlib
import os
import signal

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io import read_emd, safe_file

CASES = 240  # in the usual slow run; every sixth ends the process. `--cases 720` takes each call three times as often
STEP = 37  # calls between one fault and the next: a prime, so that faults are spread over all calls
NUMBERS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="ends processes by signals")]


class Faults:
    """Counts what is done to the file, and lets it fail at one place, or from there on."""

    def __init__(self, at, how, rng):
        self.at, self.how, self.count, self.number = at, how, 0, int(rng.choice(NUMBERS))

    def step(self, name):
        """Return True if a write is to be short; fail, or end the process, where it is time."""
        self.count += 1
        due = self.count == self.at or (self.how == "from there on" and self.count > self.at)
        if not due or self.at == 0:
            return False
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "short" and name == "write":
            return True
        raise OSError(self.number, os.strerror(self.number))


class Raw:
    """A raw file whose calls may fail."""

    def __init__(self, file, faults):
        self.file, self.faults = file, faults

    def write(self, data):
        if self.faults.step("write"):
            data = data[: max(1, len(data) // 2)]
        return self.file.write(data)

    def truncate(self, size):
        self.faults.step("truncate")
        return self.file.truncate(size)

    def readinto(self, view):
        return self.file.readinto(view)

    def __getattr__(self, name):
        return getattr(self.file, name)


def items(n):
    rng = np.random.default_rng(n)
    cube = gpu4d.DataCube(rng.poisson(3, (3, 4, 8, 8)).astype("u2"), gpu4d.Calibration(q_pixel=0.02, energy=200e3))
    return {
        "bf": gpu4d.RealSlice(rng.random((3, 4)), units="counts"),
        "cube": cube,
        "notes": {"n": n, "list": [1, 2], "text": "some words"},
    }


def content(path):
    """What a result file holds, so that two can be told apart."""
    found = read_emd(path)
    image = np.asarray(found["bf"]).tobytes() + found["cube"].load().source.array.tobytes()
    return found["notes"]["n"], hashlib.sha256(image).hexdigest()


def save_with(faults, monkeypatch, path, n):
    """Save with faults on the way."""

    def opened(name, mode="r", *args, **options):
        if mode != "x+b":
            return builtins.open(name, mode, *args, **options)
        faults.step("open")
        return Raw(builtins.open(name, mode, *args, **options), faults)

    with monkeypatch.context() as patch:
        patch.setattr(safe_file, "open", opened, raising=False)
        for name in ("fsync", "replace", "chmod"):
            real = getattr(os, name)
            patch.setattr(os, name, lambda *given, name=name, real=real: (faults.step(name), real(*given))[1])
        gpu4d.save(path, items(n), overwrite=True)


def test_no_fault_loses_a_file(tmp_path, monkeypatch, request):
    cases, rng = request.config.getoption("--cases") or CASES, np.random.default_rng(0)
    path = tmp_path / "result.h5"
    counted = Faults(0, "none", rng)
    save_with(counted, monkeypatch, path, 1)
    known = {1: content(path)}
    save_with(Faults(0, "none", rng), monkeypatch, path, 2)
    known[2] = content(path)
    assert counted.count > 10, "writes, a sync, a rename"
    now, became = 2, {"as before": 0, "new": 0, "killed": 0}
    for case in range(cases):  # at calls spread over the whole of the saving, each kind of fault at each of them
        how = ("once", "from there on", "short", "once", "from there on", "kill")[case % 6]
        faults, new, expected = Faults(1 + STEP * (case // 6) % (counted.count + 2), how, rng), 3 - now, list(known.values())
        if how == "kill":
            child = os.fork()
            if child == 0:
                try:
                    save_with(faults, monkeypatch, path, new)
                finally:
                    os._exit(0)
            became["killed"] += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        else:
            try:
                save_with(faults, monkeypatch, path, new)
                became["new"] += 1
                expected = [known[new]]
            except InputError as error:
                assert "\n" not in str(error) and "nothing was left behind" in str(error)
                became["as before"] += 1
                expected = [known[now]]
        found = content(path)
        assert found in expected, f"case {case} ({how} at call {faults.at}): neither the earlier file nor the new one"
        now = found[0]
        left = sorted(set(os.listdir(tmp_path)) - {"result.h5"})
        assert len(left) <= (how == "kill") and all(name.endswith(".part") for name in left), f"case {case} left {left}"
        for name in left:
            os.unlink(tmp_path / name)
    print(became)
    assert min(became.values()) > cases // 30, became
