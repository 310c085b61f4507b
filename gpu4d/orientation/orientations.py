"""Hold the orientations of a scan, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.orientation.symmetry import misorientation, rotation_matrices
from gpu4d.structures import Structure

AMBIGUOUS = 5.0  # nats: the other orientation is then at least 150 times less likely


@dataclass(frozen=True, eq=False)
class Grain(
    Storable,
    stored="matrices alternative: Rx Ry lab crystal; phase correlation share alternative_phase: Rx Ry; margin: Rx Ry [nat]; "
    "covariance: Rx Ry row column [rad²]",
):
    """Orientation and phase of one grain at every position. NaN, or phase −1, where there is none.

    Attributes
    ----------
    matrices : (Rx, Ry, 3, 3) float64
        R with v_lab = R v_crystal. Lab x and y are the first and the second axis, z is the direction that the electrons travel. Crystal
        axes are cartesian: a along x, b in the plane of x and y. Of equivalent matrices, the one that turns by the smallest angle.
    phase : (Rx, Ry) int64
        Number of the structure.
    correlation : (Rx, Ry) float64
        With the library, 0 … 1.
    share : (Rx, Ry) float64
        Of the grain in the pattern, by the intensities of both grains; 1 if there is one grain.
    margin : (Rx, Ry) float64
        Log likelihood ratio to the best other orientation or phase, nats. inf if there is no other.
    alternative : (Rx, Ry, 3, 3) float64
        This other orientation.
    alternative_phase : (Rx, Ry) int64
    covariance : (Rx, Ry, 3, 3) float64
        Of small turns about the lab axes, rad².
    """

    matrices: np.ndarray
    phase: np.ndarray
    correlation: np.ndarray
    share: np.ndarray
    margin: np.ndarray
    alternative: np.ndarray
    alternative_phase: np.ndarray
    covariance: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Return which positions have an orientation, (Rx, Ry) bool."""
        return self.phase >= 0

    @property
    def ambiguous(self) -> np.ndarray:
        """Return where another orientation or phase explains the pattern nearly as well (a margin below 5 nats), (Rx, Ry) bool."""
        return self.found & (self.margin < AMBIGUOUS)

    @property
    def error(self) -> np.ndarray:
        """Return the standard error of the orientation, (Rx, Ry), rad: root of the summed variances of the three turns."""
        return np.sqrt(np.trace(self.covariance, axis1=-2, axis2=-1))

    @property
    def zone_axis(self) -> np.ndarray:
        """Return the direction in the crystal that the electrons travel, (Rx, Ry, 3) unit vectors in cartesian crystal axes."""
        return self.matrices[..., 2, :]

    def direction(self, lab: tuple[float, float, float]) -> np.ndarray:
        """Return the direction in the crystal that lies along a direction of the lab, (Rx, Ry, 3) unit vectors: Rᵀ v."""
        v = np.asarray(lab, np.float64)
        if v.shape != (3,) or not np.linalg.norm(v) > 0:
            raise InputError(f"lab={lab!r}: need a direction of three numbers, for example (0, 0, 1)")
        return np.swapaxes(self.matrices, -1, -2) @ (v / np.linalg.norm(v))


@dataclass(frozen=True, eq=False)
class Orientations(Storable, stored="thickness r_pixel: [Å]"):
    """Orientations of a scan. Attributes of the main grain of each position, as `matrices` and `phase`, are found here too.

    Attributes
    ----------
    grain : Grain
        The grain with the larger share at each position.
    second : Grain
        The other grain of positions where two overlap.
    structures : tuple of Structure
        What `phase` numbers.
    thickness : tuple of float
        Å, of each structure: given, or the one that explains the intensities best.
    r_pixel : float or None
        Distance of positions, Å.
    axes : {"scan", "detector"}
        What lab x and y are. "detector" if the rotation is not calibrated.
    warnings : tuple of str
    """

    grain: Grain
    second: Grain
    structures: tuple[Structure, ...]
    thickness: tuple[float, ...]
    r_pixel: float | None = None
    axes: str = "detector"
    warnings: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        g = self.grain
        names = ", ".join(f"{s.name} {np.sum(g.phase == i)}" for i, s in enumerate(self.structures))
        shape = "×".join(map(str, g.phase.shape))
        two, unsure = int(self.second.found.sum()), int(g.ambiguous.sum())
        return f"Orientations({shape} positions: {names}; two grains at {two}, ambiguous at {unsure}; {self.axes} axes)"

    @property
    def matrices(self) -> np.ndarray:
        return self.grain.matrices

    @property
    def phase(self) -> np.ndarray:
        return self.grain.phase

    @property
    def share(self) -> np.ndarray:
        return self.grain.share

    @property
    def margin(self) -> np.ndarray:
        return self.grain.margin

    @property
    def ambiguous(self) -> np.ndarray:
        return self.grain.ambiguous

    def angle_to(self, reference: ArrayLike) -> np.ndarray:
        """Return the angle between the main grain and a reference orientation of its phase, (Rx, Ry), rad, by symmetry the smallest.

        Parameters
        ----------
        reference : (3, 3) or (Rx, Ry, 3, 3) float
        """
        given = np.broadcast_to(rotation_matrices(reference, "reference"), self.matrices.shape)
        angle = np.full(self.phase.shape, np.nan)
        for number, structure in enumerate(self.structures):
            own = self.phase == number
            angle[own] = misorientation(self.matrices[own], given[own], structure)
        return angle

    def to_emd(self) -> dict[str, RealSlice]:
        """Return the arrays that `gpu4d.save` stores: matrices of both grains as nine planes, phase, share, margin, correlation, error."""
        labels = tuple(f"R_{i}{j}" for i in "xyz" for j in "xyz")
        made = {}
        for prefix, grain in (("", self.grain), ("second_", self.second)):
            planes = np.moveaxis(grain.matrices.reshape(*grain.phase.shape, 9), -1, 0)
            made[f"{prefix}matrices"] = RealSlice.calibrated(np.ascontiguousarray(planes), f"{prefix}matrices", "1", self.r_pixel, labels)
            maps = {"phase": grain.phase.astype(np.float64), "share": grain.share, "margin": grain.margin}
            maps |= {"correlation": grain.correlation, "error": grain.error}
            for name, values in maps.items():
                units = {"margin": "nat", "error": "rad"}.get(name, "1")
                made[prefix + name] = RealSlice.calibrated(values, prefix + name, units, self.r_pixel)
        return made
