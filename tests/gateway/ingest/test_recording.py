"""Fragments to records: order, gaps, configurations, and nothing lost in silence. No sockets."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cext.arena import ArenaPool, Fragment
from cext.track import VideoTrack
from gateway.ingest.model import FeedEventKind
from gateway.ingest.recording import FeedRecording
from gateway.limits import OUTAGE_CHECKPOINT_NS, OUTAGE_MARGIN_NS, PENDING_GAPS_MAX
from gateway.media.codec import Codec
from storage.base.clock import SimulatedClock
from storage.base.gap import Gap, GapCause
from storage.volume.format import RECORD_CLOCK_UNSYNCHRONISED, RECORD_DISCONTINUITY

from .scripted import Footage, MemorySink, Stored

SECOND_NS = 1_000_000_000
MS_NS = 1_000_000
CLOCK = 90_000
FRAME_NS = 40 * MS_NS
SPS = bytes.fromhex("674d001f95a814016e40")
SPS_OTHER = bytes.fromhex("6742c01ed903c56840000003004000000c03c58b92")
PPS = bytes.fromhex("68ee3c80")


@dataclass
class Bench:
    """A recording with a clock that frames move on."""

    sink: MemorySink = field(default_factory=MemorySink)
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    pool: ArenaPool = field(default_factory=lambda: ArenaPool(1 << 24))
    events: list[tuple[FeedEventKind, GapCause | None, str]] = field(default_factory=list)
    rtp: int = 5000
    recording: FeedRecording = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self, cause: GapCause = GapCause.RECORDER_RESTART) -> None:
        self.recording = FeedRecording(
            self.sink, self.clock, lambda *event: self.events.append(event), cause
        )
        self.recording.new_connection(Codec.H264, CLOCK)

    def fragment(self, frames: int = 15, sets: tuple[bytes, ...] = (SPS, PPS)) -> Fragment:
        samples = []
        for index in range(frames):
            sample = b"\x00\x00\x00\x02\x65" + bytes((index,))
            samples.append((sample, self.rtp, self.clock.utc_ns(), 1 if index == 0 else 0))
            self.rtp += 3600
            self.clock.advance(FRAME_NS)
        return Fragment.from_samples(
            self.pool, int(Codec.H264), CLOCK, samples, parameter_sets=sets, next_rtp=self.rtp
        )

    def store(self, frames: int = 15, sets: tuple[bytes, ...] = (SPS, PPS)) -> None:
        self.recording.store(self.fragment(frames, sets), None, 0)

    def away(self, duration_ns: int) -> None:
        """Nobody records: time goes on, and the camera's RTP clock with it."""
        self.clock.advance(duration_ns)
        self.rtp += duration_ns * CLOCK // SECOND_NS


@pytest.fixture
def bench() -> Bench:
    return Bench()


def kinds(sink: MemorySink) -> list[str]:
    return ["fragment" if isinstance(r, Stored) else r.cause.label for r in sink.records]


def seams(sink: MemorySink) -> list[int]:
    """From the end of each record to the start of the next, in milliseconds."""
    edges = [
        (r.meta.start_ns, r.meta.end_ns) if isinstance(r, Stored) else (r.start_ns, r.end_ns)
        for r in sink.records
    ]
    return [round((b[0] - a[1]) / MS_NS) for a, b in itertools.pairwise(edges)]


def test_a_new_camera_has_no_gap_before_its_first_frame(bench: Bench) -> None:
    bench.away(3 * SECOND_NS)
    bench.store()
    assert kinds(bench.sink) == ["fragment"]
    assert bench.sink.fragments[0].meta.flags == RECORD_DISCONTINUITY


def test_a_new_camera_that_cannot_be_reached_has_one(bench: Bench) -> None:
    started_ns = bench.clock.utc_ns()
    bench.recording.lost(GapCause.CAMERA_OFFLINE, "refused")
    bench.away(5 * SECOND_NS)
    bench.recording.lost(GapCause.AUTH_FAILED, "401")
    bench.away(5 * SECOND_NS)
    bench.store()
    assert kinds(bench.sink) == ["camera_offline", "auth_failed", "fragment"]
    assert bench.sink.gaps[0].start_ns == started_ns
    assert seams(bench.sink) == [0, 0]


@pytest.mark.parametrize("cause", [GapCause.RECORDER_RESTART, GapCause.DISABLED])
def test_the_time_before_our_start_is_told(bench: Bench, cause: GapCause) -> None:
    bench.store()
    bench.away(20 * SECOND_NS)
    bench.start(cause)
    bench.store()
    assert kinds(bench.sink) == ["fragment", cause.label, "fragment"]
    assert seams(bench.sink) == [0, 0]


