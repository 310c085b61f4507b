"""Define what the conveyor needs from a device: memory, streams and events, readers, a clock.

A **processor** is a device that a sweep may use. Creating one costs nothing and uses no device. A **workspace** is what one sweep holds
on it: every byte, stream and thread of the sweep belongs to it, and `close` gives all of it back, also after an error.
`gpu4d.device.processors.cpu` and `cuda` provide both, and so does `gpu4d.testing.accounting`, a device made of counters and a virtual
clock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable


class Buffer(Protocol):
    """A run of bytes on a device, or page-locked on the host."""

    nbytes: int

    def view(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> Any:
        """Return its bytes from `offset` on as an array, without a copy: NumPy for host memory, the device's library for device memory."""
        ...

    def free(self) -> None:
        """Give the memory back. A second call does nothing."""
        ...


class Event(Protocol):
    """A point in the work of a stream."""

    def wait(self) -> None:
        """Let the calling thread wait until the work before this point is done."""
        ...


class Stream(Protocol):
    """Work that is done in the order it was submitted. Submitting does not wait for it."""

    def record(self) -> Event: ...

    def wait(self, event: Event) -> None:
        """Let work that is submitted from now on start after the event."""
        ...

    def synchronize(self) -> None: ...


class Pending(Protocol):
    """A result that a reader will deliver (concurrent.futures.Future is one)."""

    def result(self) -> Any: ...

    def cancel(self) -> bool: ...


class Workspace(Protocol):
    """What one sweep holds on one device. Methods may be called from several threads.

    If memory cannot be allocated (device, page-locked or host), methods raise MemoryError. If the device has stopped answering, they
    raise DeviceError. `close` never raises: it waits for readers and streams first, then frees what is left.
    """

    @property
    def peak(self) -> int:
        """Most bytes of device memory held at once."""
        ...

    @property
    def pinned_peak(self) -> int:
        """Most bytes of page-locked host memory held at once."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """Allocate device memory, inside the cap."""
        ...

    def pinned(self, nbytes: int) -> Buffer:
        """Allocate page-locked host memory, inside a cap as large as the device's."""
        ...

    def stream(self, name: str) -> Stream: ...

    def copy(self, target: Buffer, source: Buffer, nbytes: int, stream: Stream) -> None:
        """Put a copy of the first `nbytes` from page-locked to device memory into a stream."""
        ...

    def computing(self, stream: Stream, name: str) -> AbstractContextManager[None]:
        """Make arrays of the device and work on them in this stream inside the block. They count against the cap.

        Errors of other libraries leave it as MemoryError (out of memory, FFT plans included) or DeviceError (device lost).
        """
        ...

    def submit(self, function: Callable[..., Any], *args: Any) -> Pending:
        """Call a function in a reader thread."""
        ...

    def now(self) -> float:
        """Return the seconds of the device's clock, as the calling thread sees it. Traces use these times."""
        ...

    def trim(self) -> None:
        """Wait for the device, and give back memory that is only kept for reuse. Called when memory has run out."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Processor(Protocol):
    """A device a sweep may use.

    Attributes
    ----------
    name : str
        "cpu", "cuda:1".
    copies : bool
        Whether frames of the host are copied to it over a link. False for the CPU.
    lanes : int
        Number of conveyors that run on it at the same time: worker threads of a CPU, one on a GPU.
    link_rate : float or None
        Nominal bytes per second of its link to the host, for plans. None if nothing is copied.
    """

    name: str
    copies: bool
    lanes: int

    @property
    def link_rate(self) -> float | None: ...

    def free_memory(self) -> int:
        """Count the free bytes of its memory."""
        ...

    def sample(self, dtype: Any) -> Any:
        """Return an empty array (0, 0, 0, 0) of its library, on it. None stands for NumPy arrays on the host."""
        ...

    def workspace(self, cap: int, readers: int, timeline: Any = None) -> Workspace:
        """Make a workspace: memory, streams and reader threads for one sweep.

        Parameters
        ----------
        cap : int
            Bytes of device memory, and as many page-locked ones.
        readers : int
            Number of threads that read. 0 if the sweep needs none.
        timeline : gpu4d.device.timeline.Timeline, optional
            Records copies and computing.
        """
        ...
