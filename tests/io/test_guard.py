"""The guard of mapped files: its switch, other handlers of the signal, and what happens without it. Each in a process of its own."""

import os
import platform
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the guard is for Linux on 64-bit x86 and ARM"
)

START = """
import faulthandler, mmap, os, sys
import numpy as np
import gpu4d
from gpu4d.errors import InputError
from gpu4d.io import guard_mapped_files
from gpu4d.io.sources import guard

def mapped(name):
    np.save(name, np.ones((4, 16, 64, 64), np.uint8))
    return gpu4d.open(name)

def cut(cube, name):
    values = cube.source.read(slice(0, 4), slice(0, 16)).reshape(-1)
    os.truncate(name, 4096)
    return int(values[-1])
"""


def run(code: str, folder, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", START + code]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=env)


def test_no_handler_before_a_file_is_mapped(tmp_path):
    done = run(
        "gpu4d.io.guard_mapped_files(True)\nassert guard._handler is None\nmapped('a.npy')\nassert guard._handler is not None", tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("switch", ["function before", "function after", "environment"])
def test_without_the_guard_the_process_ends(tmp_path, switch):
    """As the documentation says; the size check before a block still works."""
    before = "guard_mapped_files(False)\n" if switch == "function before" else ""
    after = "guard_mapped_files(False)\n" if switch == "function after" else ""
    code = f"""
{before}cube = mapped("a.npy")
{after}os.truncate("a.npy", 4096)
try:
    cube[0, 0]
except InputError:
    print("refused", flush=True)
cut(mapped("b.npy"), "b.npy")
"""
    done = run(code, tmp_path, **({"GPU4D_GUARD_MAPPED_FILES": "0"} if switch == "environment" else {}))
    assert done.returncode == -signal.SIGBUS and done.stdout == "refused\n", done.stderr


def test_it_can_be_turned_on_again(tmp_path):
    code = """
guard_mapped_files(False)
guard_mapped_files(True)
cube = mapped("a.npy")
assert cut(cube, "a.npy") == 0
try:
    cube[0, 0]
except InputError:
    print("refused")
"""
    done = run(code, tmp_path)
    assert done.returncode == 0 and done.stdout == "refused\n", done.stderr


def test_a_wrong_word_in_the_environment_is_an_error(tmp_path):
    done = run("mapped('a.npy')", tmp_path, GPU4D_GUARD_MAPPED_FILES="no")
    assert done.returncode == 1 and "GPU4D_GUARD_MAPPED_FILES='no': need 0 (off) or 1" in done.stderr


HOST = """
import ctypes
calls = []

class Action(ctypes.Structure):
    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p))

libc = ctypes.CDLL(None)
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)

@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def host(number, info, context):  # repairs its own faults, as a host application may
    address = ctypes.c_uint64.from_address(info + 16).value
    calls.append(address)
    libc.mmap(address - address % mmap.PAGESIZE, mmap.PAGESIZE, 1, 0x32, -1, 0)

action = Action(ctypes.cast(host, ctypes.c_void_p).value, flags=4)
libc.sigaction(7, ctypes.byref(action), None)

def foreign():
    with open("foreign", "w+b") as file:
        file.truncate(20000)
        other = mmap.mmap(file.fileno(), 20000, access=mmap.ACCESS_READ)
        file.truncate(0)
        other[15000]
"""


def test_a_hosts_own_handler_keeps_its_faults(tmp_path):
    """Ours stays in front after a fault of the host; and goes without a trace when it is turned off."""
    code = """
cube = mapped("a.npy")
foreign()
foreign()
assert len(calls) == 2
assert cut(cube, "a.npy") == 0 and len(calls) == 2
guard_mapped_files(False)
now = Action()
libc.sigaction(7, None, ctypes.byref(now))
assert now.handler == action.handler
print("both")
"""
    done = run(HOST + code, tmp_path)
    assert done.returncode == 0 and done.stdout == "both\n", done.stderr


def test_it_comes_in_front_again(tmp_path):
    """A handler that another library installed later has replaced it."""
    code = """
cube = mapped("a.npy")
libc.sigaction(7, ctypes.byref(action), None)
guard_mapped_files(True)
assert cut(cube, "a.npy") == 0 and not calls
print("in front")
"""
    done = run(HOST + code, tmp_path)
    assert done.returncode == 0 and done.stdout == "in front\n", done.stderr


def test_handlers_that_call_each_other_end_the_process(tmp_path):
    """faulthandler, enabled later, hands a fault back to ours, which hands it to faulthandler."""
    code = """
cube = mapped("a.npy")
faulthandler.enable()
guard_mapped_files(True)
foreign()
"""
    host = HOST.replace("libc.sigaction(7, ctypes.byref(action), None)\n", "")
    done = run(host + code, tmp_path)
    assert done.returncode == -signal.SIGBUS and "Bus error" in done.stderr


def test_a_later_handler_that_calls_ours_ends_the_process(tmp_path):
    code = """
cube = mapped("a.npy")
before = Action()

@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def later(number, info, context):
    ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(before.handler)(number, info, context)

libc.sigaction(7, ctypes.byref(Action(ctypes.cast(later, ctypes.c_void_p).value, flags=4)), ctypes.byref(before))
guard_mapped_files(True)
foreign()
"""
    assert run(HOST.replace("libc.sigaction(7, ctypes.byref(action), None)\n", "") + code, tmp_path).returncode == -signal.SIGBUS


def test_a_signal_that_was_sent_ends_the_process(tmp_path):
    assert run("mapped('a.npy')\nos.kill(os.getpid(), 7)\nprint('still here')", tmp_path).returncode == -signal.SIGBUS


def test_slots_are_used_again(tmp_path):
    """More maps, one after the other, than the table has slots; and more at the same time, which are only not guarded."""
    code = """
import gc
from gpu4d.io.sources import bus_error
np.save("a.npy", np.ones((1, 1, 64, 64), np.uint8))
for _ in range(bus_error.SLOTS + 10):
    cube = gpu4d.open("a.npy")
    cube.source.read(slice(0, 1), slice(0, 1))
assert guard._handler.used[0] <= bus_error.SLOTS
last = mapped("b.npy")
assert cut(last, "b.npy") == 0 and last.source._watched.lost
del cube, last
gc.collect()
assert len(guard._free) == bus_error.SLOTS and not guard._handler.slots[:, bus_error.STOP].any()
guard._free.clear()
assert mapped("c.npy")[0, 0].data.sum() == 64 * 64
print("again")
"""
    done = run(code, tmp_path)
    assert done.returncode == 0 and done.stdout == "again\n", done.stderr
