"""Choose the device that a piece of work runs on."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpu4d.device.nvml import readings
from gpu4d.device.processors.processor import Processor
from gpu4d.errors import DeviceError, InputError
from gpu4d.sizes import format_bytes

log = logging.getLogger("gpu4d")

NAMES = "'auto', 'cpu', 'cuda' or 'cuda:N'"
SEVERAL = f"{NAMES}, or several CUDA devices, as ['cuda:0', 'cuda:1'] or 'cuda:0,cuda:1'"


@dataclass(frozen=True)
class Device:
    """A place to compute: the CPU, or one CUDA device by its number."""

    kind: str  # "cpu" or "cuda"
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


DeviceLike = str | Device | Processor | Sequence[str | Device | Processor]  # one, or several CUDA devices


def cuda_devices() -> int:
    """Count the CUDA devices CuPy can use; 0 without CuPy, driver or device. No context is made on any of them."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # CuPy raises its own types for a missing driver, which cannot be named without importing it
        return 0


def why_no_cuda() -> str:
    """Say why there is no CUDA device, and what to do about it. The text is empty if there is one."""
    try:
        import cupy

        runtime = cupy.cuda.runtime
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return "CuPy is not installed: pip install 'gpu4d[cuda12]', or [cuda13] for drivers of CUDA 13"
        return f"CuPy cannot be imported: {_first_line(error)}"
    except Exception as error:
        return f"CuPy cannot be imported: {_first_line(error)}"
    try:
        return "" if runtime.getDeviceCount() else "CUDA finds no card" + _visible_devices()
    except Exception as error:
        driver, needed = _version(runtime, "driverGetVersion"), _version(runtime, "runtimeGetVersion")
        if not driver:
            return "there is no NVIDIA driver"
        if "InsufficientDriver" not in str(error):
            return f"CUDA does not answer: {_first_line(error)}{_visible_devices()}"
        return f"the NVIDIA driver serves CUDA {driver}, CuPy needs {needed or 'a later one'}: update the driver, or install a CuPy for it"


def choose(device: str | Device = "auto") -> Device:
    """Return the device that `device=` names.

    No context is made on any device, the chosen one included.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N"}
        "cuda" is "cuda:0". "auto" is "cuda:0" too, or the CPU if there is no CUDA device. CUDA_VISIBLE_DEVICES decides which
        card is number 0. Exception: if less than 10 % of the memory of cuda:0 is free and another card has more than twice as much
        free (read from NVML), the card with the most free memory is taken. The choice is made once in a process, because the
        process itself fills the card. The load of the cards is not considered: it changes every second, and the choice must not.
        If several people share a machine, "auto" puts all of them on the first card until it is nearly full. Then look at
        ``gpu4d devices`` and name a card, or let the scheduler set CUDA_VISIBLE_DEVICES.

    Raises
    ------
    InputError
        Something that names no device.
    DeviceError
        A CUDA device that is not there.

    Examples
    --------
    >>> str(choose("cpu"))
    'cpu'
    """
    return _named(device, NAMES)


def choose_all(device: DeviceLike = "auto") -> tuple[Device | Processor, ...]:
    """Return the devices that `device=` names, in the order given.

    Parameters
    ----------
    device : str, Device, Processor, or list or tuple of them
        What `choose` takes, or several different CUDA devices: ``["cuda:0", "cuda:1"]`` or, for command lines, ``"cuda:0,cuda:1"``.
        Objects that are devices themselves (`gpu4d.device.processors.processor.Processor`) are passed through as they are.

    Raises
    ------
    InputError
        An empty list, a device named twice, the CPU beside CUDA devices, "auto" beside others, something that names no device.
    DeviceError
        A CUDA device that is not there.

    Examples
    --------
    >>> [str(device) for device in choose_all(["cpu"])]
    ['cpu']
    """
    parts = device.split(",") if isinstance(device, str) else list(device) if isinstance(device, list | tuple) else [device]
    parts = [part.strip() if isinstance(part, str) else part for part in parts]
    if not parts:
        raise InputError(f"device={device!r} names no device: need {SEVERAL}")
    if len(parts) > 1 and any(isinstance(part, str) and part == "auto" for part in parts):
        raise InputError(f"device={device!r}: 'auto' chooses one device; give it alone, or name the devices")
    processors = [isinstance(part, Processor) for part in parts]
    if any(processors):
        if not all(processors) or len({id(part) for part in parts}) < len(parts):
            raise InputError(f"device={device!r}: a list of processors holds processors alone, and each once")
        return tuple(parts)
    chosen = [_named(part, SEVERAL) for part in parts]
    if twice := next((one for i, one in enumerate(chosen) if one in chosen[:i]), None):
        raise InputError(f"device={device!r} names {twice} twice: name every device once")
    if len({one.kind for one in chosen}) > 1:
        raise InputError(f"device={device!r}: the CPU and CUDA devices do not work side by side in one sweep: name either")
    return tuple(chosen)


