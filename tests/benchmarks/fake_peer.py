"""A peer for tests: multiplies numbers. Started by tests/benchmarks/test_suite_peers.py in the interpreter of the tests."""

import os

import numpy as np
from serve import serve


def times(folder, factor, more=0.0):
    numbers = np.load(folder / "numbers.npy")
    return lambda: numbers * factor + more, lambda found: {"product": found, "threads": np.asarray(os.environ.get("OMP_NUM_THREADS", ""))}


def dies(folder, more):
    return (lambda: os._exit(3)), None


serve({"times": times, "dies": dies}, lambda: {"fake": "1.2", "numpy": np.__version__})
