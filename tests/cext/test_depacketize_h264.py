"""RFC 6184 payloads: against the slow twin, on real streams, on cameras' habits and on garbage."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.depacketize_h264 import has_recovery_point, nal_pieces, parameter_set_id
from cext.errors import LimitExceeded
from tests.cext import streams
from tests.oracle import depacketize as oracle

H264 = oracle.H264
SPS = bytes.fromhex("6742c01ed903c56840000003004000000c03c58b92")
PPS = bytes.fromhex("68cb8cb2")
IDR = b"\x65\x88\x84" + bytes(range(1, 200))


def check(payload: bytes) -> None:
    """The native cursor and the twin say the same."""
    got = nal_pieces(payload)
    expected, malformed = oracle.pieces(H264, payload)
    assert [(p.nal_type, p.data, p.begins, p.ends) for p in got.pieces] == [
        (p.nal_type, p.data, p.begins, p.ends) for p in expected
    ]
    assert got.malformed == malformed


def nals(payload: bytes) -> list[bytes]:
    found = nal_pieces(payload)
    assert not found.malformed
    assert all(piece.begins and piece.ends for piece in found.pieces)
    return [piece.data for piece in found.pieces]


def test_a_single_nal_unit() -> None:
    assert nals(IDR) == [IDR]


def test_a_stap_a_holds_its_nal_units_in_order() -> None:
    assert nals(streams.aggregate(H264, [SPS, PPS, IDR])) == [SPS, PPS, IDR]


def test_fragments_rebuild_the_header() -> None:
    parts = [nal_pieces(p).pieces[0] for p in streams.fragment_nal(H264, IDR, 50)]
    assert b"".join(part.data for part in parts) == IDR
    assert [part.begins for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.ends for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {part.nal_type for part in parts} == {5}


@pytest.mark.parametrize(
    "payload",
    [
        b"\x00",  # type 0
        b"\x1e\x01",  # type 30
        b"\x19\x00\x00\x00\x02\x65\x88",  # STAP-B
        b"\x1a\x00\x00",  # MTAP16
        b"\x1d\x85\x00\x00\x00",  # FU-B
        b"\x1c",  # FU-A without its header
        b"\x7c\x9c\x00",  # FU-A of a FU-A
        b"\x7c\x80\x00",  # FU-A of type 0
    ],
)
def test_what_is_no_packetization_mode_of_ours_is_malformed(payload: bytes) -> None:
    found = nal_pieces(payload)
    assert found.malformed
    assert found.pieces == ()


@pytest.mark.parametrize("tail", [b"\x00", b"\x00\x09abc", b"\x00\x00"])
def test_a_broken_stap_a_keeps_what_was_whole(tail: bytes) -> None:
    found = nal_pieces(streams.aggregate(H264, [SPS, PPS]) + tail)
    assert found.malformed
    assert [piece.data for piece in found.pieces] == [SPS, PPS]


def test_an_empty_payload_is_nothing() -> None:
    assert nal_pieces(b"").pieces == ()
    assert not nal_pieces(b"").malformed


def test_an_annex_b_stream_in_one_packet_is_split() -> None:
    """V380 and other cheap cameras put SPS, PPS and the slice into one NAL unit."""
    joined = SPS + b"\0\0\0\1" + PPS + b"\0\0\0\0\1" + IDR
    assert nals(joined) == [SPS, PPS, IDR]
    assert nals(b"\0\0\0\1" + joined) == [SPS, PPS, IDR]
    assert nals(b"\0\0\1" + joined + b"\0\0") == [SPS, PPS, IDR]


def test_trailing_zeros_stay_unless_the_nal_unit_was_split() -> None:
    assert nals(IDR + b"\0\0") == [IDR + b"\0\0"]


def test_a_start_code_in_front_of_no_nal_header_is_data() -> None:
    """Vendors' SEI without emulation prevention must come out as it went in."""
    sei = b"\x06\x05\x20" + b"\0\0\1\xff" + b"\0\0\1\x00" + b"abc"
    assert nals(sei) == [sei]


def test_a_fragmented_annex_b_parameter_set_is_split() -> None:
    joined = SPS + b"\0\0\0\1" + PPS + b"\0\0\0\1" + IDR
    parts = streams.fragment_nal(H264, joined, 60)
    found = [piece for part in parts for piece in nal_pieces(part).pieces]
    assert [p.data for p in found[:2]] == [SPS, PPS]
    assert b"".join(p.data for p in found[2:]) == IDR
    assert found[2].begins and not found[2].ends and found[-1].ends


def test_slices_in_fragments_are_not_searched() -> None:
    """A slice cannot hold a start code; not looking saves a pass over nearly all bytes."""
    part = nal_pieces(b"\x7c\x05" + b"ab\0\0\1\x65cd")
    assert [piece.data for piece in part.pieces] == [b"ab\0\0\1\x65cd"]


@settings(max_examples=500)
@given(st.binary(max_size=90))
def test_any_bytes_come_out_as_in_the_twin(payload: bytes) -> None:
    check(payload)


CHUNKS = st.sampled_from(
    [
        b"\0",
        b"\0\0\1",
        b"\0\0\0\1",
        SPS,
        PPS,
        b"\x65\x88",
        b"\x09\xf0",
        b"\xff",
        b"\x00\x02",
        b"\x18",
    ]
)


