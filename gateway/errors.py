"""The errors of the gateway.

    GatewayError                 code, message, remedy
    +-- WireError                what the camera sent breaks a rule, or asks what we cannot do
    |   +-- RtspSyntaxError      offset, rule: no RTSP
    |   +-- RtspLimitError       larger than a bound of ``gateway.limits``
    |   +-- SdpError             line, rule: no session description we can use
    |   +-- UnsupportedMedia     no video track, or none in a codec we record
    |   +-- TransportRefused     461, or an answer whose channels cannot be used
    |   +-- RedirectRefused      too many, or to where we do not go
    |   +-- RtspStatusError      a final status that ends the session
    |   +-- SessionLost          454: the camera forgot the session
    |   +-- AuthFailed           the camera refuses our credentials
    |   +-- AuthUnsupported      no challenge that we can answer
    +-- NotSupported             asked for by configuration, not built yet
    +-- FeedError                what ends one life of a connection; ``cause`` is the gap's cause
    |   +-- ConnectFailed        refused, unreachable, unknown name
    |   +-- DeadlineExceeded     connected or connecting, but no answer in time
    |   +-- ConnectionLost       closed or reset
    |   +-- FeedStalled          playing, but no access unit
    |   +-- ForeignMedia         packets come, but none of the track we set up
    +-- BitstreamError           offset_bits, rule: a parameter set that cannot be parsed

Each says what, where, and what to do about it (``remedy``). Codes are stable: logs, the API and
docs/ref/errors.md use them. A part of the gateway that has errors of its own derives them from
``GatewayError`` where they belong. No error text holds a credential.
"""

from __future__ import annotations

from storage.base.gap import GapCause


class GatewayError(Exception):
    """Base of everything the gateway raises on purpose.

    ``remedy`` is what to do about it; who raises the error may know better than its class.
    """

    code = "GATEWAY"
    usual_remedy = ""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy or self.usual_remedy


class WireError(GatewayError):
    """The peer's doing. ``cause`` is the gap cause if it ends a feed."""

    code = "WIRE"
    cause = GapCause.PROTOCOL_ERROR


class RtspSyntaxError(WireError):
    """``offset`` is where in the message, ``rule`` what it breaks (RFC 2326 section 4, 15)."""

    code = "RTSP_SYNTAX"

    def __init__(self, offset: int, rule: str) -> None:
        super().__init__(
            f"{rule} (at byte {offset})", remedy="check that the URL is that of an RTSP service"
        )
        self.offset = offset
        self.rule = rule


class RtspLimitError(WireError):
    """``limit`` names the bound of ``gateway.limits`` that ``value`` broke."""

    code = "RTSP_LIMIT"
    usual_remedy = "check that the URL is that of a camera; no camera needs so much"

    def __init__(self, limit: str, value: int, maximum: int) -> None:
        super().__init__(f"{limit}: {value} is more than {maximum}")
        self.limit = limit
        self.value = value
        self.maximum = maximum


class SdpError(WireError):
    """``line`` counts from 1; 0 means the description as a whole (RFC 8866)."""

    code = "SDP"
    usual_remedy = "update the camera's firmware, or report it with the camera's make"

    def __init__(self, line: int, rule: str) -> None:
        super().__init__(f"{rule} (SDP line {line})" if line else f"{rule} (SDP)")
        self.line = line
        self.rule = rule


class UnsupportedMedia(WireError):
    """The camera offers no video that we record. ``offered`` lists what it has."""

    code = "UNSUPPORTED_MEDIA"

    def __init__(self, offered: tuple[str, ...]) -> None:
        listed = ", ".join(offered) or "no media at all"
        super().__init__(
            f"no H.264 or H.265 video track; the camera offers {listed}",
            remedy="set the camera's stream to H.264 or H.265",
        )
        self.offered = offered


class TransportRefused(WireError):
    """RTP over this transport cannot be had from the camera."""

    code = "TRANSPORT_REFUSED"
    usual_remedy = "enable RTP over RTSP (TCP) on the camera"


class RedirectRefused(WireError):
    """A redirect that is not followed."""

    code = "REDIRECT_REFUSED"
    usual_remedy = "use the address the camera redirects to, if it is yours"


class RtspStatusError(WireError):
    """A final status we can do nothing about: ``method``, ``status``, ``reason`` as received."""

    code = "RTSP_STATUS"
    cause = GapCause.CAMERA_OFFLINE

    def __init__(self, method: str, status: int, reason: str) -> None:
        super().__init__(
            f"{method} answered {status} {reason}".rstrip(), remedy="check the path of the URL"
        )
        self.method = method
        self.status = status
        self.reason = reason


class SessionLost(WireError):
    """The camera does not know our session any more; connecting again makes another."""

    code = "SESSION_LOST"
    usual_remedy = "nothing: it is connected to again at once"
    cause = GapCause.CAMERA_OFFLINE


class AuthFailed(WireError):
    """Credentials are missing, or were sent and refused."""

    code = "AUTH_FAILED"
    usual_remedy = "check user name and password in the camera's URL"
    cause = GapCause.AUTH_FAILED


class AuthUnsupported(WireError):
    """The camera asks for credentials in no way that we support."""

    code = "AUTH_UNSUPPORTED"
    usual_remedy = "set the camera to digest or basic authentication"
    cause = GapCause.AUTH_FAILED


class NotSupported(GatewayError):
    """Configured, but not built yet."""

    code = "NOT_SUPPORTED"


class FeedError(GatewayError):
    """One life of a feed's connection has ended; ``cause`` goes into the gap record."""

    code = "FEED"
    cause = GapCause.CAMERA_OFFLINE


class ConnectFailed(FeedError):
    """No connection: refused, unreachable, or the name is not known."""

    code = "CONNECT_FAILED"
    usual_remedy = "check that the camera is on and reachable from this host"


class DeadlineExceeded(FeedError):
    """No connection, or no complete handshake, in the time allowed."""

    code = "DEADLINE"
    usual_remedy = "check that the camera is on and reachable from this host"


class ConnectionLost(FeedError):
    """The connection was closed or reset by the camera or the network."""

    code = "CONNECTION_LOST"
    usual_remedy = "if it happens often, check the network and the camera's log"


class FeedStalled(FeedError):
    """Connected and playing, but no access unit came for the stall timeout."""

    code = "STALL"
    usual_remedy = "check the camera's encoder and the network between"
    cause = GapCause.STALL


class ForeignMedia(FeedError):
    """Packets arrive, but not of the payload type or SSRC that the camera announced."""

    code = "FOREIGN_MEDIA"
    usual_remedy = "restart the camera's stream; set it to H.264 or H.265"
    cause = GapCause.PROTOCOL_ERROR


class BitstreamError(GatewayError):
    """A parameter set that does not parse. Never a reason to stop storing its bytes."""

    code = "BITSTREAM"

    def __init__(self, offset_bits: int, rule: str) -> None:
        super().__init__(f"{rule} (at bit {offset_bits})")
        self.offset_bits = offset_bits
        self.rule = rule
