"""Goal: /docs describes the API with nothing from another host, and escapes what it shows."""

from __future__ import annotations

import re

from fastapi import FastAPI

from gateway.api.docs import render


def page() -> str:
    app = FastAPI(title="T <script>", version="1")

    @app.get("/v1/things/{name}", description="One & <b>only</b>")
    def thing(name: str, limit: int = 3) -> dict[str, int]:
        return {name: limit}

    return render(app.openapi())


def test_everything_is_on_the_page() -> None:
    for wanted in ("GET", "/v1/things/{name}", "<code>limit</code>", "HTTPValidationError", "422"):
        assert wanted in page()


def test_nothing_comes_from_elsewhere() -> None:
    links = re.findall(r"(?:src|href)\s*=\s*['\"]?([^'\" >]+)", page())
    assert links and all(link.startswith(("#", "/openapi.json")) for link in links)
    assert "<script" not in page() and "@import" not in page() and "url(" not in page()


def test_text_is_escaped() -> None:
    assert "One &amp; &lt;b&gt;only&lt;/b&gt;" in page()
    assert "T &lt;script&gt;" in page()
