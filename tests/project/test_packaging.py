"""What is installed: one package, `gpu4d`, from a wheel and from an editable checkout; and what importing it brings."""

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import gpu4d

FOLDERS = {"gpu4d": "gpu4d", "kernels": "gpu4d/kernels", "cpu_fallback": "gpu4d/cpu_fallback", "benchmarks": "gpu4d/benchmarks"}
HEAVY = ("cupy", "numba", "matplotlib", "dask", "torch", "jax", "scipy", "h5py", "rich", "click", "jinja2", "hdf5plugin")


def python(code: str, cwd: Path, **environment: str) -> str:
    """What a fresh interpreter prints, started outside the checkout."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def project(checkout) -> dict:
    return tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    """The wheel of this checkout, built from a copy."""
    copy = tmp_path_factory.mktemp("source") / "gpu4d"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "docs")
    shutil.copytree(checkout, copy, ignore=left_out)
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, copy], check=True, cwd=out)
    return next(out.glob("*.whl"))


def sources(checkout: Path) -> set[str]:
    """Every file of the package's folders, under the name it must have in the wheel."""
    return {
        f"{inside}/{file.relative_to(checkout / folder).as_posix()}"
        for folder, inside in FOLDERS.items()
        for file in (checkout / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    }


# ---------------------------------------------------------------- the wheel


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel, checkout):
    names = set(zipfile.ZipFile(wheel).namelist())
    information = {n for n in names if n.split("/")[0].endswith(".dist-info")}
    assert names - information == sources(checkout)
    assert any(n.endswith("licenses/LICENSE") for n in information)
    assert {"gpu4d/py.typed", "gpu4d/kernels/__init__.py", "gpu4d/cpu_fallback/__init__.py", "gpu4d/benchmarks/__init__.py"} <= names
    assert "gpu4d/workflow/report/report.html" in names


@pytest.mark.slow
def test_installed_from_the_wheel(wheel, tmp_path):
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel], check=True, cwd=tmp_path)
    assert {p.name for p in target.iterdir()} - {"bin", "Scripts"} == {"gpu4d", next(target.glob("*.dist-info")).name}
    code = (
        "import gpu4d, gpu4d.kernels, gpu4d.cpu_fallback, gpu4d.benchmarks;"
        "print(*(m.__file__ for m in (gpu4d, gpu4d.kernels, gpu4d.cpu_fallback, gpu4d.benchmarks)), sep='\\n')"
    )
    files = python(code, tmp_path, PYTHONPATH=str(target)).splitlines()
    assert all(Path(f).is_relative_to(target / "gpu4d") for f in files)


# ---------------------------------------------------------------- the source tree


def test_every_folder_is_installed(project):
    target = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert target["only-include"] == list(FOLDERS)
    assert {"gpu4d": "gpu4d", **target["sources"]} == FOLDERS


def test_every_package_has_an_init(checkout):
    for top in FOLDERS:
        for file in (checkout / top).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), f"{file.parent} has no __init__.py"


def test_the_top_level_is_fixed(checkout):
    if not (checkout / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=checkout, capture_output=True, text=True, check=True).stdout.splitlines()
    top = {name.split("/")[0] for name in listed}
    fixed = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "gpu4d",
        "kernels",
        "cpu_fallback",
        "tests",
        "benchmarks",
        "docs",
    }
    assert {name for name in top if not name.startswith(".")} == fixed
    assert top - fixed <= {".ci", ".github", ".gitignore"}


def test_one_version(project):
    assert project["project"]["dynamic"] == ["version"] and gpu4d.__version__ == importlib.metadata.version("gpu4d")


