"""Arrays that stay on a device between calls: which are kept, how many bytes of them, and that nothing stale is ever handed out."""

import contextvars
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import gpu4d
from gpu4d.device import tables
from gpu4d.device.tables import Tables


class OnDevice:
    """An array that counts as one on a device, with an address of its own."""

    def __init__(self, values):
        self.values = np.array(values)
        self.nbytes = self.values.nbytes


@pytest.fixture
def uploads(monkeypatch):
    """A device with streams, made of host memory; the list of what was uploaded to it."""
    made, stream = [], contextvars.ContextVar("stream", default=0)

    def from_numpy(host, like):
        made.append(np.array(host))
        return OnDevice(host)

    monkeypatch.setattr(tables.arrays, "is_cuda", lambda like: isinstance(like, OnDevice))
    monkeypatch.setattr(tables.arrays, "from_numpy", from_numpy)
    monkeypatch.setattr(tables.arrays, "cupy_view", lambda array: array)
    monkeypatch.setattr(tables, "_place", lambda like: ("library", "device", stream.get()))
    monkeypatch.setattr(tables, "_address", lambda array: (id(array.values), stream.get()))
    monkeypatch.setattr(tables, "_of_process", Tables())
    made_on = lambda number, call: contextvars.copy_context().run(lambda: (stream.set(number), call())[1])  # noqa: E731
    return made, made_on


def test_a_host_array_is_uploaded_once_for_a_stream(uploads):
    made, on_stream = uploads
    frames, host = OnDevice([1]), np.arange(5)
    first = tables.beside(host, frames)
    assert tables.beside(host, frames) is first and len(made) == 1
    equal = np.arange(5)
    assert tables.beside(equal, frames) is not first and len(made) == 2, "known by identity: nothing is compared"
    other = on_stream(7, lambda: tables.beside(host, frames))
    assert other is not first and len(made) == 3, "work on a table is in the order of one stream"
    assert tables.beside(host, frames) is first


def test_what_goes_with_its_host_array_is_never_found_again(uploads):
    made, _ = uploads
    frames = OnDevice([1])
    for number in range(50):
        host = np.full(3, number)  # often at the address, and of the id, of the one before
        assert tables.beside(host, frames).values.tolist() == [number] * 3
        del host
    assert len(made) == 50 and tables.release() == 0


def test_tables_of_numbers_are_made_once(uploads):
    made, _ = uploads
    frames, calls = OnDevice([1]), []
    for n in (3, 3, 4, 3):
        assert tables.named(("ramp", n), lambda n=n: calls.append(n) or np.arange(n), frames).values.tolist() == list(range(n))
    assert calls == [3, 4] and len(made) == 2


def test_what_is_made_of_a_table_is_kept_with_it(uploads):
    frames, calls = OnDevice([1]), []

    def double(array):
        return tables.made_of(array, "double", lambda: calls.append(1) or OnDevice(2 * array.values))

    host = np.arange(3)
    kept, own = tables.beside(host, frames), OnDevice([5])
    assert double(kept) is double(kept) and len(calls) == 1
    assert double(kept).values.tolist() == [0, 2, 4]
    assert double(own).values.tolist() == [10] and double(own).values.tolist() == [10] and len(calls) == 3, "the caller may change his own"
    own.values[...] = 6
    assert double(own).values.tolist() == [12]
    assert tables.release() == 2 * host.nbytes
    assert double(kept).values.tolist() == [0, 2, 4] and len(calls) == 5, "no table any more"


def test_the_least_recently_used_go_beyond_the_cap(uploads):
    made, _ = uploads
    kept, frames = Tables(cap=100), OnDevice([1])
    hosts = [np.zeros(5) + i for i in range(3)]  # 40 bytes each
    for host in (hosts[0], hosts[1], hosts[0], hosts[2]):
        kept.beside(host, frames)
        assert kept.held <= 100
    assert len(made) == 3
    kept.beside(hosts[0], frames)
    assert len(made) == 3, "used since"
    kept.beside(hosts[1], frames)
    assert len(made) == 4, "had to go"
    large = np.zeros(20)
    assert kept.beside(large, frames).values.shape == (20,) and kept.held <= 100
    kept.beside(large, frames)
    assert len(made) == 6, "what is larger than all is uploaded every time"
    kept.made_of(kept.beside(hosts[1], frames), "much", lambda: (OnDevice(np.zeros(5)), OnDevice(np.zeros(5))))
    assert kept.held <= 100, "what is made of a table counts with it"


def test_a_sweep_has_tables_of_its_own(uploads):
    made, _ = uploads
    frames, host, own = OnDevice([1]), np.arange(4), Tables()
    tables.beside(host, frames)
    with tables.using_tables(own):
        tables.beside(host, frames)
        tables.beside(host, frames)
    assert len(made) == 2 and own.held == host.nbytes
    assert gpu4d.device.release() == host.nbytes and own.held == host.nbytes, "those of running sweeps stay"


def test_from_several_threads(uploads):
    frames, hosts, kept = OnDevice([1]), [np.full(10, i) for i in range(8)], Tables(cap=320)
    wrong = []

    def work(seed):
        order = np.random.default_rng(seed).integers(0, 8, 400)
        wrong.extend(i for i in order if (kept.beside(hosts[i], frames).values != i).any())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and 0 < kept.held <= 320


def test_on_the_host_nothing_is_kept():
    host, before = np.arange(3), tables._of_process.held
    assert tables.beside(host, np.zeros(1)) is host
    assert tables.named("ramp", lambda: np.arange(3), np.zeros(1)).tolist() == [0, 1, 2]
    calls = []
    for _ in range(2):
        tables.made_of(host, "something", lambda: calls.append(1))
    assert len(calls) == 2 and tables._of_process.held == before


def test_a_sweep_of_arrays_on_a_device_gives_tables_back_where_memory_runs_out(uploads):
    from gpu4d.streaming.place import _WorkspaceInPlace

    host = np.arange(4)
    tables.beside(host, OnDevice([1]))
    assert tables._of_process.held == host.nbytes
    workspace = _WorkspaceInPlace("a device", 1000, 1)
    workspace.trim()
    workspace.close()
    assert tables._of_process.held == 0


class Tensor:
    """A tensor of torch on a GPU that carries a gradient: it has the attribute, and refuses to give it."""

    device = "cuda:0"

    def data_ptr(self):
        return 1

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")


def test_tables_beside_tensors_that_carry_a_gradient(monkeypatch):
    """Those made in inference mode are kept apart: they may take no part in gradients later."""
    inference = []
    stream = SimpleNamespace(cuda_stream=7)
    torch = SimpleNamespace(cuda=SimpleNamespace(current_stream=lambda device: stream), is_inference_mode_enabled=lambda: bool(inference))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(tables.arrays.compat, "is_torch_array", lambda x: isinstance(x, Tensor))
    usual = tables._stream(Tensor())
    assert usual == tables._stream(Tensor())
    inference.append(True)
    assert tables._stream(Tensor()) != usual
