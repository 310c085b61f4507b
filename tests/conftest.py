"""What all tests share: one BLAS thread, compiled modules on disk, the shared inputs, and which tests this machine can run."""

import os
import sys

# Before NumPy is imported: a BLAS thread pool inside every compute thread would make timings and small tests slower.
for _library in ("OPENBLAS", "OMP", "MKL", "NUMEXPR", "VECLIB_MAXIMUM"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["GPU4D_CACHE"] = "off"  # tests look at what runs do; tests of what is kept set a folder of their own
# Workers and hundreds of processes that tests start import the same modules: Python would compile all of them again each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import functools
import gc
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import gpu_without_gpu
import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED_DATA = CHECKOUT.parent / "shared" / "data"
# Large or under other licences: their tests run in an environment apart.
ELSEWHERE = ("torch", "jax", "orix", "rsciio", "zarr", "xarray", "pandas", "hyperspy", "quantem", "abtem", "ase", "pyxem", "libertem")
REQUIRED = {name for name in os.environ.get("GPU4D_REQUIRE", "").split(",") if name}


@functools.cache
def why_no_gpu() -> str | None:
    """Why tests marked `gpu` cannot run here; None where they can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed (gpu4d[cuda12] or gpu4d[cuda13])"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no CUDA driver or device: {error}"
    return None if count else "CuPy finds no CUDA device"


def pytest_addoption(parser):
    """Let slow tests that try random cases try more of them."""
    parser.addoption("--cases", type=int, help="random cases of each slow test that tries some; each has its own usual number")


def pytest_configure(config):
    """Share the work of collecting among workers."""
    if hasattr(config, "workerinput"):  # of pytest-xdist
        from files_for_workers import collect_from_elsewhere

        collect_from_elsewhere(config, CHECKOUT / "tests")


def pytest_collection_modifyitems(config, items):
    """Skip, with the reason, what needs a GPU, a compiler or the shared inputs where they are absent."""
    if hasattr(config, "workerinput"):  # of pytest-xdist
        from files_for_workers import put_in_order

        put_in_order(items)
    for item in items:
        if item.get_closest_marker("gpu") and "cupy" not in REQUIRED and (reason := why_no_gpu()):
            item.add_marker(pytest.mark.skip(reason=reason))
        elif item.get_closest_marker("gpu") and gpu_without_gpu.active() and (mark := item.get_closest_marker("real_gpu")):
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {mark.args[0]}"))
        if hasattr(item.module, "HostBackend") and shutil.which("g++") is None:
            item.add_marker(pytest.mark.skip(reason="g++ is not installed: it compiles CUDA sources for the CPU"))
        needs_shared = item.get_closest_marker("shared") or "shared_data" in getattr(item, "fixturenames", ())
        if needs_shared and not SHARED_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="the shared test inputs (../shared/data beside the checkout) are absent"))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Give workers whole files, as `--dist loadfile` says, but the table of operations first, one operation after the other."""
    if config.getoption("dist") == "loadfile":
        from files_for_workers import OperationsFirst

        return OperationsFirst(config, log)
    return None


def pytest_collection_finish():
    """Leave what stays until the end out of all collections of garbage: there are thousands of tests and modules."""
    _keep_what_is_there()


def pytest_runtest_teardown(item, nextitem):
    """Do the same after each file: results of its tests and compiled code stay too."""
    if nextitem is None or nextitem.path != item.path:
        _keep_what_is_there()


def _keep_what_is_there() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared test inputs, beside the checkout; its files are read-only."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared test inputs (../shared/data beside the checkout) are absent")
    return SHARED_DATA


@pytest.fixture
def blank_pictures():
    """Runs of this test do not render their pictures."""
    from blank_pictures import not_rendered

    with not_rendered():
        yield


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Root of the source tree the tests are run from."""
    return CHECKOUT


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note tests that were skipped because one of these is absent, so that they can be run where they are: `.ci/run` does."""
    place = os.environ.get("GPU4D_NOTE_SKIPPED")
    if not place or "PYTEST_XDIST_WORKER" in os.environ or not report.skipped or not isinstance(report.longrepr, tuple):
        return
    if report.longrepr[2] in [f"Skipped: {name} is not installed" for name in ELSEWHERE]:
        with open(place, "a", encoding="utf-8") as noted:
            noted.write(f"{report.nodeid}\n")


@pytest.fixture(scope="session")
def need() -> Callable[[str], ModuleType]:
    """Function that imports a module whose library is optional.

    Where it is not installed the test is skipped; with `GPU4D_REQUIRE=torch,jax` in the environment it fails.
    """

    def load(module: str) -> ModuleType:
        try:
            found = importlib.import_module(module)
        except ImportError:
            name = module.partition(".")[0]
            if name in REQUIRED:
                pytest.fail(f"{name} is not installed, and GPU4D_REQUIRE asks for it")
            pytest.skip(f"{name} is not installed")
        if module.startswith("jax"):
            importlib.import_module("jax").config.update("jax_enable_x64", True)
        return found

    return load
