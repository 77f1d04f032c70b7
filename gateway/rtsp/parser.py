"""RTSP messages from bytes: one complete message, or a stream of messages and ``$`` frames.

Owns the grammar of RFC 2326 sections 4, 10.12 and 15. Strict where a mistake could hide another
message (lengths, versions, limits), tolerant by name elsewhere (``quirks``). Never decides what a
message means, never buffers more than one of the largest message.

- P1 Whatever the bytes, the outcome is messages or a ``WireError``; nothing else is raised.
- P2 ``MessageParser`` gives the same messages however its input is split.
- P3 After an error a ``MessageParser`` takes no more input.

A connection to a camera is split by ``cext.interleaved`` and uses ``parse_message`` only; the
incremental form serves our RTSP server and, later, TLS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.errors import RtspLimitError, RtspSyntaxError
from gateway.limits import RTSP_BODY_BYTES_MAX, RTSP_HEAD_BYTES_MAX, RTSP_HEADERS_MAX
from gateway.rtsp.messages import Headers, Request, Response
from gateway.rtsp.quirks import Quirk, QuirkNotes

DOLLAR = 0x24
INTERLEAVED_HEADER_BYTES = 4

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"(RTSP/\d\.\d) +(\d{3})(?: (.*))?")
_REQUEST_LINE = re.compile(rb"(\S+) +(\S+) +(RTSP/\d\.\d) *")


@dataclass(frozen=True, slots=True)
class InterleavedFrame:
    """RTP or RTCP inside the RTSP connection (RFC 2326 section 10.12)."""

    channel: int
    payload: bytes


Message = Request | Response


def parse_message(data: bytes, notes: QuirkNotes | None = None) -> Message:
    """One complete message, head and body. Raises RtspSyntaxError or RtspLimitError.

    ``data`` must end where the message ends: bytes missing or left over are errors.
    """
    notes = QuirkNotes() if notes is None else notes
    start = _skip_blank_lines(data, notes)
    end = _HEAD_END.search(data, start)
    head_end = end.end() if end else len(data)
    if head_end - start > RTSP_HEAD_BYTES_MAX:
        raise RtspLimitError("RTSP_HEAD_BYTES_MAX", head_end - start, RTSP_HEAD_BYTES_MAX)
    if end is None:
        raise RtspSyntaxError(len(data), "message ends inside its head")
    message = _parse_head(data, start, end.start(), notes)
    length = body_bytes(message.headers)
    if len(data) - head_end != length:
        raise RtspSyntaxError(
            head_end, f"body has {len(data) - head_end} bytes, Content-Length says {length}"
        )
    return _with_body(message, data[head_end:])


def body_bytes(headers: Headers) -> int:
    """The length of the body. Two lengths that differ are an error: they could hide a message."""
    values = {value.strip() for value in headers.get_all("Content-Length")}
    if not values:
        return 0
    if len(values) > 1:
        raise RtspSyntaxError(0, "Content-Length given twice with different values")
    text = values.pop()
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise RtspSyntaxError(0, "Content-Length is not a number")
    length = int(text)
    if length > RTSP_BODY_BYTES_MAX:
        raise RtspLimitError("RTSP_BODY_BYTES_MAX", length, RTSP_BODY_BYTES_MAX)
    return length


def parse_cseq(headers: Headers, notes: QuirkNotes) -> int | None:
    """The sequence number; None, and a quirk, if there is none that can be read."""
    text = headers.get("CSeq").strip()
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    notes.note(Quirk.MISSING_CSEQ)
    return None


class MessageParser:
    """The incremental form: ``feed`` bytes, take ``Message`` and ``InterleavedFrame`` in order.

    Holds at most one message of the largest size plus what was fed last.
    """

    def __init__(self, notes: QuirkNotes | None = None) -> None:
        self._notes = QuirkNotes() if notes is None else notes
        self._buffer = bytearray()
        self._consumed = 0  # bytes of the stream before the buffer
        self._scanned = 0  # no end of head below this
        self._broken = False

    def feed(self, data: bytes) -> Iterator[Message | InterleavedFrame]:
        """Take ``data`` in, and iterate over all that is complete now.

        The iteration raises WireError where the stream breaks, after what came before; then this
        parser is finished (P3). Offsets in errors count from the start of the stream.
        """
        assert not self._broken, "a parser that raised is given up"
        self._buffer += data
        return self._complete()

    def _complete(self) -> Iterator[Message | InterleavedFrame]:
        try:
            while (item := self._next()) is not None:
                yield item
        except RtspSyntaxError as error:
            self._broken = True
            raise RtspSyntaxError(self._consumed + error.offset, error.rule) from None
        except RtspLimitError:
            self._broken = True
            raise

    def _next(self) -> Message | InterleavedFrame | None:
        self._drop_blank_lines()
        if not self._buffer:
            return None
        if self._buffer[0] == DOLLAR:
            return self._next_frame()
        return self._next_message()

    def _drop_blank_lines(self) -> None:
        count = len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))
        if count:
            self._notes.note(Quirk.LEADING_BLANK_LINES)
            self._take(count)

    def _next_frame(self) -> InterleavedFrame | None:
        if len(self._buffer) < INTERLEAVED_HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[2:4], "big")
        if len(self._buffer) < INTERLEAVED_HEADER_BYTES + length:
            return None
        frame = self._take(INTERLEAVED_HEADER_BYTES + length)
        return InterleavedFrame(frame[1], frame[INTERLEAVED_HEADER_BYTES:])

    def _next_message(self) -> Message | None:
        _check_first_byte(self._buffer[0])
        end = _HEAD_END.search(self._buffer, max(self._scanned - 3, 0))
        head_bytes = end.end() if end else len(self._buffer)
        if head_bytes > RTSP_HEAD_BYTES_MAX:
            raise RtspLimitError("RTSP_HEAD_BYTES_MAX", head_bytes, RTSP_HEAD_BYTES_MAX)
        if end is None:
            self._scanned = len(self._buffer)
            return None
        head = bytes(self._buffer[: end.end()])
        # Notes are taken once, when the message is whole, not at every look at its head.
        message = _parse_head(head, 0, end.start(), QuirkNotes())
        total = end.end() + body_bytes(message.headers)
        if len(self._buffer) < total:
            self._scanned = end.start()
            return None
        message = _parse_head(head, 0, end.start(), self._notes)
        return _with_body(message, self._take(total)[end.end() :])

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._consumed += count
        self._scanned = 0
        return taken


def _skip_blank_lines(data: bytes, notes: QuirkNotes) -> int:
    start = len(data) - len(data.lstrip(b"\r\n"))
    if start:
        notes.note(Quirk.LEADING_BLANK_LINES)
    return start


def _check_first_byte(byte: int) -> None:
    """Garbage is refused at its first byte, not after 16 KiB of waiting for the end of a head."""
    if not 0x21 <= byte <= 0x7E:
        raise RtspSyntaxError(0, f"byte 0x{byte:02x} begins no RTSP message")


def _parse_head(data: bytes, start: int, end: int, notes: QuirkNotes) -> Message:
    """The head in ``data[start:end]``, its last line without a line end."""
    lines = _split_lines(data, start, end, notes)
    offset, first = lines[0]
    headers = _parse_headers(lines[1:], notes)
    if status := _STATUS_LINE.fullmatch(first):
        _check_version(offset, status[1], notes)
        reason = _text(status[3] or b"").strip(" ")
        if not reason:
            notes.note(Quirk.NO_REASON)
        return Response(int(status[2]), reason, headers)
    if request := _REQUEST_LINE.fullmatch(first):
        if not _TOKEN.fullmatch(request[1]):
            raise RtspSyntaxError(offset, "method is no token")
        _check_version(offset, request[3], notes)
        return Request(_text(request[1]), _text(request[2]), headers)
    raise RtspSyntaxError(offset, "first line is neither an RTSP request nor a status line")


def _check_version(offset: int, version: bytes, notes: QuirkNotes) -> None:
    if version != b"RTSP/1.0":
        if not version.startswith(b"RTSP/1."):
            raise RtspSyntaxError(offset, f"{_text(version)} is not RTSP/1.0")
        notes.note(Quirk.UNKNOWN_VERSION)


def _split_lines(data: bytes, start: int, end: int, notes: QuirkNotes) -> list[tuple[int, bytes]]:
    lines: list[tuple[int, bytes]] = []
    offset = start
    bare = False
    for line in data[start:end].split(b"\n"):
        last = offset + len(line) >= end
        bare = bare or (not last and not line.endswith(b"\r"))
        lines.append((offset, line[:-1] if line.endswith(b"\r") else line))
        offset += len(line) + 1
    if bare:
        notes.note(Quirk.BARE_LF)
    if len(lines) > RTSP_HEADERS_MAX + 1:
        raise RtspLimitError("RTSP_HEADERS_MAX", len(lines) - 1, RTSP_HEADERS_MAX)
    return lines


def _parse_headers(lines: list[tuple[int, bytes]], notes: QuirkNotes) -> Headers:
    fields: list[tuple[str, str]] = []
    for offset, line in lines:
        if line[:1] in (b" ", b"\t") and fields:
            notes.note(Quirk.FOLDED_HEADER)
            name, value = fields[-1]
            fields[-1] = (name, f"{value} {_text(line).strip()}".strip())
            continue
        raw_name, colon, raw_value = line.partition(b":")
        if not colon:
            notes.note(Quirk.HEADER_WITHOUT_COLON)
            continue
        stripped = raw_name.rstrip(b" \t")
        if stripped != raw_name:
            notes.note(Quirk.BLANK_BEFORE_COLON)
        if not _TOKEN.fullmatch(stripped):
            raise RtspSyntaxError(offset, "header name is no token")
        fields.append((_text(stripped), _text(raw_value).strip(" \t\r\x00")))
    return Headers(fields)


def _with_body(message: Message, body: bytes) -> Message:
    if not body:
        return message
    if isinstance(message, Request):
        return Request(message.method, message.uri, message.headers, body)
    return Response(message.status, message.reason, message.headers, body)


def _text(data: bytes) -> str:
    """UTF-8, with other bytes kept as surrogates so that they go out as they came in."""
    return data.decode("utf-8", "surrogateescape")