def test_a_short_reconnect_is_a_gap_too(bench: Bench) -> None:
    bench.store()
    bench.recording.lost(GapCause.CAMERA_OFFLINE, "closed")
    bench.away(300 * MS_NS)
    bench.rtp = 777
    bench.recording.new_connection(Codec.H264, CLOCK)
    bench.store()
    assert kinds(bench.sink) == ["fragment", "camera_offline", "fragment"]
    assert bench.sink.gaps[0].duration_ns == 300 * MS_NS
    assert bench.sink.gaps[0].detail == "closed"


def test_a_long_outage_is_written_down_meanwhile(bench: Bench) -> None:
    """S3: a crash in the third hour still knows why there is no footage since the first."""
    bench.store()
    bench.recording.lost(GapCause.CAMERA_OFFLINE, "cut")
    written = []
    for _ in range(20):
        bench.away(60 * SECOND_NS)
        bench.recording.checkpoint(bench.clock.utc_ns())
        written.append(len(bench.sink.gaps))
    assert written[3] == 0 and written[5] == 1 and written[-1] == 3
    assert all(g.duration_ns >= OUTAGE_CHECKPOINT_NS for g in bench.sink.gaps)
    assert bench.sink.last_end_ns <= bench.clock.utc_ns() - OUTAGE_MARGIN_NS
    bench.store()
    assert kinds(bench.sink)[-2:] == ["camera_offline", "fragment"]
    assert set(seams(bench.sink)) == {0}


def test_close_writes_what_is_owed(bench: Bench) -> None:
    bench.store()
    bench.recording.lost(GapCause.STALL, "")
    bench.away(2 * SECOND_NS)
    bench.recording.close(bench.clock.utc_ns())
    assert kinds(bench.sink) == ["fragment", "stall"]
    assert bench.sink.gaps[0].end_ns == bench.clock.utc_ns()


def test_silence_within_a_connection_is_a_gap(bench: Bench) -> None:
    """The camera sent nothing for three seconds and lost no packet."""
    bench.store()
    fragment = bench.fragment()
    bench.away(3 * SECOND_NS)
    bench.recording.store(fragment, None, 0)
    bench.store()
    assert kinds(bench.sink) == ["fragment", "fragment", "stall", "fragment"]
    # The fragment before could not know how long its last frame would last.
    assert seams(bench.sink) == [0, 0, 0]


def test_a_refused_fragment_is_a_gap_of_its_range_and_later_ones_join(bench: Bench) -> None:
    bench.store()
    bench.sink.full = True
    refused_from_ns = bench.sink.last_end_ns
    for _ in range(3):
        bench.store()
    assert bench.pool.bytes_in_use == 0
    bench.sink.full = False
    bench.store()
    assert kinds(bench.sink) == ["fragment", "queue_full", "fragment"]
    assert seams(bench.sink) == [0, 0]
    assert bench.sink.gaps[0].start_ns == refused_from_ns
    assert bench.recording.fragments_refused == 3
    assert [e[1] for e in bench.events if e[0] is FeedEventKind.QUEUE_FULL] == [
        GapCause.QUEUE_FULL
    ] * 3


def test_what_is_owed_stays_bounded(bench: Bench) -> None:
    bench.store()
    bench.sink.full = True
    for index in range(3 * PENDING_GAPS_MAX):
        bench.recording.lost(GapCause.STALL if index % 2 else GapCause.CAMERA_OFFLINE, "")
        bench.away(2 * SECOND_NS)
        bench.recording.new_connection(Codec.H264, CLOCK)
        bench.store()
    bench.sink.full = False
    bench.store()
    assert len(bench.sink.gaps) == PENDING_GAPS_MAX
    assert set(seams(bench.sink)) == {0}, "no time is unaccounted for"


def test_a_sink_that_raises_loses_no_memory(bench: Bench) -> None:
    bench.sink.broken = RuntimeError("x")
    with pytest.raises(RuntimeError):
        bench.store()
    assert bench.pool.bytes_in_use == 0


def test_losses_inside_and_before_a_fragment(bench: Bench, media_dir: Path) -> None:
    """Real packets through the native track; records stay in order (MemorySink insists)."""
    footage = Footage(media_dir / "h264" / "BA_MW_D.264")
    track = VideoTrack(1, 96, CLOCK, bench.pool, fragment_age_max_ns=400 * MS_NS, reorder_packets=0)
    sequence = 1
    for index in range(80):
        packets = footage.packets(index, sequence, index * 3600)
        sequence += len(packets)
        if index % 13 != 7:
            for packet in packets:
                track.receive(packet, bench.clock.utc_ns())
        for fragment in track.take_fragments():
            bench.recording.store(fragment, track.sender_report(), 0)
        bench.clock.advance(FRAME_NS)
    track.flush(True)
    for fragment in track.take_fragments():
        bench.recording.store(fragment, None, 0)
    bench.recording.close(bench.clock.utc_ns())
    lost = track.counters().lost_packets
    gaps = bench.sink.gaps
    assert {g.cause for g in gaps} == {GapCause.PACKET_LOSS}
    assert sum(g.packets for g in gaps) == lost >= 6
    assert all(FRAME_NS <= g.duration_ns <= 15 * FRAME_NS for g in gaps)
    assert bench.pool.bytes_in_use == 0


