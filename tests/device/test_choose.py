"""Which device a call takes."""

import subprocess
import sys
from dataclasses import replace

import pytest
from fake_cards import H200, RTX, Card, FakeNvml, choosing

from gpu4d import device
from gpu4d.device.processors.processor import Processor
from gpu4d.errors import DeviceError, InputError
from gpu4d.workflow.describe import describe_devices


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
