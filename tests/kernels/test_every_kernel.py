"""CUDA kernels without a GPU: every source compiles for every architecture within its budget, and every kernel, called by its own
launcher, gives the definition's answer on the host shim, whatever the order of threads."""

import importlib
import os
import platform
import re
import subprocess
import sys

import gpu4d.kernels
import numpy as np
import pytest
from cuda_on_host import HostBackend
from cuda_on_host.backend import OtherPixel, kernel_names
from cuda_on_host.nvrtc import ARCHITECTURES, budget, usage_for
from operations.comparing import assert_close, convert, doubled, leaves, with_cuda
from operations.examples import EXAMPLES
from own_process import sanitized

from gpu4d import arrays, operation
from gpu4d.device.backend import inlined, using_backend

OPERATIONS = operation.all_operations()
FOLDER = importlib.resources.files("gpu4d.kernels")
SOURCES = sorted(p.name for p in FOLDER.iterdir() if p.name.endswith(".cu"))
SANITIZED = bool(os.environ.get("GPU4D_SANITIZE"))
SEEDS = (0, 2, 7)  # threads in order, mixed, warp by warp


def seeds(number: int) -> tuple[int, ...]:
    """All orders of threads for the first example, and two of them in turn for the others. Sanitizers need one."""
    return (2,) if SANITIZED else SEEDS if number == 0 else (0, SEEDS[1 + number % 2])


# One instance of each template. Of a source with several sizes it is the one whose registers are next to the limit on most
# architectures: 96 pixels (76 to 80 of 80), three numbers a disk (114 to 128 of 128).
ONE_INSTANCE = ("-DONE_PIXEL", "-DSIZE=96", "-DPER_DISK=3")
TEMPLATES = re.compile(r"FOR_EACH_PIXEL\(|SIZE ==|ifdef PER_DISK")  # among whose instances these options choose
LONG = ("separate_disks.cu", "joint_fit.cu", "fused_disks.cu", "tied_fit.cu", "find_disks.cu")  # seconds to compile


def has_instances(file):
    """Whether a source has several instances of a template."""
    return TEMPLATES.search(gpu4d.kernels.source(file)) is not None


