"""Reconstruct object and probe by iterative ptychography."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.ptychography import reconstruct
from gpu4d.workflow.picture import PHASE, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage
from gpu4d.workflow.stages.aberrations import options_of, reason_for, turn_of
from gpu4d.workflow.stages.side_bands import said_of, spectrum_of


@dataclass
class PtychographySettings:
    """Iterative ptychography."""

    sweeps: int = setting(
        20, "whole", "How often all patterns are used.", low=1, high=10_000, guide=(20, 200),
        tune="The gate of the misfit says whether it still changes. Thick or defocused data need more.",
    )  # fmt: skip
    slices: int = setting(
        1,
        "whole",
        "Slices of the object along the beam. More than one needs the thickness.",
        low=1,
        high=1000,
        tune="Take one for thin objects. Slices of a few nanometres suit thick ones.",
    )
    thickness: float | None = setting(
        None,
        "number",
        "Thickness of the object, for several slices.",
        units="Å",
        low=0.1,
        high=1e5,
        automatic="a thin object",
        tune="A fifth more or less does little harm. Compare the misfits of several values if it is not known.",
    )
    modes: int | None = setting(
        None,
        "whole",
        "Modes of a partially coherent probe.",
        low=1,
        high=100,
        automatic="one, or as many as the source needs",
        tune="Give the source instead if its size is known. Each mode costs as much time as the first, and modes too many explain noise.",
    )
    source: float | None = setting(
        None, "number", "Standard deviation of a Gaussian source, in the plane of the specimen.", units="Å", low=1e-3, high=1e4,
        automatic="a point",
        tune="Give the size of the source as it is demagnified at the specimen. Its modes are computed, and then improved.",
    )  # fmt: skip
    correct_positions: bool = setting(
        False,
        "switch",
        "Correct the positions of the probe.",
        tune="Set it if rows of the scan are displaced against each other. Leave it off for few counts, which cannot tell positions.",
    )
    likelihood: str = setting(
        "poisson",
        "text",
        "Misfit that is made smaller: for counts, or for values that are not counts.",
        choices=("poisson", "amplitude"),
        tune="Take poisson for counts. Take amplitude for values that are no counts, or have a background.",
    )
    seed: int = setting(
        0,
        "whole",
        "Of the order of the patterns.",
        low=0,
        high=2**31 - 1,
        tune="Change it to see which details of the result follow from the order, and are not to be trusted.",
    )

    def contradiction(self) -> str | None:
        """Say what is wrong with the settings together."""
        if self.slices > 1 and self.thickness is None:
            return f"ptychography.slices = {self.slices} needs ptychography.thickness (Å)"
        if self.slices == 1 and self.thickness is not None:
            return f"ptychography.thickness = {self.thickness:g} has no effect with one slice: give ptychography.slices from 2 up"
        return None


class Ptychography(Stage):
    """Reconstruct the transmission of the object and the probes."""

    name = "ptychography"
    title = "iterative ptychography"
    guide: ClassVar = ("T",)
    settings = PtychographySettings
    section = "ptychography"
    needs: ClassVar = ("phase_method", "probe_aberrations")
    uses: ClassVar = ("dpc",)
    makes: ClassVar = ("ptychography", "ptychography_phase")
    rests_on: ClassVar = ("r_pixel", "rotation")
    cites: ClassVar = ("thibault2012", "chen2021")
    place: ClassVar = 15

    def wanted(self, state: RunState) -> Reason:
        return reason_for(state, self.name)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        given, record = self.given(state), state.record
        options = options_of(state)
        if "compute.memory" not in state.recipe.given:
            options["memory"] = None  # all patterns are held: half of what is free, and not the small share of a sweep
        asked = {name: getattr(given, name) for name in ("sweeps", "slices", "thickness", "modes", "source", "correct_positions", "seed")}
        with record.stage(self.title, state.patterns * given.sweeps) as progress:
            try:
                found = reconstruct(
                    state.cube,
                    aberrations=state["probe_aberrations"],
                    likelihood=given.likelihood,
                    **asked,
                    **turn_of(state),
                    **options,
                    progress=progress,
                )
            except (InputError, MemoryBudgetError) as error:
                record.warn(f"no iterative ptychography: {error}")
                return
        state.keep("ptychography", found)
        for line in found.warnings:
            record.warn(f"reconstruct: {line}")
        record.note(f"ptychography: {'; '.join(found.decisions)}")
        state.keep("ptychography_phase", found.phase)
        state.products["ptychography"] = found
        self._figures(state, found)

    def _figures(self, state: RunState, found: Any) -> None:
        """Record key figures, and the gate of convergence."""
        record, phase = state.record, np.asarray(found.phase)
        low, high = np.nanpercentile(phase, (0.5, 99.5))
        record.figure("Range of the ptychographic phase", f"{high - low:.3g} rad", "0.5 to 99.5 percentile")
        record.figure("Pixel of the object", f"{found.phase.pixel_size:.3g} Å", f"the scan's steps are {found.geometry.r_pixel:.3g} Å")
        if len(found.powers) > 1:
            record.figure("Modes of the probe", ", ".join(f"{100 * power:.1f} %" for power in found.powers), "shares of the intensity")
        if self.given(state).correct_positions:
            moved = float(np.sqrt(np.nanmean((found.corrections**2).sum(-1))))
            record.figure("Corrections of positions", f"{moved:.2g} Å", "rms")
        loss = found.loss
        before = loss[-1 - max(1, len(loss) // 10)] if len(loss) > 1 else np.nan
        change = float(1 - loss[-1] / before) if len(loss) > 1 else np.nan
        said = f"the misfit is {loss[-1]:.4g} per pixel, and the last tenth of {len(loss)} sweeps made it smaller by {100 * change:.2g} %"
        record.measure("ptychography_convergence", 100 * change, said)

    def methods(self, state: RunState) -> str:
        if "ptychography" not in state:
            return ""
        given, found = self.given(state), state["ptychography"]
        misfit = "Poisson likelihood of all patterns" if given.likelihood == "poisson" else "misfit of the amplitudes of all patterns"
        slices = f", with {given.slices} slices over {given.thickness:g} Å [@chen2021]" if given.slices > 1 else ""
        modes = f", with {len(found.powers)} modes of the probe" if len(found.powers) > 1 else ""
        return (
            f"Object and probe were reconstructed by iterative ptychography: {given.sweeps} sweeps over the {misfit} "
            f"[@thibault2012]{slices}{modes}; pixel of the object {found.phase.pixel_size:.3g} Å."
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        if "ptychography" not in state:
            return
        found, phase = state["ptychography"], state["ptychography_phase"]
        slices = f"sum over {len(found.transmission)} slices" if len(found.transmission) > 1 else "single slice"
        caption = (
            f"Phase of the reconstructed transmission, {slices}, mean zero. {said_of(state['probe_aberrations'], 'the probe began with')}"
        )
        yield Picture("ptychography_phase", PHASE, "Ptychographic phase", caption), plot.image(phase, "Ptychographic phase", cmap="inferno")
        known = found.geometry
        yield spectrum_of(phase, "ptychography_spectrum", "Spectrum of the ptychographic phase", known.radius * known.q_pixel)
        caption = "The strongest mode of the reconstructed probe at the entrance of the object: intensity, and phase as hue."
        pixel = {"pixel_size": found.phase.pixel_size, "pixel_units": "Å", "axes": ("x$_{det}$", "y$_{det}$")}
        yield Picture("ptychography_probe", PHASE, "Probe", caption, wide=True), plot.wave(np.asarray(found.probes)[0], "Probe", **pixel)
        caption = "Misfit between expected and measured counts, mean over pixels, before the steps of each sweep."
        drawn = plot.convergence(found.loss, "Convergence", rounds="sweep", units="misfit per pixel")
        yield Picture("ptychography_convergence", PHASE, "Convergence", caption), drawn

    def headline(self, state: RunState) -> str | None:
        return "A bright-field disk without separate Bragg disks: object and probe were reconstructed by iterative ptychography."
