"""A broken package beside gpu4d is left out with one warning that names it. Everything else works."""

import logging
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from own_process import importing

import gpu4d
from gpu4d import extensions
from gpu4d.errors import InputError
from gpu4d.io import formats
from gpu4d.streaming import registered, registered_reductions
from gpu4d.workflow import Recipe, stages

MODULES = {
    "raises_here": "raise OSError('libwrong.so.3:\\ncannot open')",
    "ends_here": "raise SystemExit('no licence')",
    "syntax_error": "def :",
    "some_things": """
import dataclasses
from gpu4d.io.format import Format
from gpu4d.streaming import PerPositionReduction
from gpu4d.workflow import Stage
number = 3
class Hdf5(Format): name, accepts = "hdf5", "mine"
class Nameless(Format): accepts = "mine"
class Abrupt(Format):
    name, accepts = "abrupt", "mine"
    def __init__(self): raise KeyError("driver")
class Fails(Format):
    name, accepts = "fails", "mine"
    def recognise(self, path, head): raise ZeroDivisionError("no head")
    def open(self, path, options): raise KeyError("driver")
class Strain(Stage): name = title = "strain"
class Mean(Stage): name, title, makes = "my_mean", "mine", ("mean_pattern",)
class Section(Stage): name, title, section, settings = "mine", "mine", "bragg", dataclasses.make_dataclass("S", [])
class NoSection(Stage): name, title, settings = "mine", "mine", dataclasses.make_dataclass("S", [])
class Required(Stage): name, title, section, settings = "mine", "mine", "mine", dataclasses.make_dataclass("S", ["x"])
class Good(Stage): name = title = "good"
class Unfinished:
    def update(self, frames, positions): ...
class Total(PerPositionReduction):
    def __init__(self, power=None): pass
    def bytes_needed(self, scan, n_frames): return self.held_bytes(scan, n_frames)
    def update(self, frames, positions): self.put(positions, frames.sum((1, 2))[:, None])
    def finish(self): return self.values.result()[0]
class Asks(Total):
    def __init__(self, power): pass
""",
}
IN_EVERY_GROUP = {
    "absent:X": "ModuleNotFoundError: No module named 'absent'",
    "raises_here:X": "OSError: libwrong.so.3: cannot open",
    "ends_here:X": "SystemExit: no licence",
    "syntax_error:X": "SyntaxError",
    "some_things:absent": "AttributeError",
    "some_things:number": "it names a int, need a class",
}
FORMATS = {
    "some_things:Total": "Total is no Format",
    "some_things:Hdf5": "the format 'hdf5' is there already",
    "some_things:Nameless": "lacks a text: name and accepts",
    "some_things:Abrupt": "KeyError: 'driver'",
}
STAGES = {
    "some_things:Hdf5": "Hdf5 is no Stage",
    "some_things:Strain": "the stage 'strain' is there already",
    "some_things:Mean": "the result 'mean_pattern' is there already",
    "some_things:Section": "the section of the recipe 'bragg' is there already",
    "some_things:NoSection": "needs both: a section that is a name, and a dataclass",
    "some_things:Required": "TypeError",
}
REDUCTIONS = {"some_things:Unfinished": "Unfinished is no Reduction"}


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """A function that installs entry points of a group."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    monkeypatch.setattr(extensions, "entry_points", lambda group: [one for one in found if one.group == group])
    tables = formats.known_formats, stages.known_stages, registered_reductions

    def forget():
        for table in tables:
            table.cache_clear()
        for name in MODULES:
            sys.modules.pop(name, None)

    forget()
    yield lambda group, *values: found.extend(EntryPoint(f"n{len(found):02}", value, group) for value in values)
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize(
    ("group", "own", "good", "table"),
    [
        (formats.GROUP, FORMATS, "some_things:Fails", lambda: [one.name for one in formats.known_formats()]),
        (stages.GROUP, STAGES, "some_things:Good", lambda: [one.name for one in stages.known_stages()]),
        (registered.GROUP, REDUCTIONS, "some_things:Total", lambda: [one.kind.__name__ for one in registered_reductions()]),
    ],
)
def test_each_is_left_out_with_one_warning(group, own, good, table, packages, caplog):
    before = table()
    table_of = {formats.GROUP: formats.known_formats, stages.GROUP: stages.known_stages, registered.GROUP: registered_reductions}
    table_of[group].cache_clear()
    broken = IN_EVERY_GROUP | own
    packages(group, *broken, good)
    with caplog.at_level(logging.WARNING, logger="gpu4d"):
        after = table()
        table()
    assert sorted(set(after) - set(before)) == sorted(
        [good.partition(":")[2] if group == registered.GROUP else good.partition(":")[2].lower()]
    )
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(broken)
    for message, (value, why) in zip(messages, broken.items()):
        package = value.partition(":")[0]
        assert f"of the package {package} (entry point {value} of {group}) is left out: " in message and why in message
        assert message.endswith(f"pip uninstall {package}") and "\n" not in message


def test_the_rest_works(packages, caplog, tmp_path):
    """Other formats recognise their files, recipes are made, and a reduction by name says what is wrong."""
    for group in (formats.GROUP, stages.GROUP, registered.GROUP):
        packages(group, *IN_EVERY_GROUP)
    packages(formats.GROUP, "some_things:Fails")
    packages(registered.GROUP, "some_things:Total", "some_things:Asks")
    data = np.ones((2, 3, 4, 5), "uint16")
    np.save(tmp_path / "scan.npy", data)
    assert gpu4d.open(tmp_path / "scan.npy").shape == (2, 3, 4, 5)
    (tmp_path / "scan.unknown").write_bytes(b"\x00\x01" * 40)
    with pytest.raises(InputError, match="of an unknown format"):
        gpu4d.open(tmp_path / "scan.unknown")
    assert "the format 'fails' of some_things failed on" in caplog.text
    with pytest.raises(InputError, match=r"scan.unknown: the format 'fails' of some_things cannot open it \(driver\): the file is damaged"):
        gpu4d.open(tmp_path / "scan.unknown", format="fails")
    assert Recipe().bragg.power == 0.85
    total, asks = (one.name for one in registered_reductions())
    listed = gpu4d.capabilities()
    assert f"  {total}, of some_things" in str(listed).splitlines()
    assert {"name": total, "package": "some_things", "events": False} in listed.as_dict()["registered"]
    assert gpu4d.sweep(gpu4d.DataCube(data), {"x": total})["x"].tolist() == [[20.0] * 3] * 2
    with pytest.raises(InputError, match=r"of some_things cannot be made by its name alone .*power.*import it and give an object"):
        gpu4d.sweep(gpu4d.DataCube(data), {"x": asks})
    with pytest.raises(InputError, match=rf"no reduction is registered as 'brightest': registered are {total}, {asks}"):
        gpu4d.sweep(gpu4d.DataCube(data), {"x": "brightest"})


@pytest.mark.parametrize("listed", [b"[gpu4d.formats]\nno equals sign\n", b"[gpu4d.formats]\n\xff = x:X\n"])
def test_a_list_of_entry_points_that_cannot_be_read(listed, tmp_path, monkeypatch, caplog):
    """It is left out, with one warning for all groups. Other packages are found."""
    for name, text in (("bad", listed), ("good", b"[test.sizes]\nfloor = math:floor\n")):
        information = tmp_path / f"{name}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_bytes(text)
    monkeypatch.syspath_prepend(tmp_path)
    extensions._say_unreadable.cache_clear()
    for _ in range(2):
        found = extensions.extensions("test.sizes", lambda name, found, package: (name, found(2.5), package))
        assert found == [("floor", 2, "good")]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("the entry points of the package bad cannot be read (") and said.endswith("pip uninstall bad")


def test_the_warning_names_the_package_as_pip_knows_it(tmp_path):
    """`gpu4d info` of a scan, beside a package that cannot be imported."""
    information = tmp_path / "wrong_tools-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-tools\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gpu4d.formats]\nold = wrong_tools:Old\n[gpu4d.stages]\nold = wrong_tools:Old\n")
    (tmp_path / "wrong_tools.py").write_text("from numpy import no_such_thing\n")
    np.save(tmp_path / "scan.npy", np.ones((3, 3, 8, 8), "uint8"))
    environment = importing()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    code = "from gpu4d.cli import run_command; raise SystemExit(run_command(['info', 'scan.npy']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "8" in done.stdout
    lines = [line for line in done.stderr.splitlines() if "left out" in line]
    assert len(lines) >= 1 and all("of the package wrong-tools" in line and line.endswith("pip uninstall wrong-tools") for line in lines)
    assert len(lines) == len(set(lines))
