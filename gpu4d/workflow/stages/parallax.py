"""Align the images of bright-field pixels: parallax."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

import gpu4d
from gpu4d.errors import InputError
from gpu4d.ptychography.experiment import COARSE
from gpu4d.workflow.picture import PHASE, Drawn, Picture
from gpu4d.workflow.record import measured
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage
from gpu4d.workflow.stages.aberrations import options_of, reason_for, turn_of
from gpu4d.workflow.stages.side_bands import spectrum_of


class ParallaxStage(Stage):
    """Measure how far the images of bright-field pixels are shifted, and sum them aligned."""

    name = "parallax"
    title = "parallax: aligned bright-field images"
    guide: ClassVar = ("T",)
    needs: ClassVar = ("phase_method",)
    uses: ClassVar = ("dpc", "disk")
    makes: ClassVar = ("parallax", "parallax_image")
    rests_on: ClassVar = ("r_pixel", "rotation")
    cites: ClassVar = ("yu2025",)
    place: ClassVar = 16

    def wanted(self, state: RunState) -> Reason:
        return reason_for(state, self.name)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        record, given = state.record, state.recipe["phase"]
        with record.stage(self.title), record.trial():  # of the refinement; the warnings of the result are recorded below
            try:
                found = gpu4d.parallax(
                    state.cube,
                    upsample=given.upsample or (2 if self._coarse(state) else 1),
                    aberrations=None if given.defocus is None else {"C10": -given.defocus},
                    **turn_of(state),
                    **options_of(state),
                )
            except InputError as error:
                record.warn(f"no parallax: {error}")
                return
        state.keep("parallax", found)
        for line in found.warnings:
            record.warn(f"parallax: {line}")
        record.note(f"parallax: {'; '.join(found.decisions)}")
        state.save("parallax_image", found.image)
        turn = f"{math.degrees(found.rotation):.1f}°{', detector axes exchanged' if found.transpose else ''}"
        record.figure("Defocus", f"{measured(-found.aberrations['C10'], found.errors['C10'])} Å", found.sign)
        if given.defocus is None:
            record.figure("Detector rotation by parallax", turn, "from the shifts of bright-field images")
            self._gate(state, found)

    def _coarse(self, state: RunState) -> bool:
        """Return True if the steps are coarser than λ / (4α)."""
        c, disk = state.calibration, state.get("disk")
        radius = None if disk is None or c.q_pixel is None else disk.radius * c.q_pixel
        if radius is None and c.semiangle is not None and c.energy is not None:
            radius = gpu4d.physics.angle_to_frequency(c.semiangle, c.energy)
        return radius is not None and c.r_pixel is not None and 4 * radius * c.r_pixel > COARSE

    def _gate(self, state: RunState, found: Any) -> None:
        """Check that the measured shifts follow the defocus that was fitted."""
        share = 100 * found.scatter / found.largest if found.largest > 0 else math.inf
        said = f"up to {found.largest:.2g} scan steps, scattered by {found.scatter:.2g} about the fit"
        state.record.measure("parallax_shifts", share, said)

    def methods(self, state: RunState) -> str:
        if "parallax_image" not in state:
            return ""
        found = state["parallax"]
        return (
            f"Images of {len(found.pixels)} bright-field pixels were aligned by the shifts that a defocus of "
            f"{-found.aberrations['C10']:.4g} Å causes, and summed (parallax, tilt-corrected bright field) [@yu2025]."
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        if "parallax_image" not in state:
            return
        found, image = state["parallax"], state["parallax_image"]
        caption = f"Images of {len(found.pixels)} bright-field pixels, moved back by the shift that a defocus of "
        caption += f"{-found.aberrations['C10']:.4g} Å causes, and summed. Values are counts over their mean. "
        caption += "The contrast is that of a defocused microscope."
        yield Picture("parallax", PHASE, "Parallax", caption), plot.image(image, "Parallax")
        known = found.geometry
        k = np.linspace(0, 2.2 * known.radius * known.q_pixel, 400)[1:]
        values = np.real(found.transfer(np.stack([k, 0 * k], -1)))
        caption = "The part of a weak phase that the image shows, at frequencies along the first scan axis, by the defocus that was found."
        marks = [(known.radius * known.q_pixel, "α/λ")]
        drawn = plot.profile(k, values, "Transfer of parallax", marks=marks, pixel_size=1.0, units="transfer", log=False)
        yield Picture("parallax_transfer", PHASE, "Transfer of parallax", caption), drawn
        yield spectrum_of(image, "parallax_spectrum", "Spectrum of the parallax image", known.radius * known.q_pixel)

    def headline(self, state: RunState) -> str | None:
        return "A bright-field disk without separate Bragg disks, out of focus: its pixels' images were aligned and summed (parallax)."
