"""Suggest settings of DPC, magnetic maps and ptychography from the optics, the steps and the centre of mass."""

from __future__ import annotations

import math

from gpu4d import physics
from gpu4d.deflection.validity import DEPTHS, PROBE_WIDTH, SCATTERED
from gpu4d.probe.real_space import depth_of_focus
from gpu4d.workflow.advising.look import Look
from gpu4d.workflow.advising.suggestion import Suggestion, suggests
from gpu4d.workflow.stages.aberrations import LEAST_RADIUS


def steps_in_words(look: Look) -> str:
    """Compare the step with what side bands need, and with the probe. Say what is missing if that cannot be done."""
    k0, step = look.disk_frequency, look.step
    if k0 is None or step is None:
        c = look.state.calibration
        missing = [name for name in ("energy", "semiangle", "r_pixel") if getattr(c, name) is None]
        return f"the step cannot be compared with λ/(4α): {', '.join(missing) or 'the disk'} not known"
    least, wide = 1 / (4 * k0), PROBE_WIDTH / k0
    fine = (
        "fine enough for side bands"
        if step <= least * 1.001
        else "coarser: side bands lose high frequencies, so take parallax out of focus"
    )
    return f"a step of {step:.3g} Å against λ/(4α) = {least:.3g} Å ({fine}); a probe in focus is {wide:.3g} Å wide"


def counting_error(look: Look) -> str:
    """Say which part of the centre of mass is counting noise: the rms radius of an even disk over √N."""
    if look.disk is None or not look.counted or look.counts <= 0:
        return "the error of a centre of mass is not known"
    error = look.disk.radius / 2 / math.sqrt(look.counts)
    return f"counts alone give the centre of mass an error of {error:.2g} px in each direction at a position"


@suggests("dpc.descan", "dpc.field_free", "magnetic.descan", "magnetic.field_free")
def _descan(look: Look) -> Suggestion | None:
    moves, left = look.deflection
    if not math.isfinite(moves):
        return None
    return Suggestion(
        f"a plane through the centres of mass changes by {moves:.2g} px over the scan, and leaves {left:.2g} px rms; {counting_error(look)}"
    )


@suggests("magnetic.second", "magnetic.induction")
def _magnetic(look: Look) -> Suggestion | None:
    c, (_, left) = look.state.calibration, look.deflection
    if not math.isfinite(left):
        return None
    if c.q_pixel is None:
        return Suggestion(f"deflections of {left:.2g} px rms; {counting_error(look)}; the size of a detector pixel is not known")
    field = 4.1357e4 * left * c.q_pixel  # T nm per 1/Å: h / e
    return Suggestion(f"deflections of {left:.2g} px rms, as of {field:.2g} T nm if all of it were magnetic; {counting_error(look)}")


@suggests("dpc.lambda1", "dpc.lambda2")
def _lambdas(look: Look) -> Suggestion:
    longest = max(look.cube.scan_shape)
    return Suggestion(
        f"the lowest frequency of {longest} positions is {1 / longest:.2g}, the highest 0.5 cycles per position: λ₁ below "
        f"{longest**-2:.2g} and λ₂ "
        "below 1 change little"
    )


@suggests("dpc.thickness")
def _thickness(look: Look) -> Suggestion | None:
    c, parts = look.state.calibration, []
    if look.outside is not None:
        many = "more" if look.outside > SCATTERED else "less"
        parts.append(
            f"{100 * look.outside:.1f} % of the electrons are outside of the disk, {many} than the {100 * SCATTERED:.0f} % of a thin "
            f"specimen"
        )
    if c.semiangle is not None and c.energy is not None:
        depth = DEPTHS * depth_of_focus(c.semiangle, c.energy)
        parts.append(f"up to 1.7 λ/α² = {depth:.3g} Å a specimen is a projection")
    return Suggestion("; ".join(parts)) if parts else None


@suggests("dpc.bragg_angle")
def _bragg_angle(look: Look) -> Suggestion | None:
    c = look.state.calibration
    if look.spacing is None or c.energy is None or c.q_pixel is None:
        return None
    angle = 1e3 * physics.wavelength(c.energy) * look.spacing * c.q_pixel / 2
    return Suggestion(f"the lattice has a Bragg angle of {angle:.3g} mrad")


@suggests("dpc.boundary", "dpc.padding_factor", "dpc.max_iterations")
def _boundary(look: Look) -> Suggestion:
    rx, ry = look.cube.scan_shape
    return Suggestion(f"the scan has {rx}×{ry} positions; mirror needs neither padding nor iterations")


@suggests("phase.aberrations", "phase.defocus")
def _aberrations(look: Look) -> Suggestion:
    return Suggestion(steps_in_words(look))


@suggests("phase.mode")
def _mode(look: Look) -> Suggestion | None:
    if look.disk is None:
        return Suggestion("no whole bright-field disk was found")
    enough = "enough" if look.disk.radius >= LEAST_RADIUS else f"fewer than {LEAST_RADIUS:g}"
    return Suggestion(f"the disk has a radius of {look.disk.radius:.1f} px, which is {enough} for side bands")


@suggests("phase.epsilon")
def _epsilon(look: Look) -> Suggestion:
    if not look.counted:
        return Suggestion(f"values are no counts: a pattern sums to {look.counts:.3g}")
    dose = "" if look.step is None else f", {look.counts / look.step**2:.2g} e/Å²"
    return Suggestion(f"{look.counts:,.0f} electrons in a pattern (median){dose}")


@suggests("phase.upsample")
def _upsample(look: Look) -> Suggestion:
    return Suggestion(steps_in_words(look))
