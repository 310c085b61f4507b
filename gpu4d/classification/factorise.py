"""Factorise features into weights and profiles of classes, by scikit-learn."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number

ROUNDS = 300  # of the factorisation, at most
SMALL = 1e-6  # of the largest: a start of 0 would stay 0
TOLERANCE = 1e-4  # relative change of the misfit at which it ends


@on_host("curve")
def factorise(features: ArrayLike, classes: int, *, start: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Factorise features X into non-negative weights and profiles, X ≈ W H.

    Host by design, because scikit-learn works there. Columns are divided by the root of their mean first: Poisson noise is then the same
    in all. The profiles are in the units of the features.

    Parameters
    ----------
    features : (N, F) real
        Counts or intensities, not negative.
    classes : int
    start : (classes, F) array, optional
        First profiles, as `cooccurrence_seeds` makes them. None: by scikit-learn, from singular vectors.

    Returns
    -------
    weights : (N, classes) float64
    profiles : (classes, F) float64

    Raises
    ------
    InputError
        Negative or missing values, or scikit-learn is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> mix = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]) @ np.array([[8.0, 1.0, 1.0], [1.0, 1.0, 8.0]])
    >>> weights, profiles = factorise(mix, 2)
    >>> bool(np.allclose(weights @ profiles, mix, rtol=1e-2))
    True
    """
    values = real_values(features, "features", "features of every pattern, (N, F)").astype(np.float64)
    count = real_number(classes, "classes", whole=True)
    if values.ndim != 2 or not 1 <= count <= min(values.shape) or not np.isfinite(values).all() or (values < 0).any():
        raise InputError(
            f"features is {values.shape} for classes={classes}: need finite values (N, F), not negative, and 1 to min(N, F) classes"
        )
    root = np.sqrt(np.maximum(values.mean(0), SMALL * max(float(values.mean()), 1e-300)))
    scaled = values / root
    options: dict[str, Any] = {"init": "nndsvda", "random_state": 0}
    model = scikit_learn("decomposition").NMF
    if start is None:
        fit = model(count, max_iter=ROUNDS, tol=TOLERANCE, **options)
        weights = _quietly(fit, scaled)
        return weights, fit.components_ * root
    first = real_values(start, "start", "profiles, (classes, F)").astype(np.float64)
    if first.shape != (count, values.shape[1]):
        raise InputError(f"start is {first.shape}: need {(count, values.shape[1])}, a profile for each class")
    profiles = np.maximum(first / root, SMALL * max(float(first.max()), 1e-300))
    guess = np.maximum(scaled @ np.linalg.pinv(profiles), SMALL * max(float(scaled.max()), 1e-300))
    fit = model(count, init="custom", max_iter=ROUNDS, tol=TOLERANCE)
    weights = _quietly(fit, scaled, W=guess, H=profiles)
    return weights, fit.components_ * root


def _quietly(model: Any, scaled: np.ndarray, **start: np.ndarray) -> np.ndarray:
    """Fit without a warning if the last round was reached: statistics judge the result afterwards."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scikit_learn("exceptions").ConvergenceWarning)
        return model.fit_transform(scaled, **start)


def scikit_learn(module: str) -> Any:
    """Return a module of scikit-learn, or say how it is installed."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError:
        raise InputError("classification needs scikit-learn: pip install 'gpu4d[classify]'") from None
