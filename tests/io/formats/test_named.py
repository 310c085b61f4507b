"""A format that the caller names is tried on files that are no scans of any kind: each is refused in one line, and none hangs."""

import os
import subprocess
import sys

import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.formats import known_formats


@pytest.fixture
def others(tmp_path):
    """Paths at which there is no scan."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello\n" * 100)
    (tmp_path / "bytes").write_bytes(bytes(range(256)) * 20)
    for ending in ("xml", "raw", "mib", "hdr", "ser", "emi", "toml", "zip", "tpx3", "dm4", "rpl", "h5"):
        (tmp_path / f"empty.{ending}").write_bytes(b"")
    return [*map(str, sorted(tmp_path.iterdir())), str(tmp_path / "none"), str(tmp_path / "a\0b"), ""]


@pytest.mark.parametrize("name", [known.name for known in known_formats()])
def test_what_is_no_scan_is_refused_in_one_line(others, name):
    for path in others:
        with pytest.raises(InputError) as caught:
            gpu4d.open(path, format=name, scan_shape="frames")
        assert str(caught.value).isprintable(), (path, caught.value)


def test_words(tmp_path):
    (tmp_path / "a.mib").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.mib is empty"):
        gpu4d.open(tmp_path / "a.mib", format="merlin")
    with pytest.raises(InputError, match="is a folder: the format merlin reads files"):
        gpu4d.open(tmp_path, format="merlin")
    with pytest.raises(InputError, match="is a file: the format zarr reads folders"):
        gpu4d.open(tmp_path / "a.mib", format="zarr")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tpx3")
    code = f"import gpu4d; gpu4d.open({str(tmp_path / 'a.tpx3')!r}, format='timepix3')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "is not a regular file" in done.stderr
