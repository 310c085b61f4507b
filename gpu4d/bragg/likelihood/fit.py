"""Prepare the likelihood fit of a search: settings, and tables made from its template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.find_disks import Disks
from gpu4d.bragg.likelihood.poisson_fit import DiskProfile, PoissonFit, disk_profile, poisson_fit
from gpu4d.bragg.likelihood.separate_disks import Separated, separate_disks
from gpu4d.bragg.likelihood.zero_point import zero_point
from gpu4d.device import tables
from gpu4d.probe.shape.disk_shape import not_radial
from gpu4d.probe.template_kernel import Template

USUAL_PARAMETERS = 6  # free parameters of a disk, unless the scan shows that 4 or 8 are better


@dataclass(frozen=True)
class Fit:
    """Settings and tables of the Poisson fit of disks like a template.

    Attributes
    ----------
    profile : DiskProfile
    parameters : {4, 6, 8}
        Free parameters of a disk.
    height : float
        Height of the n = 1 map for a disk of 1 count per pixel that stands alone.
    form : str
        Description of the fitted disk, for messages.
    shift : (float, float)
        Zero point of the fit relative to that of the correlation, pixels. It is subtracted from fitted positions.
    doubt : str or None
        Reason why refine="auto" does not use this fit, or None.
    """

    profile: DiskProfile
    parameters: int
    height: float
    form: str
    shift: tuple[float, float]
    doubt: str | None

    @classmethod
    def prepare(cls, template: Template, parameters: int) -> Fit:
        """Tabulate the template's disk, and measure the zero point of the fit."""
        profile = disk_profile(template)
        zero = zero_point(template, parameters)
        form = "a round probe"
        if template.fine is not None:
            form = "a disk shape measured from the scan"
        elif template.probe is not None and not_radial(template.probe.astype(np.float64).tobytes(), template.shape) is not None:
            form = "the grid profile of a probe that is not round or not even"
        return cls(profile, parameters, _height(template, profile), form, zero.shift, zero.doubt)

    def locate(self, frames: Any, qx: Any, qy: Any, count: Any, mask: Any = None) -> PoissonFit:
        """Fit disks alone, starting at the positions of the correlation (n, K). The zero point is not yet subtracted from the result.

        Disks whose windows overlap are left to `separate`.
        """
        table, pixels = (tables.beside(a, frames) for a in (self.profile.table, self.profile.pixels))
        x, y = (v + shift for v, shift in zip((qx, qy), self.shift))
        return poisson_fit(frames, x, y, count, table, pixels, mask, parameters=self.parameters, spacing=self.profile.spacing)

    def separate(self, frames: Any, disks: Disks, alone: PoissonFit, allowed: Any, significance: float, mask: Any = None) -> Separated:
        """Fit disks whose windows overlap together, and look for disks that others hide."""
        profile = self.profile
        table, pixels = (tables.beside(a, frames) for a in (profile.table, profile.pixels))
        fits = (alone.x, alone.y, alone.amplitude, alone.xx, alone.yy, alone.ok)
        limits: dict[str, Any] = {"radius": profile.radius, "spacing": profile.spacing, "significance": significance}
        given = (frames, disks.count, disks.intensity, *fits, table, pixels, allowed, mask, self.parameters)
        return separate_disks(*given, **limits)

    def merge(self, disks: Disks, found: Separated) -> Disks:
        """Return disks with position and standard errors of the fit where it succeeded, else those of the correlation.

        Disks that were fitted with others have the height that each would have alone.
        """
        xp = arrays.namespace(disks.qx)
        ok = found.fitted
        errors = ((found.xx, disks.sx), (found.yy, disks.sy))
        sx, sy = (xp.where(ok, xp.sqrt(xp.where(ok, v, xp.ones_like(v))), old) for v, old in errors)
        places = zip((found.x, found.y), self.shift, (disks.qx, disks.qy))
        qx, qy = (xp.where(ok, v - shift, old) for v, shift, old in places)
        intensity = xp.where(found.together, self.height * found.amplitude, disks.intensity)
        return _compact(found.disk, qx, qy, intensity, sx, sy)


def _compact(disk: Any, *fields: Any) -> Disks:
    """Return disks without empty places between them."""
    xp = arrays.namespace(disk)
    count = xp.sum(xp.astype(disk, xp.int64), axis=-1)
    slot = xp.arange(disk.shape[1], dtype=xp.int64, device=arrays.device(disk))[None, :]
    found = slot < count[:, None]
    all_fields = xp.stack(fields)  # a device gets a few launches for all of them
    if not (isinstance(disk, np.ndarray) and (disk == found).all()):
        order = xp.argsort(xp.astype(~disk, xp.int8), axis=-1, stable=True)
        all_fields = arrays.gather(all_fields, xp.broadcast_to(order[None, ...], all_fields.shape))
    all_fields = xp.where(found[None, ...], all_fields, xp.full_like(all_fields, float("nan")))
    return Disks(count, *(all_fields[i, ...] for i in range(len(fields))))


def _height(template: Template, profile: DiskProfile) -> float:
    """Return the height of the correlation for a disk of height 1."""
    phases = profile.table.shape[0] - 1
    p, q = (round((offset + 0.5) * phases) for offset in template.offset)
    dx, dy = profile.pixels[:, 0], profile.pixels[:, 1]
    nx, ny = template.shape
    return float(np.sum(template.kernel[dx % nx, dy % ny] * profile.table[p, q, 0].astype(np.float64)))
