"""The front door: every name and room is there, whatever was imported before, and editors and type checkers see it."""

import ast
import importlib
import inspect
import pkgutil
import random
import shutil
import subprocess
import sys

import pytest

import gpu4d

TWINS = ("kernels", "cpu_fallback", "benchmarks")  # installed beside the rooms
ROOMS = sorted(m.name for m in pkgutil.iter_modules(gpu4d.__path__[:1]) if m.ispkg and m.name not in TWINS)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_room_is_there_in_any_order(seed, tmp_path):
    rooms = random.Random(seed).sample(ROOMS, len(ROOMS))
    code = f"import gpu4d\nfor room in {rooms!r}: assert getattr(gpu4d, room).__name__ == f'gpu4d.{{room}}', room\nprint('all')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "all\n", done.stderr


def test_every_name_is_there():
    for name in gpu4d.__all__:
        assert getattr(gpu4d, name) is not None and name in dir(gpu4d)
    assert set(ROOMS) <= set(gpu4d.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'sweeep'; it has .*sweep"):
        _ = gpu4d.sweeep


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_have_one_face(room):
    """A docstring, and in __all__ what users call; a function is never hidden by the module it comes from."""
    module = importlib.import_module(f"gpu4d.{room}")
    for found in pkgutil.walk_packages(module.__path__, f"gpu4d.{room}."):
        importlib.import_module(found.name)
    assert module.__doc__ and module.__all__
    for name in module.__all__:
        assert not inspect.ismodule(getattr(module, name)) or name == "detectors", f"gpu4d.{room}.{name} is a module"


def test_a_checkout_finds_what_lies_beside_its_package(checkout, tmp_path):
    """However gpu4d is installed: the current folder comes first, and there kernels is not inside gpu4d."""
    copy = tmp_path / "checkout"
    for folder in ("gpu4d", "kernels", "cpu_fallback", "benchmarks"):
        shutil.copytree(checkout / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import gpu4d, gpu4d.kernels, gpu4d.cpu_fallback, gpu4d.benchmarks.kernels as b; print(gpu4d.kernels.__file__, b.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name.startswith(str(copy)) for name in done.stdout.split())


def test_the_stub_lists_what_is_there(checkout):
    stub = ast.parse((checkout / "gpu4d" / "__init__.pyi").read_text(encoding="ascii"))
    listed = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert listed == set(gpu4d.__all__)


@pytest.mark.slow
def test_type_checkers_see_signatures(checkout, tmp_path):
    mypy = pytest.importorskip("mypy.api")
    (tmp_path / "use.py").write_text(
        "import gpu4d\nreveal_type(gpu4d.sweep)\nreveal_type(gpu4d.open)\nreveal_type(gpu4d.calibrate.origin)\n"
    )
    out, _, _ = mypy.run(["--config-file", str(checkout / "pyproject.toml"), "--follow-imports=silent", str(tmp_path / "use.py")])
    revealed = [line for line in out.splitlines() if "Revealed type" in line]
    assert len(revealed) == 3 and not any('is "Any"' in line for line in revealed), out
    assert "device" in revealed[0] and "DataCube" in revealed[1] and "Origin" in revealed[2], out
