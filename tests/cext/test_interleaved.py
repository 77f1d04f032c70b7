"""RTSP over TCP: equal results whatever the split, bounded memory, only typed errors."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext import limits
from cext.arena import ArenaPool
from cext.errors import CextError, FrameError, LimitExceeded
from cext.interleaved import Demuxer, ReceiveArea
from cext.track import (
    EVENT_CONFIG,
    EVENT_FRAGMENT,
    EVENT_SENDER_REPORT,
    EVENT_TEXT,
    VideoTrack,
)
from tests.cext import streams
from tests.cext.streams import START_NS
from tests.oracle import interleaved as oracle
from tests.oracle.depacketize import H264
from tests.oracle.rtp import build_packet

AREA = ReceiveArea()
POOL = ArenaPool(256 << 20)
REPLY = b"RTSP/1.0 200 OK\r\nCSeq: 4\r\nContent-Length: 5\r\n\r\nv=0\r\n"
BARE = b"OPTIONS rtsp://camera/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"
UNIT = [b"\x67\x42\x00\x1e\xab", b"\x68\xce", b"\x65\x88" + bytes(range(1, 250))]


def connection(channel: int = 0) -> tuple[Demuxer, VideoTrack]:
    demuxer = Demuxer(AREA)
    video = streams.track(H264, POOL)
    demuxer.bind(channel, video, channel + 1)
    return demuxer, video


Outcome = tuple[list[bytes], list[streams.AccessUnit], int, int, object, str | None]


def outcome(data: bytes, splits: list[int]) -> Outcome:
    """Everything that can be seen after `data` came in these parts."""
    demuxer, video = connection()
    error = None
    for start, stop in zip([0, *splits], [*splits, len(data)], strict=True):
        try:
            demuxer.feed(data[start:stop], START_NS)
        except CextError as raised:
            error = repr(raised)
            break
    video.flush(True)
    return (
        demuxer.take_text(),
        streams.units_of(video.take_fragments()),
        demuxer.frames,
        demuxer.unassigned_bytes,
        video.counters(),
        error,
    )


def stream() -> bytes:
    packets = streams.packetize(H264, [UNIT, [b"\x41\x9a" + bytes([7]) * 90]] * 2, mtu=120)
    frames = [streams.interleave(0, packet) for packet in packets]
    return b"".join(
        [
            REPLY,
            *frames[:3],
            b"\r\n",
            streams.interleave(9, b"abc"),
            BARE,
            *frames[3:],
            REPLY,
            b"$\0",
        ]
    )


def test_whole_and_byte_by_byte_are_equal() -> None:
    data = stream()
    whole = outcome(data, [])
    assert whole[0] == [REPLY, BARE, REPLY]
    assert len(whole[1]) == 4
    assert outcome(data, list(range(1, len(data)))) == whole


def test_every_split_in_two_is_equal() -> None:
    data = stream()
    whole = outcome(data, [])
    for split in range(1, len(data)):
        assert outcome(data, [split]) == whole, split


PART = st.one_of(
    st.sampled_from([REPLY, BARE, b"\r\n", b"$", b"$\0\0\0", b"\n\n", b"RTSP/1.0 200 OK\r\n"]),
    st.builds(streams.interleave, st.sampled_from([0, 1, 7]), st.binary(max_size=40)),
    st.binary(max_size=6),
    st.just(streams.interleave(0, build_packet(b"\x65\x88abc", sequence=1, timestamp=5))),
    st.builds(
        lambda n, body: b"X: y\nContent-Length: %d\n\n" % n + body,
        st.integers(0, 12),
        st.binary(max_size=12),
    ),
)


@settings(max_examples=300)
@given(st.lists(PART, max_size=12).map(b"".join), st.data())
def test_any_bytes_split_anyhow_are_as_in_the_twin(data: bytes, draw: st.DataObject) -> None:
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=6).map(sorted))
    whole = outcome(data, [])
    assert outcome(data, cuts) == whole
    assert outcome(data, list(range(1, len(data)))) == whole
    expected, broken_at = oracle.demultiplex(data)
    assert whole[0] == [item for item in expected if isinstance(item, bytes)]
    assert whole[2] == sum(isinstance(item, tuple) for item in expected)
    assert whole[3] == sum(
        len(item[1]) for item in expected if isinstance(item, tuple) and item[0] > 1
    )
    assert (whole[5] is None) == (broken_at is None)


def test_get_buffer_and_consume_are_feed() -> None:
    data = stream() * 3
    fed, fed_video = connection()
    fed.feed(data, START_NS)
    read, read_video = connection()
    for at in range(0, len(data), 977):
        buffer = read.get_buffer(65536)
        part = data[at : at + 977]
        buffer[: len(part)] = part
        read.consume(len(part), START_NS)
    assert read.take_text() == fed.take_text()
    assert read_video.counters() == fed_video.counters()
    for video in (fed_video, read_video):
        video.flush(True)
    assert streams.units_of(read_video.take_fragments()) == streams.units_of(
        fed_video.take_fragments()
    )


def test_the_buffer_is_one_object_for_all_connections() -> None:
    first, second = Demuxer(AREA), Demuxer(AREA)
    assert first.get_buffer() is first.get_buffer() is second.get_buffer()
    assert len(first.get_buffer()) == limits.RECEIVE_REGION_BYTES
    assert not first.get_buffer().readonly


def test_connections_that_share_a_region_do_not_mix() -> None:
    data = stream()
    alone = outcome(data, [])
    pairs = [connection() for _ in range(3)]
    for at in range(0, len(data), 61):
        for demuxer, _video in pairs:
            demuxer.feed(data[at : at + 61], START_NS)
    for demuxer, video in pairs:
        video.flush(True)
        assert demuxer.take_text() == alone[0]
        assert streams.units_of(video.take_fragments()) == alone[1]


def test_a_real_connection(media_dir: Path) -> None:
    """bunny.rtsp: AAC on channel 0, H.264 on channel 2; the numbers are those of the media page."""
    data = (media_dir / "rtsp/bunny.rtsp").read_bytes()
    demuxer = Demuxer(AREA)
    video = streams.track(H264, POOL, payload_type=97)
    demuxer.bind(2, video, 3)
    events = demuxer.feed(data, START_NS)
    events |= video.flush(True)
    assert events == EVENT_FRAGMENT | EVENT_CONFIG
    assert (demuxer.frames, demuxer.unassigned_packets) == (371, 102)
    units = streams.units_of(video.take_fragments())
    assert len(units) == 245
    assert (units[0][0], units[-1][0]) == (0, 915030)
    kinds = [nal[0] & 31 for _rtp, nals, _lost in units for nal in nals]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {1: 239, 5: 6, 7: 6, 8: 6, 6: 1}
    counters = video.counters()
    assert (counters.packets, counters.lost_packets, counters.key_frames) == (269, 0, 6)
    assert not any(lost for _rtp, _nals, lost in units)


def test_real_answers_of_cameras_are_whole_messages(media_dir: Path) -> None:
    for path in sorted((media_dir / "rtsp").glob("*.txt")):
        data = path.read_bytes()
        if path.name == "reolink_teardown.txt" and not data.endswith(b"\r\n\r\n"):
            continue
        texts = outcome(data + streams.interleave(0, b""), [])[0]
        expected, broken_at = oracle.demultiplex(data + streams.interleave(0, b""))
        assert broken_at is None, path.name
        assert texts == [item for item in expected if isinstance(item, bytes)], path.name
        assert texts, path.name


@pytest.mark.parametrize(
    ("data", "rule", "offset"),
    [
        (b"\x00", "neither", 0),
        (BARE + b"\xff", "neither", len(BARE)),
        (b"1" + BARE, "neither", 0),
        (b"$\0\0\0#", "neither", 4),
        (b"RTSP/1.0 200 OK\r\nA: \x00\r\n\r\n", "control", 20),
        (b"X\r\nContent-Length: x\r\n\r\n", "not a number", 0),
        (b"X\r\nContent-Length: -1\r\n\r\n", "not a number", 0),
        (b"X\r\nContent-Length: 1 2\r\n\r\n", "not a number", 0),
        (b"X\r\nContent-Length:\r\n\r\n", "not a number", 0),
        (b"X\r\ncontent-length: 1\r\nCONTENT-LENGTH: 2\r\n\r\n", "twice", 0),
    ],
)
def test_garbage_is_an_error_with_its_place(data: bytes, rule: str, offset: int) -> None:
    for size in (len(data), 1):
        demuxer = Demuxer(AREA)
        with pytest.raises(FrameError, match=rule) as caught:
            for at in range(0, len(data), size):
                demuxer.feed(data[at : at + size], START_NS)
        assert caught.value.offset == offset
        with pytest.raises(FrameError, match=rule):
            demuxer.feed(BARE, START_NS)


def test_a_head_without_end_is_refused_at_the_limit() -> None:
    demuxer = Demuxer(AREA)
    demuxer.feed(b"A" * (limits.RTSP_MESSAGE_BYTES_MAX - 1), START_NS)
    with pytest.raises(LimitExceeded) as caught:
        demuxer.feed(b"A", START_NS)
    assert caught.value.limit == "RTSP_MESSAGE_BYTES_MAX"
    assert demuxer.memory_bytes <= limits.RTSP_MESSAGE_BYTES_MAX


@pytest.mark.parametrize("length", [65536, 2**32, 10**40])
def test_a_body_over_the_limit_is_refused_before_it_comes(length: int) -> None:
    demuxer = Demuxer(AREA)
    with pytest.raises(LimitExceeded) as caught:
        demuxer.feed(b"X\r\nContent-Length: %d\r\n\r\n" % length, START_NS)
    assert caught.value.maximum == 65536 < caught.value.value


def test_messages_nobody_takes_are_refused_at_the_limit() -> None:
    demuxer = Demuxer(AREA)
    message = b"X\r\nContent-Length: 65000\r\n\r\n" + bytes(65000)
    with pytest.raises(LimitExceeded) as caught:
        for _ in range(20):
            demuxer.feed(message, START_NS)
    assert caught.value.limit == "RTSP_PENDING_BYTES_MAX"
    assert demuxer.memory_bytes < limits.RTSP_PENDING_BYTES_MAX + 2 * limits.RTSP_MESSAGE_BYTES_MAX


def test_the_largest_frame_crosses_reads_and_memory_goes_back() -> None:
    demuxer, video = connection()
    packet = build_packet(b"\x65" + bytes([0xA5]) * 65522, sequence=1, timestamp=1, marker=True)
    assert len(packet) == 65535
    frame = streams.interleave(0, packet)
    for at in range(0, len(frame), 1460):
        demuxer.feed(frame[at : at + 1460], START_NS)
    video.flush(True)
    ((_rtp, nals, lost),) = streams.units_of(video.take_fragments())
    assert (nals, lost) == ((packet[12:],), False)
    assert (demuxer.carried_bytes, demuxer.memory_bytes <= 2048) == (0, True)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_raise_only_typed_errors_and_memory_stays_bounded(data: bytes) -> None:
    demuxer, video = connection()
    with contextlib.suppress(FrameError, LimitExceeded):
        demuxer.feed(data, START_NS)
    video.flush(True)
    assert demuxer.memory_bytes <= 2048 + len(data)


def test_seeds_that_broke_another_parser(media_dir: Path) -> None:
    seeds = sorted((media_dir / "fuzz-seeds").glob("gortsplib_base_Fuzz*/*.bin"))
    assert len(seeds) >= 7
    for seed in seeds:
        data = seed.read_bytes()
        whole = outcome(data, [])
        assert outcome(data, list(range(1, len(data)))) == whole, seed.name
        assert (whole[5] is None) == (oracle.demultiplex(data)[1] is None), seed.name


def test_rtcp_reaches_the_track_on_its_own_and_on_a_shared_channel(media_dir: Path) -> None:
    report = (media_dir / "webrtc/aiortc_rtcp_sr.bin").read_bytes()
    ssrc = int.from_bytes(report[4:8], "big")
    packet = build_packet(b"\x65\x88", sequence=1, timestamp=0, ssrc=ssrc)
    for rtcp_channel in (5, 4):
        demuxer = Demuxer(AREA)
        video = streams.track(H264, POOL)
        demuxer.bind(4, video, rtcp_channel)
        data = streams.interleave(4, packet) + streams.interleave(rtcp_channel, report)
        assert demuxer.feed(data, START_NS) == EVENT_SENDER_REPORT
        assert video.sender_report() is not None


def test_text_is_an_event() -> None:
    demuxer = Demuxer(AREA)
    assert demuxer.feed(BARE[:-1], START_NS) == 0
    assert demuxer.feed(BARE[-1:], START_NS) == EVENT_TEXT
    assert demuxer.take_text() == [BARE]
    assert demuxer.take_text() == []


def test_bind_refuses_what_cannot_be_meant() -> None:
    demuxer, video = connection()
    with pytest.raises(ValueError, match="taken"):
        demuxer.bind(1, video, 2)
    with pytest.raises(ValueError, match="0 to 255"):
        demuxer.bind(255, video, 256)
    for number in range(1, limits.BINDINGS_MAX):
        demuxer.bind(2 * number, video, 2 * number + 1)
    with pytest.raises(LimitExceeded):
        demuxer.bind(200, video, 201)


def test_consume_refuses_more_than_the_region() -> None:
    demuxer = Demuxer(AREA)
    with pytest.raises(ValueError, match="cannot have been read"):
        demuxer.consume(limits.RECEIVE_REGION_BYTES + 1, START_NS)
    with pytest.raises(ValueError, match="region_bytes"):
        ReceiveArea(100)
