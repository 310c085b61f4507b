"""The array libraries that every operation is tried on."""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from operations.comparing import Example


@dataclass(frozen=True)
class Library:
    """An array library, how an input gets there, and which twin its arrays take where there is one."""

    name: str
    module: str
    make: Callable[[Any, np.ndarray], Any]  # (module, NumPy array) -> array
    twin: str | None = None
    marks: tuple = ()
    definitions: int | None = None  # examples of every operation that its definition is run on; None: all
    twins: int | None = None  # examples that its twin is run on


def _read_only(xp: Any, a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.setflags(write=False)
    return a


def _jax_on_cpu(xp: Any, a: np.ndarray) -> Any:
    jax = importlib.import_module("jax")
    return jax.device_put(a, jax.devices("cpu")[0])  # where there is a GPU, it would be the default


def _torch_on_cuda(torch: Any, a: np.ndarray) -> Any:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return torch.from_numpy(a.copy()).to("cuda")


def _jax_on_cuda(xp: Any, a: np.ndarray) -> Any:
    jax = importlib.import_module("jax")
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError as error:
        pytest.skip(f"JAX finds no CUDA device: {error}")
    return jax.device_put(a, device)


LIBRARIES = [
    Library("numpy", "numpy", lambda xp, a: a.copy(), "cpu"),
    Library("numpy-readonly", "numpy", _read_only, "cpu", definitions=0, twins=2),  # on "numpy" one that writes into its arguments fails
    Library("strict", "array_api_strict", lambda xp, a: xp.asarray(a), definitions=1),  # the second device is stricter
    Library("strict-device1", "array_api_strict", lambda xp, a: xp.asarray(a, device=xp.Device("device1"))),
    Library("torch", "torch", lambda xp, a: xp.from_numpy(a.copy()), "cpu"),
    Library("jax", "jax.numpy", _jax_on_cpu, "cpu", definitions=1),  # it compiles every shape anew: minutes for all of them
    Library("cupy", "cupy", lambda xp, a: xp.asarray(a), "cuda", (pytest.mark.gpu,)),
    Library("torch-cuda", "torch", _torch_on_cuda, "cuda", (pytest.mark.gpu,)),
    Library("jax-cuda", "jax.numpy", _jax_on_cuda, "cuda", (pytest.mark.gpu,)),
]


def strictest(library: Library, xp: Any, example: Example) -> contextlib.AbstractContextManager:
    """Refuse boolean-mask indexing and shapes that depend on values, where the library can."""
    if library.module != "array_api_strict" or example.shapes_depend_on_values:
        return contextlib.nullcontext()
    return xp.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False)