def builds():
    """What is compiled, and how often.

    Every run compiles one instance of each source for the architecture that the kernels are tuned for. Each commit compiles all of its
    kernels there, and one instance for every other architecture (`slow`): the front end sees all of a source then, and registers are
    assigned where they are tightest. Instances differ in how pixels are loaded, and in how often loops run. All of them for all
    architectures are for those who change a kernel (`exhaustive`).
    """
    for file in SOURCES:
        several = has_instances(file)
        if file not in LONG:  # slow has them
            yield pytest.param(file, "sm_90", ONE_INSTANCE, id=f"{file}-sm_90")
        if several or file in LONG:  # else it is the same build
            yield pytest.param(file, "sm_90", (), id=f"{file}-sm_90-every instance", marks=pytest.mark.slow)
        for other in ARCHITECTURES:
            if other != "sm_90":
                yield pytest.param(file, other, ONE_INSTANCE, id=f"{file}-{other}", marks=pytest.mark.slow)
                if several:
                    yield pytest.param(file, other, (), id=f"{file}-{other}-every instance", marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(("file", "architecture", "options"), builds())
def test_every_source_compiles_within_its_budget(file, architecture, options, need):
    """With the options CuPy gives: no spills, no stack, registers and shared memory as the head of the file says."""
    need("cuda.bindings.nvrtc")
    text = inlined(file)
    usage = usage_for(text, file, architecture, options)
    names = set(kernel_names(text))
    one = options and has_instances(file)
    assert set() < set(usage) < names if one else set(usage) == names, "kernels differ from those the host shim sees"
    for kernel, used in usage.items():
        registers, shared = budget(file, kernel)
        assert used.spilled == 0 and used.stack == 0, f"{kernel}: {used}"
        assert used.registers <= registers and used.shared <= shared, f"{kernel}: {used}, budget {registers}, {shared}"


@pytest.mark.parametrize("file", SOURCES)
def test_every_kernel_is_launched_and_every_launch_has_a_kernel(file):
    """Names of extern "C" kernels and the names its launcher asks for are the same set, instances of a template taken together."""
    names = {re.sub(r"_(u8|u16|u32|f32|f64)$", "", n) for n in kernel_names(inlined(file))}
    launcher = (FOLDER / file.replace(".cu", ".py")).read_text()
    asked = set(re.findall(r'["\']([a-z0-9_]+?)(?:_\{[^}]*\})?["\']', launcher))
    assert names <= asked, f"{file}: nobody launches {sorted(names - asked)}"


@pytest.mark.parametrize("file", SOURCES)
def test_messages_of_compilers_point_into_the_files(file):
    """Every line of an inlined source is, by its `#line` directives, the line of that number in the file they name."""
    name, number, seen = None, 0, 0
    for line in inlined(file).split("\n"):
        if directive := re.fullmatch(r'#line (\d+) "([^"]+)"', line):
            number, name = int(directive.group(1)), directive.group(2)
            continue
        original = gpu4d.kernels.source(name).split("\n")[number - 1]
        assert line in (original, "") and (line or original in ("", "#pragma once") or original.startswith("#include"))
        number, seen = number + 1, seen + bool(line)
    assert seen > 10


@pytest.mark.parametrize("name", with_cuda())
def test_on_the_host_shim(name):
    """The operation with its CUDA twin forced: the same examples as every other implementation, in several thread orders."""
    op = OPERATIONS[name]
    ran = 0
    for number, example in enumerate(EXAMPLES[name]()):
        args, options = convert(example, np.asarray)
        if any(arrays.is_array(a) and a.size > 300_000 for a in (*args, *options.values())):
            continue
        if op.unsupported("cuda", *args, **options):
            continue
        double_args, double_options = convert(example, doubled)
        with operation.using("definition"):
            plain = leaves(op.definition(*example.args, **example.options))
            reference = leaves(op.definition(*double_args, **double_options))
        bits = None
        for seed in seeds(number):
            host = HostBackend(seed=seed, one_pixel=SANITIZED)
            try:
                with using_backend(host), operation.using("cuda"):
                    found = leaves(op(*args, **options))
            except OtherPixel:
                break
            tolerance = example.cuda or example.twin or (1e-5,) * len(found)
            for result, same, expected, allowed in zip(found, plain, reference, tolerance, strict=True):
                assert result.shape == tuple(same.shape) and result.dtype == same.dtype, example.label
                assert_close(result, arrays.to_numpy(expected), example, allowed)
            now = [np.ascontiguousarray(r).tobytes() for r in found]
            bits = bits or now
            assert now == bits, f"{name} {example.label}: the order of threads changes the result"
            ran += bool(host.launched)
    assert ran, f"no example of {name} reached a kernel"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the host shim flushes subnormal numbers on x86-64 alone")
def test_subnormal_pixels_count_as_zero():
    """As CuPy compiles (-ftz=true); the smallest normal number counts as what it is."""
    tiny = np.finfo(np.float32).tiny
    frames = np.full((2, 6, 8), tiny, np.float32)
    frames[1] = tiny / 2
    with using_backend(HostBackend()), operation.using("cuda"):
        sums = OPERATIONS["masked_sums"](frames, np.ones((1, 6, 8), bool))
    assert sums.ravel().tolist() == [48 * float(tiny), 0.0]
    assert OPERATIONS["masked_sums"].definition(frames, np.ones((1, 6, 8), bool))[1, 0] == 24 * float(tiny)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_under_sanitizers(part):
    """The same on the shim built with address and undefined-behaviour sanitizers, in two processes that have them preloaded.

    One pixel type and one order of threads, because the others reach the same bounds.
    """
    tests = [f"{__file__}::test_on_the_host_shim[{name}]" for name in with_cuda()[part::2]]
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, capture_output=True, text=True, env=sanitized())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"{len(tests)} passed" in done.stdout
