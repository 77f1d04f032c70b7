"""Every quirk: what the camera does, that it is accepted, and that it is counted. One case each."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.rtsp.client import TrackReady
from gateway.rtsp.headers import parse_transports
from gateway.rtsp.messages import Headers, Response, RtspUrl
from gateway.rtsp.parser import parse_cseq, parse_message
from gateway.rtsp.quirks import Quirk, QuirkNotes
from gateway.rtsp.sdp import parse_sdp
from gateway.rtsp.states import State
from gateway.rtsp.tracks import base_url, select_video

from .conversation import SDP, TCP, Conversation

PAGE = Path(__file__).parents[3] / "docs" / "ref" / "quirks.md"
Case = Callable[[QuirkNotes, Path], None]
CASES: dict[Quirk, Case] = {}
# Found by the session, over a real socket.
ELSEWHERE = {
    Quirk.WRONG_SSRC: "test_a_camera_that_lies_about_its_ssrc_is_recorded_next_time",
}
SESSION_TESTS = Path(__file__).parents[1] / "ingest" / "test_session.py"


def case(quirk: Quirk) -> Callable[[Case], Case]:
    def register(function: Case) -> Case:
        assert quirk not in CASES
        CASES[quirk] = function
        return function

    return register


def parsed(data: bytes, notes: QuirkNotes) -> Response:
    message = parse_message(data, notes)
    assert isinstance(message, Response)
    return message


def conversation(notes: QuirkNotes) -> Conversation:
    return Conversation(notes=notes)


# messages


@case(Quirk.BARE_LF)
def _(notes: QuirkNotes, media: Path) -> None:
    answer = parsed(b"RTSP/1.0 200 OK\nCSeq: 1\nContent-Length: 1\n\nx", notes)
    assert (answer.headers.get("CSeq"), answer.body) == ("1", b"x")


@case(Quirk.LEADING_BLANK_LINES)
def _(notes: QuirkNotes, media: Path) -> None:
    assert parsed(b"\r\n\r\nRTSP/1.0 200 OK\r\n\r\n", notes).status == 200


@case(Quirk.NO_REASON)
def _(notes: QuirkNotes, media: Path) -> None:
    assert parsed(b"RTSP/1.0 200\r\nCSeq: 1\r\n\r\n", notes).status == 200


@case(Quirk.FOLDED_HEADER)
def _(notes: QuirkNotes, media: Path) -> None:
    answer = parsed(b"RTSP/1.0 401 No\r\nA: b,\r\n\t c\r\nD: e\r\n\r\n", notes)
    assert list(answer.headers) == [("A", "b, c"), ("D", "e")]


@case(Quirk.BLANK_BEFORE_COLON)
def _(notes: QuirkNotes, media: Path) -> None:
    assert parsed(b"RTSP/1.0 200 OK\r\nCSeq : 3 \r\n\r\n", notes).headers.get("cseq") == "3"


@case(Quirk.HEADER_WITHOUT_COLON)
def _(notes: QuirkNotes, media: Path) -> None:
    assert parsed(b"RTSP/1.0 200 OK\r\nhello\r\nCSeq: 3\r\n\r\n", notes).headers.get("CSeq") == "3"


@case(Quirk.MISSING_CSEQ)
def _(notes: QuirkNotes, media: Path) -> None:
    assert parse_cseq(Headers([("CSeq", "x1")]), QuirkNotes()) is None
    c = conversation(notes)
    c.next("OPTIONS")
    c.say(b"RTSP/1.0 200 OK\r\n\r\n")
    assert c.client.state is State.DESCRIBE


@case(Quirk.FOREIGN_CSEQ)
def _(notes: QuirkNotes, media: Path) -> None:
    c = conversation(notes)
    request = c.answer("OPTIONS")
    c.say(f"RTSP/1.0 200 OK\r\nCSeq: {request.headers.get('CSeq')}\r\n\r\n".encode())
    assert c.client.state is State.DESCRIBE


@case(Quirk.UNKNOWN_VERSION)
def _(notes: QuirkNotes, media: Path) -> None:
    assert parsed(b"RTSP/1.1 200 OK\r\n\r\n", notes).status == 200


# session


@case(Quirk.SESSION_ID_CHANGED)
def _(notes: QuirkNotes, media: Path) -> None:
    """Dahua: 634214675641 in the answer to SETUP, 634214684047 in that to PLAY."""
    ids = [
        parsed((media / "rtsp" / f"dahua_{step}.txt").read_bytes(), QuirkNotes()).headers.get(
            "Session"
        )
        for step in ("setup", "play")
    ]
    c = conversation(notes)
    c.to_setup()
    c.answer("SETUP", Transport=TCP, Session=ids[0])
    c.answer("PLAY", Session=ids[1])
    c.client.keepalive()
    assert c.next("OPTIONS").headers.get("Session") == ids[1]
    assert c.client.session_timeout_s == 60


@case(Quirk.NO_SESSION_ID)
def _(notes: QuirkNotes, media: Path) -> None:
    c = conversation(notes)
    c.to_setup()
    c.answer("SETUP", Transport=TCP)
    assert "Session" not in c.answer("PLAY").headers
    assert c.client.state is State.PLAYING
    c.client.stop()
    assert c.client.state is State.CLOSED


@case(Quirk.OPTIONS_REFUSED)
def _(notes: QuirkNotes, media: Path) -> None:
    c = conversation(notes)
    c.answer("OPTIONS", 405)
    c.next("DESCRIBE")


@case(Quirk.KEEPALIVE_REFUSED)
def _(notes: QuirkNotes, media: Path) -> None:
    c = conversation(notes)
    c.to_playing()
    c.client.keepalive()
    c.answer("OPTIONS", 501)
    c.next("GET_PARAMETER")
    assert c.client.state is State.PLAYING


@case(Quirk.KEEPALIVE_UNANSWERED)
def _(notes: QuirkNotes, media: Path) -> None:
    c = conversation(notes)
    c.to_playing()
    for _ in range(4):
        c.client.keepalive()
        c.next("OPTIONS")


@case(Quirk.AGGREGATE_REFUSED)
def _(notes: QuirkNotes, media: Path) -> None:
    c = conversation(notes)
    c.to_play()
    c.answer("PLAY", 459)
    assert c.answer("PLAY").uri.endswith("/trackID=1")
    c.client.stop()
    assert c.next("TEARDOWN").uri.endswith("/trackID=1")


def ready(notes: QuirkNotes, transport: str) -> TrackReady:
    c = conversation(notes)
    c.to_setup()
    headers = {"Transport": transport} if transport else {}
    c.answer("SETUP", Session="S", **headers)
    (event,) = c.events
    assert isinstance(event, TrackReady)
    return event


@case(Quirk.OTHER_CHANNELS)
def _(notes: QuirkNotes, media: Path) -> None:
    event = ready(notes, "RTP/AVP/TCP;unicast;interleaved=8-9")
    assert (event.rtp_channel, event.rtcp_channel) == (8, 9)


@case(Quirk.NO_CHANNELS)
def _(notes: QuirkNotes, media: Path) -> None:
    event = ready(notes, "")
    assert (event.rtp_channel, event.rtcp_channel) == (0, 1)


@case(Quirk.ONE_CHANNEL)
def _(notes: QuirkNotes, media: Path) -> None:
    event = ready(notes, "RTP/AVP/TCP;unicast;interleaved=0")
    assert (event.rtp_channel, event.rtcp_channel) == (0, 1)


@case(Quirk.TRANSPORT_NOT_TCP)
def _(notes: QuirkNotes, media: Path) -> None:
    assert ready(notes, "RTP/AVP;unicast;interleaved=0-1").rtp_channel == 0


@case(Quirk.BAD_SSRC)
def _(notes: QuirkNotes, media: Path) -> None:
    (transport,) = parse_transports("RTP/AVP/TCP;interleaved=0-1;ssrc=0x123456789", notes)
    assert transport.ssrc is None


# URLs


@pytest.mark.parametrize(
    ("quirk", "base", "expected"),
    [
        (Quirk.BASE_RELATIVE, "/live/", "rtsp://10.0.0.9:99/live/"),
        (Quirk.BASE_WITHOUT_SCHEME, "10.1.1.1/live/", "rtsp://10.1.1.1/live/"),
        (Quirk.BASE_WITHOUT_SCHEME, "//10.1.1.1/live/", "rtsp://10.1.1.1/live/"),
        (Quirk.BASE_DOUBLED_SCHEME, "rtsp://rtsp://10.1.1.1/live/", "rtsp://10.1.1.1/live/"),
        (Quirk.BASE_BARE_IPV6, "rtsp://fe80::1/live/", "rtsp://[fe80::1]/live/"),
        (Quirk.BASE_UNUSABLE, "rtsp://[/", "rtsp://10.0.0.9:99/x"),
    ],
)
def test_content_base(quirk: Quirk, base: str, expected: str) -> None:
    notes = QuirkNotes()
    url = RtspUrl.parse("rtsp://u:p@10.0.0.9:99/x").without_credentials()
    assert base_url(url, Headers([("Content-Base", base)]), notes) == expected
    assert quirk in notes


BASES = {
    Quirk.BASE_RELATIVE: "/live/",
    Quirk.BASE_WITHOUT_SCHEME: "10.1.1.1/live/",
    Quirk.BASE_DOUBLED_SCHEME: "rtsp://rtsp://10.1.1.1/live/",
    Quirk.BASE_BARE_IPV6: "rtsp://fe80::1/live/",
    Quirk.BASE_UNUSABLE: "rtsp://[/",
}


def base_case(base: str) -> Case:
    def run(notes: QuirkNotes, media: Path) -> None:
        c = conversation(notes)
        c.to_setup(Content_Base=base)
        assert c.next("SETUP").uri.endswith("/trackID=1")

    return run


for _quirk, _base in BASES.items():
    case(_quirk)(base_case(_base))


@case(Quirk.NO_CONTROL)
def _(notes: QuirkNotes, media: Path) -> None:
    c = conversation(notes)
    c.to_setup(SDP.replace(b"a=control:trackID=1\r\n", b""))
    assert c.next("SETUP").uri == "rtsp://10.0.0.9/stream"


# SDP

VIDEO = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
HEAD = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\n"
SPS, PPS = b"\x67\x4d\x00\x1f\x95\xa8\x14\x01\x6e\x40", b"\x68\xee\x3c\x80"


def video(text: str, notes: QuirkNotes) -> tuple[bytes, ...]:
    description = parse_sdp(text.encode(), notes)
    (plan,) = select_video(description, "rtsp://h/", notes)
    assert (plan.payload_type, plan.clock_rate) == (96, 90_000)
    return plan.parameter_sets


def sprop(*items: bytes) -> str:
    return "sprop-parameter-sets=" + ",".join(base64.b64encode(i).decode() for i in items)


@case(Quirk.NO_CONTENT_TYPE)
def _(notes: QuirkNotes, media: Path) -> None:
    c = conversation(notes)
    c.answer("OPTIONS")
    c.answer("DESCRIBE", body=SDP)
    assert c.client.state is State.SETUP


@case(Quirk.SDP_MISSING_LINE)
def _(notes: QuirkNotes, media: Path) -> None:
    video(VIDEO, notes)
    assert notes[Quirk.SDP_MISSING_LINE] == 3


@case(Quirk.SDP_DOUBLED_LINE)
def _(notes: QuirkNotes, media: Path) -> None:
    text = HEAD + "s=y\r\nc=IN\r\no=1.5 2.5\r\n" + VIDEO
    assert parse_sdp(text.encode(), notes).name == "x"
    video(text, notes)


@case(Quirk.SDP_BAD_LINE)
def _(notes: QuirkNotes, media: Path) -> None:
    video(HEAD + "hello\r\nm=what\r\na=rtpmap:96 VP8/90000\r\n" + VIDEO, notes)


@case(Quirk.NO_RTPMAP)
def _(notes: QuirkNotes, media: Path) -> None:
    video(HEAD + "m=video 0 RTP/AVP 96\r\na=fmtp:96 packetization-mode=1\r\n", notes)


@case(Quirk.NO_CLOCK_RATE)
def _(notes: QuirkNotes, media: Path) -> None:
    video(HEAD + "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264\r\n", notes)


@case(Quirk.FMTP_OTHER_TYPE)
def _(notes: QuirkNotes, media: Path) -> None:
    assert video(HEAD + VIDEO + f"a=fmtp:97 {sprop(SPS, PPS)}\r\n", notes) == ()


@case(Quirk.FMTP_TRAILING)
def _(notes: QuirkNotes, media: Path) -> None:
    assert video(HEAD + VIDEO + f"a=fmtp:96 {sprop(SPS, PPS)}\x00\r\n", notes) == (SPS, PPS)


@case(Quirk.SPROP_ANNEX_B)
def _(notes: QuirkNotes, media: Path) -> None:
    joined = b"\x00\x00\x00\x01" + SPS + b"\x00\x00\x01" + PPS
    assert video(HEAD + VIDEO + f"a=fmtp:96 {sprop(joined)}\r\n", notes) == (SPS, PPS)


@case(Quirk.SPROP_TRAILING_ZEROS)
def _(notes: QuirkNotes, media: Path) -> None:
    name = "dahua_describe_h264_aac_onvif.txt"
    body = parsed((media / "rtsp" / name).read_bytes(), QuirkNotes()).body
    (plan,) = select_video(parse_sdp(body, notes), "rtsp://h/", notes)
    assert plan.parameter_sets[1] == b"\x68\xee\x31\xb2\x1b"


@case(Quirk.SPROP_UNUSABLE)
def _(notes: QuirkNotes, media: Path) -> None:
    assert video(HEAD + VIDEO + "a=fmtp:96 sprop-parameter-sets=%%%,aO48gA==\r\n", notes) == ()


def test_every_quirk_has_its_case() -> None:
    assert CASES.keys() | ELSEWHERE.keys() == set(Quirk)
    for name in ELSEWHERE.values():
        assert f"def {name}(" in SESSION_TESTS.read_text(encoding="utf-8")


@pytest.mark.parametrize("quirk", list(CASES), ids=lambda quirk: quirk.value)
def test_the_quirk_is_accepted_and_counted(quirk: Quirk, media_dir: Path) -> None:
    notes = QuirkNotes()
    CASES[quirk](notes, media_dir)
    assert quirk in notes
    assert dict(notes)[quirk.value] == notes[quirk]


def test_the_page_lists_exactly_the_quirks() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert listed == [quirk.value for quirk in Quirk]
