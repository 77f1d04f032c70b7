"""How a feed is doing: state, measured rates, counters, last error.

Owns the figures of one feed and makes FeedStatus of them. Never acts on them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from operator import add

from msgspec.structs import astuple

from cext.values import TrackCounters
from gateway.errors import FeedError, GatewayError, WireError
from gateway.ingest.model import FeedFailure, FeedState, FeedStatus
from gateway.limits import ERROR_TEXT_CHARS_MAX, RATE_WINDOW_NS
from gateway.media.parameter_sets import CodecConfig
from storage.base.gap import GapCause
from storage.errors import StorageError

_SAMPLES_MAX = 64
# Of a track, what adds up over connections; the rest of its fields, which does not, comes last.
_NOT_SUMS = ("last_access_unit_recv_ns", "key_interval_frames", "jitter_ticks")
_SUMS = TrackCounters.__struct_fields__[: -len(_NOT_SUMS)]
assert (*_SUMS, *_NOT_SUMS) == TrackCounters.__struct_fields__, "sums come first"


class RateMeter:
    """Frames and bytes per second as received, over the last RATE_WINDOW_NS."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int, int]] = deque()
        # Of all samples but the first, which only marks where the span begins.
        self._frames = 0
        self._bytes = 0

    def add(self, recv_ns: int, frames: int, nbytes: int) -> None:
        """A fragment whose last frame came at ``recv_ns``."""
        samples = self._samples
        if samples:
            self._frames += frames
            self._bytes += nbytes
        samples.append((recv_ns, frames, nbytes))
        if len(samples) > _SAMPLES_MAX:
            self._drop_first()
        self._drop_before(recv_ns - RATE_WINDOW_NS)

    def clear(self) -> None:
        """Another connection."""
        self._samples.clear()
        self._frames = self._bytes = 0

    def rates(self, now_ns: int) -> tuple[float, float]:
        """(frames per second, bits per second); zeros if nothing came within the window."""
        self._drop_before(now_ns - RATE_WINDOW_NS)
        samples = self._samples
        if len(samples) < 2:
            return 0.0, 0.0
        span_s = (samples[-1][0] - samples[0][0]) / 1e9
        if span_s <= 0:
            return 0.0, 0.0
        return self._frames / span_s, 8 * self._bytes / span_s

    def _drop_before(self, from_ns: int) -> None:
        samples = self._samples
        while samples and samples[0][0] < from_ns:
            self._drop_first()

    def _drop_first(self) -> None:
        samples = self._samples
        samples.popleft()
        if samples:
            _, frames, nbytes = samples[0]
            self._frames -= frames
            self._bytes -= nbytes


class FeedHealth:
    """One feed's figures since its session began."""

    def __init__(self, camera_id: str, now_ns: int) -> None:
        self.state = FeedState.STOPPED
        self.rate = RateMeter()
        self.counts: Counter[str] = Counter()
        self.last_frame_ns = 0
        self.last_error: FeedFailure | None = None
        self.connections = 0
        self._camera_id = camera_id
        self._since_ns = now_ns
        self._absorbed: tuple[int, ...] = ()  # _SUMS of connections that ended; () before one did

    def enter(self, state: FeedState, now_ns: int) -> None:
        """Change state; entering the same again changes nothing."""
        if state is not self.state:
            self.state = state
            self._since_ns = now_ns

    def failed(self, failure: FeedFailure) -> None:
        """A life of the connection ended."""
        self.last_error = failure
        self.counts[f"failures_{failure.cause.label}"] += 1

    def absorb(self, counters: TrackCounters) -> None:
        """Add what a track counted in its life; call once when it ends."""
        self._absorbed = self._with_absorbed(counters)

    def status(
        self,
        now_ns: int,
        config: CodecConfig | None,
        track: TrackCounters | None,
        quirks: Iterable[tuple[str, int]],
    ) -> FeedStatus:
        """The status now; ``track`` counts what the present connection brought."""
        counters = dict(self.counts)
        sums = self._absorbed if track is None else self._with_absorbed(track)
        counters.update(zip(_SUMS, sums, strict=False))  # none before the first track
        for name, value in quirks:
            counters[f"quirk_{name}"] = value
        fps, bitrate_bps = self.rate.rates(now_ns)
        return FeedStatus(
            camera_id=self._camera_id,
            state=self.state,
            since_ns=self._since_ns,
            codec=config.codec.label if config else "",
            width=config.width if config else 0,
            height=config.height if config else 0,
            fps=fps,
            bitrate_bps=bitrate_bps,
            last_frame_ns=self.last_frame_ns,
            reconnects=max(self.connections - 1, 0),
            last_error=self.last_error,
            counters=counters,
        )

    def _with_absorbed(self, counters: TrackCounters) -> tuple[int, ...]:
        """_SUMS of the connections that ended and of this track together."""
        sums = astuple(counters)[: len(_SUMS)]
        return tuple(map(add, self._absorbed, sums)) if self._absorbed else sums


def describe_failure(error: BaseException, now_ns: int) -> FeedFailure:
    """The failure that ``error`` is: its gap cause, code and text. Ours are protocol errors."""
    if isinstance(error, GatewayError):
        cause = GapCause.PROTOCOL_ERROR
        if isinstance(error, (FeedError, WireError)):
            cause = error.cause
        return FeedFailure(cause, error.code, _shortened(str(error)), error.remedy, now_ns)
    if isinstance(error, StorageError):
        return FeedFailure(GapCause.DISK_ERROR, "STORAGE", _shortened(str(error)), "", now_ns)
    text = _shortened(f"internal error: {type(error).__name__}: {error}")
    return FeedFailure(GapCause.PROTOCOL_ERROR, "INTERNAL", text, "report it", now_ns)


def _shortened(text: str) -> str:
    return text if len(text) <= ERROR_TEXT_CHARS_MAX else text[: ERROR_TEXT_CHARS_MAX - 1] + "…"
