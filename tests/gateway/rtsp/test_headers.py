"""Transport, Session, RTP-Info and Range as cameras write them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from gateway.errors import RtspSyntaxError, WireError
from gateway.rtsp.headers import (
    Range,
    RtpInfo,
    Session,
    Transport,
    parse_range,
    parse_rtp_info,
    parse_session,
    parse_transports,
)
from gateway.rtsp.parser import parse_message
from gateway.rtsp.quirks import QuirkNotes

from .test_parser import mutations, seeds


def capture(media_dir: Path, name: str, header: str) -> str:
    return parse_message((media_dir / "rtsp" / f"{name}.txt").read_bytes()).headers.get(header)


@pytest.mark.parametrize(
    ("name", "ssrc", "session"),
    [
        ("bunny_setup", None, Session("1642021126", 60)),
        ("dahua_setup", 0x30A98EE7, Session("634214675641", 60)),
        ("hikvision_setup", 0x4CACC3D1, Session("708345999", 60)),
        ("reolink_setup", None, Session("F8F8E425", 60)),
    ],
)
def test_setup_answers(media_dir: Path, name: str, ssrc: int | None, session: Session) -> None:
    notes = QuirkNotes()
    (transport,) = parse_transports(capture(media_dir, name, "Transport"), notes)
    assert transport.tcp and transport.interleaved == (0, 1)
    assert transport.ssrc == ssrc
    assert parse_session(capture(media_dir, name, "Session")) == session
    assert not list(notes)


@pytest.mark.parametrize(
    ("name", "infos"),
    [
        ("dahua_play", [("trackID=0", 47121, 3475222385), ("trackID=1", 45186, 2234446919),
                        ("trackID=4", 36583, 816418535)]),
        ("bunny_play", [("trackID=1", 1, 0), ("rtsp://wowzaec2demo.streamlock.net/vod/"
                        "mp4:BigBuckBunny_115k.mov/trackID=2", 1, 0)]),
        ("hikvision_play", [("rtsp://192.168.5.106:554/Streaming/Channels/101/trackID=1"
                             "?transportmode=unicast&profile=Profile_1", 24104, 1270711678)]),
    ],
)  # fmt: skip
def test_play_answers(media_dir: Path, name: str, infos: list[tuple[str, int, int]]) -> None:
    parsed = parse_rtp_info(capture(media_dir, name, "RTP-Info"))
    assert [(i.url, i.seq, i.rtptime) for i in parsed] == infos


def test_rtp_info_with_ssrc_and_nonsense(media_dir: Path) -> None:
    first, second = parse_rtp_info(capture(media_dir, "reolink_play", "RTP-Info"))
    assert (first.ssrc, second.ssrc) == (0xDCC4A0D8, 0x9FC9FFF8)
    assert parse_rtp_info("url=x;y,z;seq=70000;rtptime=abc") == (RtpInfo("x;y,z"),)
    assert parse_rtp_info("") == ()
    parse_rtp_info("url=" + ";seq=" * 4000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RTP/AVP;unicast;client_port=5000-5001;server_port=6000-6001",
         Transport(False, client_port=(5000, 5001), server_port=(6000, 6001))),
        ("rtp/avp/tcp; interleaved=2-3 ;mode=\"PLAY\"",
         Transport(True, interleaved=(2, 3), mode="play")),
        ("RTP/AVP/TCP;interleaved=4", Transport(True, interleaved=(4, 5))),
        ("RTP/AVP/UDP;multicast;destination=239.0.0.1",
         Transport(False, unicast=False, destination="239.0.0.1")),
        ("RAW/RAW/UDP,RTP/AVP/TCP;ssrc= 1A 2B ;interleaved=0-1",
         Transport(True, interleaved=(0, 1), ssrc=0x1A2B)),
        ("RTP/AVP/TCP;ssrc=xyz;interleaved=0-1", Transport(True, interleaved=(0, 1))),
    ],
)  # fmt: skip
def test_transports(text: str, expected: Transport) -> None:
    parsed, *_ = parse_transports(text, QuirkNotes())
    assert parsed == expected
    again, *_ = parse_transports(parsed.encode(), QuirkNotes())
    assert again == expected


@pytest.mark.parametrize(
    "text",
    ["", "SCTP", "RTP/AVP/TCP;interleaved=0-256", "RTP/AVP/TCP;interleaved=a-b",
     "RTP/AVP;client_port=70000-70001", "RTP/AVP/TCP;interleaved=--"],
)  # fmt: skip
def test_channels_and_ports_are_strict(text: str) -> None:
    with pytest.raises(RtspSyntaxError):
        parse_transports(text, QuirkNotes())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ABC", Session("ABC", 60)),
        ("  ABC ; Timeout = 30 ", Session("ABC", 30)),
        ("ABC;timeout=0", Session("ABC", 60)),
        ("ABC;timeout=1", Session("ABC", 2)),
        ("ABC;timeout=999999", Session("ABC", 600)),
        ("ABC;timeout=x", Session("ABC", 60)),
        ("", None),
        ("a b", None),
        (";timeout=3", None),
    ],
)
def test_sessions(text: str, expected: Session | None) -> None:
    assert parse_session(text) == expected


def test_ranges() -> None:
    assert parse_range("npt=0.000-") == Range("npt", "0.000", "")
    assert parse_range("npt=now-") == Range("npt", "now", "")
    assert parse_range("clock=20261124T120000Z-20261124T120100.5Z;time=x").unit == "clock"
    assert parse_range("smpte-30-drop=10:07:33-").unit == "smpte"
    for wrong in ("", "npt=", "npt=-", "clock=-", "npt=a-b", "bytes=0-1"):
        with pytest.raises(RtspSyntaxError):
            parse_range(wrong)


def test_fuzz_seeds_raise_typed_errors_only(media_dir: Path) -> None:
    notes = QuirkNotes()
    cases = (
        ("gortsplib_headers_FuzzTransportsUnmarshal", lambda t: parse_transports(t, notes)),
        ("gortsplib_headers_FuzzRTPInfoUnmarshal", parse_rtp_info),
        ("gortsplib_headers_FuzzRangeUnmarshal", parse_range),
    )
    extra = {
        "gortsplib_headers_FuzzTransportsUnmarshal": b"RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=1A",
        "gortsplib_headers_FuzzRTPInfoUnmarshal": b"url=rtsp://a/b;seq=1;rtptime=2,url=c;seq=3",
        "gortsplib_headers_FuzzRangeUnmarshal": b"clock=20261124T120000Z-20261124T120100.5Z",
    }
    for folder, parse in cases:
        for base in [*seeds(media_dir, folder), extra[folder]]:
            for data in mutations(base):
                with contextlib.suppress(WireError):
                    parse(data.decode("utf-8", "surrogateescape"))  # type: ignore[operator]
