"""Measure the links of a GPU: copies from and to the host, from page-locked and from ordinary memory, and between cards.

After every copy all words are compared where they arrived.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite.words import Words, copy_made, equal, spoil, words
from gpu4d.benchmarks.suite.workload import FLOOR, Place, Prepared, Size, Workload

MEBIBYTES = {"quick": 8, "S": 64, "M": 256, "L": 512}  # a copy takes 5 ms and more at 55 GB/s, starting it a hundredth of that
SIZES: dict[str, Size] = {tier: {"MiB": value} for tier, value in MEBIBYTES.items()}


def floors() -> list[Workload]:
    """Return the floors of the links of this machine: of the card that is current to the host, and of all pairs of cards."""
    from gpu4d.device.choose import cuda_devices

    cards = range(cuda_devices())
    pairs = [(i, j) for i in cards for j in cards if i != j]
    return [*HOST, *(_between(i, j) for i, j in pairs)]


def host_to_device(place: Place, size: Size, seed: int) -> Prepared:
    """Copy page-locked memory to the device."""
    here = _page_locked(size["MiB"] << 20)
    return _to_device(place, here, words(place.xp, here.nbytes, seed), "cudaMemcpyAsync from page-locked memory")


def host_to_device_pageable(place: Place, size: Size, seed: int) -> Prepared:
    """Copy ordinary memory to the device. The driver goes through page-locked memory of its own."""
    here = np.empty((size["MiB"] << 20) // 8, np.uint64)
    return _to_device(place, here, words(place.xp, here.nbytes, seed), "cudaMemcpyAsync from pageable memory")


def device_to_host(place: Place, size: Size, seed: int) -> Prepared:
    """Copy from the device to page-locked memory."""
    return _to_host(place, _page_locked(size["MiB"] << 20), seed, "cudaMemcpyAsync to page-locked memory")


def device_to_host_pageable(place: Place, size: Size, seed: int) -> Prepared:
    """Copy from the device to ordinary memory."""
    return _to_host(place, np.zeros((size["MiB"] << 20) // 8, np.uint64), seed, "cudaMemcpyAsync to pageable memory")


def _to_device(place: Place, here: np.ndarray, given: Words, how: str) -> Prepared:
    here[...] = place.host(given.array)
    there = place.xp.zeros_like(given.array)

    def call() -> Any:
        _copy(place, there.data.ptr, here.ctypes.data, here.nbytes, "memcpyHostToDevice")
        return there

    return _prepared(place, call, there, given, how)


def _to_host(place: Place, here: np.ndarray, seed: int, how: str) -> Prepared:
    source = words(place.xp, here.nbytes, seed)
    given = words(np, here.nbytes, seed)

    def call() -> Any:
        _copy(place, here.ctypes.data, source.array.data.ptr, here.nbytes, "memcpyDeviceToHost")
        return here

    return _prepared(place, call, here, given, how)


def _prepared(place: Place, call: Any, made: Any, given: Words, how: str) -> Prepared:
    return Prepared(
        call,
        lambda found: {"equal": equal(place, found, given.array)},
        lambda found: copy_made(found, given.words),
        8 * given.words,
        given.digest,
        bytes=8.0 * given.words,
        before=lambda: spoil(made),
        cache="host memory",
        implementation=how,
    )


def _copy(place: Place, target: int, source: int, nbytes: int, kind: str) -> None:
    runtime, stream = place.xp.cuda.runtime, place.xp.cuda.get_current_stream()
    runtime.memcpyAsync(target, source, nbytes, getattr(runtime, kind), stream.ptr)
    stream.synchronize()


def _page_locked(nbytes: int) -> np.ndarray:
    from gpu4d.device.page_locked import page_locked

    return np.frombuffer(page_locked(nbytes), np.uint64, nbytes // 8)


def _between(i: int, j: int) -> Workload:
    """Return the floor of copies from card i to card j."""

    def make(place: Place, size: Size, seed: int) -> Prepared:
        xp, nbytes = place.xp, size["MiB"] << 20
        with xp.cuda.Device(i):
            source = words(xp, nbytes, seed)
            direct = bool(xp.cuda.runtime.deviceCanAccessPeer(i, j))
            if direct:
                with contextlib.suppress(xp.cuda.runtime.CUDARuntimeError):  # it was enabled before
                    xp.cuda.runtime.deviceEnablePeerAccess(j)
            xp.cuda.Device(i).synchronize()
        with xp.cuda.Device(j):
            wanted = words(xp, nbytes, seed)
            made = xp.zeros_like(wanted.array)
            xp.cuda.Device(j).synchronize()

        def call() -> Any:
            with xp.cuda.Device(i):
                stream = xp.cuda.get_current_stream()
                xp.cuda.runtime.memcpyPeerAsync(made.data.ptr, j, source.array.data.ptr, i, nbytes, stream.ptr)
                stream.synchronize()
            return made

        def before() -> None:
            with xp.cuda.Device(j):
                spoil(made)
                xp.cuda.Device(j).synchronize()

        def arrays(found: Any) -> dict[str, np.ndarray]:
            with xp.cuda.Device(j):
                return {"equal": equal(place, found, wanted.array)}

        return Prepared(
            call,
            arrays,
            lambda found: copy_made(found, wanted.words),
            nbytes,
            wanted.digest,
            bytes=float(nbytes),
            before=before,
            implementation="cudaMemcpyPeerAsync, " + ("card to card" if direct else "through the host"),
        )

    return Workload(f"device_to_device {i}-{j}", f"copy from card {i} to card {j}", FLOOR, "B/s", SIZES, make)


HOST = [
    Workload("host_to_device", "copy to the device from page-locked memory", FLOOR, "B/s", SIZES, host_to_device),
    Workload("device_to_host", "copy from the device to page-locked memory", FLOOR, "B/s", SIZES, device_to_host),
    Workload("host_to_device_pageable", "copy to the device from pageable memory", FLOOR, "B/s", SIZES, host_to_device_pageable),
    Workload("device_to_host_pageable", "copy from the device to pageable memory", FLOOR, "B/s", SIZES, device_to_host_pageable),
]
