"""Packets carry NAL units whole, in order, within the bound, whatever their sizes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cext.packetize import H264, H265, PacketTemplate
from tests.sim.viewer import reassemble

SPS, PPS, IDR = b"\x67\x42\x00\x1f", b"\x68\xce\x38\x80", b"\x65" + bytes(range(1, 250)) * 40
VPS_265, SPS_265, PPS_265 = b"\x40\x01aa", b"\x42\x01bb", b"\x44\x01cc"


def h264_nals() -> st.SearchStrategy[bytes]:
    header = st.builds(
        lambda ref, kind: bytes((ref << 5 | kind,)), st.integers(0, 3), st.integers(1, 23)
    )
    return st.builds(lambda h, b: h + b, header, st.binary(max_size=400))


def h265_nals() -> st.SearchStrategy[bytes]:
    header = st.builds(
        lambda kind, layer, tid: struct.pack("!H", kind << 9 | layer << 3 | tid),
        st.integers(0, 47),
        st.integers(0, 63),
        st.integers(1, 7),
    )
    return st.builds(lambda h, b: h + b, header, st.binary(max_size=400))


streams = st.one_of(
    st.tuples(st.just(H264), st.lists(st.lists(h264_nals(), min_size=1), min_size=1, max_size=4)),
    st.tuples(st.just(H265), st.lists(st.lists(h265_nals(), min_size=1), min_size=1, max_size=4)),
)


@given(streams, st.integers(64, 300), st.booleans(), st.integers(0, 65535))
def test_every_nal_unit_comes_back(
    stream: tuple[int, list[list[bytes]]], bound: int, aggregate: bool, sequence: int
) -> None:
    codec, units = stream
    template = PacketTemplate(codec, 97, units, packet_bytes_max=bound, aggregate=aggregate)
    assert len(template) == template.frame_count == len(units)
    for number, unit in enumerate(units):
        packets = template.packets(number, sequence=sequence, timestamp=9, ssrc=0xFFFFFFFF)
        assert reassemble(codec, [packet[12:] for packet in packets]) == unit
        assert template.frame_packets(number) == len(packets)
        assert max(map(len, packets)) <= bound
        for n, packet in enumerate(packets):
            marker = 0x80 if n == len(packets) - 1 else 0
            wanted = (0x80, marker | 97, (sequence + n) & 0xFFFF, 9, 0xFFFFFFFF)
            assert struct.unpack("!BBHII", packet[:12]) == wanted


@given(streams, st.integers(0, 255))
def test_the_framed_form_is_the_packets_behind_their_headers(
    stream: tuple[int, list[list[bytes]]], channel: int
) -> None:
    codec, units = stream
    template = PacketTemplate(codec, 96, units, packet_bytes_max=200)
    total = 0
    for number in range(len(units)):
        packets = template.packets(number, sequence=7, timestamp=1 << 31, ssrc=3)
        wanted = b"".join(struct.pack("!cBH", b"$", channel, len(p)) + p for p in packets)
        out = bytearray(b"\xaa" * (len(wanted) + 2))
        written = template.write(
            number, out, 1, channel=channel, sequence=7, timestamp=1 << 31, ssrc=3
        )
        assert written == template.frame_bytes(number) == len(wanted)
        assert bytes(out) == b"\xaa" + wanted + b"\xaa", "nothing beside the packets is touched"
        total += written
    assert template.total_bytes == total


def test_parameter_sets_share_a_packet_and_slices_do_not() -> None:
    template = PacketTemplate(H264, 96, [[SPS, PPS, IDR[:100]]])
    first, second = template.packets(0, sequence=0, timestamp=0, ssrc=0)
    assert first[12] == 0x60 | 24, "STAP-A takes the highest nal_ref_idc of its NAL units"
    assert second[12:] == IDR[:100]
    template = PacketTemplate(H264, 96, [[SPS, PPS, IDR[:100]]], aggregate=False)
    assert template.packet_count == 3


def test_an_aggregation_packet_has_the_lowest_layer_and_temporal_id() -> None:
    low, high = struct.pack("!H", 33 << 9 | 2 << 3 | 1), struct.pack("!H", 34 << 9 | 40 << 3 | 5)
    template = PacketTemplate(H265, 96, [[high + b"x", low + b"y"]])
    (packet,) = template.packets(0, sequence=0, timestamp=0, ssrc=0)
    assert struct.unpack("!H", packet[12:14])[0] == 48 << 9 | 2 << 3 | 1


def test_a_lone_parameter_set_is_a_single_nal_unit_packet() -> None:
    template = PacketTemplate(H265, 96, [[VPS_265, b"\x26\x01slice", PPS_265]])
    payloads = [p[12:] for p in template.packets(0, sequence=0, timestamp=0, ssrc=0)]
    assert payloads == [VPS_265, b"\x26\x01slice", PPS_265]


def test_a_nal_unit_of_exactly_the_bound_is_not_fragmented() -> None:
    for extra, packets in ((0, 1), (1, 2)):
        template = PacketTemplate(H264, 96, [[IDR[: 88 + extra]]], packet_bytes_max=100)
        assert template.packet_count == packets


@pytest.mark.parametrize(
    ("codec", "units", "bound", "message"),
    [
        (3, [[SPS]], 1440, "codec 3"),
        (H264, [], 1440, "at least one access unit"),
        (H264, [[SPS], []], 1440, "access unit 1 has no NAL unit"),
        (H264, [[b""]], 1440, "shorter than its header"),
        (H265, [[b"\x40"]], 1440, "shorter than its header"),
        (H264, [[b"\x1c\x80"]], 1440, "type 28 is reserved"),
        (H264, [[b"\x00\x80"]], 1440, "type 0 is reserved"),
        (H265, [[b"\x60\x01"]], 1440, "type 48 is reserved"),
        (H264, [[SPS]], 63, "packet_bytes_max 63"),
        (H264, [[SPS]], 65536, "packet_bytes_max 65536"),
    ],
)
def test_what_cannot_be_carried_is_refused(
    codec: int, units: list[list[bytes]], bound: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PacketTemplate(codec, 96, units, packet_bytes_max=bound)


def test_writes_stay_inside_the_template_and_the_buffer() -> None:
    template = PacketTemplate(H264, 96, [[IDR]])
    room = template.frame_bytes(0)
    fields = {"channel": 0, "sequence": 0, "timestamp": 0, "ssrc": 0}
    for frame in (-1, 1):
        with pytest.raises(IndexError):
            template.write(frame, bytearray(room), 0, **fields)
    for size, offset in ((room - 1, 0), (room, 1), (room, -1)):
        with pytest.raises(ValueError, match="do not fit"):
            template.write(0, bytearray(size), offset, **fields)
