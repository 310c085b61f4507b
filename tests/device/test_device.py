"""Bytes, threads and devices: what is accepted, and what the errors say."""

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from gpu4d import device
from gpu4d.device import memory, nvml
from gpu4d.device.backend import CupyBackend
from gpu4d.device.choose import cpu_threads, cuda_devices, why_no_cuda
from gpu4d.device.processors.processor import Processor
from gpu4d.errors import DeviceError, Gpu4dError, InputError, MemoryBudgetError
from gpu4d.workflow.describe import describe_devices

choosing = sys.modules["gpu4d.device.choose"]  # the package has a function of this name


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512 MB", 512 * 10**6),
        ("1.5GiB", 3 * 2**29),
        (" 2 tb ", 2 * 10**12),
        ("100", 100),
        (4096, 4096),
        (1e9, 10**9),
        (".5 kB", 500),
        ("7 KiB", 7168),
    ],
)
def test_parse_memory(text, count):
    assert device.parse_memory(text) == count


@pytest.mark.parametrize("text", ["", "lots", "5 XB", "-3 MB", "MB", 0, -1, "0 GB", float("nan"), True, None, "1 000 MB"])
def test_parse_memory_refuses(text):
    with pytest.raises(InputError, match="memory="):
        device.parse_memory(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (536870912, "537 MB"), (999.6e6, "1 GB"), (8.59e9, "8.59 GB"), (2.2e12, "2.2 TB")],
)
def test_format_bytes(count, text):
    assert device.format_bytes(count) == text


def test_available_memory_is_what_the_machine_can_have(need):
    assert 0 < device.available_memory() <= need("psutil").virtual_memory().total
    assert 0 < memory.default_budget() <= 4 * 10**9


def test_shared_memory_is_asked_for_once_for_each_kernel():
    class Kernel:
        def __init__(self):
            object.__setattr__(self, "calls", [])

        def __setattr__(self, name, value):
            self.calls.append((name, value))

        def __call__(self, grid, block, args, shared_mem):
            self.calls.append(shared_mem)

    backend, one, other = CupyBackend(), Kernel(), Kernel()
    ask = lambda n: [("max_dynamic_shared_size_bytes", n), ("preferred_shared_memory_carveout", 100)]  # noqa: E731
    for kernel, shared in ((one, 1000), (one, 76_000), (one, 76_000), (other, 76_000), (one, 60_000), (one, 160_000), (one, 76_000)):
        backend.launch(kernel, (1,), (32,), (), shared)
    assert one.calls == [1000, *ask(76_000), 76_000, 76_000, 60_000, *ask(160_000), 160_000, 76_000]
    assert other.calls == [*ask(76_000), 76_000]


def test_memory_error_says_asked_free_cap():
    error = MemoryBudgetError("the sweep", 3 * 10**9, 10**10, 10**9)
    assert (error.asked, error.free, error.cap) == (3 * 10**9, 10**10, 10**9)
    assert "needs 3 GB" in str(error) and "10 GB is free" in str(error) and "allows 1 GB" in str(error)
    assert isinstance(error, Gpu4dError) and isinstance(error, MemoryError)


def test_devices_are_chosen_by_name():
    assert str(device.choose("cpu")) == "cpu"
    assert device.choose(device.Device("cpu")) == device.Device("cpu")
    assert device.choose("auto").kind == ("cuda" if cuda_devices() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "", "cpu:1", None, 0])
def test_unknown_devices_are_refused(name):
    with pytest.raises(InputError, match="'auto', 'cpu', 'cuda' or 'cuda:N'"):
        device.choose(name)


def test_a_cuda_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(choosing, "cuda_devices", lambda: 2)
    assert str(device.choose("cuda:1")) == "cuda:1"
    with pytest.raises(DeviceError, match="cuda:0 … cuda:1"):
        device.choose("cuda:9")
    monkeypatch.setattr(choosing, "cuda_devices", lambda: 0)
    with pytest.raises(DeviceError, match="no CUDA device"):
        device.choose("cuda")


