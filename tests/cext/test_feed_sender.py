"""Feeds keep their pace, their order and their count, whatever the receiver does."""

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from cext.feed_sender import Feed, Pacer, Schedule
from cext.packetize import H264, PacketTemplate

MS = 1_000_000
INTERVAL = 40 * MS
TICKS = 3600
CLOCK = 90_000


def make_schedule(sizes: tuple[int, ...] = (3000, 200, 200)) -> Schedule:
    units = [[b"\x41" + bytes((n + 1,)) * (size - 1)] for n, size in enumerate(sizes)]
    count = len(sizes)
    shown = [TICKS * ((n + 1) % count) for n in range(count)]  # presentation is not decoding
    template = PacketTemplate(H264, 96, units, packet_bytes_max=1000)
    return Schedule(template, [TICKS * n for n in range(count)], shown, loop_ticks=TICKS * count)


def make_feed(schedule: Schedule, sock: socket.socket, **options: int) -> Feed:
    fields = {"channel": 2, "ssrc": 77, "sequence": 65530, "timestamp": 0xFFFFFF00, "start_ns": 0}
    return Feed(schedule, sock.fileno(), **(fields | options))


def drain(sock: socket.socket) -> bytes:
    data = bytearray()
    sock.setblocking(False)
    try:
        while chunk := sock.recv(1 << 20):
            data += chunk
    except BlockingIOError:
        pass
    return bytes(data)


def packets_of(data: bytes) -> list[bytes]:
    packets = []
    at = 0
    while at < len(data):
        mark, channel, length = struct.unpack_from("!cBH", data, at)
        assert (mark, channel) == (b"$", 2)
        packets.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    assert at == len(data)
    return packets


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_access_units_leave_when_they_are_due(pair: tuple[socket.socket, socket.socket]) -> None:
    schedule = make_schedule()
    feed = make_feed(schedule, pair[0], start_ns=5 * MS)
    pacer = Pacer()
    pacer.add(feed)
    for now, sent in ((0, 0), (5 * MS - 1, 0), (5 * MS, 1), (45 * MS - 1, 1), (45 * MS, 2)):
        assert pacer.run(now) == []
        assert feed.frames_sent == sent
    assert feed.lag_max_ns == 0
    pacer.run(45 * MS + INTERVAL + 7)
    assert (feed.frames_sent, feed.lag_max_ns) == (3, 7)


def test_rounds_join_without_a_seam(pair: tuple[socket.socket, socket.socket]) -> None:
    schedule = make_schedule()
    feed = make_feed(schedule, pair[0], first_position=1)
    assert feed.next_timestamp == 0xFFFFFF00, "the given timestamp is that of the first one sent"
    pacer = Pacer()
    pacer.add(feed)
    for n in range(7):
        pacer.run(n * INTERVAL)
    packets = packets_of(drain(pair[1]))
    sequences = [struct.unpack_from("!H", p, 2)[0] for p in packets]
    assert sequences == [(65530 + n) & 0xFFFF for n in range(len(packets))]
    stamps = list(dict.fromkeys(struct.unpack_from("!I", p, 4)[0] for p in packets))
    ranks = [2, 0, 4, 5, 3, 7, 8]  # presentation places of positions 1 to 7
    assert stamps == [(0xFFFFFF00 + TICKS * (rank - 2)) & 0xFFFFFFFF for rank in ranks]
    assert feed.packets_sent == len(packets)
    assert feed.octets_sent == sum(len(p) - 12 for p in packets)


