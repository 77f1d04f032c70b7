"""The serving side of RTSP as a machine: bytes in; answers, events and state out (RFC 2326).

Owns one connection: what a request means in the state it arrives in, the session, the transport
that was agreed, and the check of credentials. It answers by itself whatever needs no media; the
owner looks presentations up for it and answers PLAY. No clock, no socket, no randomness: session
id and nonce are given.

- V1 Until CLOSED, requests are answered in order, each exactly once, with its CSeq.
- V2 Nothing but OPTIONS is answered before the credentials hold.
- V3 A channel carries one stream of one track.
- V4 After TEARDOWN or a message that cannot be parsed the machine is CLOSED and takes no more.

Media goes over this connection (interleaved); other transports are refused with 461.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from gateway.errors import WireError
from gateway.limits import PENDING_REQUESTS_MAX, SESSION_TIMEOUT_DEFAULT_S
from gateway.rtsp.messages import Credentials, Headers, Request, Response
from gateway.rtsp.parser import InterleavedFrame, Message, MessageParser

_CHANNELS = 256
_DIGEST_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_PARAMETER = re.compile(r'([A-Za-z0-9-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]*))')
_SESSION_METHODS = frozenset({"PLAY", "TEARDOWN", "SETUP", "GET_PARAMETER", "SET_PARAMETER"})


class State(Enum):
    """RFC 2326 appendix A.2, and the end."""

    INIT = "init"
    READY = "ready"
    PLAYING = "playing"
    CLOSED = "closed"


# In which states a method is taken; elsewhere the answer is 455.
ALLOWED: dict[str, frozenset[State]] = {
    "OPTIONS": frozenset({State.INIT, State.READY, State.PLAYING}),
    "DESCRIBE": frozenset({State.INIT, State.READY, State.PLAYING}),
    "SETUP": frozenset({State.INIT, State.READY}),
    "PLAY": frozenset({State.READY, State.PLAYING}),
    "GET_PARAMETER": frozenset({State.INIT, State.READY, State.PLAYING}),
    "SET_PARAMETER": frozenset({State.INIT, State.READY, State.PLAYING}),
    "TEARDOWN": frozenset({State.READY, State.PLAYING}),
}


class AuthScheme(Enum):
    """How a client has to prove that it knows the password (RFC 7617, RFC 7616)."""

    BASIC = "Basic"
    DIGEST_MD5 = "MD5"
    DIGEST_SHA256 = "SHA-256"


@dataclass(frozen=True, slots=True)
class Authentication:
    """Who may come in. Every scheme listed is offered, in order; ``nonce`` serves the digests."""

    credentials: Credentials
    realm: str
    nonce: str
    schemes: tuple[AuthScheme, ...] = (AuthScheme.DIGEST_MD5,)
    qop: bool = False  # offer ``qop="auth"`` (RFC 7616); without it as in RFC 2069

    def challenges(self) -> list[str]:
        """Values of the ``WWW-Authenticate`` fields."""
        basic = f'Basic realm="{self.realm}"'
        digest = f'Digest realm="{self.realm}", nonce="{self.nonce}"'
        digest += ', qop="auth"' if self.qop else ""
        return [
            basic if scheme is AuthScheme.BASIC else f"{digest}, algorithm={scheme.value}"
            for scheme in self.schemes
        ]

    def accepts(self, request: Request) -> bool:
        """Whether the request carries an answer to one of the challenges."""
        kind, _, rest = request.headers.get("Authorization").partition(" ")
        if kind.lower() == "basic":
            return AuthScheme.BASIC in self.schemes and self._accepts_basic(rest)
        if kind.lower() == "digest":
            return self._accepts_digest(request, _parameters(rest))
        return False

    def _accepts_basic(self, token: str) -> bool:
        pair = f"{self.credentials.username}:{self.credentials.password}".encode()
        return hmac.compare_digest(b64encode(pair), token.strip().encode("utf-8", "replace"))

    def _accepts_digest(self, request: Request, given: dict[str, str]) -> bool:
        """RFC 7616 section 3.4.1, with and without ``qop=auth``."""
        algorithm = given.get("algorithm", "MD5").upper()
        if algorithm not in _DIGEST_HASHES or AuthScheme(algorithm) not in self.schemes:
            return False
        known = (self.credentials.username, self.realm, self.nonce)
        if (given.get("username"), given.get("realm"), given.get("nonce")) != known:
            return False
        digest = _DIGEST_HASHES[algorithm]

        def hashed(text: str) -> str:
            return digest(text.encode("utf-8", "surrogateescape")).hexdigest()

        secret = hashed(f"{known[0]}:{self.realm}:{self.credentials.password}")
        uri = given.get("uri", "")
        if not _same_resource(uri, request.uri):
            return False
        middle = self.nonce
        if self.qop != (given.get("qop") == "auth"):
            return False
        if self.qop:
            middle += f":{given.get('nc', '')}:{given.get('cnonce', '')}:auth"
        wanted = hashed(f"{secret}:{middle}:{hashed(f'{request.method}:{uri}')}")
        return hmac.compare_digest(
            wanted.encode(), given.get("response", "").lower().encode("utf-8", "replace")
        )


@dataclass(frozen=True, slots=True)
class TrackOffer:
    """One media of a presentation: its ``a=control`` value and, if it is to be named, its SSRC."""

    control: str
    ssrc: int | None = None


@dataclass(frozen=True, slots=True)
class Presentation:
    """What a path offers. ``sdp`` is the body of the answer to DESCRIBE."""

    sdp: bytes
    tracks: tuple[TrackOffer, ...]


@dataclass(frozen=True, slots=True)
class SetupTrack:
    """A track that a client has set up, ``track`` counting from 0 as in the presentation."""

    track: int
    rtp_channel: int
    rtcp_channel: int


@dataclass(frozen=True, slots=True)
class TrackStart:
    """Where a track begins to play, for ``RTP-Info`` (RFC 2326 section 12.33)."""

    track: int
    sequence: int
    rtp_time: int


@dataclass(frozen=True, slots=True)
class PlayRequested:
    """The client wants ``tracks`` of ``path``: answer with ``answer_play`` or ``refuse_play``."""

    path: str
    tracks: tuple[SetupTrack, ...]


@dataclass(frozen=True, slots=True)
class TornDown:
    """The client ended the session; send what is left and close."""


@dataclass(frozen=True, slots=True)
class ProtocolFault:
    """The client sent what is no RTSP: send what is left and close."""

    error: WireError


Event = PlayRequested | TornDown | ProtocolFault | InterleavedFrame


@dataclass(slots=True)
class _Session:
    path: str
    presentation: Presentation
    tracks: list[SetupTrack] = field(default_factory=list)


class RtspServer:
    """One connection. ``lookup`` gives the presentation of a path, None if there is none."""

    def __init__(
        self,
        lookup: Callable[[str], Presentation | None],
        *,
        session_id: str,
        server_name: str = "Ringvault",
        authentication: Authentication | None = None,
        session_timeout_s: int = SESSION_TIMEOUT_DEFAULT_S,
    ) -> None:
        self._lookup = lookup
        self._session_id = session_id
        self._server_name = server_name
        self._authentication = authentication
        self._session_timeout_s = session_timeout_s
        self._parser = MessageParser()
        self._session: _Session | None = None
        self._playing: Request | None = None  # PLAY that waits for the owner's answer
        self._waiting: deque[Request] = deque()
        self._events: list[Event] = []
        self._out = bytearray()
        self.state = State.INIT
        self.request_count = 0

    def receive(self, data: bytes) -> None:
        """Bytes from the client, however they were split. Raises nothing because of them."""
        if self.state is State.CLOSED:
            return
        try:
            for item in self._parser.feed(data):
                if self._take(item) is State.CLOSED:
                    return
        except WireError as error:
            self._respond(Request("", ""), 400)
            self._close(ProtocolFault(error))

    def _take(self, item: Message | InterleavedFrame) -> State:
        if isinstance(item, InterleavedFrame):
            self._events.append(item)
        elif isinstance(item, Request):
            self._waiting.append(item)
            self._work()
            if len(self._waiting) > PENDING_REQUESTS_MAX:
                self._respond(item, 503)
                self._close(TornDown())
        return self.state

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        taken, self._events = self._events, []
        return taken

    def data_to_send(self) -> bytes:
        """Answers since the last call, to be sent in order."""
        taken = bytes(self._out)
        self._out.clear()
        return taken

    def answer_play(self, starts: tuple[TrackStart, ...]) -> None:
        """The tracks play, or play already: the answer goes out before their first packet."""
        request, session = self._take_play()
        base = request.uri.split("?")[0].rstrip("/")
        info = ",".join(
            f"url={_track_url(base, session.presentation.tracks[start.track].control)}"
            f";seq={start.sequence};rtptime={start.rtp_time}"
            for start in starts
        )
        fields = [("Range", "npt=now-")]
        if info:
            fields.append(("RTP-Info", info))
        self.state = State.PLAYING
        self._respond(request, 200, fields)
        self._work()

    def refuse_play(self, status: int) -> None:
        """The tracks cannot be played now; the session stays as it is."""
        request, _ = self._take_play()
        self._respond(request, status)
        self._work()

    def _take_play(self) -> tuple[Request, _Session]:
        assert self._playing is not None and self._session is not None, "no PLAY is waiting"
        request, self._playing = self._playing, None
        return request, self._session

    def _work(self) -> None:
        while self._waiting and self._playing is None and self.state is not State.CLOSED:
            self._handle(self._waiting.popleft())

    def _close(self, event: TornDown | ProtocolFault) -> None:
        self.state = State.CLOSED
        self._waiting.clear()
        self._events.append(event)

    def _handle(self, request: Request) -> None:
        self.request_count += 1
        if not request.headers.get("CSeq"):
            self._respond(request, 400)
            return
        if request.headers.get("Require"):
            unsupported = [("Unsupported", request.headers.get("Require"))]
            self._respond(request, 551, unsupported, reason="Option Not Supported")
            return
        allowed = ALLOWED.get(request.method)
        if allowed is None:
            self._respond(request, 501)
            return
        guard = self._authentication if request.method != "OPTIONS" else None
        if guard is not None and not guard.accepts(request):
            fields = [("WWW-Authenticate", value) for value in guard.challenges()]
            self._respond(request, 401, fields)
            return
        if not self._session_matches(request):
            self._respond(request, 454)
            return
        if self.state not in allowed:
            self._respond(request, 455, [("Allow", self._allowed_now())])
            return
        handlers = {
            "DESCRIBE": self._describe,
            "SETUP": self._setup,
            "PLAY": self._play,
            "TEARDOWN": self._teardown,
        }
        handlers.get(request.method, self._acknowledge)(request)

    def _session_matches(self, request: Request) -> bool:
        """A session that is named must be ours; one that exists must be named to be used."""
        named = request.headers.get("Session").partition(";")[0].strip()
        if named:
            return self._session is not None and named == self._session_id
        return request.method not in ("PLAY", "TEARDOWN") or self._session is None

    def _allowed_now(self) -> str:
        return ", ".join(method for method, states in ALLOWED.items() if self.state in states)

    def _acknowledge(self, request: Request) -> None:
        """OPTIONS, and the parameter methods, which serve as keep-alives."""
        fields = [("Public", ", ".join(ALLOWED))] if request.method == "OPTIONS" else []
        self._respond(request, 200, fields)

    def _describe(self, request: Request) -> None:
        presentation = self._lookup(_path(request.uri))
        if presentation is None:
            self._respond(request, 404)
            return
        base = request.uri if request.uri.endswith("/") else request.uri + "/"
        fields = [("Content-Base", base), ("Content-Type", "application/sdp")]
        self._respond(request, 200, fields, presentation.sdp)

    def _setup(self, request: Request) -> None:
        found = self._find_track(_path(request.uri))
        if found is None:
            self._respond(request, 404)
            return
        path, presentation, track = found
        if self._session is not None and self._session.path != path:
            self._respond(request, 459)  # one presentation a session
            return
        used = {
            channel
            for setup in (self._session.tracks if self._session else ())
            if setup.track != track
            for channel in (setup.rtp_channel, setup.rtcp_channel)
        }
        channels = _choose_channels(request.headers.get("Transport"), used)
        if channels is None:
            self._respond(request, 461)
            return
        if self._session is None:
            self._session = _Session(path, presentation)
        kept = [setup for setup in self._session.tracks if setup.track != track]
        self._session.tracks = [*kept, SetupTrack(track, *channels)]
        self.state = State.READY
        transport = f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}"
        ssrc = presentation.tracks[track].ssrc
        if ssrc is not None:
            transport += f";ssrc={ssrc:08X}"
        self._respond(request, 200, [("Transport", transport)])

    def _find_track(self, path: str) -> tuple[str, Presentation, int] | None:
        """The track of a SETUP path: base and control, or the base alone if it has one track."""
        whole = self._lookup(path.rstrip("/"))
        if whole is not None:
            return (path.rstrip("/"), whole, 0) if len(whole.tracks) == 1 else None
        base, _, control = path.rpartition("/")
        presentation = self._lookup(base)
        if presentation is None:
            return None
        for number, track in enumerate(presentation.tracks):
            if track.control == control:
                return base, presentation, number
        return None

    def _play(self, request: Request) -> None:
        assert self._session is not None, "READY and PLAYING have a session"
        self._playing = request
        self._events.append(PlayRequested(self._session.path, tuple(self._session.tracks)))

    def _teardown(self, request: Request) -> None:
        self._respond(request, 200)
        self._session = None
        self._close(TornDown())

    def _respond(
        self,
        request: Request,
        status: int,
        fields: list[tuple[str, str]] | None = None,
        body: bytes = b"",
        *,
        reason: str = "",
    ) -> None:
        headers = Headers()
        if cseq := request.headers.get("CSeq"):
            headers.add("CSeq", cseq)
        headers.add("Server", self._server_name)
        if self._session is not None and request.method in _SESSION_METHODS:
            value = self._session_id
            if request.method == "SETUP":
                value += f";timeout={self._session_timeout_s}"
            headers.add("Session", value)
        for name, value in fields or ():
            headers.add(name, value)
        self._out += Response(status, reason, headers, body).encode()


def _parameters(text: str) -> dict[str, str]:
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        for name, quoted, plain in _PARAMETER.findall(text)
    }


def _path(uri: str) -> str:
    """Path of a request URI, without the query; "" for ``*`` and for a bare host."""
    try:
        return urlsplit(uri).path.rstrip("/") if uri != "*" else ""
    except ValueError:  # an IPv6 address that is none
        return ""


def _same_resource(digest_uri: str, request_uri: str) -> bool:
    """Whether a digest was made for this request: some clients sign the path only."""
    return digest_uri == request_uri or (digest_uri != "" and digest_uri == _path(request_uri))


def _track_url(base: str, control: str) -> str:
    return base if base.endswith("/" + control) else f"{base}/{control}"


def _choose_channels(transport: str, used: set[int]) -> tuple[int, int] | None:
    """Channels for the first alternative that we can serve (RFC 2326 section 12.39)."""
    for alternative in transport.split(","):
        kind, *parameters = (part.strip() for part in alternative.split(";"))
        if kind.upper() != "RTP/AVP/TCP" or "multicast" in parameters:
            continue
        for parameter in parameters:
            if match := re.fullmatch(r"interleaved=(\d{1,3})(?:-(\d{1,3}))?", parameter):
                rtp = int(match[1])
                rtcp = int(match[2]) if match[2] else rtp + 1
                if rtp != rtcp and max(rtp, rtcp) < _CHANNELS and not {rtp, rtcp} & used:
                    return rtp, rtcp
                return None
        for rtp in range(0, _CHANNELS, 2):
            if not {rtp, rtp + 1} & used:
                return rtp, rtp + 1
    return None
