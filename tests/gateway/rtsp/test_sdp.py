"""Descriptions as cameras give them: which track, which URL, which parameter sets."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import RtspLimitError, RtspSyntaxError, SdpError, UnsupportedMedia, WireError
from gateway.media.codec import Codec
from gateway.media.parameter_sets import codec_config
from gateway.rtsp.messages import RtspUrl
from gateway.rtsp.parser import parse_message
from gateway.rtsp.quirks import Quirk, QuirkNotes
from gateway.rtsp.sdp import parse_sdp
from gateway.rtsp.tracks import aggregate_url, base_url, join_control, select_video

from .test_parser import mutations, seeds

REQUEST = RtspUrl.parse("rtsp://10.0.0.9:554/stream")


def sdp(*lines: str) -> bytes:
    head = ("v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=x", "t=0 0")
    return "\r\n".join((*head, *lines, "")).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("name", "control", "aggregate", "size"),
    [
        ("bunny_describe",
         "rtsp://wowzaec2demo.streamlock.net/vod/mp4:BigBuckBunny_115k.mov/trackID=2",
         "rtsp://wowzaec2demo.streamlock.net/vod/mp4:BigBuckBunny_115k.mov/", (240, 160)),
        ("dahua_describe_h264_aac_onvif",
         "rtsp://192.168.5.111:554/cam/realmonitor?channel=1&subtype=1&unicast=true&proto=Onvif/trackID=0",
         "rtsp://192.168.5.111:554/cam/realmonitor?channel=1&subtype=1&unicast=true&proto=Onvif/",
         (704, 480)),
        ("foscam_describe", "rtsp://192.168.5.107:65534/videoMain/track1",
         "rtsp://192.168.5.107:65534/videoMain/", (1280, 720)),
        ("hikvision_describe",
         "rtsp://192.168.5.106:554/Streaming/Channels/101/trackID=1?transportmode=unicast&profile=Profile_1",
         "rtsp://192.168.5.106:554/Streaming/Channels/101/?transportmode=unicast&profile=Profile_1",
         (1920, 1080)),
        ("reolink_describe", "rtsp://192.168.5.206/h264Preview_01_main/trackID=1",
         "rtsp://192.168.5.206/h264Preview_01_main/", (2560, 1440)),
    ],
)  # fmt: skip
def test_describe_answers(
    media_dir: Path, name: str, control: str, aggregate: str, size: tuple[int, int]
) -> None:
    answer = parse_message((media_dir / "rtsp" / f"{name}.txt").read_bytes())
    notes = QuirkNotes()
    description = parse_sdp(answer.body, notes)
    base = base_url(REQUEST, answer.headers, notes)
    (plan,) = select_video(description, base, notes)
    assert (plan.codec, plan.clock_rate) == (Codec.H264, 90_000)
    assert plan.control_url == control
    assert aggregate_url(description, base) == aggregate
    config = codec_config(plan.codec, plan.parameter_sets)
    assert (config.width, config.height) == size
    assert not config.problems


def test_static_payload_types_need_no_rtpmap(media_dir: Path) -> None:
    answer = parse_message((media_dir / "rtsp" / "foscam_describe.txt").read_bytes())
    audio = parse_sdp(answer.body, QuirkNotes()).media[1]
    assert (audio.formats[0].encoding, audio.formats[0].clock_rate) == ("PCMU", 8000)


def test_h265_takes_its_sets_from_three_parameters() -> None:
    body = sdp(
        "m=video 0 RTP/AVP 98",
        "a=rtpmap:98 H265/90000",
        "a=fmtp:98 sprop-vps=QAEMAf//AWAAAAMAsAAAAwAAAwBdqgJA;"
        "sprop-sps=QgEBAWAAAAMAsAAAAwAAAwBdoAKAgC0WWVmkkyuAQAAA+kAAF3AC;sprop-pps=RAHBcrRiQA==",
    )
    (plan,) = select_video(parse_sdp(body, QuirkNotes()), str(REQUEST), QuirkNotes())
    assert plan.codec is Codec.H265
    assert [nal[0] >> 1 for nal in plan.parameter_sets] == [32, 33, 34]
    assert plan.control_url == str(REQUEST)


def test_incomplete_sets_are_not_believed() -> None:
    """H.265 without VPS, H.264 without PPS: wait for those of the stream."""
    notes = QuirkNotes()
    body = sdp("m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000",
               "a=fmtp:96 sprop-parameter-sets=Z00AH5WoFAFuQA==", "a=control:x")  # fmt: skip
    (plan,) = select_video(parse_sdp(body, notes), str(REQUEST), notes)
    assert plan.parameter_sets == ()
    assert notes[Quirk.SPROP_UNUSABLE] == 1


def test_the_first_video_track_we_record_is_taken() -> None:
    body = sdp(
        "m=audio 0 RTP/AVP 0",
        "m=video 0 RTP/AVP 26",
        "a=control:jpeg",
        "m=video 0 RTP/AVP 97 98",
        "a=rtpmap:97 VP8/90000",
        "a=rtpmap:98 h264/90000",
        "a=control:good",
        "m=application 0 RTP/AVP 107",
        "a=rtpmap:107 vnd.onvif.metadata/90000",
    )
    (plan,) = select_video(parse_sdp(body, QuirkNotes()), str(REQUEST), QuirkNotes())
    assert (plan.payload_type, plan.control_url) == (98, f"{REQUEST}/good")


def test_what_is_offered_instead_is_named() -> None:
    body = sdp("m=audio 0 RTP/AVP 0", "m=video 0 RTP/AVP 26 99")
    with pytest.raises(UnsupportedMedia) as caught:
        select_video(parse_sdp(body, QuirkNotes()), str(REQUEST), QuirkNotes())
    assert caught.value.offered == ("audio PCMU", "video JPEG", "video payload type 99")


@pytest.mark.parametrize(
    ("base", "control", "expected"),
    [
        ("rtsp://h/a/", "trackID=1", "rtsp://h/a/trackID=1"),
        ("rtsp://h/a", "trackID=1", "rtsp://h/a/trackID=1"),
        ("rtsp://h/a/", "/trackID=1", "rtsp://h/a/trackID=1"),
        ("rtsp://h/a?x=y", "trackID=1", "rtsp://h/a?x=y/trackID=1"),
        ("rtsp://h/a", "?ctype=video", "rtsp://h/a?ctype=video"),
        ("rtsp://h/a", "*", "rtsp://h/a"),
        ("rtsp://h/a", "", "rtsp://h/a"),
        ("rtsp://h/a", "RTSP://u:p@other:1/b", "rtsp://other:1/b"),
        ("rtsp://h", "t", "rtsp://h/t"),
    ],
)
def test_controls_are_joined_as_cameras_mean_them(base: str, control: str, expected: str) -> None:
    assert join_control(base, control) == expected


@pytest.mark.parametrize("control", ["rtsp://", "a b", "a\x00b", "rtsp://h/a b"])
def test_a_control_that_would_break_the_request_line(control: str) -> None:
    with pytest.raises(RtspSyntaxError):
        join_control("rtsp://h/a", control)


@pytest.mark.parametrize("body", [b"", b"\r\n\r\n", b"hello", b"\x00" * 100, b"v=0\r\n"])
def test_no_description(body: bytes) -> None:
    with pytest.raises(SdpError):
        parse_sdp(body, QuirkNotes())


def test_bounds() -> None:
    for body in (b"a=x\n" * 5000, b"m=video 0 RTP/AVP 96\n" * 40,
                 b"m=video 0 RTP/AVP " + b"96 " * 100):  # fmt: skip
        with pytest.raises(RtspLimitError):
            parse_sdp(body, QuirkNotes())


def attempt(body: bytes) -> None:
    notes = QuirkNotes()
    with contextlib.suppress(WireError):
        description = parse_sdp(body, notes)
        select_video(description, str(REQUEST), notes)
        aggregate_url(description, str(REQUEST))


def test_fuzz_seeds_raise_typed_errors_only(media_dir: Path) -> None:
    bases = list(seeds(media_dir, "gortsplib_sdpunmarshaler_FuzzUnmarshal"))
    for file in sorted((media_dir / "rtsp").glob("*_describe*.txt")):
        bases.append(parse_message(file.read_bytes()).body)
    for base in bases:
        for body in mutations(base):
            attempt(body)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_typed_errors_only(data: bytes) -> None:
    attempt(data)
    attempt(b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=" + data)
    attempt(b"v=0\r\nm=video 0 RTP/AVP 96\r\na=fmtp:96 sprop-parameter-sets=" + data)
