"""Every result that the front door returns comes back from a file as it was, and has names for its axes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gpu4d
from gpu4d.data.storable import Storable, class_named, known_classes
from gpu4d.testing.example_results import WITH_STRUCTURES, classes, example
from gpu4d.testing.results import ResultTests, filled

TABLE = Path(__file__).parents[1] / "project" / "test_array_arguments.py"


def listed():
    """Names in the table of results, beside the table of public functions."""
    tree = ast.parse(TABLE.read_text(encoding="utf-8"))
    (names,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "RESULTS"]
    return ast.literal_eval(names)


NAMES = sorted({*listed(), *classes()})


@pytest.mark.parametrize("name", NAMES)
class TestEveryResult(ResultTests):
    """A class without a round trip fails here, and so does a result of the table that has no class to be saved by."""

    @pytest.fixture(autouse=True)
    def _of_the_table(self, name, need):
        if name in WITH_STRUCTURES:
            need("gemmi")
        self.name = name

    def make(self):
        return example(self.name)


def test_reading_a_file_imports_the_room_of_its_result_alone(tmp_path):
    gpu4d.save(tmp_path / "r.h5", {"disk": filled(gpu4d.probe.Disk)})
    code = (
        f"import sys; from gpu4d.io import read_emd; before = set(sys.modules); disk = read_emd({str(tmp_path / 'r.h5')!r})['disk'];"
        "rooms = {m.split('.')[1] for m in set(sys.modules) - before if m.startswith('gpu4d.')}; print(type(disk).__name__, *sorted(rooms))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, *rooms = done.stdout.split()
    assert name == "Disk" and "probe" in rooms and not {"crystal", "bragg", "calibrate", "ptychography", "workflow"} & set(rooms)


def test_importing_a_room_makes_its_classes_known():
    """Also those of results that are parts of others: a file names all of them by the room."""
    own = {name: kind for name, kind in known_classes().items() if kind.__module__.startswith("gpu4d.") and "test" not in kind.__module__}
    names = {name for name, kind in own.items() if getattr(sys.modules[kind.__module__], kind.__name__, None) is kind}  # not of docstrings
    rooms = sorted({name.split(".")[1] for name in names})
    code = (
        "import sys, importlib\nfrom gpu4d.data.storable import class_named\n"
        f"for name in {sorted(names)!r}: print(name, class_named(name).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(names) > 90 and len(rooms) > 12


@pytest.mark.parametrize("name", ["gpu4d.crystal.NoSuch", "gpu4d.nosuch.Strain", "gpu4d.cli.Strain", "os.path.join", "gpu4d.kernels.x", ""])
def test_a_name_that_is_no_result_is_one_line(name):
    before = set(sys.modules)
    with pytest.raises(gpu4d.errors.InputError, match="which is not known here") as said:
        class_named(name)
    assert "\n" not in str(said.value)
    assert "gpu4d.cli" not in set(sys.modules) - before, "a file's text imports rooms alone"


def test_a_class_of_another_package_needs_nothing_but_the_base():
    class Height(Storable, stored="map: Rx Ry [Å]"):
        def __init__(self, values):
            self.values = values

        def to_parts(self):
            return {"values": self.values}

        @classmethod
        def from_parts(cls, parts):
            return cls(parts["values"])

    assert class_named(Height.stored_name()) is Height and Height.stored_as("map").unit == "Å"
