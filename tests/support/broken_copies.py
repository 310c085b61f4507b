"""Copies of CUDA sources that are broken on purpose, for tests of the tests."""

from gpu4d.device.backend import inlined


def broken_copy(file: str, change: tuple[str, str]) -> dict[str, str]:
    """Return the source of a file, with one place changed, as `HostBackend(sources=)` takes it."""
    old, new = change
    text = inlined(file)
    assert text.count(old) == 1, "the source has changed: break it elsewhere"
    return {file: text.replace(old, new)}
