"""Tests of what every file format must do. A package with its own format can inherit them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Source
from gpu4d.errors import InputError
from gpu4d.io.format import Format, Opened, OpenOptions
from gpu4d.io.formats import known_formats
from gpu4d.testing.sources import SourceTests

HEAD = 512  # bytes of a file that `recognise` is given
OTHERS = (b"", b"\0" * HEAD, b"a text file\n" * 50, bytes(range(256)) * 2)  # heads of files that are of no format


class FormatTests(SourceTests):
    """Tests of a `Format` and of the sources it opens, for pytest. A subclass names the format and writes a file of it.

    Attributes
    ----------
    format : Format
        The format under test.
    ending : str
        Ending of its files. Files with another ending are tried too, because formats are recognised by content.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.io.formats.npy import Npy
    >>> class TestNpy(FormatTests):
    ...     format, ending = Npy(), ".npy"
    ...     def write(self, path):
    ...         data = np.arange(3 * 4 * 5 * 6, dtype="uint16").reshape(3, 4, 5, 6)
    ...         with open(path, "wb") as file:
    ...             np.save(file, data)
    ...         return data
    >>> TestNpy().test_has_a_name()
    """

    format: Format
    ending = ""

    def write(self, path: Path) -> np.ndarray:
        """Write a file with one scan of a few kilobytes, and return its patterns (Rx, Ry, Qx, Qy).

        Let Rx, Ry, Qx and Qy be different numbers, so that exchanged axes are seen. Other files that belong to the scan may lie
        beside it; a format whose scans are folders makes the folder `path`.
        """
        raise NotImplementedError

    def options(self) -> OpenOptions:
        """Return the options that are needed to open the file. None by default."""
        return OpenOptions()

    def make(self, tmp_path: Path) -> tuple[Source, np.ndarray]:
        """Return the source of a file, and its patterns."""
        path, expected = self._file(tmp_path)
        return self.format.open(str(path), self.options()).source, expected

    def test_has_a_name(self):
        """Test that the format has a name for messages."""
        assert isinstance(self.format, Format)
        assert self.format.name.isidentifier() and self.format.accepts, "name is one word, accepts says what it takes"

    def test_recognises_its_files_by_content(self, tmp_path):
        """Test that files are recognised by their first bytes, under any name."""
        for name in (f"scan{self.ending}", "scan.other"):
            path, _ = self._file(tmp_path, name)
            assert self.format.recognise(str(path), _head(path)), f"{name} is not recognised"

    def test_leaves_other_files_alone(self, tmp_path):
        """Test that it refuses empty files, text and numbers, and that no format that is asked before takes its files."""
        path = tmp_path / f"other{self.ending}"
        for head in OTHERS if not self.format.folders else ():
            path.write_bytes(head)
            assert not self.format.recognise(str(path), head), f"a file that begins with {head[:20]!r} is taken"
        path, _ = self._file(tmp_path)
        for other in known_formats():
            if type(other) is type(self.format):
                break  # formats behind it in the table are not asked
            if other.folders == self.format.folders:
                assert not other.recognise(str(path), _head(path)), f"{other.name} takes the file before"

    def test_gives_what_a_cube_is_made_of(self, tmp_path):
        """Test that opening gives a source, a calibration, metadata and a name."""
        path, expected = self._file(tmp_path)
        opened = self.format.open(str(path), self.options())
        assert isinstance(opened, Opened) and isinstance(opened.source, Source) and isinstance(opened.calibration, Calibration)
        assert isinstance(opened.metadata, dict) and opened.name
        assert opened.detector_mask is None or np.shape(opened.detector_mask) == expected.shape[2:]

    def test_a_truncated_file_is_an_input_error(self, tmp_path):
        """Test that a file without its end is an error, and that no patterns are made up."""
        path, _ = self._file(tmp_path)
        cut = max((p for p in tmp_path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)  # the one with the patterns
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        assert self._refused(path, self.options()), "half a file is opened and read without an InputError"

    def test_a_dataset_that_is_not_there_is_an_input_error(self, tmp_path):
        """Test that an unknown dataset is an error, also if the format has no datasets to choose from."""
        path, _ = self._file(tmp_path)
        options = dataclasses.replace(self.options(), dataset="/no/such/dataset")
        assert self._refused(path, options), "a dataset that is not there gives no InputError"

    def _refused(self, path: Path, options: OpenOptions) -> bool:
        """Return True if opening a file or reading all of it is an InputError."""
        try:
            source = self.format.open(str(path), options).source
            source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))
        except InputError:
            return True
        return False

    def _file(self, folder: Path, name: str | None = None) -> tuple[Path, np.ndarray]:
        path = folder / (name or f"scan{self.ending}")
        return path, self.write(path)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file, as `recognise` gets them; none of a folder."""
    return b"" if path.is_dir() else path.read_bytes()[:HEAD]
