"""Parameter sets against FFmpeg's reading of the same streams, and against what breaks parsers."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BitstreamError
from gateway.limits import CODEC_CONFIG_BYTES_MAX
from gateway.media import h264, h265
from gateway.media.bits import BitReader, unescape
from gateway.media.codec import Codec, nal_type
from gateway.media.parameter_sets import CodecConfig, codec_config

H264_FILES = [
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
H265_FILES = [
    "10bit_128x128.h265",
    "akiyo.x265.qp_30.265",
    "bframes3_128x128.h265",
    "hevc.265",
    "motion_320x240.h265",
    "multi_slice_sao_deblock_256x256.h265",
]
STREAMS = [("h264", f) for f in H264_FILES] + [("h265", f) for f in H265_FILES]
MP4_FILES = [
    "gomp4_sample.mp4",
    "media3_h265_bframes.mp4",
    "media3_sample_fragmented.mp4",
    "media3_sample_no_bframes.mp4",
    "media3_sample_simple.mp4",
    "mediamtx_offline_h264.mp4",
    "mediamtx_offline_h265.mp4",
    "mp4ff_bbb_prog_10s.mp4",
    "mp4ff_hevc.mp4",
    "mp4ff_init.mp4",
    "mp4ff_hvc1_init.mp4",
    "mp4ff_prog_8s.mp4",
]
SETS = {Codec.H264: {7, 8}, Codec.H265: {32, 33, 34}}
# profile_idc of H.264, general_profile_idc of H.265, by FFmpeg's names
PROFILES = {"Constrained Baseline": 66, "Baseline": 66, "Main": 77, "High": 100,
            "H265 Main": 1, "H265 Main 10": 2}  # fmt: skip


def stream_sets(codec: Codec, data: bytes) -> list[bytes]:
    """The distinct parameter sets of an Annex B stream, in order."""
    nals = [n.rstrip(b"\x00") for n in re.split(rb"\x00\x00\x01", data) if n]
    wanted = [n for n in nals if n and nal_type(codec, n) in SETS[codec]]
    return list(dict.fromkeys(wanted))


def test_every_stream_is_listed(media_dir: Path) -> None:
    found = [(d, p.name) for d in ("h264", "h265") for p in sorted((media_dir / d).iterdir())]
    assert sorted(found) == sorted(STREAMS)


@pytest.mark.parametrize(("folder", "name"), STREAMS)
def test_streams_as_ffmpeg_sees_them(media_dir: Path, folder: str, name: str) -> None:
    codec = Codec.H264 if folder == "h264" else Codec.H265
    path = media_dir / folder / name
    config = codec_config(codec, stream_sets(codec, path.read_bytes()))
    assert not config.problems
    with av.open(str(path), format="h264" if codec is Codec.H264 else "hevc") as container:
        context = container.streams.video[0].codec_context
        assert (config.width, config.height) == (context.width, context.height)
        if codec is Codec.H265:  # in H.264 the SPS need not say
            assert bool(context.has_b_frames) == bool(config.reorder_frames)
        prefix = "H265 " if codec is Codec.H265 else ""
        assert profile_of(config) == PROFILES[prefix + str(context.profile)]


def profile_of(config: CodecConfig) -> int:
    if config.codec is Codec.H264:
        return config.config_bytes[1]
    return config.config_bytes[1] & 0x1F


@pytest.mark.parametrize("name", MP4_FILES)
def test_configurations_equal_those_other_muxers_wrote(media_dir: Path, name: str) -> None:
    """avcC and hvcC of files by FFmpeg, GPAC and others: from their NAL units, the same bytes."""
    data = (media_dir / "mp4" / name).read_bytes()
    codec, body = decoder_configuration(data)
    sets = avcc_sets(body) if codec is Codec.H264 else hvcc_sets(body)
    config = codec_config(codec, sets)
    assert not config.problems
    if codec is Codec.H264:
        # Some muxers leave the optional chroma fields out.
        assert config.config_bytes[: len(body)] == body
    else:
        assert normalised_hvcc(config.config_bytes) == normalised_hvcc(body)
    with contextlib.suppress(av.error.FFmpegError), av.open(str(media_dir / "mp4" / name)) as f:
        context = f.streams.video[0].codec_context
        assert (config.width, config.height) == (context.width, context.height)


def decoder_configuration(data: bytes) -> tuple[Codec, bytes]:
    for codec, box in ((Codec.H264, b"avcC"), (Codec.H265, b"hvcC")):
        at = data.find(box)
        if at >= 0:
            size = int.from_bytes(data[at - 4 : at], "big")
            return codec, data[at + 4 : at - 4 + size]
    raise AssertionError("no decoder configuration")


def avcc_sets(body: bytes) -> list[bytes]:
    found, at = [], 5
    for mask in (0x1F, 0xFF):
        count, at = body[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(body[at : at + 2], "big")
            found.append(body[at + 2 : at + 2 + size])
            at += 2 + size
    return found


def hvcc_sets(body: bytes) -> list[bytes]:
    found, at = [], 23
    for _ in range(body[22]):
        count, at = int.from_bytes(body[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            size = int.from_bytes(body[at : at + 2], "big")
            found.append(body[at + 2 : at + 2 + size])
            at += 2 + size
    return [nal for nal in found if nal[0] >> 1 in SETS[Codec.H265]]


def normalised_hvcc(body: bytes) -> tuple[bytes, int, bytes, int, list[bytes]]:
    """Without what muxers know by other means: segmentation, parallelism, frame rate, SEI."""
    return body[1:13], body[16] & 3, body[17:19], body[21] & 0x3F, hvcc_sets(body)


def test_several_sets_and_their_order() -> None:
    """A configuration begins with an SPS that is sound, and holds all of them."""
    good = bytes.fromhex("674d001f95a814016e40")
    pps = [bytes.fromhex("68ee3c80"), bytes.fromhex("68ce3c80")]
    config = codec_config(Codec.H264, [b"\x67\x4d", pps[0], good, pps[1]])
    assert (config.width, config.height) == (1280, 720)
    assert len(config.problems) == 1
    assert avcc_sets(config.config_bytes) == [good, b"\x67\x4d", *pps]
    assert config.rfc6381 == "avc1.4D001F"


@pytest.mark.parametrize("codec", list(Codec))
def test_without_a_usable_set_there_is_still_a_configuration(codec: Codec) -> None:
    """Parsing doubts never stop raw bytes from being stored."""
    for sets in ([], [b""], [b"\x67"], [b"\x42\x01"], [b"\xff" * 40], [b"\x42\x01" + b"\x00" * 40]):
        config = codec_config(codec, sets)
        assert (config.width, config.height, config.fps) == (0, 0, None)
        assert config.problems


def test_a_configuration_fits_the_record() -> None:
    sps = bytes.fromhex("674d001f95a814016e40")
    config = codec_config(Codec.H264, [sps, *(b"\x68" + bytes((i,)) * 1000 for i in range(9))])
    assert len(config.config_bytes) <= CODEC_CONFIG_BYTES_MAX
    assert config.width == 1280 and "exceed" in config.problems[0]


def test_frame_rate_and_names(media_dir: Path) -> None:
    def config(folder: str, name: str) -> CodecConfig:
        codec = Codec.H264 if folder == "h264" else Codec.H265
        return codec_config(codec, stream_sets(codec, (media_dir / folder / name).read_bytes()))

    bbb = config("h264", "bbb_480x270_aud_bframes.h264")
    assert (bbb.fps, bbb.reorder_frames, bbb.rfc6381) == (25, 2, "avc1.640015")
    akiyo = config("h265", "akiyo.x265.qp_30.265")
    assert (akiyo.fps, akiyo.rfc6381) == (Fraction(30000, 1001), "hvc1.1.6.L60.90")
    assert config("h265", "10bit_128x128.h265").rfc6381.startswith("hvc1.2.4.L30")


def test_pps_ids(media_dir: Path) -> None:
    data = (media_dir / "h264" / "MPS_MW_A.264").read_bytes()
    pps = [n for n in stream_sets(Codec.H264, data) if n[0] & 0x1F == 8]
    assert sorted(h264.parse_pps_ids(n)[0] for n in pps) == [0, 1]
    hevc = stream_sets(Codec.H265, (media_dir / "h265" / "hevc.265").read_bytes())
    assert {kind: h265.parse_ids(kind, n) for n in hevc if (kind := n[0] >> 1)} == {
        32: (0, 0),
        33: (0, 0),
        34: (0, 0),
    }


def test_unescape() -> None:
    assert unescape(b"\x00\x00\x03\x00\x00\x03\x01") == b"\x00\x00\x00\x00\x01"
    assert unescape(b"\x00\x00\x03") == b"\x00\x00"
    assert unescape(b"abc") == b"abc"


def test_reading_past_the_end_names_the_bit() -> None:
    reader = BitReader(b"\x01")
    with pytest.raises(BitstreamError) as caught:
        reader.ue(1000, "x")
    assert caught.value.offset_bits == 8
    with pytest.raises(BitstreamError, match="no Exp-Golomb"):
        BitReader(b"\x00" * 8).ue(1000, "x")
    with pytest.raises(BitstreamError, match="more than 3"):
        BitReader(b"\x08\x00").ue(3, "x")
    assert [BitReader(bytes((b,))).se("x") for b in (0x80, 0x40, 0x60, 0x20, 0x28)] == [
        0,
        1,
        -1,
        2,
        -2,
    ]


def seeds(media_dir: Path) -> Iterator[tuple[Codec, bytes]]:
    for codec, folder in (
        (Codec.H264, "mediacommon_h264_FuzzSPSUnmarshal"),
        (Codec.H265, "mediacommon_h265_FuzzSPSUnmarshal"),
        (Codec.H265, "mediacommon_h265_FuzzPPSUnmarshal"),
    ):
        files = sorted((media_dir / "fuzz-seeds" / folder).iterdir())
        assert files, folder
        yield from ((codec, file.read_bytes()) for file in files)


def attempt(codec: Codec, data: bytes) -> None:
    parsers = (
        (h264.parse_sps, h264.parse_pps_ids)
        if codec is Codec.H264
        else (h265.parse_sps, *(lambda d, k=k: h265.parse_ids(k, d) for k in (32, 33, 34)))
    )
    for parse in parsers:
        with contextlib.suppress(BitstreamError):
            parse(data)
    config = codec_config(codec, [data, data])
    assert 0 <= config.width < 65536 and 0 <= config.height < 65536
    assert len(config.config_bytes) <= CODEC_CONFIG_BYTES_MAX


def test_fuzz_seeds_and_damaged_sets_raise_typed_errors_only(media_dir: Path) -> None:
    rng = random.Random(7)
    cases = list(seeds(media_dir))
    for folder, name in STREAMS:
        codec = Codec.H264 if folder == "h264" else Codec.H265
        sets = stream_sets(codec, (media_dir / folder / name).read_bytes()[:20_000])
        cases += [(codec, nal) for nal in sets]
    for codec, data in cases:
        attempt(codec, data)
        for _ in range(40):
            changed = bytearray(data)
            for _ in range(rng.randrange(1, 4)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            attempt(codec, bytes(changed[: rng.randrange(1, len(changed) + 1)]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(Codec)), st.binary(max_size=80))
def test_random_bytes_raise_typed_errors_only(codec: Codec, data: bytes) -> None:
    prefix = b"\x67\x64\x00\x1e" if codec is Codec.H264 else b"\x42\x01\x01"
    for nal in (data, prefix + data):
        if nal:
            attempt(codec, nal)
