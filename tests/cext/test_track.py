"""One stream from packets to fragments: whose packets, in which order, when a fragment closes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext import limits
from cext.arena import ArenaPool, Fragment
from cext.track import (
    EVENT_BYE,
    EVENT_CONFIG,
    EVENT_FRAGMENT,
    EVENT_SENDER_REPORT,
    EVENT_SSRC_CHANGED,
    VideoTrack,
)
from tests.cext import streams
from tests.cext.streams import FRAME_LOSS, SECOND_NS, START_NS
from tests.oracle.depacketize import H264, H265
from tests.oracle.rtp import build_packet

MS = 1_000_000
POOL = ArenaPool(256 << 20)
SPS = b"\x67\x42\x00\x1e\x8a"
OTHER_SPS = b"\x67\x42\x00\x1f\x8a"
PPS = b"\x68\xce\x3c"
PPS_1 = b"\x68\x4f\x3c"
IDR = b"\x65\x88" + bytes(range(1, 100))
SLICE = b"\x41\x9a" + bytes(range(1, 60))


def frame(number: int, nal: bytes = SLICE, **fields: int) -> bytes:
    """One access unit in one packet, 25 a second."""
    options = {"sequence": number, "timestamp": 3600 * number, "marker": True} | fields
    return build_packet(nal, **options)  # type: ignore[arg-type]


def counts(fragments: list[Fragment]) -> list[int]:
    return [fragment.frame_count for fragment in fragments]


def feed(video: VideoTrack, packets: list[bytes], step_ns: int = 40 * MS) -> int:
    events = 0
    for number, packet in enumerate(packets):
        events |= video.receive(packet, START_NS + number * step_ns)
    return events


# ---- when a fragment closes ----


def test_a_fragment_has_at_most_128_access_units() -> None:
    video = streams.track(H264, POOL)
    fragments = streams.run(video, [frame(n) for n in range(300)])
    assert counts(fragments) == [128, 128, 44]
    assert [f.next_rtp for f in fragments] == [128 * 3600, 256 * 3600, None]
    assert {f.last_delta_ticks for f in fragments} == {3600}


def test_a_fragment_closes_in_front_of_the_access_unit_that_makes_it_too_old() -> None:
    video = streams.track(H264, POOL, age_ns=SECOND_NS)
    events = feed(video, [frame(n) for n in range(60)])
    assert events == EVENT_FRAGMENT
    video.flush(True)
    assert counts(video.take_fragments()) == [25, 25, 10]


def test_half_the_age_is_enough_in_front_of_a_key_frame() -> None:
    video = streams.track(H264, POOL, age_ns=SECOND_NS)
    nals = [IDR if n in (0, 5, 20) else SLICE for n in range(30)]
    feed(video, [frame(n, nal) for n, nal in enumerate(nals)])
    video.flush(True)
    assert counts(video.take_fragments()) == [20, 10]


def test_what_stands_in_front_of_the_key_frame_goes_with_it() -> None:
    video = streams.track(H264, POOL, age_ns=SECOND_NS)
    units = [[IDR] if n == 0 else [SLICE] for n in range(20)]
    units.append([b"\x09\xf0", SPS, PPS, IDR])
    for packet in streams.packetize(H264, units, timestamp=0, sequence=0, aggregated=False):
        seconds = int.from_bytes(packet[4:8], "big") / 90000
        video.receive(packet, START_NS + int(seconds * SECOND_NS))
    video.flush(True)
    fragments = video.take_fragments()
    assert counts(fragments) == [20, 1]
    assert streams.units_of(fragments)[-1][1] == (b"\x09\xf0", SPS, PPS, IDR)


def test_tick_closes_an_old_fragment_and_leaves_the_access_unit_in_progress() -> None:
    video = streams.track(H264, POOL, age_ns=SECOND_NS)
    video.receive(frame(0), START_NS)
    video.receive(frame(1, b"\x41\x9abc", marker=0), START_NS)
    assert video.tick(START_NS + SECOND_NS - 1) == 0
    assert video.tick(START_NS + SECOND_NS) == EVENT_FRAGMENT
    (first,) = video.take_fragments()
    assert (first.frame_count, first.next_rtp) == (1, 3600)
    video.receive(frame(2, b"\x41\x1abc", timestamp=3600), START_NS + SECOND_NS)
    video.flush(False)
    assert streams.units_of(video.take_fragments()) == [
        (3600, (b"\x41\x9abc", b"\x41\x1abc"), False)
    ]


def test_flush_keeps_the_access_unit_in_progress_for_the_end() -> None:
    video = streams.track(H264, POOL)
    video.receive(frame(0, marker=0), START_NS)
    assert video.flush(False) == 0
    assert video.flush(True) == EVENT_FRAGMENT
    assert len(streams.units_of(video.take_fragments())) == 1
    assert video.flush(True) == 0


def test_the_last_access_unit_of_a_camera_that_marks_is_damaged_without_its_marker() -> None:
    video = streams.track(H264, POOL)
    fragments = streams.run(video, [frame(0), frame(1, marker=0)])
    assert [lost for _rtp, _nals, lost in streams.units_of(fragments)] == [False, True]


def test_receive_times_are_those_of_the_last_packet_of_an_access_unit() -> None:
    video = streams.track(H264, POOL)
    parts = streams.fragment_nal(H264, IDR, 40)
    for number, part in enumerate(parts):
        packet = frame(number, part, timestamp=0, marker=number == len(parts) - 1)
        video.receive(packet, START_NS + number * MS)
    last_ns = START_NS + (len(parts) - 1) * MS
    video.receive(frame(len(parts), timestamp=3600), START_NS + 45 * MS)
    video.flush(True)
    (fragment,) = video.take_fragments()
    assert (fragment.recv_first_ns, fragment.recv_last_ns) == (last_ns, START_NS + 45 * MS)
    assert fragment.frames()[1][2] == (45 - len(parts) + 1) * 1000
    assert fragment.earliest_recv_minus_rtp_ns == min(last_ns, START_NS + 5 * MS)


# ---- parameter sets ----


def test_a_changed_parameter_set_closes_the_fragment_in_front_of_its_access_unit() -> None:
    video = streams.track(H264, POOL)
    units = [[SPS, PPS, IDR], [SLICE], [SPS, PPS, IDR], [OTHER_SPS, PPS, IDR], [SLICE]]
    units += [[PPS_1, SLICE]]
    packets = streams.packetize(H264, units, aggregated=False)
    assert feed(video, packets) == EVENT_CONFIG | EVENT_FRAGMENT
    video.flush(True)
    fragments = video.take_fragments()
    assert [list(nals) for _r, nals, _l in streams.units_of(fragments)] == units
    assert counts(fragments) == [3, 2, 1]
    assert [f.parameter_sets for f in fragments] == [
        (SPS, PPS),
        (OTHER_SPS, PPS),
        (OTHER_SPS, PPS, PPS_1),
    ]
    generations = [f.config_generation for f in fragments]
    assert generations == sorted(set(generations))
    assert fragments[0].next_rtp == fragments[1].rtp_first


def test_fragments_of_one_generation_share_one_tuple() -> None:
    video = streams.track(H264, POOL, age_ns=1)
    feed(video, [frame(0, streams.aggregate(H264, [SPS, PPS, IDR])), *(frame(n) for n in (1, 2))])
    video.flush(True)
    first, second, third = video.take_fragments()
    assert first.parameter_sets is second.parameter_sets is third.parameter_sets
    assert video.parameter_sets is third.parameter_sets


def test_the_stream_outranks_the_sdp() -> None:
    video = streams.track(H264, POOL, parameter_sets=(OTHER_SPS, PPS_1, PPS))
    assert video.parameter_sets == (OTHER_SPS, PPS, PPS_1)
    assert video.config_generation == 0
    other_pps_1 = PPS_1 + b"\x01"
    video.receive(frame(0, streams.aggregate(H264, [SPS, other_pps_1, IDR])), START_NS)
    assert video.parameter_sets == (SPS, other_pps_1, PPS)  # those of the stream first
    assert video.config_generation > 0


def test_parameter_sets_equal_to_the_sdp_change_nothing() -> None:
    video = streams.track(H264, POOL, parameter_sets=(SPS, PPS))
    assert video.receive(frame(0, streams.aggregate(H264, [SPS, PPS, IDR])), START_NS) == 0
    assert video.config_generation == 0


def test_unusable_parameter_sets_are_counted_and_kept_in_the_stream() -> None:
    bad = b"\x67\x42"
    long = b"\x67\x42\x00\x1e\x8a" + bytes([9]) * limits.PARAMETER_SET_BYTES_MAX
    video = streams.track(H264, POOL, parameter_sets=(b"", bad, long))
    assert (video.parameter_sets, video.counters().malformed_parameter_sets) == ((), 3)
    units = [[bad, long, IDR]]
    fragments = streams.run(video, streams.packetize(H264, units))
    assert [list(nals) for _r, nals, _l in streams.units_of(fragments)] == units
    assert video.counters().malformed_parameter_sets == 5
    assert video.parameter_sets == ()


def test_a_stream_of_ever_new_parameter_sets_stays_bounded() -> None:
    video = streams.track(H264, POOL)
    for number in range(200):
        code = bin(number + 1)[2:]
        bits = ("0" * (len(code) - 1) + code + "1").ljust(24, "0")
        pps = b"\x68" + int(bits, 2).to_bytes(3, "big") + b"\xff"
        video.receive(frame(number, streams.aggregate(H264, [pps, SLICE])), START_NS)
        assert len(video.parameter_sets) <= limits.PARAMETER_SETS_MAX
    assert len(video.parameter_sets) == limits.PARAMETER_SETS_MAX


def test_parameter_sets_of_a_dropped_access_unit_count() -> None:
    """The sets arrived whole; the pictures behind them need them although the key frame is gone."""
    video = streams.track(H264, POOL, access_unit_bytes_max=300)
    units = [[SLICE], [SPS, PPS, b"\x65\x88" + bytes([7]) * 400], [SLICE]]
    fragments = streams.run(video, streams.packetize(H264, units, aggregated=False))
    assert [list(nals) for _r, nals, _l in streams.units_of(fragments)] == [[SLICE], [SLICE]]
    assert video.parameter_sets == (SPS, PPS)
    assert [f.parameter_sets for f in fragments] == [(), (SPS, PPS)]


# ---- sequence ----


def test_a_lost_packet_marks_the_frame_and_tells_when() -> None:
    video = streams.track(H264, POOL)
    packets = [frame(n) for n in range(10)]
    del packets[4]
    fragments = streams.run(video, packets)
    (fragment,) = fragments
    assert [bool(f[3] & FRAME_LOSS) for f in fragment.frames()] == [n == 4 for n in range(9)]
    assert fragment.lost_packets == video.counters().lost_packets == 1
    # frame 4 is missing; frame 5 may lack its first slice
    assert (fragment.lost_from_rtp, fragment.lost_to_rtp) == (4 * 3600, 6 * 3600)


def test_reordered_packets_within_the_window_lose_nothing() -> None:
    video = streams.track(H264, POOL, reorder_packets=8)
    order = [0, 3, 1, 2, 5, 4, 9, 8, 7, 6, 10]
    fragments = streams.run(video, [frame(n) for n in order])
    assert [rtp for rtp, _nals, _lost in streams.units_of(fragments)] == [
        3600 * n for n in range(11)
    ]
    counters = video.counters()
    assert (counters.lost_packets, counters.late_packets) == (0, 0)
    assert counters.reordered_packets == 6


def test_a_gap_is_given_up_after_200_ms() -> None:
    video = streams.track(H264, POOL, reorder_packets=8)
    video.receive(frame(0), START_NS)
    video.receive(frame(2), START_NS + 10 * MS)
    assert video.counters().access_units == 1
    video.tick(START_NS + 209 * MS)
    assert video.counters().access_units == 1
    video.tick(START_NS + 210 * MS)
    counters = video.counters()
    assert (counters.access_units, counters.lost_packets) == (2, 1)
    video.receive(frame(1), START_NS + 300 * MS)
    assert video.counters().late_packets == 1


def test_a_window_that_overflows_gives_up_its_first_gap_only() -> None:
    video = streams.track(H264, POOL, reorder_packets=4)
    for number in (0, 2, 3, 5):
        video.receive(frame(number), START_NS)
    counters = video.counters()
    assert (counters.access_units, counters.lost_packets) == (3, 1)  # 1 is gone, 4 still awaited
    video.receive(frame(4), START_NS)
    assert video.counters().access_units == 5


def test_a_frame_that_waited_was_complete_when_the_missing_packet_came() -> None:
    video = streams.track(H264, POOL, reorder_packets=8)
    for number, at in ((0, 0), (2, 10), (1, 50)):
        video.receive(frame(number), START_NS + at * MS)
    video.flush(True)
    (fragment,) = video.take_fragments()
    assert [f[2] for f in fragment.frames()] == [0, 50_000, 50_000]


def test_duplicates_are_recorded_once() -> None:
    video = streams.track(H264, POOL)
    fragments = streams.run(video, [frame(n // 3) for n in range(30)])
    assert counts(fragments) == [10]
    assert video.counters().duplicate_packets == 20


def test_a_restarted_sequence_is_taken_up_with_its_first_packet() -> None:
    video = streams.track(H264, POOL)
    packets = [frame(n) for n in range(5)]
    packets += [frame(n, sequence=40000 + n) for n in range(5, 10)]
    fragments = streams.run(video, packets)
    assert [rtp for rtp, _n, _l in streams.units_of(fragments)] == [3600 * n for n in range(10)]
    assert [lost for _r, _n, lost in streams.units_of(fragments)] == [n == 5 for n in range(10)]
    counters = video.counters()
    assert (counters.sequence_restarts, counters.lost_packets) == (1, 0)  # how many: unknown
    assert fragments[0].lost_from_rtp < fragments[0].lost_to_rtp


def test_packets_of_another_payload_type_hold_their_place_in_the_sequence() -> None:
    video = streams.track(H264, POOL)
    packets = [frame(n, payload_type=50 if n == 2 else 96) for n in range(5)]
    fragments = streams.run(video, packets)
    assert counts(fragments) == [4]
    counters = video.counters()
    assert (counters.wrong_payload_type, counters.lost_packets) == (1, 0)


# ---- whose packets ----


def test_the_first_packet_of_the_payload_type_says_whose_stream_it_is() -> None:
    video = streams.track(H264, POOL)
    assert video.ssrc is None
    video.receive(frame(0, payload_type=50, ssrc=7), START_NS)
    assert video.ssrc is None
    video.receive(frame(0, ssrc=8), START_NS)
    assert video.ssrc == 8


def test_another_camera_is_never_recorded() -> None:
    """An old session's packets on a new connection: counted, dropped, reported."""
    video = streams.track(H264, POOL)
    ours = [frame(n, ssrc=1) for n in range(20)]
    theirs = [frame(n, b"\x65theirs", ssrc=2) for n in range(20)]
    mixed = [packet for pair in zip(ours, theirs, strict=True) for packet in pair]
    fragments = streams.run(video, mixed)
    assert counts(fragments) == [20]
    assert b"\x65theirs" not in streams.nals_of(fragments)
    counters = video.counters()
    assert (counters.wrong_ssrc, counters.ssrc_changes, counters.lost_packets) == (20, 0, 0)
    assert video.foreign_ssrc == 2


