"""One client of a simulated camera: its socket, its RTSP machine and, once it plays, its feed.

Owns the socket from accept to close. What to play and who may come in is decided by the cameras
(`camera`); pacing is the shared pacer's.

- Everything sent goes out in the order it was decided on: answers through the feed once there is
  one, straight to the socket before.
- A connection ends by FIN behind the last byte, so that nothing sent is lost, unless the peer
  broke it or `abort` was asked for.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from cext.feed_sender import Feed
from gateway.rtsp.server import (
    PlayRequested,
    ProtocolFault,
    RtspServer,
    SetupTrack,
    TornDown,
    TrackStart,
)
from gateway.simulate.wire import goodbye, interleaved, sender_report

_READ_BYTES = 65_536
_LINGER_S = 2.0  # a peer that does not close after our FIN is cut off


@dataclass(frozen=True, slots=True)
class Played:
    """What one PLAY has sent so far; access units count from ``first_frame`` of the footage.

    The n-th access unit sent, from 0, was ``(first_frame + n) % frame_count``. ``started_ns`` is
    UTC, ``stall_count`` how many were due while the one before still waited for the socket, and
    ``lag_max_ns`` the latest that one began after it was due.
    """

    camera: int
    first_frame: int
    frames_sent: int
    packets_sent: int
    packets_dropped: int
    bytes_sent: int
    stall_count: int
    lag_max_ns: int
    started_ns: int
    ssrc: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """What the connection does by the clock."""

    sender_report_interval_s: float
    session_timeout_s: int
    camera_clock_offset_ns: int


class Connection:
    """A connected client. ``begin`` makes its feed when it plays, ``leave`` is called once."""

    def __init__(
        self,
        sock: socket.socket,
        machine: RtspServer,
        timing: Timing,
        *,
        begin: Callable[["Connection", str, SetupTrack], tuple[int, Feed] | None],
        end: Callable[["Connection"], None],
        leave: Callable[["Connection"], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._machine = machine
        self._timing = timing
        self._begin = begin
        self._end = end
        self._leave = leave
        self._rtcp_channel = 0
        self._heard = time.monotonic()
        self._started_ns = 0
        self._ending = False
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self.fd = sock.fileno()
        self.camera: int | None = None
        self.feed: Feed | None = None
        self.closed = False
        self._loop.add_reader(sock, self._readable)

    def played(self) -> Played | None:
        """The figures of this connection's feed; None if it never played."""
        feed = self.feed
        if feed is None or self.camera is None:
            return None
        return Played(
            camera=self.camera,
            first_frame=feed.first_position,
            frames_sent=feed.frames_sent,
            packets_sent=feed.packets_sent,
            packets_dropped=feed.packets_dropped,
            bytes_sent=feed.bytes_sent,
            stall_count=feed.stall_count,
            lag_max_ns=feed.lag_max_ns,
            started_ns=self._started_ns,
            ssrc=feed.ssrc,
            ended=self._ending or self.closed,
        )

    def feed_changed(self) -> None:
        """The pacer has news: the socket is full, the last round is over, or it broke."""
        assert self.feed is not None
        if self.feed.error:
            self.abort()
        elif self.feed.finished:
            self.finish(say_goodbye=True)
        else:
            self._loop.add_writer(self._sock, self._writable)

    def finish(self, *, say_goodbye: bool = False) -> None:
        """Send what is left, then FIN, then wait a moment for the peer to close."""
        if self._ending or self.closed:
            return
        self._ending = True
        self._linger = self._loop.call_later(_LINGER_S, self.abort)
        try:
            if self.feed is not None:
                self.feed.hold()
                self._end(self)
                if say_goodbye:
                    self.feed.write(interleaved(self._rtcp_channel, goodbye(self.feed.ssrc)))
            self._flush()
        except OSError:
            self.abort()

    def abort(self) -> None:
        """Close at once, whatever waits."""
        if self.closed:
            return
        self.closed = True
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        if self.feed is not None and not self._ending:
            self._end(self)
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._leave(self)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.abort()
        elif not self._ending:
            self._heard = time.monotonic()
            self._machine.receive(data)
            self._answer()

    def _answer(self) -> None:
        ending = False
        while events := self._machine.events():  # answering one PLAY may uncover the next request
            for event in events:
                if isinstance(event, PlayRequested):
                    self._play(event)
                ending = ending or isinstance(event, TornDown | ProtocolFault)
        if self.closed:
            return
        try:
            self._send(self._machine.data_to_send())
        except OSError:
            self.abort()
            return
        if ending:
            self.finish()

    def _play(self, event: PlayRequested) -> None:
        if self.feed is not None:  # a second PLAY: some clients keep the session alive by it
            self._machine.answer_play(())
            return
        setup = event.tracks[0]
        begun = self._begin(self, event.path, setup)
        if begun is None:
            self._machine.refuse_play(503)
            return
        self.camera, feed = begun
        self._rtcp_channel = setup.rtcp_channel
        self._started_ns = time.time_ns()
        self._machine.answer_play(
            (TrackStart(setup.track, feed.next_sequence, feed.next_timestamp),)
        )
        try:
            self._send(self._machine.data_to_send())  # before the first packet
            self.feed = feed
            self._report()
        except OSError:
            self.feed = feed
            self.abort()

    def _send(self, data: bytes) -> None:
        """Raises OSError when the socket failed, or the peer reads none of its answers."""
        if self.feed is not None:
            self.feed.write(data)
        elif data and self._sock.send(data) < len(data):
            raise BrokenPipeError("the peer does not read its answers")

    def _report(self) -> None:
        """A sender report now, the next one an interval later; drop a session that fell silent."""
        assert self.feed is not None
        if time.monotonic() - self._heard > self._timing.session_timeout_s:
            self.finish()
            return
        packet = sender_report(
            self.feed.ssrc,
            time.time_ns() + self._timing.camera_clock_offset_ns,
            self.feed.timestamp_at(time.monotonic_ns()),
            self.feed.packets_sent,
            self.feed.octets_sent,
        )
        self._timer = self._loop.call_later(
            self._timing.sender_report_interval_s, self._report_or_abort
        )
        self.feed.write(interleaved(self._rtcp_channel, packet))

    def _report_or_abort(self) -> None:
        if not self._ending:
            try:
                self._report()
            except OSError:
                self.abort()

    def _writable(self) -> None:
        try:
            self._flush()
        except OSError:
            self.abort()

    def _flush(self) -> None:
        """Send what the feed still holds; when all is out, stop asking for room."""
        if self.feed is not None and not self.feed.flush():
            self._loop.add_writer(self._sock, self._writable)
            return
        self._loop.remove_writer(self._sock)
        if self._ending:
            self._sock.shutdown(socket.SHUT_WR)
