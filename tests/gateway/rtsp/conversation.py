"""A camera's side of a conversation with the client machine, message by message."""

from __future__ import annotations

from typing import Any

from gateway.rtsp.client import Event, RtspClient
from gateway.rtsp.messages import Credentials, Headers, Request, Response, RtspUrl
from gateway.rtsp.parser import MessageParser
from gateway.rtsp.states import State

URL = "rtsp://10.0.0.9/stream"
SDP = (
    b"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\na=control:*\r\n"
    b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=1\r\n"
)
TCP = "RTP/AVP/TCP;unicast;interleaved=0-1"


class Conversation:
    """``client`` and what it has sent that was not answered yet; ``events`` so far."""

    def __init__(self, url: str = URL, **options: Any) -> None:
        counter = iter(range(10**6))
        self.client = RtspClient(
            RtspUrl.parse(url),
            user_agent="test",
            make_cnonce=lambda: f"cnonce{next(counter)}",
            **options,
        )
        self.requests: list[Request] = []
        self.events: list[Event] = []
        self._parser = MessageParser()
        self.client.start()

    def next(self, method: str | None = None) -> Request:
        """The next message the client sends, which must be a request of ``method``."""
        sent = list(self._parser.feed(self.client.data_to_send()))
        assert len(sent) == 1, sent
        request = sent[0]
        assert isinstance(request, Request), request
        assert method is None or request.method == method, request
        self.requests.append(request)
        return request

    def silent(self) -> bool:
        """The client has nothing to send."""
        return not self.client.data_to_send()

    def say(self, message: bytes) -> None:
        self.client.receive_message(message)
        self.events.extend(self.client.events())

    def answer(
        self, method: str | None = None, status: int = 200, body: bytes = b"", **headers: str
    ) -> Request:
        """Take the next request and answer it."""
        request = self.next(method)
        fields = [("CSeq", request.headers.get("CSeq"))]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.say(Response(status, headers=Headers(fields), body=body).encode())
        return request

    def to_setup(self, body: bytes = SDP, **headers: str) -> None:
        self.answer("OPTIONS", Public="OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER")
        headers.setdefault("Content_Type", "application/sdp")
        self.answer("DESCRIBE", body=body, **headers)

    def to_play(self, transport: str = TCP, session: str = "S;timeout=60") -> None:
        self.to_setup()
        self.answer("SETUP", Transport=transport, Session=session)

    def to_playing(self, transport: str = TCP, session: str = "S;timeout=60") -> None:
        self.to_play(transport, session)
        self.answer("PLAY", Session=session)
        assert self.client.state is State.PLAYING


SECRET = Credentials("admin", "s3cret")
