"""Results of the benchmark suite without a run: complete files by the published form, with samples drawn at random."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from gpu4d.benchmarks.suite import data, score, statistics, workloads
from gpu4d.benchmarks.suite.result import own_hash
from gpu4d.benchmarks.suite.workload import QUICK, TIERS, Workload

# key: title, part, unit, amount of a call, detector pixels a side, moved, bytes, rate, flops, seconds at speed 1, other floors
WORKLOADS: dict[str, tuple[str, str, str, int, int, str, float, str, float, float, dict[str, float]]] = {
    "one-pass": ("reductions in one pass", "Bandwidth", "patterns", 4096, 128, "copy", 1.3e8, "fft", 0.0, 0.024, {"read": 1.3e8}),
    "masks-64": ("64 masks", "Compute", "patterns", 1024, 128, "copy", 3.4e7, "gemm", 2.1e9, 0.080, {}),
    "bragg-disks": ("hybrid correlation and peaks", "Compute", "patterns", 256, 128, "copy", 8.4e6, "fft", 6.0e8, 0.210, {}),
    "refine-disks": ("refinement of disks", "Compute", "disks", 4096, 128, "copy", 2.0e6, "gemm", 5.0e8, 0.150, {}),
    "lattice-fit": ("lattice fit", "Compute", "patterns", 4096, 128, "copy", 8.0e5, "gemm", 1.0e7, 0.012, {}),
    "orientation": ("orientation matching", "Compute", "patterns", 64, 128, "copy", 1.0e6, "fft", 8.0e8, 0.300, {}),
    "radial-sums": ("radial sums", "Bandwidth", "patterns", 4096, 128, "copy", 1.3e8, "gemm", 6.7e7, 0.060, {}),
    "ssb": ("single side band", "Compute", "positions", 4096, 64, "copy", 6.7e7, "fft", 1.2e9, 0.250, {}),
    "wdd": ("Wigner distribution deconvolution", "Compute", "positions", 4096, 64, "copy", 1.4e8, "fft", 3.0e9, 0.600, {}),
    "poisson-solve": ("Poisson equation", "Bandwidth", "positions", 262144, 1, "copy", 4.2e6, "fft", 1.9e7, 0.015, {}),
    "counting": ("electron counting", "Bandwidth", "patterns", 64, 512, "copy", 3.4e7, "gemm", 1.0e7, 0.110, {}),
    "decode-lz4": ("bitshuffle-LZ4 decoding", "Bandwidth", "patterns", 512, 256, "copy", 1.0e8, "gemm", 0.0, 0.090, {}),
    "stream": ("sweep over patterns of the host", "Transfer", "patterns", 8192, 128, "read", 2.7e8, "gemm", 0.0, 0.070, {}),
    "disk-cold": ("sweep from a cold file", "Disk", "patterns", 8192, 128, "disk_cold", 2.7e8, "gemm", 0.0, 0.400, {}),
    "file-to-strain": ("file to strain maps", "End-to-end", "patterns", 256, 128, "disk_warm", 8.4e6, "fft", 6.0e8, 0.450, {}),
}
PRECISION = {"refine-disks": (0.021, 0.019, "px"), "orientation": (0.11, 0.10, "°")}  # scatter, bound, unit
ATTAINABLE = {  # title, unit, value at speed 1, amount of a call
    "copy": ("copy in memory", "B/s", 1.1e10, 1.3e8),
    "read": ("reading memory", "B/s", 1.5e10, 1.3e8),
    "fft": ("batched real FFTs, single precision", "flop/s", 8.0e9, 7.3e7),
    "gemm": ("matrix product, single precision", "flop/s", 1.2e11, 2.7e8),
    "gemm64": ("matrix product, double precision", "flop/s", 6.0e10, 2.7e8),
    "disk_cold": ("disk, cold", "B/s", 1.2e9, 2.7e8),
    "disk_warm": ("disk, warm", "B/s", 6.0e9, 2.7e8),
}
PASSES, CALLS = 3, 5
REFERENCE = {  # in place of the one that is shipped
    "suite": 1, "machine": "2 × Test CPU", "made": "2026-12-01",
    "tiers": {
        tier: {key: {"seconds": row[9], "amount": row[3], "scatter": PRECISION.get(key, (None,))[0], "runs": 5}
               for key, row in WORKLOADS.items()}
        for tier in TIERS
    },
}  # fmt: skip


def all_workloads() -> dict[str, Workload]:
    """Return workloads that stand in for those of the suite. Their inputs have the digests that results of this module say."""

    def make(key: str, seed: int) -> Any:
        return SimpleNamespace(data=_data(key, seed), close=None)

    return {
        key: Workload(
            key, row[0], row[1], row[2], dict.fromkeys((*TIERS, QUICK), _size(key)), lambda _place, _size, seed, key=key: make(key, seed)
        )
        for key, row in WORKLOADS.items()
    }


few_draws = functools.partial(statistics.bootstrap, draws=100)  # intervals of scores are rougher, and tests take a tenth of the time


@pytest.fixture
def known_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the suite have the workloads and the reference of this module."""
    monkeypatch.setattr(score, "reference", lambda: REFERENCE)
    monkeypatch.setattr(score, "bootstrap", few_draws)
    monkeypatch.setattr(workloads, "all_workloads", all_workloads)


