"""CUDA sources (`x.cu`, read as package data) and their launchers (`x.py`), named after operations.

A launcher is a CUDA twin: it has the name and the signature of its definition.
"""

from importlib.resources import files

if __name__ != "gpu4d.kernels":
    raise ImportError("this folder is installed as gpu4d.kernels; import that")


def source(name: str) -> str:
    """Return the text of one CUDA source, for example ``source("masked_sums.cu")``."""
    return files(__package__).joinpath(*name.split("/")).read_text(encoding="utf-8")
