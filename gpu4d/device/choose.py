"""Which device a piece of work runs on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from gpu4d.errors import DeviceError, InputError


@dataclass(frozen=True)
class Device:
    """A place to compute: the CPU, or one CUDA device by its number."""

    kind: str  # "cpu" or "cuda"
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def cuda_devices() -> int:
    """How many CUDA devices CuPy can use; 0 where there is no CuPy, no driver or no device."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # CuPy raises its own types for a missing driver, which cannot be named without importing it
        return 0


def choose(device: str | Device = "auto") -> Device:
    """The device that `device=` names.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N"}
        "auto" is the first CUDA device where there is one, else the CPU.

    Raises
    ------
    DeviceError
        A CUDA device that is not there.

    Examples
    --------
    >>> str(choose("cpu"))
    'cpu'
    """
    if isinstance(device, Device):
        return device
    if device == "cpu":
        return Device("cpu")
    if device == "auto":
        return Device("cuda") if cuda_devices() else Device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", str(device))
    if match is None:
        raise InputError(f"device={device!r}: need 'auto', 'cpu', 'cuda' or 'cuda:N'")
    count, index = cuda_devices(), int(match.group(1) or 0)
    if index >= count:
        have = (
            f"{count} CUDA device{'s' * (count > 1)}: cuda:0 … cuda:{count - 1}"
            if count
            else "no CUDA device (is CuPy installed? gpu4d[cuda12])"
        )
        raise DeviceError(f"device={device!r}: this machine has {have}; use device='cpu' or 'auto'")
    return Device("cuda", index)


def cpu_threads() -> int:
    """Threads that compute on the CPU: GPU4D_THREADS, else the cores this process may use."""
    asked = os.environ.get("GPU4D_THREADS", "")
    if asked:
        if not asked.isdigit() or int(asked) < 1:
            raise InputError(f"GPU4D_THREADS={asked!r}: need a whole number of threads, at least 1")
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
