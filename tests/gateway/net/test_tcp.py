"""The socket shell: reads, waiting for more, ends. Real sockets, a clock that is told the time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cext.arena import ArenaPool
from cext.interleaved import ReceiveArea
from cext.track import VideoTrack
from gateway.errors import ConnectFailed, DeadlineExceeded, GatewayError, RtspSyntaxError
from gateway.net.tcp import FeedProtocol, connect, drain
from storage.base.clock import SimulatedClock

SECOND_NS = 1_000_000_000
QUANTUM_NS = SECOND_NS // 8
LOWAT_MAX = 128 * 1024


@dataclass
class Handler:
    texts: list[bytes] = field(default_factory=list)
    media: list[int] = field(default_factory=list)
    ends: list[GatewayError] = field(default_factory=list)

    def on_text(self, messages: list[bytes]) -> None:
        assert not self.ends
        self.texts += messages

    def on_media(self, events: int) -> None:
        assert not self.ends
        self.media.append(events)

    def on_closed(self, error: GatewayError) -> None:
        assert not self.ends, "told once (N2)"
        self.ends.append(error)


@dataclass
class Pair:
    """A protocol, connected, and the camera's end of it."""

    protocol: FeedProtocol
    handler: Handler
    clock: SimulatedClock
    camera: socket.socket

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.camera, data)
        await asyncio.sleep(0.01)

    def tick(self) -> None:
        """What the worker does eight times a commit interval."""
        drain([self.protocol], self.clock.utc_ns())
        self.protocol.adapt(self.clock.utc_ns())

    def lowat(self) -> int:
        sock = self.protocol._socket
        assert sock is not None
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    @property
    def received(self) -> int:
        return self.protocol.demuxer.bytes_received


