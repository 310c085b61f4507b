"""The workloads of the suite, by what they need of gpu4d."""

from __future__ import annotations

from gpu4d.benchmarks.suite.workload import Workload
from gpu4d.benchmarks.suite.workloads import (
    bragg,
    counting,
    decode,
    disk,
    end_to_end,
    integration,
    lattice,
    masks,
    orientation,
    phase,
    radial,
    reductions,
)

MODULES = (
    reductions,
    masks,
    radial,
    bragg,
    lattice,
    orientation,
    phase,
    integration,
    counting,
    disk,
    decode,
    end_to_end,
)


def all_workloads() -> dict[str, Workload]:
    """Return all workloads by key, in the order in which they are listed."""
    return {workload.key: workload for module in MODULES for workload in module.WORKLOADS}
