"""The likelihood fit of a search: what it needs of a template, prepared once."""

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

USUAL_PARAMETERS = 6  # free parameters of a disk, where nothing tells that 4 or 8 are better


@dataclass(frozen=True)
class Fit:
    """Settings and tables of the Poisson fit of disks like a template.

    Attributes
    ----------
    profile : DiskProfile
    parameters : {4, 6, 8}
        Free parameters of a disk.
    spacing : float
        Disks nearer to another than this are not fitted, pixels.
    form : str
        What is fitted, for messages.
    shift : (float, float)
        Taken off fitted positions, pixels: the fit's zero point, measured from the correlation's.
    doubt : str or None
        Why refine="auto" does not use this fit.
    """

    profile: DiskProfile
    parameters: int
    spacing: float
    form: str
    shift: tuple[float, float]
    doubt: str | None

    @classmethod
    def prepare(cls, template: Template, parameters: int) -> Fit:
        """Tabulate the template's disk and measure the fit's zero point."""
        profile = disk_profile(template)
        zero = zero_point(template, parameters)
        form = "a round probe"
        if template.fine is not None:
            form = "a disk that the scan has shown"
        elif template.probe is not None and not_radial(template.probe.astype(np.float64).tobytes(), template.shape) is not None:
            form = "the grid profile of a probe that is not round or not even"
        return cls(profile, parameters, profile.reach + profile.radius, form, zero.shift, zero.doubt)

    def locate(self, frames: Any, qx: Any, qy: Any, count: Any, mask: Any = None) -> PoissonFit:
        """Fit disks, starting at the correlation's positions (n, K); fitted positions still have the fit's own zero point."""
        table, pixels = (tables.beside(a, frames) for a in (self.profile.table, self.profile.pixels))
        x, y = (v + shift for v, shift in zip((qx, qy), self.shift))
        return poisson_fit(frames, x, y, count, table, pixels, mask, parameters=self.parameters, spacing=self.spacing)

    def merge(self, disks: Disks, found: PoissonFit) -> Disks:
        """Take the fit's position and standard errors where it succeeded; the correlation's stay elsewhere."""
        xp = arrays.namespace(disks.qx)
        ok = found.ok
        errors = ((found.xx, disks.sx), (found.yy, disks.sy))
        sx, sy = (xp.where(ok, xp.sqrt(xp.where(ok, v, xp.ones_like(v))), old) for v, old in errors)
        places = zip((found.x, found.y), self.shift, (disks.qx, disks.qy))
        qx, qy = (xp.where(ok, v - shift, old) for v, shift, old in places)
        return disks._replace(qx=qx, qy=qy, sx=sx, sy=sy)