def test_an_announced_ssrc_is_believed_from_the_first_packet() -> None:
    video = streams.track(H264, POOL, ssrc=1)
    video.receive(frame(0, ssrc=2), START_NS)
    video.receive(frame(0, ssrc=1), START_NS)
    assert video.counters().wrong_ssrc == 1
    assert video.counters().access_units == 1


def test_a_stream_that_is_all_foreign_is_reported_after_two_seconds() -> None:
    video = streams.track(H264, POOL)
    video.receive(frame(0, ssrc=1), START_NS)
    told = []
    for number in range(120):
        now_ns = START_NS + number * 40 * MS
        if video.receive(frame(number, ssrc=2), now_ns) & EVENT_SSRC_CHANGED:
            told.append(number)
    assert told == [50, 101]  # 2 s after the first, and again while it lasts
    assert video.counters().ssrc_changes == 2
    assert video.counters().access_units == 1


def test_few_foreign_packets_are_not_reported_however_long() -> None:
    video = streams.track(H264, POOL, ssrc=1)
    events = [video.receive(frame(n, ssrc=2), START_NS + n * SECOND_NS) for n in range(49)]
    assert set(events) == {0}
    assert video.receive(frame(49, ssrc=2), START_NS + 49 * SECOND_NS) == EVENT_SSRC_CHANGED


