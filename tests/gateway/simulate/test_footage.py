"""Footage: every NAL unit of the file, at times that a player can use."""

from fractions import Fraction
from pathlib import Path

import av
import pytest

from gateway.media.codec import Codec, nal_type
from gateway.simulate.annexb import is_parameter_set, split_nal_units
from gateway.simulate.footage import (
    CLOCK_RATE,
    Footage,
    FootageError,
    load_footage,
    pad_footage,
    without_parameter_sets,
)
from gateway.simulate.shipped import CAR_PARK_H264, CAR_PARK_H265

CONTAINERS = [
    "mp4/mp4ff_bbb_prog_10s.mp4",
    "mp4/mp4ff_v300_multiple_segments.mp4",
    "mp4/media3_h265_bframes.mp4",
    "mp4/mp4ff_hevc.mp4",
    "mp4/gomp4_sample_fragmented.mp4",
    "ps-ts/sample_h264.ts",
    "ps-ts/sample_h265.ts",
]
ELEMENTARY = ["h264/bbb_480x270_aud_bframes.h264", "h264/BA1_FT_C.264", "h265/hevc.265"]


def check_times(footage: Footage) -> None:
    decode = [unit.decode_ticks for unit in footage.access_units]
    shown = [unit.presentation_ticks for unit in footage.access_units]
    assert decode[0] == 0 and decode == sorted(set(decode))
    assert footage.loop_ticks > decode[-1]
    assert len(set(shown)) == len(shown)
    assert all(unit.presentation_ticks >= unit.decode_ticks for unit in footage.access_units)
    assert max(shown) - min(shown) < footage.loop_ticks, "rounds do not overlap"


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_keep_their_samples_and_times(media_dir: Path, name: str) -> None:
    footage = load_footage(media_dir / name)
    check_times(footage)
    with av.open(str(media_dir / name)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert stream.time_base is not None
        scale = stream.time_base * CLOCK_RATE
        assert packets[0].dts is not None
        first = packets[0].dts
        wanted = [int((packet.pts - first) * scale) for packet in packets if packet.pts is not None]
    assert [unit.presentation_ticks for unit in footage.access_units] == wanted
    annexb = name.endswith(".ts")
    for unit, packet in zip(footage.access_units, packets, strict=True):
        if annexb:
            assert list(unit.nal_units) == split_nal_units(bytes(packet))
        elif not unit.key:
            assert unit.sample == bytes(packet), "MP4 samples with 4-byte lengths, unchanged"
        else:
            assert unit.sample.endswith(bytes(packet)), "only parameter sets came in front"
        if unit.key:
            assert any(is_parameter_set(footage.codec, nal) for nal in unit.nal_units)


@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_streams_keep_their_nal_units(media_dir: Path, name: str) -> None:
    footage = load_footage(media_dir / name, frames_per_second=Fraction(30_000, 1001))
    check_times(footage)
    nal_units = [nal for unit in footage.access_units for nal in unit.nal_units]
    assert nal_units == split_nal_units((media_dir / name).read_bytes())
    assert footage.frames_per_second == pytest.approx(29.97, abs=0.01)


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("h265/hevc.265", "mp4/mp4ff_hevc.mp4"),
    ],
)
def test_elementary_presentation_order_is_that_of_the_container(
    media_dir: Path, name: str, same_as: str
) -> None:
    """The same pictures with and without times: decoding must find the order that MP4 states."""
    bare = load_footage(media_dir / name, frames_per_second=Fraction(50))
    timed = load_footage(media_dir / same_as)
    for a, b in zip(bare.access_units, timed.access_units, strict=True):
        assert a.presentation_ticks - a.decode_ticks == b.presentation_ticks - b.decode_ticks


def test_reordering_at_the_first_picture_is_found(media_dir: Path) -> None:
    footage = load_footage(media_dir / "h264/Cisco_Men_whisper_640x320_CABAC_Bframe_9.264")
    order = sorted(range(9), key=lambda n: footage.access_units[n].presentation_ticks)
    assert order == [0, 2, 3, 4, 5, 6, 7, 8, 1]


