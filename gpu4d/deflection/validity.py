"""Decide whether a phase from the centre of mass may be called a projected potential."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpu4d import physics
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_number

DEPTHS = 1.7  # λ/α²: thickness up to which a specimen counts as a projection (the guide's pitfall 3)
PROBE_WIDTH = 0.51  # λ/α: full width at half maximum of a round probe in focus
SCATTERED = 0.2  # share outside of the disk, from which on more than a tenth of the scattered electrons have scattered twice
POTENTIAL, PSEUDO = "potential", "pseudo-DPC"


@dataclass(frozen=True)
class Condition(Storable):
    """One condition under which the phase is that of the projected potential.

    Attributes
    ----------
    name : str
    met : bool or None
        None if it could not be checked.
    text : str
        The measured number and its limit, or what is missing.
    excess : float
        The number over its limit. More than 1 is too much. NaN if it could not be checked.
    """

    name: str
    met: bool | None
    text: str
    excess: float = math.nan


@dataclass(frozen=True)
class Validity(Storable):
    """Whether a DPC phase is that of the projected potential, and why.

    Attributes
    ----------
    conditions : tuple of Condition
    """

    conditions: tuple[Condition, ...]

    @property
    def valid(self) -> bool:
        """True if no condition is violated, and the thickness was checked."""
        return all(c.met is not False for c in self.conditions) and any(c.met for c in self.conditions if c.name == "thickness")

    @property
    def excess(self) -> float:
        """The largest of the numbers over their limits. NaN if none could be checked."""
        return max((c.excess for c in self.conditions if not math.isnan(c.excess)), default=math.nan)

    @property
    def name(self) -> str:
        """What the result is called: "potential", or "pseudo-DPC"."""
        return POTENTIAL if self.valid else PSEUDO

    def __str__(self) -> str:
        if self.valid:
            return "the phase is that of the projected potential: " + "; ".join(c.text for c in self.conditions)
        wrong = [c for c in self.conditions if c.met is False] or [c for c in self.conditions if c.name == "thickness"]
        return "pseudo-DPC, not a potential: " + "; ".join(c.text for c in wrong)


def potential_validity(
    *,
    energy: float | None = None,
    semiangle: float | None = None,
    thickness: float | None = None,
    r_pixel: float | None = None,
    probe_size: float | None = None,
    bragg_angle: float | None = None,
    outside: float | None = None,
) -> Validity:
    """Check the conditions under which a DPC phase is σ times the projected potential.

    The specimen must be thin: at most 1.7 λ/α², the depth of field of the probe. The step must be smaller than the probe, else the
    field between positions is not seen. In a crystal the semi-angle must be larger than the Bragg angle, else the disks do not
    overlap and the centre of mass follows the diffracted beams. And few electrons may be scattered out of the disk.

    Parameters
    ----------
    energy : float, optional
        eV.
    semiangle : float, optional
        mrad.
    thickness : float, optional
        Å. The word potential needs it; without it the result is "pseudo-DPC".
    r_pixel : float, optional
        Step of the scan, Å.
    probe_size : float, optional
        Full width at half maximum of the probe, Å. 0.51 λ/α, that of a probe in focus, unless given.
    bragg_angle : float, optional
        Smallest Bragg angle of the crystal, mrad: λ / 2d. Leave it out for specimens that are no crystals, and where only fields of
        much larger size than the lattice are looked at.
    outside : float, optional
        Share of the electrons outside of the bright-field disk, 0 to 1.

    Returns
    -------
    Validity

    Raises
    ------
    InputError
        A number is not positive.

    Examples
    --------
    >>> thick = potential_validity(energy=300e3, semiangle=24.0, thickness=199.0)
    >>> thick.name, thick.conditions[0].text
    ('pseudo-DPC', 'thickness 19.9 nm against a depth of field of 58.1 Å (1.7 λ/α²)')
    >>> potential_validity(energy=300e3, semiangle=24.0, thickness=8.0, r_pixel=0.2).name
    'potential'
    """
    given = {"energy": energy, "semiangle": semiangle, "thickness": thickness, "r_pixel": r_pixel}
    given |= {"probe_size": probe_size, "bragg_angle": bragg_angle}
    for name, value in given.items():
        if value is not None and not 0 < float(real_number(value, name)) < math.inf:
            raise InputError(f"{name}={value}: need a positive number")
    if outside is not None and not 0 <= float(real_number(outside, "outside")) <= 1:
        raise InputError(f"outside={outside}: need a share of the electrons, 0 to 1")
    wave = None if energy is None else physics.wavelength(energy)
    alpha = None if semiangle is None else semiangle * 1e-3
    conditions = [_thickness(wave, alpha, thickness), _step(wave, alpha, r_pixel, probe_size)]
    if bragg_angle is not None and semiangle is not None:
        text = f"semi-angle {semiangle:.3g} mrad against a Bragg angle of {bragg_angle:.3g} mrad"
        conditions.append(Condition("semi-angle", semiangle > bragg_angle, text, bragg_angle / semiangle))
    if outside is not None:
        text = f"{100 * outside:.2g} % of the electrons outside of the disk, limit {100 * SCATTERED:.0f} %"
        conditions.append(Condition("scattered share", outside <= SCATTERED, text, outside / SCATTERED))
    return Validity(tuple(conditions))


def _thickness(wave: float | None, alpha: float | None, thickness: float | None) -> Condition:
    missing = [n for n, v in (("thickness", thickness), ("energy", wave), ("semi-angle", alpha)) if v is None]
    if thickness is None or wave is None or alpha is None:
        return Condition("thickness", None, f"{' and '.join(missing)} not known, so that the specimen cannot be called thin")
    depth = DEPTHS * wave / alpha**2
    text = f"thickness {_length(thickness)} against a depth of field of {_length(depth)} (1.7 λ/α²)"
    return Condition("thickness", thickness <= depth, text, thickness / depth)


def _step(wave: float | None, alpha: float | None, step: float | None, size: float | None) -> Condition:
    if size is None and wave is not None and alpha is not None:
        size = PROBE_WIDTH * wave / alpha
    if step is None or size is None:
        return Condition("step", None, "step or size of the probe not known")
    return Condition("step", step < size, f"step {_length(step)} against a probe of {_length(size)}", step / size)


def _length(angstroms: float) -> str:
    """Return a length in the unit in which it is read easily."""
    scale, unit = next(((s, u) for s, u in ((1.0, "Å"), (10.0, "nm")) if angstroms < 100 * s**2), (1e4, "µm"))
    return f"{angstroms / scale:.3g} {unit}"
