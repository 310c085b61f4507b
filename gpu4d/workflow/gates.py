"""The quality gates of the 4D-STEM guide (section 16.2): measured, judged, and with what to do about it."""

from __future__ import annotations

import numpy as np

from gpu4d.workflow.analysis import Analysis

BACKGROUND = 0.01  # of the bright-field disk's level
DISKS = (5, 30)
SYMMETRY = 0.8
SHARPNESS = 0.35  # of the disk radius
OUTLIERS = 0.01
BOUNDARY = 2.0


def background(a: Analysis) -> None:
    """Edge of the detector ≈ 0 counts, seen against the bright-field disk."""
    mean = np.asarray(a.products["mean_pattern"], dtype=np.float64)
    if a.disk is None:
        return
    width = max(1, round(0.04 * min(mean.shape)))
    x, y = (np.arange(n) for n in mean.shape)
    rim = np.minimum(np.minimum(x, x[::-1])[:, None], np.minimum(y, y[::-1])[None, :]) < width
    inside = np.hypot(x[:, None] - a.disk.qx, y[None, :] - a.disk.qy) < 0.7 * a.disk.radius
    if not (np.isfinite(mean[rim]).any() and np.isfinite(mean[inside]).any()):
        return
    level, top = float(np.nanmedian(mean[rim])), float(np.nanmean(mean[inside]))
    share = level / top if top > 0 else np.inf
    a.record.gate(
        "Background at the detector's edge",
        share < BACKGROUND,
        f"{level:.3g} counts, {100 * share:.2g} % of the bright-field disk",
        f"below {100 * BACKGROUND:g} % of the disk",
        "subtract a dark reference, or check for scattering that reaches the edge",
    )


def disk_counts(a: Analysis, counts: np.ndarray) -> None:
    """A reasonable number of disks per pattern."""
    seen = counts[a.where] if a.where is not None else counts.ravel()
    middle = float(np.median(seen)) if seen.size else 0.0
    a.record.figure("Bragg disks per pattern", f"{middle:.0f}", f"median; {int(seen.sum()):,} in all")
    a.record.gate(
        "Bragg disks per pattern",
        DISKS[0] <= middle <= DISKS[1],
        f"median {middle:.0f}, 5 % of patterns below {np.percentile(seen, 5):.0f}" if seen.size else "none",
        f"{DISKS[0]} – {DISKS[1]}",
        "adjust the thresholds, check the probe; more than 30 are fine where the lattice is dense",
    )
    if middle < 3:
        a.record.warn(f"few Bragg disks: {middle:.0f} per pattern (median); a lattice needs three that do not lie on a line")


def origin(a: Analysis) -> None:
    """The unscattered beam follows the surface that was fitted to it."""
    miss, allowed = float(np.hypot(*a.origin.residual)), max(0.5, 0.1 * a.template.radius)
    a.record.gate(
        "Origin on its surface",
        miss < allowed,
        f"{miss:.3f} px rms about the {a.recipe.origin.fit}, {int(a.origin.outliers.sum())} outliers",
        f"below {allowed:.2f} px",
        "try origin.fit = quadratic; a beam that jumps (flyback, several tiles) fits no surface",
    )


def vector_map(a: Analysis) -> None:
    """The Bragg vector map is symmetric about its origin (Friedel pairs)."""
    q = np.stack([np.asarray(a.disks.flat(f), dtype=np.float64) for f in ("qx", "qy")], -1)
    centre = a.origin.fitted.reshape(-1, 2)[np.asarray(a.disks.positions)]
    v = q - centre
    weight = np.sqrt(np.clip(np.asarray(a.disks.flat("intensity"), dtype=np.float64), 0, None))
    away = np.hypot(*v.T)
    reach = float(np.min([a.origin.fitted.min(), (np.asarray(a.cube.detector_shape) - 1 - a.origin.fitted).min()]))
    keep = (away > a.template.radius) & (away < reach - 1.2 * a.template.radius) & np.isfinite(weight)
    if keep.sum() < 20:
        return
    cells = np.rint(v[keep] / max(1.0, a.template.radius / 2)).astype(int)
    n = int(np.abs(cells).max()) + 1
    image = np.zeros((2 * n + 1, 2 * n + 1))
    np.add.at(image, (cells[:, 0] + n, cells[:, 1] + n), weight[keep])
    turned = image[::-1, ::-1]
    likeness = float((image * turned).sum() / (image**2).sum())
    a.record.gate(
        "Symmetry of the Bragg vector map",
        likeness > SYMMETRY,
        f"overlap with its inversion {likeness:.2f}",
        f"above {SYMMETRY:g}",
        "check the origin and the elliptical distortion; a tilted specimen or several grains also break the symmetry",
    )


def lattice_sharpness(a: Analysis) -> None:
    """Disks lie sharply on the local lattice."""
    residual = float(np.nanmedian(np.asarray(a.fit.residual)))
    a.record.gate(
        "Sharpness of the lattice",
        residual < SHARPNESS * a.template.radius,
        f"disks lie {residual:.3f} px rms from the local lattice (median)",
        f"below {SHARPNESS * a.template.radius:.2f} px ({SHARPNESS:g} disk radii)",
        "check for overlapping grains, elliptical distortion, or a wrong lattice in the Bragg vector map",
    )


def strain_magnitude(a: Analysis) -> None:
    """Strain stays within what a crystal can bear."""
    lattice_sharpness(a)
    limit = a.recipe.strain.max_strain
    parts = np.stack([np.asarray(getattr(a.strain, name), dtype=np.float64) for name in ("exx", "eyy", "exy")])
    seen = np.isfinite(parts).all(axis=0)
    beyond = float((np.abs(parts).max(axis=0) > limit)[seen].mean()) if seen.any() else 1.0
    largest = float(np.abs(parts[:, seen]).max()) if seen.any() else float("nan")
    a.record.gate(
        "Strain magnitude",
        beyond <= OUTLIERS,
        f"{100 * beyond:.2g} % of positions beyond ±{100 * limit:g} %, largest {100 * largest:.2g} %",
        f"at most {100 * OUTLIERS:g} % of positions",
        "check the reference region and the disks of these positions; filter outliers",
    )


def phase(a: Analysis) -> None:
    """The field is a gradient, and the boundary brings no ghosts: ∇φ agrees with the measured field at the rim as inside."""
    if a.dpc.curl is not None:
        share = a.dpc.curl.curl[a.dpc.transpose]
        a.record.gate(
            "Curl of the centre of mass",
            share < 0.25,
            f"{100 * share:.1f} % of curl² + divergence² at the best rotation",
            "below 25 %: noise alone has 50 %",
            "noise, descan that is no plane, or a specimen too thick for DPC",
        )
    data, step = np.asarray(a.dpc.phase, dtype=np.float64), a.calibration.r_pixel or 1.0
    field = 2 * np.pi * step * np.asarray(a.dpc.com, dtype=np.float64)
    misfit = np.hypot(*(g - f for g, f in zip(np.gradient(data), field)))
    width = 3
    rim = np.ones(data.shape, bool)
    rim[width:-width, width:-width] = False
    inner, outer = (float(np.sqrt(np.nanmean(misfit[m] ** 2))) for m in (~rim, rim))
    a.record.gate(
        "Boundary of the phase",
        outer < BOUNDARY * inner or outer == 0,
        f"∇φ misses the measured field by {outer / inner if inner else 1:.2f} times as much at the rim as inside",
        f"below {BOUNDARY:g} times",
        "wrap-around ghosts: increase the padding, or add iterations",
    )
