"""Iterative DPC, converged: `DPC.reconstruct`.

py4DSTEM repeats x ← x + s F(x), where F is affine: the integral of what the gradient of x lacks. It stops after `max_iter`, usually long
before the slow components are there. Here F(x) = 0 is solved by GMRES with py4DSTEM's own F. From the same start this stays in the space
of its iterations, so it ends where they would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, gmres

from gpu4d.interop.py4dstem._library import library
from gpu4d.interop.py4dstem._replacing import Given, Place, Replacement, set_options

TOLERANCE = 1e-6  # of the residual F(x); py4DSTEM computes in float32
RESTART, ROUNDS = 40, 3  # evaluations of F between restarts of GMRES, and restarts
NO_STEP = np.inf  # an error that every step is better than, so that F has no side effect
UNTOUCHED = {"gaussian_filter_sigma": None, "q_lowpass": None, "q_highpass": None, "store_iterations": False}


def replacements() -> Iterable[Replacement]:
    """Return what replaces the iterations. The first and the last one are py4DSTEM's, so that its errors and attributes are there."""
    yield Replacement(Place(library("py4DSTEM.process.phase").DPC, "reconstruct"), _refuses, _converged)


def _refuses(given: Given) -> str | None:
    reason = set_options(given, UNTOUCHED)
    if reason is None and (given["device"] == "gpu" or given["self"]._device != "cpu"):
        reason = "the reconstruction is on a GPU"
    if reason is None and getattr(given["self"], "_com_x", None) is None:
        reason = "preprocess was not called"
    return reason or (None if given["max_iter"] > 2 else "max_iter is at most 2")


def _converged(own: Callable[..., Any], given: Given) -> Any:
    found = given["self"]
    own(**{**given, "max_iter": 1, "progress_bar": False})
    shape, scan = found._padded_object_phase.shape, found._com_x.shape
    inside = np.zeros(shape, bool)
    inside[: scan[0], : scan[1]] = True

    def lacking(x: np.ndarray) -> np.ndarray:
        dx, dy, *_ = found._forward(x.reshape(shape).astype(np.float32), inside, ~inside, NO_STEP, 0.5)
        return np.asarray(found._adjoint(dx, dy, found._kx_op, found._ky_op), dtype=np.float64).reshape(-1)

    start = lacking(np.zeros(inside.size))
    linear = LinearOperator((inside.size, inside.size), matvec=lambda x: lacking(x) - start, dtype=np.float64)  # type: ignore[call-overload]
    x0 = np.asarray(found._padded_object_phase, dtype=np.float64).reshape(-1)
    x, _ = gmres(linear, -start, x0=x0, rtol=TOLERANCE, atol=0.0, restart=RESTART, maxiter=ROUNDS)
    found._padded_object_phase = x.reshape(shape).astype(np.float32)
    return own(**{**given, "reset": False, "max_iter": 1, "progress_bar": False})
