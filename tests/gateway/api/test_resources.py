"""Goal: what operators read is guarded where a token is set; footage never opens with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from gateway.api.clips import ClipThreads
from gateway.api.resources import create_app
from storage.base.clock import SimulatedClock

TOKEN = "a long random string"


def services(token: str | None) -> Any:
    async def nothing() -> None:
        return None

    async def no_cameras() -> dict[str, object]:
        return {}

    async def refuse() -> None:
        raise AssertionError("the resource was reached")

    server = SimpleNamespace(admin_token=token)
    return SimpleNamespace(
        installation=SimpleNamespace(config=SimpleNamespace(server=server)),
        cameras=no_cameras,
        report=nothing,
        overview=refuse,
        threads=ClipThreads(),
        clock=SimulatedClock(),
        counters=dict,
    )


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(services(TOKEN)))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as made:
        yield made


COVERAGE = "/v1/cameras/a/coverage?from=2026-05-04T05:00:00Z&to=2026-05-04T06:00:00Z"


@pytest.mark.parametrize("path", ["/v1/cameras", "/v1/status", COVERAGE])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
     {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}x"}],
)  # fmt: skip
async def test_operators_need_the_token(
    client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    answer = await client.get(path, headers=headers)
    assert answer.status_code == 401 and answer.json()["code"] == "ADMIN_TOKEN"
    assert TOKEN not in answer.text


async def test_with_the_token_they_are_let_in(client: httpx.AsyncClient) -> None:
    with pytest.raises(AssertionError, match="was reached"):
        await client.get("/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})


async def test_without_supervisor_the_node_is_not_healthy(client: httpx.AsyncClient) -> None:
    answer = await client.get("/healthz")
    assert answer.status_code == 503 and answer.json()["reasons"]
    assert "ringvault_healthy 0.0" in (await client.get("/metrics")).text


async def test_the_clip_of_nothing_needs_a_grant(client: httpx.AsyncClient) -> None:
    for method in ("GET", "HEAD"):
        answer = await client.request(method, "/v1/clips/a.mp4")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_description_lists_what_there_is(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths) == {
        "/v1/cameras", "/v1/status", "/v1/cameras/{camera}/coverage",
        "/v1/clips/{camera}.mp4", "/v1/clips/{camera}.json", "/healthz",
    }  # fmt: skip
    assert set(paths["/v1/clips/{camera}.mp4"]) == {"get", "head"}
