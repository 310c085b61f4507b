"""Example inputs of `correlation_map`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import bragg_frames, with_gaps


def examples() -> list[Example]:
    """Each kind of power; odd and non-square detectors; gaps."""
    from gpu4d.bragg.hybrid_correlation import template_spectrum
    from gpu4d.probe import synthetic, template

    def one(label: str, patterns: np.ndarray, power: float) -> Example:
        kernel = template(synthetic(patterns.shape[1:], 3.2))
        return Example(label, (patterns, template_spectrum(kernel)), {"power": power}, double=1e-9)

    counts = bragg_frames((33, 40), 2)
    powers = [one(f"power-{power}", counts, power) for power in (1.0, 0.85, 0.0)]
    gaps = with_gaps(bragg_frames((30, 27), 3, "float32"))
    return [*powers, one("gaps", gaps, 0.85), one("none", counts[:0], 0.85), one("one", bragg_frames((32, 32), 1, "uint8"), 0.5)]
