"""LiberTEM's environment with gpu4d in it, for `udfs.py` and `conformance_libertem.py`."""

from __future__ import annotations

import os
import pathlib

from gpu4d.benchmarks.peers.environments import Environment

import gpu4d

NEEDS = ("h5py>=3.15", "hdf5plugin>=4.4", "array-api-compat>=1.11.2", "lazy-loader>=0.4", "scipy>=1.13", "numba>=0.61")  # of gpu4d
TESTS = (
    "pytest<9", "pytest-asyncio>0.11,<1", "nest-asyncio", "pytest-env", "pytest-benchmark", "aiohttp", "websockets", "ipykernel", "joblib",
    "setuptools<81",
)  # fmt: skip  # of LiberTEM's own tests
LIBERTEM = Environment(
    "LiberTEM with gpu4d",
    ("libertem==0.16.0", *NEEDS, *TESTS),
    ("libertem.api", "lazy_loader", "array_api_compat", "hdf5plugin", "pytest_asyncio"),
    "udfs_in_libertem.py",
    optional=("ptychography40==0.1.0",),
)
BESIDE = ("kernels", "cpu_fallback", "benchmarks")  # folders that lie beside the package in a checkout, and in it when it is installed


def environment_variables(folder: pathlib.Path, **more: str) -> dict[str, str]:
    """Return variables with which LiberTEM's Python finds gpu4d, by links in `folder`, and nothing else of this environment."""
    package = pathlib.Path(gpu4d.__file__).resolve().parent
    links = folder / "path"
    links.mkdir()
    for source in (package, *(package.parent / name for name in BESIDE if not (package / name).is_dir())):
        (links / source.name).symlink_to(source, target_is_directory=True)
    return os.environ | {"PYTHONPATH": str(links)} | more
