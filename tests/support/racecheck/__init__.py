"""Checks CUDA kernels for races without a GPU: runs them on the host shim and asks of every two accesses to the same bytes whether
anything orders them on a GPU. `docs/reference/kernels.md` says what it sees and what not.

    PYTHONPATH=tests:tests/support python -m racecheck --help
"""

from racecheck.backend import Found, RaceBackend

__all__ = ["Found", "RaceBackend"]
