"""Glasses: radial distribution function, fluctuation microscopy and strain from diffuse rings."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return list(__all__)
