"""Example inputs of `pattern_maximum`."""

from operations.comparing import Example
from operations.patterns import frames


def examples() -> list[Example]:
    """Every kind of stack."""
    return [Example(label, (f,)) for label, f in frames().items()]
