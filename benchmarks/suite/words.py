"""Words that floors move: made where they are, each page another, so that a copy that leaves something out is seen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import Check, Place

BLOCK = 1 << 14  # 64-bit words of the block whose variants follow each other: 128 KiB
PAGE_WORDS = 512  # 64-bit words of a page of memory
STEP = 0x9E3779B97F4A7C15  # odd, about 2⁶⁴ over the golden ratio: its multiples differ in all bits

_READ = r"""
struct alignas(16) Two { unsigned long long x, y; };  // one load of 16 bytes
extern "C" __global__ void word_sum(const Two* words, unsigned long long pairs, unsigned long long* out) {
  unsigned long long sum = 0;
  const unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
  #pragma unroll 4
  for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < pairs; i += step) {
    const Two two = words[i];
    sum += two.x + two.y;
  }
  for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_down_sync(0xffffffffu, sum, lane);
  if (threadIdx.x % 32 == 0) atomicAdd(out, sum);  // one of 32 threads: additions to one address wait for each other
}
"""
GPU_BLOCK, GPU_BLOCKS = 256, 8  # threads of a block; blocks for every multiprocessor


@dataclass(frozen=True)
class Words:
    """An array of 64-bit words, and what is known of it without reading it.

    Attributes
    ----------
    array : (n,) uint64
    digest : str
        Of the block it is made from, and of its length.
    sum : int
        Of all words modulo 2⁶⁴.
    words : int
    """

    array: Any
    digest: str
    sum: int
    words: int


def words(xp: Any, nbytes: int, seed: int) -> Words:
    """Make words of so many bytes, a multiple of 128 KiB: block k is a block of hashes plus k times an odd number."""
    blocks = nbytes // (8 * BLOCK)
    assert blocks * 8 * BLOCK == nbytes, "whole blocks"
    block = data.hashed(np, seed, 0, 2 * BLOCK).view(np.uint64)
    array = xp.empty((blocks, BLOCK), xp.uint64)

    def fill(part: slice) -> None:
        for at, made in _variants(xp, block, part):
            array[at] = made

    if xp is np:  # by the threads that will use it: memory lies beside the processor that writes it first
        in_pieces(fill, blocks)
    else:
        fill(slice(0, blocks))
    total = (blocks * int(block.sum(dtype=np.uint64)) + BLOCK * STEP * (blocks * (blocks - 1) // 2)) % 2**64
    return Words(array.reshape(-1), data.digest(np, block, np.array([blocks])), total, blocks * BLOCK)


def _variants(xp: Any, block: np.ndarray, part: slice) -> Iterator[tuple[slice, Any]]:
    """Yield variants of a block and their numbers, some at a time: on the host they stay in the cache."""
    there, some = xp.asarray(block), 8 if xp is np else 1024
    for k in range(part.start, part.stop, some):
        numbers = xp.arange(k, min(part.stop, k + some), dtype=xp.uint64) * xp.uint64(STEP)
        yield slice(k, k + len(numbers)), there[None, :] + numbers[:, None]


def equal_to_made(array: np.ndarray, seed: int) -> np.ndarray:
    """Return how many words of a host array are those that `words` makes."""
    rows, block = array.reshape(-1, BLOCK), data.hashed(np, seed, 0, 2 * BLOCK).view(np.uint64)

    def count(part: slice) -> int:
        return sum(int(np.count_nonzero(rows[at] == made)) for at, made in _variants(np, block, part))

    return np.asarray(sum(in_pieces(count, len(rows))))


def pieces(n: int) -> list[slice]:
    """Return contiguous parts of n items: two for each thread, so that one whose core is busy elsewhere does less."""
    from gpu4d.device.choose import cpu_threads

    count = min(n, 2 * cpu_threads()) or 1
    return [slice(k * n // count, (k + 1) * n // count) for k in range(count)]


def in_pieces(work: Callable[[slice], Any], n: int) -> list[Any]:
    """Do work on the parts of n items by all threads of gpu4d, and return the results in order."""
    from gpu4d.device.threads import in_threads

    return list(in_threads(work, pieces(n)))


def equal(place: Place, one: Any, other: Any) -> np.ndarray:
    """Return how many words of two arrays are the same."""
    if place.on_gpu and not isinstance(one, np.ndarray):
        return place.host((one == other).sum())
    return np.asarray(sum(in_pieces(lambda part: int(np.count_nonzero(one[part] == other[part])), len(one))))


def copy_made(found: dict[str, np.ndarray], n: int) -> Check:
    """Return the check of a copy of n words: all are those of the source. The error is the share that is not."""
    return Check(1.0 - int(found["equal"]) / n, 0.0, n, "its source, word by word")


def spoil(made: Any) -> None:
    """Change a word in every page of a copy, so that a call that does not write it all anew is seen."""
    made[::PAGE_WORDS] ^= np.uint64(2**64 - 1)


def sum_of_words(place: Place, array: Any) -> Any:
    """Return the sum of an array of 64-bit words modulo 2⁶⁴, read as fast as memory gives it."""
    if not isinstance(array, np.ndarray):
        return _sum_on_gpu(place, array)
    from gpu4d.benchmarks.suite.compiled_floors import word_sum

    from gpu4d.compiled import read_only

    return np.uint64(sum(int(one) for one in in_pieces(lambda part: word_sum(read_only(array[part])), len(array))) % 2**64)


def _sum_on_gpu(place: Place, array: Any) -> Any:
    from gpu4d.device import multiprocessors

    xp, blocks = place.xp, GPU_BLOCKS * multiprocessors()
    out = xp.zeros(1, xp.uint64)
    _kernel(xp)((blocks,), (GPU_BLOCK,), (array, np.uint64(len(array) // 2), out))
    return out[0]


@functools.cache
def _kernel(cupy: Any) -> Any:
    return cupy.RawKernel(_READ, "word_sum")
