"""Start classes from patterns that share Bragg disks, as the guide does."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number

SAMPLE = 2000  # patterns whose pairs are compared: a million pairs show all classes that have a hundredth of the scan
SHARED = 0.7  # of the reflections of a class, which a pattern must share to be added to it
OWN = 0.5  # of its patterns must show a reflection of a class
LEAST = 2  # reflections that a pair of patterns must share: one and its mate


@on_host("curve")
def cooccurrence_seeds(present: ArrayLike, features: ArrayLike, classes: int, *, shared: float = SHARED) -> np.ndarray:
    """Start classes from pairs of patterns that share most reflections.

    The pair that shares most starts a class. Patterns are added whose reflections agree with those of the class by at least `shared`:
    the number in common, divided by that of either. The reflections of a class are those of half its patterns. Then the next class
    starts from the patterns that are left. This is the guide's initialisation (section 9.2), after Savitzky et al., Microsc. Microanal.
    27 (2021) 712. If the patterns are used up, further classes start from those that differ most from all before.

    Parameters
    ----------
    present : (N, K) bool
        Whether every pattern shows every reflection.
    features : (N, F) real
        What the classes are the means of: intensities or counts.
    classes : int
    shared : float
        Between 0 and 1.

    Returns
    -------
    (classes, F) float64
        Mean features of the patterns of each class. They start `factorise`.

    Examples
    --------
    >>> import numpy as np
    >>> shown = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
    >>> cooccurrence_seeds(shown, 5.0 * shown, 2).tolist()
    [[5.0, 5.0, 0.0, 0.0], [0.0, 0.0, 5.0, 5.0]]
    """
    shown = real_values(present, "present", "one bool for each pattern and reflection, (N, K)").astype(bool)
    values = real_values(features, "features", "features of every pattern, (N, F)").astype(np.float64)
    count = real_number(classes, "classes", whole=True)
    if shown.ndim != 2 or values.ndim != 2 or len(shown) != len(values) or len(shown) < count or count < 1:
        raise InputError(f"present is {shown.shape}, features {values.shape}, classes={classes}: need (N, K), (N, F), and 1 to N classes")
    if len(shown) > SAMPLE:
        few = np.sort(np.random.default_rng(0).choice(len(shown), SAMPLE, replace=False))
        shown, values = shown[few], values[few]
    ours = shown.astype(np.float64)
    left = np.ones(len(shown), bool)
    seeds: list[np.ndarray] = []
    while len(seeds) < count and left.sum() > 1:
        number = np.flatnonzero(left)
        together = ours[number] @ ours[number].T
        np.fill_diagonal(together, 0)
        i, j = np.unravel_index(np.argmax(together), together.shape)
        if together[i, j] < LEAST:
            break
        members = _grown(ours[number], ours[number[i]] * ours[number[j]], shared)
        members[[i, j]] = True
        seeds.append(values[number[members]].mean(0))
        left[number[members]] = False
    if not seeds:
        seeds.append(values.mean(0))
    while len(seeds) < count:
        near = np.min([((values - seed) ** 2).sum(1) for seed in seeds], axis=0)
        seeds.append(values[int(np.argmax(near))])
    return np.array(seeds)


def _grown(ours: np.ndarray, own: np.ndarray, shared: float) -> np.ndarray:
    """Add patterns to a class that shows the reflections `own` (K,), until no more come, (N,) bool."""
    members = np.zeros(len(ours), bool)
    for _ in range(20):
        common = ours @ own
        found = common >= shared * np.maximum(ours.sum(1), own.sum())
        if not found.any() or (found == members).all():
            return members | found
        members = found
        own = (ours[members].mean(0) >= OWN).astype(np.float64)
    return members
