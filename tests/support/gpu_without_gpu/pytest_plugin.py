"""Hooks of `pytest -p gpu_without_gpu`: the stand-in before CuPy is imported, and its complaints as failures of the tests behind them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpu_without_gpu import activation, instrument


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    activation.activate()


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    activation.activate()  # workers of xdist read the plugin's name only now


def pytest_report_header() -> str:
    return f"GPU: none; CuPy {activation.cupy_version()} on CUDA made of host memory (tests/support/gpu_without_gpu)"


@pytest.fixture(autouse=True)
def no_complaints() -> Iterator[None]:
    """Fail a test that did what a device would not take; a test that means to takes its complaints itself."""
    yield
    found = instrument.take_complaints()
    if found:
        pytest.fail("gpu_without_gpu:\n" + "\n".join(found), pytrace=False)
