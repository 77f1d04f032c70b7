"""The client machine: the table, the handshake, and each way a camera departs from it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import (
    AuthFailed,
    AuthUnsupported,
    RedirectRefused,
    RtspStatusError,
    SessionLost,
    TransportRefused,
    WireError,
)
from gateway.limits import REDIRECTS_MAX
from gateway.rtsp.client import Playing, Redirected, SessionEnded, TrackReady
from gateway.rtsp.messages import Credentials, RtspUrl
from gateway.rtsp.quirks import Quirk
from gateway.rtsp.states import TRANSITIONS, Input, State
from gateway.rtsp.tracks import TrackPlan

from .conversation import SDP, SECRET, TCP, URL, Conversation

DESIGN = Path(__file__).parents[3] / "docs" / "design" / "rtsp.md"
DIGEST = 'Digest realm="r", nonce="{}"{}'


def test_the_table_is_that_of_the_design_page() -> None:
    rows = re.findall(r"^\| ([A-Z]+) \|(.*)\|$", DESIGN.read_text(encoding="utf-8"), re.M)
    inputs = [Input.START, Input.OK, Input.MORE, Input.REFUSED, Input.CHALLENGED,
              Input.REDIRECTED, Input.STOP, Input.FAIL]  # fmt: skip
    drawn = {
        (State[name], input_): State[cell.strip()]
        for name, cells in rows
        for input_, cell in zip(inputs, cells.split("|"), strict=True)
        if cell.strip() != "-"
    }
    assert drawn == TRANSITIONS
    assert {state for state, _ in TRANSITIONS} == set(State)


def test_every_state_ends() -> None:
    """From anywhere STOP then FAIL closes, and nothing leaves CLOSED."""
    for state in State:
        stopped = TRANSITIONS[state, Input.STOP]
        assert TRANSITIONS[stopped, Input.FAIL] is State.CLOSED
    assert {t for (s, _), t in TRANSITIONS.items() if s is State.CLOSED} == {State.CLOSED}


def test_handshake() -> None:
    c = Conversation()
    c.to_playing()
    assert [(r.method, r.uri) for r in c.requests] == [
        ("OPTIONS", URL),
        ("DESCRIBE", URL),
        ("SETUP", f"{URL}/trackID=1"),
        ("PLAY", URL),
    ]
    assert [r.headers.get("CSeq") for r in c.requests] == ["1", "2", "3", "4"]
    assert all(r.headers.get("User-Agent") == "test" for r in c.requests)
    assert c.requests[2].headers.get("Transport") == TCP
    assert c.requests[3].headers.get("Session") == "S"
    ready, playing = c.events
    assert isinstance(ready, TrackReady) and isinstance(playing, Playing)
    assert (ready.rtp_channel, ready.rtcp_channel, ready.ssrc) == (0, 1, None)


def test_the_track_is_announced_before_play_is_sent() -> None:
    """C6: packets may come before the answer to PLAY."""
    c = Conversation()
    c.to_setup()
    c.answer("SETUP", Transport=TCP, Session="S")
    assert isinstance(c.events[-1], TrackReady)
    assert c.client.state is State.PLAY


@pytest.mark.parametrize("capture", ["bunny", "hikvision", "reolink"])
def test_recorded_conversations(media_dir: Path, capture: str) -> None:
    """Real answers, with their own CSeq: the client's next number is whatever was recorded."""
    folder = media_dir / "rtsp"
    c = Conversation()
    c.answer("OPTIONS")
    for step, method in (("describe", "DESCRIBE"), ("setup", "SETUP"), ("play", "PLAY")):
        request = c.next(method)
        data = (folder / f"{capture}_{step}.txt").read_bytes()
        c.say(re.sub(rb"CSeq: \d+", f"CSeq: {request.headers.get('CSeq')}".encode(), data))
    assert c.client.state is State.PLAYING
    assert any(isinstance(e, TrackReady) for e in c.events)


def test_keepalive_due_at_half_the_timeout() -> None:
    c = Conversation()
    c.to_playing(session="S;timeout=30")
    assert c.client.keepalive_due_in_s == 15
    c.client.keepalive()
    request = c.answer("OPTIONS")
    assert (request.uri, request.headers.get("Session")) == (URL, "S")
    assert c.client.state is State.PLAYING


