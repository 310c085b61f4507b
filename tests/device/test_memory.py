"""Bytes, threads and names of devices: what is accepted, and what the errors say."""

import pytest
from fake_cards import choosing

from gpu4d import device
from gpu4d.device import memory
from gpu4d.device.backend import CupyBackend
from gpu4d.device.choose import cpu_threads, cuda_devices
from gpu4d.errors import DeviceError, Gpu4dError, InputError, MemoryBudgetError


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
