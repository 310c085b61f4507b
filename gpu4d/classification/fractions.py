"""Measure the share of every class at every position, with its standard error, from Poisson counts."""

from __future__ import annotations

import numpy as np

from gpu4d.classification.features import Features, summed
from gpu4d.classification.totals import Totals

ROUNDS = 60  # of the maximum-likelihood iteration, at most; each makes three steps
CHANGE = 3e-4  # of a share in a round, at which it ends: a hundredth of usual standard errors
FARTHEST = 64.0  # steps that are extrapolated at once
SMALL = 0.01  # of a share: an extrapolation does not go below
TINY = 1e-12  # counts
BLOCK = 2048  # positions at once: their columns stay in the cache
TRIED = 4096  # positions on which smoothings are compared
SHOWN = 4.0  # standard errors by which a class shows a spot
ABOVE = 0.3  # of the diffuse counts under a spot: less may be the unevenness of a halo
FAINT = 0.15  # of the brightest class: a class that is fainter in a spot does not show it
PURE = 0.9  # 3 × 3 positions together with so much of a class lie in pure ones; a single position would be chosen by its noise
LEAST = 10  # pure positions that a class needs, else it keeps its profile
REFINED = 3  # times that profiles are measured again in pure positions
EMPTY = 0.2  # of the counts of the brightest class: a class with fewer is measured as if it had so many
BLURS = (0.0, 0.4, 0.6, 0.8, 1.0, 1.4)  # positions: standard deviations of smoothing that are tried


def shown_spots(sums: Totals) -> np.ndarray:
    """Return which pairs every class shows, (J, M) bool: well above the diffuse scattering, and not much fainter than elsewhere."""
    net, noise = sums.net, np.sqrt(sums.pairs + sums.background / 2 + 1)
    rate = net / np.maximum(sums.positions, 1e-300)[:, None]
    return (net > SHOWN * noise) & (net > ABOVE * sums.background) & (rate > FAINT * rate.max(0, initial=0.0))


def groups(shown: np.ndarray, rings: int) -> np.ndarray:
    """Return the group of every column, (M + D,) int: pairs that the same classes show, and diffuse rings, each for itself.

    Sums over spots of the same classes are what tells classes apart. Bending changes ratios inside a group, and its sum little.
    """
    signature = shown.T @ (2.0 ** np.arange(len(shown)))
    return np.unique(np.concatenate([signature, -1.0 - np.arange(rings)]), return_inverse=True)[1]


def shares(rows: np.ndarray, profiles: np.ndarray) -> np.ndarray:
    """Return the non-negative weights (N, J) that make counts (N, G) most probable, given profiles (J, G), for Poisson noise.

    w ← w · (H (x / (w H))) / Σ H raises the likelihood in every round (Richardson 1972, Lucy 1974; non-negative matrix factorisation with
    fixed profiles). Two rounds are extrapolated (Varadhan and Roland, Scand. J. Statist. 35 (2008) 335), where that raises it too.
    """
    used = profiles.sum(1) > 0
    out = np.zeros((len(rows), len(profiles)))
    if used.any():
        for start in range(0, len(rows), BLOCK):
            out[start : start + BLOCK, used] = _most_probable(rows[start : start + BLOCK], profiles[used])
    return out


