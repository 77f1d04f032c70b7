"""Session descriptions as cameras write them (RFC 8866, RFC 4566).

Owns the text grammar: lines to SessionDescription. What of it can be recorded, and under which URL
it is set up, is ``tracks``'s business. A line that is wrong is skipped by name (``quirks``); a
description without a single media line, or that is no SDP at all, is an SdpError.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from gateway.errors import RtspLimitError, SdpError
from gateway.limits import SDP_FORMATS_MAX, SDP_LINES_MAX, SDP_MEDIA_MAX
from gateway.rtsp.quirks import Quirk, QuirkNotes, mend_fmtp

CLOCK_RATE_VIDEO = 90_000

# RFC 3551 tables 4 and 5: payload types that need no rtpmap. (encoding, clock rate)
STATIC_TYPES = {
    0: ("PCMU", 8000),
    3: ("GSM", 8000),
    4: ("G723", 8000),
    8: ("PCMA", 8000),
    9: ("G722", 8000),
    14: ("MPA", 90000),
    26: ("JPEG", 90000),
    31: ("H261", 90000),
    32: ("MPV", 90000),
    33: ("MP2T", 90000),
    34: ("H263", 90000),
}

_LINE = re.compile(r"([a-z])\s*=(.*)", re.S)
_MEDIA = re.compile(r"(\S+)\s+\d+(?:/\d+)?\s+(\S+)(.*)")
_RTPMAP = re.compile(r"(\d{1,3})\s+([^/\s]+)(?:/(\d{1,9}))?.*")
_FMTP = re.compile(r"(\d{1,3})(?:[\s;]+(.*))?", re.S)


@dataclass(frozen=True, slots=True)
class Format:
    """One payload type. ``encoding`` in upper case, "" unknown; ``clock_rate`` in Hz, 0 unknown."""

    payload_type: int
    encoding: str = ""
    clock_rate: int = 0
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        """A format parameter by its lower-case name, "" if there is none."""
        return next((value for key, value in self.parameters if key == name), "")


@dataclass(frozen=True, slots=True)
class MediaDescription:
    """One ``m=`` section. ``control`` is None if there is no such attribute."""

    kind: str
    protocol: str
    formats: tuple[Format, ...]
    control: str | None = None


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """What we use of an SDP. ``control`` is the session-level one."""

    name: str
    control: str | None
    media: tuple[MediaDescription, ...]


@dataclass(slots=True)
class _Section:
    """Lines from one ``m=`` to the next, or before the first."""

    kind: str = ""
    protocol: str = ""
    payload_types: list[int] = field(default_factory=list)
    rtpmap: dict[int, tuple[str, int]] = field(default_factory=dict)
    fmtp: dict[int, str] = field(default_factory=dict)
    control: str | None = None


def parse_sdp(body: bytes, notes: QuirkNotes) -> SessionDescription:
    """Parse; raises SdpError, or RtspLimitError for an absurd one."""
    text = body.decode("utf-8", "surrogateescape")
    lines = re.split(r"\r\n|\n|\r", text)
    if len(lines) > SDP_LINES_MAX:
        raise RtspLimitError("SDP_LINES_MAX", len(lines), SDP_LINES_MAX)
    sections = [_Section()]
    seen: Counter[str] = Counter()
    name = ""
    for line in lines:
        if not line.strip(" \t\x00"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            notes.note(Quirk.SDP_BAD_LINE)
            continue
        kind, value = match[1], match[2].strip(" \t")
        if len(sections) == 1:
            seen[kind] += 1
        if kind == "m":
            _begin_media(sections, value, notes)
        elif kind == "a":
            _attribute(sections[-1], value, notes)
        elif kind == "s" and not name:
            name = value
    _note_session_lines(seen, notes)
    if not seen:
        raise SdpError(1, "no line of it is type=value")
    if len(sections) == 1:
        raise SdpError(0, "it describes no media")
    media = tuple(_media(section, notes) for section in sections[1:])
    return SessionDescription(name, sections[0].control, media)


def _note_session_lines(seen: Counter[str], notes: QuirkNotes) -> None:
    for kind in "vos":
        if seen[kind] == 0:
            notes.note(Quirk.SDP_MISSING_LINE)
        elif seen[kind] > 1:
            notes.note(Quirk.SDP_DOUBLED_LINE)


def _begin_media(sections: list[_Section], value: str, notes: QuirkNotes) -> None:
    if len(sections) > SDP_MEDIA_MAX:
        raise RtspLimitError("SDP_MEDIA_MAX", len(sections), SDP_MEDIA_MAX)
    match = _MEDIA.fullmatch(value)
    if not match:
        # Its attributes must not fall to the media before it: a section of no kind takes them.
        notes.note(Quirk.SDP_BAD_LINE)
        sections.append(_Section())
        return
    types = [int(t) for t in match[3].split() if t.isascii() and t.isdigit() and len(t) <= 3]
    if len(types) > SDP_FORMATS_MAX:
        raise RtspLimitError("SDP_FORMATS_MAX", len(types), SDP_FORMATS_MAX)
    types = [t for t in types if t < 128]
    sections.append(_Section(match[1].lower(), match[2].upper(), list(dict.fromkeys(types))))


def _attribute(section: _Section, value: str, notes: QuirkNotes) -> None:
    name, _, rest = value.partition(":")
    name = name.strip().lower()
    rest = rest.strip()
    if name == "control" and section.control is None:
        section.control = rest
    elif name == "rtpmap":
        if match := _RTPMAP.fullmatch(rest):
            section.rtpmap.setdefault(int(match[1]), (match[2].upper(), int(match[3] or 0)))
        else:
            notes.note(Quirk.SDP_BAD_LINE)
    elif name == "fmtp":
        if match := _FMTP.fullmatch(rest):
            section.fmtp.setdefault(int(match[1]), match[2] or "")
        else:
            notes.note(Quirk.SDP_BAD_LINE)


def _media(section: _Section, notes: QuirkNotes) -> MediaDescription:
    for payload_type in section.fmtp.keys() - set(section.payload_types):
        # Parameters of a type that this media does not have say nothing about it.
        notes.note(Quirk.FMTP_OTHER_TYPE)
        del section.fmtp[payload_type]
    formats = tuple(_format(section, t, notes) for t in section.payload_types)
    return MediaDescription(section.kind, section.protocol, formats, section.control)


def _format(section: _Section, payload_type: int, notes: QuirkNotes) -> Format:
    fmtp = mend_fmtp(section.fmtp.get(payload_type, ""), notes)
    parameters: list[tuple[str, str]] = []
    for item in fmtp.split(";"):
        name, _, value = item.partition("=")
        if name.strip():
            parameters.append((name.strip().lower(), value.strip()))
    encoding, clock_rate = section.rtpmap.get(payload_type) or STATIC_TYPES.get(
        payload_type, ("", 0)
    )
    return Format(payload_type, encoding, clock_rate, tuple(parameters))