def test_keepalive_falls_back_to_what_is_advertised() -> None:
    c = Conversation()
    c.to_playing()  # Public names GET_PARAMETER, not SET_PARAMETER
    c.client.keepalive()
    c.answer("OPTIONS", 405)
    c.answer("GET_PARAMETER", 501)
    assert c.silent()
    c.client.keepalive()
    assert c.silent(), "a camera that takes none is left alone"
    assert c.client.notes[Quirk.KEEPALIVE_REFUSED] == 2


def test_keepalives_that_are_never_answered_do_no_harm() -> None:
    c = Conversation()
    c.to_playing()
    for _ in range(50):
        c.client.keepalive()
        c.client.data_to_send()
    assert c.client.notes[Quirk.KEEPALIVE_UNANSWERED] == 47
    c.client.stop()
    c.answer("TEARDOWN")
    assert c.client.state is State.CLOSED


def test_454_on_a_keepalive_is_a_lost_session() -> None:
    c = Conversation()
    c.to_playing()
    c.client.keepalive()
    with pytest.raises(SessionLost):
        c.answer("OPTIONS", 454)
    assert c.client.state is State.CLOSED


def test_teardown() -> None:
    c = Conversation()
    c.to_playing()
    c.client.stop()
    c.client.stop()
    assert c.answer("TEARDOWN").headers.get("Session") == "S"
    assert c.client.state is State.CLOSED
    assert c.events[-1] == SessionEnded(by_camera=False)


def test_stop_without_a_session_just_closes() -> None:
    for steps in (0, 1, 2):
        c = Conversation()
        for method, body in (("OPTIONS", b""), ("DESCRIBE", SDP))[:steps]:
            c.answer(method, body=body)
        c.client.data_to_send()
        c.client.stop()
        assert c.client.state is State.CLOSED
        assert c.silent()


# authentication


def test_a_challenge_is_answered_once_and_kept() -> None:
    c = Conversation("rtsp://admin:s3cret@10.0.0.9/stream")
    c.answer("OPTIONS", 401, WWW_Authenticate=DIGEST.format("n", ""))
    c.to_playing()
    assert all('nonce="n"' in r.headers.get("Authorization") for r in c.requests[1:])
    assert all("admin" not in r.uri and "s3cret" not in str(r) for r in c.requests)
    assert all(f'uri="{r.uri}"' in r.headers.get("Authorization") for r in c.requests[1:])