def test_threads_can_be_set(monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "3")
    assert cpu_threads() == 3
    monkeypatch.setenv("GPU4D_THREADS", "none")
    with pytest.raises(InputError, match="GPU4D_THREADS"):
        cpu_threads()
    monkeypatch.delenv("GPU4D_THREADS")
    assert cpu_threads() >= 1


# Devices. The truth is a machine of made-up cards, shown through a fake CuPy and a fake NVML that allow nothing else to be asked.


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


H200 = Card("0000:C1:00.0", free=140 * 10**9, load=3, processes=2)
RTX = Card(
    "0000:01:00.0", "NVIDIA RTX A4000", 16 * 10**9, 12 * 10**9, (8, 6), 7_001_000, 256, link=(1, 16), max_link=(4, 16), load=97, processes=1
)


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


def test_auto_is_the_first_card(machine, caplog):
    """Load does not count, and half a card is enough."""
    machine(replace(RTX, free=8 * 10**9, load=100), H200)
    with caplog.at_level("INFO", "gpu4d"):
        assert str(device.choose("auto")) == "cuda:0"
    assert "'auto' takes cuda:0: the first CUDA device" in caplog.text


@pytest.mark.parametrize(
    ("free", "taken"),
    [
        ((9, 50, 70), "cuda:2"),  # nearly full: the one with most
        ((9, 70, 70), "cuda:1"),  # of equals the first
        ((9, 18, 18), "cuda:0"),  # not more than twice as much
        ((9, 19, 18), "cuda:1"),
        ((10, 70, 70), "cuda:0"),  # a tenth is enough
        ((0, 1, 0), "cuda:1"),
        ((0, 0, 0), "cuda:0"),
    ],
)
def test_auto_leaves_a_full_card(machine, caplog, free, taken):
    machine(*(Card(f"0000:0{9 - i}:00.0", total=100 * 10**9 - 5 * 10**8, free=gb * 10**9) for i, gb in enumerate(free)))
    with caplog.at_level("INFO", "gpu4d"):
        assert str(device.choose("auto")) == taken
    why = "the first CUDA device" if taken == "cuda:0" else f"most memory free, {max(free)} GB; cuda:0 has {free[0]}"
    assert f"{taken}: {why}" in caplog.text
    assert describe_devices().splitlines()[-1].startswith(f"auto    {taken}: {why}")


def test_auto_is_decided_once(machine, monkeypatch):
    machine(Card("0000:01:00.0"), Card("0000:02:00.0"))
    assert str(device.choose("auto")) == "cuda:0"
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([Card("0000:01:00.0", free=0), Card("0000:02:00.0")]))
    assert str(device.choose("auto")) == "cuda:0", "the work of this process itself fills the card"


