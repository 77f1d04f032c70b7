"""RFC 7798 payloads: against the slow twin, on real streams and captures, and on garbage."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.depacketize_h265 import has_recovery_point, nal_pieces, parameter_set_id
from tests.cext import streams
from tests.oracle import depacketize as oracle

H265 = oracle.H265
VPS = b"\x40\x01\x0c\x01"
PPS = b"\x44\x01\xc1\x73"
IDR = b"\x26\x01\xaf" + bytes(range(1, 200))


def check(payload: bytes) -> None:
    """The native cursor and the twin say the same."""
    got = nal_pieces(payload)
    expected, malformed = oracle.pieces(H265, payload)
    assert [(p.nal_type, p.data, p.begins, p.ends) for p in got.pieces] == [
        (p.nal_type, p.data, p.begins, p.ends) for p in expected
    ]
    assert got.malformed == malformed


def test_a_single_nal_unit_and_an_aggregation_packet() -> None:
    assert [p.data for p in nal_pieces(IDR).pieces] == [IDR]
    assert [p.data for p in nal_pieces(streams.aggregate(H265, [VPS, PPS, IDR])).pieces] == [
        VPS,
        PPS,
        IDR,
    ]


def test_fragments_rebuild_the_two_byte_header() -> None:
    layered = bytes([IDR[0] | 1, 0x0A]) + IDR[2:]  # layer id and temporal id are kept
    for nal in (IDR, layered):
        parts = [nal_pieces(p).pieces[0] for p in streams.fragment_nal(H265, nal, 50)]
        assert b"".join(part.data for part in parts) == nal
        assert {part.nal_type for part in parts} == {19}


@pytest.mark.parametrize(
    "payload",
    [
        b"\x40",  # shorter than its header
        b"\x64\x01\x00",  # type 50, PACI
        b"\x7e\x01\x00",  # type 63
        b"\x62\x01",  # FU without its header
        b"\x62\x01\xb1\x00",  # FU of a FU
    ],
)
def test_what_this_receiver_cannot_read_is_malformed(payload: bytes) -> None:
    found = nal_pieces(payload)
    assert found.malformed
    assert found.pieces == ()


def test_an_annex_b_stream_in_one_packet_is_split() -> None:
    joined = VPS + b"\0\0\0\1" + PPS + b"\0\0\1" + IDR
    assert [p.data for p in nal_pieces(joined).pieces] == [VPS, PPS, IDR]
    assert [p.data for p in nal_pieces(b"\0\0\0\1" + joined).pieces] == [VPS, PPS, IDR]


@settings(max_examples=500)
@given(st.binary(max_size=90))
def test_any_bytes_come_out_as_in_the_twin(payload: bytes) -> None:
    check(payload)


CHUNKS = st.sampled_from([b"\0", b"\0\0\1", b"\0\0\0\1", VPS, PPS, b"\x26\x01", b"\xff", b"\0\4"])


@settings(max_examples=500)
@given(
    st.sampled_from([b"", b"\x60\x01", b"\x62\x01\xa0", b"\x62\x01\x21", b"\x62\x01\xd3"]),
    st.lists(CHUNKS, max_size=12),
)
def test_bytes_full_of_start_codes_come_out_as_in_the_twin(
    head: bytes, chunks: list[bytes]
) -> None:
    check(head + b"".join(chunks))


def test_parameter_set_ids(media_dir: Path) -> None:
    assert parameter_set_id(VPS) == 0
    assert parameter_set_id(b"\x40\x01\x5c") == 5
    assert parameter_set_id(PPS) == 0
    assert parameter_set_id(IDR) is None
    for path in (media_dir / "h265").iterdir():
        nals = streams.split_annex_b(path.read_bytes())
        found = [parameter_set_id(n) for n in nals if 32 <= oracle.nal_type(H265, n) <= 34]
        assert found and set(found) == {0}, path.name


def test_an_sps_with_sub_layers() -> None:
    """profile_tier_level grows with every sub-layer in front of the id."""

    def sps(sub_layers: int, present: list[int], number: int) -> bytes:
        bits = f"0000{sub_layers:03b}1" + "1" * 96
        bits += "".join(f"{p:02b}" for p in present)
        if sub_layers:
            bits += "00" * (8 - sub_layers)
        for p in present:
            bits += "1" * (88 * (p >> 1) + 8 * (p & 1))
        code = bin(number + 1)[2:]
        bits += "0" * (len(code) - 1) + code + "1"
        nbytes = -(-len(bits) // 8)
        return b"\x42\x01" + int(bits.ljust(nbytes * 8, "0"), 2).to_bytes(nbytes, "big")

    assert parameter_set_id(sps(0, [], 3)) == 3
    assert parameter_set_id(sps(2, [3, 1], 7)) == 7
    assert parameter_set_id(sps(6, [2, 0, 3, 1, 0, 3], 15)) == 15
    assert parameter_set_id(sps(0, [], 16)) is None
    assert parameter_set_id(sps(2, [3, 1], 7)[:20]) is None


@given(
    st.sampled_from([b"\x40\x01", b"\x42\x01", b"\x44\x01", b"\x4e\x01"]), st.binary(max_size=60)
)
def test_any_parameter_set_or_sei_is_read_within_its_bounds(head: bytes, rest: bytes) -> None:
    number = parameter_set_id(head + rest)
    assert number is None or 0 <= number <= 63
    assert has_recovery_point(head + rest) in (True, False)


def test_a_recovery_point_is_found() -> None:
    assert has_recovery_point(b"\x4e\x01\x01\x02ab\x06\x01\xc0\x80")
    assert not has_recovery_point(b"\x4e\x01\x01\x02\x06\x01\x80")


STREAMS = [
    "10bit_128x128.h265",
    "akiyo.x265.qp_30.265",
    "bframes3_128x128.h265",
    "hevc.265",
    "motion_320x240.h265",
    "multi_slice_sao_deblock_256x256.h265",
]


def test_every_h265_stream_of_the_media_is_in_the_list(media_dir: Path) -> None:
    assert sorted(path.name for path in (media_dir / "h265").iterdir()) == STREAMS


@pytest.mark.parametrize("aggregated", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_a_real_stream_comes_back_nal_by_nal(media_dir: Path, name: str, aggregated: bool) -> None:
    nal_units = streams.split_annex_b((media_dir / "h265" / name).read_bytes())
    units = streams.access_units(H265, nal_units)
    video = streams.track(H265)
    fragments = streams.run(video, streams.packetize(H265, units, aggregated=aggregated))
    got = streams.units_of(fragments)
    assert [list(nals) for _rtp, nals, _lost in got] == units
    assert not any(lost for _rtp, _nals, lost in got)
    counters = video.counters()
    assert counters.lost_packets == counters.malformed_packets == counters.incomplete_nals == 0


def test_a_real_capture_gives_the_stream_that_was_sent(media_dir: Path) -> None:
    """wilson.pcap, a WebRTC sender: aggregation, fragmentation and single NAL unit packets."""
    packets = list(streams.read_pcap((media_dir / "rtp/wilson.pcap").read_bytes()))
    assert len(packets) == 407
    video = streams.track(H265, payload_type=104)
    fragments = streams.run(video, packets)
    stream = b"".join(b"\0\0\0\1" + nal for nal in streams.nals_of(fragments))
    assert stream == (media_dir / "rtp/wilson_expected.h265").read_bytes()
    assert sum(fragment.frame_count for fragment in fragments) == 276
    assert video.counters().lost_packets == 0