def test_the_session_may_accept_the_new_ssrc() -> None:
    video = streams.track(H264, POOL)
    feed(video, [frame(n, ssrc=1) for n in range(3)])
    assert video.accept_ssrc(2) == EVENT_FRAGMENT
    feed(video, [frame(n, sequence=50000 + n, timestamp=9 + n * 3600, ssrc=2) for n in range(3)])
    video.flush(True)
    first, second = video.take_fragments()
    assert (first.frame_count, first.next_rtp) == (3, None)
    assert (second.frame_count, second.rtp_first) == (3, 9)
    assert second.lost_packets == 0
    video.accept_ssrc(None)
    video.receive(frame(0, ssrc=3), START_NS)
    assert video.ssrc == 3


# ---- timestamps ----


def test_timestamps_are_extended_over_the_wrap() -> None:
    video = streams.track(H264, POOL)
    packets = [frame(n, timestamp=0xFFFFFFFF - 3600 + 3600 * n) for n in range(4)]
    (fragment,) = streams.run(video, packets)
    assert fragment.rtp_first == 0xFFFFFFFF - 3600
    assert [f[1] for f in fragment.frames()] == [0, 3600, 7200, 10800]
    assert video.counters().timestamp_jumps == 0


def test_b_frames_go_back_in_time_and_that_is_no_jump() -> None:
    video = streams.track(H264, POOL)
    order = [0, 4, 2, 1, 3, 8, 6, 5, 7]
    packets = [frame(n, timestamp=3600 * t) for n, t in enumerate(order)]
    (fragment,) = streams.run(video, packets)
    assert [f[1] for f in fragment.frames()] == [3600 * t for t in order]
    assert (fragment.pts_min_ticks, fragment.pts_max_ticks) == (0, 8 * 3600)
    assert fragment.flags & 8
    assert fragment.last_delta_ticks == 3600


