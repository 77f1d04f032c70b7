"""A camera that does what a test says, over a real socket; a sink that remembers; a feed in action.

The script of a connection is a coroutine: when it returns, the connection is closed. Connections
take the scripts in turn, the last one for ever.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cext.arena import ArenaPool, Fragment
from cext.interleaved import ReceiveArea
from cext.packetize import PacketTemplate
from gateway.ingest.model import CameraSpec, FeedEvent, FeedEventKind, FeedSettings
from gateway.ingest.session import FeedSession
from gateway.net.tcp import drain
from gateway.rtsp.messages import Headers, Request, Response
from gateway.rtsp.parser import MessageParser
from storage.base.clock import SystemClock
from storage.base.gap import Gap, GapCause
from storage.volume.pending import FragmentMeta

H264 = 1
CLOCK = 90_000
SSRC = 0x1234ABCD
MS_NS = 1_000_000
FRAME_S = 0.01  # 100 frames a second keep the tests short
TICKS = 900

FAST = FeedSettings(
    connect_timeout_s=0.5,
    handshake_timeout_s=0.5,
    stall_timeout_s=0.4,
    teardown_timeout_s=0.2,
    retry_first_s=0.02,
    retry_max_s=0.1,
    auth_retry_s=0.3,
    auth_retry_max_s=0.3,
    commit_interval_ns=160 * MS_NS,
)


def split_nals(stream: bytes) -> list[bytes]:
    """NAL units of an Annex B stream."""
    return [nal for nal in re.split(rb"\x00\x00\x00?\x01", stream) if nal]


class Footage:
    """An H.264 stream of one slice a picture as access units and RTP packets."""

    def __init__(self, file: Path) -> None:
        self.units: list[list[bytes]] = []
        prefix: list[bytes] = []
        for nal in split_nals(file.read_bytes()):
            prefix.append(nal)
            if nal[0] & 0x1F in (1, 5):
                self.units.append(prefix)
                prefix = []
        self.sps = next(n for unit in self.units for n in unit if n[0] & 0x1F == 7)
        self.pps = next(n for unit in self.units for n in unit if n[0] & 0x1F == 8)
        self._template = PacketTemplate(H264, 96, self.units, packet_bytes_max=1400)

    def sdp(self, *, payload_type: int = 96, control: str = "trackID=1") -> bytes:
        sets = ",".join(base64.b64encode(n).decode() for n in (self.sps, self.pps))
        return (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\na=control:*\r\n"
            f"m=video 0 RTP/AVP {payload_type}\r\na=rtpmap:{payload_type} H264/{CLOCK}\r\n"
            f"a=fmtp:{payload_type} packetization-mode=1;sprop-parameter-sets={sets}\r\n"
            f"a=control:{control}\r\n"
        ).encode()

    def packets(
        self, index: int, sequence: int, rtp: int, *, ssrc: int = SSRC, payload_type: int = 96
    ) -> list[bytes]:
        """The packets of frame ``index`` (modulo the footage)."""
        made = self._template.packets(
            index % len(self.units), sequence=sequence, timestamp=rtp, ssrc=ssrc
        )
        return [bytes((p[0], p[1] & 0x80 | payload_type)) + p[2:] for p in made]


def avcc(unit: Iterable[bytes]) -> bytes:
    """The sample a frame is stored as."""
    return b"".join(len(nal).to_bytes(4, "big") + nal for nal in unit)


class Connection:
    """The camera's end of one connection."""

    def __init__(
        self, camera: ScriptedCamera, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.camera = camera
        self.reader = reader
        self.writer = writer
        self.requests: list[Request] = []
        self.sequence = 1
        self.rtp = 1000
        self._parser = MessageParser()
        self._waiting: list[Request] = []

    async def request(self, method: str | None = None) -> Request:
        """The next request; its method must be ``method`` if one is named."""
        while not self._waiting:
            data = await self.reader.read(65536)
            if not data:
                raise ConnectionResetError
            self._waiting.extend(m for m in self._parser.feed(data) if isinstance(m, Request))
        request = self._waiting.pop(0)
        self.requests.append(request)
        self.camera.requests.append(request)
        assert method is None or request.method == method, f"{method} expected, not {request}"
        return request

    def answer(
        self, request: Request, status: int = 200, body: bytes = b"", **headers: str
    ) -> None:
        fields = [("CSeq", request.headers.get("CSeq"))]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.writer.write(Response(status, headers=Headers(fields), body=body).encode())

    async def until_play(
        self,
        sdp: bytes,
        *,
        session: str = "ABC;timeout=60",
        transport: str = "RTP/AVP/TCP;unicast;interleaved=0-1",
    ) -> Request:
        """Answer up to SETUP; the PLAY request is returned unanswered."""
        self.answer(await self.request("OPTIONS"), Public="OPTIONS, DESCRIBE, SETUP, PLAY")
        describe = await self.request("DESCRIBE")
        self.answer(
            describe, body=sdp, Content_Type="application/sdp", Content_Base=self.camera.url
        )
        self.answer(await self.request("SETUP"), Session=session, Transport=transport)
        return await self.request("PLAY")

    async def play(self, sdp: bytes, **options: str) -> None:
        """The whole handshake."""
        self.answer(await self.until_play(sdp, **options), Session="ABC")

    def send_frame(self, index: int, *, channel: int = 0, **options: int) -> None:
        """One frame, TICKS of RTP time after the one before."""
        packets = self.camera.footage.packets(index, self.sequence, self.rtp, **options)
        self.sequence += len(packets)
        self.rtp += TICKS
        for packet in packets:
            self.writer.write(b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet)

    async def stream(self, count: int, *, first: int = 0, interval_s: float = FRAME_S) -> None:
        """``count`` frames, one every ``interval_s``."""
        for index in range(first, first + count):
            self.send_frame(index)
            await self.writer.drain()
            await asyncio.sleep(interval_s)

    async def serve(self) -> None:
        """Answer whatever comes, until TEARDOWN or the end of the connection."""
        while True:
            request = await self.request()
            self.answer(request, Session="ABC")
            if request.method == "TEARDOWN":
                return


Script = Callable[[Connection], Awaitable[None]]


class ScriptedCamera:
    """``async with ScriptedCamera(footage, script, ...) as camera``; ``errors`` must stay empty."""

    def __init__(self, footage: Footage, *scripts: Script) -> None:
        self.footage = footage
        self.scripts = scripts
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self.errors: list[BaseException] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def with_user(self, user: str, password: str) -> str:
        return f"rtsp://{user}:{password}@127.0.0.1:{self.port}/cam"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not self.errors, self.errors

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = Connection(self, reader, writer)
        script = self.scripts[min(len(self.connections), len(self.scripts) - 1)]
        self.connections.append(connection)
        try:
            await script(connection)
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        except RuntimeError as error:  # uvloop's word for writing to a client that has gone
            if "the handler is closed" not in str(error):
                self.errors.append(error)
        except Exception as error:
            self.errors.append(error)
        finally:
            writer.close()
            self._tasks.discard(task)


@dataclass
class Stored:
    """A fragment as the sink saw it."""

    payload: bytes
    meta: FragmentMeta
    frame_count: int


@dataclass
class MemorySink:
    """Takes everything until ``full``; insists on the order of starts (I1)."""

    last_end_ns: int = 0
    full: bool = False
    broken: Exception | None = None
    records: list[Stored | Gap] = field(default_factory=list)
    _last_start_ns: int = 0

    def submit(self, fragment: Fragment, meta: FragmentMeta) -> bool:
        if self.broken is not None:
            raise self.broken
        if self.full:
            return False
        self._advance(meta.start_ns, meta.end_ns)
        self.records.append(Stored(bytes(fragment.payload()), meta, fragment.frame_count))
        fragment.release()
        return True

    def submit_gap(self, gap: Gap) -> bool:
        if self.full:
            return False
        self._advance(gap.start_ns, gap.end_ns)
        self.records.append(gap)
        return True

    def _advance(self, start_ns: int, end_ns: int) -> None:
        assert start_ns >= self._last_start_ns, "records out of order (I1)"
        assert end_ns > start_ns
        self._last_start_ns = start_ns
        self.last_end_ns = max(self.last_end_ns, end_ns)

    @property
    def fragments(self) -> list[Stored]:
        return [r for r in self.records if isinstance(r, Stored)]

    @property
    def gaps(self) -> list[Gap]:
        return [r for r in self.records if isinstance(r, Gap)]

    @property
    def payload(self) -> bytes:
        return b"".join(f.payload for f in self.fragments)

    @property
    def frames(self) -> int:
        return sum(f.frame_count for f in self.fragments)


@dataclass
class Feed:
    """A session at work."""

    session: FeedSession
    sink: MemorySink
    pool: ArenaPool
    events: list[FeedEvent]
    task: asyncio.Task[None]

    def causes(self) -> list[GapCause]:
        """Of the lives that ended, in order."""
        return [e.cause for e in self.events if e.kind is FeedEventKind.LOST and e.cause]

    def codes(self) -> list[str]:
        return [e.code for e in self.events if e.kind is FeedEventKind.LOST]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until the condition holds; fails with the feed's state if it does not."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    assert not self.task.done(), self.task
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(
                f"waited in vain: {self.session.status()} {self.events} {self.sink.records}"
            ) from None

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        assert self.task.cancelled(), "run() ends by cancellation only (S1)"


@asynccontextmanager
async def feed(
    url: str,
    settings: FeedSettings = FAST,
    sink: MemorySink | None = None,
    *,
    camera_id: str = "cam-1",
    area: ReceiveArea | None = None,
    transport: str = "tcp",
) -> AsyncIterator[Feed]:
    """A running feed with its ticks; at the end it is cancelled and must have leaked nothing."""
    clock = SystemClock()
    pool = ArenaPool(64 << 20)
    events: list[FeedEvent] = []
    sink = MemorySink() if sink is None else sink
    session = FeedSession(
        CameraSpec(camera_id, b"\x01" * 16, url, transport),
        area=area or ReceiveArea(),
        pool=pool,
        sink=sink,
        clock=clock,
        settings=settings,
        report=events.append,
        random=lambda: 0.5,
    )
    task = asyncio.create_task(session.run())

    async def tick() -> None:
        while True:
            await asyncio.sleep(settings.tick_interval_ns / 1e9)
            if session.protocol is not None:
                drain([session.protocol], clock.utc_ns())
            session.check(clock.utc_ns())

    ticker = asyncio.create_task(tick())
    running = Feed(session, sink, pool, events, task)
    try:
        yield running
        assert not ticker.done(), ticker
    finally:
        ticker.cancel()
        await running.stop()
        await asyncio.gather(ticker, return_exceptions=True)
    assert pool.bytes_in_use == 0, "a fragment was not released (R2)"
