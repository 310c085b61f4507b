"""Cards, the CUDA runtime and NVML as stand-ins."""

import importlib
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

choosing = importlib.import_module("gpu4d.device.choose")  # the package has a function of this name


@dataclass
class Card:
    bus_id: str
    model: str = "NVIDIA H200"
    total: int = 150 * 10**9
    free: int = 149 * 10**9
    capability: tuple[int, int] = (9, 0)
    clock_khz: int = 3_201_000
    bus_bits: int = 6144
    link: tuple[int, int] = (5, 16)
    max_link: tuple[int, int] = (5, 16)
    load: int = 0
    processes: int = 0
    mig: bool = False
    lost: bool = False


class RuntimeFailure(RuntimeError):
    """CuPy's CUDARuntimeError, which cannot be named without CuPy."""


class FakeRuntime:
    """cupy.cuda.runtime with the calls that make no context; cards in CUDA's order."""

    def __init__(self, cards, driver=12040, needed=12080, trouble=""):
        self.cards, self.driver, self.needed, self.trouble = cards, driver, needed, trouble

    def getDeviceCount(self):
        if self.trouble:
            raise RuntimeFailure(self.trouble)
        return len(self.cards)

    def driverGetVersion(self):
        return self.driver

    def runtimeGetVersion(self):
        return self.needed

    def deviceGetPCIBusId(self, index):
        return self.card(index).bus_id

    def getDeviceProperties(self, index):
        card = self.card(index)
        major, minor = card.capability
        return {"name": card.model.encode(), "totalGlobalMem": card.total, "major": major, "minor": minor}  # CUDA 13 has no clocks here

    def deviceGetAttribute(self, attribute, index):
        card = self.card(index)
        return {36: card.clock_khz, 37: card.bus_bits}[attribute]  # cudaDevAttrMemoryClockRate, cudaDevAttrGlobalMemoryBusWidth

    def card(self, index):
        if self.cards[index].lost:
            raise RuntimeFailure("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable")
        return self.cards[index]

    def __getattr__(self, name):
        pytest.fail(f"cupy.cuda.runtime.{name} was asked for: it may make a context")


class Forbidden:
    """A module whose other names may make a context (Device, mem_info, empty, ...)."""

    def __init__(self, name, **allowed):
        self.__dict__.update(allowed, _name=name)

    def __getattr__(self, name):
        pytest.fail(f"{self._name}.{name} was asked for: it may make a context")


class NVMLError(Exception):
    pass


class FakeNvml:
    """pynvml. It answers between nvmlInit and nvmlShutdown, and finds cards by bus id alone: its own order is not CUDA's."""

    def __init__(self, cards, trouble="", missing=(), refused=()):
        self.cards = {card.bus_id: card for card in cards}
        self.trouble, self.missing, self.refused, self.open = trouble, missing, refused, 0

    def __getattr__(self, name):
        if name in self.__dict__.get("missing", ()) or not hasattr(type(self), "_" + name):
            raise AttributeError(name)
        return lambda *args: self._asked(name, *args)

    def _asked(self, name, *args):
        if name == "nvmlInit" and self.trouble:
            raise NVMLError(self.trouble)
        if name in self.refused:
            raise NVMLError("Not Supported")
        assert self.open or name == "nvmlInit", f"{name} before nvmlInit"
        return getattr(self, "_" + name)(*args)

    def _nvmlInit(self):
        self.open += 1

    def _nvmlShutdown(self):
        self.open -= 1

    def _nvmlDeviceGetHandleByPciBusId(self, bus_id):
        if bus_id not in self.cards:
            raise NVMLError("Not Found")
        return self.cards[bus_id]

    def _nvmlDeviceGetMigMode(self, card):
        return [int(card.mig), int(card.mig)]

    def _nvmlDeviceGetMemoryInfo(self, card):
        return SimpleNamespace(total=card.total + 5 * 10**8, free=card.free, used=card.total - card.free)

    def _nvmlDeviceGetUtilizationRates(self, card):
        return SimpleNamespace(gpu=card.load, memory=99)

    def _nvmlDeviceGetComputeRunningProcesses(self, card):
        return [SimpleNamespace(pid=i) for i in range(card.processes)]

    def _nvmlDeviceGetCurrPcieLinkGeneration(self, card):
        return card.link[0]

    def _nvmlDeviceGetCurrPcieLinkWidth(self, card):
        return card.link[1]

    def _nvmlDeviceGetMaxPcieLinkGeneration(self, card):
        return card.max_link[0]

    def _nvmlDeviceGetMaxPcieLinkWidth(self, card):
        return card.max_link[1]

    def _nvmlDeviceGetUUID(self, card):
        return f"GPU-{card.bus_id}"


RTX = Card(
    "0000:01:00.0", "NVIDIA RTX A4000", 16 * 10**9, 12 * 10**9, (8, 6), 7_001_000, 256, link=(1, 16), max_link=(4, 16), load=97, processes=1
)


H200 = Card("0000:C1:00.0", free=140 * 10**9, load=3, processes=2)
