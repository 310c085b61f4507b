"""`save` over something that is there already: what is no file is never replaced, permissions and links stay, leftovers are removed."""

import os
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

import gpu4d
from gpu4d import RealSlice
from gpu4d.errors import InputError
from gpu4d.io import leftovers, read_emd

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, links and permissions of POSIX")

ITEMS = {"bf": RealSlice(np.ones((2, 3)))}


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "link")
    os.symlink("/dev/null", tmp_path / "null")
    os.symlink(tmp_path, tmp_path / "folder")
    for name, word in (
        ("pipe", "not a regular file"),
        ("link", "not a regular file"),
        ("null", "not a regular file"),
        ("folder", "directory"),
    ):
        for overwrite in (False, True):
            with pytest.raises(InputError, match=word):
                gpu4d.save(tmp_path / name, ITEMS, overwrite=overwrite)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode) and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "null", "pipe"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_permissions_stay(tmp_path, mode):
    gpu4d.save(tmp_path / "a.h5", ITEMS)
    os.chmod(tmp_path / "a.h5", mode)
    gpu4d.save(tmp_path / "a.h5", {"adf": RealSlice(np.zeros((2, 3)))}, overwrite=True)
    assert stat.S_IMODE(os.stat(tmp_path / "a.h5").st_mode) == mode
    if mode & 0o400:
        assert set(read_emd(tmp_path / "a.h5")) == {"versions", "adf"}


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    gpu4d.save(tmp_path / "there/real.h5", ITEMS)
    os.symlink("there/real.h5", tmp_path / "link.h5")
    with pytest.raises(InputError, match="exists"):
        gpu4d.save(tmp_path / "link.h5", ITEMS)
    gpu4d.save(tmp_path / "link.h5", {"adf": RealSlice(np.zeros((2, 3)))}, overwrite=True)
    assert os.path.islink(tmp_path / "link.h5") and "adf" in read_emd(tmp_path / "there/real.h5")
    os.symlink("there/new.h5", tmp_path / "dangling.h5")
    gpu4d.save(tmp_path / "dangling.h5", ITEMS)
    assert os.path.islink(tmp_path / "dangling.h5") and (tmp_path / "there/new.h5").is_file()
    os.symlink("gone/x.h5", tmp_path / "nowhere.h5")
    with pytest.raises(InputError, match="no such folder"):
        gpu4d.save(tmp_path / "nowhere.h5", ITEMS)


def test_what_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    def other_program(descriptor, sync=os.fsync):
        sync(descriptor)
        (tmp_path / "a.h5").write_text("mine")

    monkeypatch.setattr(os, "fsync", other_program)
    with pytest.raises(InputError, match="exists"):
        gpu4d.save(tmp_path / "a.h5", ITEMS)
    assert (tmp_path / "a.h5").read_text() == "mine" and os.listdir(tmp_path) == ["a.h5"]


# ---------------------------------------------------------------- what a killed process leaves


def aged(path):
    old = time.time() - 2 * leftovers.YOUNG
    os.utime(path, (old, old))


def test_the_file_of_a_killed_process_is_removed_by_the_next(tmp_path):
    code = """
import os, signal, sys, numpy as np, gpu4d
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
gpu4d.save(sys.argv[1], {"x": np.ones((2, 2))})
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5"], check=False, timeout=60)
    (left,) = os.listdir(tmp_path)
    assert left.endswith(".part")
    gpu4d.save(tmp_path / "a.h5", ITEMS)
    assert sorted(os.listdir(tmp_path)) == sorted([left, "a.h5"]), "too young: its process may not hold it yet"
    aged(tmp_path / left)
    gpu4d.save(tmp_path / "a.h5", ITEMS, overwrite=True)
    assert os.listdir(tmp_path) == ["a.h5"]


def test_what_is_being_written_or_is_not_ours_stays(tmp_path):
    ours, other, foreign = tmp_path / ".a.h5.0123abcd.part", tmp_path / ".a.h5.x.y.part", tmp_path / ".b.h5.0123abcd.part"
    for path in (ours, other, foreign):
        path.write_text("x")
        aged(path)
    code = "import sys; from gpu4d.io import leftovers\nwith leftovers.held(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, ours], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"held\n"
        gpu4d.save(tmp_path / "a.h5", ITEMS)
        assert ours.exists()
        writer.stdin.close()
    gpu4d.save(tmp_path / "a.h5", ITEMS, overwrite=True)
    assert not ours.exists() and other.exists() and foreign.exists()
