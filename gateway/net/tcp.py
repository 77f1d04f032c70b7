"""One feed's TCP connection: the socket, the native demuxer, and nothing in between.

Owns the socket and when it is read (docs/design/rtsp.md, "Shell", N1 to N3, T6 of time.md). Never
looks at a byte: the demuxer splits, tracks depacketize, the handler is called only when something
came of it. Python runs once a read.

Feeds nobody watches are read together by the worker's tick (``drain``), all by one native call:
``SO_RCVLOWAT`` lies above what one tick brings, so the event loop wakes up for bursts only.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from cext.errors import CextError, FrameError, LimitExceeded
from cext.interleaved import Demuxer, ReceiveArea
from cext.interleaved import drain as drain_demuxers
from cext.track import EVENT_BROKEN, EVENT_TEXT, VideoTrack
from gateway.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    GatewayError,
    RtspLimitError,
    RtspSyntaxError,
)
from gateway.limits import (
    ADDRESSES_TRIED_MAX,
    DRAIN_READS_MAX,
    RCVBUF_BYTES,
    SECOND_NS,
    SEND_BUFFER_BYTES_MAX,
    TCP_KEEPALIVE_IDLE_S,
    TCP_KEEPALIVE_INTERVAL_S,
    TCP_KEEPALIVE_PROBES,
)
from storage.base.clock import Clock

_RATE_KEPT_PART = 0.75  # of the measured byte rate, each second: smooth, but follows a scene


class FeedHandler(Protocol):
    """Who is told. Called on the event loop, never after ``on_closed``, which comes once."""

    def on_text(self, messages: list[bytes]) -> None:
        """Complete RTSP messages."""

    def on_media(self, events: int) -> None:
        """``EVENT_*`` bits of the tracks, other than text."""

    def on_closed(self, error: GatewayError) -> None:
        """The connection is gone, and why. Not called after ``close``."""


class FeedProtocol(asyncio.BufferedProtocol):
    """The protocol of one connection.

    ``quantum_ns``: how often ``drain`` is called for it, and so how long a byte may wait in the
    kernel.
    ``lowat_bytes_max``: the most ``SO_RCVLOWAT`` is set to; 1 switches the waiting off.
    ``demuxer``: the native half, for ``drain`` and for its counters.
    """

    def __init__(
        self,
        area: ReceiveArea,
        clock: Clock,
        handler: FeedHandler,
        *,
        quantum_ns: int,
        lowat_bytes_max: int,
    ) -> None:
        self.demuxer = Demuxer(area)
        self._consume = self.demuxer.consume
        self._utc_ns: Callable[[], int] = clock.utc_ns
        self._handler: FeedHandler | None = handler
        self._quantum_ns = quantum_ns
        self._lowat_bytes_max = lowat_bytes_max
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._lowat_bytes = 1
        self._recording = False
        self._live = False
        self._rate_bytes_per_s = 0.0
        self._rated_bytes = 0
        self._rated_ns = 0
        # The loop asks for a buffer before each read: no Python between it and the demuxer.
        self.get_buffer = self.demuxer.get_buffer  # type: ignore[method-assign]

    def attach(self, sock: socket.socket) -> None:
        """The connected socket, before the loop takes it over. ``drain`` reads from it."""
        self._socket = sock

    @property
    def recv_quantum_ns(self) -> int:
        """How late a receive time may be now because the socket waits for more (T6)."""
        return self._quantum_ns if self._lowat_bytes > 1 else 0

    @property
    def closed(self) -> bool:
        """Closed or lost; nothing is read or sent any more."""
        return self._handler is None

    def bind(self, rtp_channel: int, track: VideoTrack, rtcp_channel: int) -> None:
        """Frames of these channels go to ``track``."""
        self.demuxer.bind(rtp_channel, track, rtcp_channel)

    def send(self, data: bytes) -> None:
        """Send a request. A camera that reads nothing any more is given up (bounded buffer)."""
        if not data or self._transport is None or self.closed:
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX:
            self._lose(ConnectionLost("the camera does not read its requests any more"))

    def set_recording(self) -> None:
        """The handshake is over: from now on the socket may wait for more than a byte."""
        self._recording = True

    def set_live(self, live: bool) -> None:
        """While someone watches every byte is handed on at once."""
        self._live = live
        if live:
            self._set_lowat(1)

    def drained(self, events: int) -> None:
        """What ``drain`` came upon here."""
        if events & ~EVENT_BROKEN:
            self._dispatch(events & ~EVENT_BROKEN)
        if events & EVENT_BROKEN and not self.closed:
            try:
                self._consume(0, 0)
            except (CextError, MemoryError) as error:
                self._lose(_no_rtsp(error))

    def adapt(self, now_ns: int) -> None:
        """Measure the byte rate and set SO_RCVLOWAT to what two ticks bring; once a second."""
        received = self.demuxer.bytes_received
        elapsed_ns = now_ns - self._rated_ns
        if elapsed_ns < SECOND_NS:
            return
        rate = (received - self._rated_bytes) * SECOND_NS / elapsed_ns
        first = self._rated_ns == 0
        self._rated_bytes = received
        self._rated_ns = now_ns
        if first or not self._recording:
            return
        kept = _RATE_KEPT_PART if self._rate_bytes_per_s else 0.0
        self._rate_bytes_per_s = kept * self._rate_bytes_per_s + (1 - kept) * rate
        wanted = int(2 * self._rate_bytes_per_s * self._quantum_ns / SECOND_NS)
        wanted = 1 if self._live else min(max(wanted, 1), self._lowat_bytes_max)
        # A system call for every small change would cost more than it saves.
        if wanted == 1 or abs(wanted - self._lowat_bytes) * 4 > self._lowat_bytes:
            self._set_lowat(wanted)

    def close(self) -> None:
        """Close without telling the handler: it is its wish."""
        self._handler = None
        self.demuxer.detach()
        if self._transport is not None:
            self._transport.abort()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.demuxer.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        recv_ns = self._utc_ns()
        try:
            events = self._consume(nbytes, recv_ns)
        except CextError as error:
            self._lose(_no_rtsp(error))
            return
        if events:
            self._dispatch(events)

    def eof_received(self) -> bool:
        self._lose(ConnectionLost("the camera closed the connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f"the connection broke: {exc}" if exc else "the connection was closed"
        self._lose(ConnectionLost(reason))
        self._socket = None

    # the rest

    def _dispatch(self, events: int) -> None:
        # Text first: an answer that sets up a track stands before that track's packets.
        if events & EVENT_TEXT and self._handler is not None:
            self._handler.on_text(self.demuxer.take_text())
        if events & ~EVENT_TEXT and self._handler is not None:
            self._handler.on_media(events & ~EVENT_TEXT)

    def _set_lowat(self, nbytes: int) -> None:
        if nbytes == self._lowat_bytes or self._socket is None or self.closed:
            return
        try:
            # Above one byte the tick reads; the descriptor it uses is the demuxer's own.
            if nbytes == 1:
                self.demuxer.detach()
            elif not self.demuxer.attached:
                self.demuxer.attach(self._socket.fileno())
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
        except OSError as error:
            self._lose(ConnectionLost(f"the connection broke: {error}"))
            return
        self._lowat_bytes = nbytes

    def _lose(self, error: GatewayError) -> None:
        handler, self._handler = self._handler, None
        self.demuxer.detach()
        if self._transport is not None:
            self._transport.abort()
        if handler is not None:
            handler.on_closed(error)


def drain(protocols: Sequence[FeedProtocol], now_ns: int) -> None:
    """The worker's tick for many feeds of one loop (N2): read what waits in the kernel for those
    nobody watches, let time pass for the tracks of all, and tell their handlers."""
    demuxers = [protocol.demuxer for protocol in protocols]
    for place, events in drain_demuxers(demuxers, now_ns, DRAIN_READS_MAX):
        protocols[place].drained(events)


def _no_rtsp(error: Exception) -> GatewayError:
    wrapped: GatewayError
    if isinstance(error, LimitExceeded):
        wrapped = RtspLimitError(error.limit, error.value, error.maximum)
    elif isinstance(error, FrameError):
        wrapped = RtspSyntaxError(error.offset, f"not RTSP: {error.rule}")
    else:
        wrapped = RtspSyntaxError(0, f"not RTSP: {error}")
    wrapped.__cause__ = error
    return wrapped


async def connect(address: tuple[str, int], protocol: FeedProtocol, timeout_s: float) -> None:
    """Connect ``protocol`` to host and port; every address of the host within one deadline (N3).

    Raises ConnectFailed or DeadlineExceeded; then no socket is left open.
    """
    host, port = address
    try:
        async with asyncio.timeout(timeout_s):
            sock = await _connected_socket(host, port)
            try:
                protocol.attach(sock)
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: protocol, sock=sock)
            except BaseException:
                protocol.close()
                sock.close()
                raise
    except TimeoutError:
        raise DeadlineExceeded(
            f"no connection to {host}:{port} within {timeout_s:g} s",
            remedy="check that the camera is on and reachable from this host",
        ) from None


async def _connected_socket(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectFailed(
            f"host {host!r} is not known: {error.strerror or error}",
            remedy="check the host name in the camera's URL",
        ) from None
    refusals: list[str] = []
    for family, kind, protocol, _, target in found[:ADDRESSES_TRIED_MAX]:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        try:
            _set_options(sock)
            await loop.sock_connect(sock, target)
        except OSError as error:
            sock.close()
            refusals.append(f"{target[0]}: {_reason(error)}")
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise ConnectFailed(
        f"no connection to {host}:{port} ({'; '.join(refusals)})",
        remedy="check that the camera is on and that the port is that of its RTSP service",
    )


def _reason(error: OSError) -> str:
    """The system's words: the loop puts its own into ``strerror``."""
    return os.strerror(error.errno) if error.errno else str(error)


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RCVBUF_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TCP_KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, TCP_KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TCP_KEEPALIVE_PROBES)
