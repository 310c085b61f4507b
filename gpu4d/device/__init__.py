"""What hardware there is and how much of it may be used."""

from gpu4d.device.choose import Device, choose
from gpu4d.device.memory import available_memory, format_bytes, parse_memory

__all__ = ["Device", "available_memory", "choose", "format_bytes", "parse_memory"]
