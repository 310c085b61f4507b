"""The list of devices: cards matched by bus, bandwidths, what NVML says and does not."""

import re
import sys
from dataclasses import replace

import pytest
from fake_cards import H200, RTX, Card, FakeNvml

from gpu4d import device
from gpu4d.device import nvml
from gpu4d.device.choose import cpu_threads, cuda_devices, why_no_cuda
from gpu4d.errors import DeviceError
from gpu4d.workflow.describe import describe_devices


def test_the_cpu_comes_first(need):
    cpu = device.devices()[0]
    assert (cpu.name, cpu.threads, cpu.compute_capability) == ("cpu", cpu_threads(), None)
    assert cpu.model and 0 < cpu.free <= cpu.total
    assert cpu.total == pytest.approx(need("psutil").virtual_memory().total, rel=1e-6)


def test_cards_are_matched_by_bus_id(machine):
    """CUDA's order is not NVML's: here the card with the higher bus number is cuda:0."""
    machine(H200, RTX)
    first, second = device.devices()[1:]
    assert (first.name, first.model, first.compute_capability) == ("cuda:0", "NVIDIA H200", (9, 0))
    assert (first.total, first.free, first.load, first.processes) == (150 * 10**9, 140 * 10**9, 3, 2)
    assert (first.bus_id, first.uuid, first.note) == ("0000:C1:00.0", "GPU-0000:C1:00.0", "")
    assert (second.name, second.model, second.compute_capability) == ("cuda:1", "NVIDIA RTX A4000", (8, 6))
    assert (second.total, second.free, second.load, second.processes) == (16 * 10**9, 12 * 10**9, 97, 1)
    assert (second.link, second.max_link) == (nvml.Link(1, 16), nvml.Link(4, 16))


def test_bandwidth_of_memory(machine):
    """Data sheets: RTX A4000 448 GB/s, RTX 4090 1008 GB/s, H100 SXM 3.35 TB/s."""
    for clock, bits, rate in ((7_001_000, 256, 448e9), (10_501_000, 384, 1008e9), (2_619_000, 5120, 3.35e12)):
        machine(Card("0000:01:00.0", clock_khz=clock, bus_bits=bits))
        assert device.devices()[1].memory_bandwidth == pytest.approx(rate, rel=2e-3)
    machine(Card("0000:01:00.0", clock_khz=0))
    assert device.devices()[1].memory_bandwidth is None


@pytest.mark.parametrize(
    ("generation", "rate"),
    [(1, 4.0e9), (2, 8.0e9), (3, 15.754e9), (4, 31.508e9), (5, 63.015e9), (6, 121.0e9), (7, 242.0e9)],
)
def test_rates_of_links(generation, rate):
    """Nominal rates of 16 lanes in one direction, as PCI-SIG gives them."""
    assert nvml.Link(generation, 16).rate == pytest.approx(rate, rel=1e-4)
    assert nvml.Link(generation, 4).rate == pytest.approx(rate / 4, rel=1e-4)


def test_free_memory_is_at_most_what_cuda_sees(machine):
    machine(Card("0000:01:00.0", total=80 * 10**9, free=80 * 10**9 + 3 * 10**8))
    assert device.devices()[1].free == 80 * 10**9


def test_an_instance_of_a_partitioned_card(machine):
    """Its bus id is that of the whole card, whose free memory is not the instance's."""
    machine(Card("0000:01:00.0", total=20 * 10**9, free=70 * 10**9, mig=True))
    card = device.devices()[1]
    assert (card.free, card.load, card.processes, card.uuid, card.total) == (None, None, None, None, 20 * 10**9)
    assert "MIG" in card.note and card.max_link == nvml.Link(5, 16)


@pytest.mark.parametrize(
    ("pynvml", "note"),
    [
        (None, "free memory and load are unknown: pip install nvidia-ml-py"),
        (FakeNvml([], trouble="Driver Not Loaded"), "NVML, which comes with the driver, does not answer (Driver Not Loaded)"),
        (FakeNvml([]), "NVML does not find this card"),
        (FakeNvml([H200], refused=["nvmlDeviceGetMemoryInfo"]), "NVML does not say it for this card"),
    ],
)
def test_nvml_that_does_not_help(machine, pynvml, note):
    machine(H200, pynvml=pynvml)
    card = device.devices()[1]
    assert card.model == "NVIDIA H200" and card.total == 150 * 10**9 and card.free is None
    assert note in card.note
    assert note in describe_devices() and "? of 150 GB free" in describe_devices()


