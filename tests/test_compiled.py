"""Compiled code on disk is made from the sources that are there, and gives the bits of the process that compiled it."""

import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from gpu4d import compiled, compiled_cache, compiled_pieces

TRIED = pytest.mark.skipif(not compiled_pieces.OF_PIECES, reason="pieces were not tried with this version of numba")

ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from toy import outer
print(outer.twice(1.0), sum(outer.twice.stats.cache_hits.values()))
"""

INNER = """
import numpy as np
from gpu4d.compiled_cache import keep_on_disk
from numba import njit
{above}
FACTOR = {factor}
TABLE = np.array([{entry}])

@njit({options})
def scaled(x):
    '''{words}'''
    return FACTOR * x * TABLE[0]
"""

OUTER = """
from gpu4d.compiled_cache import keep_on_disk
from numba import njit

def twice(x):
    return scaled(x)

twice = keep_on_disk(njit(twice))

from toy.inner import scaled
"""


def _package(folder, factor=2.0, entry=1.0, words="Scale.", above="", options=""):
    """A function, and its helper in another file."""
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text(INNER.format(factor=factor, entry=entry, words=words, above=above, options=options))
    (folder / "outer.py").write_text(OUTER)


@pytest.fixture
def ask(monkeypatch):
    """Import the package as a new process would, and return what its function gives, and whether its code was on disk."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # sources are edited within one second
    made = compiled_cache.folder_for

    def asked(folder, kept=None):
        monkeypatch.setattr(compiled_cache.config, "CACHE_DIR", str(kept or ""))
        made.cache_clear()
        for name in ("toy", "toy.outer", "toy.inner"):
            sys.modules.pop(name, None)
        with monkeypatch.context() as patched:
            patched.syspath_prepend(str(folder))
            outer = importlib.import_module("toy.outer")
        return outer.twice(1.0), sum(outer.twice.stats.cache_hits.values())

    yield asked
    made.cache_clear()
    for name in ("toy", "toy.outer", "toy.inner"):
        sys.modules.pop(name, None)


def _ask_a_process(folder):
    beside_it = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}  # where `ask` keeps code, too
    ran = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", ASK, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=beside_it,
        timeout=120,
    )
    value, hits = ran.stdout.split()
    return float(value), int(hits)


def test_only_what_changes_the_code_compiles_it_again(tmp_path, ask):
    _package(tmp_path / "toy")
    assert ask(tmp_path) == (2.0, 0)
    assert _ask_a_process(tmp_path) == ask(tmp_path) == (2.0, 1), "the second start compiles nothing"
    _package(tmp_path / "toy", words="Scale a number. This page was edited.", above="# A comment.\n\n\nunused = 3")
    os.utime(tmp_path / "toy" / "outer.py", (1, 1))
    assert ask(tmp_path) == (2.0, 1), "comments, documentation, lines above and times of files do not count"
    _package(tmp_path / "toy", factor=3.0)
    assert ask(tmp_path) == (3.0, 0), "outer.py is the same file, but a constant of what it calls is not"
    assert ask(tmp_path) == (3.0, 1)
    _package(tmp_path / "toy", factor=3.0, entry=2.0)
    assert ask(tmp_path) == (6.0, 0), "an entry of a table"
    _package(tmp_path / "toy", factor=3.0, entry=2.0, options="fastmath={'nsz', 'reassoc', 'arcp', 'contract'}")
    assert ask(tmp_path) == (6.0, 0), "an option of numba"
    assert _ask_a_process(tmp_path) == (6.0, 1), "the order of flags is not the same in every process"


def test_where_the_user_keeps_compiled_code(tmp_path, ask):
    _package(tmp_path / "toy")
    assert [ask(tmp_path, tmp_path / "kept") for _ in range(2)] == [(2.0, 0), (2.0, 1)]
    assert not list((tmp_path / "toy").glob("__pycache__/*.nbi")) and list((tmp_path / "kept").glob("*/outer.twice.*.nbi"))


def test_a_damaged_file_is_compiled_again(tmp_path, ask):
    _package(tmp_path / "toy")
    ask(tmp_path, tmp_path / "kept")
    for kind in ("nbi", "nbc"):
        (file,) = (tmp_path / "kept").glob(f"*/*.{kind}")
        file.write_bytes(file.read_bytes()[:40])
        assert ask(tmp_path, tmp_path / "kept") == (2.0, 0), kind


def test_without_a_compiler(tmp_path):
    _package(tmp_path / "toy")
    code = ASK.replace(", sum(outer.twice.stats.cache_hits.values())", "")
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        timeout=60,
    )
    assert ran.returncode == 0 and float(ran.stdout) == 2.0, ran.stderr


@pytest.fixture
def no_folder(monkeypatch, tmp_path):
    """Nothing can be written but temporary folders."""

    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    compiled_cache.folder_for.cache_clear()
    compiled_cache._temporary.cache_clear()
    yield
    compiled_cache.folder_for.cache_clear()
    compiled_cache._temporary.cache_clear()


def test_a_folder_that_cannot_be_written_is_a_remark(no_folder, caplog, tmp_path):
    folder = compiled_cache.folder_for(tmp_path)
    assert folder.is_dir() and tmp_path not in folder.parents
    assert "NUMBA_CACHE_DIR" in caplog.text and str(tmp_path) in caplog.text
    assert compiled_cache.folder_for(tmp_path / "other") == folder, "one folder for the process"


