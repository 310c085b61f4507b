"""Choose where the frames of a cube are reduced: arrays on their own device, files on the device that was asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import sample_of
from gpu4d.data.views import uncorrected
from gpu4d.device import tables
from gpu4d.device.choose import Device, choose_all
from gpu4d.device.processors.cpu import CpuProcessor, CpuWorkspace
from gpu4d.device.processors.cuda_errors import in_our_words
from gpu4d.device.processors.processor import Processor
from gpu4d.errors import DeviceError


def processors_for(cube: DataCube, device: Any) -> tuple[tuple[Processor, ...], bool]:
    """Return the processors of a sweep, and whether frames are used in place.

    Parameters
    ----------
    cube : DataCube
    device : str, Device, Processor, or a sequence of them
        As for `gpu4d.sweep`.

    Raises
    ------
    DeviceError
        The cube is an array on one device, and another device was named.
    """
    sample = sample_of(cube.source)
    if isinstance(device, list | tuple) and len(device) == 1:
        device = device[0]
    if sample is not None and not isinstance(sample, np.ndarray):
        return (InPlace(_same_device(sample, device)),), True
    if sample is not None and isinstance(device, str) and device == "auto":
        device = "cpu"  # an array on the host: copying it takes longer than the work, so only a named device gets it
    processors = tuple(_processor(d) for d in choose_all(device))
    return processors, bool(uncorrected(cube.source)[0].resident and not processors[0].copies)


RESIDENT_BYTES = 1 << 30  # of frames in an update in place: reading them takes 0.4 ms on a card, and an update costs 0.3 to 1 ms of Python


def in_order(cube: DataCube) -> bool:
    """Return True if any scan rows are one run of memory on a CUDA device, so that an update copies nothing."""
    array = getattr(cube.source, "array", None)
    if array is None or not arrays.is_cuda(array):
        return False
    flags, contiguous = getattr(array, "flags", None), getattr(array, "is_contiguous", None)
    return bool(flags.c_contiguous) if flags is not None else bool(contiguous()) if contiguous is not None else True


def on_host(cube: DataCube) -> bool:
    """Return True if the cube's frames are NumPy arrays."""
    sample = sample_of(cube.source)
    return sample is None or isinstance(sample, np.ndarray)


class InPlace(CpuProcessor):
    """The device of an array. Nothing is copied. The array's own library does the work in its own stream."""

    def __init__(self, sample: Any):
        super().__init__()
        self.name, self.lanes = f"the device of the array ({arrays.device(sample)})", 1
        self._sample = sample
        self.on_cuda = arrays.is_cuda(sample)

    def free_memory(self) -> int:
        """Return the free bytes of the array's card, if CuPy can ask it, or of the host for arrays on the host."""
        if self.on_cuda:
            with contextlib.suppress(ImportError):
                from gpu4d.device.processors.cuda import CudaProcessor

                return CudaProcessor(_index(self._sample)).free_memory()
        return super().free_memory()

    def sample(self, dtype: Any) -> Any:
        return self._sample

    def workspace(self, cap: int, readers: int, timeline: Any = None) -> CpuWorkspace:
        return _WorkspaceInPlace(self.name, cap, readers, timeline)


class _WorkspaceInPlace(CpuWorkspace):
    """Workspace of an array's own library. It translates errors of that library."""

    def __init__(self, name: str, cap: int, readers: int, timeline: Any = None):
        super().__init__(cap, readers, timeline)
        self._name = name

    @contextlib.contextmanager
    def computing(self, stream: Any, name: str) -> Iterator[None]:
        with in_our_words(self._name), super().computing(stream, name):
            yield

    def trim(self) -> None:
        tables.release()


def _processor(device: Any) -> Processor:
    if not isinstance(device, Device):
        return device
    if device.kind == "cpu":
        return CpuProcessor()
    from gpu4d.device.processors.cuda import CudaProcessor

    return CudaProcessor(device.index)


def _same_device(sample: Any, device: Any) -> Any:
    """Return the sample if it is on the device asked for, else raise an error."""
    if isinstance(device, str) and device == "auto":
        return sample
    here = Device("cuda", _index(sample)) if arrays.is_cuda(sample) else Device("cpu")
    asked = [one.name if isinstance(one, Processor) else str(one) for one in choose_all(device)]
    if asked != [str(here)]:
        raise DeviceError(
            f"device={device!r}: the cube is an array on {here}, and such arrays are reduced on their own device: "
            "use device='auto', or move it first"
        )
    return sample


def _index(sample: Any) -> int:
    device = arrays.device(sample)
    return int(getattr(device, "id", getattr(device, "index", 0)) or 0)
