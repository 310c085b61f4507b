"""Virtual environments of the peers, one each; made once and kept."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Environment:
    """What a peer needs: packages by name, and the modules that must import for the environment to count as made."""

    name: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    script: str
    optional: tuple[str, ...] = ()  # installed apart, so that the peer is there without them


ENVIRONMENTS = {
    e.name: e
    for e in (
        Environment("py4DSTEM", ("py4dstem==0.14.18",), ("py4DSTEM",), "py4dstem_tasks.py"),
        Environment(
            "LiberTEM",
            ("libertem==0.16.0", "libertem-blobfinder==0.6.1"),
            ("libertem.api", "libertem_blobfinder.udf.correlation"),
            "libertem_tasks.py",
            optional=("ptychography40==0.1.0",),
        ),
        Environment(
            "quantem",
            ("torch==2.13.0", "torchvision==0.28.0", "quantem==0.1.10"),
            ("quantem.diffraction.bragg_vectors",),
            "quantem_tasks.py",
        ),
        Environment(
            "fast-acbf",
            ("torch===2.13.0", "torchvision===0.28.0", "fast-acbf==0.9.1"),
            ("fast_acbf.solver",),
            "fast_acbf_tasks.py",
        ),
    )
}
NEWEST_PYTHON = (3, 12)  # py4DSTEM 0.14.18 stays with NumPy 1.26, which has no wheels beyond


class SetupError(RuntimeError):
    """An environment cannot be made; the message is the installer's."""


def default_folder() -> pathlib.Path:
    """Where environments are kept unless a folder is given."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "gpu4d" / "peers"


@functools.cache  # the imports it tries take seconds
def python_of(environment: Environment, folder: pathlib.Path) -> pathlib.Path:
    """The interpreter of the environment, which is made if it is not there or does not import what it must.

    Raises
    ------
    SetupError
    """
    place = folder / environment.name
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    imports = "import " + ", ".join(environment.modules)
    if python.exists() and _run([str(python), "-c", imports]) is None:
        return python
    folder.mkdir(parents=True, exist_ok=True)
    steps = [[str(_interpreter()), "-m", "venv", str(place)], [str(python), "-m", "pip", "install", "--quiet", *environment.packages]]
    for step in steps:
        failed = _run(step)
        if failed:
            raise SetupError(failed)
    for package in environment.optional:
        _run([str(python), "-m", "pip", "install", "--quiet", package])  # a task that needs it will say that it is missing
    failed = _run([str(python), "-c", imports])
    if failed:
        raise SetupError(failed)
    return python


def _interpreter() -> pathlib.Path:
    """A Python that the peers' packages have wheels for: this one, or an older one beside it."""
    if sys.version_info[:2] <= NEWEST_PYTHON:
        return pathlib.Path(sys.executable)
    import shutil

    for name in ("python3.12", "python3.11"):
        if found := shutil.which(name):
            return pathlib.Path(found)
    raise SetupError(f"no Python up to {'.'.join(map(str, NEWEST_PYTHON))} found: the peers have no packages for {sys.version.split()[0]}")


def _run(command: list[str]) -> str | None:
    """None, or the last line of what the command complained of."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    )
    if done.returncode == 0:
        return None
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and not line.startswith(("WARNING", "[notice]"))]
    return lines[-1].strip() if lines else f"{command[0]} ended with code {done.returncode}"
