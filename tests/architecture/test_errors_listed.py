"""docs/ref/errors.md is complete: every code and every exception class of the product is on it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import cext.errors
import storage.errors
from gateway import problem
from gateway.legal.refusals import RULES
from storage.base import grant

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/ref/errors.md").read_text(encoding="utf-8")
LIST = PAGE[PAGE.index("## All codes") :]
LISTED = set(re.findall(r"^\| `([A-Z_]+)` \|", LIST, re.MULTILINE))


def codes_of_classes() -> Iterator[tuple[str, str]]:
    """(code, where) of every ``code = "..."`` in a class body, and of ``problem("...")``."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        where = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    if (
                        isinstance(part, ast.Assign)
                        and isinstance(part.value, ast.Constant)
                        and isinstance(part.value.value, str)
                        and [getattr(t, "id", "") for t in part.targets] == ["code"]
                    ):
                        yield part.value.value, f"{where}:{part.lineno}"
            elif (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "problem"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                yield node.args[0].value, f"{where}:{node.lineno}"


def test_every_code_of_the_product_is_on_the_page() -> None:
    known = dict(codes_of_classes())
    known |= {code: "gateway/problem.py" for _, code, _ in problem._STORAGE}
    known |= dict.fromkeys(problem._STATUS, "gateway/problem.py")
    known |= dict.fromkeys(RULES, "gateway/legal/refusals.py")
    grants = (grant.EXPIRED, grant.OUT_OF_SCOPE, grant.BAD_SIGNATURE, grant.MALFORMED)
    known |= dict.fromkeys((*grants, grant.WRONG_INSTALLATION), "storage/base/grant.py")
    assert len(known) > 60
    missing = {f"{where}: {code}" for code, where in known.items() if code not in LISTED}
    assert not missing, "\n".join(sorted(missing))
    # Written at the place of use: a session's own mistake, HTTP without another code.
    invented = LISTED - set(known) - {"INTERNAL", "HTTP", "RANGE"}
    assert not invented, f"on the page, but not in the code: {sorted(invented)}"


def test_every_exception_class_is_on_the_page() -> None:
    missing = [
        f"{module.__name__}.{name}"
        for module in (cext.errors, storage.errors)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Exception) and f"`{name}`" not in LIST
    ]
    assert not missing, missing


def test_articles_are_those_of_the_rules() -> None:
    for code, (article, _) in RULES.items():
        assert f"| `{code}` | {article} |" in LIST, code
