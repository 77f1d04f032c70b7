"""The structured RTSP headers: Transport, Session, RTP-Info, Range (RFC 2326 section 12).

Owns reading and writing of these four, for client and server, TCP and UDP. Tolerant by name
(``quirks``) in what only describes, strict in what bytes are routed by: channels and ports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from gateway.errors import RtspSyntaxError
from gateway.limits import (
    SESSION_TIMEOUT_DEFAULT_S,
    SESSION_TIMEOUT_MAX_S,
    SESSION_TIMEOUT_MIN_S,
)
from gateway.rtsp.quirks import Quirk, QuirkNotes

_SESSION_ID = re.compile(r"[\x21-\x3a\x3c-\x7e]+")
_HEX = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,8})")
_NUMBER = re.compile(r"\d{1,10}")


@dataclass(frozen=True, slots=True)
class Transport:
    """One transport of a Transport header. Channels and ports are (RTP, RTCP) pairs or None."""

    tcp: bool
    unicast: bool = True
    interleaved: tuple[int, int] | None = None
    client_port: tuple[int, int] | None = None
    server_port: tuple[int, int] | None = None
    source: str = ""
    destination: str = ""
    ssrc: int | None = None
    mode: str = ""

    def encode(self) -> str:
        """As sent."""
        parts = ["RTP/AVP/TCP" if self.tcp else "RTP/AVP"]
        parts.append("unicast" if self.unicast else "multicast")
        pairs = (
            ("interleaved", self.interleaved),
            ("client_port", self.client_port),
            ("server_port", self.server_port),
        )
        for name, text in (("destination", self.destination), ("source", self.source)):
            if text:
                parts.append(f"{name}={text}")
        parts.extend(f"{name}={pair[0]}-{pair[1]}" for name, pair in pairs if pair)
        if self.ssrc is not None:
            parts.append(f"ssrc={self.ssrc:08X}")
        if self.mode:
            parts.append(f'mode="{self.mode}"')
        return ";".join(parts)


def parse_transports(value: str, notes: QuirkNotes) -> tuple[Transport, ...]:
    """Every RTP transport offered, best first. Raises RtspSyntaxError if there is none."""
    offers = [_split_unquoted(item, ";") for item in _split_unquoted(value, ",")]
    found = tuple(
        _parse_transport(parts, notes)
        for parts in offers
        if parts and parts[0].upper().startswith("RTP/AVP")
    )
    if not found:
        raise RtspSyntaxError(0, "Transport names no RTP/AVP transport")
    return found


def _parse_transport(parts: list[str], notes: QuirkNotes) -> Transport:
    profile = parts[0].upper().split("/")
    parameters: dict[str, str] = {}
    flags: set[str] = set()
    for part in parts[1:]:
        name, equals, value = part.partition("=")
        if equals:
            parameters.setdefault(name.strip().lower(), value.strip().strip('"').strip())
        else:
            flags.add(name.strip().lower())
    return Transport(
        tcp=profile[2:3] == ["TCP"],
        unicast="multicast" not in flags,
        interleaved=_pair(parameters, "interleaved", 255, notes),
        client_port=_pair(parameters, "client_port", 65535, notes),
        server_port=_pair(parameters, "server_port", 65535, notes),
        source=parameters.get("source", ""),
        destination=parameters.get("destination", ""),
        ssrc=_ssrc(parameters, notes),
        mode=parameters.get("mode", "").lower(),
    )


def _pair(
    parameters: dict[str, str], name: str, maximum: int, notes: QuirkNotes
) -> tuple[int, int] | None:
    text = parameters.get(name)
    if text is None:
        return None
    first, dash, second = (part.strip() for part in text.partition("-"))
    if not _NUMBER.fullmatch(first) or (dash and not _NUMBER.fullmatch(second)):
        raise RtspSyntaxError(0, f"Transport {name} is no pair of numbers")
    if not dash:
        notes.note(Quirk.ONE_CHANNEL)
    low = int(first)
    high = int(second) if dash else low + 1
    if low > maximum or high > maximum:
        raise RtspSyntaxError(0, f"Transport {name} is beyond {maximum}")
    return low, high


def _ssrc(parameters: dict[str, str], notes: QuirkNotes) -> int | None:
    text = parameters.get("ssrc")
    if text is None:
        return None
    if match := _HEX.fullmatch(text.replace(" ", "")):
        return int(match[1], 16)
    notes.note(Quirk.BAD_SSRC)
    return None


@dataclass(frozen=True, slots=True)
class Session:
    """A Session header: the id, and the timeout in seconds if it names a usable one."""

    id: str
    timeout_s: int = SESSION_TIMEOUT_DEFAULT_S


def parse_session(value: str) -> Session | None:
    """None if the header holds no id. A timeout out of all bounds is brought within them."""
    parts = [part.strip() for part in value.split(";")]
    if not _SESSION_ID.fullmatch(parts[0]):
        return None
    timeout_s = SESSION_TIMEOUT_DEFAULT_S
    for part in parts[1:]:
        name, _, text = part.partition("=")
        text = text.strip()
        if name.strip().lower() == "timeout" and _NUMBER.fullmatch(text) and int(text) > 0:
            timeout_s = min(max(int(text), SESSION_TIMEOUT_MIN_S), SESSION_TIMEOUT_MAX_S)
    return Session(parts[0], timeout_s)


@dataclass(frozen=True, slots=True)
class RtpInfo:
    """One stream of an RTP-Info header. Numbers a camera left out or mangled are None.

    For diagnosis only: cameras send ``seq=0`` and wrong ``rtptime`` often enough.
    """

    url: str
    seq: int | None = None
    rtptime: int | None = None
    ssrc: int | None = None


def parse_rtp_info(value: str) -> tuple[RtpInfo, ...]:
    """Every stream; what does not parse is left out."""
    return tuple(_parse_rtp_info(item) for item in _split_streams(value))


def _split_streams(value: str) -> Iterator[str]:
    """URLs may hold commas: a stream begins at ``url=``."""
    starts = [match.start(1) for match in re.finditer(r"(?:^|,)\s*(url=)", value, re.I)]
    for start, end in pairwise([*starts, len(value)]):
        yield value[start:end].strip().rstrip(",")


def _parse_rtp_info(item: str) -> RtpInfo:
    # Parameters stand behind the URL, which may hold semicolons itself.
    parameters: dict[str, str] = {}
    rest = item[len("url=") :]
    for _ in ("seq", "rtptime", "ssrc"):
        if match := re.search(r";\s*(seq|rtptime|ssrc)=([^;]*)$", rest, re.I):
            parameters[match[1].lower()] = match[2].strip()
            rest = rest[: match.start()]
    seq = _bounded(parameters.get("seq", ""), 2**16)
    rtptime = _bounded(parameters.get("rtptime", ""), 2**32)
    ssrc = _HEX.fullmatch(parameters.get("ssrc", ""))
    return RtpInfo(rest.strip().strip('"'), seq, rtptime, int(ssrc[1], 16) if ssrc else None)


def _bounded(text: str, end: int) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) and int(text) < end else None


@dataclass(frozen=True, slots=True)
class Range:
    """A Range header: ``unit`` npt, clock or smpte; both ends as written, "" for an open end."""

    unit: str
    start: str
    end: str


_RANGE = re.compile(
    r"\s*(npt|clock|smpte(?:-\w+)?(?:-drop)?)\s*=\s*([^-;\s]*)\s*-\s*([^-;\s]*)\s*(?:;.*)?", re.I
)
_RANGE_VALUES = {
    "npt": re.compile(r"now|\d+(?:\.\d*)?|\d+:\d{1,2}:\d{1,2}(?:\.\d*)?"),
    "clock": re.compile(r"\d{8}T\d{6}(?:\.\d+)?Z"),
    "smpte": re.compile(r"\d{1,2}:\d{1,2}:\d{1,2}(?::\d{1,2}(?:\.\d{1,2})?)?"),
}


def parse_range(value: str) -> Range:
    """``npt=0.000-``, ``clock=20261124T120000Z-``, ``smpte=...`` (RFC 2326 section 3.5 to 3.7)."""
    match = _RANGE.fullmatch(value)
    if not match or not (match[2] or match[3]):
        raise RtspSyntaxError(0, "Range is not unit=start-end")
    unit = match[1].lower().partition("-")[0]
    for text in (match[2], match[3]):
        if text and not _RANGE_VALUES[unit].fullmatch(text):
            raise RtspSyntaxError(0, f"Range holds a value that is no {unit} time")
    return Range(unit, match[2], match[3])


def _split_unquoted(text: str, separator: str) -> list[str]:
    """Split at ``separator`` outside double quotes; parts stripped, empty ones left out."""
    parts: list[str] = []
    start = 0
    quoted = False
    for index, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[start:index].strip())
            start = index + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]
