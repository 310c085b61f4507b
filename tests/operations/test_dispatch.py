"""Which implementation a call takes, tried on an operation of this file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from operations.comparing import assert_same_home
from own_process import importing

import gpu4d
from gpu4d import operation
from gpu4d.compiled import ENTRIES
from gpu4d.errors import InputError


@pytest.fixture
def halve(monkeypatch):
    """An operation of its own registry, whose twin is a function of a module made here."""
    import sys
    import types

    monkeypatch.setattr(operation, "OPERATIONS", {})
    module = types.ModuleType("gpu4d_test_twin")
    module.halve = lambda x, /, *, refuse=False: np.asarray(x) / 2 + 1  # one off, so that one sees which ran
    monkeypatch.setitem(sys.modules, "gpu4d_test_twin", module)

    twin = operation.Twin("gpu4d_test_twin", operation.REAL, check=lambda x, *, refuse=False: "refuse is set" if refuse else None)

    @operation.operation(cpu=twin)
    def halve(x, /, *, refuse=False):
        return x / 2.0

    return halve


def test_numpy_takes_the_twin_and_strict_the_definition(halve, need):
    assert halve(np.asarray([2.0])).tolist() == [2.0]
    strict = need("array_api_strict")
    given = strict.asarray([2.0])
    assert_same_home(halve(given), given)
    assert float(halve(given)[0]) == 1.0


def test_using_forces_one_implementation(halve):
    with gpu4d.using("definition"):
        assert halve(np.asarray([2.0])).tolist() == [1.0]
    assert halve(np.asarray([2.0])).tolist() == [2.0]
    with gpu4d.using("cuda"):
        assert halve(np.asarray([2.0])).tolist() == [1.0], "without that twin, the definition"
    with pytest.raises(InputError, match="'cuda' twin"):
        halve.implementation("cuda")
    with pytest.raises(InputError, match="'definition', 'cpu', 'cuda'"), gpu4d.using("fast"):
        pass


def test_limits_are_asked_before_there_are_arrays(halve, need):
    """`kind_for` says what a call will take: by dtype, by library and device, and by what is forced."""
    assert halve.kind_for("float32") == halve.kind_for(np.uint16) == halve.kind_for(np.dtype("float64")) == "cpu"
    assert halve.kind_for("float16") == halve.choose(np.zeros(1, "float16")) == "definition"
    strict = need("array_api_strict")
    assert halve.kind_for(strict.float64, strict.asarray([])) == "definition"
    with gpu4d.using("definition"):
        assert halve.kind_for("float32") == "definition"


def test_limits_of_a_twin():
    twin = operation.Twin("module", operation.KERNEL_PIXELS, frame=10_000, longest={"uint32": 100})
    assert twin.refuses("uint16", (7, 999, 10)) is None and twin.refuses("uint32", (100, 99)) is None
    for dtype, shape, why in (
        ("uint16", (1, 100, 100), "less than 10000"),
        ("int64", (2, 2), "not int64"),
        ("uint32", (101, 2), "not 101"),
    ):
        assert why in twin.refuses(dtype, shape)


def test_pixels_of_kernels_are_those_the_sources_are_instantiated_for():
    from gpu4d.kernels.pixels import SUFFIX

    assert tuple(SUFFIX) == operation.KERNEL_PIXELS


def test_stepping_aside_is_said_once(halve, caplog):
    with caplog.at_level("INFO", logger="gpu4d"):
        for _ in range(2):
            assert halve(np.asarray([2.0]), refuse=True).tolist() == [1.0]
    assert [r.getMessage() for r in caplog.records] == ["halve: the definition runs, because refuse is set"]


def test_gradients_and_tracers_take_the_definition(halve, need):
    torch = need("torch")
    x = torch.tensor([2.0], requires_grad=True)
    y = halve(x)
    y.sum().backward()
    assert x.grad.tolist() == [0.5]
    assert halve(torch.tensor([2.0])).tolist() == [2.0]


def test_jit_takes_the_definition(halve, need):
    jax = need("jax")
    assert float(jax.jit(halve)(jax.numpy.asarray([2.0]))[0]) == 1.0


def test_mixed_libraries_and_devices_are_refused(halve, need):
    strict = need("array_api_strict")
    with pytest.raises(InputError, match="different libraries"):
        halve(np.asarray([1.0]), refuse=strict.asarray([1.0]))
    with pytest.raises(InputError, match="different devices"):
        halve(strict.asarray([1.0]), refuse=strict.asarray([1.0], device=strict.Device("device1")))
    with pytest.raises(InputError, match="no array"):
        halve([1.0])


def test_cpu_twins_do_not_hold_the_lock(checkout: Path):
    """Reader and compute threads overlap only if every numba function lets go of the interpreter's lock."""
    for one in operation.all_operations().values():
        if "cpu" in one.twins:
            one.implementation("cpu")
    assert len(ENTRIES) > 20 and all(made.targetoptions["nogil"] for made in ENTRIES.values())
    for file in (checkout / "cpu_fallback").glob("*.py"):
        assert "njit" not in file.read_text(), f"{file.name}: gpu4d.compiled says how a function is compiled"


def test_threads_wait_for_a_twin_that_another_one_imports(tmp_path):
    """In a process of its own: the twin's module is slow to import, and two threads ask for it at once."""
    (tmp_path / "slow_twin.py").write_text("import time\ntime.sleep(0.3)\ndef doubled(x): return 2 * x\n")
    code = """
import threading, time
from gpu4d.operation import Twin, operation
@operation(cpu=Twin("slow_twin"))
def doubled(x): return 2 * x
found = []
threads = [threading.Thread(target=lambda: found.append(doubled.implementation("cpu")(2))) for _ in range(2)]
for thread in threads:
    thread.start()
    time.sleep(0.05)
for thread in threads:
    thread.join()
print(found)
"""
    environment = importing()
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "[4, 4]\n", done.stderr