@pytest.mark.parametrize("at", ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
def test_a_stale_nonce_at_any_request(at: str) -> None:
    c = Conversation(credentials=SECRET)
    c.answer("OPTIONS", 401, WWW_Authenticate=DIGEST.format("a", ""))
    answers = {
        "OPTIONS": {},
        "DESCRIBE": {"body": SDP},
        "SETUP": {"Transport": TCP, "Session": "S"},
        "PLAY": {"Session": "S"},
    }
    for method, answer in answers.items():
        if method == at:
            c.answer(method, 401, WWW_Authenticate=DIGEST.format("b", ", stale=true"))
        c.answer(method, **answer)  # type: ignore[arg-type]
    assert c.client.state is State.PLAYING


def test_a_nonce_for_every_request() -> None:
    """Some cameras do, without saying stale."""
    c = Conversation(credentials=SECRET)
    for number, (method, answer) in enumerate(
        [
            ("OPTIONS", {}),
            ("DESCRIBE", {"body": SDP}),
            ("SETUP", {"Transport": TCP, "Session": "S"}),
            ("PLAY", {}),
        ]
    ):
        c.answer(method, 401, WWW_Authenticate=DIGEST.format(number, ""))
        c.answer(method, **answer)  # type: ignore[arg-type]
    assert c.client.state is State.PLAYING


def test_a_camera_that_only_ever_says_stale() -> None:
    c = Conversation(credentials=SECRET)
    with pytest.raises(AuthFailed):
        for number in range(10):
            c.answer("OPTIONS", 401, WWW_Authenticate=DIGEST.format(number, ", stale=true"))
    assert len(c.requests) == 3


def test_no_credentials_and_forbidden() -> None:
    with pytest.raises(AuthFailed):
        Conversation().answer("OPTIONS", 401, WWW_Authenticate="Basic")
    c = Conversation()
    c.answer("OPTIONS")
    with pytest.raises(AuthFailed, match="403"):
        c.answer("DESCRIBE", 403)


# redirects


def test_redirect() -> None:
    c = Conversation()
    c.answer("OPTIONS", 301, Location="rtsp://u:p@other:8554/x")
    assert c.client.state is State.CLOSED
    (event,) = c.events
    assert isinstance(event, Redirected)
    assert (str(event.url), event.url.credentials, event.redirects) == (
        "rtsp://other:8554/x",
        None,
        1,
    )


@pytest.mark.parametrize("location", ["", "http://x/", "rtsps://x/", "/relative"])
def test_redirects_that_are_not_followed(location: str) -> None:
    with pytest.raises(RedirectRefused):
        Conversation().answer("OPTIONS", 302, Location=location)


def test_redirects_are_bounded() -> None:
    c = Conversation(redirects=REDIRECTS_MAX)
    with pytest.raises(RedirectRefused, match="more than"):
        c.answer("OPTIONS", 302, Location=URL)


def test_basic_is_not_given_to_another_host() -> None:
    """C4. Digest is: it does not tell the password."""
    c = Conversation(credentials=SECRET, home="10.0.0.1")
    with pytest.raises(AuthUnsupported):
        c.answer("OPTIONS", 401, WWW_Authenticate='Basic realm="x"')
    c = Conversation(credentials=SECRET, home="10.0.0.1")
    c.answer("OPTIONS", 401, WWW_Authenticate=DIGEST.format("n", ""))
    assert "Digest" in c.next().headers.get("Authorization")


# transports


def test_udp_transport_headers_are_built_and_read() -> None:
    """The machine is ready; the session does not ask for it yet."""
    c = Conversation(client_port=5000)
    c.to_setup()
    request = c.answer(
        "SETUP",
        Transport="RTP/AVP;unicast;client_port=5000-5001;server_port=7000-7001;ssrc=1",
        Session="S",
    )
    assert request.headers.get("Transport") == "RTP/AVP;unicast;client_port=5000-5001"
    (ready,) = c.events
    assert isinstance(ready, TrackReady)
    assert (ready.transport.server_port, ready.ssrc) == ((7000, 7001), 1)


def test_461_names_what_was_asked() -> None:
    c = Conversation()
    c.to_setup()
    with pytest.raises(TransportRefused, match="461"):
        c.answer("SETUP", 461)


@pytest.mark.parametrize(
    "transport", ["RTP/AVP;unicast;server_port=1-2", "RTP/AVP/TCP;interleaved=4-4"]
)
def test_unusable_transports(transport: str) -> None:
    c = Conversation()
    c.to_setup()
    with pytest.raises(TransportRefused):
        c.answer("SETUP", Transport=transport, Session="S")


def test_several_tracks_are_set_up_one_after_the_other() -> None:
    def both(description: object, base: str, notes: object) -> tuple[TrackPlan, ...]:
        from gateway.media.codec import Codec

        return tuple(TrackPlan(Codec.H264, 96 + n, 90_000, f"{base}/{n}") for n in range(2))

    c = Conversation(select=both)
    c.to_setup()
    c.answer("SETUP", Transport=TCP, Session="S")
    assert c.client.state is State.SETUP
    second = c.answer("SETUP", Transport="RTP/AVP/TCP;interleaved=2-3", Session="S")
    assert "interleaved=2-3" in second.headers.get("Transport")
    assert second.headers.get("Session") == "S"
    c.answer("PLAY")
    assert [e.rtp_channel for e in c.events if isinstance(e, TrackReady)] == [0, 2]
    # C7: one channel for two tracks would mix their packets.
    c = Conversation(select=both)
    c.to_setup()
    c.answer("SETUP", Transport=TCP, Session="S")
    with pytest.raises(TransportRefused, match="twice"):
        c.answer("SETUP", Transport=TCP, Session="S")


@pytest.mark.parametrize(
    ("method", "status", "error"),
    [
        ("DESCRIBE", 404, RtspStatusError),
        ("DESCRIBE", 503, RtspStatusError),
        ("SETUP", 454, SessionLost),
        ("SETUP", 453, RtspStatusError),
        ("PLAY", 455, RtspStatusError),
        ("PLAY", 454, SessionLost),
    ],
)
def test_final_statuses(method: str, status: int, error: type[WireError]) -> None:
    c = Conversation()
    if method == "DESCRIBE":
        c.answer("OPTIONS")
    elif method == "SETUP":
        c.to_setup()
    else:
        c.to_play()
    with pytest.raises(error) as caught:
        c.answer(method, status)
    assert str(status) in str(caught.value)
    assert c.client.state is State.CLOSED


# what the camera asks of us


def test_requests_of_the_camera_are_answered() -> None:
    c = Conversation()
    c.to_playing()
    for method, status in (("OPTIONS", 200), ("SET_PARAMETER", 200), ("ANNOUNCE", 501)):
        c.say(f"{method} * RTSP/1.0\r\nCSeq: 77\r\n\r\n".encode())
        sent = c.client.data_to_send()
        assert sent.startswith(f"RTSP/1.0 {status} ".encode()) and b"CSeq: 77\r\n" in sent
    c.say(b"TEARDOWN * RTSP/1.0\r\nCSeq: 78\r\n\r\n")
    assert c.events[-1] == SessionEnded(by_camera=True)
    assert c.client.state is State.CLOSED


def test_a_redirect_request_moves_the_stream() -> None:
    c = Conversation()
    c.to_playing()
    c.say(b"REDIRECT * RTSP/1.0\r\nCSeq: 1\r\nLocation: rtsp://other/\r\n\r\n")
    event = c.events[-1]
    assert isinstance(event, Redirected) and str(event.url) == "rtsp://other/"


def test_interim_answers_are_passed_over() -> None:
    c = Conversation()
    request = c.next()
    c.say(f"RTSP/1.0 100 Continue\r\nCSeq: {request.headers.get('CSeq')}\r\n\r\n".encode())
    assert c.client.state is State.OPTIONS


def test_credentials_of_the_url_are_nowhere_to_be_seen() -> None:
    url = RtspUrl.parse("rtsp://admin:hunter2@cam/x")
    assert "hunter2" not in f"{url!r} {url} {url.credentials!r}"
    assert url.credentials == Credentials("admin", "hunter2")


lines = st.sampled_from(
    [
        b"RTSP/1.0 200 OK",
        b"RTSP/1.0 401 No",
        b"RTSP/1.0 302 Go",
        b"RTSP/1.0 454 No",
        b"OPTIONS * RTSP/1.0",
        b"RTSP/1.0 459 No",
        b"REDIRECT * RTSP/1.0",
        b"TEARDOWN * RTSP/1.0",
    ]
)
fields = st.sampled_from(
    [
        b"CSeq: 1",
        b"CSeq: 2",
        b"CSeq: 3",
        b"CSeq: 4",
        b"CSeq: 5",
        b"cseq: x",
        b"Session: S;timeout=4",
        b"Transport: RTP/AVP/TCP;interleaved=0-1",
        b"Transport: RTP/AVP;server_port=1-2",
        b'WWW-Authenticate: Digest nonce="n", realm="r", stale=true',
        b"Location: rtsp://x/y",
        b"Content-Base: /x/",
        b"Content-Base: rtsp://rtsp://[::1]/",
        b"Public: SET_PARAMETER",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(lines, st.lists(fields, max_size=4), st.booleans()), max_size=12),
    st.integers(0, 12),
)
def test_whatever_a_camera_says_the_machine_holds(
    said: list[tuple[bytes, list[bytes], bool]], stop_after: int
) -> None:
    """C10: a state of the table, or a typed error and CLOSED; never an assertion."""
    c = Conversation(credentials=SECRET)
    for index, (first, headers, with_body) in enumerate(said):
        if index == stop_after:
            c.client.stop()
        body = SDP if with_body else b""
        head = [first, *headers, b"Content-Length: %d" % len(body), b"", b""]
        with contextlib.suppress(WireError):
            c.say(b"\r\n".join(head) + body)
        if c.client.state is State.PLAYING:
            c.client.keepalive()
        assert b"s3cret" not in c.client.data_to_send()
    c.client.stop()
    assert c.client.state in (State.TEARDOWN, State.CLOSED)
