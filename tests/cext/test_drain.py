"""One native call reads many sockets: the same as reading each by itself, and no other's bytes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.arena import ArenaPool
from cext.errors import FrameError
from cext.interleaved import Demuxer, ReceiveArea, drain
from cext.track import EVENT_BROKEN, EVENT_FRAGMENT, EVENT_TEXT, VideoTrack
from tests.cext import streams
from tests.cext.streams import SECOND_NS, START_NS
from tests.oracle.depacketize import H264

AREA = ReceiveArea(4096)
POOL = ArenaPool(256 << 20)
REPLY = b"RTSP/1.0 200 OK\r\nCSeq: 4\r\nContent-Length: 5\r\n\r\nv=0\r\n"
UNITS = [[b"\x67\x42\x00\x1e\xab", b"\x68\xce", b"\x65" + bytes(3000)], [b"\x41" + bytes(9000)]]


class Feed:
    """A demuxer with a track, attached to one end of a pair of sockets."""

    def __init__(self) -> None:
        self.camera, self.ours = socket.socketpair()
        self.demuxer = Demuxer(AREA)
        self.track: VideoTrack = streams.track(H264, POOL)
        self.demuxer.bind(0, self.track, 1)
        self.demuxer.attach(self.ours.fileno())

    def units(self) -> list[streams.AccessUnit]:
        self.track.flush(True)
        return streams.units_of(self.track.take_fragments())

    def close(self) -> None:
        self.demuxer.detach()
        self.camera.close()
        self.ours.close()


@pytest.fixture
def feeds() -> Iterator[list[Feed]]:
    made = [Feed() for _ in range(3)]
    yield made
    for feed in made:
        feed.close()


def media() -> bytes:
    packets = streams.packetize(H264, UNITS, mtu=1400)
    return b"".join(streams.interleave(0, packet) for packet in packets)


def nals(feed: Feed) -> list[object]:
    return [unit[1] for unit in feed.units()]


def expected() -> list[object]:
    track = streams.track(H264, POOL)
    for packet in streams.packetize(H264, UNITS, mtu=1400):
        track.receive(packet, START_NS)
    track.flush(True)
    return [unit[1] for unit in streams.units_of(track.take_fragments())]


def test_all_are_read_and_only_those_with_news_are_told(feeds: list[Feed]) -> None:
    feeds[0].camera.sendall(media())
    feeds[2].camera.sendall(REPLY + media())
    demuxers = [feed.demuxer for feed in feeds]
    told = dict(drain(demuxers, START_NS, 64))
    assert 1 not in told and told[2] & EVENT_TEXT
    assert feeds[2].demuxer.take_text() == [REPLY]
    drain(demuxers, START_NS, 64)  # a message ends the reads of one tick
    assert nals(feeds[0]) == nals(feeds[2]) == expected()
    assert not feeds[1].units()
    assert drain(demuxers, START_NS) == []


@settings(max_examples=60)
@given(st.lists(st.integers(1, 20_000), max_size=8), st.integers(1, 4))
def test_equal_to_feeding_whatever_the_reads(cuts: list[int], reads: int) -> None:
    feed, data = Feed(), media() + REPLY + media()
    try:
        edges = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
        start, texts = 0, []
        for edge in edges:
            feed.camera.sendall(data[start:edge])
            start = edge
            for _ in range(16):
                drain([feed.demuxer], START_NS, reads)
            texts += feed.demuxer.take_text()
        assert texts == [REPLY]
        assert feed.demuxer.bytes_received == len(data)
        other = Demuxer(AREA)
        track = streams.track(H264, POOL)
        other.bind(0, track, 1)
        other.feed(data, START_NS)
        track.flush(True)
        assert nals(feed) == [unit[1] for unit in streams.units_of(track.take_fragments())]
    finally:
        feed.close()


def test_the_number_of_reads_is_bounded(feeds: list[Feed]) -> None:
    feeds[0].camera.sendall(media())
    drain([feeds[0].demuxer], START_NS, 2)
    assert feeds[0].demuxer.bytes_received == 2 * AREA.region_bytes


def test_garbage_breaks_one_connection_and_disturbs_no_other(feeds: list[Feed]) -> None:
    feeds[0].camera.sendall(media() + b"\x00\x01")
    feeds[1].camera.sendall(media())
    demuxers = [feed.demuxer for feed in feeds]
    told = dict(drain(demuxers, START_NS, 64))
    assert told[0] & EVENT_BROKEN
    with pytest.raises(FrameError) as caught:
        demuxers[0].consume(0, START_NS)
    assert caught.value.offset == len(media())
    assert nals(feeds[1]) == expected()
    assert nals(feeds[0]) == expected(), "what came before the garbage is kept"
    feeds[0].camera.sendall(media())
    assert 0 not in dict(drain(demuxers, START_NS)), "a broken connection is not read again"


def test_time_passes_for_those_that_are_not_attached(feeds: list[Feed]) -> None:
    feeds[0].camera.sendall(media())
    demuxers = [feeds[0].demuxer]
    drain(demuxers, START_NS, 64)
    feeds[0].demuxer.detach()
    assert not feeds[0].demuxer.attached
    assert drain(demuxers, START_NS + SECOND_NS // 100) == []
    told = dict(drain(demuxers, START_NS + 3601 * SECOND_NS))
    assert told == {0: EVENT_FRAGMENT}


def test_receive_times_go_on_while_others_are_read(feeds: list[Feed]) -> None:
    for feed in feeds:
        feed.camera.sendall(media())
    before_ns = time.time_ns()
    drain([feed.demuxer for feed in feeds], before_ns, 64)
    after_ns = time.time_ns()
    times = [feed.track.counters().last_access_unit_recv_ns for feed in feeds]
    assert times == sorted(times)
    assert before_ns <= times[0] and times[-1] <= after_ns + 1_000_000


def test_a_number_closed_and_given_to_another_socket_is_not_read(feeds: list[Feed]) -> None:
    """Another camera's frames in the evidence are the worst of all mistakes."""
    number = feeds[0].ours.fileno()
    feeds[0].ours.close()
    pairs = []
    try:
        while not any(number in (one.fileno(), other.fileno()) for one, other in pairs):
            pairs.append(socket.socketpair())  # the lowest free number is given first
            assert len(pairs) < 64
        one, other = pairs[-1]
        camera = other if one.fileno() == number else one
        camera.sendall(media())
        drain([feeds[0].demuxer], START_NS, 64)
        assert feeds[0].demuxer.bytes_received == 0
    finally:
        for one, other in pairs:
            one.close()
            other.close()


def test_the_descriptor_of_our_own_is_closed() -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    feed = Feed()
    assert len(os.listdir("/proc/self/fd")) == open_before + 3
    feed.demuxer.attach(feed.ours.fileno())
    assert len(os.listdir("/proc/self/fd")) == open_before + 3
    feed.close()
    assert len(os.listdir("/proc/self/fd")) == open_before
    with pytest.raises(OSError, match="duplicated"):
        feed.demuxer.attach(-1)


def test_connections_of_two_areas_are_refused(feeds: list[Feed]) -> None:
    with pytest.raises(ValueError, match="two ReceiveAreas"):
        drain([feeds[0].demuxer, Demuxer(ReceiveArea())], START_NS)
    assert drain([], START_NS) == []
