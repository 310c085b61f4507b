"""Compute the phase from side bands: SSB and WDD."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

import gpu4d
from gpu4d.data.slices import DiffractionSlice, RealSlice
from gpu4d.errors import InputError
from gpu4d.workflow.picture import PHASE, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage
from gpu4d.workflow.stages.aberrations import METHODS, options_of, reason_for, turn_of


class Ssb(Stage):
    """Compute the phase by single-side-band ptychography."""

    name = "ssb"
    title = "single-side-band ptychography"
    guide: ClassVar = ("T",)
    needs: ClassVar = ("phase_method", "probe_aberrations")
    uses: ClassVar = ("dpc",)
    makes: ClassVar = ("ssb", "ssb_phase", "ssb_transmission", "ssb_transfer")
    rests_on: ClassVar = ("r_pixel", "rotation")
    cites: ClassVar[tuple[str, ...]] = ("rodenburg1993", "pennycook2015")
    place: ClassVar = 18

    def wanted(self, state: RunState) -> Reason:
        return reason_for(state, self.name)

    def compute(self, state: RunState, options: dict[str, Any]) -> Any:
        """Return the result of the method."""
        return gpu4d.ssb(state.cube, mode=state.recipe["phase"].mode, **options)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        record, short = state.record, self.name.upper()
        options = {"aberrations": state["probe_aberrations"], "epsilon": state.recipe["phase"].epsilon}
        with record.stage(self.title):
            try:
                found = self.compute(state, {**options, **turn_of(state), **options_of(state)})
            except InputError as error:
                record.warn(f"no phase by {short}: {error}")
                return
        state.keep(self.name, found)
        for line in found.warnings:
            record.warn(f"{self.name}: {line}")
        record.note(f"{short}: {'; '.join(found.decisions)}")
        state.save(f"{self.name}_phase", found.phase)
        state.save(f"{self.name}_transmission", found.transmission)
        state.save(f"{self.name}_transfer", _plane(found.transfer, found.phase))
        phase = np.asarray(found.phase)
        low, high = np.nanpercentile(phase, (0.5, 99.5)) if np.isfinite(phase).any() else (np.nan, np.nan)
        record.figure(f"Range of the {short} phase", f"{high - low:.3g} rad", f"0.5 to 99.5 percentile; {found.slope:.3g} of a weak phase")
        self._gate(state, found)

    def _gate(self, state: RunState, found: Any) -> None:
        """Check that the steps are fine enough for side bands up to 2α."""
        step, limit = state.calibration.r_pixel, 1 / (4 * aperture(state, found))
        assert step is not None
        said = f"{step:.3g} Å, where λ/(4α) is {limit:.3g} Å"
        state.record.measure("side_band_step", step / limit, said, name=f"Scan step for {self.name.upper()}")

    def methods(self, state: RunState) -> str:
        if f"{self.name}_phase" not in state:
            return ""
        whom = "; ".join(f"@{key}" for key in self.cites)
        return f"The phase was computed by {METHODS[self.name]} [{whom}]. {said_of(state['probe_aberrations'])}"

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        if f"{self.name}_phase" not in state:
            return
        phase, short, found = state[f"{self.name}_phase"], self.name.upper(), state[self.name]
        caption = f"Phase of the object by {METHODS[self.name]}, mean zero. {said_of(state['probe_aberrations'])}"
        caption += " The scan counts as one that repeats itself, so that a border as wide as the probe is wrong."
        yield Picture(f"{self.name}_phase", PHASE, f"{short} phase", caption), plot.image(phase, f"{short} phase", cmap="inferno")
        radius = aperture(state, found)
        yield spectrum_of(phase, f"{self.name}_spectrum", f"Spectrum of the {short} phase", radius)
        yield transfer_of(found, f"{self.name}_transfer", f"Transfer of {short}", radius)

    def headline(self, state: RunState) -> str | None:
        return f"A bright-field disk without separate Bragg disks: the phase was computed by {METHODS[self.name]}."


class Wdd(Ssb):
    """Compute the phase by Wigner-distribution deconvolution."""

    name = "wdd"
    title = "Wigner-distribution deconvolution"
    guide: ClassVar = ("T",)
    makes: ClassVar = ("wdd", "wdd_phase", "wdd_transmission", "wdd_transfer")
    cites: ClassVar[tuple[str, ...]] = ("rodenburg1992", "bangun2023")
    place: ClassVar = 17

    def compute(self, state: RunState, options: dict[str, Any]) -> Any:
        """Return the result of the method."""
        if "phase.epsilon" not in state.recipe.given:
            del options["epsilon"]  # taken from the counts
        return gpu4d.wdd(state.cube, **options)


def aperture(state: RunState, found: Any) -> float:
    """Return the radius of the aperture, 1/Å."""
    c = state.calibration
    if c.q_pixel is not None:
        return found.radius * c.q_pixel
    return gpu4d.physics.angle_to_frequency(c.require("semiangle"), c.require("energy"))


def spectrum_of(image: Any, name: str, title: str, radius: float) -> Drawn:
    """Draw the spectrum of an image with the limits of bright field and of ptychography."""
    from gpu4d import plot

    caption = (
        "Modulus of the image's Fourier transform. A coherent bright-field image ends at α/λ, side bands and incoherent images at 2α/λ."
    )
    circles = [(radius, f"α/λ: {1 / radius:.3g} Å"), (2 * radius, f"2α/λ: {0.5 / radius:.3g} Å")]
    return Picture(name, PHASE, title, caption), plot.spectrum(image, title, circles=circles)


def transfer_of(found: Any, name: str, title: str, radius: float) -> Drawn:
    """Draw the transfer of a phase over frequency: the mean over directions."""
    from gpu4d import plot

    (rx, ry), step = found.phase.shape, found.phase.pixel_size
    k = np.hypot(np.fft.fftfreq(rx, step)[:, None], np.fft.rfftfreq(ry, step))
    width = 1 / (max(rx, ry) * step)
    number = np.rint(k / width).astype(int).ravel()
    seen = min(number.max(), math.ceil(2.2 * radius / width)) + 1
    count = np.maximum(np.bincount(number)[:seen], 1)
    means = np.bincount(number, found.transfer.ravel())[:seen] / count
    caption = f"The part of a weak phase that is found, at every frequency, mean over directions: {found.slope:.3g} of this object."
    marks = [(radius, "α/λ"), (2 * radius, "2α/λ")]
    drawn = plot.profile(np.arange(seen)[1:] * width, means[1:], title, marks=marks, pixel_size=1.0, units="transfer", log=False)
    return Picture(name, PHASE, title, caption), drawn


def _plane(transfer: np.ndarray, phase: RealSlice) -> DiffractionSlice:
    """Return the transfer on the whole plane of frequencies, with zero in the middle."""
    rx, ry = phase.shape
    rows, columns = np.fft.fftshift(np.fft.fftfreq(rx, 1 / rx)).astype(int), np.fft.fftshift(np.fft.fftfreq(ry, 1 / ry)).astype(int)
    turned = columns < 0  # the other half is that of the opposite frequency
    plane = transfer[np.where(turned, -rows[:, None], rows[:, None]) % rx, np.abs(columns)]
    size, units = (1 / (rx * phase.pixel_size), f"1/{phase.pixel_units}") if rx == ry else (1.0, "px")
    return DiffractionSlice(plane, "transfer of the phase", "1", size, units)


def said_of(aberrations: dict[str, float], how: str = "were corrected") -> str:
    """Say which aberrations were corrected."""
    if not aberrations:
        return "The probe is taken to have no aberrations."
    lengths = [f"{name} {value:.4g} Å" for name, value in aberrations.items() if name.startswith("C")]
    return f"Aberrations that {how}: {', '.join(lengths)}."
