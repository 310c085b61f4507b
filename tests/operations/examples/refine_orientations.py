"""Example inputs of `refine_orientations`: a cubic lattice in known orientations, candidates a little off."""

import numpy as np
from operations.comparing import Example

G = np.array([(h, k, l) for h in range(-3, 4) for k in range(-3, 4) for l in range(-3, 4) if (h, k, l) != (0, 0, 0)]) / 4.0
FACTOR = 1 / (1 + np.sum(G * G, axis=-1))
NUMBERS = {
    "wave_number": 40.0, "thickness": 30.0, "radius": 0.06, "reach": 0.1, "least": 0.02, "q_max": 0.8, "q_min": 0.1, "unit": 0.05,
    "relative": 0.1,
}  # fmt: skip


def _turns(rng, n):
    q = rng.normal(size=(n, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=-1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
    ]
    rows.append([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])
    return np.moveaxis(np.array(rows), -1, 0)


def _peaks(turns, most):
    table, counts = np.ones((len(turns), most, 5)), np.zeros(len(turns), np.int64)
    for b, turn in enumerate(turns):
        lab = G @ turn.T
        s = np.sqrt(1600 - lab[:, 0] ** 2 - lab[:, 1] ** 2) - 40 - lab[:, 2]
        intensity = 30 * FACTOR**2 * np.sinc(30 * s) ** 2
        strong = np.argsort(-intensity)[:most]
        strong = strong[intensity[strong] > 0.02]
        counts[b], m = len(strong), intensity[strong]
        table[b, : len(strong)] = np.stack([*lab[strong, :2].T, m, 0.05 * m + 0.01 * m * m, np.full(len(m), 0.003)], -1)
    return table, counts


def examples() -> list[Example]:
    rng = np.random.default_rng(6)
    truth = _turns(rng, 5)
    peaks, counts = _peaks(truth, 12)
    off = np.eye(3) + np.cross(np.eye(3)[None, None], 0.004 * rng.normal(size=(5, 3, 1, 3)))
    candidates = np.linalg.qr(off)[0]
    candidates = candidates * np.sign(np.diagonal(candidates, axis1=-2, axis2=-1))[..., None, :] @ truth[:, None]
    candidates[2, 1] = np.nan  # no candidate
    counts[3] = 0  # no peaks
    arrays = candidates, peaks, counts, G, FACTOR
    twin = (1e-6, 1e-6, 1e-6, 1e-5, 1e-5)
    none = candidates[:0], peaks[:0], counts[:0], G, FACTOR
    return [
        Example("near", arrays, {**NUMBERS, "steps": 4}, double=1e-7, twin=twin),
        Example("rough first", arrays, {**NUMBERS, "rough": 2, "steps": 3}, double=1e-7, twin=twin),
        Example("cost alone", arrays, {**NUMBERS, "steps": 0}, double=1e-9),
        Example("no patterns", none, {**NUMBERS, "steps": 1}),
    ]
