"""Keep page-locked host memory from sweep to sweep: locking 200 MB takes some 60 ms, longer than copying 2 GB.

A sweep takes blocks from here and hands them back after its streams are idle. Kept blocks count against `memory=` of the next sweep:
blocks beyond it are freed first. After an error of a device nothing is kept.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu4d.device.processors.cpu import HostBuffer
from gpu4d.device.processors.cuda_memory import current

if TYPE_CHECKING:
    from gpu4d.device.processors.cuda import CudaWorkspace

KEPT_BYTES = 256 << 20  # a ring of three chunks of 64 MB, and one to spare


class Block(NamedTuple):
    """Page-locked memory, and the device that was the current one when it was made: it is freed there."""

    device: int
    nbytes: int
    memory: Any


class PageLocked:
    """Blocks that no sweep uses, `cap` bytes at most; the oldest are freed first. Safe to use from several threads."""

    def __init__(self, cap: int = KEPT_BYTES):
        self.cap = int(cap)
        self._blocks: list[Block] = []
        self._lock = threading.RLock()  # memory may be freed by the garbage collector of the thread that holds it

    @property
    def held(self) -> int:
        with self._lock:
            return sum(block.nbytes for block in self._blocks)

    def take(self, nbytes: int) -> Block | None:
        """Return a block of exactly this size, or None. Similar sweeps ask for the same size."""
        with self._lock:
            found = next((i for i, block in enumerate(self._blocks) if block.nbytes == nbytes), None)
            return None if found is None else self._blocks.pop(found)

    def keep(self, block: Block) -> None:
        """Take back a block that no work uses any more."""
        with self._lock:
            self._blocks.append(block)
        self.shrink(self.cap)

    def shrink(self, most: int) -> int:
        """Free the oldest blocks until at most `most` bytes are kept, and return how many bytes were freed."""
        freed = 0
        while True:
            with self._lock:
                if self.held <= max(most, 0):
                    return freed
                block = self._blocks.pop(0)
            freed += block.nbytes
            with contextlib.suppress(Exception), current(block.device):
                del block

    def abandon(self) -> list[Block]:
        """Hand out all blocks: a device was lost, and nothing can be freed before the process ends."""
        with self._lock:
            blocks, self._blocks = self._blocks, []
        return blocks


_store = PageLocked()


def store() -> PageLocked:
    """Return the store of this process."""
    return _store


class PinnedBuffer(HostBuffer):
    """Page-locked bytes of the host, used by one workspace at a time."""

    _block: Block | None = None

    def __init__(self, workspace: CudaWorkspace, nbytes: int):
        self._workspace = workspace
        super().__init__(workspace._pinned, nbytes, self._made)

    def _made(self, nbytes: int) -> Any:
        self._block = self._workspace.page_locked(nbytes)
        return self._block.memory

    @property
    def held(self) -> Any:
        return self._bytes

    def free(self) -> None:
        if self.held is not None:
            self._workspace.free(self)

    def give_back(self) -> None:
        """Leave the memory to the next sweep. No view of it may be used from now on."""
        with self._account.lock:
            held, block = self.held, self._block
            super().free()
        if held is not None and block is not None:
            store().keep(block)
        self._block = None

    def drop(self) -> None:
        super().free()
        self._block = None


def page_locked(nbytes: int) -> Any:
    """Allocate new page-locked memory, from which all devices copy at full speed."""
    from cupy.cuda import PinnedMemory, PinnedMemoryPointer, runtime

    return PinnedMemoryPointer(PinnedMemory(nbytes, runtime.hostAllocPortable), 0)
