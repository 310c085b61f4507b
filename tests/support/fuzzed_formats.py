"""Files of detectors with some bytes changed, opened and read: what became of each. Runs in a process of its own, which may end.

``python fuzzed_formats.py FOLDER`` reads lines and answers each with one. ``FILE<tab>CLASS`` takes a subclass of `FormatTests` from a test
file, a number is a case of that class.
"""

import importlib.util
import logging
import resource
import sys
from pathlib import Path

import numpy as np
from fuzzed_files import change

from gpu4d.data.datacube import DataCube
from gpu4d.errors import Gpu4dError

SPARE = 1 << 30  # bytes of address space beyond what the process has when it begins: no file of some kilobytes may ask for more
MOST_BYTES = 64 << 20  # of patterns that are read: the files hold some kilobytes, compressed ones a hundred times as many


def of_file(path: str, name: str):
    """Return an object of a class in a test file."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)()


class Fuzzed:
    """A file of a format, or several that belong together, of which one is damaged at a time."""

    def __init__(self, tests, folder: Path):
        self.tests, self.path = tests, folder / f"scan{tests.ending}"
        self.expected = tests.write(self.path)
        self.files = sorted(p for p in folder.rglob("*") if p.is_file())
        self.whole = {p: p.read_bytes() for p in self.files}

    def case(self, number: int) -> str:
        """Say what became of a case: same, other, refused. Anything else that is raised is a fault."""
        rng = np.random.default_rng(number)
        file = self.files[int(rng.integers(0, len(self.files)))]
        bad = bytes(change(rng, self.whole[file])) if self.whole[file] else b"x"
        file.write_bytes(bad)
        try:
            return self._read()
        except Gpu4dError as error:
            return "refused" if str(error).isprintable() else f"fault: more than one line: {error!r}"
        except Exception as error:
            return f"fault: {type(error).__name__}: {error}".replace("\n", " ")
        finally:
            written = file.read_bytes() != bad
            file.write_bytes(self.whole[file])
            if written:
                print("fault: the file was written to", flush=True)

    def _read(self) -> str:
        if not self.tests.format.recognise(str(self.path), b"" if self.path.is_dir() else self.path.read_bytes()[:512]):
            return "refused"
        opened = self.tests.format.open(str(self.path), self.tests.options())
        cube = DataCube(opened.source, opened.calibration, opened.metadata, opened.detector_mask, opened.name)
        if cube.nbytes > MOST_BYTES:
            return f"fault: {cube.shape} of {cube.dtype} are promised for a file of some kilobytes"
        values = np.array(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1])))
        return "same" if values.shape == self.expected.shape and np.array_equal(values, self.expected) else "other"


def main():
    logging.getLogger("gpu4d").setLevel(logging.CRITICAL)
    fuzzed = None
    for line in sys.stdin:
        file, tab, name = line.strip().partition("\t")
        if not tab:
            print(fuzzed.case(int(line)), flush=True)
            continue
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        folder = Path(sys.argv[1]) / f"{Path(file).stem}-{name}"
        folder.mkdir()
        fuzzed = Fuzzed(of_file(file, name), folder)
        fuzzed.case(0)  # imports and compiles what reading needs
        with open("/proc/self/statm") as status:
            used = int(status.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
        print("ready", flush=True)


if __name__ == "__main__":
    main()