def _most_probable(x: np.ndarray, profiles: np.ndarray) -> np.ndarray:
    """Return the weights of `shares` for profiles of which none is empty. Rows that stand still are left out of further rounds."""
    total = profiles.sum(1)

    def improved(w: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return w * ((counts / np.maximum(w @ profiles, TINY)) @ profiles.T) / total

    def likelihood(w: np.ndarray, counts: np.ndarray) -> np.ndarray:
        model = np.maximum(w @ profiles, TINY)
        return (counts * np.log(model) - model).sum(1, keepdims=True)

    weights = np.repeat(x.sum(1, keepdims=True) / total.sum(), len(profiles), axis=1)
    moving = np.arange(len(x))
    for _ in range(ROUNDS):
        counts, start = x[moving], weights[moving]
        first = improved(start, counts)
        second = improved(first, counts)
        step, bend = first - start, second - 2 * first + start
        reach = np.sqrt((step**2).sum(1, keepdims=True) / np.maximum((bend**2).sum(1, keepdims=True), TINY))
        reach = np.clip(reach, 1.0, FARTHEST)
        far = improved(np.maximum(start + 2 * reach * step + reach**2 * bend, SMALL * second), counts)
        weights[moving] = np.where(likelihood(far, counts) >= likelihood(second, counts), far, second)
        moving = moving[np.abs(weights[moving] - start).max(1) > CHANGE]
        if not len(moving):
            break
    return weights


def smoothed_shares(features: Features, rows: np.ndarray, profiles: np.ndarray, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of every class (N, J) from smoothed counts (N, G), and their standard errors.

    Smoothing lowers the noise and moves shares at borders. What it moves grows with the square of its width, so the difference to √2
    times the width is as large as the error of the width itself. It is added to the standard error.
    """
    weights = shares(features.smoothed(rows, blur), profiles)
    share, error = normalised(weights), standard_errors(weights, profiles, variance_gain(blur))
    if blur > 0:
        moved = normalised(shares(features.smoothed(rows, blur * 2**0.5), profiles)) - share
        error = np.sqrt(error**2 + moved**2)
    return share, error


def standard_errors(weights: np.ndarray, profiles: np.ndarray, gain: float) -> np.ndarray:
    """Return standard errors (N, J) of the normalised weights, from the Fisher information of Poisson counts.

    The information of position p is Σ_g H_jg H_kg / m_pg, with the expected counts m. `gain` is by how much smoothing lowers the
    variance.
    """
    some = profiles.sum(1) > 0
    if not some.any():
        return np.zeros_like(weights)
    own, known = profiles[some], weights[:, some]
    model = np.maximum(known @ own, 0.5)  # half a count: an empty group still says that little is there
    outer = np.einsum("jg,kg->gjk", own, own).reshape(own.shape[1], -1)
    information = ((1.0 / model) @ outer).reshape(-1, len(own), len(own))
    size = np.sqrt(np.einsum("pjj->pj", information))
    both = size[:, :, None] * size[:, None, :]
    covariance = np.linalg.inv(information / both + 1e-9 * np.eye(len(own))) / both
    total = known.sum(1)
    total = np.where(total > 0, total, np.nan)
    share = known / total[:, None]
    slope = (np.eye(len(own))[None] - share[:, :, None]) / total[:, None, None]
    out = np.zeros_like(weights)
    out[:, some] = np.sqrt(np.maximum(np.einsum("pij,pjk,pik->pi", slope, covariance, slope), 0.0) * gain)
    return out


def comparable(profiles: np.ndarray) -> np.ndarray:
    """Return profiles (J, G) of which none has much fewer counts than the brightest.

    A position of vacuum has few counts. In units of such a position, the background of a thin crystal would be most of it.
    """
    total = profiles.sum(1)
    least = EMPTY * float(total.max(initial=0.0))
    return profiles * (np.maximum(total, least) / np.where(total > 0, total, 1.0))[:, None]


def normalised(weights: np.ndarray) -> np.ndarray:
    """Return weights with the sum 1 at every position; NaN without counts."""
    total = weights.sum(1, keepdims=True)
    return weights / np.where(total > 0, total, np.nan)


def pure_profiles(features: Features, sums: Totals) -> tuple[np.ndarray, np.ndarray]:
    """Measure the counts of pure positions of each class.

    Returns
    -------
    profiles : (J, M + D) float64
        Mean counts of a pure position.
    weights : (N, J) float64
        Which positions are pure; of a class with fewer than ten, its share where it is the largest.
    """
    rows, shown = features.columns, shown_spots(sums)
    profiles = np.concatenate([sums.pairs, sums.diffuse], axis=1) / np.maximum(sums.positions, 1e-300)[:, None]
    group = groups(shown, features.diffuse.shape[1])

    def grouped(columns: np.ndarray) -> np.ndarray:
        return summed(columns, group)

    smooth = grouped(features.smoothed(rows))
    pure = np.zeros((len(rows), len(profiles)))
    for _ in range(REFINED):
        around = normalised(shares(smooth, comparable(grouped(profiles))))
        pure = (around > PURE).astype(np.float64)
        enough = pure.sum(0) >= LEAST
        measured = (pure.T @ rows) / np.maximum(pure.sum(0), 1)[:, None]
        profiles = np.where(enough[:, None], measured, profiles)
    share = np.nan_to_num(normalised(shares(grouped(rows), comparable(grouped(profiles)))))
    largest = np.where(np.argmax(share, axis=1)[:, None] == np.arange(len(profiles)), share, 0.0)
    return profiles, np.where(pure.sum(0) >= LEAST, pure, largest)


def best_blur(features: Features, rows: np.ndarray, profiles: np.ndarray) -> float:
    """Return the smoothing, in positions, that predicts counts best.

    Every count is put into one of two halves by chance, which makes two independent scans of half the dose. The shares of one half,
    smoothed, predict the other. The smoothing with the largest likelihood is taken: none where neighbours differ and counts are many,
    more where counts are few.
    """
    rng = np.random.default_rng(0)
    first = rng.binomial(np.rint(rows).astype(np.int64), 0.5).astype(np.float64)
    halves = (first, np.rint(rows) - first)
    few = np.sort(rng.permutation(len(rows))[:TRIED])
    scores = []
    for blur in BLURS:
        score = 0.0
        for seen, hidden in (halves, halves[::-1]):
            model = np.maximum(shares(features.smoothed(seen, blur)[few], profiles) @ profiles, TINY)
            score += float((hidden[few] * np.log(model) - model).sum())
        scores.append(score)
    return BLURS[int(np.argmax(scores))]


def variance_gain(blur: float) -> float:
    """Return by how much a Gaussian of `blur` positions lowers the variance of independent values."""
    if blur <= 0:
        return 1.0
    x = np.exp(-0.5 * (np.arange(-8, 9) / blur) ** 2)
    return float((x**2).sum() / x.sum() ** 2) ** 2