def result(
    seed: int = data.SEED,
    speed: float = 1.0,
    *,
    label: str = "2 × Test CPU",
    tier: str = "S",
    noise: float = 0.004,
    faster: dict[str, float] | None = None,
    skipped: Iterable[str] = (),
    failed: Iterable[str] = (),
    draw: int = 0,
) -> dict[str, Any]:
    """Return a whole valid result.

    Parameters
    ----------
    seed : int
        Of the inputs: it changes their digests.
    speed : float
        2 gives half the seconds everywhere and twice the attainable rates.
    label : str
        Of the machine.
    tier : str
    noise : float
        Relative scatter of samples.
    faster : dict of str to float, optional
        Further factors of single workloads.
    skipped, failed : iterable of str
        Keys of workloads without an answer.
    draw : int
        Seed of the samples.
    """
    rng = np.random.default_rng((draw, *label.encode()))
    attainable = {name: _rate(*row, speed, rng) for name, row in ATTAINABLE.items()}
    wanted = REFERENCE["tiers"].get(tier, {})
    entries: dict[str, Any] = {}
    for key, row in WORKLOADS.items():
        if key in failed:
            entries[key] = {"title": row[0], "part": row[1], "failed": "wrong answer: error 3.00e-02, allowed 1e-06"}
        elif key in skipped:
            entries[key] = {"title": row[0], "part": row[1], "skipped": "needs 12 GB, free are 7 GB"}
        else:
            factor = speed * (faster or {}).get(key, 1.0)
            entries[key] = score.complete(_workload(key, seed, row[9] / factor, noise, rng), attainable, wanted.get(key))
    spent = sum(t for w in entries.values() for some in w.get("samples", ()) for t in some)
    made = {
        "format": "gpu4d-bench", "version": 1,
        "suite": {"tier": tier, "division": "closed", "why_open": [], "seed": seed,
                  "seed_is": "announced" if seed == data.SEED else "drawn", "passes": PASSES, "floors": PASSES, "pause_s": 0.2,
                  "only": [],
                  "order": [[str(k), i] for i in range(PASSES) for k in rng.permutation([*ATTAINABLE, *WORKLOADS])],
                  "resumed": 0, "plugins": []},
        "made": "2026-12-01T04:10:00Z", "seconds": 1.5 * spent + 5.0, "preparing_s": 12.0,
        "code": {"gpu4d": "0.1.0", "origin": "wheel", "commit": None, "changed": [], "sha256": hashlib.sha256(b"code").hexdigest()},
        "machine": {"label": label, "device": "cpu", "threads": 2, "cpu": {"name": "Test CPU", "cores": 2}, "memory": 8_000_000_000,
                    "os": "Linux", "python": "3.11.9", "packages": {"numpy": "2.1.0"}, "gpus": [], "disk": {}, "blas": {}},
        "conditions": {"before": {"load": 0.1}, "after": {"load": 1.0}, "passes": [{} for _ in range(PASSES)]},
        "attainable": attainable, "workloads": entries, "scaling": {}, "sustained": None, "peers": {}, "score": {},
    }  # fmt: skip
    return sealed(made)


def sealed(given: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a result with its score and its hash computed anew."""
    made = copy.deepcopy(given)
    with patch.object(score, "reference", lambda: REFERENCE), patch.object(score, "bootstrap", few_draws):
        made["score"] = score.score(made, {key: row[1] for key, row in WORKLOADS.items()})
    return made | {"hash": own_hash(made)}


def _size(key: str) -> dict[str, int]:
    return {WORKLOADS[key][2]: WORKLOADS[key][3], "detector": WORKLOADS[key][4]}


def _data(key: str, seed: int) -> str:
    return hashlib.sha256(f"{key} {seed}".encode()).hexdigest()[:16]


def _rate(title: str, unit: str, value: float, amount: float, speed: float, rng: np.random.Generator) -> dict[str, Any]:
    seconds = amount / (value * speed)
    samples = [[float(seconds * (1 + 0.004 * rng.standard_normal())) for _ in range(CALLS)] for _ in range(PASSES)]
    all_samples = statistics.summarise([s for some in samples for s in some])
    rates = {"value": all_samples.median, "low": all_samples.high, "high": all_samples.low}
    return {"title": title, "unit": unit, "amount": amount, "samples": samples, **{name: amount / s for name, s in rates.items()}}


def _workload(key: str, seed: int, seconds: float, noise: float, rng: np.random.Generator) -> dict[str, Any]:
    title, part, unit, amount, _, moved, moved_bytes, rate, flops, _, more = WORKLOADS[key]
    scatter, bound, of = PRECISION.get(key, (None, None, ""))
    return {
        "title": title, "part": part, "unit": unit, "amount": amount, "size": _size(key), "data": _data(key, seed),
        "answer": hashlib.sha256(key.encode()).hexdigest(),
        "implementation": "cpu",
        "check": {"error": 1e-7, "tolerance": 1e-6, "values": 4096, "oracle": "sums of NumPy in float64", "scatter": scatter,
                  "bound": bound, "unit": of},
        "samples": [[float(seconds * (1 + noise * abs(rng.standard_normal()))) for _ in range(CALLS)] for _ in range(PASSES)],
        "between": [{} for _ in range(PASSES)], "bytes": moved_bytes, "flops": flops, "moved": moved, "rate": rate, "more": more,
        "peak_memory": 300e6, "cache": "device memory", "energy_j": None,
    }  # fmt: skip
