"""House style that a machine can hold: sizes, docstrings, bounded queues, native triples, links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sorted(
    p
    for folder in ("cext", "storage", "gateway", "bench", "tests")
    for p in (ROOT / folder).rglob("*.py")
)
PRODUCT = [p for p in PYTHON if p.relative_to(ROOT).parts[0] in {"cext", "storage", "gateway"}]
MODULE_LINES_MAX = 650
FUNCTION_LINES_MAX = 75


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert len(PRODUCT) > 40


def test_modules_and_functions_stay_readable() -> None:
    wrong = []
    for path in PRODUCT + sorted((ROOT / "cext").glob("*.pyx")):
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MODULE_LINES_MAX and path.suffix == ".py":
            wrong.append(f"{name(path)}: {lines} lines")
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    wrong.append(f"{name(path)}:{node.lineno} {node.name}: {length} lines")
    assert not wrong, "\n".join(wrong)


def test_every_product_module_says_what_it_owns() -> None:
    wrong = [
        name(path)
        for path in PRODUCT
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_unbounded_queue() -> None:
    wrong = []
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            attribute = isinstance(function, ast.Attribute)
            called = function.attr if attribute else getattr(function, "id", "")
            if called in {"Queue", "SimpleQueue", "LifoQueue", "PriorityQueue"} and not (
                node.args or any(k.arg == "maxsize" for k in node.keywords)
            ):
                wrong.append(f"{name(path)}:{node.lineno} {called}() without a bound")
    assert not wrong, "\n".join(wrong)


def test_asserts_are_not_used_to_check_input_with_print() -> None:
    """Nothing in the product prints but the command line, which owns the terminal."""
    wrong = []
    for path in PRODUCT:
        if "cli" in path.parts or path.name in {"demo.py", "main.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                wrong.append(f"{name(path)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", sorted(p.stem for p in (ROOT / "cext").glob("*.pyx")))
def test_native_modules_are_triples(module: str) -> None:
    for suffix in (".pxd", ".pyi"):
        assert (ROOT / "cext" / f"{module}{suffix}").exists(), f"cext/{module}{suffix} is missing"


LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_links_in_the_documents_are_alive() -> None:
    wrong = []
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("bench/*.md")]
    assert documents
    for document in documents:
        for target in LINK.findall(document.read_text(encoding="utf-8")):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not (document.parent / target).exists():
                wrong.append(f"{name(document)}: {target}")
    assert not wrong, "\n".join(wrong)


CITED = re.compile(r"docs/(?:design|ref|guide)/[\w-]+\.md")


def test_documents_cited_in_the_code_exist() -> None:
    wrong = set()
    for path in [*PYTHON, *(ROOT / "cext").glob("*.*")]:
        if path.suffix not in {".py", ".pyx", ".pxd", ".pyi", ".h"}:
            continue
        for cited in CITED.findall(path.read_text(encoding="utf-8")):
            if not (ROOT / cited).exists():
                wrong.add(f"{name(path)}: {cited}")
    assert not wrong, "\n".join(sorted(wrong))


TEST_REFERENCE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_the_error_table_names_tests_that_exist() -> None:
    """docs/ref/errors.md: each row's test is a file, and a function in it."""
    text = (ROOT / "docs/ref/errors.md").read_text(encoding="utf-8")
    found = TEST_REFERENCE.findall(text)
    assert len(found) >= 14
    wrong = []
    for file, function in found:
        path = ROOT / file
        if not path.exists():
            wrong.append(file)
        elif function and f"def {function}(" not in path.read_text(encoding="utf-8"):
            wrong.append(f"{file}::{function}")
    assert not wrong, "\n".join(wrong)
