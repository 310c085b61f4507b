"""Processors on a CuPy made of host memory (`fake_cupy.py`), and what a sweep through them gives."""

import contextlib
import sys

import numpy as np

import gpu4d
from gpu4d.device.processors.cpu import CpuProcessor
from gpu4d.device.processors.cuda import CudaProcessor


def cupy():
    return sys.modules["cupy"]


@contextlib.contextmanager
def opened(processor, cap=1 << 20, readers=2, timeline=None):
    workspace = processor.workspace(cap, readers, timeline)
    try:
        yield workspace
    finally:
        workspace.close()


PROCESSORS = [CpuProcessor, CudaProcessor]


def calls_for_page_locked_memory(world):
    return sum(card.calls.count("hostAlloc") for card in world.cards)


def ids(errors):
    return [f"{type(error).__name__}: {str(error)[:32]}" for error in errors]


def reductions():
    disk = np.hypot(*(np.indices((32, 32)) - 15.5)) < 12
    return {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "image": gpu4d.VirtualImage({"in": disk, "out": ~disk})}


def data(results):
    return {name: np.asarray(result) for name, result in results.items()}


def same(found, expected):
    return all(found[name].tobytes() == expected[name].tobytes() for name in expected)