@asynccontextmanager
async def pair(area: ReceiveArea | None = None, lowat_max: int = LOWAT_MAX) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    handler, clock = Handler(), SimulatedClock()
    protocol = FeedProtocol(
        area or ReceiveArea(), clock, handler, quantum_ns=QUANTUM_NS, lowat_bytes_max=lowat_max
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        await connect(listener.getsockname(), protocol, 1.0)
        camera, _ = await loop.sock_accept(listener)
    try:
        with camera:
            yield Pair(protocol, handler, clock, camera)
    finally:
        protocol.close()
        await asyncio.sleep(0)


MESSAGE = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"


def frame(nbytes: int, channel: int = 7) -> bytes:
    return b"$" + bytes((channel,)) + nbytes.to_bytes(2, "big") + bytes(nbytes)


async def test_messages_come_out_of_any_split() -> None:
    async with pair() as p:
        await p.send(MESSAGE[:5])
        await p.send(MESSAGE[5:] + frame(10) + MESSAGE)
        assert p.handler.texts == [MESSAGE, MESSAGE]
        assert p.protocol.demuxer.unassigned_packets == 1


async def test_two_connections_share_one_area() -> None:
    area = ReceiveArea()
    async with pair(area) as a, pair(area) as b:
        await a.send(MESSAGE[:9])
        await b.send(MESSAGE)
        await a.send(MESSAGE[9:])
        assert a.handler.texts == b.handler.texts == [MESSAGE]


async def test_garbage_ends_the_connection_once() -> None:
    async with pair() as p:
        await p.send(b"\x00\x01\x02" * 100)
        await p.send(MESSAGE)
        (error,) = p.handler.ends
        assert isinstance(error, RtspSyntaxError) and error.offset == 0
        assert p.protocol.closed
        assert not p.handler.texts


async def test_end_of_stream_and_reset() -> None:
    async with pair() as p:
        p.camera.close()
        await asyncio.sleep(0.02)
        assert "closed the connection" in str(p.handler.ends[0])
    async with pair() as p:
        p.camera.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        p.camera.close()
        await asyncio.sleep(0.02)
        assert [e.code for e in p.handler.ends] == ["CONNECTION_LOST"]


async def test_close_is_silent() -> None:
    async with pair() as p:
        p.protocol.close()
        await asyncio.sleep(0.02)
        assert not p.handler.ends
        p.protocol.send(b"nothing")
        p.tick()


async def record(p: Pair, bytes_per_s: int, seconds: int) -> None:
    """Let the protocol see a rate; each second in eight ticks of simulated time."""
    p.protocol.set_recording()
    chunk = bytes_per_s // 8
    for _ in range(8 * seconds):
        await p.send(b"".join(frame(4096 - 4) for _ in range(max(chunk // 4096, 1))))
        p.clock.advance(QUANTUM_NS)
        p.tick()


async def test_the_mark_follows_the_bitrate_and_is_one_while_watched() -> None:
    async with pair() as p:
        assert p.lowat() == 1 and p.protocol.recv_quantum_ns == 0
        await record(p, 160 * 1024, 3)
        mark = p.lowat()
        assert 0.6 < mark / (2 * 160 * 1024 / 8) < 1.4
        assert p.protocol.recv_quantum_ns == QUANTUM_NS
        p.protocol.set_live(True)
        assert p.lowat() == 1 and p.protocol.recv_quantum_ns == 0
        await record(p, 160 * 1024, 2)
        assert p.lowat() == 1
        p.protocol.set_live(False)
        await record(p, 160 * 1024, 2)
        assert p.lowat() > 1


async def test_the_mark_is_bounded_and_can_be_switched_off() -> None:
    async with pair(lowat_max=8192) as p:
        await record(p, 160 * 1024, 3)
        assert p.lowat() == 8192
    async with pair(lowat_max=1) as p:
        await record(p, 160 * 1024, 3)
        assert p.lowat() == 1


async def test_what_is_below_the_mark_waits_for_the_tick_and_no_longer() -> None:
    """T6: the loop is not woken, the tick reads it, with the tick's time."""
    async with pair() as p:
        await record(p, 160 * 1024, 3)
        before = p.received
        await p.send(MESSAGE)
        assert p.received == before, "the event loop woke up for a few bytes"
        p.tick()
        assert p.received == before + len(MESSAGE)
        assert p.handler.texts == [MESSAGE]


async def test_a_burst_above_the_mark_wakes_the_loop() -> None:
    async with pair() as p:
        await record(p, 160 * 1024, 3)
        before = p.received
        await p.send(b"".join(frame(4092) for _ in range(24)))
        assert p.received > before


async def test_the_end_is_seen_whatever_the_mark() -> None:
    async with pair() as p:
        await record(p, 160 * 1024, 3)
        await p.send(MESSAGE)
        p.camera.close()
        await asyncio.sleep(0.02)
        p.tick()
        await asyncio.sleep(0.02)
        assert p.handler.texts == [MESSAGE]
        assert [e.code for e in p.handler.ends] == ["CONNECTION_LOST"]


async def test_garbage_found_by_the_tick() -> None:
    async with pair() as p:
        await record(p, 160 * 1024, 3)
        await p.send(b"\x00" * 10)
        assert not p.handler.ends
        p.tick()
        assert [e.code for e in p.handler.ends] == ["RTSP_SYNTAX"]


async def test_the_receive_time_is_that_of_the_read() -> None:
    pool = ArenaPool(1 << 22)
    async with pair() as p:
        track = VideoTrack(1, 96, 90_000, pool, fragment_age_max_ns=SECOND_NS)
        p.protocol.bind(0, track, 1)
        p.clock.advance(5 * SECOND_NS)
        rtp = bytes((0x80, 0xE0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9)) + b"\x65" + bytes(20)
        await p.send(b"$\x00" + len(rtp).to_bytes(2, "big") + rtp)
        assert track.counters().last_access_unit_recv_ns == p.clock.utc_ns()
        track.flush(True)
        for fragment in track.take_fragments():
            fragment.release()


async def test_a_camera_that_reads_nothing_is_given_up() -> None:
    async with pair() as p:
        for _ in range(400):
            p.protocol.send(b"x" * 16_384)
        assert "does not read" in str(p.handler.ends[0])


async def test_connecting_has_a_deadline_and_names_every_address() -> None:
    protocol = FeedProtocol(
        ReceiveArea(), SimulatedClock(), Handler(), quantum_ns=1, lowat_bytes_max=1
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1: Connection refused"):
            await connect(unused.getsockname(), protocol, 1.0)
        unused.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(unused.getsockname())
        with pytest.raises(DeadlineExceeded, match=r"within 0\.1 s"):
            await connect(unused.getsockname(), protocol, 0.1)
        for filler in fillers:
            filler.close()
