"""Figures of a feed: rates as received, counters over connections, errors by cause."""

from __future__ import annotations

import msgspec
import pytest

from cext.arena import ArenaPool
from cext.errors import FrameError
from cext.track import VideoTrack
from gateway.errors import AuthFailed, FeedStalled, NotSupported, RtspStatusError, RtspSyntaxError
from gateway.ingest.health import FeedHealth, RateMeter, describe_failure
from gateway.ingest.model import CameraSpec, FeedState, FeedStatus
from gateway.limits import ERROR_TEXT_CHARS_MAX, RATE_WINDOW_NS
from gateway.media.codec import Codec
from gateway.media.parameter_sets import codec_config
from storage.base.gap import GapCause
from storage.errors import StorageError

SECOND_NS = 1_000_000_000


def test_rates_are_those_of_the_window() -> None:
    meter = RateMeter()
    assert meter.rates(0) == (0, 0)
    for second in range(30):
        meter.add(second * SECOND_NS, 25, 500_000)
    assert meter.rates(29 * SECOND_NS) == (25, 4_000_000)
    assert meter.rates(29 * SECOND_NS + 2 * RATE_WINDOW_NS) == (0, 0), "a dead feed has no rate"
    meter.clear()
    assert meter.rates(29 * SECOND_NS) == (0, 0)


def test_a_burst_of_samples_keeps_the_newest_and_forgets_exactly_the_rest() -> None:
    meter = RateMeter()
    for n in range(1000):
        meter.add(n * SECOND_NS // 100, n, n * 10)
    newest = range(1000 - 63, 1000)  # 64 samples are kept; the first marks where they begin
    assert meter.rates(10 * SECOND_NS) == (sum(newest) / 0.63, 80 * sum(newest) / 0.63)


def test_one_sample_or_one_instant_says_nothing() -> None:
    meter = RateMeter()
    meter.add(SECOND_NS, 25, 1000)
    assert meter.rates(SECOND_NS) == (0, 0)
    meter.add(SECOND_NS, 25, 1000)
    assert meter.rates(SECOND_NS) == (0, 0)


@pytest.mark.parametrize(
    ("error", "cause", "code"),
    [
        (AuthFailed("x", remedy="r"), GapCause.AUTH_FAILED, "AUTH_FAILED"),
        (RtspSyntaxError(3, "x"), GapCause.PROTOCOL_ERROR, "RTSP_SYNTAX"),
        (RtspStatusError("PLAY", 404, "Not Found"), GapCause.CAMERA_OFFLINE, "RTSP_STATUS"),
        (FeedStalled("x"), GapCause.STALL, "STALL"),
        (NotSupported("x"), GapCause.PROTOCOL_ERROR, "NOT_SUPPORTED"),
        (StorageError("x"), GapCause.DISK_ERROR, "STORAGE"),
        (ZeroDivisionError("x"), GapCause.PROTOCOL_ERROR, "INTERNAL"),
        (FrameError(1, "x"), GapCause.PROTOCOL_ERROR, "INTERNAL"),
    ],
)
def test_every_error_has_a_cause(error: Exception, cause: GapCause, code: str) -> None:
    failure = describe_failure(error, 5)
    assert (failure.cause, failure.code, failure.when_ns) == (cause, code, 5)


def test_long_texts_are_cut() -> None:
    assert len(describe_failure(FeedStalled("x" * 5000), 0).text) == ERROR_TEXT_CHARS_MAX


def test_status_adds_up_over_connections_and_crosses_processes() -> None:
    pool = ArenaPool(1 << 22)
    health = FeedHealth("cam-1", 7)
    for _ in range(2):
        track = VideoTrack(1, 96, 90_000, pool, fragment_age_max_ns=SECOND_NS)
        track.receive(bytes((0x80, 33)) + bytes(10), 1)
        health.absorb(track.counters())
    live = VideoTrack(1, 96, 90_000, pool, fragment_age_max_ns=SECOND_NS)
    live.receive(bytes((0x80, 33)) + bytes(10), 1)
    health.enter(FeedState.PLAYING, 9)
    health.enter(FeedState.PLAYING, 11)
    health.connections = 3
    health.failed(describe_failure(FeedStalled("why"), 8))
    config = codec_config(Codec.H264, [bytes.fromhex("674d001f95a814016e40")])
    status = health.status(12, config, live.counters(), [("bare_lf", 4)])
    assert (status.state, status.since_ns, status.reconnects) == (FeedState.PLAYING, 9, 2)
    assert (status.codec, status.width, status.height) == ("H.264", 1280, 720)
    assert status.counters["wrong_payload_type"] == 3
    assert status.counters["failures_stall"] == 1
    assert status.counters["quirk_bare_lf"] == 4
    assert msgspec.json.decode(msgspec.json.encode(status), type=FeedStatus) == status


def test_a_camera_hides_its_url() -> None:
    spec = CameraSpec("cam", b"\x00" * 16, "rtsp://admin:hunter2@h/")
    assert "hunter2" not in repr(spec)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=CameraSpec) == spec
