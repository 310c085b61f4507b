"""Complete the calibration from the disk: origin, radius, and the detector pixel if energy and semi-angle are known."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from gpu4d import physics
from gpu4d.data.calibration import LEAST_RADIUS
from gpu4d.data.slices import DiffractionSlice
from gpu4d.probe import Disk
from gpu4d.workflow.gates import BY_KEY, PASS, judged
from gpu4d.workflow.record import measured
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage
from gpu4d.workflow.stages.origin import SMALL_DISK

DESCAN = 0.5  # px over the scan: a smaller descan cannot be seen in a virtual image
RIM = 0.1  # px: the rim of an aperture is blurred by aberrations and pixels, so that its radius is not defined better than this
DISAGREEMENT = 0.05  # of the detector pixel: errors of the disk's radius are smaller


class CalibrateDisk(Stage):
    """Choose disk and template, and complete the calibration with them."""

    name = "calibration"
    title = "calibration from the disk"
    guide: ClassVar = ("2", "J", "K")
    needs: ClassVar = ("mean_pattern", "max_pattern")
    uses: ClassVar = ("trial", "trial_probe", "mean_disk", "vacuum_template", "vacuum_disk", "probe_origin")
    makes: ClassVar = ("disk", "template", "template_origin", "probe")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        disk, template = state.get("trial_probe") or (state.get("mean_disk"), state.get("vacuum_template"))
        if disk is None and template is not None:
            disk = self._disk_of_the_probe(state)
        if disk is not None:
            state.keep("disk", disk)
            self._calibrate(state)
        if template is not None:
            state.keep("template", template)
            made = "synthetic disk like the bright-field disk"
            like = "" if disk is None else f"{made}: radius {disk.radius:.2f} px, edge {disk.edge:.2f} px"
            state.keep("template_origin", state.get("probe_origin") or like)
            state.save("probe", DiffractionSlice.calibrated(template.probe, "probe", "counts", state.calibration.q_pixel))

    def _disk_of_the_probe(self, state: RunState) -> Disk | None:
        """Return the disk of the given probe where the trial patterns have the unscattered beam. None if they do not show it.

        Where disks overlap, or the beam moves far, the mean pattern has no round disk of its own. The image of the probe has.
        """
        vacuum, trial = state.get("vacuum_disk"), state.get("trial")
        if vacuum is None or trial is None or trial.origin is None:
            return None
        rule, off = BY_KEY["origin_surface"], float(np.hypot(*trial.origin.residual)) / max(SMALL_DISK, vacuum.radius)
        if trial.lattice is None and (trial.surface is None or judged(off, rule.warn, rule.fail) != PASS):
            return None
        x, y = np.nanmean(trial.origin.fitted, axis=(0, 1))
        state.record.decide(
            f"Bright-field disk: that of the given probe, at ({x:.1f}, {y:.1f})",
            f"the mean pattern has no round disk of its own; {len(trial.positions)} trial patterns show where the unscattered beam is",
        )
        return vacuum._replace(qx=float(x), qy=float(y))

    def _calibrate(self, state: RunState) -> None:
        c, disk, trial = state.calibration, state["disk"], state.get("trial")
        edge = "vacuum probe" if "vacuum_template" in state else "bright-field disk"
        error = math.hypot(RIM, disk.radius_error) if math.isfinite(disk.radius_error) else RIM
        c.set(probe_radius=disk.radius, probe_radius_error=error, how=f"edge of the {edge}")
        if c.origin is None:
            if trial is not None and trial.descan > DESCAN:
                c.set(origin=trial.surface, how=f"unscattered disk of the trial patterns, {trial.origin.fit}")
            else:
                where = "mean pattern's disk" if "mean_disk" in state else "unscattered disk of the trial patterns"
                c.set(origin=(disk.qx, disk.qy), how=f"centre of the {where}")
        known = c.q_pixel
        c.complete()
        if c.q_pixel:
            for name in ("mean_pattern", "max_pattern"):
                state.save(name, DiffractionSlice.calibrated(state[name].data, state[name].name, "counts", c.q_pixel))
        centre = f"± {error:.2f} px; centre ({disk.qx:.2f}, {disk.qy:.2f}) px, edge {disk.edge:.1f} px"
        state.record.figure("Bright-field disk radius", f"{disk.radius:.2f} px", centre)
        if c.q_pixel:
            self._detector_pixel(state, known)
        elif c.energy and c.semiangle:
            state.record.note(f"no detector pixel from a disk of {disk.radius:.2f} px: it needs at least {LEAST_RADIUS:g} px")

    def _detector_pixel(self, state: RunState, known: float | None) -> None:
        """Show the detector pixel with its standard error, or compare a known one with the disk."""
        c, radius = state.calibration, state["disk"].radius
        how = "from energy, semi-angle and disk radius, whose error it has"
        if known:
            found = c.how_known("q_pixel")
            how = "given" if found in (None, "given", "set") else str(found)
        state.record.figure("Detector pixel", f"{measured(float(c.require('q_pixel')), c.q_pixel_error)} Å⁻¹", how)
        if known and c.energy and c.semiangle and radius >= LEAST_RADIUS:
            expected = physics.pixel_from_disk(radius, c.semiangle, c.energy)
            if abs(expected / known - 1) > DISAGREEMENT:
                three = f"energy, semi-angle and the disk's radius give {expected:.4g} 1/Å"
                state.record.warn(f"q_pixel is {known:.4g} 1/Å, but {three}: one of them is wrong")

    def methods(self, state: RunState) -> str:
        disk, c = state.get("disk"), state.calibration
        if disk is None:
            return ""
        return f"The bright-field disk has a radius of {measured(disk.radius, c.probe_radius_error)} px."