@pytest.mark.parametrize("ticks", [900_001, -900_001])
def test_a_jump_begins_a_fragment(ticks: int) -> None:
    video = streams.track(H264, POOL)
    base = 2_000_000
    packets = [frame(0, timestamp=base), frame(1, timestamp=base + ticks)]
    first, second = streams.run(video, packets)
    assert (first.next_rtp, second.rtp_first) == (None, base + ticks)
    assert video.counters().timestamp_jumps == 1


def test_ten_seconds_are_no_jump() -> None:
    video = streams.track(H264, POOL)
    assert counts(streams.run(video, [frame(0), frame(1, timestamp=900_000)])) == [2]


def test_a_loss_over_a_jump_does_not_claim_hours() -> None:
    video = streams.track(H264, POOL)
    packets = [frame(n) for n in range(3)]
    packets += [frame(n, sequence=n + 9, timestamp=2**30 + 3600 * n) for n in range(3)]
    _first, second = streams.run(video, packets)
    assert second.lost_packets == 9 - 3
    assert 0 < second.lost_to_rtp - second.lost_from_rtp <= 2 * 3600


# ---- sender reports ----


def sender_report(rtp: int, ssrc: int = 0x1234, ntp: int = 3_900_000_000 << 32) -> bytes:
    return (
        b"\x80\xc8\x00\x06"
        + ssrc.to_bytes(4, "big")
        + ntp.to_bytes(8, "big")
        + rtp.to_bytes(4, "big")
        + bytes(8)
    )


