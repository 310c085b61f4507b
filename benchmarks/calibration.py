"""Measure how well ellipse, pixel size and centre come back from data with truth: `python -m gpu4d.benchmarks.calibration FOLDER`.

FOLDER holds polycrystal_rings.h5 and au_nbed_strain.h5. Nothing is timed but the fits themselves, for the record.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import gpu4d
from gpu4d.calibrate import ellipse_matrix, fit_rings, lattice_ellipse, visible_ellipse
from gpu4d.calibrate.ring_likelihood import fit
from gpu4d.calibrate.stretch import axes_of_stretch, q_of_axes
from gpu4d.data import PointListArray

DRAWS = 100


def main(folder: Path) -> None:
    """Print one line for each measurement."""
    rings(folder / "polycrystal_rings.h5")
    long_ellipse()
    strained_gold(folder / "au_nbed_strain.h5")


def rings(path: Path) -> None:
    """Print errors against the truth, and how many of the values of 100 draws lie within one standard error."""
    with h5py.File(path) as file:
        truth = file["truth"]
        stop, g = truth["beam_stop_mask"][()], np.unique(truth["rings"][:, 3])
        right = np.array(
            [*truth["center_px"][()], truth["ellipse"][0] / truth["ellipse"][1], truth["ellipse"][2], file.attrs["detector_pixel_1_per_A"]]
        )
        patterns = {
            "sum": file["sum_pattern"][()],
            "beam stop": file["sum_pattern_beam_stop"][()],
            "spotty": file["scan_poisson_20000"][()].sum((0, 1)),
        }
    for name, counts in patterns.items():
        start = time.perf_counter()
        found = fit_rings(counts, g, mask=~stop if name == "beam stop" else None)
        seconds = time.perf_counter() - start
        off, error = _values(found) - right, np.sqrt(np.diag(found.covariance))
        print(f"rings, {name}: {_line(off, error, right[4])}; {seconds:.1f} s")
        if name != "spotty":
            print(f"  of {DRAWS} draws, within one standard error: {_within(found):s}")


def _values(found: Any) -> np.ndarray:
    return np.array([*found.center, found.ellipse[0], found.ellipse[2], found.q_pixel])


def _line(off: np.ndarray, error: np.ndarray, q: float) -> str:
    parts = [
        f"{n} {o * s:+.3g} ± {e * s:.2g} {u}"
        for n, o, e, s, u in zip(
            ("qx", "qy", "a/b", "theta", "pixel"), off, error, (1, 1, 1, 57.2958, 1e4 / q), ("px", "px", "", "°", "e-4")
        )
    ]
    return ", ".join(parts)


def _within(found: Any) -> str:
    """Fit Poisson draws of the expected counts of a fit, and count the values within one standard error of it."""
    result, rng, right = found._details, np.random.default_rng(0), _values(found)
    inside = []
    for _ in range(DRAWS):
        pixels = result.pixels._replace(counts=rng.poisson(result.fitted.mu).astype(float))
        again = fit(result.model, pixels, result.fitted.p, result.fitted.amplitude, 1e-3)
        axes = axes_of_stretch(again.p[2:4], again.covariance[2:4, 2:4])
        q, jacobian = q_of_axes(again.p[:5], axes)
        error = np.sqrt(np.diag(jacobian @ again.covariance[:5, :5] @ jacobian.T))
        inside.append(np.abs(np.array([*again.p[:2], axes.ratio, axes.theta, q]) - right) < error)
    share = np.mean(inside, axis=0)
    return f"{100 * share.mean():.0f} % (qx, qy, a/b, theta, pixel: {', '.join(f'{100 * s:.0f}' for s in share)})"


def long_ellipse() -> None:
    """Print errors for semi-axes of 63 and 70 px at 0.78 rad in 200 × 200 pixels."""
    x, y = np.indices((200, 200)) - 99.5
    v = np.stack([x, y], -1) @ ellipse_matrix((70.0, 63.0, 0.78)).T
    expected = 1 + 100 * np.exp(-0.5 * ((np.hypot(v[..., 0], v[..., 1]) - 63) / 2) ** 2)
    found = fit_rings(np.random.default_rng(1).poisson(expected), [0.5])
    print(f"63/70 px: a/b {found.ellipse[0] - 70 / 63:+.1e}, theta {np.degrees(found.ellipse[2] - 0.78):+.2f}°, {found}")


def strained_gold(path: Path) -> None:
    """Print errors of the chain on disks found in the counts and moved by an ellipse of 3 % at 25°."""
    with h5py.File(path) as file:
        truth, counts = file["truth"], file["poisson_1e5"][()]
        strain = np.stack([truth[name][()] for name in ("eyy", "exx", "exy")])  # their x is our second axis
        border, q, probe = truth["state_index"][()] == 0, file.attrs["detector_pixel_1_per_A"], truth["vacuum_probe"][()]
    border[1:-1, 1:-1] = False
    disks = gpu4d.find_bragg_disks(gpu4d.DataCube(counts), gpu4d.probe.template(gpu4d.probe.from_vacuum(probe)), progress=False)
    origin = gpu4d.calibrate.origin(disks).fitted
    at = origin.reshape(-1, 2)[np.asarray(disks.positions)]
    q_raw = np.stack([disks.flat("qx"), disks.flat("qy")], -1)
    moved = (q_raw - at) @ np.linalg.inv(ellipse_matrix((1.03, 1.0, np.radians(25)))).T + at
    fields = {name: disks.flat(name) for name in disks.fields} | {"qx": moved[:, 0], "qy": moved[:, 1]}
    distorted = PointListArray(disks.offsets, fields, disks.shape)
    fit_ = gpu4d.fit_lattice(distorted, gpu4d.find_lattice(distorted, origin), origin=origin, weights="errors")
    for name, where in (("border", border), ("whole scan", None)):
        found = lattice_ellipse(fit_, "square", where=where, spacing=4.078 / 2)
        calibration = gpu4d.Calibration()
        found.apply(calibration)
        maps = gpu4d.strain_map(fit_, calibration=calibration, region=border)
        rms = [np.sqrt(np.nanmean((np.asarray(m.data) - s) ** 2)) for m, s in zip((maps.exx, maps.eyy, maps.exy), strain)]
        shown = f"a/b {found.ellipse[0] - 1.03:+.1e}, theta {np.degrees(found.ellipse[2]) - 25:+.2f}°, pixel {found.q_pixel / q - 1:+.1e}"
        print(f"gold, ellipse from the {name}: {shown}; strain rms {', '.join(f'{r:.1e}' for r in rms)}; {found}")
    print(f"gold, without a calibration: {visible_ellipse(fit_)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
