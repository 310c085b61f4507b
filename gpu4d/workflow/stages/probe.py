"""Measure the bright-field disk of the mean pattern, and prepare the vacuum probe if there is one."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.bragg.direct_beam import direct_beam
from gpu4d.calibrate import covered
from gpu4d.calibrate.bright_field_disk import edge_background, is_round
from gpu4d.calibrate.origin import COVERED
from gpu4d.errors import InputError
from gpu4d.probe.measure_disk import Disk, measure_disk
from gpu4d.workflow.inputs import region_mask
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage
from gpu4d.workflow.stages.trial import template_like, template_of

ALONE = 1.6  # radii: distance from a disk's centre within which it is measured alone


@dataclass
class ProbeSettings:
    """The vacuum probe, from which the template is made."""

    file: str | None = setting(
        None, "file", "FILE or FILE:/dataset with an image of the probe in vacuum.",
        automatic="vacuum_region, else a disk of the measured radius and edge",
        tune="Record one with the settings of the scan, over vacuum. A patterned probe needs it; for a plain aperture the measured disk "
        "is as "
        "good.",
    )  # fmt: skip
    vacuum_region: list[int] | None = setting(
        None, "region", "Scan positions in vacuum, [rx0, rx1, ry0, ry1], whose aligned mean is the probe.", low=0,
        tune="Take positions without specimen, and without the rim of one: 16 or more.",
    )  # fmt: skip
    template: str = setting(
        "auto",
        "text",
        "Trench that makes the template's sum zero. own: the disk itself; auto: own if the probe has a pattern.",
        choices=("auto", "sigmoid", "gaussian", "logistic", "own", "flat"),
        tune="sigmoid suits disks that stand apart, own those of a patterned probe that overlap. flat finds disks in diffuse background.",
    )
    gaussian_width: float = setting(
        2.0, "number", "Standard deviation of the Gaussian that template = gaussian subtracts.", units="probe radii", low=0.5, high=20,
        guide=(1.5, 3.0), table="17.3",
        tune="Wider subtracts less beside a disk, but reaches more neighbours, whose counts then weaken weak disks. Other trenches do "
        "not use "
        "it.",
    )  # fmt: skip

    def contradiction(self) -> str | None:
        """Say what is wrong with the settings together."""
        if self.file and self.vacuum_region:
            return "probe.file and probe.vacuum_region are both set: the probe can come from one of them only"
        return None


class Probe(Stage):
    """Measure the bright-field disk. Make the template of a vacuum probe that was given or is in the scan."""

    name = "probe"
    title = "bright-field disk"
    guide: ClassVar = ("4", "K")
    settings = ProbeSettings
    section = "probe"
    needs: ClassVar = ("mean_pattern",)
    uses: ClassVar = ("unusable",)
    makes: ClassVar = ("mean_disk", "vacuum_template", "vacuum_disk", "probe_origin")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        disk, record = None, state.record
        with record.stage(self.title):
            image, origin = self._vacuum(state)
            try:
                disk = gpu4d.probe.measure_disk(state["mean_pattern"], state.cube.detector_mask)
            except ValueError as error:  # InputError, or a fit that failed
                record.warn(
                    f"the mean pattern shows no bright-field disk ({error}): virtual detectors are centred on the middle of the detector"
                )
            if image is not None:
                try:
                    vacuum = gpu4d.probe.measure_disk(image)
                    state.keep("vacuum_template", template_like(state, image, vacuum))
                except InputError as error:
                    raise InputError(f"the vacuum probe ({origin}) cannot be used: {error}") from error
                state.keep("probe_origin", origin)
                state.keep("vacuum_disk", vacuum)
                if disk is not None:
                    disk = disk._replace(radius=vacuum.radius, edge=vacuum.edge)
        if disk is not None and not is_round(disk):
            record.warn(
                f"the brightest region of the mean pattern is not a round disk (its edge is {disk.residual:.1f} px rms from a circle of "
                f"{disk.radius:.1f} px): it is not used"
            )
            disk = None
        if disk is not None:
            state.keep("mean_disk", _of_direct_beam(state, disk))
            _background_gate(state)

    def _vacuum(self, state: RunState) -> tuple[np.ndarray | None, str]:
        """Return the probe that was given, or that of the vacuum region, and its source. None if there is neither."""
        import gpu4d

        given = self.given(state)
        if state.given_probe is not None:
            return state.given_probe, f"image {given.file}" if given.file else "given"
        if given.vacuum_region is None:
            return None, ""
        where = region_mask(given.vacuum_region, state.cube.scan_shape, "probe.vacuum_region")
        image = np.asarray(gpu4d.probe.from_vacuum(state.cube, where, **state.sweep_options))
        return np.where(np.isfinite(image), image, 0.0), f"aligned mean of {int(where.sum())} patterns in vacuum"


def _of_direct_beam(state: RunState, disk: Disk) -> Disk:
    """Return the disk of the direct beam where the symmetry of the pattern says that the brightest disk is a diffracted one.

    If the direct beam is hidden, the brightest disk stays: it has the same shape. A warning says so.
    """
    mean, record = np.asarray(state["mean_pattern"], dtype=np.float64), state.record
    try:
        found = direct_beam(mean, state.get("vacuum_template") or template_of(state, disk), state.cube.detector_mask)
    except InputError as error:  # a disk that is cut by the detector
        record.note(f"direct beam: {error}")
        return disk
    if found is None:
        return disk
    place, other = f"({found.qx:.1f}, {found.qy:.1f})", f"({found.brightest[0]:.1f}, {found.brightest[1]:.1f})"
    alike = f"disks on opposite sides of {place} have the same brightness, those on opposite sides of {other} do not"
    if found.hidden:
        instead = f"the bright field of this run is the diffracted disk at {other}"
        mask = state.cube.detector_mask
        if mask is not None and covered(mask, (found.qx, found.qy), disk.radius) > COVERED:
            record.warn(f"the detector mask covers the direct beam, at {place}: {instead}. Disks, lattice and strain do not need the beam")
        else:
            record.warn(f"the direct beam, at {place}, is not seen (a beam stop?): {instead}; give a detector mask of the beam stop")
        return disk
    x, y = np.meshgrid(*(np.arange(n) for n in mean.shape), indexing="ij")
    near = np.hypot(x - found.qx, y - found.qy) < ALONE * disk.radius + 3
    try:
        direct = measure_disk(mean, near if state.cube.detector_mask is None else near & state.cube.detector_mask)
    except ValueError as error:  # InputError, or a fit that failed
        record.warn(f"the brightest disk, at {other}, is a diffracted one ({alike}), but the direct beam cannot be measured: {error}")
        return disk
    record.decide(f"Direct beam at {place}, not the brightest disk at {other}", f"{alike}: a diffracted disk is the brightest one")
    return direct if "vacuum_template" not in state else direct._replace(radius=disk.radius, edge=disk.edge)


def _background_gate(state: RunState) -> None:
    """Check that the edge of the detector has almost no counts, compared with the bright-field disk."""
    found = edge_background(state["mean_pattern"], state["mean_disk"])
    if found is None:
        return
    said = f"{found.level:.3g} counts, {100 * found.share:.2g} % of the bright-field disk"
    state.record.measure("background", 100 * found.share, said)
