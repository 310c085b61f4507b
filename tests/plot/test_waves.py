"""The picture of a wave: intensity, phase as hue, colour wheel."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.plot.waves import _colours

pytest.importorskip("matplotlib")


def test_hue_is_the_phase_and_brightness_the_amplitude():
    psi = np.array([[1.0, 1j], [-1.0, 0.0]])
    red, green, cyan, dark = _colours(psi).reshape(-1, 3)
    assert red[0] == 1 and red[1] < 0.2 and red[2] < 0.2
    assert green[1] == 1 and green[2] < 0.2
    assert cyan[1] == 1 and cyan[2] == 1 and cyan[0] < 0.2
    assert (dark == 0).all()


def test_a_probe_brings_its_pixel_and_a_width_cuts_the_middle():
    wave = gpu4d.probe.wavefunction(gpu4d.probe.apertures.vortex(20.0, 1), energy=300e3, q_pixel=0.02, shape=(128, 128))
    intensity, phase = gpu4d.plot.wave(gpu4d.probe.real_space(wave, 0.02), "vortex", width=8.0)
    assert intensity.get_title(loc="left") == "vortex" and phase.get_title(loc="left") == "Phase"
    side = round(8.0 / (1 / (128 * 0.02)))
    assert intensity.images[0].get_array().shape == (side, side) and phase.images[0].get_array().shape == (side, side, 3)
    labels = [t.get_text() for t in intensity.texts]
    assert any("Å" in text for text in labels)
    assert [t.get_text() for t in phase.child_axes[0].texts] == ["0", "π/2", "π", "−π/2"]


def test_what_is_no_wave_is_refused():
    for wrong in (np.ones(3), np.full((4, 4), np.nan), "wave"):
        with pytest.raises(InputError, match="wave"):
            gpu4d.plot.wave(wrong)
