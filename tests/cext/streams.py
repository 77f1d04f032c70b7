"""Streams for the native ingest tests: Annex B and pcap files in, RTP packets and NAL units out."""

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from cext.arena import ArenaPool, Fragment
from cext.track import VideoTrack
from tests.oracle.depacketize import H264, H265, header_bytes, is_vcl, nal_type
from tests.oracle.rtp import build_packet

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS
FRAME_KEY, FRAME_LOSS, FRAME_PARAMETER_SETS, FRAME_RECOVERY_POINT = 1, 2, 4, 8
AccessUnit = tuple[int, tuple[bytes, ...], bool]  # extended RTP timestamp, NAL units, lost


def codec_of(path: Path) -> int:
    return H265 if path.suffix in (".265", ".h265") else H264


def split_annex_b(data: bytes) -> list[bytes]:
    """The NAL units of a byte stream (Annex B), without start codes and zero bytes between."""
    starts = [match.end() for match in re.finditer(rb"\x00\x00\x01", data)]
    stops = [*(start - 3 for start in starts[1:]), len(data)]
    nals = [data[a:b].rstrip(b"\0") for a, b in zip(starts, stops, strict=True)]
    return [nal for nal in nals if nal]


def starts_picture(codec: int, nal: bytes) -> bool:
    """first_mb_in_slice is 0 / first_slice_segment_in_pic_flag is 1."""
    size = header_bytes(codec)
    return is_vcl(codec, nal_type(codec, nal)) and len(nal) > size and nal[size] >= 0x80


def access_units(codec: int, nals: Iterable[bytes]) -> list[list[bytes]]:
    """NAL units grouped by picture; what precedes a picture's first slice goes with it."""
    suffixes = (10, 11, 12) if codec == H264 else (36, 37, 38, 40)
    units: list[list[bytes]] = []
    current: list[bytes] = []
    pictured = False
    for nal in nals:
        kind = nal_type(codec, nal)
        if pictured and (
            starts_picture(codec, nal) or (not is_vcl(codec, kind) and kind not in suffixes)
        ):
            units.append(current)
            current, pictured = [], False
        current.append(nal)
        pictured |= is_vcl(codec, kind)
    return [*units, current] if current else units


def fragment_nal(codec: int, nal: bytes, mtu: int) -> list[bytes]:
    """FU-A (RFC 6184, 5.8) or FU (RFC 7798, 4.4.3) payloads of one NAL unit."""
    size = header_bytes(codec)
    kind = nal_type(codec, nal)
    if codec == H264:
        header = bytes([nal[0] & 0xE0 | 28])
    else:
        header = bytes([nal[0] & 0x81 | 49 << 1, nal[1]])
    room = mtu - size - 1
    parts = [nal[at : at + room] for at in range(size, len(nal), room)] or [b""]
    if len(parts) == 1:
        raise ValueError(f"a NAL unit of {len(nal)} bytes needs no fragmentation")
    return [
        header + bytes([(i == 0) << 7 | (i == len(parts) - 1) << 6 | kind]) + part
        for i, part in enumerate(parts)
    ]


def aggregate(codec: int, nals: list[bytes]) -> bytes:
    """A STAP-A (RFC 6184, 5.7.1) or AP (RFC 7798, 4.4.2) payload."""
    header = bytes([24]) if codec == H264 else bytes([48 << 1, 1])
    return header + b"".join(len(nal).to_bytes(2, "big") + nal for nal in nals)


def payloads(codec: int, nals: list[bytes], mtu: int, *, aggregated: bool = True) -> list[bytes]:
    """One access unit as RTP payloads; runs of small NAL units are aggregated."""
    out: list[bytes] = []
    run: list[bytes] = []

    def close_run() -> None:
        if run:
            out.append(run[0] if len(run) == 1 else aggregate(codec, run))
            run.clear()

    for nal in nals:
        if len(nal) > mtu:
            close_run()
            out += fragment_nal(codec, nal, mtu)
            continue
        if not aggregated or sum(len(n) + 2 for n in run) + len(nal) + 4 > mtu:
            close_run()
        run.append(nal)
    close_run()
    return out


