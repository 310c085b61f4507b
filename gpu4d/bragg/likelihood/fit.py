"""Prepare the likelihood fit of a search: settings, and tables made from its template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.find_disks import Disks
from gpu4d.bragg.likelihood.poisson_fit import DiskProfile, PoissonFit, disk_profile, poisson_fit
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
    spacing : float
        A disk with another one nearer than this is not fitted, pixels.
    form : str
        Description of the fitted disk, for messages.
    shift : (float, float)
        Zero point of the fit relative to that of the correlation, pixels. It is subtracted from fitted positions.
    doubt : str or None
        Reason why refine="auto" does not use this fit, or None.
    """

    profile: DiskProfile
    parameters: int
    spacing: float
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
        return cls(profile, parameters, profile.reach + profile.radius, form, zero.shift, zero.doubt)

    def locate(self, frames: Any, qx: Any, qy: Any, count: Any, mask: Any = None) -> PoissonFit:
        """Fit disks, starting at the positions of the correlation (n, K). The zero point is not yet subtracted from the result."""
        table, pixels = (tables.beside(a, frames) for a in (self.profile.table, self.profile.pixels))
        x, y = (v + shift for v, shift in zip((qx, qy), self.shift))
        return poisson_fit(frames, x, y, count, table, pixels, mask, parameters=self.parameters, spacing=self.spacing)

    def merge(self, disks: Disks, found: PoissonFit) -> Disks:
        """Return disks with position and standard errors of the fit where it succeeded, else those of the correlation."""
        xp = arrays.namespace(disks.qx)
        ok = found.ok
        errors = ((found.xx, disks.sx), (found.yy, disks.sy))
        sx, sy = (xp.where(ok, xp.sqrt(xp.where(ok, v, xp.ones_like(v))), old) for v, old in errors)
        places = zip((found.x, found.y), self.shift, (disks.qx, disks.qy))
        qx, qy = (xp.where(ok, v - shift, old) for v, shift, old in places)
        return disks._replace(qx=qx, qy=qy, sx=sx, sy=sy)
