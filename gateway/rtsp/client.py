"""The RTSP client of one connection, without I/O: messages in, bytes and events out.

Owns the order of requests, their authentication, the session and its keep-alive. Never opens a
socket, reads a clock or retries a connection: the shell sends ``data_to_send()``, hands in complete
messages, looks at ``events()``, and decides when (docs/design/rtsp.md, C1 to C12).

    client = RtspClient(url, credentials=..., user_agent=..., make_cnonce=...)
    client.start();                      send(client.data_to_send())
    client.receive_message(data);        send(client.data_to_send()); look at client.events()

A typed ``WireError`` out of ``receive_message`` ends the machine (state CLOSED).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import (
    AuthFailed,
    AuthUnsupported,
    RedirectRefused,
    RtspStatusError,
    RtspSyntaxError,
    SessionLost,
    TransportRefused,
    WireError,
)
from gateway.limits import (
    AUTH_RETRIES_MAX,
    KEEPALIVES_OUTSTANDING_MAX,
    PENDING_REQUESTS_MAX,
    REDIRECTS_MAX,
    SESSION_TIMEOUT_DEFAULT_S,
)
from gateway.rtsp.auth import Authenticator, Verdict
from gateway.rtsp.headers import RtpInfo, Transport, parse_rtp_info, parse_session, parse_transports
from gateway.rtsp.messages import Credentials, Headers, Request, Response, RtspUrl
from gateway.rtsp.parser import parse_cseq, parse_message
from gateway.rtsp.quirks import Quirk, QuirkNotes
from gateway.rtsp.sdp import SessionDescription, parse_sdp
from gateway.rtsp.states import TRANSITIONS, Input, State
from gateway.rtsp.tracks import TrackPlan, aggregate_url, base_url, select_video

Select = Callable[[SessionDescription, str, QuirkNotes], tuple[TrackPlan, ...]]


@dataclass(frozen=True, slots=True)
class TrackReady:
    """A track is set up: bind ``rtp_channel`` now, packets may come before ``Playing`` (C6).

    ``ssrc`` is what the camera announced, or None. Over UDP the channels are 0 and 1 and
    ``transport`` names the ports.
    """

    plan: TrackPlan
    rtp_channel: int
    rtcp_channel: int
    ssrc: int | None
    transport: Transport


@dataclass(frozen=True, slots=True)
class Playing:
    """PLAY was answered. ``rtp_info`` is for diagnosis: cameras get it wrong."""

    rtp_info: tuple[RtpInfo, ...]


@dataclass(frozen=True, slots=True)
class Redirected:
    """Connect to ``url`` with a new machine; ``redirects`` is how many that makes."""

    url: RtspUrl
    redirects: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The camera ended the session (TEARDOWN from its side), or answered ours."""

    by_camera: bool


Event = TrackReady | Playing | Redirected | SessionEnded


@dataclass(slots=True)
class _Pending:
    """A request that was sent and not yet answered."""

    method: str
    uri: str
    headers: Headers
    cseq: int
    keepalive: bool = False
    with_credentials: bool = False
    retries: int = 0