def test_a_stream_that_does_not_decode_keeps_its_order(media_dir: Path) -> None:
    footage = load_footage(media_dir / "h264/Error_I_P.264")
    assert len(footage.access_units) == 6
    assert all(unit.presentation_ticks == unit.decode_ticks for unit in footage.access_units)


@pytest.mark.parametrize("path", [CAR_PARK_H264, CAR_PARK_H265])
@pytest.mark.parametrize("rate", [1_000_000, 4_000_000, 7_777_777])
def test_padding_reaches_the_rate_and_touches_nothing(path: Path, rate: int) -> None:
    footage = load_footage(path)
    padded = pad_footage(footage, rate)
    assert padded.sample_bytes == rate * footage.loop_ticks // (8 * CLOCK_RATE)
    for before, after in zip(footage.access_units, padded.access_units, strict=True):
        assert after.nal_units[:-1] == before.nal_units
        assert nal_type(footage.codec, after.nal_units[-1]) == (
            12 if footage.codec is Codec.H264 else 38
        )
    sizes = [len(unit.sample) for unit in padded.access_units]
    assert padded.access_units[sizes.index(max(sizes))].key, "key pictures stay the largest"
    decoder = av.CodecContext.create("h264" if footage.codec is Codec.H264 else "hevc", "r")
    data = b"".join(b"\0\0\0\1" + nal for u in padded.access_units[:30] for nal in u.nal_units)
    shown = sum(len(decoder.decode(packet)) for packet in [*decoder.parse(data)])
    assert shown > 20, "a decoder skips the filler"


def test_padding_cannot_shrink() -> None:
    with pytest.raises(FootageError, match="cannot be played"):
        pad_footage(load_footage(CAR_PARK_H264), 100_000)


@pytest.mark.parametrize("name", ["mp4/mp4ff_prog_8s.mp4", "h265/hevc.265"])
def test_parameter_sets_can_be_kept_out_of_the_stream(media_dir: Path, name: str) -> None:
    footage = load_footage(media_dir / name)
    bare = without_parameter_sets(footage)
    assert bare.parameter_sets == footage.parameter_sets != ()
    for before, after in zip(footage.access_units, bare.access_units, strict=True):
        kept = [nal for nal in before.nal_units if not is_parameter_set(footage.codec, nal)]
        assert list(after.nal_units) == kept


def test_changing_parameter_sets_cannot_be_kept_out(media_dir: Path) -> None:
    with pytest.raises(FootageError, match="change inside the stream"):
        without_parameter_sets(load_footage(media_dir / "h264/Error_I_P.264"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mp4/missing.mp4", "no such file"),
        ("mp4/mp4ff_init_truncated.mp4", "no video|cannot be read"),
        ("mp4/mp4ff_init.mp4", "no pictures"),
        ("mp4/mp4ff_aac_init.mp4", "no video"),
        ("ps-ts/sample_h262_mpeg_audio.ps", "neither H.264 nor H.265"),
        ("README.md", "cannot be read"),
    ],
)
def test_files_that_are_no_footage(media_dir: Path, name: str, message: str) -> None:
    with pytest.raises(FootageError, match=message):
        load_footage(media_dir / name)


def test_an_elementary_stream_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "empty.264"
    for data in (b"", b"\0\0\1\x67abc", b"text"):
        path.write_bytes(data)
        with pytest.raises(FootageError, match="no H264 picture"):
            load_footage(path)


@pytest.mark.parametrize("rate", [Fraction(0), Fraction(-1), Fraction(CLOCK_RATE + 1)])
def test_rates_that_cannot_be_played(rate: Fraction) -> None:
    with pytest.raises(FootageError, match="cannot be played"):
        load_footage(CAR_PARK_H264, frames_per_second=rate)