def test_auto_without_nvml(machine, monkeypatch, caplog):
    machine(H200, RTX, pynvml=None)
    with caplog.at_level("INFO", "gpu4d"):
        assert str(device.choose("auto")) == "cuda:0"
    assert "unknown" in caplog.text
    machine(H200, pynvml=FakeNvml([], trouble="must not be needed for one card"))
    assert choosing.auto() == (device.Device("cuda", 0), "the only CUDA device")


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("cpu", ["cpu"]),
        (["cpu"], ["cpu"]),
        ("auto", ["cuda:0"]),
        (["auto"], ["cuda:0"]),
        ("cuda", ["cuda:0"]),
        ("cuda:1", ["cuda:1"]),
        (["cuda:1", "cuda"], ["cuda:1", "cuda:0"]),
        (("cuda:0", "cuda:1"), ["cuda:0", "cuda:1"]),
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
        (" cuda:1 , cuda:0 ", ["cuda:1", "cuda:0"]),
        (device.Device("cuda", 1), ["cuda:1"]),
        ([device.Device("cuda", 1), "cuda:0"], ["cuda:1", "cuda:0"]),
    ],
)
def test_several_devices(machine, asked, names):
    machine(H200, RTX)
    chosen = device.choose_all(asked)
    assert isinstance(chosen, tuple) and [str(one) for one in chosen] == names
    assert all(isinstance(one, device.Device) for one in chosen)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ([], InputError, r"device=\[\] names no device: need 'auto'.*'cuda:0,cuda:1'"),
        (["cuda:0", "cuda:0"], InputError, "names cuda:0 twice: name every device once"),
        ("cuda,cuda:0", InputError, "names cuda:0 twice"),
        (["cpu", "cpu"], InputError, "names cpu twice"),
        (["cpu", "cuda:0"], InputError, "the CPU and CUDA devices do not work side by side"),
        (["auto", "cuda:1"], InputError, "'auto' chooses one device; give it alone"),
        ("auto,cpu", InputError, "'auto' chooses one device"),
        (["cuda:0", "cuda:2"], DeviceError, "device='cuda:2': this machine has 2 CUDA devices: cuda:0 … cuda:1; use"),
        ("cuda:0,cuda:7", DeviceError, "device='cuda:7'.*2 CUDA devices"),
        ("cuda:0,", InputError, r"device='': need 'auto', 'cpu', 'cuda' or 'cuda:N', or several"),
        ("gpu", InputError, "device='gpu': need"),
        ("cuda:-1", InputError, "device='cuda:-1': need"),
        ([0, 1], InputError, "device=0: need"),
        ([["cuda:0"]], InputError, r"device=\['cuda:0'\]: need"),
        (None, InputError, "device=None: need"),
        ({"cuda:0", "cuda:1"}, InputError, "need 'auto'"),
    ],
)
def test_several_devices_that_are_refused(machine, asked, error, message):
    machine(H200, RTX)
    with pytest.raises(error, match=message):
        device.choose_all(asked)


def test_one_name_is_one_device(machine):
    machine(H200, RTX)
    for several in (["cuda:0"], "cuda:0,cuda:1"):
        with pytest.raises(InputError, match=r"need 'auto', 'cpu', 'cuda' or 'cuda:N'$"):
            device.choose(several)


class SomeProcessor:
    name, copies, lanes, link_rate = "made up", True, 1, 1e9

    def free_memory(self):
        return 10**9

    def sample(self, dtype):
        return None

    def workspace(self, cap, readers, timeline=None):
        raise AssertionError("choosing opens nothing")

    def __eq__(self, other):
        return True


def test_devices_of_ones_own():
    one, other = SomeProcessor(), SomeProcessor()
    assert isinstance(one, Processor)
    assert device.choose_all(one)[0] is one
    chosen = device.choose_all([one, other])
    assert chosen[0] is one and chosen[1] is other
    for mixed in ([one, "cpu"], [device.Device("cpu"), one], [one, one]):
        with pytest.raises(InputError, match="processors alone, and each once"):
            device.choose_all(mixed)


@pytest.mark.gpu
@pytest.mark.real_gpu("contexts of the driver are looked at from a process of its own")
def test_listing_and_choosing_make_no_context():
    """In a process of its own, where nothing else has used a card."""
    pytest.importorskip("cuda.bindings.driver")
    code = """
from cuda.bindings import driver
from gpu4d.device import choose_all, devices
from gpu4d.workflow.describe import describe_devices

count = len(devices()) - 1
assert count > 0
describe_devices()
choose_all("auto")
choose_all([f"cuda:{i}" for i in range(count)])
assert driver.cuInit(0)[0] == 0

def contexts():
    found = []
    for i in range(count):
        error, handle = driver.cuDeviceGet(i)
        assert error == 0
        error, _, active = driver.cuDevicePrimaryCtxGetState(handle)
        assert error == 0
        found.append(int(active))
    return found

assert contexts() == [0] * count, contexts()
import cupy
cupy.cuda.Device(0).mem_info
assert contexts()[0] == 1, "this test cannot see a context"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_the_first_card_is_known():
    card = device.devices()[1]
    import cupy

    free, total = cupy.cuda.Device(0).mem_info
    assert card.total == pytest.approx(total, rel=0.05)
    assert card.compute_capability == divmod(int(cupy.cuda.Device(0).compute_capability), 10)
    if card.free is not None:
        assert card.free == pytest.approx(free, abs=2e9), "NVML's figure is not of this card"