def test_a_sender_report_is_extended_to_the_stream() -> None:
    video = streams.track(H264, POOL)
    video.receive(frame(0, timestamp=0xFFFFFFF0), START_NS)
    assert video.sender_report() is None
    assert video.receive_rtcp(sender_report(0x10), START_NS + 1) == EVENT_SENDER_REPORT
    report = video.sender_report()
    assert report is not None
    assert (report.rtp, report.recv_ns) == (0x1_0000_0010, START_NS + 1)
    assert report.ntp_ns_utc == (3_900_000_000 - 2_208_988_800) * SECOND_NS


def test_a_report_before_the_first_packet_waits_for_it() -> None:
    video = streams.track(H264, POOL)
    video.receive_rtcp(sender_report(0xFFFFFFF0), START_NS)
    assert video.sender_report() is None
    video.receive(frame(0, timestamp=0x10), START_NS)
    report = video.sender_report()
    assert report is not None and report.rtp == -0x10


def test_reports_of_others_are_not_taken() -> None:
    video = streams.track(H264, POOL)
    video.receive_rtcp(sender_report(5, ssrc=9), START_NS)
    video.receive(frame(0), START_NS)
    assert video.receive_rtcp(sender_report(5, ssrc=9), START_NS) == 0
    assert video.sender_report() is None