def test_b_frames_across_fragments_make_no_gap_and_no_disorder(bench: Bench) -> None:
    """Decoding order I P B B, cut anywhere: records overlap by the frames that straddle (T8)."""
    order = [0]
    for group in range(1, 40):
        order += [3 * group, 3 * group - 2, 3 * group - 1]
    for at in range(0, len(order) - 7, 7):
        samples = []
        for index in order[at : at + 7]:
            sample = b"\x00\x00\x00\x02\x41" + bytes((index,))
            samples.append((sample, 9000 + index * 3600, bench.clock.utc_ns(), 0))
            bench.clock.advance(FRAME_NS)
        fragment = Fragment.from_samples(
            bench.pool,
            1,
            CLOCK,
            samples,
            parameter_sets=(SPS, PPS),
            next_rtp=9000 + order[at + 7] * 3600,
        )
        bench.recording.store(fragment, None, 0)
    assert not bench.sink.gaps
    assert all(-120 <= seam <= 0 for seam in seams(bench.sink))
    assert sum(f.meta.flags & RECORD_DISCONTINUITY for f in bench.sink.fragments) == (
        RECORD_DISCONTINUITY
    )
    # Each frame's time, by the rule of the format page, is where its RTP timestamp says.
    starts = [f.meta.start_ns for f in bench.sink.fragments]
    first_frames = [min(order[at : at + 7]) for at in range(0, len(order) - 7, 7)]
    for start_ns, frame in zip(starts, first_frames, strict=True):
        assert abs(start_ns - starts[0] - frame * FRAME_NS) < MS_NS


# codec configuration


def test_a_configuration_has_one_id_until_it_changes(bench: Bench) -> None:
    for sets in ((SPS, PPS), (SPS, PPS), (SPS_OTHER, PPS), (SPS, PPS)):
        bench.store(sets=sets)
    metas = [f.meta for f in bench.sink.fragments]
    assert [m.config_change for m in metas] == [True, False, True, True]
    assert metas[0].codec_config_id == metas[1].codec_config_id
    assert metas[1].codec_config_id < metas[2].codec_config_id < metas[3].codec_config_id
    assert [(m.width, m.height) for m in metas[1:3]] == [(1280, 720), (240, 160)]
    assert metas[0].codec_config == metas[3].codec_config


def test_ids_grow_over_a_restart(bench: Bench) -> None:
    """They are seconds of the day they began, unless there was one before in that second."""
    for _ in range(5):
        bench.store(25, sets=(SPS, PPS))
        bench.store(25, sets=(SPS_OTHER, PPS))
    last_id = bench.sink.fragments[-1].meta.codec_config_id
    bench.away(SECOND_NS)
    bench.start()
    bench.store()
    first = bench.sink.fragments[-1].meta
    assert first.codec_config_id > last_id
    assert first.config_change


def test_a_reconnect_with_the_same_sets_changes_nothing(bench: Bench) -> None:
    bench.store()
    bench.recording.lost(GapCause.CAMERA_OFFLINE, "")
    bench.away(SECOND_NS)
    bench.recording.new_connection(Codec.H264, CLOCK)
    bench.store()
    assert [f.meta.config_change for f in bench.sink.fragments] == [True, False]


def test_a_change_that_was_refused_is_told_with_the_next_record(bench: Bench) -> None:
    bench.store()
    bench.sink.full = True
    bench.store(sets=(SPS_OTHER, PPS))
    bench.sink.full = False
    bench.store(sets=(SPS_OTHER, PPS))
    assert bench.sink.fragments[-1].meta.config_change


def test_an_unreadable_set_is_counted_and_its_footage_stored(bench: Bench) -> None:
    bench.store(sets=(b"\x67\xff", PPS))
    (stored,) = bench.sink.fragments
    assert (stored.meta.width, stored.meta.height, stored.frame_count) == (0, 0, 15)
    assert bench.recording.malformed_configs == 1
    assert [e[0] for e in bench.events] == [
        FeedEventKind.CONFIG_CHANGED,
        FeedEventKind.CONFIG_UNREADABLE,
    ]


def test_an_unsynchronised_clock_is_marked(bench: Bench) -> None:
    bench.clock.synchronised_now = False
    bench.store()
    bench.clock.synchronised_now = True
    bench.store()
    flags = [f.meta.flags & RECORD_CLOCK_UNSYNCHRONISED for f in bench.sink.fragments]
    assert flags == [RECORD_CLOCK_UNSYNCHRONISED, 0]


def test_gap_values_are_plain(bench: Bench) -> None:
    bench.store()
    bench.recording.lost(GapCause.STALL, "why")
    bench.away(SECOND_NS)
    bench.store()
    (gap,) = bench.sink.gaps
    assert gap == Gap(gap.start_ns, gap.end_ns, GapCause.STALL, 0, "why")
