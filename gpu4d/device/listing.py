"""List the devices of the machine: models, memory, bandwidths, load. No CUDA context is made on any card.

Properties of cards come from the CUDA runtime through CuPy, by calls that read the driver's tables. Free memory, load and links come from
NVML (`gpu4d.device.nvml`). CUDA tells the free memory of a card only to a process with a context on it, which would take some hundred
megabytes on a card that may be in use.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu4d.device.choose import bus_ids, cpu_threads, cuda_devices
from gpu4d.device.memory import available_memory
from gpu4d.device.nvml import Link, Reading, readings

# Numbers of cudaDeviceAttr. CUDA 13 has dropped the memory clock from the properties of a device, not from its attributes.
MEMORY_CLOCK_KHZ, MEMORY_BUS_BITS = 36, 37


@dataclass(frozen=True)
class DeviceInfo:
    """A device as it is at this moment. A field that is not known is None.

    Attributes
    ----------
    name : str
        "cpu", "cuda:1": what `device=` takes.
    model : str
        "NVIDIA H200".
    threads : int or None
        Threads of the CPU: GPU4D_THREADS, or the cores this process may use.
    compute_capability : (int, int) or None
        Compute capability of a CUDA device, for example (9, 0).
    total, free : int or None
        Bytes of its memory, and free bytes.
    memory_bandwidth : float or None
        Bytes per second between a card and its memory, in theory: 2 × memory clock × bus width / 8. Copies reach about 0.9 of it.
    link, max_link : Link or None
        The PCI Express link to the host as it is now, and the best of this card in this slot. Idle cards slow their links down:
        plan with the rate of `max_link`. What NVLink carries is not in it.
    load : float or None
        % of the last sampling period, under a second, in which a kernel ran on a card.
    processes : int or None
        Number of processes that compute on a card, of all users.
    uuid, bus_id : str or None
        NVML's name of a card, and its PCI bus id "0000:C1:00.0".
    note : str
        Why something is not known, and what to do about it.
    """

    name: str
    model: str
    threads: int | None = None
    compute_capability: tuple[int, int] | None = None
    total: int | None = None
    free: int | None = None
    memory_bandwidth: float | None = None
    link: Link | None = None
    max_link: Link | None = None
    load: float | None = None
    processes: int | None = None
    uuid: str | None = None
    bus_id: str | None = None
    note: str = ""


def devices() -> list[DeviceInfo]:
    """Return the CPU and the CUDA devices that CuPy can use, in CUDA's order. No context is made on any of them.

    Examples
    --------
    >>> devices()[0].name
    'cpu'
    """
    count = cuda_devices()
    found = bus_ids(count) if count else []
    cards = [_card(index, bus_id, reading) for index, (bus_id, reading) in enumerate(zip(found, readings(found)))]
    return [_cpu(), *cards]


def _cpu() -> DeviceInfo:
    free, total = available_memory(), None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = max(free, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return DeviceInfo("cpu", _cpu_model(), threads=cpu_threads(), total=total, free=free)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _card(index: int, bus_id: str | None, reading: Reading) -> DeviceInfo:
    import cupy

    runtime = cupy.cuda.runtime
    properties, trouble = _answer(runtime.getDeviceProperties, index)
    clock, _ = _answer(runtime.deviceGetAttribute, MEMORY_CLOCK_KHZ, index)
    bits, _ = _answer(runtime.deviceGetAttribute, MEMORY_BUS_BITS, index)
    bandwidth = 2 * clock * 1e3 * bits / 8 if clock and bits else None
    known: dict[str, Any] = {"memory_bandwidth": bandwidth, "link": reading.link, "max_link": reading.max_link}
    known |= {"load": reading.load, "processes": reading.processes, "uuid": reading.uuid, "bus_id": bus_id}
    if properties is None:
        note = f"CUDA does not answer for this card: {trouble}"
        return DeviceInfo(f"cuda:{index}", "unknown", total=reading.total, free=reading.free, note=note, **known)
    name = properties["name"]
    total = int(properties["totalGlobalMem"])
    return DeviceInfo(
        f"cuda:{index}",
        name.decode() if isinstance(name, bytes) else name,
        compute_capability=(int(properties["major"]), int(properties["minor"])),
        total=total,
        free=None if reading.free is None else min(reading.free, total),  # NVML counts what CUDA keeps for itself
        note=reading.note,
        **known,
    )


def _answer(question: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    try:
        return question(*args), ""
    except Exception as error:  # CUDARuntimeError: a card that is gone must not hide the others
        return None, str(error)
