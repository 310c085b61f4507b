"""Example inputs of `event_patterns`."""

from operations.comparing import Example
from operations.examples.event_sums import PIXELS, events


def examples() -> list[Example]:
    """Repeated pixels, empty patterns, no patterns."""
    return [Example(label, (*given, PIXELS)) for label, given in events().items()]
