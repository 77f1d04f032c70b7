"""The serving machine: what each request means in each state, and who is let in."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rtsp import client as rtsp_client
from gateway.rtsp.client import RtspClient, TrackReady
from gateway.rtsp.messages import Credentials, Request, Response, RtspUrl
from gateway.rtsp.parser import InterleavedFrame, MessageParser
from gateway.rtsp.server import (
    ALLOWED,
    Authentication,
    AuthScheme,
    PlayRequested,
    Presentation,
    ProtocolFault,
    RtspServer,
    SetupTrack,
    State,
    TornDown,
    TrackOffer,
    TrackStart,
)

BASE = "rtsp://camera.example/cam/1"
SDP = (
    b"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
    b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=0\r\n"
)
TWO_TRACKS = Presentation(SDP, (TrackOffer("trackID=0", 0xDECAFBAD), TrackOffer("trackID=1")))
ONE_TRACK = Presentation(SDP, (TrackOffer("trackID=0"),))
PATHS = {"/cam/1": TWO_TRACKS, "/cam/2": ONE_TRACK}
TCP = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"


def make_server(authentication: Authentication | None = None) -> RtspServer:
    return RtspServer(PATHS.get, session_id="5e55", authentication=authentication)


def request(method: str, uri: str = BASE, *fields: str, cseq: int | None = 7) -> bytes:
    lines = [f"{method} {uri} RTSP/1.0"]
    lines += [f"CSeq: {cseq}"] if cseq is not None else []
    return "\r\n".join([*lines, *fields, "", ""]).encode()


def ask(server: RtspServer, *wire: bytes) -> Response:
    """Feed requests; the answer to the last one."""
    server.receive(b"".join(wire))
    answers = list(MessageParser().feed(server.data_to_send()))
    assert isinstance(answers[-1], Response)
    return answers[-1]


def server_in(state: State) -> RtspServer:
    server = make_server()
    if state is not State.INIT:
        ask(server, request("SETUP", f"{BASE}/trackID=0", TCP))
    if state is State.PLAYING:
        server.receive(request("PLAY", BASE, "Session: 5e55"))
        server.answer_play(())
    if state is State.CLOSED:
        ask(server, request("TEARDOWN", BASE, "Session: 5e55"))
    server.events()
    server.data_to_send()
    assert server.state is state
    return server


@pytest.mark.parametrize("state", [State.INIT, State.READY, State.PLAYING])
@pytest.mark.parametrize("method", [*ALLOWED, "PAUSE", "RECORD"])
def test_every_method_in_every_state(method: str, state: State) -> None:
    server = server_in(state)
    fields = [TCP] if method == "SETUP" else []
    if state is not State.INIT:
        fields.append("Session: 5e55")
    uri = f"{BASE}/trackID=0" if method == "SETUP" else BASE
    server.receive(request(method, uri, *fields))
    if server.events() and method == "PLAY":
        server.answer_play(())
    (answer,) = MessageParser().feed(server.data_to_send())
    assert isinstance(answer, Response) and answer.headers.get("CSeq") == "7"
    if method not in ALLOWED:
        assert answer.status == 501
    elif state in ALLOWED[method]:
        assert answer.status == 200
    else:
        assert answer.status == 455 and answer.headers.get("Allow")
    after = {
        ("SETUP", State.INIT): State.READY,
        ("PLAY", State.READY): State.PLAYING,
        ("TEARDOWN", State.READY): State.CLOSED,
        ("TEARDOWN", State.PLAYING): State.CLOSED,
    }
    assert server.state is after.get((method, state), state)


def test_a_whole_session() -> None:
    server = make_server()
    answer = ask(server, request("OPTIONS", "*"))
    assert answer.headers.get("Public") == ", ".join(ALLOWED)
    answer = ask(server, request("DESCRIBE", BASE))
    assert (answer.body, answer.headers.get("Content-Base")) == (SDP, BASE + "/")
    answer = ask(server, request("SETUP", f"{BASE}/trackID=0", TCP))
    transport = "RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=DECAFBAD"
    assert answer.headers.get("Transport") == transport
    assert answer.headers.get("Session") == "5e55;timeout=60"
    answer = ask(
        server,
        request(
            "SETUP", f"{BASE}/trackID=1", TCP.replace("0-1", "4-5"), "Session: 5e55;timeout=60"
        ),
    )
    assert answer.headers.get("Transport") == "RTP/AVP/TCP;unicast;interleaved=4-5"
    server.receive(request("PLAY", f"{BASE}/", "Session: 5e55"))
    assert server.data_to_send() == b"", "PLAY is answered by the owner"
    tracks = (SetupTrack(0, 0, 1), SetupTrack(1, 4, 5))
    assert server.events() == [PlayRequested("/cam/1", tracks)]
    server.answer_play((TrackStart(0, 11, 22), TrackStart(1, 33, 44)))
    (answer,) = MessageParser().feed(server.data_to_send())
    assert isinstance(answer, Response)
    assert answer.headers.get("RTP-Info") == (
        f"url={BASE}/trackID=0;seq=11;rtptime=22,url={BASE}/trackID=1;seq=33;rtptime=44"
    )
    server.receive(b"$\x01\x00\x02hi")
    assert server.events() == [InterleavedFrame(1, b"hi")]
    assert ask(server, request("GET_PARAMETER", BASE, "Session: 5e55")).status == 200
    assert ask(server, request("TEARDOWN", BASE, "Session: 5e55")).status == 200
    assert server.events() == [TornDown()]
    server.receive(request("OPTIONS"))
    assert server.data_to_send() == b"", "V4"


def test_play_may_be_refused_and_asked_again() -> None:
    server = server_in(State.READY)
    server.receive(request("PLAY", BASE, "Session: 5e55") + request("OPTIONS", "*", cseq=8))
    server.refuse_play(503)
    first, second = MessageParser().feed(server.data_to_send())
    assert isinstance(first, Response) and isinstance(second, Response)
    assert (first.status, first.headers.get("CSeq")) == (503, "7"), "V1: PLAY is answered first"
    assert (second.status, second.headers.get("CSeq")) == (200, "8")
    assert server.state is State.READY


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (request("DESCRIBE", "rtsp://h/cam/9"), 404),
        (request("DESCRIBE", "rtsp://[nonsense/cam/1"), 404),
        (request("DESCRIBE", "*"), 404),
        (request("SETUP", f"{BASE}/trackID=9", TCP), 404),
        (request("SETUP", BASE, TCP), 404),  # two tracks: which?
        (request("SETUP", "rtsp://h/cam/2", TCP), 200),
        (request("SETUP", f"{BASE}/trackID=0?user=x", TCP), 200),
        (request("SETUP", f"{BASE}/trackID=0"), 461),
        (request("SETUP", f"{BASE}/trackID=0", "Transport: RTP/AVP;unicast;client_port=5-6"), 461),
        (request("SETUP", f"{BASE}/trackID=0", "Transport: RTP/AVP/UDP;unicast, " + TCP[11:]), 200),
        (request("SETUP", f"{BASE}/trackID=0", "Transport: RTP/AVP/TCP;multicast"), 461),
        (request("SETUP", f"{BASE}/trackID=0", TCP.replace("0-1", "255-256")), 461),
        (request("SETUP", f"{BASE}/trackID=0", TCP.replace("0-1", "3-3")), 461),
        (request("SETUP", f"{BASE}/trackID=0", TCP, "Session: other"), 454),
        (request("PLAY", BASE, "Session: other"), 454),
        (request("OPTIONS", cseq=None), 400),
        (request("OPTIONS", "*", "Require: implicit-play"), 551),
    ],
)
def test_requests_that_stand_alone(wire: bytes, status: int) -> None:
    assert ask(make_server(), wire).status == status


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (request("PLAY", BASE), 454),  # which session?
        (request("TEARDOWN", BASE, "Session: other"), 454),
        (request("SETUP", f"{BASE}/trackID=1", TCP, "Session: 5e55"), 461),  # V3: channels taken
        (request("SETUP", f"{BASE}/trackID=0", TCP, "Session: 5e55"), 200),  # changes its mind
        (request("SETUP", "rtsp://h/cam/2/trackID=0", TCP, "Session: 5e55"), 459),
    ],
)
def test_requests_within_a_session(wire: bytes, status: int) -> None:
    assert ask(server_in(State.READY), wire).status == status


def test_free_channels_are_chosen_when_none_are_asked_for() -> None:
    server = server_in(State.READY)
    answer = ask(server, request("SETUP", f"{BASE}/trackID=1", "Transport: RTP/AVP/TCP;unicast"))
    assert answer.headers.get("Transport") == "RTP/AVP/TCP;unicast;interleaved=2-3"


@pytest.mark.parametrize("qop", [False, True])
@pytest.mark.parametrize("scheme", list(AuthScheme))
@pytest.mark.parametrize("password", ["s3cret", "wrong"])
def test_our_own_client_gets_in_with_the_password_only(
    scheme: AuthScheme, qop: bool, password: str
) -> None:
    guard = Authentication(Credentials("admin", "s3cret"), "Camera", "abc123", (scheme,), qop)
    server = make_server(guard)
    client = RtspClient(
        RtspUrl.parse("rtsp://camera.example/cam/2"),
        credentials=Credentials("admin", password),
        user_agent="test",
        make_cnonce=lambda: "c0ffee",
    )
    client.start()
    parser = MessageParser()
    ready: list[TrackReady] = []
    playing = False
    try:
        while data := client.data_to_send():
            server.receive(data)
            if any(isinstance(event, PlayRequested) for event in server.events()):
                server.answer_play((TrackStart(0, 1, 2),))
            for message in parser.feed(server.data_to_send()):
                assert isinstance(message, Response)
                client.receive_message(message.encode())
            for event in client.events():
                ready += [event] if isinstance(event, TrackReady) else []
                playing = playing or isinstance(event, rtsp_client.Playing)
    except rtsp_client.AuthFailed:
        assert password == "wrong" and not ready and server.state is State.INIT
        return
    assert password == "s3cret" and playing and len(ready) == 1


def test_nothing_but_options_is_answered_to_strangers() -> None:
    """V2, and every scheme that is offered is in the challenge."""
    guard = Authentication(Credentials("admin", "x"), "Camera", "abc123", tuple(AuthScheme))
    for method in [*ALLOWED, "SETUP"]:
        answer = ask(make_server(guard), request(method, f"{BASE}/trackID=0", TCP))
        assert answer.status == (200 if method == "OPTIONS" else 401)
    challenges = answer.headers.get_all("WWW-Authenticate")
    assert [c.split()[0] for c in challenges] == ["Basic", "Digest", "Digest"]


def test_the_digest_of_rfc_2617() -> None:
    """The example of section 3.5, with RTSP's request line in its place."""
    guard = Authentication(
        Credentials("Mufasa", "Circle Of Life"),
        "testrealm@host.com",
        "dcd98b7102dd2f0e8b11d0f600bfb0c093",
        qop=True,
    )
    value = (
        'Digest username="Mufasa", realm="testrealm@host.com", '
        'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", qop=auth, '
        'nc=00000001, cnonce="0a4f113b", response="6629fae49393a05397450978507c4ef1"'
    )
    headers = rtsp_client.Headers([("Authorization", value)])
    assert guard.accepts(Request("GET", "/dir/index.html", headers))
    assert not guard.accepts(Request("PUT", "/dir/index.html", headers))
    assert not guard.accepts(Request("GET", "/dir/other.html", headers))
    for damage in (
        ("4ef1", "4ef0"),
        ("qop=auth, ", ""),
        ("Mufasa", "Mufasb"),
        ("b0c093", "b0c094"),
    ):
        wrong = rtsp_client.Headers([("Authorization", value.replace(*damage))])
        assert not guard.accepts(Request("GET", "/dir/index.html", wrong))


