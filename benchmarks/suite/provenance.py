"""Say what code a run is of: whether it is that of a wheel or of a commit, what was changed, and the hash of all its sources.

What is looked at are source files. Caches of compiled code beside them, and other packages, are not.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import gpu4d
from gpu4d.operation import Operation, all_operations

SOURCES = (".py", ".pyi", ".cu", ".cuh", ".json", ".html")  # endings of the files that are hashed
FOLDERS = {
    "gpu4d": "",
    "kernels": "kernels/",
    "cpu_fallback": "cpu_fallback/",
    "benchmarks": "benchmarks/",
}  # of a checkout, in the package
RESULTS = "benchmarks/results/"  # grows with every result that is sent in, and is no code
WAIT = 30.0  # s for git

Contents = dict[str, bytes]  # of source files, by their path in the installed package


def code() -> dict[str, Any]:
    """Return the part `code` of a result: version, origin, commit, changed files, and the hash of all sources."""
    package = Path(gpu4d.__file__).resolve().parent
    about: dict[str, Any] = {"gpu4d": gpu4d.__version__, "origin": "unknown", "commit": None, "changed": []}
    recorded = _recorded(package)
    if recorded:
        about |= {"origin": "wheel", "changed": _changed_since_installed(package, recorded)}
    elif (known := _git(package.parent)) is not None:
        about |= {"origin": "checkout", "commit": known[0], "changed": known[1]}
    return {**about, "sha256": source_hash(_contents(package))}


def source_hash(contents: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of source files: of the path in the package and the content of each, in the order of paths.

    It is the same for a wheel and for a checkout of the same commit. Line ends of Windows count as line feeds, because git may have
    put them there.
    """
    found = hashlib.sha256()
    for name in sorted(contents):
        content = contents[name].replace(b"\r\n", b"\n")
        found.update(f"{name}\0{len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()


def hash_of_commit(commit: str) -> str | None:
    """Return the hash that the sources of a commit have, if this is a checkout whose history holds it; else None."""
    root = Path(gpu4d.__file__).resolve().parents[1]
    if not commit or not all(c in "0123456789abcdef" for c in commit) or _git(root) is None:
        return None
    archive = _ask_git(root, "archive", "--format=tar", commit, "--", *FOLDERS)
    return None if archive is None else source_hash(_archived(archive))


def division(
    code: Mapping[str, Any], plugins: Sequence[str], seed_is: str = "announced", operations: Iterable[Operation] | None = None
) -> tuple[str, list[str]]:
    """Return "closed" or "open", and why it is open.

    A run is of the closed division if its code is that of a wheel or a commit without a change, every implementation of every operation
    is gpu4d's own, no plug-in was loaded, and the seed was announced or drawn.

    Parameters
    ----------
    code : mapping
        What `code` returns.
    plugins : sequence of str
        Modules that the run was told to load.
    seed_is : {"announced", "drawn", "given"}
    operations : iterable of Operation, optional
        All by default.
    """
    why = []
    if code["origin"] == "unknown":
        why.append("the code has no origin that can be checked: it is neither from a wheel with hashes nor in a checkout of git")
    if changed := code["changed"]:
        why.append(f"{len(changed)} source files were changed: {_some(changed)}")
    if foreign := foreign_code(all_operations().values() if operations is None else operations):
        why.append(f"not gpu4d's own: {_some(foreign)}")
    if plugins:
        why.append(f"plug-ins were loaded: {_some(plugins)}")
    if seed_is not in ("announced", "drawn"):
        why.append("the seed was chosen")
    return ("open" if why else "closed"), why


def foreign_code(operations: Iterable[Operation]) -> list[str]:
    """Return the implementations that do not come from a file of the package: "masked_sums: cuda of fast_sums"."""
    homes = _homes()
    found = []
    for operation in operations:
        if not _defined_in(operation.definition, homes):
            found.append(f"{operation.name}: definition of {operation.definition.__module__}")
        for kind, twin in operation.twins.items():
            module = sys.modules.get(twin.module)
            own = twin.module.startswith("gpu4d.") and _found_in(twin.module, homes)
            if not own or (module is not None and not _defined_in(getattr(module, operation.name, None), homes)):
                found.append(f"{operation.name}: {kind} of {twin.module}")
    return found


def _homes() -> list[Path]:
    """Return the folders that hold the package: one, or those of a checkout."""
    package = Path(gpu4d.__file__).resolve().parent
    beside = [package.parent / name for name in FOLDERS if name != "gpu4d"]
    return [package] if (package / "kernels").is_dir() else [package, *beside]


def _found_in(module: str, homes: Sequence[Path]) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and any(Path(spec.origin).resolve().is_relative_to(home) for home in homes)


def _defined_in(function: Any, homes: Sequence[Path]) -> bool:
    """Return True if the code that a call enters first is in a file of these folders. Functions of numba hold theirs apart."""
    plain = getattr(function, "py_func", function)
    code = getattr(plain, "__code__", None)
    return code is not None and any(Path(code.co_filename).resolve().is_relative_to(home) for home in homes)


# ---------------------------------------------------------------- files


def _contents(package: Path) -> Contents:
    """Return the sources of the package as it lies here: installed, or in a checkout."""
    installed = (package / "kernels").is_dir()
    roots = {"gpu4d": package} if installed else {name: package.parent / name for name in FOLDERS}
    found = {}
    for name, root in roots.items():
        for path in root.rglob("*"):
            inside = FOLDERS[name] + path.relative_to(root).as_posix()
            if _is_source(inside) and path.is_file():
                found[inside] = path.read_bytes()
    return found


def _archived(archive: bytes) -> Contents:
    """Return the sources in an archive of a checkout, by the paths that they have when they are installed."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            folder, _, rest = member.name.partition("/")
            inside = FOLDERS.get(folder, "") + rest
            if member.isfile() and folder in FOLDERS and _is_source(inside):
                content = files.extractfile(member)
                assert content is not None, "a plain file has content"
                found[inside] = content.read()
    return found


def _is_source(inside: str) -> bool:
    path = PurePosixPath(inside)
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return path.suffix in SOURCES and not hidden and not inside.startswith(RESULTS)


# ---------------------------------------------------------------- a wheel


def _recorded(package: Path) -> dict[str, str]:
    """Return the SHA-256 that the installer wrote down for the sources of this package, by path; empty if it is not from a wheel."""
    try:
        files = importlib.metadata.distribution("gpu4d").files or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = {}
    for file in files:
        inside = file.as_posix().removeprefix("gpu4d/")
        if inside != file.as_posix() and file.hash is not None and file.hash.mode == "sha256" and _is_source(inside):
            if Path(str(file.locate())).resolve() != package / inside:
                return {}  # the files of another installation
            found[inside] = file.hash.value
    return found if "__init__.py" in found else {}


def _changed_since_installed(package: Path, recorded: Mapping[str, str]) -> list[str]:
    here = {inside: _base64(hashlib.sha256(content).digest()) for inside, content in _contents(package).items()}
    changed = {inside for inside in {*here, *recorded} if here.get(inside) != recorded.get(inside)}
    return sorted(f"gpu4d/{inside}" + ("" if inside in here else " (missing)") for inside in changed)


def _base64(digest: bytes) -> str:
    """Return a digest as installers write it: base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


# ---------------------------------------------------------------- a checkout


def _git(root: Path) -> tuple[str, list[str]] | None:
    """Return the commit and the changed files of a checkout; None if the folder is not the top of one, or there is no git."""
    top = _ask_git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.decode().strip()).resolve() != root.resolve():
        return None
    commit = _ask_git(root, "rev-parse", "HEAD")
    listed = _ask_git(root, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--", *FOLDERS, "pyproject.toml")
    if commit is None or listed is None:
        return None
    return commit.decode().strip(), sorted(_changed(listed.decode()))


def _changed(listed: str) -> Iterator[str]:
    for entry in listed.split("\0"):
        name = entry[3:]
        if name and not name.startswith(RESULTS) and (_is_source(name) or name == "pyproject.toml"):
            yield name


def _ask_git(root: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=WAIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