def test_a_full_socket_makes_a_feed_late_not_lossy(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    schedule = make_schedule((60_000, 60_000))
    feed = make_feed(schedule, pair[0])
    pacer = Pacer()
    pacer.add(feed)
    assert pacer.run(0) == [feed], "its owner is told once that the socket is full"
    assert pacer.run(1) == []
    assert feed.frames_sent == 0 and feed.pending_bytes > 0
    for late in range(1, 4):
        pacer.run(late * INTERVAL)
    assert feed.stall_count == 1, "one access unit is waiting, however often we look"
    received = b""
    while not feed.flush():
        received += drain(pair[1])
    assert feed.frames_sent == 1
    now = 3 * INTERVAL
    while feed.frames_sent < 4:
        pacer.run(now)
        feed.flush()
        received += drain(pair[1])
    received += drain(pair[1])
    template = schedule.template
    expected = b""
    sequence = 65530
    stamps = (0xFFFFFF00, 0xFFFFFF00 - TICKS, 0xFFFFFF00 + 2 * TICKS, 0xFFFFFF00 + TICKS)
    for n, stamp in enumerate(stamps):
        out = bytearray(template.frame_bytes(n % 2))
        template.write(
            n % 2, out, 0, channel=2, sequence=sequence & 0xFFFF,
            timestamp=stamp & 0xFFFFFFFF, ssrc=77,
        )  # fmt: skip
        sequence += template.frame_packets(n % 2)
        expected += out
    assert received == expected
    assert feed.bytes_sent == len(expected)
    assert feed.lag_max_ns == 2 * INTERVAL


def test_control_messages_wait_for_the_access_unit_before_them(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    schedule = make_schedule((60_000,))
    feed = make_feed(schedule, pair[0])
    pacer = Pacer()
    pacer.add(feed)
    pacer.run(0)
    feed.write(b"RTSP/1.0 200 OK\r\n\r\n")
    feed.write(b"")
    received = b""
    while not feed.flush():
        received += drain(pair[1])
    received += drain(pair[1])
    assert received.endswith(b"RTSP/1.0 200 OK\r\n\r\n")
    assert len(received) == schedule.template.total_bytes + 19
    assert feed.frames_sent == 1


def test_a_feed_catches_up_by_eight_access_units_a_tick(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    feed = make_feed(make_schedule(), pair[0])
    pacer = Pacer()
    pacer.add(feed)
    for sent in (8, 16, 20, 20):
        pacer.run(19 * INTERVAL)
        assert feed.frames_sent == sent


def test_a_feed_of_one_round_ends_and_says_so_once(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    feed = make_feed(make_schedule(), pair[0], rounds=1)
    pacer = Pacer()
    pacer.add(feed)
    assert pacer.run(INTERVAL) == [] and not feed.finished
    assert pacer.run(9 * INTERVAL) == [feed] and feed.finished
    assert pacer.run(10 * INTERVAL) == []
    assert feed.frames_sent == 3


def test_hold_stops_between_access_units(pair: tuple[socket.socket, socket.socket]) -> None:
    feed = make_feed(make_schedule(), pair[0])
    pacer = Pacer()
    pacer.add(feed)
    pacer.run(0)
    feed.hold()
    pacer.run(9 * INTERVAL)
    assert feed.frames_sent == 1


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_dropped_packets_use_up_their_sequence_numbers(
    pair: tuple[socket.socket, socket.socket], every: int
) -> None:
    feed = make_feed(make_schedule(), pair[0], drop_every=every, rounds=2)
    pacer = Pacer()
    pacer.add(feed)
    for n in range(6):
        pacer.run(n * INTERVAL)
    packets = packets_of(drain(pair[1]))
    numbers = [(struct.unpack_from("!H", p, 2)[0] - 65530) & 0xFFFF for p in packets]
    total = 2 * feed.schedule.template.packet_count
    assert numbers == [n for n in range(total) if (n + 1) % every]
    assert (feed.packets_sent, feed.packets_dropped) == (len(packets), total // every)


def test_one_broken_socket_leaves_the_others_alone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        broken = make_feed(make_schedule(), ours)
        well = make_feed(make_schedule(), pair[0])
        pacer = Pacer()
        pacer.add(broken)
        pacer.add(well)
        assert pacer.run(0) == [broken]
        assert broken.error == errno.EPIPE
        assert pacer.run(INTERVAL) == []
        assert well.frames_sent == 2
        for call in (broken.flush, lambda: broken.write(b"x")):
            with pytest.raises(BrokenPipeError):
                call()
        pacer.remove(broken)
        pacer.run(2 * INTERVAL)
        assert (len(pacer), well.frames_sent) == (1, 3)
        with pytest.raises(ValueError):
            pacer.remove(broken)
        with pytest.raises(ValueError, match="already"):
            pacer.add(well)


def test_sender_reports_extrapolate_the_media_clock(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    feed = make_feed(make_schedule(), pair[0], start_ns=1_000 * MS)
    base = feed.next_timestamp - TICKS  # position 0 is shown second of three
    assert feed.timestamp_at(1_000 * MS) == base & 0xFFFFFFFF
    assert feed.timestamp_at(2_000 * MS) == (base + CLOCK) & 0xFFFFFFFF
    assert feed.timestamp_at(0) == (base - CLOCK) & 0xFFFFFFFF


def test_pace_holds_over_years(pair: tuple[socket.socket, socket.socket]) -> None:
    """No drift and no overflow: access unit 2**32 is due to the nanosecond."""
    position = 1 << 32
    feed = make_feed(make_schedule(), pair[0], first_position=position, start_ns=10 * MS)
    pacer = Pacer()
    pacer.add(feed)
    pacer.run(10 * MS - 1)
    assert feed.frames_sent == 0
    pacer.run(10 * MS)
    assert feed.frames_sent == 1
    pacer.run(10 * MS + INTERVAL - 1)
    assert feed.frames_sent == 1
    pacer.run(10 * MS + INTERVAL)
    assert feed.frames_sent == 2


@pytest.mark.parametrize(
    ("decode", "shown", "loop", "message"),
    [
        ([0, 1], [0, 1, 2], 3, "2 decode and 3 presentation times"),
        ([1, 2, 3], [0, 1, 2], 9, "begin at 0"),
        ([0, 2, 1], [0, 1, 2], 9, "never decrease"),
        ([0, 1, 2], [0, 1, 2], 2, "ends before its last"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused(
    decode: list[int], shown: list[int], loop: int, message: str
) -> None:
    template = make_schedule().template
    with pytest.raises(ValueError, match=message):
        Schedule(template, decode, shown, loop_ticks=loop)
