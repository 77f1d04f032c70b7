"""``/docs``: the OpenAPI description as one plain HTML page, built here and without any script.

Exists because the usual page loads its code from hosts on the internet, which a video network
does not reach. Owns the rendering only; the description itself is FastAPI's, at
``/openapi.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{border-top:1px solid #d5dae0;padding-top:1.5rem;font-size:1.15rem}
code,.m{font-family:ui-monospace,monospace}.m{display:inline-block;min-width:3.5rem;font-weight:700}
.get{color:#0a6640}.head{color:#5b3fa0}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem}
td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #e6e9ed}
p{white-space:pre-wrap}a{color:#0b57d0}
"""


def render(openapi: dict[str, Any]) -> str:
    """The page for an OpenAPI 3.1 document. Everything in it is escaped."""
    info = openapi["info"]
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('description', ''))}</p>",
        "<p>Machine-readable: <a href='/openapi.json'>/openapi.json</a></p>",
    ]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    schemas = openapi.get("components", {}).get("schemas", {})
    parts.extend(_schema(name, schema) for name, schema in schemas.items())
    parts.append("</body></html>")
    return "".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<h2><span class='m {escape(method)}'>{escape(method.upper())}</span>",
        f"<code>{escape(path)}</code></h2>",
        f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>",
    ]
    rows = [
        (
            f"<code>{escape(p['name'])}</code>",
            escape(p["in"]) + (", required" if p.get("required") else ""),
            escape(p.get("description", "")),
        )
        for p in operation.get("parameters", [])
    ]
    parts.append(_table(("parameter", "where", "meaning"), rows))
    answers = [
        (escape(status), _content(answer), escape(answer.get("description", "")))
        for status, answer in operation.get("responses", {}).items()
    ]
    parts.append(_table(("status", "body", "meaning"), answers))
    return "".join(parts)


def _content(answer: dict[str, Any]) -> str:
    found = [
        f"{escape(kind)} {_type(body.get('schema', {}))}"
        for kind, body in answer.get("content", {}).items()
    ]
    return "<br>".join(found)


def _schema(name: str, schema: dict[str, Any]) -> str:
    rows = [
        (f"<code>{escape(field)}</code>", _type(kind), escape(kind.get("description", "")))
        for field, kind in schema.get("properties", {}).items()
    ]
    return (
        f"<h2 id='{escape(name)}'><code>{escape(name)}</code></h2>"
        f"<p>{escape(schema.get('description', ''))}</p>"
        + _table(("field", "type", "meaning"), rows)
    )


def _type(schema: dict[str, Any]) -> str:
    if reference := schema.get("$ref"):
        name = escape(reference.rsplit("/", 1)[-1])
        return f"<a href='#{name}'>{name}</a>"
    if options := schema.get("anyOf"):
        return " or ".join(_type(option) for option in options)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type") or ""))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<th>{title}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"
