"""How a feed is doing: state, measured rates, counters, last error.

Owns the figures of one feed and makes FeedStatus of them. Never acts on them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import fields

from cext.values import TrackCounters
from gateway.errors import FeedError, GatewayError, WireError
from gateway.ingest.model import FeedFailure, FeedState, FeedStatus
from gateway.limits import ERROR_TEXT_CHARS_MAX, RATE_WINDOW_NS
from gateway.media.parameter_sets import CodecConfig
from storage.base.gap import GapCause
from storage.errors import StorageError

_SAMPLES_MAX = 64
# Of a track, what does not add up over connections.
_NOT_SUMS = frozenset({"last_access_unit_recv_ns", "key_interval_frames", "jitter_ticks"})
_SUMS = tuple(f.name for f in fields(TrackCounters) if f.name not in _NOT_SUMS)


class RateMeter:
    """Frames and bytes per second as received, over the last RATE_WINDOW_NS."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int, int]] = deque(maxlen=_SAMPLES_MAX)

    def add(self, recv_ns: int, frames: int, nbytes: int) -> None:
        """A fragment whose last frame came at ``recv_ns``."""
        self._samples.append((recv_ns, frames, nbytes))
        while self._samples[0][0] < recv_ns - RATE_WINDOW_NS:
            self._samples.popleft()

    def clear(self) -> None:
        """Another connection."""
        self._samples.clear()

    def rates(self, now_ns: int) -> tuple[float, float]:
        """(frames per second, bits per second); zeros if nothing came within the window."""
        samples = [sample for sample in self._samples if sample[0] >= now_ns - RATE_WINDOW_NS]
        if len(samples) < 2:
            return 0.0, 0.0
        span_s = (samples[-1][0] - samples[0][0]) / 1e9
        if span_s <= 0:
            return 0.0, 0.0
        # The first sample only marks where the span begins.
        frames = sum(sample[1] for sample in samples[1:])
        nbytes = sum(sample[2] for sample in samples[1:])
        return frames / span_s, 8 * nbytes / span_s


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
        for name, value in track_counts(counters):
            self.counts[name] += value

    def status(
        self,
        now_ns: int,
        config: CodecConfig | None,
        track: TrackCounters | None,
        quirks: Iterable[tuple[str, int]],
    ) -> FeedStatus:
        """The status now; ``track`` counts what the present connection brought."""
        counters = Counter(self.counts)
        if track is not None:
            for name, value in track_counts(track):
                counters[name] += value
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
            counters=dict(counters),
        )


def track_counts(counters: TrackCounters) -> Iterable[tuple[str, int]]:
    """The counters of a track that add up over connections."""
    return ((name, getattr(counters, name)) for name in _SUMS)


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
