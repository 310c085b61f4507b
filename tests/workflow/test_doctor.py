"""`gpu4d doctor`: what is missing or broken is found and named, with what to do."""

import importlib.metadata
import json
import re
import tomllib
from types import SimpleNamespace

import pytest

from gpu4d.findings import FAIL, LEVELS, OK, WARN, Finding
from gpu4d.workflow import doctor as rooms_doctor
from gpu4d.workflow.doctor import EXTRAS, NEEDED, as_text, doctor


@pytest.fixture(scope="module")
def project(checkout):
    return tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_table_of_packages_is_that_of_the_project(project):
    asked = dict(re.match(r"([\w-]+)(?:>=([\d.]+))?", line).groups() for line in project["dependencies"])
    assert {package: least for package, least in NEEDED.values()} == {name: least or "0" for name, least in asked.items()}
    assert ">=" + ".".join(map(str, rooms_doctor.LEAST_PYTHON)) == project["requires-python"]


def test_extras_are_those_of_the_project(project):
    names = {"sklearn": "scikit-learn", "rsciio": "rosettasciio"}  # modules that have other names than their packages
    for extra, (modules, _) in EXTRAS.items():
        lines = project["optional-dependencies"][extra]
        for module in modules:
            assert any(line.startswith(names.get(module, module)) for line in lines), f"{extra}: {module}"


def test_this_machine_can_work(tmp_path):
    found = doctor(tmp_path)
    assert not [one for one in found if one.level == FAIL]
    assert {"python", "packages", "extras", "gpu", "cpu", "memory", "caches", "disk", "plugins"} <= {one.topic for one in found}
    assert all(one.level in LEVELS and one.what and "\n" not in one.what + one.advice for one in found)
    assert all(one.advice for one in found if one.level == WARN and "unknown" not in one.what)


def levels(look, *given):
    return [(one.level, one.what, one.advice) for one in look(*given)]


def test_a_package_that_is_too_old_or_cannot_be_imported(monkeypatch, tmp_path):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.2" if name == "h5py" else version(name))
    import importlib as real

    imported = real.import_module

    def refuse(name, *rest):
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.2 or less. Got NumPy 2.9.")
        return imported(name, *rest)

    monkeypatch.setattr(rooms_doctor.importlib, "import_module", refuse)
    failed = [one for one in levels(rooms_doctor.packages, tmp_path) if one[0] == FAIL]
    assert (FAIL, "h5py 3.2 is older than 3.15", "pip install -U 'h5py>=3.15'") in failed
    assert any("Numba needs NumPy 2.2 or less" in what for _, what, _ in failed)


def test_an_extra_that_is_missing_says_how_it_is_installed(monkeypatch, tmp_path):
    found = rooms_doctor.importlib.util.find_spec
    monkeypatch.setattr(rooms_doctor.importlib.util, "find_spec", lambda name: None if name in ("gemmi", "rich") else found(name))
    said = levels(rooms_doctor.extras, tmp_path)
    assert any(level == OK and advice == "pip install 'gpu4d[crystal]'" for level, _, advice in said)
    assert any(level == WARN and "no rich" in what and advice == "pip install 'gpu4d[app]'" for level, what, advice in said)


@pytest.mark.parametrize(
    "driver, cupy, level, advice",
    [(None, False, OK, ""), (550, False, WARN, "[cuda12]"), (580, False, WARN, "[cuda13]"), (550, True, FAIL, "nvidia-smi")],
)
def test_a_driver_without_a_cupy_for_it(driver, cupy, level, advice, monkeypatch):
    monkeypatch.setattr(rooms_doctor, "driver_version", lambda: driver)
    found = rooms_doctor._no_card("the reason", cupy)
    assert found.level == level and advice in found.advice


def test_two_packages_of_cupy(monkeypatch, tmp_path):
    both = [SimpleNamespace(metadata={"Name": name}) for name in ("cupy-cuda12x", "cupy-cuda13x", "cupyx-something")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: both)
    assert any(
        level == FAIL and "overwrite each other" in what and "cupyx" not in what for level, what, _ in levels(rooms_doctor.gpu, tmp_path)
    )


def test_the_version_of_a_driver(tmp_path):
    place = tmp_path / "proc/driver/nvidia"
    place.mkdir(parents=True)
    (place / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    assert rooms_doctor.driver_version(tmp_path) == 550 and rooms_doctor.driver_version(tmp_path / "none") is None


def test_limits_of_a_container(tmp_path, monkeypatch):
    place = tmp_path / "sys/fs/cgroup"
    place.mkdir(parents=True)
    (place / "memory.max").write_text("2000000000\n")
    (place / "cpu.max").write_text("200000 100000\n")
    monkeypatch.setattr(rooms_doctor.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    memory, cpu = levels(rooms_doctor.limits, tmp_path)
    assert "2 GB" in memory[1] and cpu[0] == WARN and "2 of 16" in cpu[1] and cpu[2] == "export GPU4D_THREADS=2"
    (place / "memory.max").write_text("max\n")
    (place / "cpu.max").write_text("max 100000\n")
    assert levels(rooms_doctor.limits, tmp_path) == []


def test_a_full_disk_is_broken_and_a_small_one_is_not(tmp_path, monkeypatch):
    for free, level in ((10**6, FAIL), (10**9, WARN), (10**11, OK)):
        monkeypatch.setattr(rooms_doctor.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert {one[0] for one in levels(rooms_doctor.disk, tmp_path / "not there yet")} == {level}


def test_a_look_that_fails_hides_no_other(monkeypatch, tmp_path):
    def broken(folder):
        raise RuntimeError("no such file")

    monkeypatch.setattr(rooms_doctor, "LOOKS", (broken, rooms_doctor.python))
    first, second = doctor(tmp_path)
    assert (first.topic, first.level) == ("broken", WARN) and "no such file" in first.what and second.topic == "python"


def test_the_text_counts():
    text = as_text([Finding("disk", OK, "there"), Finding("gpu", FAIL, "broken", "mend it")])
    assert "→ mend it" in text and text.endswith("1 ok, 0 note, 0 warn, 1 fail: something is broken: see the lines that begin with fail")


def test_the_exit_code_says_whether_something_is_broken(monkeypatch, capsys):
    from gpu4d.cli import run_command

    for level, code in ((WARN, 0), (FAIL, 1)):
        monkeypatch.setattr(rooms_doctor, "LOOKS", (lambda folder, level=level: [Finding("gpu", level, "what", "advice")],))
        assert run_command(["doctor", "--json"]) == code
        assert json.loads(capsys.readouterr().out) == [{"topic": "gpu", "level": level, "what": "what", "advice": "advice"}]