def test_a_full_disk_is_a_remark(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(compiled_cache, "folder_for", lambda sources: tmp_path)
    kept = compiled_cache.keep_on_disk(njit(lambda x: x + 1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled_cache.caching.IndexDataCacheFile, "save", full)
    assert kept(1) == 2 and kept(1.5) == 2.5
    assert caplog.text.count("No space left on device") == 1


FIND = """
import sys, numpy as np, gpu4d
from gpu4d.bragg.likelihood.poisson_fit import disk_profile, poisson_fit
rng = np.random.default_rng(0)
probe = gpu4d.probe.synthetic((64, 64), 5.0)
places = np.array([[20.3, 18.2], [41.7, 22.4], [31.2, 44.9]])
one = sum(200 * gpu4d.probe.synthetic((64, 64), 5.0, center=tuple(p)) for p in places)
patterns = rng.poisson(one + 0.5, (6, 64, 64)).astype(np.uint16)
profile = disk_profile(probe)
starts = np.repeat(np.round(places)[None], 6, axis=0)
fit = poisson_fit(patterns, starts[..., 0], starts[..., 1], np.full(6, 3), profile.table, profile.pixels, parameters=6)
disks = gpu4d.find_bragg_disks(patterns, gpu4d.probe.template(probe), refine="correlation")
np.savez(sys.argv[1], x=fit.x, y=fit.y, **{name: disks.flat(name) for name in disks.fields})
"""


@pytest.mark.slow
def test_the_process_that_compiles_gives_the_same_bits(tmp_path):
    results = []
    for name in ("compiled", "read"):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        subprocess.run([sys.executable, "-c", FIND, str(tmp_path / f"{name}.npz")], check=True, env=environment, timeout=300)
        results.append(np.load(tmp_path / f"{name}.npz"))
    first, second = results
    assert len(first["qx"]) == first["x"].size == 18 and np.isfinite(first["x"]).all()
    for name in first.files:
        assert first[name].tobytes() == second[name].tobytes(), name


def _sum_of(values):
    total = np.float32(0)
    for value in values:
        total += value
    return total


def _power(value, times):
    made = value
    for _ in range(times - 1):
        made *= value
    return made


@TRIED
@pytest.mark.parametrize("kind", [compiled.helper, compiled.routine])
def test_helpers_are_machine_code_only_inside_entries(kind):
    """Then there is one copy of a helper's code to run, in the process that compiles as in those that read it."""
    piece = kind(compiled.KEEPS_NAN)(_sum_of)
    whole = njit(lambda values: 2 * piece(values))
    assert whole(np.arange(5, dtype=np.float32)) == 20
    (made,) = piece.overloads.values()
    name = made.fndesc.mangled_name
    assert not made.library.codegen._engine.is_symbol_defined(name)
    assert name in made.library.get_llvm_str() and made.library.get_pointer_to_function(name) == 0


def _with_constant_and_variable(piece):
    """Return compiled code that calls a piece with the constants 2 and 3, and with a variable."""

    def both(value, times):
        count = 3  # numba tries the constant first
        if times:
            count = times
        return piece(value, 2) + piece(value, count)

    return njit(both)


@TRIED
def test_one_version_for_constants_and_variables():
    piece = compiled.helper()(_power)
    whole = _with_constant_and_variable(piece)
    assert whole(3.0, 0) == 9 + 27 and whole(3.0, 4) == 9 + 81
    assert len(piece.overloads) == 1


def test_a_version_of_numba_that_was_not_tried_compiles_as_always(monkeypatch):
    monkeypatch.setattr(compiled_pieces, "_WAS_TRIED", False)
    piece = compiled_pieces.one_version_of_constants(njit(_power))
    whole = _with_constant_and_variable(piece)
    assert whole(3.0, 0) == 9 + 27 and whole(3.0, 4) == 9 + 81
    assert len(piece.overloads) == 2, "one for a constant, one for a variable"


@TRIED
def test_compiled_code_counts_no_references(monkeypatch):
    """An entry may make arrays only if it says so."""
    monkeypatch.setattr(compiled, "keep_on_disk", lambda function: function)
    monkeypatch.setattr(compiled, "ENTRIES", {})

    def twice(values):
        made = np.empty(values.size)
        for i in range(values.size):
            made[i] = 2 * values[i]
        return made.sum()

    assert compiled.entry(allocates=True)(twice)(np.ones(3)) == 6
    with pytest.raises(TypingError, match="empty"):
        compiled.entry()(twice)(np.ones(3))


@TRIED
def test_garbage_is_collected_as_before_after_compiling(monkeypatch):
    monkeypatch.setattr(compiled, "keep_on_disk", lambda function: function)
    monkeypatch.setattr(compiled, "ENTRIES", {})
    before, seen = gc.get_threshold(), []
    monkeypatch.setattr(compiled_pieces.gc, "set_threshold", lambda *given, set=gc.set_threshold: (seen.append(given), set(*given)))
    compiled.entry()(_sum_of)(np.ones(3))
    assert gc.get_threshold() == before and compiled_pieces.COLLECTIONS in seen
