"""What ingest's parts tell each other and other processes: camera, settings, status, events.

Owns plain values only. All of them cross processes as JSON (msgspec), so they hold nothing but
numbers, text, bytes and enums. Times are ns UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import msgspec

from gateway.limits import RCVLOWAT_BYTES_MAX
from storage.base.gap import GapCause

MS_NS = 1_000_000
COMMIT_PARTS = 8  # the worker ticks, and a socket waits at most, commit_interval / 8


@dataclass(frozen=True, slots=True)
class CameraSpec:
    """A camera as a worker gets it. ``url`` may hold credentials and is not shown."""

    id: str
    uid: bytes
    url: str = field(repr=False)
    transport: str = "tcp"
    retention: str = ""


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """How feeds are taken in. Durations in seconds or ns as named."""

    connect_timeout_s: float = 10.0
    handshake_timeout_s: float = 10.0
    stall_timeout_s: float = 5.0
    teardown_timeout_s: float = 1.0
    retry_first_s: float = 0.2
    retry_max_s: float = 30.0
    auth_retry_s: float = 30.0
    auth_retry_max_s: float = 300.0
    commit_interval_ns: int = 1000 * MS_NS
    rcvlowat_bytes_max: int = RCVLOWAT_BYTES_MAX
    user_agent: str = "ringvault"

    @property
    def tick_interval_ns(self) -> int:
        """How often the worker ticks, and how late a receive time may be (T6)."""
        return self.commit_interval_ns // COMMIT_PARTS

    @property
    def fragment_age_max_ns(self) -> int:
        """Five eighths: waiting for the socket, for the tick that closes the fragment and for the
        commit takes an eighth each, so a frame is durable within the commit interval.
        """
        return self.commit_interval_ns * 5 // COMMIT_PARTS


class FeedState(Enum):
    """What a session is doing."""

    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    PLAYING = "playing"
    WAITING = "waiting"
    STOPPED = "stopped"


class FeedFailure(msgspec.Struct, frozen=True):
    """Why a connection ended last. ``code`` is that of the error, ``text`` for people."""

    cause: GapCause
    code: str
    text: str
    remedy: str
    when_ns: int


class FeedStatus(msgspec.Struct, frozen=True):
    """One feed now. ``fps`` and ``bitrate_bps`` as received over the last ten seconds, 0 unknown.

    ``since_ns``: in this state since. ``last_frame_ns``: receive time of the last stored frame, 0
    none. ``reconnects``: connections made after the first. ``counters``: of packets and frames
    since the session began, and quirks as ``quirk_<name>``.
    """

    camera_id: str
    state: FeedState
    since_ns: int
    codec: str
    width: int
    height: int
    fps: float
    bitrate_bps: float
    last_frame_ns: int
    reconnects: int
    last_error: FeedFailure | None
    counters: dict[str, int]


class FeedEventKind(Enum):
    """What is worth a line in the log."""

    PLAYING = "playing"
    LOST = "lost"
    RECOVERED = "recovered"
    CONFIG_CHANGED = "config_changed"
    CONFIG_UNREADABLE = "config_unreadable"
    QUEUE_FULL = "queue_full"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """Something happened to a feed. Storms are the receiver's to fold (telemetry)."""

    camera_id: str
    kind: FeedEventKind
    cause: GapCause | None = None
    code: str = ""
    text: str = ""
