"""``GET|HEAD /v1/clips/{camera}.mp4``: a clip's bytes against a grant, resumable.

Owns the composed clips of the last minute (so that a player's many range requests cost one
composition), the threads that read footage, and the response that streams it. Never decides
whether a clip may be had: storage's ``ClipReader`` does, and makes the audit entry durable first
(G2).

- At most CLIP_READS_MAX clips are read at once; one more is told 503 and when to try again.
- While a chunk is being sent the next one is read, and no further: a slow client costs two chunks
  of memory.
- A client that leaves stops the reading at the next chunk.
- Every request that delivers bytes is an entry of the audit log, a cached composition or not.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.ranges import Selection
from gateway.errors import GatewayError
from gateway.footage import OpenedClip
from gateway.limits import (
    CLIP_CACHE_AGE_MAX_S,
    CLIP_CACHE_MAX,
    CLIP_CHUNK_BYTES,
    CLIP_READS_MAX,
    GAPS_HEADER_BYTES_MAX,
)
from gateway.telemetry.log import get_logger
from storage.base.gap import Gap
from storage.base.timebase import TimeRange
from storage.clip.reader import Clip

log = get_logger(__name__)

Chunk = bytes | memoryview
ResultT = TypeVar("ResultT")


class ClipBusy(GatewayError):
    """As many clips are being read as may be."""

    code = "BUSY"


def gaps_header(gaps: tuple[Gap, ...]) -> str:
    """``X-Ringvault-Gaps``: an RFC 9651 list, oldest first, at most GAPS_HEADER_BYTES_MAX.

    One item a gap, the cause with the start in ms since 1970 and the length in ms:
    ``packet_loss;from=1764009900123;ms=40``. What does not fit is counted: ``more;count=12``.
    The sidecar has them all.
    """
    items: list[str] = []
    used = 0
    for number, gap in enumerate(gaps):
        start_ms, length_ms = gap.start_ns // 1_000_000, -(-gap.duration_ns // 1_000_000)
        item = f"{gap.cause.label};from={start_ms};ms={length_ms}"
        more = f"more;count={len(gaps) - number}"
        if used + len(item) + len(", ") + len(more) > GAPS_HEADER_BYTES_MAX:
            items.append(more)
            break
        items.append(item)
        used += len(item) + len(", ")
    return ", ".join(items)


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """What a request asks for. ``requested``: a part of the granted range, None all of it."""

    token: str
    camera_id: str
    requested: TimeRange | None
    client: str

    @property
    def key(self) -> bytes:
        """Of the cache. Never the token itself: a cache is no place for credentials."""
        wanted = self.requested
        times = f"{wanted.start_ns}-{wanted.end_ns}" if wanted is not None else ""
        return hashlib.sha256(f"{self.camera_id}\0{times}\0{self.token}".encode()).digest()


@dataclass(frozen=True, slots=True)
class _Cached:
    opened: OpenedClip
    expires_ns: int


class ClipCache:
    """The clips composed lately, by ``ClipRequest.key``. Used on the event loop only."""

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        self._clips: OrderedDict[bytes, _Cached] = OrderedDict()

    def get(self, key: bytes) -> OpenedClip | None:
        """The clip, unless it is too old."""
        cached = self._clips.get(key)
        if cached is None:
            return None
        if cached.expires_ns <= self._monotonic_ns():
            del self._clips[key]
            return None
        self._clips.move_to_end(key)
        return cached.opened

    def put(self, key: bytes, opened: OpenedClip) -> None:
        """Keep it; the one unused longest goes when there are too many."""
        expires_ns = self._monotonic_ns() + int(CLIP_CACHE_AGE_MAX_S * 1e9)
        self._clips[key] = _Cached(opened, expires_ns)
        self._clips.move_to_end(key)
        if len(self._clips) > CLIP_CACHE_MAX:
            self._clips.popitem(last=False)

    def forget(self, key: bytes) -> None:
        """It could not be read to its end: compose it anew next time."""
        self._clips.pop(key, None)


class ClipThreads:
    """The threads that compose and read clips, apart from the loop, and their limit."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(CLIP_READS_MAX, thread_name_prefix="clip")
        self._free = CLIP_READS_MAX
        self.bytes_sent = 0
        self.refused = 0

    @property
    def reading(self) -> int:
        """Clips being composed or sent now."""
        return CLIP_READS_MAX - self._free

    def acquire(self) -> None:
        """Take a place; every ``acquire`` is followed by one ``release``. Raises ClipBusy."""
        if self._free == 0:
            self.refused += 1
            raise ClipBusy(
                f"{CLIP_READS_MAX} clips are being read already",
                remedy="try again in a few seconds",
            )
        self._free -= 1

    def release(self) -> None:
        """Give the place back."""
        self._free += 1
        assert self._free <= CLIP_READS_MAX

    async def run(self, function: Callable[[], ResultT]) -> ResultT:
        """Run on one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        """Let running reads end; take no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class ClipResponse(Response):
    """An ASGI response that sends ``selection`` of ``clip``.

    Holds one place of ``threads``, and frees it.
    """

    def __init__(
        self,
        clip: Clip,
        selection: Selection,
        headers: list[tuple[bytes, bytes]],
        threads: ClipThreads,
        *,
        send_body: bool,
        on_broken: Callable[[], None],
    ) -> None:
        self.status_code = selection.status
        self.background = None
        self.raw_headers = headers
        self._clip = clip
        self._selection = selection
        self._threads = threads
        self._on_broken = on_broken
        self._send_body = send_body and selection.length > 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises StorageError when bytes that were promised cannot be delivered."""
        try:
            if not self._send_body:
                await self._start(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            async with asyncio.TaskGroup() as group:
                gone = asyncio.Event()
                watcher = group.create_task(_watch(receive, gone))
                try:
                    await self._stream(send, gone, group)
                finally:
                    watcher.cancel()
        except ExceptionGroup as group_error:
            # The status line may be gone already: the server then cuts the connection, and the
            # client sees fewer bytes than Content-Length announced.
            error = group_error.exceptions[0]
            self._on_broken()
            log.error("clip_read_failed", error=str(error))
            raise error from None
        finally:
            self._threads.release()

    async def _start(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )

    async def _stream(self, send: Send, gone: asyncio.Event, group: asyncio.TaskGroup) -> None:
        chunks = self._clip.read(self._selection.start, self._selection.length)

        async def read(size_min: int) -> list[Chunk]:
            return await self._threads.run(lambda: _batch(chunks, size_min))

        # Something of the footage before the status line: what cannot be read can then still be
        # said. Not more of it than is at hand soonest.
        batch = await read(1)
        await self._start(send)
        while batch and not gone.is_set():
            ahead = group.create_task(read(CLIP_CHUNK_BYTES))
            batch.reverse()
            while batch and not gone.is_set():
                # Popped: a chunk is somebody else's memory, held no longer than it is needed.
                size = len(batch[-1])
                await send({"type": "http.response.body", "body": batch.pop(), "more_body": True})
                self._threads.bytes_sent += size
            batch = await ahead
        if not gone.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _batch(chunks: Iterator[Chunk], size_min: int) -> list[Chunk]:
    """The next chunks, at least two and ``size_min`` bytes of them; empty at the end."""
    batch: list[Chunk] = []
    size = 0
    for chunk in chunks:
        batch.append(chunk)
        size += len(chunk)
        if len(batch) > 1 and size >= size_min:
            break
    return batch
