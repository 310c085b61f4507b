"""List detectors by what they deliver, and say which analysis keeps pace with them.

`confirmed` is True where the figure was read in the source that is named. Other figures are those that users quote: check them with the
maker of your detector before you plan with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

EVENTS = "events"  # the key of a rate of events


@dataclass(frozen=True)
class Detector:
    """A detector in one of its modes.

    Attributes
    ----------
    name : str
    shape : (int, int)
        Pixels of a pattern.
    rate : float
        Patterns a second. 0 for detectors that deliver events.
    dtype : str
        As patterns are stored.
    source : str
        Where the figure was read, or who quotes it.
    confirmed : bool
        The figure was read in this source.
    raw : bool
        Patterns are frames in which electrons are still to be counted.
    events : float
        Events a second, at most.
    """

    name: str
    shape: tuple[int, int]
    rate: float
    dtype: str
    source: str
    confirmed: bool
    raw: bool = False
    events: float = 0.0

    @property
    def bytes_per_second(self) -> float:
        """Of patterns as they are stored. Of events, 8 bytes each (a packet of Timepix3 and 4 has 64 bits)."""
        return 8 * self.events if self.events else self.rate * math.prod(self.shape) * np.dtype(self.dtype).itemsize


NO_SOURCE = "often quoted; no source was read"

DETECTORS = (
    Detector("4D Camera", (576, 576), 87e3, "uint16", "Ercius et al., Microsc. Microanal. 2024, doi 10.1093/mam/ozae086", True, raw=True),
    Detector("EMPAD-G2", (128, 128), 10e3, "float32", "Philipp et al., Microsc. Microanal. 2022, title: 10,000 frames/second", True),
    Detector("ARINA, binned to 96×96", (96, 96), 120e3, "uint16", f"{NO_SOURCE} for the mode", False),
    Detector("ARINA, all 192×192", (192, 192), 30e3, "uint16", f"{NO_SOURCE} for the mode", False),
    Detector("Cheetah, 512×512, 12 bit", (512, 512), 2e3, "uint16", "questions and answers of the maker, amscins.com/faq", True),
    Detector("MerlinEM, 256×256, 12 bit", (256, 256), 1e3, "uint16", "the maker says kilohertz rates (quantumdetectors.com)", False),
    Detector(
        "K2, full frames", (3710, 3838), 400.0, "uint16", "user's guide of the K2 Summit, page 11: 400 full frames a second", True, raw=True
    ),
    Detector("K3, full frames", (4092, 5760), 1500.0, "uint8", NO_SOURCE, False, raw=True),
    Detector("Celeritas, 256×256", (256, 256), 8.2e3, "uint16", NO_SOURCE, False, raw=True),
    Detector("Timepix3, one chip", (256, 256), 0.0, "uint16", "arXiv 2603.09534: systems are limited to 80 Mhits/s", True, events=80e6),
    Detector(
        "Timepix4, one chip", (448, 512), 0.0, "uint16", "3.58 Mhits/s/mm²: CERN indico 1428808; JINST 17 C01044 (2022)", True, events=2.5e9
    ),
)


@dataclass(frozen=True)
class Pace:
    """What keeps pace with a detector.

    Attributes
    ----------
    detector : str
    rate : float
        Patterns a second that it delivers, or events.
    confirmed : bool
        Of its figure.
    largest : str or None
        The technique that takes longest of those that keep pace. None if none does.
    factors : dict of str to float
        How many times the detector's rate each technique takes. Below 1 it falls behind.
    """

    detector: str
    rate: float
    confirmed: bool
    largest: str | None
    factors: dict[str, float]


def keeps_up(rates: Mapping[str, float], detector: Detector) -> Pace:
    """Say which techniques keep pace with a detector.

    Parameters
    ----------
    rates : mapping of str to float
        Patterns a second of every technique, for patterns of the detector's shape and dtype. Under "events", events a second of one
        pass.
    detector : Detector

    Examples
    --------
    >>> pace = keeps_up({"one-pass": 20e3, "strain": 12e3, "orientation": 900.0}, DETECTORS[1])
    >>> pace.largest, pace.factors["one-pass"]
    ('strain', 2.0)
    """
    if detector.events:
        rates = {"one-pass": rates[EVENTS]} if EVENTS in rates else {}
    pace = detector.events or detector.rate
    factors = {name: rate / pace for name, rate in rates.items() if name != EVENTS}
    enough = {name: factor for name, factor in factors.items() if factor >= 1}
    return Pace(detector.name, pace, detector.confirmed, min(enough, key=enough.__getitem__) if enough else None, factors)
