"""The front door: every name and room is there, whatever was imported before, and editors and type checkers see it."""

import ast
import importlib
import inspect
import pkgutil
import random
import re
import shutil
import subprocess
import sys
import typing

import pytest

import gpu4d
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.operation import Operation

TWINS = ("kernels", "cpu_fallback", "benchmarks")  # installed beside the rooms
ROOMS = sorted(m.name for m in pkgutil.iter_modules(gpu4d.__path__[:1]) if m.ispkg and m.name not in TWINS)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_room_is_there_in_any_order(seed, tmp_path):
    rooms = random.Random(seed).sample(ROOMS, len(ROOMS))
    code = f"import gpu4d\nfor room in {rooms!r}: assert getattr(gpu4d, room).__name__ == f'gpu4d.{{room}}', room\nprint('all')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "all\n", done.stderr


def test_every_name_is_there():
    for name in gpu4d.__all__:
        assert getattr(gpu4d, name) is not None and name in dir(gpu4d)
    assert set(ROOMS) <= set(gpu4d.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'sweeep'.*did you mean 'sweep'.*; it has .*sweep"):
        _ = gpu4d.sweeep


@pytest.mark.parametrize("name", [name for name in gpu4d.__all__ if inspect.ismodule(getattr(gpu4d, name)) and name not in ROOMS])
def test_editors_complete_names_of_single_modules_and_not_what_they_import(name):
    module = getattr(gpu4d, name)
    assert sorted(module.__all__) == sorted(dir(module))
    assert all(getattr(module, one).__module__ == module.__name__ for one in module.__all__)


def test_a_mistyped_name_says_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'bragg'"):
        gpu4d.brag  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean 'energy'"):
        gpu4d.Calibration().enrgy  # noqa: B018


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_have_one_face(room):
    """A docstring, and in __all__ what users call; a function is never hidden by the module it comes from."""
    module = importlib.import_module(f"gpu4d.{room}")
    for found in pkgutil.walk_packages(module.__path__, f"gpu4d.{room}."):
        importlib.import_module(found.name)
    assert module.__doc__ and module.__all__ and sorted(module.__all__) == dir(module)
    for name in module.__all__:
        assert not inspect.ismodule(getattr(module, name)) or name in ("detectors", "apertures"), f"gpu4d.{room}.{name} is a module"


def test_a_checkout_finds_what_lies_beside_its_package(checkout, tmp_path):
    """However gpu4d is installed: the current folder comes first, and there kernels is not inside gpu4d."""
    copy = tmp_path / "checkout"
    for folder in ("gpu4d", "kernels", "cpu_fallback", "benchmarks"):
        shutil.copytree(checkout / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import gpu4d, gpu4d.kernels, gpu4d.cpu_fallback, gpu4d.benchmarks.kernels as b; print(gpu4d.kernels.__file__, b.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name.startswith(str(copy)) for name in done.stdout.split())


def test_the_stub_lists_what_is_there(checkout):
    stub = ast.parse((checkout / "gpu4d" / "__init__.pyi").read_text(encoding="ascii"))
    listed = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert listed == set(gpu4d.__all__)


# Aliases of Any: values that really may be anything. Each says why where it stands.
ANYTHING = {
    "DType", "FieldValue", "Index", "Join", "Kernel", "KernelArgument", "Metadata", "Part", "Result", "Section", "SettingValue", "State",
    "Stored", "Value",
}  # fmt: skip
SPECIAL = ("__init__", "__call__", "__getitem__")


def public():
    """Every name of the front door and of the rooms, and what is behind it; functions of `detectors` among them."""
    found = {name: getattr(gpu4d, name) for name in gpu4d.__all__ if not inspect.ismodule(getattr(gpu4d, name))}
    for room in ROOMS:
        module = importlib.import_module(f"gpu4d.{room}")
        found |= {f"{room}.{name}": getattr(module, name) for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    own = vars(gpu4d.detectors).items()
    return found | {f"detectors.{n}": v for n, v in own if getattr(v, "__module__", "") == gpu4d.detectors.__name__ and n[0] != "_"}


def functions(name, thing):
    """Yield functions by name: a function, the definition of an operation, public methods of a class and how it is made."""
    if isinstance(thing, Operation):
        yield name, thing.definition
    elif inspect.isclass(thing):
        for inner, member in vars(thing).items():
            member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            made = inner == "__init__" and getattr(thing, "_is_protocol", False)  # by Python, which gives it no types
            if inspect.isfunction(member) and (inner[0] != "_" or inner in SPECIAL) and not made:
                yield f"{name}.{inner}", member
    elif inspect.isfunction(thing):
        yield name, inspect.unwrap(thing)


def annotations(function):
    """Yield what stands at every parameter and at the result; of an overloaded function, in every overload."""
    for one in typing.get_overloads(function) or [function]:
        signature = inspect.signature(one)
        for parameter in list(signature.parameters.values()):
            if parameter.name not in ("self", "cls"):
                yield parameter.name, parameter.annotation
        if function.__name__ != "__init__":
            yield "result", signature.return_annotation


def why_not(annotation, module):
    """Say what is wrong with an annotation, or None: it is missing, it is Any, or a name in it stands for Any without a reason."""
    if annotation is inspect.Parameter.empty:
        return "has no type"
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", str(annotation))
    for word in re.findall(r"\w+", text):
        if word == "Any" or (word not in ANYTHING and _is_any(getattr(module, word, None))):
            return text
    return None


def _is_any(thing):
    return thing is typing.Any or (not inspect.isclass(thing) and any(_is_any(inner) for inner in typing.get_args(thing)))


def test_nothing_at_the_door_is_any():
    """Not in a signature, nor in an attribute of a dataclass: editors would have nothing to say there, and mistakes pass unseen."""
    wrong = []
    for name, thing in public().items():
        for called, function in functions(name, thing):
            module = sys.modules[function.__module__]
            wrong += [f"{called}({what}): {bad}" for what, annotation in annotations(function) if (bad := why_not(annotation, module))]
        if inspect.isclass(thing):
            module = sys.modules[thing.__module__]
            wrong += [f"{name}.{field}: {bad}" for field, said in _fields(thing) if (bad := why_not(said, module))]
    assert not wrong, "\n".join(wrong)


def _fields(thing):
    return [(name, said) for name, said in vars(thing).get("__annotations__", {}).items() if name[0] != "_"]


def test_the_search_for_any_finds_it():
    module = sys.modules[__name__]
    assert why_not("dict[str, Any] | None", module) and why_not(inspect.Parameter.empty, module) and why_not("Hidden", module)
    assert why_not("dict[str, State]", module) is None and why_not("ReturnedArray | None", module) is None
    assert len(public()) > 100 and sum(1 for name, thing in public().items() for _ in functions(name, thing)) > 200


Hidden = dict[str, typing.Any] | None


def test_what_may_be_anything_says_why(checkout):
    lines = [line for file in (checkout / "gpu4d").rglob("*.py") for line in file.read_text(encoding="utf-8").splitlines()]
    for name in ANYTHING:
        made = [line for line in lines if re.match(rf"{name} = .*\bAny\b", line)]
        assert len(made) == 1 and "  # " in made[0], f"{name}: {made}"


USE = """
import numpy as np
import gpu4d

patterns: np.ndarray = np.ones((2, 3, 48, 48), np.uint16)
probe = gpu4d.probe.synthetic((48, 48), 4.0)
everywhere = np.ones((2, 3), bool)
known = gpu4d.Calibration(q_pixel=0.02, r_pixel=1.0)
cube = gpu4d.DataCube(patterns, calibration=known, detector_mask=np.ones((48, 48), bool))
com: np.ndarray = gpu4d.center_of_mass(patterns)
maps: np.ndarray = gpu4d.hybrid_correlation(patterns, probe, power=0.9)
disks = gpu4d.find_bragg_disks(cube, probe, where=everywhere, memory="1 GB", progress=False)
print((disks[0, 1].qx - 24.0).mean(), disks.counts.sum(), np.hypot(disks.flat("qx"), disks.flat("qy")))
image = gpu4d.virtual_image(cube, {"bf": gpu4d.detectors.disk(3), "mine": np.ones((48, 48))}, origin=(24, 24.5))
print(image.data.max(), np.asarray(image) / 2, image["bf"][0, 0])
mean = gpu4d.sweep(cube, gpu4d.MeanPattern(weights=everywhere), device="cpu")
both = gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()})
found = gpu4d.dpc(cube, rotation=0.0, descan="plane", where=everywhere)
profile = gpu4d.radial_profile(patterns[0, 0], (24, 24), r_max=10)
origin = gpu4d.calibrate.origin(disks)
lattice = gpu4d.find_lattice(disks, origin)
if lattice is not None:
    fit = gpu4d.fit_lattice(disks, lattice, origin=origin)
    strain = gpu4d.strain_map(fit, region=everywhere)
    gpu4d.save("out.h5", {"cube": cube, "strain": strain, "disks": disks, "image": image, "array": patterns})
    gpu4d.plot.strain(strain)
    print(fit.g1[0, 0], fit.mask.sum())
gpu4d.plot.image(image["bf"])
pattern, part = cube[0, 1], cube[:, 1:2]
print(pattern.pixel_size, part.scan_shape)
template = gpu4d.probe.template(probe)
better = gpu4d.refine_template(cube, disks, template)
gpu4d.bragg.explain_disks(patterns[0, 0], template, min_significance=4.0)
gpu4d.ssb(cube, energy=80e3, semiangle=20.0, memory="1 GB", progress=False)
clean: np.ndarray = gpu4d.preprocess.hot_pixels(patterns)
brightness, electrons, bright = float(image.data[0, 0, 0]), int(image["bf"][0, 0]), bool(image["bf"][0, 0] > 1)
resident: np.ndarray = gpu4d.streaming.load_cube(cube)
plane: np.ndarray = image["mine"]
total = [float(row.sum()) for row in gpu4d.RealSlice(plane)]
for row in image:
    line: np.ndarray = row
bad = gpu4d.preprocess.find_bad_pixels(mean, 6)
gpu4d.preprocess.find_bad_pixels(both["mean"], 6).mask.sum()
gpu4d.preprocess.find_bad_pixels(patterns.mean(axis=(0, 1)), 6)
known.q_pixel, known.transpose, known.energy = np.float32(0.02), True, None
known.origin = (24, 24.5)
known.origin = origin
known.set(origin=np.zeros((2, 3, 2)), ellipse=(2.0, 1.0, 0.1), rotation=0, how="microscope log")
known.set(origin=origin, how="centre of the central disk")
if known.q_pixel is not None:
    width: float = 48 * known.q_pixel
"""
MISTAKES = """
import numpy as np
import gpu4d

cube = gpu4d.DataCube(np.ones((2, 3, 48, 48)))
gpu4d.sweep(cube, gpu4d.MeanPattern(), memmory=3)
gpu4d.center_of_mass("patterns")
gpu4d.center_of_mass(np.ones((4, 4)), mesk=None)
gpu4d.find_bragg_disks(cube, np.ones((48, 48)), progess=True)
cube[0, 1].scan_shape
gpu4d.virtual_image(cube, gpu4d.detectors.disk(3), origin="middle")
gpu4d.preprocess.find_bad_pixels(cube, 6)
gpu4d.preprocess.find_bad_pixels("mean", 6)
gpu4d.streaming.load_cube(np.ones((2, 3, 48, 48)))
for name in gpu4d.MeanPattern(): print(name)
gpu4d.Calibration(q_pixl=3)
gpu4d.Calibration(q_pixel=[0.02])
cube.calibration.set(q_pixl=3, how="")
cube.calibration.set(q_pixel=(3, 4))
cube.calibration.set(q_pixel=2.0, how=3)
cube.calibration.q_pixl = 3
cube.calibration.q_pixel = [2.0]
cube.calibration.ellipse = 2.0
print(cube.calibration.q_pixl)
width: float = cube.calibration.q_pixel
"""


@pytest.mark.slow
def test_calls_with_numpy_arrays_type_check_without_casts_and_mistakes_do_not(checkout, tmp_path):
    mypy = pytest.importorskip("mypy.api")
    options = ["--config-file", str(checkout / "pyproject.toml"), "--follow-imports=silent"]
    for text, wrong in ((USE, 0), (MISTAKES, 20)):
        (tmp_path / "use.py").write_text(text)
        out, _, _ = mypy.run([*options, str(tmp_path / "use.py")])
        assert len({line.split(":")[1] for line in out.splitlines() if ": error:" in line}) == wrong, out


@pytest.mark.slow
def test_type_checkers_see_every_field_of_a_calibration(checkout, tmp_path):
    mypy = pytest.importorskip("mypy.api")
    lines = [f"reveal_type(gpu4d.Calibration().{name})" for name in FIELDS]
    keywords = ["reveal_type(gpu4d.Calibration)", "reveal_type(gpu4d.Calibration().set)"]
    (tmp_path / "use.py").write_text("\n".join(["import gpu4d", *lines, *keywords]))
    out, _, _ = mypy.run(["--config-file", str(checkout / "pyproject.toml"), "--follow-imports=silent", str(tmp_path / "use.py")])
    revealed = [line.split("Revealed type is ")[1] for line in out.splitlines() if "Revealed type" in line]
    assert len(revealed) == len(FIELDS) + 2 and ": error:" not in out, out
    for name, value in zip(FIELDS, revealed):
        assert value.endswith(' | None"') and not value.startswith('"Any'), f"{name}: {value}"
        assert all(f"{name}: " in call for call in revealed[-2:]), name


@pytest.mark.slow
def test_type_checkers_see_signatures(checkout, tmp_path):
    mypy = pytest.importorskip("mypy.api")
    (tmp_path / "use.py").write_text(
        "import gpu4d\nreveal_type(gpu4d.sweep)\nreveal_type(gpu4d.open)\nreveal_type(gpu4d.calibrate.origin)\n"
    )
    out, _, _ = mypy.run(["--config-file", str(checkout / "pyproject.toml"), "--follow-imports=silent", str(tmp_path / "use.py")])
    revealed = [line for line in out.splitlines() if "Revealed type" in line]
    assert len(revealed) == 3 and not any('is "Any"' in line for line in revealed), out
    assert "device" in revealed[0] and "DataCube" in revealed[1] and "Origin" in revealed[2], out