@settings(max_examples=500)
@given(
    st.sampled_from([b"", b"\x18", b"\x7c\x87", b"\x7c\x07", b"\x7c\x47", b"\x7c\xc5", b"\x67"]),
    st.lists(CHUNKS, max_size=12),
)
def test_bytes_full_of_start_codes_come_out_as_in_the_twin(
    head: bytes, chunks: list[bytes]
) -> None:
    check(head + b"".join(chunks))


def test_seeds_that_broke_another_parser(media_dir: Path) -> None:
    seeds = sorted((media_dir / "fuzz-seeds/gortsplib_format_rtph264_FuzzDecoder").iterdir())
    assert len(seeds) == 2
    for seed in seeds:
        data = seed.read_bytes()
        while data:
            size = int.from_bytes(data[:4], "little")
            check(data[4 : 4 + size])
            data = data[4 + size :]


def test_a_payload_larger_than_a_packet_is_refused() -> None:
    with pytest.raises(LimitExceeded) as caught:
        nal_pieces(bytes(65536))
    assert (caught.value.value, caught.value.maximum) == (65536, 65535)


@pytest.mark.parametrize(
    ("nal", "expected"),
    [
        (SPS, 0),
        (PPS, 0),
        (b"\x68\x4f", 1),  # ue(v) 010
        (b"\x67\x42\x00\x1e\x04\x00", 31),  # ue(v) 00000100000
        (b"\x67\x42\x00\x1e\x04", None),  # cut short
        (b"\x67\x42\x00\x1e\x04\x20", None),  # 32 is out of range
        (b"\x67\x42\x00\x1e", None),
        (b"\x67", None),
        (b"\x68\x00\x00\x00\x00\x00", None),
        (IDR, None),
        (b"", None),
    ],
)
def test_parameter_set_ids(nal: bytes, expected: int | None) -> None:
    assert parameter_set_id(nal) == expected


def exp_golomb(number: int) -> bytes:
    code = bin(number + 1)[2:]
    bits = "0" * (len(code) - 1) + code + "1"
    nbytes = -(-len(bits) // 8)
    return int(bits.ljust(nbytes * 8, "0"), 2).to_bytes(nbytes, "big")


@pytest.mark.parametrize("number", range(32))
def test_ids_survive_emulation_prevention(number: int) -> None:
    """Profile, constraints and level of zero put 00 00 03 in front of the id."""
    assert parameter_set_id(b"\x67\x00\x00\x03\x00" + exp_golomb(number)) == number


@pytest.mark.parametrize("number", [0, 1, 6, 31, 127, 254, 255])
def test_a_pps_has_up_to_256_ids(number: int) -> None:
    assert parameter_set_id(b"\x68" + exp_golomb(number)) == number


def sei(*messages: tuple[int, bytes]) -> bytes:
    body = b""
    for kind, data in messages:
        body += b"\xff" * (kind // 255) + bytes([kind % 255])
        body += b"\xff" * (len(data) // 255) + bytes([len(data) % 255]) + data
    return b"\x06" + body + b"\x80"


def test_a_recovery_point_is_found_behind_other_messages() -> None:
    assert has_recovery_point(sei((6, b"\xc4")))
    assert has_recovery_point(sei((5, b"x" * 700), (300, b"y"), (6, b"\xc4")))
    assert not has_recovery_point(sei((5, b"\x06\x01" * 100)))
    assert not has_recovery_point(sei((1, b"abc")))


@given(st.binary(max_size=60))
def test_any_sei_is_read_within_its_bounds(data: bytes) -> None:
    assert has_recovery_point(b"\x06" + data) in (True, False)


STREAMS = [
    "BA1_FT_C.264",
    "BASQP1_Sony_C.jsv",
    "BA_MW_D.264",
    "Cisco_Men_whisper_640x320_CABAC_Bframe_9.264",
    "Error_I_P.264",
    "MPS_MW_A.264",
    "NL1_Sony_D.jsv",
    "SVA_Base_B.264",
    "VID_1280x720_cabac_temporal_direct.264",
    "bbb_480x270_aud_bframes.h264",
    "mbaff_iframe_128x96.h264",
    "test_scalinglist_jm.264",
]


def test_every_h264_stream_of_the_media_is_in_the_list(media_dir: Path) -> None:
    assert sorted(path.name for path in (media_dir / "h264").iterdir()) == STREAMS


@pytest.mark.parametrize("aggregated", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_a_real_stream_comes_back_nal_by_nal(media_dir: Path, name: str, aggregated: bool) -> None:
    nal_units = streams.split_annex_b((media_dir / "h264" / name).read_bytes())
    units = streams.access_units(H264, nal_units)
    video = streams.track(H264)
    fragments = streams.run(video, streams.packetize(H264, units, aggregated=aggregated))
    got = streams.units_of(fragments)
    assert [list(nals) for _rtp, nals, _lost in got] == units
    assert [rtp - got[0][0] for rtp, _nals, _lost in got] == [3600 * i for i in range(len(units))]
    assert not any(lost for _rtp, _nals, lost in got)
    counters = video.counters()
    assert counters.lost_packets == counters.malformed_packets == counters.incomplete_nals == 0
