"""Electron counting against occupancy: how many electrons are found, how many are false, and how well they are located.

Frames of a simulated detector, whose every electron is known, are counted by local maxima and by likelihood, with bad pixels, thresholds
and the charge of one electron found in the same frames. Run it again with

    python -m gpu4d.benchmarks.counting_occupancy [PICTURE.png]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import gpu4d
from gpu4d.errors import InputError
from gpu4d.preprocess import CountingSetup, Electrons, count_scan, counting_setup, fit_electrons

OCCUPANCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15)  # electrons per pixel and frame
SHAPE = (128, 128)
ELECTRONS = 12000  # of a series, about: errors of its shares are below 0.3 %
LEAST_FRAMES, MOST_FRAMES = 16, 256
NEAR = 1.0  # px: a found electron is that of the truth within so much, one to one
FAR = 1.5  # px: one without any true electron within so much is false


@dataclass(frozen=True)
class Row:
    """One occupancy, one way of counting.

    `recall`: share of the electrons found, one to one within 1 px. `false`: share of the found without an electron within 1.5 px.
    `extra`: share of the found that are false or one too many. `rms`: distance of the found ones, px, over both axes.
    """

    occupancy: float
    mode: str
    recall: float
    false: float
    extra: float
    rms: float
    stated_loss: float


def pairs(found: np.ndarray, truth: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of pairs no farther apart than `reach`, the closest first, each point in one."""
    from scipy.spatial import cKDTree

    if not len(found) or not len(truth):
        return np.zeros(0, int), np.zeros(0, int)
    near = cKDTree(found).sparse_distance_matrix(cKDTree(truth), reach, output_type="coo_matrix")
    used_a, used_b, chosen = np.zeros(len(found), bool), np.zeros(len(truth), bool), []
    for i in np.argsort(near.data, kind="stable"):
        a, b = int(near.row[i]), int(near.col[i])
        if not (used_a[a] or used_b[b]):
            used_a[a] = used_b[b] = True
            chosen.append((a, b))
    first, second = np.array(chosen, int).reshape(-1, 2).T
    return first, second


def judged(found: Electrons, electrons: np.ndarray, mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return recall, false share, share of false or extra ones, and rms distance. Recall is of the electrons on good pixels."""
    from scipy.spatial import cKDTree

    places = np.stack([np.asarray(found.qx, float), np.asarray(found.qy, float)], axis=-1)
    matched = possible = single = false = 0
    squares = 0.0
    for i in range(len(found.offsets) - 1):
        mine, truth = places[found.offsets[i] : found.offsets[i + 1]], electrons[electrons[:, 0] == i, 1:3]
        good = truth[mask[tuple(np.rint(truth).astype(int).clip(0, np.array(mask.shape) - 1).T)]]
        a, b = pairs(mine, good, NEAR)
        matched, possible = matched + len(a), possible + len(good)
        squares += float(((mine[a] - good[b]) ** 2).sum())
        single += len(mine) - len(pairs(mine, truth, FAR)[0])
        false += len(mine) if not len(truth) else int((cKDTree(truth).query(mine)[0] > FAR).sum()) if len(mine) else 0
    n = max(len(places), 1)
    return matched / max(possible, 1), false / n, single / n, (squares / max(matched, 1)) ** 0.5


def series(occupancy: float, seed: int = 5) -> gpu4d.simulate.RawFrames:
    """Frames of one occupancy. The detector is the same for all."""
    frames = int(np.clip(ELECTRONS / (occupancy * SHAPE[0] * SHAPE[1]), LEAST_FRAMES, MOST_FRAMES))
    return gpu4d.simulate.raw_frames((1, frames), SHAPE, occupancy=occupancy, seed=seed)


def rows(occupancies: tuple[float, ...] = OCCUPANCIES) -> Iterator[Row]:
    """Count every series in both ways, with what a sparse series says of the detector."""
    sparse = series(0.002)
    setup = counting_setup(np.asarray(sparse.cube), sparse.darks)
    for occupancy in occupancies:
        raw = series(occupancy)
        for mode in ("maxima", "likelihood"):
            yield Row(occupancy, mode, *judged(counted(raw, setup, mode), raw.electrons, setup.mask), stated_loss=stated(raw, setup, mode))


def counted(raw: gpu4d.simulate.RawFrames, setup: CountingSetup, mode: str) -> Electrons:
    """Count the frames of a series; local maxima get places too, so that both can be compared."""
    most = 1 if mode == "maxima" else 4
    frames = np.asarray(raw.cube)[0]
    limits = setup.lower, setup.upper
    return fit_electrons(frames, setup.dark, *limits, setup.model, electron=setup.electron, mask=setup.mask, most=most)


def stated(raw: gpu4d.simulate.RawFrames, setup: CountingSetup, mode: str) -> float:
    """Return the coincidence loss that `count_scan` states."""
    return count_scan(raw.cube, setup=setup, mode=mode).coincidence_loss


def densest(occupancies: tuple[float, ...] = OCCUPANCIES) -> float:
    """Return the largest occupancy at which the frames themselves still give a setup."""
    best = 0.0
    for occupancy in occupancies:
        raw = series(occupancy)
        try:
            own = counting_setup(np.asarray(raw.cube), raw.darks)
        except InputError:
            break
        truth = float(raw.electrons[:, 3].mean())
        if abs(own.electron / truth - 1) > 0.1:
            break
        best = occupancy
    return best


def drawn(found: list[Row], path: str) -> None:
    """Draw recall and false shares against occupancy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for mode, color, marker in (("maxima", "#D55E00", "s"), ("likelihood", "#0072B2", "o")):
        some = [row for row in found if row.mode == mode]
        x = [row.occupancy for row in some]
        name = {"maxima": "local maxima", "likelihood": "likelihood"}[mode]
        left.plot(x, [100 * row.recall for row in some], "-", color=color, marker=marker, ms=4.5, label=name)
        right.plot(x, [100 * row.extra for row in some], "-", color=color, marker=marker, ms=4.5, label=f"{name}, false or one too many")
        right.plot(x, [100 * row.false for row in some], "--", color=color, marker=marker, ms=3, label=f"{name}, false")
    for axis, title in ((left, "electrons found (%)"), (right, "of those found (%)")):
        axis.set_xscale("log")
        axis.set_xlabel("electrons per pixel and frame")
        axis.set_ylabel(title)
        axis.grid(True, which="major", color="0.9", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def table(found: list[Row]) -> str:
    """Return the rows as a table of a page."""
    lines = [
        "| electrons per pixel and frame | maxima: found | extra | likelihood: found | extra | false | rms, px |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for a, b in zip(found[::2], found[1::2], strict=True):
        lines.append(f"| {a.occupancy:g} | {a.recall:.1%} | {a.extra:.2%} | {b.recall:.1%} | {b.extra:.2%} | {b.false:.2%} | {b.rms:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and draw it where a picture is named."""
    found = list(rows())
    print(table(found))
    for mode in ("maxima", "likelihood"):
        lost = [(row.occupancy, 1 - row.recall, row.stated_loss) for row in found if row.mode == mode]
        print(mode, "lost, and stated loss:", "; ".join(f"{n:g}: {a:.1%}, {b:.1%}" for n, a, b in lost))
    print(f"a setup from the frames themselves: up to {densest():g} electrons per pixel and frame")
    if len(sys.argv) > 1:
        drawn(found, sys.argv[1])


if __name__ == "__main__":
    main()