def auto() -> tuple[Device, str]:
    """Return the device that "auto" takes, by the rule of `choose`, and the reason."""
    count = cuda_devices()
    if count == 0:
        return Device("cpu"), f"no CUDA device ({why_no_cuda()})"
    if count == 1:
        return Device("cuda"), "the only CUDA device"
    return _auto_of(count)


@functools.cache
def _auto_of(count: int) -> tuple[Device, str]:
    memory = [(reading.free, reading.total) for reading in readings(bus_ids(count))]
    free, total = memory[0]
    if free is None or not total:
        return Device("cuda"), "the first CUDA device; how much of its memory is free is unknown"
    best = max(range(count), key=lambda index: (memory[index][0] or 0, -index))
    most = memory[best][0] or 0
    if free < total / 10 and most > 2 * free:
        return Device("cuda", best), f"most memory free, {format_bytes(most)}; cuda:0 has {format_bytes(free)} of {format_bytes(total)}"
    return Device("cuda"), "the first CUDA device"


def bus_ids(count: int) -> list[str | None]:
    """Return PCI bus ids of the first `count` CUDA devices, None for one that does not answer. No context is made."""
    import cupy

    found: list[str | None] = []
    for index in range(count):
        try:
            found.append(cupy.cuda.runtime.deviceGetPCIBusId(index))
        except Exception:  # CUDARuntimeError: the card is gone
            found.append(None)
    return found


def cpu_threads() -> int:
    """Return how many threads compute on the CPU: GPU4D_THREADS, else the cores this process may use."""
    asked = os.environ.get("GPU4D_THREADS", "")
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise InputError(f"GPU4D_THREADS={asked!r}: need a whole number of threads, at least 1")
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _named(device: Any, accepted: str) -> Device:
    if isinstance(device, Device):
        return device
    match = re.fullmatch(r"auto|cpu|cuda(?::([0-9]+))?", device) if isinstance(device, str) else None
    if match is None:
        raise InputError(f"device={device!r}: need {accepted}")
    if device == "cpu":
        return Device("cpu")
    if device == "auto":
        chosen, why = auto()
        log.info("device='auto' takes %s: %s", chosen, why)
        return chosen
    count, index = cuda_devices(), int(match.group(1) or 0)
    if index >= count:
        have = f"{count} CUDA devices: cuda:0 … cuda:{count - 1}" if count > 1 else "one CUDA device: cuda:0"
        have = have + _visible_devices() if count else f"no CUDA device: {why_no_cuda()}"
        raise DeviceError(f"device={device!r}: this machine has {have}; use device='cpu' or 'auto'")
    return Device("cuda", index)


def _visible_devices() -> str:
    """Say that CUDA_VISIBLE_DEVICES is set, which may hide cards."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if shown is None else f" (CUDA_VISIBLE_DEVICES={shown!r} is set)"


def _version(runtime: Any, question: str) -> str:
    """Return "12.4" for 12040, or "" if CUDA gives no version."""
    try:
        number = int(getattr(runtime, question)())
    except Exception:  # CUDARuntimeError
        return ""
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.strip("=-")), type(error).__name__)
