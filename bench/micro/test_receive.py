"""packetize, interleaved and track: one second of one camera from the socket to a fragment."""

from __future__ import annotations

import pytest

from bench.micro.conftest import FRAMES, START_NS, Measure
from cext.arena import ArenaPool
from cext.interleaved import Demuxer, ReceiveArea
from cext.packetize import H264, PacketTemplate
from cext.track import EVENT_FRAGMENT, VideoTrack

READ_BYTES = 131_072
FIELDS = {"sequence": 0, "timestamp": 90_000, "ssrc": 5}


@pytest.fixture(scope="module")
def template(access_units: list[bytes]) -> PacketTemplate:
    return PacketTemplate(H264, 96, [[nal] for nal in access_units])


def track(pool: ArenaPool) -> VideoTrack:
    return VideoTrack(1, 96, 90_000, pool, fragment_age_max_ns=60_000_000_000)


@pytest.mark.benchmark(group="send")
def test_packet_template_write(measure: Measure, template: PacketTemplate) -> None:
    out = bytearray(template.frame_bytes_max)

    def work() -> int:
        return sum(template.write(frame, out, 0, channel=0, **FIELDS) for frame in range(FRAMES))

    assert measure(template.total_bytes, work) == template.total_bytes


@pytest.fixture(scope="module")
def stream(template: PacketTemplate) -> bytes:
    """All frames behind interleaved headers, as one TCP stream."""
    parts, sequence = [], 0
    for frame in range(FRAMES):
        out = bytearray(template.frame_bytes(frame))
        template.write(
            frame, out, 0, channel=0, sequence=sequence, timestamp=90_000 + 3600 * frame, ssrc=5
        )
        sequence += template.frame_packets(frame)
        parts.append(bytes(out))
    return b"".join(parts)


def check(done: VideoTrack, samples: list[bytes]) -> None:
    events = done.flush(end_of_stream=True)
    assert events & EVENT_FRAGMENT
    fragments = done.take_fragments()
    assert b"".join(bytes(f.payload()) for f in fragments) == b"".join(samples)
    assert done.counters().lost_packets == 0


@pytest.mark.benchmark(group="receive")
def test_demuxer_and_track(
    measure: Measure, pool: ArenaPool, stream: bytes, samples: list[bytes]
) -> None:
    """Reads of 128 KiB through the shared region, as the event loop does them."""
    area = ReceiveArea()
    view = memoryview(stream)
    reads = [view[at : at + READ_BYTES] for at in range(0, len(stream), READ_BYTES)]

    def setup() -> tuple[Demuxer, VideoTrack]:
        one, demuxer = track(pool), Demuxer(area)
        demuxer.bind(0, one, 1)
        return demuxer, one

    def work(fresh: tuple[Demuxer, VideoTrack]) -> VideoTrack:
        demuxer, one = fresh
        for read in reads:
            demuxer.get_buffer()[: len(read)] = read
            demuxer.consume(len(read), START_NS)
        return one

    check(measure(len(stream), work, setup), samples)


@pytest.mark.benchmark(group="receive")
def test_track_by_packet(
    measure: Measure, pool: ArenaPool, stream: bytes, samples: list[bytes]
) -> None:
    """The UDP shape: one Python call a packet."""
    packets, at = [], 0
    while at < len(stream):
        nbytes = int.from_bytes(stream[at + 2 : at + 4])
        packets.append(stream[at + 4 : at + 4 + nbytes])
        at += 4 + nbytes

    def work(one: VideoTrack) -> VideoTrack:
        for packet in packets:
            one.receive(packet, START_NS)
        return one

    check(measure(len(stream), work, lambda: track(pool)), samples)