class RtspClient:
    """One connection's RTSP. ``credentials`` outrank those in ``url``.

    ``make_cnonce`` returns fresh random text (the machine has no randomness of its own).
    ``client_port`` asks for RTP over UDP to that port and the next; None asks for interleaved TCP.
    ``redirects`` and ``home`` carry over from the connection that was redirected here: ``home`` is
    the host the credentials were configured for.
    """

    def __init__(
        self,
        url: RtspUrl,
        *,
        user_agent: str,
        make_cnonce: Callable[[], str],
        credentials: Credentials | None = None,
        client_port: int | None = None,
        notes: QuirkNotes | None = None,
        redirects: int = 0,
        home: str | None = None,
        select: Select = select_video,
    ) -> None:
        self.state = State.IDLE
        self.notes = QuirkNotes() if notes is None else notes
        self.session_timeout_s = SESSION_TIMEOUT_DEFAULT_S
        self.tracks: list[TrackReady] = []
        self._url = url.without_credentials()
        self._user_agent = user_agent
        self._client_port = client_port
        self._redirects = redirects
        self._home = self._url.host if home is None else home
        self._auth = Authenticator(
            credentials or url.credentials,
            make_cnonce,
            basic_allowed=self._url.host.lower() == self._home.lower(),
        )
        self._select = select
        self._cseq = 0
        self._session = ""
        self._base = str(self._url)
        self._aggregate = str(self._url)
        self._public: frozenset[str] = frozenset()
        self._plans: deque[TrackPlan] = deque()
        self._keepalive_methods: deque[str] = deque(["OPTIONS"])
        self._pending: deque[_Pending] = deque(maxlen=PENDING_REQUESTS_MAX)
        self._events: list[Event] = []
        self._out = bytearray()

    # what the owner calls

    def start(self) -> None:
        """Send the first request."""
        self._move(Input.START)
        self._send("OPTIONS", str(self._url))

    def stop(self) -> None:
        """Leave in an orderly way: TEARDOWN if the camera holds a session for us, else CLOSED."""
        if self.state in (State.SETUP, State.PLAY, State.PLAYING) and not self._session:
            self._move(Input.FAIL)
        elif self._move(Input.STOP) is State.TEARDOWN and not self._awaits("TEARDOWN"):
            self._send("TEARDOWN", self._aggregate)

    def keepalive(self) -> None:
        """Send a keep-alive if the camera takes one and does not owe us too many answers."""
        assert self.state is State.PLAYING, "keep-alives are for a playing session"
        if not self._keepalive_methods:
            return
        if sum(p.keepalive for p in self._pending) >= KEEPALIVES_OUTSTANDING_MAX:
            self.notes.note(Quirk.KEEPALIVE_UNANSWERED)
            oldest = next(p for p in self._pending if p.keepalive)
            self._pending.remove(oldest)
        self._send(self._keepalive_methods[0], self._aggregate, keepalive=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self._url.address

    @property
    def keepalive_due_in_s(self) -> float:
        """How long after the last one the next keep-alive is due: half the session's timeout."""
        return self.session_timeout_s / 2

    def data_to_send(self) -> bytes:
        """Bytes for the wire since the last call."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events = self._events
        self._events = []
        return events

    def receive_message(self, data: bytes) -> None:
        """Take one complete message. Raises WireError, which closes the machine."""
        if self.state is State.CLOSED:
            return
        assert self.state is not State.IDLE, "start() comes first"
        try:
            message = parse_message(data, self.notes)
            if isinstance(message, Request):
                self._on_request(message)
            else:
                self._on_response(message)
        except WireError:
            self._move(Input.FAIL)
            raise

    # requests of ours

    def _send(
        self, method: str, uri: str, headers: Headers | None = None, *, keepalive: bool = False
    ) -> None:
        self._cseq += 1
        pending = _Pending(method, uri, headers or Headers(), self._cseq, keepalive)
        self._pending.append(pending)
        self._transmit(pending)

    def _transmit(self, pending: _Pending) -> None:
        headers = Headers([("CSeq", str(pending.cseq)), ("User-Agent", self._user_agent)])
        authorization = self._auth.authorization(pending.method, pending.uri)
        pending.with_credentials = authorization is not None
        if authorization is not None:
            headers.add("Authorization", authorization)
        if self._session:
            headers.add("Session", self._session)
        for name, value in pending.headers:
            headers.add(name, value)
        self._out += Request(pending.method, pending.uri, headers).encode()

    def _send_describe(self) -> None:
        self._send("DESCRIBE", str(self._url), Headers([("Accept", "application/sdp")]))

    def _send_setup(self) -> None:
        index = 2 * len(self.tracks)
        if self._client_port is None:
            wanted = Transport(tcp=True, interleaved=(index, index + 1))
        else:
            port = self._client_port + index
            wanted = Transport(tcp=False, client_port=(port, port + 1))
        headers = Headers([("Transport", wanted.encode())])
        self._send("SETUP", self._plans[0].control_url, headers)

    def _send_play(self, uri: str) -> None:
        self._send("PLAY", uri, Headers([("Range", "npt=0.000-")]))

    def _awaits(self, method: str) -> bool:
        return any(p.method == method and not p.keepalive for p in self._pending)

    # answers

    def _on_response(self, response: Response) -> None:
        pending = self._match(response)
        if pending is None:
            return
        if response.status == 401:
            self._on_challenge(pending, response)
            return
        if pending.with_credentials:
            self._auth.accepted()
        if response.status in (301, 302, 303, 307, 308) and not pending.keepalive:
            self._on_redirect(response)
        elif pending.keepalive:
            self._on_keepalive(pending, response)
        else:
            self._handlers[State(pending.method.lower())](self, pending, response)

    def _match(self, response: Response) -> _Pending | None:
        """The request this answers; None if it is an interim answer or nobody's."""
        if 100 <= response.status < 200:
            return None
        cseq = parse_cseq(response.headers, self.notes)
        pending = next((p for p in self._pending if p.cseq == cseq), None)
        if pending is None and cseq is None and self._pending:
            pending = self._pending[0]
        if pending is None:
            self.notes.note(Quirk.FOREIGN_CSEQ)
            return None
        self._pending.remove(pending)
        if self.state is State.TEARDOWN and pending.method != "TEARDOWN":
            return None  # an answer that crossed our TEARDOWN
        return pending

    def _on_challenge(self, pending: _Pending, response: Response) -> None:
        verdict = self._auth.challenged(
            response.headers.get_all("WWW-Authenticate"), sent=pending.with_credentials
        )
        if verdict is Verdict.REFUSED or pending.retries >= AUTH_RETRIES_MAX:
            raise AuthFailed(
                f"the camera refuses the credentials ({pending.method} answered 401)",
                remedy="check user name and password in the camera's URL",
            )
        self._move(Input.CHALLENGED)
        pending.retries += 1
        self._cseq += 1
        pending.cseq = self._cseq
        self._pending.append(pending)
        self._transmit(pending)

    def _on_redirect(self, response: Response) -> None:
        location = response.headers.get("Location").strip()
        redirects = self._redirects + 1
        if redirects > REDIRECTS_MAX:
            raise RedirectRefused(f"more than {REDIRECTS_MAX} redirects, the last to {location!r}")
        try:
            target = RtspUrl.parse(location).without_credentials()
        except RtspSyntaxError as error:
            raise RedirectRefused(f"redirected to {location!r}: {error.rule}") from None
        if target.scheme != "rtsp":
            raise RedirectRefused(f"redirected to {target}: only rtsp is followed")
        self._move(Input.REDIRECTED)
        self._events.append(Redirected(target, redirects))

    def _on_options(self, pending: _Pending, response: Response) -> None:
        if response.status == 200:
            public = ",".join(response.headers.get_all("Public"))
            self._public = frozenset(m.strip().upper() for m in public.split(",") if m.strip())
            self._keepalive_methods.extend(
                m for m in ("SET_PARAMETER", "GET_PARAMETER") if m in self._public
            )
            self._move(Input.OK)
        else:
            self.notes.note(Quirk.OPTIONS_REFUSED)
            self._move(Input.REFUSED)
        self._send_describe()

    def _on_describe(self, pending: _Pending, response: Response) -> None:
        self._demand_success(pending, response)
        if not response.headers.get("Content-Type"):
            self.notes.note(Quirk.NO_CONTENT_TYPE)
        description = parse_sdp(response.body, self.notes)
        self._base = base_url(self._url, response.headers, self.notes)
        self._plans.extend(self._select(description, self._base, self.notes))
        self._aggregate = aggregate_url(description, self._base)
        self._move(Input.OK)
        self._send_setup()

    def _on_setup(self, pending: _Pending, response: Response) -> None:
        if response.status == 461:
            asked = "interleaved TCP" if self._client_port is None else "UDP"
            raise TransportRefused(
                f"the camera does not send RTP over {asked} (461)",
                remedy="enable RTP over RTSP (TCP) on the camera",
            )
        self._demand_success(pending, response)
        self._take_session(response)
        self._events.append(self._track_ready(response))
        self._plans.popleft()
        if self._plans:
            self._move(Input.MORE)
            self._send_setup()
        else:
            self._move(Input.OK)
            self._send_play(self._aggregate)

    def _track_ready(self, response: Response) -> TrackReady:
        index = 2 * len(self.tracks)
        tcp = self._client_port is None
        value = ",".join(response.headers.get_all("Transport"))
        answer = parse_transports(value, self.notes)[0] if value else Transport(tcp=tcp)
        if tcp and not answer.tcp:
            if answer.interleaved is None and value:
                raise TransportRefused(f"asked for interleaved TCP, the camera answers {value!r}")
            self.notes.note(Quirk.TRANSPORT_NOT_TCP)
        channels = (index, index + 1)
        if tcp and answer.interleaved is None:
            self.notes.note(Quirk.NO_CHANNELS)
        elif tcp and answer.interleaved is not None:
            if answer.interleaved != channels:
                self.notes.note(Quirk.OTHER_CHANNELS)
            channels = answer.interleaved
        taken = {c for t in self.tracks for c in (t.rtp_channel, t.rtcp_channel)}
        if len({*channels, *taken}) != len(taken) + 2:
            raise TransportRefused(f"the camera uses one channel twice: {value!r}")
        track = TrackReady(self._plans[0], channels[0], channels[1], answer.ssrc, answer)
        self.tracks.append(track)
        return track

    def _on_play(self, pending: _Pending, response: Response) -> None:
        alone = len(self.tracks) == 1 and pending.uri != self.tracks[0].plan.control_url
        if response.status == 459 and alone:
            self.notes.note(Quirk.AGGREGATE_REFUSED)
            self._move(Input.REFUSED)
            self._aggregate = self.tracks[0].plan.control_url
            self._send_play(self._aggregate)
            return
        self._demand_success(pending, response)
        self._take_session(response)
        self._move(Input.OK)
        self._events.append(Playing(parse_rtp_info(response.headers.get("RTP-Info"))))

    def _on_keepalive(self, pending: _Pending, response: Response) -> None:
        if response.status == 454:
            raise SessionLost(f"{pending.method} answered 454: the camera forgot the session")
        if 200 <= response.status < 300:
            self._move(Input.OK)
            return
        self.notes.note(Quirk.KEEPALIVE_REFUSED)
        self._move(Input.REFUSED)
        # Several keep-alives may be out: only the one now in use is given up.
        if self._keepalive_methods and self._keepalive_methods[0] == pending.method:
            self._keepalive_methods.popleft()
            if self._keepalive_methods:
                self.keepalive()

    def _on_teardown(self, pending: _Pending, response: Response) -> None:
        self._move(Input.OK if response.status < 300 else Input.REFUSED)
        self._events.append(SessionEnded(by_camera=False))

    _handlers: ClassVar[dict[State, Callable[[RtspClient, _Pending, Response], None]]] = {
        State.OPTIONS: _on_options,
        State.DESCRIBE: _on_describe,
        State.SETUP: _on_setup,
        State.PLAY: _on_play,
        State.TEARDOWN: _on_teardown,
    }

    def _demand_success(self, pending: _Pending, response: Response) -> None:
        status = response.status
        if 200 <= status < 300:
            return
        if status == 454:
            raise SessionLost(f"{pending.method} answered 454: the camera forgot the session")
        if status == 403:
            raise AuthFailed(
                f"{pending.method} answered 403: this user may not see the stream",
                remedy="give the user the right to view on the camera",
            )
        if status == 407:
            raise AuthUnsupported("a proxy asks for credentials (407); none can be configured")
        raise RtspStatusError(pending.method, status, response.reason)

    def _take_session(self, response: Response) -> None:
        session = parse_session(response.headers.get("Session"))
        if session is None:
            if not self._session:
                self.notes.note(Quirk.NO_SESSION_ID)
            return
        if self._session and session.id != self._session:
            self.notes.note(Quirk.SESSION_ID_CHANGED)
        self._session = session.id
        if "timeout" in response.headers.get("Session").lower():
            self.session_timeout_s = session.timeout_s

    # requests of the camera

    def _on_request(self, request: Request) -> None:
        cseq = parse_cseq(request.headers, self.notes)
        status = 501
        if request.method in ("OPTIONS", "SET_PARAMETER", "GET_PARAMETER", "TEARDOWN", "REDIRECT"):
            status = 200
        headers = Headers([("CSeq", str(cseq))] if cseq is not None else [])
        if request.method == "OPTIONS":
            headers.add("Public", "OPTIONS, SET_PARAMETER, GET_PARAMETER, TEARDOWN, REDIRECT")
        self._out += Response(status, headers=headers).encode()
        if request.method == "TEARDOWN":
            self._move(Input.FAIL)
            self._events.append(SessionEnded(by_camera=True))
        elif request.method == "REDIRECT" and self.state is not State.TEARDOWN:
            self._on_redirect(Response(302, headers=request.headers))

    # the table

    def _move(self, input_: Input) -> State:
        target = TRANSITIONS.get((self.state, input_))
        assert target is not None, f"{input_.name} cannot occur in {self.state.name}"
        self.state = target
        return target
