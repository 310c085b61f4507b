"""Machines with one card and with two, made of host memory (`tests/support/fake_cupy.py`)."""

import gc
import sys

import fake_cupy
import numpy as np
import pytest
from fake_cards import FakeNvml, FakeRuntime, Forbidden, choosing

import gpu4d
from gpu4d.device.processors import cuda, cuda_memory


@pytest.fixture
def world(monkeypatch):
    machine = fake_cupy.install(monkeypatch)
    monkeypatch.setattr(cuda_memory, "_context_there", lambda index: machine.cards[index].context)
    monkeypatch.setattr(cuda_memory, "_with_context", set())
    abandoned = []
    monkeypatch.setattr(cuda, "_abandoned", abandoned)
    yield machine
    for card in machine.cards:
        card.lost = None
    abandoned.clear()
    gc.collect()
    assert not machine.unraisable, "a destructor called a lost device"


@pytest.fixture
def two_cards(monkeypatch):
    machine = fake_cupy.install(monkeypatch, cards=2)
    monkeypatch.setattr(cuda_memory, "_context_there", lambda index: machine.cards[index].context)
    monkeypatch.setattr(cuda_memory, "_with_context", set())
    return machine


@pytest.fixture
def scan(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "scan.npy"
    np.save(path, rng.poisson(2.0, (16, 24, 32, 32)).astype("uint16"))
    return gpu4d.open(path)


@pytest.fixture
def machine(monkeypatch):
    """Function that puts cards (in CUDA's order), a driver and NVML into this machine; pynvml=None takes the package away."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    choosing._auto_of.cache_clear()
    nvmls = []

    def put(*cards, pynvml=..., **runtime):
        nvmls.append(FakeNvml(sorted(cards, key=lambda card: card.bus_id)) if pynvml is ... else pynvml)
        monkeypatch.setitem(sys.modules, "cupy", Forbidden("cupy", cuda=Forbidden("cupy.cuda", runtime=FakeRuntime(cards, **runtime))))
        monkeypatch.setitem(sys.modules, "pynvml", nvmls[-1])
        choosing._auto_of.cache_clear()

    yield put
    choosing._auto_of.cache_clear()
    assert not any(nvml.open for nvml in nvmls if nvml), "NVML was not shut down"


@pytest.fixture
def without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
