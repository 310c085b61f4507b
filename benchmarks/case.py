"""What a timed call of an operation is: its inputs, and the bytes and flops that no implementation can do without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One timed call of an operation.

    Attributes
    ----------
    operation : str
    label : str
        Sizes, for people.
    make : callable
        Of a number of patterns: host arguments and options of the call.
    patterns : (int, int)
        On the CPU and on a GPU.
    bytes, flops : callable
        Of host arguments: least bytes moved and flops made, both in proportion to the patterns.
    check : int
        Patterns whose answer is compared with the definition in float64.
    sliced : tuple of int
        Arguments whose first axis is patterns: these are repeated.
    different : int
        Patterns that `make` is asked for, at most.
    tolerance : float
        Largest error over the largest value of each part of the answer.
    rate : {"fft", "gemm"}
        Of `Floors`: what flops are made at, at best. FFTs move data; what is arithmetic alone is held against matrix products.
    call : callable, optional
        What is timed in place of the operation, with the same arguments. Inside `using("definition")` it is its own reference.
    gpu_only : bool
        It differs from another case on a GPU alone.
    least : int
        Patterns below which the call has no meaning.
    moved : tuple of str
        Options that are arrays which the operation takes where its patterns are.
    """

    operation: str
    label: str
    make: Callable[[int], tuple[tuple, dict]]
    patterns: tuple[int, int]
    bytes: Callable[..., float]
    flops: Callable[..., float] = field(default=lambda *_a, **_o: 0.0)
    check: int = 8
    sliced: tuple[int, ...] = (0,)
    tolerance: float = 1e-4
    rate: str = "fft"
    different: int = 64
    call: Callable[..., Any] | None = None
    gpu_only: bool = False
    least: int = 1
    moved: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.operation} {self.label}"

    def inputs(self, n: int) -> tuple[tuple, dict]:
        """Host arguments of few patterns, from which `repeated` makes n."""
        return self.make(min(n, self.different) if self.sliced else n)

    def repeated(self, args: tuple, n: int, xp: Any) -> list:
        """The arguments as arrays of `xp` and of n patterns: what is few goes there, what is large is made there."""
        there = [xp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        for i in self.sliced:
            times = -(-n // len(there[i]))
            there[i] = there[i] if times == 1 else xp.tile(there[i], (times,) + (1,) * (there[i].ndim - 1))[:n]
        return there

    def share(self, n: int) -> float:
        """How many times the bytes and flops of `inputs(n)` the n patterns take."""
        return max(1.0, n / self.different) if self.sliced else 1.0
