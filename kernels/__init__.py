"""CUDA sources (`x.cu`, read as package data) and their launchers (`x.py`), one pair per operation.

A launcher has the name and the signature of the definition it is the twin of.
"""

from importlib.resources import files

if __name__ != "gpu4d.kernels":
    raise ImportError("this folder is installed as gpu4d.kernels; import that")


def source(name: str) -> str:
    """Text of one CUDA source, for example ``source("masked_sums.cu")``."""
    return files(__package__).joinpath(*name.split("/")).read_text(encoding="utf-8")
