"""An operation's file has its name: its definition, its twins and the CUDA source are found at one look."""

import inspect
import re

import pytest

from gpu4d.operation import all_operations

OPERATIONS = all_operations()
# Operations in a file that another operation gives its name to, because the code of the two is one.
TOGETHER = {
    "annular_sums": ("masked_sums", "the mask follows the origin of each pattern: sums under a mask all the same"),
    "event_images": ("event_sums", "the same sums, by pattern and pixel"),
    "event_patterns": ("event_sums", "the same sums, by pixel"),
    "integrate_iteratively": ("integrate_gradient", "the same solution, with the errors of its iterations beside it"),
    "pattern_maximum": ("pattern_sums", "the other result of the same pass over the patterns"),
    "peak_errors": ("refine_disks", "made from the same interpolation, with the same tables"),
    "radial_sums": ("polar_transform", "on the same grid of the same arguments"),
}
# CUDA sources without a launcher of their own name, and the reason.
NO_SOURCE = {
    "center_of_mass": "a division of the first moments",
    "first_moments": "frame_reductions.cu makes them",
}


def file_of(name):
    """The name that the files of an operation have."""
    return TOGETHER.get(name, (name,))[0]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_definition_and_twins_are_in_files_of_its_name(name):
    op = OPERATIONS[name]
    modules = {"definition": op.definition.__module__, **{kind: twin.module for kind, twin in op.twins.items()}}
    assert {module.rpartition(".")[2] for module in modules.values()} == {file_of(name)}, modules
    for kind, module in modules.items():
        assert inspect.unwrap(op.implementation(kind)).__module__ == module, f"the {kind} of {name} is only imported there"


@pytest.mark.parametrize("name", sorted(n for n, op in OPERATIONS.items() if "cuda" in op.twins))
def test_its_launcher_names_the_source_beside_it(name, checkout):
    file = file_of(name)
    launcher = (checkout / "kernels" / f"{file}.py").read_text(encoding="utf-8")
    beside = (checkout / "kernels" / f"{file}.cu").exists()
    assert beside != (name in NO_SOURCE)
    assert (f'"{file}.cu"' in launcher) == beside


def test_what_shares_a_file_shares_it_still():
    """A file that two operations share is named after one of them; an exception that nothing needs is taken out."""
    for name, (owner, why) in TOGETHER.items():
        assert name in OPERATIONS and owner in OPERATIONS and owner not in TOGETHER and why
    assert NO_SOURCE.keys() <= OPERATIONS.keys()


def test_the_page_of_kernels_names_every_operation_with_a_kernel(checkout):
    page = (checkout / "docs" / "reference" / "kernels.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    assert {name for name, op in OPERATIONS.items() if "cuda" in op.twins} <= named
