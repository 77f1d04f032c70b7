"""The rooms of the house and who may call whom (docs/design/overview.md, "Layers").

Reads imports as text from the syntax tree of every .py and from the import lines of every
.pyx/.pxd, so that a forbidden import fails here even on a branch no test executes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cext", "storage", "gateway")

# package -> packages of ours it must never import
FORBIDDEN = {
    "cext": {"storage", "gateway", "bench", "tests"},
    "storage": {"gateway", "bench", "tests"},
    "gateway": {"bench", "tests"},
}

# folder -> modules that must not appear in it: no I/O, no clocks, no loop in the wire machines
SANS_IO = {"asyncio", "socket", "time", "threading", "select", "selectors", "uvloop", "ssl"}
NETWORK = {"asyncio", "socket", "uvloop", "fastapi", "uvicorn", "httpx", "aiortc", "starlette"}
PURE_FOLDERS = {
    "gateway/rtsp": SANS_IO,
    "gateway/media": SANS_IO,
    "storage": NETWORK,
}

# strangers: neither imports the other
STRANGERS = [("gateway/ingest", "gateway.legal"), ("gateway/legal", "gateway.ingest")]

# inside storage: a folder and the folders above it that it must not import
STORAGE_ORDER = ["base", "volume", "index", "clip", "evidence"]


def python_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) for every import statement of a Python file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))")


def cython_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) for every import or cimport of a Cython file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := CYTHON_IMPORT.match(line):
            yield number, match.group(1) or match.group(2)


def sources(folder: str) -> list[Path]:
    base = ROOT / folder
    return sorted(p for s in ("*.py", "*.pyx", "*.pxd", "*.pyi") for p in base.rglob(s))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    return cython_imports(path) if path.suffix in {".pyx", ".pxd"} else python_imports(path)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_downward_only(package: str) -> None:
    found = sources(package)
    assert found, f"{package} has no sources: the test looks in the wrong place"
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in found
        for line, name in imports_of(path)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", PURE_FOLDERS)
def test_pure_folders_do_no_io(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(folder)
        for line, name in imports_of(path)
        if name.split(".")[0] in PURE_FOLDERS[folder]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("folder", "stranger"), STRANGERS)
def test_strangers_stay_strangers(folder: str, stranger: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(folder)
        for line, name in imports_of(path)
        if name == stranger or name.startswith(stranger + ".")
    ]
    assert not wrong, "\n".join(wrong)


def test_storage_folders_know_only_those_below() -> None:
    wrong = []
    for rank, folder in enumerate(STORAGE_ORDER):
        above = {f"storage.{name}" for name in STORAGE_ORDER[rank + 1 :]}
        for path in sources(f"storage/{folder}"):
            for line, name in imports_of(path):
                if ".".join(name.split(".")[:2]) in above:
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_media_reaches_storage_only_through_base() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for folder in ("gateway/rtsp", "gateway/media")
        for path in sources(folder)
        for line, name in imports_of(path)
        if name.split(".")[0] == "storage" and name.split(".")[1:2] not in ([], ["base"])
    ]
    assert not wrong, "\n".join(wrong)