def test_nvml_that_answers_some_questions(machine):
    """An old package lacks functions, an old or virtual card refuses some questions: the rest is told."""
    pynvml = FakeNvml([RTX], missing=["nvmlDeviceGetMigMode"], refused=["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMaxPcieLinkWidth"])
    machine(RTX, pynvml=pynvml)
    card = device.devices()[1]
    assert (card.free, card.load, card.processes, card.link, card.max_link) == (12 * 10**9, None, 1, nvml.Link(1, 16), None)


def test_a_card_that_is_gone_does_not_hide_the_others(machine):
    machine(replace(RTX, lost=True), H200)
    lost, kept = device.devices()[1:]
    assert (lost.name, lost.model, lost.total, lost.bus_id) == ("cuda:0", "unknown", None, None)
    assert "busy or unavailable" in lost.note
    assert (kept.name, kept.free) == ("cuda:1", 140 * 10**9)
    assert "cuda:0  unknown" in describe_devices()


def test_the_listing(machine):
    machine(H200, RTX)
    lines = describe_devices().splitlines()
    assert [line.split()[0] for line in lines] == ["cpu", "cuda:0", "cuda:1", "auto"]
    assert "threads" in lines[0] and "by default" in lines[0]
    for cell in ("NVIDIA H200", "compute 9.0", "140 GB of 150 GB free", "4.92 TB/s", "PCIe 5.0 x16, 63 GB/s", "load 3 %, 2 processes"):
        assert f"  {cell}" in lines[1], lines[1]
    for cell in (
        "NVIDIA RTX A4000",
        "compute 8.6",
        "12 GB of 16 GB free",
        "448 GB/s",
        "PCIe 4.0 x16, 31.5 GB/s (now 1.0 x16)",
        "load 97 %, 1 process",
    ):
        assert f"  {cell}" in lines[2], lines[2]
    assert lines[1].index("compute") == lines[2].index("compute") and lines[1].index("load") == lines[2].index("load")
    assert lines[3] == "auto    cuda:0: the first CUDA device"


def test_the_listing_without_cupy(without_cupy):
    out = describe_devices()
    assert "cuda    none: CuPy is not installed" in out and out.endswith("auto    cpu")


@pytest.mark.parametrize(
    ("runtime", "why"),
    [
        ({"driver": 0, "trouble": "cudaErrorInsufficientDriver: CUDA driver version is insufficient"}, "there is no NVIDIA driver"),
        (
            {"driver": 11040, "trouble": "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"},
            "the NVIDIA driver serves CUDA 11.4, CuPy needs 12.8: update the driver",
        ),
        ({"trouble": "cudaErrorNoDevice: no CUDA-capable device is detected"}, "no CUDA-capable device is detected"),
        ({}, "CUDA finds no card"),
    ],
)
def test_without_a_usable_driver(machine, runtime, why):
    machine(**runtime)
    assert cuda_devices() == 0 and why_no_cuda().find(why) >= 0
    assert [info.name for info in device.devices()] == ["cpu"]
    assert f"cuda    none: {why_no_cuda()}" in describe_devices()
    assert device.choose("auto") == device.Device("cpu")
    with pytest.raises(DeviceError, match=re.escape(why)):
        device.choose("cuda")


def test_cards_that_are_hidden(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    machine(trouble="cudaErrorNoDevice: no CUDA-capable device is detected")
    assert "CUDA_VISIBLE_DEVICES='7' is set" in why_no_cuda()
    machine(H200)
    with pytest.raises(DeviceError, match=r"one CUDA device: cuda:0 \(CUDA_VISIBLE_DEVICES='7' is set\); use device='cpu' or 'auto'"):
        device.choose("cuda:1")


def test_a_cupy_that_is_broken(monkeypatch):
    class Broken:
        def find_spec(self, name, *rest):
            if name == "cupy":
                raise ImportError("\n====\n  Failed to import CuPy.\n\n  libcuda.so.1 is missing\n====")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert cuda_devices() == 0 and why_no_cuda() == "CuPy cannot be imported: Failed to import CuPy."
    assert "none: CuPy cannot be imported" in describe_devices()


# Choice.
