"""Elementary streams fall apart where libavcodec's parsers cut them, and nothing is lost."""

from pathlib import Path

import av
import pytest

from gateway.media.codec import Codec
from gateway.simulate.annexb import is_key, split_access_units, split_nal_units

PICTURES = {
    "h264/BA1_FT_C.264": 299,
    "h264/BASQP1_Sony_C.jsv": 4,
    "h264/BA_MW_D.264": 100,
    "h264/Cisco_Men_whisper_640x320_CABAC_Bframe_9.264": 9,
    "h264/Error_I_P.264": 6,
    "h264/MPS_MW_A.264": 150,
    "h264/NL1_Sony_D.jsv": 17,
    "h264/SVA_Base_B.264": 17,
    "h264/VID_1280x720_cabac_temporal_direct.264": 300,
    "h264/bbb_480x270_aud_bframes.h264": 812,
    "h264/mbaff_iframe_128x96.h264": 1,
    "h264/test_scalinglist_jm.264": 5,
    "h265/10bit_128x128.h265": 3,
    "h265/akiyo.x265.qp_30.265": 300,
    "h265/bframes3_128x128.h265": 10,
    "h265/hevc.265": 50,
    "h265/motion_320x240.h265": 20,
    "h265/multi_slice_sao_deblock_256x256.h265": 3,
    "rtp/wilson_expected.h265": 276,
}


def codec_of(name: str) -> Codec:
    return Codec.H265 if name.endswith("265") else Codec.H264


def test_the_table_is_complete(media_dir: Path) -> None:
    found = {
        str(path.relative_to(media_dir))
        for folder in ("h264", "h265")
        for path in (media_dir / folder).iterdir()
    }
    assert found == {name for name in PICTURES if not name.startswith("rtp/")}


@pytest.mark.parametrize("name", PICTURES)
def test_access_units_are_those_of_libavcodec(media_dir: Path, name: str) -> None:
    data = (media_dir / name).read_bytes()
    nal_units = split_nal_units(data)
    units = split_access_units(codec_of(name), nal_units)
    assert len(units) == PICTURES[name]
    assert [nal for unit in units for nal in unit] == nal_units
    parser = av.CodecContext.create("h264" if codec_of(name) is Codec.H264 else "hevc", "r")
    packets = [*parser.parse(data), *parser.parse(None)]
    assert units == [tuple(split_nal_units(bytes(packet))) for packet in packets]


def test_start_codes_of_three_and_four_bytes_and_padding() -> None:
    data = b"\0\0\0\1\x67abc\0\0\1\x68d\0\0\0\0\0\1\x65e\0\0"
    assert split_nal_units(data) == [b"\x67abc", b"\x68d", b"\x65e"]
    assert split_nal_units(b"no start code") == []
    assert split_nal_units(b"\0\0\1") == []


def test_a_trailing_end_of_sequence_stays_with_its_picture() -> None:
    units = split_access_units(Codec.H264, [b"\x67", b"\x65\x80", b"\x0a"])
    assert units == [(b"\x67", b"\x65\x80", b"\x0a")]
    assert split_access_units(Codec.H265, []) == []


def test_key_pictures() -> None:
    assert is_key(Codec.H264, [b"\x67", b"\x65\x80"])
    assert not is_key(Codec.H264, [b"\x67", b"\x41\x80"])
    assert is_key(Codec.H265, [b"\x2a\x01\x80"]), "CRA"
    assert not is_key(Codec.H265, [b"\x02\x01\x80"])