def packetize(
    codec: int,
    units: Iterable[list[bytes]],
    *,
    mtu: int = 1400,
    sequence: int = 65000,
    timestamp: int = 0xFFFF0000,
    ticks: int = 3600,
    ssrc: int = 0x1234,
    aggregated: bool = True,
) -> list[bytes]:
    """RTP packets of payload type 96; sequence and timestamp are about to wrap."""
    packets: list[bytes] = []
    for unit in units:
        parts = payloads(codec, unit, mtu, aggregated=aggregated)
        for number, part in enumerate(parts):
            packets.append(
                build_packet(
                    part,
                    sequence=sequence,
                    timestamp=timestamp,
                    ssrc=ssrc,
                    marker=number == len(parts) - 1,
                )
            )
            sequence += 1
        timestamp += ticks
    return packets


def interleave(channel: int, packet: bytes) -> bytes:
    return b"$" + bytes([channel]) + len(packet).to_bytes(2, "big") + packet


def track(
    codec: int,
    pool: ArenaPool | None = None,
    *,
    payload_type: int = 96,
    ssrc: int | None = None,
    age_ns: int = 3600 * SECOND_NS,
    parameter_sets: tuple[bytes, ...] = (),
    reorder_packets: int = 0,
    access_unit_bytes_max: int = 1 << 24,
) -> VideoTrack:
    return VideoTrack(
        codec,
        payload_type,
        90000,
        pool or ArenaPool(256 << 20),
        fragment_age_max_ns=age_ns,
        ssrc=ssrc,
        parameter_sets=parameter_sets,
        reorder_packets=reorder_packets,
        access_unit_bytes_max=access_unit_bytes_max,
    )


def run(video: VideoTrack, packets: Iterable[bytes], recv_ns: int = START_NS) -> list[Fragment]:
    """Everything through the track, to the end of the stream."""
    for packet in packets:
        video.receive(packet, recv_ns)
    video.flush(True)
    return video.take_fragments()


def split_sample(sample: bytes) -> tuple[bytes, ...]:
    nals, at = [], 0
    while at < len(sample):
        size = int.from_bytes(sample[at : at + 4], "big")
        assert size <= len(sample) - at - 4, "a NAL length passes the sample's end"
        nals.append(sample[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(nals)


def units_of(fragments: Iterable[Fragment]) -> list[AccessUnit]:
    """The access units of fragments, by the frame tables; checks that the two agree."""
    out: list[AccessUnit] = []
    for fragment in fragments:
        payload = bytes(fragment.payload())
        at = 0
        for size, pts, _recv_us, flags, nal_count in fragment.frames():
            nals = split_sample(payload[at : at + size])
            assert len(nals) == nal_count
            out.append((fragment.rtp_first + pts, nals, bool(flags & FRAME_LOSS)))
            at += size
        assert at == len(payload) == fragment.payload_bytes
    return out


def nals_of(fragments: Iterable[Fragment]) -> list[bytes]:
    return [nal for _rtp, nals, _lost in units_of(fragments) for nal in nals]


def read_pcap(data: bytes) -> Iterator[bytes]:
    """UDP payloads of a classic pcap file of Ethernet or raw IPv4 packets."""
    magic, _major, _minor, _zone, _sig, _snap, link = struct.unpack_from("<IHHiIII", data)
    assert magic == 0xA1B2C3D4
    at = 24
    while at < len(data):
        _sec, _usec, captured, _original = struct.unpack_from("<IIII", data, at)
        packet = data[at + 16 : at + 16 + captured]
        at += 16 + captured
        ip = packet[{1: 14, 0: 4, 101: 0, 113: 16}[link] :]
        assert ip[0] >> 4 == 4 and ip[9] == 17, "only UDP over IPv4"
        udp = ip[(ip[0] & 15) * 4 :]
        yield udp[8 : int.from_bytes(udp[4:6], "big")]
