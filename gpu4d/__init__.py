"""gpu4d: compute library for 4D-STEM. It uses a GPU if there is one, else the CPU, and both give the same answer.

Axes are (Rx, Ry, Qx, Qy). Units are Å, 1/Å (g = 1/d), mrad, radians and eV. All conventions are in docs/reference/conventions.md.
Names are listed in `__init__.pyi` and imported on first use, so that `import gpu4d` costs a fraction of a second and touches no device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lazy_loader

from gpu4d._version import __version__ as __version__

# In a checkout `kernels`, `cpu_fallback` and `benchmarks` lie beside this folder. In an installed package they lie in it.
_here = Path(__file__).parent
if not (_here / "kernels").is_dir() and (_here.parent / "kernels" / "__init__.py").is_file():
    __path__.append(str(_here.parent))

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a name of the front door on first use."""
    if name not in __all__:
        if (_here / name).is_dir() or (_here / f"{name}.py").is_file():
            raise AttributeError(name)  # `from gpu4d import arrays` asks for the name first, and then imports the module
        if name.startswith("_"):  # asked by tools, hundreds of times: to look for a similar name takes milliseconds
            raise AttributeError(f"module 'gpu4d' has no attribute {name!r}")
        from gpu4d.errors import did_you_mean

        raise AttributeError(f"module 'gpu4d' has no attribute {name!r}{did_you_mean(name, __all__)}; it has {', '.join(__all__)}")
    return _load(name)
