"""What `gpu4d.dpc` finds: the phase of a thin object, fields, errors, and how they were found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d import arrays, physics
from gpu4d.calibrate.rotation import Rotation
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.deflection.curl_free import curl_free as curl_free_part
from gpu4d.deflection.curl_free import divergence
from gpu4d.deflection.phase_error import curl_free_error
from gpu4d.deflection.sign import Sign
from gpu4d.deflection.validity import Validity
from gpu4d.errors import InputError


@dataclass
class DPC(Storable, stored="rotation: [rad]; energy: [eV]; thickness: [Å]"):
    """The phase of a thin object, and how it was found.

    Attributes
    ----------
    phase : RealSlice (Rx, Ry)
        Radians ("relative" where a pixel size is missing), mean zero; NaN where the centre of mass is NaN. Its name is "DPC phase",
        or "pseudo-DPC phase" if it must not be taken for a potential.
    com : RealSlice (2, Rx, Ry)
        Mean momentum transfer along the scan axes, without descan, 1/Å (px where q_pixel is missing).
    rotation, transpose : float, bool
        v_scan = R(rotation) v_det after swapping (qx, qy) where `transpose`; radians, the 180° included.
    curl : Rotation or None
        How rotation and transpose were found; None if the rotation was given.
    sign : Sign or None
        How the 180° was decided; None if the rotation was given.
    descan : str
        What was subtracted, as a sentence.
    errors : list of float
        Misfit after every iteration; empty if none was needed (boundary "mirror" or "periodic", no NaN position).
    decisions, warnings : list of str
        Sentences: what was decided and why, and what may be wrong.
    potential : RealSlice or None
        φ / σ, V Å, if the beam energy is known. Its name is "projected potential" where `validity` allows it, else "pseudo-DPC".
    com_error : RealSlice (2, Rx, Ry) or None
        Standard errors of `com` from the counts; None if these are not known.
    phase_error : RealSlice (Rx, Ry) or None
        Standard errors of `phase`, see `gpu4d.deflection.phase_error`; None for the boundary "padded" too.
    validity : Validity or None
        Whether the phase is that of the projected potential, and why.
    energy, thickness : float or None
        eV, Å.
    """

    phase: RealSlice
    com: RealSlice
    rotation: float
    transpose: bool
    curl: Rotation | None = None
    sign: Sign | None = None
    descan: str = ""
    errors: list[float] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    potential: RealSlice | None = None
    com_error: RealSlice | None = None
    phase_error: RealSlice | None = None
    validity: Validity | None = None
    energy: float | None = None
    thickness: float | None = None

    def __repr__(self) -> str:
        turn = f"rotation {math.degrees(self.rotation):.1f}° ({'given' if self.curl is None else 'found'}), transpose {self.transpose}"
        n = len(self.warnings)
        words = f", {n} warning{'s' * (n > 1)}" if n else ""
        return f"DPC({'×'.join(map(str, self.phase.shape))} positions, phase {self.phase.range_text()}, {turn}{words})"

    @property
    def skew(self) -> float:
        """Skewness of this phase; NaN if the rotation was given."""
        return math.nan if self.sign is None else self.sign.sign * self.sign.skew

    @property
    def margin(self) -> float:
        """How clear the decision of the 180° is, in standard errors; NaN if the rotation was given."""
        return math.nan if self.sign is None else self.sign.margin

    def deflection(self, *, curl_free: bool = False) -> RealSlice:
        """Return the deflection of the beam along the scan axes, λ ⟨k⟩ in mrad, (2, Rx, Ry).

        Raises
        ------
        InputError
            The energy or the detector pixel is not known.
        """
        wave = physics.wavelength(self._energy())
        return self._of_com(wave * 1e3, "deflection", "mrad", ("x", "y"), curl_free)

    def electric_field(self, *, curl_free: bool = True) -> RealSlice:
        """Return the electric field in the specimen, (2, Rx, Ry) along the scan axes.

        E t = −2π ⟨k⟩ / σ: an electron goes against the field. With a known thickness E is in V/Å, else E t is in V.

        Parameters
        ----------
        curl_free : bool
            Take the part without curl, as an electric field has none. This removes half of the variance of the noise.

        Raises
        ------
        InputError
            The energy or the detector pixel is not known.
        """
        scale, name, units = self._field_scale()
        return self._of_com(-scale, name, units, ("E_x", "E_y") if self.thickness else ("E_x t", "E_y t"), curl_free)

    def electric_field_error(self, *, curl_free: bool = True) -> RealSlice | None:
        """Return the standard errors of `electric_field` from the counts, (2, Rx, Ry); None if these are not known."""
        scale, name, units = self._field_scale()
        error = None if self.com_error is None else np.asarray(self.com_error, dtype=np.float64)
        if error is None or self.com_error is None:
            return None
        if curl_free:
            error = np.moveaxis(curl_free_error(np.moveaxis(error**2, 0, -1)), -1, 0)
        found = self.com_error.of_same_grid(arrays.from_numpy(scale * error, self.com.data), f"standard error of the {name}", units)
        found.labels = ("E_x", "E_y")
        return found

    def divergence(self) -> RealSlice:
        """Return the divergence of 2π ⟨k⟩, the contrast called dDPC, (Rx, Ry): the Laplacian of the phase, rad/Å².

        See `gpu4d.deflection.divergence`.
        """
        step = self.com.pixel_size if self.com.pixel_units == "Å" else 1.0
        absolute = self.com.units == "1/Å" and self.com.pixel_units == "Å"
        found = divergence(2 * math.pi * _last(self.com.data), step)
        return self.com.of_same_grid(found, "dDPC", "rad/Å²" if absolute else "relative")

    def _energy(self) -> float:
        if self.energy is None or self.com.units != "1/Å":
            raise InputError("fields need the beam energy and the detector pixel: give energy= (eV) and q_pixel= (1/Å) to gpu4d.dpc")
        return self.energy

    def _field_scale(self) -> tuple[float, str, str]:
        scale = 2 * math.pi / physics.interaction_constant(self._energy())
        if self.thickness:
            return scale / self.thickness, "electric field", "V/Å"
        return scale, "projected electric field", "V"

    def _of_com(self, scale: float, name: str, units: str, labels: tuple[str, ...], curl_free: bool) -> RealSlice:
        values: Any = _last(self.com.data)
        values = curl_free_part(values) if curl_free else values
        xp = arrays.namespace(values)
        found = self.com.of_same_grid(xp.permute_dims(values, (2, 0, 1)) * scale, name, units)
        found.labels = labels
        return found


def _last(stack: Any) -> Any:
    """Return a stack (2, Rx, Ry) as (Rx, Ry, 2)."""
    return arrays.namespace(stack).permute_dims(stack, (1, 2, 0))
