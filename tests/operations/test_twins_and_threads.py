"""Several threads may ask for a twin whose module another one is importing."""

import importlib
import sys
import threading
import types

from gpu4d.imaging import center_of_mass


def test_a_twin_that_another_thread_imports_is_waited_for(monkeypatch):
    name = center_of_mass.twins["cpu"].module
    whole = importlib.import_module(name)
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))  # as it is while its first lines run
    waited = threading.Event()

    def wait_for_it(asked):
        assert asked == name
        waited.set()
        return whole

    monkeypatch.setattr("gpu4d.operation.importlib.import_module", wait_for_it)
    assert center_of_mass.implementation("cpu") is whole.center_of_mass and waited.is_set()
    monkeypatch.setitem(sys.modules, name, whole)
    waited.clear()
    assert center_of_mass.implementation("cpu") is whole.center_of_mass and not waited.is_set()