def test_upper_pins_have_a_reason(checkout, project):
    wanted = [*project["project"]["dependencies"], *(d for group in project["project"]["optional-dependencies"].values() for d in group)]
    lines = (checkout / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for requirement in wanted:
        if "<" in requirement or "==" in requirement:
            assert any(requirement in line and "#" in line for line in lines), f"{requirement} is pinned without a reason"


def test_cupy_comes_with_what_it_compiles_with(project):
    """CuPy's wheels hold no headers and no NVRTC: on a machine with a driver alone they compile nothing without `[ctk]`."""
    for extra, wheel in (("cuda12", "cupy-cuda12x"), ("cuda13", "cupy-cuda13x")):
        assert [r for r in project["project"]["optional-dependencies"][extra] if r.startswith("cupy")] == [f"{wheel}[ctk]"]


def test_installation_texts_name_cupy_with_its_toolkit(checkout):
    """Wherever a text says how CuPy is installed."""
    files = [checkout / "README.md", checkout / "CHANGELOG.md", *(checkout / "docs").rglob("*.md"), *(checkout / "gpu4d").rglob("*.py")]
    named = [name for file in files for name in re.findall(r"cupy-cuda1[23]x[^ ,;`'\"]*", file.read_text(encoding="utf-8"))]
    assert named and all(name.startswith(("cupy-cuda12x[ctk]", "cupy-cuda13x[ctk]")) for name in named)


# ---------------------------------------------------------------- this environment's install


@pytest.mark.parametrize("clone", ["", "gpu4d"])
def test_the_library_is_found_from_anywhere(clone, tmp_path):
    """Also in the folder that holds the clone, where a folder called gpu4d without modules lies beside the script."""
    (tmp_path / clone / "docs").mkdir(parents=True)
    assert python("import gpu4d, gpu4d.kernels; print(gpu4d.__version__, gpu4d.open.__name__)", tmp_path) == f"{gpu4d.__version__} open"


def test_the_checkout_is_found_where_it_is_the_current_folder(checkout):
    """Installed or not: the folders beside the package belong to it."""
    code = "import gpu4d, gpu4d.kernels, gpu4d.cpu_fallback, gpu4d.benchmarks; print(gpu4d.cpu_fallback.__file__)"
    assert Path(python(code, checkout)) == checkout / "cpu_fallback" / "__init__.py"


def test_an_editable_install_is_the_checkout(checkout, tmp_path):
    code = (
        "import gpu4d, gpu4d.kernels, gpu4d.cpu_fallback, gpu4d.benchmarks;"
        "print(*(m.__file__ for m in (gpu4d, gpu4d.kernels, gpu4d.cpu_fallback, gpu4d.benchmarks)), sep='\\n')"
    )
    files = [Path(f).resolve() for f in python(code, tmp_path).splitlines()]
    if not files[0].is_relative_to(checkout):
        pytest.skip("gpu4d is not installed in editable mode")
    assert files == [checkout / folder / "__init__.py" for folder in FOLDERS]


def test_importing_is_cheap_and_touches_nothing(tmp_path):
    code = (
        "import sys, numpy, array_api_compat; before = set(sys.modules); import gpu4d; gpu4d.DataCube, gpu4d.Calibration, gpu4d.using;"
        f"new = set(sys.modules) - before; print(len(new), *(m for m in {HEAVY!r} if m in sys.modules))"
    )
    count, *heavy = python(code, tmp_path).split()
    assert heavy == [], f"importing gpu4d also imports {heavy}"
    assert int(count) < 60, "modules are what importing costs"


def test_every_public_name_is_there():
    for name in gpu4d.__all__:
        assert getattr(gpu4d, name) is not None
    assert set(gpu4d.__all__) <= set(dir(gpu4d))
    with pytest.raises(AttributeError, match="no attribute 'virtual_imag'"):
        gpu4d.virtual_imag  # noqa: B018


def test_the_console_script():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="gpu4d")
    assert callable(script.load())


@pytest.mark.parametrize("folder", ["kernels", "cpu_fallback"])
def test_twins_refuse_to_be_imported_by_folder(checkout, folder):
    """`from kernels import …` in a checkout would make a second copy of every module."""
    code = f"import sys; sys.path.insert(0, {str(checkout)!r})\ntry:\n    import {folder}\nexcept ImportError as e:\n    print(e)"
    assert f"gpu4d.{folder}" in python(code, checkout)


# ---------------------------------------------------------------- README


def blocks(text: str, language: str) -> list[str]:
    """Fenced code of one language."""
    return [part.partition("\n")[2] for part in text.split("```")[1::2] if part.partition("\n")[0] == language]


def test_ci_runs_readmes_commands(checkout):
    """`.ci/run` cuts the commands out of README by these marks."""
    readme, ci = ((checkout / name).read_text(encoding="utf-8") for name in ("README.md", ".ci/run"))
    for mark, command in (("demo", "gpu4d demo"), ("tests", "pytest -n logical --dist loadfile")):
        behind = readme.partition(f"<!-- command: {mark} -->\n```sh\n")[2].partition("```")[0]
        assert behind.rstrip().endswith(f".venv/bin/{command}")
        assert f"\nreadme {mark}\n" in ci


def test_the_links_in_the_pages_lead_somewhere(checkout):
    for page in (checkout / "README.md", checkout / "CHANGELOG.md", *(checkout / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name} points at {target}"


@pytest.mark.slow
def test_readmes_python_runs(checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = gpu4d.simulate.bragg_scan((12, 12), (96, 96), seed=3)
    with h5py.File("scan.h5", "w") as file:
        file["data"] = np.asarray(made.cube.source.array)
    code = blocks((checkout / "README.md").read_text(encoding="utf-8"), "python")
    assert len(code) == 2
    for block in code:
        exec(compile(block, "README.md", "exec"), {})
    assert {"bf", "strain", "braggvectors"} <= set(h5py.File("strain.h5")["gpu4d"])
