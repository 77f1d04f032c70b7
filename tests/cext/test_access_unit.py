"""Where an access unit ends, what it keeps, and what happens when it does not fit."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.arena import ArenaPool
from tests.cext import streams
from tests.cext.streams import (
    FRAME_KEY,
    FRAME_LOSS,
    FRAME_PARAMETER_SETS,
    FRAME_RECOVERY_POINT,
    START_NS,
)
from tests.oracle import depacketize as oracle
from tests.oracle.rtp import build_packet

H264, H265 = oracle.H264, oracle.H265
POOL = ArenaPool(256 << 20)
SPS = b"\x67\x42\x00\x1e\x8a"
PPS = b"\x68\xce\x3c"
AUD = b"\x09\xf0"
IDR = b"\x65\x88" + bytes(range(1, 100))
SLICE = b"\x41\x9a" + bytes(range(1, 60))
MORE = b"\x41\x1a" + bytes(range(1, 50))  # first_mb_in_slice is not 0
RECOVERY_SEI = b"\x06\x06\x01\xc4\x80"
FILLER = b"\x0c\xff\xff\x80"


class Sender:
    """Packets in sequence; (payload, timestamp, marker) at a time."""

    def __init__(self, codec: int = H264, **options: int) -> None:
        self.video = streams.track(codec, POOL, **options)  # type: ignore[arg-type]
        self.sequence = 0

    def send(self, payload: bytes, timestamp: int, marker: bool = False) -> None:
        packet = build_packet(payload, sequence=self.sequence, timestamp=timestamp, marker=marker)
        self.video.receive(packet, START_NS)
        self.sequence += 1

    def units(self) -> list[tuple[int, list[bytes], bool]]:
        self.video.flush(True)
        found = streams.units_of(self.video.take_fragments())
        return [(rtp, list(nals), lost) for rtp, nals, lost in found]


def test_the_marker_ends_an_access_unit() -> None:
    sender = Sender()
    sender.send(IDR, 0, marker=True)
    assert sender.video.counters().access_units == 1


def test_without_markers_the_next_timestamp_does() -> None:
    sender = Sender()
    for number in range(3):
        sender.send(IDR, 3600 * number)
        sender.send(MORE, 3600 * number)
    assert sender.video.counters().access_units == 2
    assert sender.units() == [(3600 * n, [IDR, MORE], False) for n in range(3)]


def test_a_marker_on_parameter_sets_and_sei_ends_nothing() -> None:
    sender = Sender()
    for nal in (AUD, SPS, PPS, RECOVERY_SEI):
        sender.send(nal, 0, marker=True)
    sender.send(IDR, 0, marker=True)
    assert sender.units() == [(0, [AUD, SPS, PPS, RECOVERY_SEI, IDR], False)]


def test_parameter_sets_under_a_timestamp_of_their_own_go_with_the_picture() -> None:
    sender = Sender()
    sender.send(SLICE, 0, marker=True)
    sender.send(SPS, 3000, marker=True)
    sender.send(PPS, 3100)
    sender.send(IDR, 3600, marker=True)
    assert sender.units() == [(0, [SLICE], False), (3600, [SPS, PPS, IDR], False)]


def test_a_camera_that_marks_every_slice_still_gives_whole_pictures() -> None:
    sender = Sender()
    for timestamp in (0, 3600):
        for nal in (IDR, MORE, MORE, FILLER):
            sender.send(nal, timestamp, marker=True)
    assert sender.units() == [(t, [IDR, MORE, MORE, FILLER], False) for t in (0, 3600)]
    counters = sender.video.counters()
    assert (counters.access_units, counters.key_frames, counters.key_interval_frames) == (2, 2, 1)


def test_two_pictures_of_one_timestamp_stay_two() -> None:
    sender = Sender()
    sender.send(IDR, 0, marker=True)
    sender.send(SLICE, 0, marker=True)
    assert sender.units() == [(0, [IDR], False), (0, [SLICE], False)]


def test_flags_say_what_is_in_the_frame() -> None:
    sender = Sender()
    for timestamp, nals in enumerate([[SPS, PPS, IDR], [SLICE], [RECOVERY_SEI, SLICE]]):
        sender.send(streams.aggregate(H264, nals), timestamp * 3600, marker=True)
    sender.video.flush(True)
    (fragment,) = sender.video.take_fragments()
    assert [frame[3] for frame in fragment.frames()] == [
        FRAME_KEY | FRAME_PARAMETER_SETS,
        0,
        FRAME_RECOVERY_POINT,
    ]


@pytest.mark.parametrize("kind", range(16, 22))
def test_every_irap_picture_of_h265_is_a_key_frame(kind: int) -> None:
    sender = Sender(H265)
    sender.send(bytes([kind << 1, 1, 0x80, 7]), 0, marker=True)
    sender.send(bytes([1 << 1, 1, 0x80, 7]), 3600, marker=True)
    sender.video.flush(True)
    (fragment,) = sender.video.take_fragments()
    assert [frame[3] & FRAME_KEY for frame in fragment.frames()] == [FRAME_KEY, 0]


def test_a_fragment_without_an_end_is_dropped_and_the_rest_kept() -> None:
    sender = Sender()
    start, *_middle, _end = streams.fragment_nal(H264, IDR, 40)
    sender.send(SPS, 0)
    sender.send(start, 0)
    sender.send(SLICE, 0, marker=True)
    sender.send(SLICE, 3600, marker=True)
    assert sender.units() == [(0, [SPS, SLICE], True), (3600, [SLICE], False)]
    assert sender.video.counters().incomplete_nals == 1


def test_a_type_that_changes_inside_a_fragmented_nal_unit_does_not_matter() -> None:
    """Tiandy cameras write another type into the later FU headers."""
    sender = Sender()
    parts = streams.fragment_nal(H264, IDR, 40)
    parts = [parts[0], *(p[:1] + bytes([p[1] & 0xE0 | 1]) + p[2:] for p in parts[1:])]
    for number, part in enumerate(parts):
        sender.send(part, 0, marker=number == len(parts) - 1)
    assert sender.units() == [(0, [IDR], False)]


def test_empty_fragments_are_harmless() -> None:
    sender = Sender()
    for payload in (b"\x7c\x85", b"\x7c\x05", b"\x7c\x05" + IDR[1:], b"\x7c\x45"):
        sender.send(payload, 0)
    assert sender.units() == [(0, [IDR], False)]


def test_a_nal_unit_of_20_megabytes_is_dropped_and_the_next_access_unit_is_fine() -> None:
    sender = Sender()
    sender.send(SLICE, 0, marker=True)
    body = bytes([0xA5]) * 60000
    sender.send(SPS, 3600)
    sender.send(b"\x7c\x85" + body, 3600)
    for _ in range(350):
        sender.send(b"\x7c\x05" + body, 3600)
    sender.send(b"\x7c\x45" + body, 3600, marker=True)
    sender.send(IDR, 7200, marker=True)
    sender.send(SLICE, 10800, marker=True)
    sender.video.flush(True)
    fragments = sender.video.take_fragments()
    assert streams.units_of(fragments) == [
        (0, (SLICE,), False),
        (7200, (IDR,), True),
        (10800, (SLICE,), False),
    ]
    assert sender.video.counters().oversize_access_units == 1
    assert sum(fragment.oversize_count for fragment in fragments) == 1
    (told,) = [fragment for fragment in fragments if fragment.oversize_count]
    assert told.lost_from_rtp <= 3600 < told.lost_to_rtp <= 7200
    assert told.lost_packets == 0
    for fragment in fragments:
        fragment.release()
    assert POOL.bytes_in_use == 0


def test_the_limit_is_exact() -> None:
    for nbytes, oversize in ((1000, 0), (1001, 1)):
        sender = Sender(access_unit_bytes_max=1004)
        sender.send(b"\x65" + bytes([0xA5]) * (nbytes - 1), 0, marker=True)
        assert sender.video.counters().oversize_access_units == oversize


def test_an_exhausted_pool_costs_access_units_and_nothing_else() -> None:
    pool = ArenaPool(128 << 10)
    video = streams.track(H264, pool)
    big = b"\x65\x88" + bytes([0xA5]) * 50_000
    units = [[big] for _ in range(4)]
    packets = streams.packetize(H264, units, sequence=0, timestamp=0)
    held = streams.track(H264, pool)
    streams.run(held, streams.packetize(H264, [[SLICE]]))  # released at once: nobody keeps it
    (kept,) = streams.run(streams.track(H264, pool), streams.packetize(H264, [[SLICE]]))
    assert streams.run(video, packets[: len(packets) // 2]) == []
    assert video.counters().exhausted_access_units == 2
    kept.release()
    fragments = streams.run(video, packets[len(packets) // 2 :])
    got = streams.units_of(fragments)
    assert got == [(7200, (big,), True), (10800, (big,), False)]
    assert fragments[0].exhausted_count == 2
    assert (fragments[0].lost_from_rtp, fragments[0].lost_to_rtp) == (0, 7200)


def test_an_arena_that_fills_closes_the_fragment_and_the_next_one_is_larger() -> None:
    """The access unit in progress moves; after a few fragments the rate is known."""
    video = streams.track(H264, POOL)
    units = [[b"\x65\x88" + bytes([n % 250 + 1]) * 20_000] for n in range(600)]
    fragments = streams.run(video, streams.packetize(H264, units))
    assert [list(nals) for _r, nals, _l in streams.units_of(fragments)] == units
    counts = [fragment.frame_count for fragment in fragments]
    assert counts[0] == 5  # 128 KiB
    assert counts[:5] == sorted(counts[:5]) and max(counts) == 128
    for before, after in pairwise(fragments):
        assert before.next_rtp == after.rtp_first


def test_one_access_unit_larger_than_any_arena_so_far() -> None:
    video = streams.track(H264, POOL)
    big = b"\x65\x88" + bytes([0xA5]) * 3_000_000
    units = [[SLICE], [big], [SLICE]]
    fragments = streams.run(video, streams.packetize(H264, units))
    assert [list(nals) for _r, nals, _l in streams.units_of(fragments)] == units


def test_arenas_shrink_when_the_rate_falls() -> None:
    pool = ArenaPool(64 << 20, 0)
    video = streams.track(H264, pool, age_ns=1)
    streams.run(video, streams.packetize(H264, [[b"\x65" + bytes([9]) * 700_000]] * 3, sequence=0))
    sequence = 3 * 502
    sizes = []
    for number in range(100):
        packet = build_packet(SLICE, sequence=sequence + number, timestamp=number, marker=True)
        video.receive(packet, START_NS + number)
        sizes.append(pool.bytes_in_use)
        video.flush(False)
        for fragment in video.take_fragments():
            fragment.release()
    assert sizes[0] >= 1 << 20
    assert sizes[-1] == 128 << 10


def test_more_nal_units_than_a_frame_table_can_count() -> None:
    sender = Sender()
    many = streams.aggregate(H264, [SLICE[:2]] * 10_000)
    for _ in range(7):
        sender.send(many, 0)
    sender.send(SLICE, 3600, marker=True)
    assert sender.units() == [(3600, [SLICE], True)]
    assert sender.video.counters().oversize_access_units == 1


NAL = st.builds(
    lambda head, fill, size: head + bytes([fill]) * size,
    st.sampled_from(
        [
            b"\x65\x88",
            b"\x41\x9a",
            b"\x41\x1a",
            b"\x67\x42\x00\x1e",
            b"\x68\xce",
            b"\x06\x05",
            b"\x09\xf0",
            b"\x0c\xff",
            b"\x06\x06\x01\xc4",
        ]
    ),
    st.integers(1, 255),
    st.integers(0, 400),
)
NAL_H265 = st.builds(
    lambda kind, first, size: bytes([kind << 1, 1, first]) + bytes([7]) * size,
    st.sampled_from([0, 1, 8, 19, 20, 21, 32, 33, 34, 35, 38, 39, 40]),
    st.sampled_from([0x80, 0x2F]),
    st.integers(0, 400),
)
EVENTS = st.sampled_from(["", "", "", "", "", "", "drop", "twice", "swap", "far", "mark", "unmark"])


def mangle(packets: list[bytes], events: list[str]) -> list[bytes]:
    """Loss, duplication, reordering and wrong markers, packet by packet."""
    out: list[bytes] = []
    for number, packet in enumerate(packets):
        event = events[number % len(events)] if events else ""
        if event in ("mark", "unmark"):
            kind = packet[1] | 0x80 if event == "mark" else packet[1] & 0x7F
            packet = packet[:1] + bytes([kind]) + packet[2:]
        if event != "drop":
            out.append(packet)
        if event == "twice":
            out.append(packet)
        if event in ("swap", "far") and len(out) > 1:
            out.insert(max(0, len(out) - (2 if event == "swap" else 9)), out.pop())
    return out


@settings(max_examples=300)
@given(
    st.sampled_from([H264, H265]),
    st.data(),
    st.integers(40, 300),
    st.booleans(),
    st.lists(EVENTS, max_size=40),
    st.sampled_from([0, 3, 32]),
)
def test_any_stream_with_any_damage_is_as_in_the_twin(
    codec: int, data: st.DataObject, mtu: int, aggregated: bool, events: list[str], window: int
) -> None:
    nal = NAL if codec == H264 else NAL_H265
    units = data.draw(st.lists(st.lists(nal, min_size=1, max_size=5), min_size=1, max_size=12))
    packets = streams.packetize(codec, units, mtu=mtu, aggregated=aggregated)
    packets = mangle(packets, events)
    twin = oracle.Track(codec, 96, window)
    for packet in packets:
        twin.receive(packet)
    video = streams.track(codec, POOL, reorder_packets=window)
    fragments = streams.run(video, packets)
    assert streams.units_of(fragments) == [
        (unit.rtp, tuple(unit.nals), unit.lost) for unit in twin.finish()
    ]
    counters = video.counters()
    assert counters.lost_packets == twin.lost_packets
    assert counters.malformed_packets == twin.malformed
    assert counters.access_units == len(twin.done)
    for fragment in fragments:
        for _size, pts, _recv, flags, _count in fragment.frames():
            if flags & FRAME_LOSS:
                rtp = fragment.rtp_first + pts
                assert any(
                    other.lost_from_rtp < other.lost_to_rtp and other.lost_from_rtp <= rtp
                    for other in fragments
                ), "a frame is marked, and no fragment tells of a loss there"


@settings(max_examples=200)
@given(st.sampled_from([H264, H265]), st.lists(st.binary(max_size=60), max_size=20), st.booleans())
def test_any_payloads_are_counted_and_never_raise(
    codec: int, payloads: list[bytes], marker: bool
) -> None:
    twin = oracle.Track(codec, 96, 0)
    video = streams.track(codec, POOL)
    packets = [
        build_packet(payload, sequence=n, timestamp=n // 3 * 3600, marker=marker and n % 3 == 2)
        for n, payload in enumerate(payloads)
    ]
    for packet in packets:
        twin.receive(packet)
    fragments = streams.run(video, packets)
    assert streams.units_of(fragments) == [
        (unit.rtp, tuple(unit.nals), unit.lost) for unit in twin.finish()
    ]
    assert video.counters().malformed_packets == twin.malformed


def test_seeds_that_broke_another_parser(media_dir: Path) -> None:
    """Series of packets; as they are, and with the RTP header repaired so that they get further."""
    for seed in sorted((media_dir / "fuzz-seeds/gortsplib_format_rtph264_FuzzDecoder").iterdir()):
        packets, data = [], seed.read_bytes()
        while data:
            size = int.from_bytes(data[:4], "little")
            packets.append(data[4 : 4 + size])
            data = data[4 + size :]
        assert packets
        headers = [b"\x80\x60" + n.to_bytes(2, "big") + bytes(8) for n in range(len(packets))]
        repaired = [header + packet for header, packet in zip(headers, packets, strict=True)]
        for codec in (H264, H265):
            for series in (packets, repaired):
                twin = oracle.Track(codec, 96, 0)
                for packet in series:
                    twin.receive(packet)
                fragments = streams.run(streams.track(codec, POOL), series)
                assert streams.units_of(fragments) == [
                    (unit.rtp, tuple(unit.nals), unit.lost) for unit in twin.finish()
                ]
