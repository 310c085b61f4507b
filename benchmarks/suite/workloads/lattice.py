"""Local lattices and strain of many positions, from disks whose lattice is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.oracle import Part, judged, precise, right_shape
from gpu4d.benchmarks.suite.workload import COMPUTE, Check, Place, Prepared, Size, Workload
from gpu4d.benchmarks.suite.workloads.disk_scene import FALL, REACH, STRAIN, VECTORS

import gpu4d

ORIGIN = (63.5, 63.5)  # px: start of the local origins, which lie within a pixel of it
ERROR = 0.02  # px: standard error of the direct disk; it grows with 1/√intensity
STATED = 1.2  # times that: what the disks say of their errors, so that their scatter asks for no correction of the covariance
MISSING, STRAY = 0.1, 0.5  # parts of the disks that were not found, and of the positions that have a false disk between the nodes
STRAY_AT = (0.5, 0.5)  # orders h, k of the false disk: nowhere near a node
EXACT = 1e-9  # px, strain, or relative: sums of float64 in any order agree better
STEP = 1e-3  # px: of the differences that propagate errors to strain; what they leave out is 1e-9 of a standard error
PROPAGATED = 1e-6  # of a standard error of strain
DISK_FLOPS = 60.0  # of a disk: order and residual 22, moments 18, residual again and its sums 20


@dataclass(frozen=True, eq=False)
class Lattices:
    """Disks of n positions: K places for each, of which some are empty. The last place is that of the false disk.

    Attributes
    ----------
    orders : (K, 2) float64
    intensity : (K,) float64
    g : (n, 2, 2) array of xp
        True lattice vectors as rows, px.
    q : (n, K, 2) array of xp
        Where disks were found, px.
    kept : (n, K) bool array of xp
    """

    orders: np.ndarray
    intensity: np.ndarray
    g: Any
    q: Any
    kept: Any

    @classmethod
    def make(cls, xp: Any, n: int, seed: int) -> Lattices:
        """Strain the lattice of each position by its own seeded amount, and add errors to its disks."""
        h, k = (order.ravel() for order in np.mgrid[-2:3, -2:3])
        inside = h * h + k * k <= REACH
        orders = np.concatenate([np.stack([h, k], -1)[inside].astype(float), [STRAY_AT]])
        intensity = 80.0 / (1.0 + FALL * (orders**2).sum(1))
        most = len(orders)

        def uniform(which: int, *shape: int) -> Any:
            """Return numbers between −1 and 1."""
            return (data.hashed(xp, seed + which, 0, int(np.prod(shape))) / 2.0**31 - 1.0).reshape(shape)

        strain, moved = STRAIN * uniform(1, n, 2, 2), uniform(2, n, 2)
        rows = [[v[0] * (1.0 + strain[:, c, c]) if c == 0 else v[0] * strain[:, 1, 0] for c in (0, 1)] for v in VECTORS]
        g = xp.stack(
            [xp.stack([x + v[1] * strain[:, 0, 1], y + v[1] * (1.0 + strain[:, 1, 1])], -1) for (x, y), v in zip(rows, VECTORS)], 1
        )
        q = xp.asarray(ORIGIN) + moved[:, None, :]
        for i in (0, 1):
            q = q + xp.asarray(orders[:, i])[None, :, None] * g[:, i][:, None, :]
        noise = np.sqrt(1.5) * (uniform(3, n, most, 2) + uniform(4, n, most, 2))  # variance 1, at most 2.4
        q = q + noise * xp.asarray(ERROR * np.sqrt(intensity.max() / intensity))[None, :, None]
        chance = (uniform(5, n, most) + 1.0) / 2.0
        return cls(orders, intensity, g, q, chance < xp.asarray(np.append(np.full(most - 1, 1.0 - MISSING), STRAY))[None, :])

    def disks(self, shape: tuple[int, int]) -> gpu4d.PointListArray:
        """Return the lists of disks as a search leaves them."""
        from gpu4d import arrays

        n, most = self.kept.shape
        xp = arrays.namespace(self.kept)
        offsets = xp.cumulative_sum(self.kept.sum(1).astype(np.int64), include_initial=True)
        light = xp.asarray(np.ascontiguousarray(np.broadcast_to(self.intensity, (n, most))))
        error = xp.asarray(np.ascontiguousarray(np.broadcast_to(STATED * self.errors, (n, most))))
        fields = {"qx": self.q[..., 0], "qy": self.q[..., 1], "intensity": light, "sx": error, "sy": error}
        return gpu4d.PointListArray(offsets, {name: values[self.kept] for name, values in fields.items()}, shape)

    def inputs(self, place: Place, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """Return the disks and the true lattices by name, for other tools. Places where nothing was found are NaN."""
        kept = place.host(self.kept)
        light = np.where(kept, self.intensity, np.nan)
        return {
            "q": np.where(kept[..., None], place.host(self.q), np.nan).reshape(*shape, -1, 2),
            "intensity": light.reshape(*shape, -1),
            "hk": self.orders[:-1].astype(int),
            "g1": VECTORS[0],
            "g2": VECTORS[1],
            "origin": np.broadcast_to(ORIGIN, (*shape, 2)),
            "local": place.host(self.g).swapaxes(1, 2).reshape(*shape, 2, 2),
        }

    @property
    def errors(self) -> np.ndarray:
        """Standard error of the disks per axis, (K,), px."""
        return ERROR * np.sqrt(self.intensity.max() / self.intensity)


def lattice_fit(place: Place, size: Size, seed: int) -> Prepared:
    """Index the disks of every position, fit its lattice by weighted least squares, and compute its strain relative to the median.

    Least bytes: five numbers of each disk are read, 27 are written for each position. Least flops: one round of indexing and fitting,
    60 flops for each disk.
    """
    rows = size["rows"]
    known = Lattices.make(place.xp, rows * rows, seed)
    disks = known.disks((rows, rows))

    def call() -> tuple[gpu4d.crystal.LatticeFit, gpu4d.crystal.Strain]:
        fit = gpu4d.fit_lattice(disks, VECTORS, origin=ORIGIN, outliers=None)  # of many positions some have a disk that looks like one
        return fit, gpu4d.strain_map(fit)

    def arrays(found: tuple[gpu4d.crystal.LatticeFit, gpu4d.crystal.Strain]) -> dict[str, np.ndarray]:
        fit, strain = found
        parts = {name: getattr(fit, name) for name in ("g1", "g2", "origin", "covariance", "residual", "count", "indexed_fraction", "mask")}
        parts |= {name: getattr(strain, name).data for name in ("exx", "eyy", "exy", "theta", "uncertainty")}
        return {name: place.host(value) for name, value in parts.items()}

    def check(found: dict[str, np.ndarray]) -> Check:
        return _check(place, known, found)

    fields = [place.xp.asarray(disks.flat(name)) for name in ("qx", "qy", "intensity", "sx", "sy")]
    return Prepared(
        call,
        arrays,
        check,
        rows * rows,
        data.digest(place.xp, disks.offsets, *fields),
        bytes=float(40 * len(disks) + 27 * 8 * rows * rows),
        flops=DISK_FLOPS * len(disks),
        rate="gemm",
        implementation=f"{place.xp.__name__} in float64",
        inputs=lambda: known.inputs(place, (rows, rows)),
    )


def _check(place: Place, known: Lattices, found: dict[str, np.ndarray]) -> Check:
    """Compare all positions with weighted least squares of the known orders in NumPy, and with the strain that follows."""
    n = len(known.kept)
    side = int(np.sqrt(n))
    inner = {"g1": (2,), "g2": (2,), "origin": (2,), "covariance": (2, 2, 2)}
    for name, value in found.items():
        right_shape(name, value, (4, side, side) if name == "uncertainty" else (side, side, *inner.get(name, ())))
    want, bound = _least_squares(known, place.host(known.q), place.host(known.kept))
    want |= _strained(want)
    scale = {"covariance": want["covariance"].max(), "count": 1.0, "uncertainty": PROPAGATED / EXACT * want["uncertainty"].max()}
    flat = {name: value.reshape(4, n) if name == "uncertainty" else value.reshape(n, *value.shape[2:]) for name, value in found.items()}
    parts = {name: Part(flat[name].astype(float) - want[name], EXACT * scale.get(name, 1.0)) for name in found}
    off = np.stack([flat["g1"], flat["g2"]], 1) - place.host(known.g)
    check = judged(parts, sum(v.size for v in found.values()), "weighted least squares of NumPy in float64 with the known orders, for all")
    return precise(check, np.sqrt((off**2).mean()), bound, "px")


def _least_squares(known: Lattices, q: np.ndarray, kept: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """Return the fit of all positions, and the least rms error of a component of g1 and g2 of any linear unbiased estimate."""
    nodes = kept.copy()
    nodes[:, -1] = False
    design = np.column_stack([np.ones(len(known.orders)), known.orders])
    w = nodes * known.intensity
    normal = np.linalg.inv(np.einsum("nk,ki,kj->nij", w, design, design))
    x = np.einsum("nij,nk,kj,nkc->nic", normal, w, design, q, optimize=True)
    off = np.where(nodes[..., None], q - np.einsum("ki,nic->nkc", design, x), 0.0)
    unit = known.intensity.max() * ERROR**2  # variance of a disk of intensity 1
    root = np.sqrt(known.intensity)
    found = {
        "origin": x[:, 0],
        "g1": x[:, 1],
        "g2": x[:, 2],
        "covariance": np.broadcast_to(STATED**2 * unit * normal[:, None, 1:, 1:], (len(q), 2, 2, 2)),
        "residual": np.sqrt((off**2).sum((1, 2)) / (2 * nodes.sum(1))),
        "count": nodes.sum(1),
        "indexed_fraction": (nodes * root).sum(1) / (kept * root).sum(1),
        "mask": np.ones(len(q)),
    }
    return found, float(np.sqrt(unit * (normal[:, 1, 1] + normal[:, 2, 2]).mean() / 2))


def _strained(fit: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return strain relative to the median lattice, and its standard errors by differences."""
    g = np.stack([fit["g1"], fit["g2"]], 1)
    reference = np.median(g, axis=0)
    variance = np.zeros((4, len(g)))
    for c in (0, 1):
        slopes = []
        for i in (0, 1):
            step = np.zeros((2, 2))
            step[i, c] = STEP
            slopes.append((_strain(g + step, reference) - _strain(g - step, reference)) / (2 * STEP))
        both = np.stack(slopes, -1)
        variance += np.einsum("sni,nij,snj->sn", both, fit["covariance"][:, c], both)
    return {**dict(zip(("exx", "eyy", "exy", "theta"), _strain(g, reference), strict=True)), "uncertainty": np.sqrt(variance)}


def _strain(g: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return exx, eyy, exy, theta (4, n) of U − 1 with F = R U = G⁻¹ G_ref. U is the root of C = FᵀF: (C + √det C) / √(tr C + 2 √det C)."""
    f = np.linalg.inv(g) @ reference
    c = f.swapaxes(1, 2) @ f
    root = np.sqrt(np.linalg.det(c))
    u = (c + root[:, None, None] * np.eye(2)) / np.sqrt(np.trace(c, axis1=1, axis2=2) + 2 * root)[:, None, None]
    return np.stack([u[:, 0, 0] - 1, u[:, 1, 1] - 1, u[:, 0, 1], np.arctan2(f[:, 0, 1] - f[:, 1, 0], f[:, 0, 0] + f[:, 1, 1])])


WORKLOADS = [
    Workload(
        "lattice-fit",
        "local lattices and strain",
        COMPUTE,
        "positions",
        {tier: {"rows": rows} for tier, rows in (("quick", 16), ("S", 64), ("M", 256), ("L", 512))},
        lattice_fit,
        "The lattice of every position from some 19 disks by weighted least squares, without false disks, and strain relative to the "
        "median, with standard errors.",
    ),
]
