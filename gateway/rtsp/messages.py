"""RTSP messages as values, and their bytes (RFC 2326 sections 4 to 7).

Owns Headers, Request, Response, RtspUrl and Credentials. Never parses a message from bytes:
that is ``parser``. A ``repr`` never shows a credential (C2 of docs/design/rtsp.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from gateway.errors import RtspLimitError, RtspSyntaxError
from gateway.limits import RTSP_URL_BYTES_MAX

RTSP_VERSION = "RTSP/1.0"
RTSP_PORT = 554
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization"})
REASONS = {
    200: "OK",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    459: "Aggregate Operation Not Allowed",
    461: "Unsupported Transport",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class Headers:
    """Header fields in order; names are compared without case, and may occur several times."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: list[tuple[str, str]] = list(fields)

    def add(self, name: str, value: str) -> None:
        """Append a field; earlier ones of that name stay."""
        assert "\n" not in value and "\r" not in value, "a header value is one line"
        self._fields.append((name, value))

    def get(self, name: str, default: str = "") -> str:
        """The first value of that name."""
        wanted = name.lower()
        return next((v for n, v in self._fields if n.lower() == wanted), default)

    def get_all(self, name: str) -> list[str]:
        """Every value of that name, in order."""
        wanted = name.lower()
        return [v for n, v in self._fields if n.lower() == wanted]

    def __contains__(self, name: str) -> bool:
        wanted = name.lower()
        return any(n.lower() == wanted for n, _ in self._fields)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return [(n.lower(), v) for n, v in self] == [(n.lower(), v) for n, v in other]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = [(n, "***" if n.lower() in SECRET_HEADERS else v) for n, v in self._fields]
        return f"Headers({shown!r})"

    def encode(self) -> bytes:
        """``Name: value`` lines, each with its CRLF."""
        return "".join(f"{n}: {v}\r\n" for n, v in self._fields).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Request:
    """``method uri RTSP/1.0``. ``uri`` is sent as it stands and never holds credentials."""

    method: str
    uri: str
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""

    def encode(self) -> bytes:
        """The message as sent. Content-Length is added if there is a body."""
        line = f"{self.method} {self.uri} {RTSP_VERSION}\r\n".encode("utf-8", "surrogateescape")
        return line + _encode_rest(self.headers, self.body)


@dataclass(frozen=True, slots=True)
class Response:
    """``RTSP/1.0 status reason``."""

    status: int
    reason: str = ""
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""

    def encode(self) -> bytes:
        """The message as sent; an empty reason becomes the usual one of its status."""
        reason = self.reason or REASONS.get(self.status, "Unknown")
        line = f"{RTSP_VERSION} {self.status} {reason}\r\n".encode("utf-8", "surrogateescape")
        return line + _encode_rest(self.headers, self.body)


def _encode_rest(headers: Headers, body: bytes) -> bytes:
    head = headers.encode()
    if body and "Content-Length" not in headers:
        head += b"Content-Length: %d\r\n" % len(body)
    return head + b"\r\n" + body


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password; neither is shown."""

    username: str = field(repr=False)
    password: str = field(repr=False)


_URL = re.compile(
    r"(?i)(rtsps?)://(?:([^/?#]*)@)?(\[[^\]/?#]+\]|[^:/?#@\[\]]*)(?::(\d{1,5}))?(.*)", re.S
)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class RtspUrl:
    """A URL taken apart. ``target`` is path and query as written, "" if there is none.

    ``str()`` is the URL as sent: without credentials, with the port only if one was written.
    """

    scheme: str
    host: str
    port: int | None
    target: str
    credentials: Credentials | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> RtspUrl:
        """From ``rtsp://[user[:password]@]host[:port][/path][?query]``; raises RtspSyntaxError.

        The user part ends at the last ``@`` before the path, since passwords of cameras
        hold ``@`` and ``:`` unescaped often enough; percent escapes are undone in it.
        """
        if len(text) > RTSP_URL_BYTES_MAX:
            raise RtspLimitError("RTSP_URL_BYTES_MAX", len(text), RTSP_URL_BYTES_MAX)
        match = _URL.fullmatch(text)
        if not match or not match[3]:
            raise RtspSyntaxError(0, "URL is not rtsp://host[:port]/path")
        if _UNPRINTABLE.search(match[3] + match[5]):
            raise RtspSyntaxError(0, "URL holds a blank or a control character")
        if match[5] and match[5][0] not in "/?":
            raise RtspSyntaxError(0, "URL is not rtsp://host[:port]/path")
        port = int(match[4]) if match[4] else None
        if port is not None and not 0 < port < 65536:
            raise RtspSyntaxError(0, f"URL names port {port}")
        credentials = None
        if match[2] is not None:
            name, _, password = match[2].partition(":")
            credentials = Credentials(unquote(name), unquote(password))
        target = match[5].partition("#")[0]
        return cls(match[1].lower(), match[3], port, target, credentials)

    @property
    def address(self) -> tuple[str, int]:
        """Host (without IPv6 brackets) and port to connect to."""
        return self.host.strip("[]"), self.port or RTSP_PORT

    @property
    def authority(self) -> str:
        """``host[:port]`` as sent."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    def without_credentials(self) -> RtspUrl:
        """The same URL, fit to be sent."""
        return replace(self, credentials=None)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"
