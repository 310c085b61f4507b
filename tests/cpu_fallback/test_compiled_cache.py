"""Compiled code on disk is made from the sources that are there, those of its helpers included."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gpu4d.cpu_fallback
from gpu4d.cpu_fallback import cache

ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from cpu import outer
print(outer.twice(1.0), sum(outer.twice.stats.cache_hits.values()))
"""


def _package(folder: Path, factor: float) -> None:
    """A folder like `cpu_fallback`: a function, its helper in another file, and the module that keeps the cache."""
    folder.mkdir(exist_ok=True)
    source = Path(cache.__file__).read_text()
    (folder / "cache.py").write_text(source)
    (folder / "__init__.py").write_text("from cpu import cache\ncache.discard_stale()\n")
    (folder / "inner.py").write_text(f"from numba import njit\n\n@njit(cache=True)\ndef scaled(x):\n    return {factor} * x\n")
    (folder / "outer.py").write_text(
        "from numba import njit\nfrom cpu.inner import scaled\n\n@njit(cache=True)\ndef twice(x):\n    return scaled(x)\n"
    )


def _ask(folder: Path, **environment: str) -> tuple[float, int]:
    ran = subprocess.run(
        [sys.executable, "-c", ASK, str(folder)], capture_output=True, text=True, check=True, env={**os.environ, **environment}, timeout=120
    )
    value, hits = ran.stdout.split()
    return float(value), int(hits)


def test_a_changed_helper_is_compiled_into_its_callers(tmp_path):
    _package(tmp_path / "cpu", 2.0)
    assert _ask(tmp_path) == (2.0, 0)
    assert _ask(tmp_path) == (2.0, 1), "the second start compiles nothing"
    _package(tmp_path / "cpu", 3.0)
    assert _ask(tmp_path) == (3.0, 0), "outer.py is the same file, but what it calls is not"
    assert _ask(tmp_path) == (3.0, 1)


def test_where_the_user_keeps_compiled_code(tmp_path):
    elsewhere = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    for factor in (2.0, 3.0):
        _package(tmp_path / "cpu", factor)
        assert _ask(tmp_path, **elsewhere) == (factor, 0)
        assert _ask(tmp_path, **elsewhere) == (factor, 1)
    assert not list((tmp_path / "cpu").glob("__pycache__/*.nbi"))


def test_without_compiled_code(tmp_path):
    _package(tmp_path / "cpu", 2.0)
    code = ASK.replace(", sum(outer.twice.stats.cache_hits.values())", "")
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        timeout=60,
    )
    assert ran.returncode == 0 and float(ran.stdout) == 2.0, ran.stderr


def test_this_very_folder_is_stamped(tmp_path):
    folder = Path(gpu4d.cpu_fallback.__file__).parent
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.glob("*.py"):
        shutil.copy(file, copy)
    assert cache.digest(copy) == cache.digest(folder)
    (copy / "products.py").write_text((copy / "products.py").read_text() + "\n")
    assert cache.digest(copy) != cache.digest(folder)
    shutil.move(copy / "products.py", copy / "products_of_old.py")
    assert cache.digest(copy) != cache.digest(folder)
