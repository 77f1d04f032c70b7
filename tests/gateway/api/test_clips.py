"""Goal: clips go out in bounded pieces, at the client's pace, and stop when he leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.api.clips import (
    ClipBusy,
    ClipCache,
    ClipRequest,
    ClipResponse,
    ClipThreads,
    gaps_header,
)
from gateway.api.ranges import Selection
from gateway.limits import (
    CLIP_CACHE_AGE_MAX_S,
    CLIP_CACHE_MAX,
    CLIP_CHUNK_BYTES,
    CLIP_READS_MAX,
    GAPS_HEADER_BYTES_MAX,
)
from storage.base.gap import Gap, GapCause
from storage.base.timebase import TimeRange
from storage.errors import FootageGone

MS = 1_000_000
PART = CLIP_CHUNK_BYTES // 2


class FakeClip:
    """``parts`` pieces of half a chunk each; counts what was read; may break at one of them."""

    def __init__(self, parts: int, breaks_at: int | None = None) -> None:
        self.size_bytes = parts * PART
        self.parts_read = 0
        self._breaks_at = breaks_at

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        for number in range(offset // PART, (offset + length) // PART):
            if number == self._breaks_at:
                raise FootageGone("it was overwritten")
            self.parts_read += 1
            yield bytes([number % 251]) * PART


class Client:
    """The ASGI side: takes what is sent, as slowly as told, and leaves when told."""

    def __init__(self, take_max: int = 1_000_000) -> None:
        self.messages: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.takes = asyncio.Semaphore(take_max)

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await self.takes.acquire()
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.messages if m["type"] == "http.response.body")


async def respond(
    clip: FakeClip, client: Client, *, send_body: bool = True, threads: ClipThreads | None = None
) -> list[str]:
    """Run one response to its end; what ``on_broken`` was told."""
    broken: list[str] = []
    threads = threads or ClipThreads()
    threads.acquire()
    chosen = Selection(200, 0, clip.size_bytes, clip.size_bytes)
    response = ClipResponse(
        clip,  # type: ignore[arg-type]
        chosen,
        [(b"etag", b'"x"')],
        threads,
        send_body=send_body,
        on_broken=lambda: broken.append("broken"),
    )
    try:
        await response({"type": "http"}, client.receive, client.send)
    finally:
        assert threads.reading == 0, "its place is free again"
    return broken


async def test_all_of_it_arrives() -> None:
    client, clip = Client(), FakeClip(5)
    assert await respond(clip, client) == []
    assert client.body == b"".join(clip.read(0, clip.size_bytes))
    assert client.messages[0] == {
        "type": "http.response.start", "status": 200, "headers": [(b"etag", b'"x"')],
    }  # fmt: skip
    sizes = [len(m["body"]) for m in client.messages[1:]]
    assert sizes == [PART] * 5 + [0], "nothing is copied together"


async def test_head_reads_nothing() -> None:
    client, clip = Client(), FakeClip(5)
    await respond(clip, client, send_body=False)
    assert clip.parts_read == 0 and client.body == b"" and len(client.messages) == 2


async def test_a_slow_client_keeps_two_chunks_waiting_and_no_more() -> None:
    client, clip = Client(take_max=1), FakeClip(100)
    running = asyncio.ensure_future(respond(clip, client))
    for _ in range(50):
        await asyncio.sleep(0.005)
    assert clip.parts_read == 4, "two being sent, a chunk waiting"
    for _ in range(2):
        client.takes.release()
        for _ in range(20):
            await asyncio.sleep(0.005)
    assert clip.parts_read == 6
    client.left.set()
    client.takes.release()
    await running
    assert clip.parts_read <= 8, "who left gets nothing more read"


async def test_what_cannot_be_read_at_all_is_an_error_and_no_answer() -> None:
    client = Client()
    with pytest.raises(FootageGone):
        await respond(FakeClip(4, breaks_at=0), client)
    assert client.messages == [], "the status line is still to be said"


async def test_what_breaks_on_the_way_is_cut_short_and_forgotten() -> None:
    client, clip = Client(), FakeClip(6, breaks_at=3)
    threads = ClipThreads()
    with pytest.raises(FootageGone):
        await respond(clip, client, threads=threads)
    assert client.body == b"".join(FakeClip(2).read(0, CLIP_CHUNK_BYTES))
    assert client.messages[-1]["more_body"] is True, "it never looks complete"


def test_places_are_counted() -> None:
    threads = ClipThreads()
    for _ in range(CLIP_READS_MAX):
        threads.acquire()
    with pytest.raises(ClipBusy) as caught:
        threads.acquire()
    assert caught.value.code == "BUSY" and threads.refused == 1
    threads.release()
    threads.acquire()


def gap(number: int, cause: GapCause = GapCause.PACKET_LOSS) -> Gap:
    start_ns = (1_764_009_900_123 + 1000 * number) * MS
    return Gap(start_ns, start_ns + 40 * MS - 1, cause)


def test_the_gap_header_is_compact() -> None:
    found = gaps_header((gap(0), gap(1, GapCause.CAMERA_OFFLINE)))
    assert found == (
        "packet_loss;from=1764009900123;ms=40, camera_offline;from=1764009901123;ms=40"
    )
    assert gaps_header(()) == ""


@pytest.mark.parametrize("count", [1, 50, 95, 96, 97, 98, 99, 100, 101, 200, 10_000])
def test_the_gap_header_is_bounded_and_counts_what_it_leaves_out(count: int) -> None:
    items = gaps_header(tuple(gap(n) for n in range(count))).split(", ")
    assert len(", ".join(items)) <= GAPS_HEADER_BYTES_MAX
    shown = [item for item in items if item.startswith("packet_loss")]
    left_out = [int(item.removeprefix("more;count=")) for item in items if "more" in item]
    assert len(shown) + sum(left_out) == count and len(left_out) <= 1
    if count <= 50:
        assert not left_out


def request(token: str = "t", camera: str = "c", requested: TimeRange | None = None) -> ClipRequest:
    return ClipRequest(token, camera, requested, "test")


def test_the_cache_tells_requests_apart_and_holds_no_token() -> None:
    different = [
        request(), request("u"), request(camera="d"), request(requested=TimeRange(1, 2)),
        request(requested=TimeRange(1, 3)), request("c\0t", "x"),
    ]  # fmt: skip
    keys = {asked.key for asked in different}
    assert len(keys) == len(different)
    assert request().key == ClipRequest("t", "c", None, "somebody else").key
    assert all(b"secret-token" not in key for key in [request("secret-token").key])


def test_the_cache_is_short_and_small() -> None:
    now = [0]
    cache = ClipCache(lambda: now[0])
    opened: Any = object()
    cache.put(b"a", opened)
    assert cache.get(b"a") is opened
    now[0] += int(CLIP_CACHE_AGE_MAX_S * 1e9)
    assert cache.get(b"a") is None
    for number in range(CLIP_CACHE_MAX + 1):
        cache.put(str(number).encode(), opened)
    assert cache.get(b"0") is None and cache.get(b"1") is opened
    cache.forget(b"1")
    assert cache.get(b"1") is None
