"""What hardware there is, how much of it may be used, and how kernels are run on it."""

from gpu4d.device.backend import empty, kernel, l2_cache, launch, multiprocessors, shared_memory
from gpu4d.device.choose import Device, choose, choose_all
from gpu4d.device.listing import DeviceInfo, devices
from gpu4d.device.memory import available_memory, parse_memory
from gpu4d.device.release import release
from gpu4d.device.timeline import Timeline
from gpu4d.sizes import format_bytes

__all__ = [
    "Device",
    "DeviceInfo",
    "Timeline",
    "available_memory",
    "choose",
    "choose_all",
    "devices",
    "empty",
    "format_bytes",
    "kernel",
    "l2_cache",
    "launch",
    "multiprocessors",
    "parse_memory",
    "release",
    "shared_memory",
]


def __dir__() -> list[str]:
    return list(__all__)
