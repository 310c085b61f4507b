"""The house: a room imports only rooms below it, and no module reaches itself through its imports."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

# From the bottom to the top; rooms of one line do not import each other.
FLOORS = (
    ("sizes", "_version", "deprecation", "compiled_cache", "compiled_pieces", "on_host", "findings"),
    ("errors",),
    ("physics", "foreign_arrays", "extensions"),
    ("arrays",),
    ("real_arrays", "robust"),
    ("operation", "fft", "cache", "compiled"),
    ("device",),
    ("data",),
    ("io",),
    ("streaming",),
    ("simulate", "imaging"),
    ("probe",),
    ("structures",),
    ("preprocess", "beam"),
    ("rings",),
    ("crystal",),
    ("bragg",),
    ("calibrate",),
    ("orientation", "classification", "amorphous"),
    ("deflection", "drift"),
    ("ptychography",),
    ("planning",),
    ("interop",),
    ("plot", "_capabilities"),
    ("notebook",),
    ("view",),
    ("workflow",),
    ("testing",),
    ("cli_flags", "cli_signals"),
    (
        "cli_plan",
        "cli_convert",
        "cli_export",
        "cli_recipe",
        "cli_capabilities",
        "cli_bench",
        "cli_compare",
        "cli_batch",
        "cli_doctor",
        "cli_init",
        "cli_view",
    ),
    ("cli", ""),
    ("__main__",),
)
TWINS = ("kernels", "cpu_fallback")  # beside the rooms: each twin knows its definition, and is loaded by it when it runs
ALLOWED_UP: dict[str, str] = {}  # module: why it may import upwards


@pytest.fixture(scope="module")
def imports(checkout):
    """Module -> modules of gpu4d it imports, wherever in the file; imports for type checkers alone are left out."""
    found = defaultdict(set)
    names = {}
    for file in (checkout / "gpu4d").rglob("*.py"):
        parts = ("gpu4d", *file.relative_to(checkout / "gpu4d").with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    for name, file in names.items():
        for module in _imported(ast.parse(file.read_text(encoding="utf-8"))):
            target = module if module in names else module.rpartition(".")[0]
            if target in names and target not in (name, "gpu4d"):
                found[name].add(target)
    return found


def _imported(tree):
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "gpu4d":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("gpu4d."))


def _room(module):
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_a_floor(imports):
    known = {room for floor in FLOORS for room in (floor if isinstance(floor, tuple) else (floor,))}
    assert {_room(m) for m in imports} <= known | set(TWINS), {_room(m) for m in imports} - known


def test_a_room_imports_only_rooms_below_it(imports):
    floor = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
    wrong = [
        f"{module} -> {target}"
        for module, targets in sorted(imports.items())
        for target in sorted(targets)
        if _room(module) in floor and _room(target) in floor and _room(module) != _room(target)
        if floor[_room(target)] >= floor[_room(module)] and module not in ALLOWED_UP
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle(imports):
    """Packages count as the modules they are: importing from a package's __init__ is an arrow to it."""
    state, path, circles = {}, [], []

    def visit(module):
        state[module] = "open"
        path.append(module)
        for target in sorted(imports.get(module, ())):
            if state.get(target) == "open":
                circles.append(" -> ".join([*path[path.index(target) :], target]))
            elif target not in state:
                visit(target)
        path.pop()
        state[module] = "done"

    for module in sorted(imports):
        if module not in state:
            visit(module)
    assert not circles, "\n".join(circles)


def test_files_are_read(checkout):
    assert len(list(Path(checkout / "gpu4d").rglob("*.py"))) > 100