@pytest.mark.parametrize("garbage", [b"\x00\x01\x02", b"GET / HTTP/1.1\r\n\r\n", b"A" * 20_000])
def test_garbage_ends_the_connection_with_400(garbage: bytes) -> None:
    server = make_server()
    server.receive(garbage)
    (fault,) = server.events()
    assert isinstance(fault, ProtocolFault)
    assert server.data_to_send().startswith(b"RTSP/1.0 400 ")
    assert server.state is State.CLOSED
    server.receive(request("OPTIONS"))
    assert server.data_to_send() == b""


def test_a_flood_of_requests_is_cut_off() -> None:
    server = server_in(State.READY)
    server.receive(request("PLAY", BASE, "Session: 5e55") + request("OPTIONS") * 1000)
    assert server.state is State.CLOSED
    assert server.data_to_send().count(b"RTSP/1.0") == 1


CONVERSATION = b"".join(
    (
        request("OPTIONS", "*", cseq=1),
        request("DESCRIBE", BASE, cseq=2),
        request("SETUP", f"{BASE}/trackID=0", TCP, cseq=3),
        b"$\x01\x00\x04abcd",
        request("SET_PARAMETER", BASE, "Session: 5e55", "Content-Length: 2", cseq=4) + b"x\n",
        request("TEARDOWN", BASE, "Session: 5e55", cseq=5),
    )
)


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=12))
def test_how_the_bytes_are_split_changes_nothing(cuts: list[int]) -> None:
    whole = make_server()
    whole.receive(CONVERSATION)
    parts = make_server()
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    for a, b in pairwise(edges):
        parts.receive(CONVERSATION[a:b])
    assert parts.data_to_send() == whole.data_to_send()
    assert parts.events() == whole.events() == [InterleavedFrame(1, b"abcd"), TornDown()]


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    server = make_server(Authentication(Credentials("a", "b"), "r", "n", tuple(AuthScheme)))
    server.receive(b"DESCRIBE rtsp://h/cam/1 RTSP/1.0\r\nCSeq: 1\r\nAuthorization: ")
    server.receive(data.replace(b"\n", b"") + b"\r\n\r\n")
    server.receive(data)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("rtsp_requests_mkv.raw", [200, 461, 454, 454, 454]),
        ("rtsp_requests_aac.raw", [200, 461, 454]),
    ],
)
def test_requests_of_a_real_client(media_dir: Path, name: str, wanted: list[int]) -> None:
    """LIVE555's test client asks for UDP only: described, then refused with 461."""
    server = RtspServer(lambda path: ONE_TRACK if path else None, session_id="1")
    server.receive((media_dir / "rtsp" / name).read_bytes())
    answers = MessageParser().feed(server.data_to_send())
    assert [answer.status for answer in answers if isinstance(answer, Response)] == wanted
