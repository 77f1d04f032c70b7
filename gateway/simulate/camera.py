"""Many simulated cameras behind one port: ``rtsp://host:port/cam/N``.

Owns the listening socket, the pacer that serves every feed of the process, and what is counted of
each. Runs on the caller's event loop and uses no thread.

- One timer paces all cameras; feeds are spread over the frame interval, so that the load is even.
- A slow client makes its own feed late (``Played.stall_count``), never lossy.
- What a client was sent is known to the access unit: the first ``frames_sent`` from
  ``first_frame`` on, as they are in ``footage_of(camera)``.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import quote

from cext.feed_sender import Feed, Pacer, Schedule
from cext.packetize import PacketTemplate
from gateway.rtsp.messages import Credentials
from gateway.rtsp.server import (
    Authentication,
    AuthScheme,
    Presentation,
    RtspServer,
    SetupTrack,
    TrackOffer,
)
from gateway.simulate.connection import Connection, Played, Timing
from gateway.simulate.footage import CLOCK_RATE, Footage, without_parameter_sets
from gateway.simulate.wire import PAYLOAD_TYPE, TRACK_CONTROL, session_description

_TICK_S = 0.004
_BACKLOG = 1024
_ACCEPTS_MAX = 64  # in a row, before the feeds get their turn
_PATH_PREFIX = "/cam/"
_REALM = "Ringvault simulated camera"
_GOLDEN = 0.6180339887498949  # successive multiples fill [0, 1) evenly however many there are


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """How the cameras behave. The defaults are those of a well-made camera.

    ``once``: play the footage once, say goodbye and close; after that the camera is gone (404).
    ``drop_every`` = n: every n-th RTP packet is lost. ``spread_start``: each camera begins with
    another key picture. ``session_timeout_s``: a client silent for so long is disconnected.
    ``send_buffer_bytes``: how much of a stream a socket holds; 0 leaves it to the system.
    """

    cameras: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    credentials: Credentials | None = None
    schemes: tuple[AuthScheme, ...] = (AuthScheme.DIGEST_MD5,)
    qop: bool = False
    once: bool = False
    parameter_sets_in_sdp_only: bool = False
    drop_every: int = 0
    packet_bytes_max: int = 1440
    send_buffer_bytes: int = 0
    spread_start: bool = False
    sender_report_interval_s: float = 5.0
    session_timeout_s: int = 60
    camera_clock_offset_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Reel:
    """Footage made ready to be sent."""

    footage: Footage
    described: Footage
    schedule: Schedule
    key_frames: tuple[int, ...]

    @classmethod
    def load(cls, footage: Footage, settings: CameraSettings) -> Self:
        sent = without_parameter_sets(footage) if settings.parameter_sets_in_sdp_only else footage
        units = sent.access_units
        template = PacketTemplate(
            int(sent.codec),
            PAYLOAD_TYPE,
            [unit.nal_units for unit in units],
            packet_bytes_max=settings.packet_bytes_max,
        )
        schedule = Schedule(
            template,
            [unit.decode_ticks for unit in units],
            [unit.presentation_ticks for unit in units],
            loop_ticks=sent.loop_ticks,
            clock_rate=CLOCK_RATE,
        )
        keys = tuple(n for n, unit in enumerate(units) if unit.key) or (0,)
        return cls(sent, footage, schedule, keys)


class SimulatedCameras:
    """``async with SimulatedCameras(footage) as sim: ... sim.url(0)``.

    With several pieces of footage camera N plays number N modulo their count. Raises OSError when
    the port is taken and FootageError when footage does not suit the settings.
    """

    def __init__(
        self, footage: Footage | Sequence[Footage], settings: CameraSettings | None = None
    ) -> None:
        self._settings = settings or CameraSettings()
        pieces = [footage] if isinstance(footage, Footage) else list(footage)
        self._reels = [_Reel.load(piece, self._settings) for piece in pieces]
        self._pacer = Pacer()
        self._connections: dict[int, Connection] = {}  # by file descriptor
        self._ended: list[Played] = []
        self._gone: set[int] = set()  # cameras that played once, or were switched off
        self._listener: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._feed_count = 0
        self._held = False
        self._left = asyncio.Event()  # somebody left since it was cleared
        self._nonce = secrets.token_hex(16)
        self.port = 0

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Listen and begin to pace; needs a running loop."""
        loop = asyncio.get_running_loop()
        self._listener = socket.create_server(
            (self._settings.host, self._settings.port), backlog=_BACKLOG
        )
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        loop.add_reader(self._listener, self._accept)
        self._timer = loop.call_later(_TICK_S, self._tick)

    async def stop(self, timeout_s: float = 3.0) -> None:
        """Finish the access units that are half out, close every connection, then the port."""
        loop = asyncio.get_running_loop()
        if self._listener is not None:
            loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in list(self._connections.values()):
            connection.finish()
        try:
            await asyncio.wait_for(self._drained(), timeout_s)
        except TimeoutError:
            for connection in list(self._connections.values()):
                connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    async def all_played(self) -> None:
        """Return when every camera has played once and its clients are gone; else never."""
        while len(self._gone) < self._settings.cameras or self._connections:
            self._left.clear()
            await self._left.wait()

    async def _drained(self) -> None:
        while self._connections:
            self._left.clear()
            await self._left.wait()

    def url(self, camera: int, *, with_credentials: bool = True) -> str:
        """Where a camera is; with its user and password if it asks for them."""
        credentials = self._settings.credentials if with_credentials else None
        user = ""
        if credentials is not None:
            user = f"{quote(credentials.username, '')}:{quote(credentials.password, '')}@"
        return f"rtsp://{user}{self._settings.host}:{self.port}{_PATH_PREFIX}{camera}"

    def footage_of(self, camera: int) -> Footage:
        """What a camera sends, parameter sets removed if it keeps them out of the stream."""
        return self._reel_of(camera).footage

    def played(self, camera: int | None = None) -> tuple[Played, ...]:
        """Everything sent so far, ended connections first, in order of their beginning."""
        live = [connection.played() for connection in self._connections.values()]
        every = self._ended + [played for played in live if played is not None]
        chosen = [played for played in every if camera is None or played.camera == camera]
        return tuple(sorted(chosen, key=lambda played: (played.camera, played.started_ns)))

    def hold(self) -> None:
        """No camera begins another access unit, for good; connections stay."""
        self._held = True
        for connection in self._connections.values():
            if connection.feed is not None:
                connection.feed.hold()

    def switch_off(self, camera: int) -> None:
        """The camera breaks its connections and is gone (404) until it is switched on."""
        self._gone.add(camera)
        for connection in list(self._connections.values()):
            if connection.camera == camera:
                connection.abort()

    def switch_on(self, camera: int) -> None:
        """Undo switch_off()."""
        self._gone.discard(camera)

    def _reel_of(self, camera: int) -> _Reel:
        return self._reels[camera % len(self._reels)]

    def _camera_of(self, path: str) -> int | None:
        number = path.removeprefix(_PATH_PREFIX)
        if number == path or not number.isascii() or not number.isdigit() or len(number) > 6:
            return None
        camera = int(number)
        return camera if camera < self._settings.cameras and camera not in self._gone else None

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTS_MAX):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._settings.send_buffer_bytes:
                size = self._settings.send_buffer_bytes
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        ssrc = secrets.randbits(32)
        settings = self._settings

        def lookup(path: str) -> Presentation | None:
            camera = self._camera_of(path)
            if camera is None:
                return None
            description = session_description(self._reel_of(camera).described, camera + 1)
            return Presentation(description, (TrackOffer(TRACK_CONTROL, ssrc),))

        def begin(connection: Connection, path: str, setup: SetupTrack) -> tuple[int, Feed] | None:
            camera = self._camera_of(path)
            if camera is None or self._held:
                return None
            return camera, self._begin(connection, camera, setup, ssrc)

        authentication = None
        if settings.credentials is not None:
            authentication = Authentication(
                settings.credentials, _REALM, self._nonce, settings.schemes, settings.qop
            )
        machine = RtspServer(
            lookup,
            session_id=secrets.token_hex(8),
            authentication=authentication,
            session_timeout_s=settings.session_timeout_s,
        )
        timing = Timing(
            settings.sender_report_interval_s,
            settings.session_timeout_s,
            settings.camera_clock_offset_ns,
        )
        connection = Connection(
            sock, machine, timing, begin=begin, end=self._end, leave=self._leave
        )
        self._connections[connection.fd] = connection

    def _begin(self, connection: Connection, camera: int, setup: SetupTrack, ssrc: int) -> Feed:
        """Make and schedule the feed of a connection that plays."""
        reel = self._reel_of(camera)
        first = 0
        if self._settings.spread_start:
            first = reel.key_frames[camera % len(reel.key_frames)]
        interval_ns = int(1e9 / reel.footage.frames_per_second)
        phase_ns = int(self._feed_count * _GOLDEN % 1.0 * interval_ns)
        self._feed_count += 1
        feed = Feed(
            reel.schedule,
            connection.fd,
            channel=setup.rtp_channel,
            ssrc=ssrc,
            sequence=secrets.randbits(16),
            timestamp=secrets.randbits(32),
            start_ns=time.monotonic_ns() + phase_ns,
            first_position=first,
            rounds=1 if self._settings.once else 0,
            drop_every=self._settings.drop_every,
        )
        self._pacer.add(feed)
        return feed

    def _end(self, connection: Connection) -> None:
        """A feed has sent its last access unit."""
        assert connection.feed is not None and connection.camera is not None
        if connection.feed.finished and self._settings.once:
            self._gone.add(connection.camera)
        self._pacer.remove(connection.feed)

    def _leave(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        played = connection.played()
        if played is not None:
            self._ended.append(played)
        self._left.set()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_TICK_S, self._tick)
        for feed in self._pacer.run(time.monotonic_ns()):
            self._connections[feed.fd].feed_changed()
