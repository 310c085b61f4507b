"""Runs the real CuPy 14 on a machine without a GPU: a CUDA runtime and driver made of host memory. An instrument of the tests.

    PYTHONPATH=tests/support python -m pytest -p gpu_without_gpu -m gpu

CuPy's own compiled code runs as it is. What it calls below itself is replaced: the CUDA runtime, which CuPy links statically, by jumps
written into its functions; the driver and the libraries by C of this folder and NumPy; NVRTC by g++. So wrong calls of CuPy, wrong types,
launches beyond a device's limits, copies outside of blocks and leaks are found, and launches, waits, copies and allocations are counted.
Streams run at once and in order: of overlap, of races between streams and of speed it says nothing. docs/reference/kernels.md has more.

From Python: `activate()` before CuPy is imported; then `counting()`, `counts()`, `memory()`, `set_memory(nbytes)`, `lose_device(code)`,
`take_complaints()`. Importing this package changes nothing by itself, so that a test may ask `active()` on a machine with a GPU.
Child processes get it by `environment()`.
"""

from gpu_without_gpu.activation import Unavailable, activate, active, environment, why_not
from gpu_without_gpu.instrument import (
    Block,
    Counts,
    Memory,
    counting,
    counts,
    lose_device,
    memory,
    set_memory,
    set_order,
    take_complaints,
)

__all__ = [
    "Block",
    "Counts",
    "Memory",
    "Unavailable",
    "activate",
    "active",
    "counting",
    "counts",
    "environment",
    "lose_device",
    "memory",
    "set_memory",
    "set_order",
    "take_complaints",
    "why_not",
]

pytest_plugins = ("gpu_without_gpu.pytest_plugin",)  # read by pytest alone: elsewhere this package does not need it
