"""Keep buffers of each thread between reads: touching new memory for the first time costs as much as decoding a chunk."""

from __future__ import annotations

import threading

import numpy as np

KEPT_BYTES = 64 << 20  # bytes: larger buffers are not kept


class Scratch(threading.local):
    """Buffers of a thread by their names, used again and again."""

    def bytes(self, name: str, size: int) -> np.ndarray:
        """Return a buffer (size,) uint8 whose content is anything. It is good until the thread asks for the same name again."""
        held = self.__dict__.get(name)
        if held is None or held.size < size:
            held = self.__dict__.pop(name, None)
            del held  # freed before a larger one is allocated
            held = np.empty(size, np.uint8)
            if size <= KEPT_BYTES:
                self.__dict__[name] = held
        return held[:size]


scratch = Scratch()