def test_a_report_does_not_outlive_a_jump() -> None:
    video = streams.track(H264, POOL)
    video.receive(frame(0), START_NS)
    video.receive_rtcp(sender_report(5), START_NS)
    video.receive(frame(1, timestamp=2**31 - 1), START_NS)
    assert video.sender_report() is None


def test_rtcp_on_the_rtp_channel_is_no_video(media_dir: Path) -> None:
    video = streams.track(H264, POOL)
    video.receive(frame(0), START_NS)
    assert video.receive(sender_report(5), START_NS) == EVENT_SENDER_REPORT
    bye = b"\x81\xcb\x00\x01" + (0x1234).to_bytes(4, "big")
    assert video.receive_rtcp(bye, START_NS) == EVENT_BYE
    other = (media_dir / "webrtc/aiortc_rtcp_bye.bin").read_bytes()
    assert video.receive_rtcp(other, START_NS) == 0
    assert video.counters().lost_packets == 0


def test_a_bad_rtcp_packet_is_counted() -> None:
    video = streams.track(H264, POOL)
    assert video.receive_rtcp(b"\x80\xc8\xff\xff" + bytes(24), START_NS) == 0
    assert video.counters().malformed_packets == 1


# ---- counters and arguments ----


def test_counters() -> None:
    video = streams.track(H264, POOL)
    nals = [IDR if n % 10 == 0 else SLICE for n in range(30)]
    feed(video, [frame(n, nal) for n, nal in enumerate(nals)])
    video.receive(b"\x80", START_NS)
    counters = video.counters()
    assert counters.packets == 31
    assert counters.bytes == sum(len(nal) + 12 for nal in nals) + 1
    assert (counters.access_units, counters.key_frames, counters.key_interval_frames) == (30, 3, 10)
    assert counters.malformed_packets == 1
    assert counters.last_access_unit_recv_ns == START_NS + 29 * 40 * MS
    assert counters.jitter_ticks == 0


def test_jitter_follows_uneven_arrival() -> None:
    video = streams.track(H264, POOL)
    for number in range(200):
        video.receive(frame(number), START_NS + number * 40 * MS + number % 2 * 10 * MS)
    assert 850 <= video.counters().jitter_ticks <= 900  # 10 ms are 900 ticks


@settings(max_examples=200)
@given(
    st.sampled_from([H264, H265]),
    st.lists(st.one_of(st.binary(max_size=50), st.integers(0, 3)), max_size=40),
    st.data(),
)
def test_any_bytes_are_counted_and_memory_stays_bounded(
    codec: int, packets: list[bytes | int], data: st.DataObject
) -> None:
    pool = ArenaPool(1 << 20)
    video = streams.track(codec, pool, reorder_packets=8, age_ns=SECOND_NS)
    now_ns = START_NS
    for number, item in enumerate(packets):
        now_ns += data.draw(st.sampled_from([0, MS, SECOND_NS]))
        if isinstance(item, bytes):
            header = bytes([0x80, 96, 0, number]) + bytes(8)
            video.receive(header + item, now_ns)
            video.receive(item, now_ns)
            video.receive_rtcp(item, now_ns)
        elif item == 0:
            video.tick(now_ns)
        elif item == 1:
            video.flush(False)
        elif item == 2:
            video.accept_ssrc(None)
        else:
            streams.units_of(video.take_fragments())
        assert pool.bytes_in_use <= 1 << 20
    video.flush(True)
    streams.units_of(video.take_fragments())
    del video
    assert pool.bytes_in_use == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"codec": 3},
        {"payload_type": 128},
        {"clock_rate": 0},
        {"fragment_age_max_ns": 0},
        {"ssrc": 2**32},
        {"reorder_packets": 33},
        {"access_unit_bytes_max": limits.ACCESS_UNIT_BYTES_MAX + 1},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    options = {
        "codec": H264,
        "payload_type": 96,
        "clock_rate": 90000,
        "fragment_age_max_ns": SECOND_NS,
    } | arguments
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        VideoTrack(
            options.pop("codec"),
            options.pop("payload_type"),
            options.pop("clock_rate"),
            POOL,
            **options,  # type: ignore[arg-type]
        )
