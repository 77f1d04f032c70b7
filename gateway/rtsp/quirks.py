"""What cameras do wrong and Ringvault accepts: one name, and one function where bytes are mended.

Owns the list. A tolerance that is not named here does not exist: parser, SDP and client note each
one they use in a ``QuirkNotes``, whose counts end in the feed's status (C12 of
docs/design/rtsp.md). docs/ref/quirks.md says which devices do it; a test keeps the two lists
equal, and tests/gateway/rtsp/test_quirks.py holds one message for every quirk.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator
from enum import Enum


class Quirk(Enum):
    """The value is the name in docs/ref/quirks.md and in the counters."""

    # messages
    BARE_LF = "bare_lf"
    LEADING_BLANK_LINES = "leading_blank_lines"
    NO_REASON = "no_reason"
    FOLDED_HEADER = "folded_header"
    BLANK_BEFORE_COLON = "blank_before_colon"
    HEADER_WITHOUT_COLON = "header_without_colon"
    MISSING_CSEQ = "missing_cseq"
    FOREIGN_CSEQ = "foreign_cseq"
    UNKNOWN_VERSION = "unknown_version"
    # session
    SESSION_ID_CHANGED = "session_id_changed"
    NO_SESSION_ID = "no_session_id"
    OPTIONS_REFUSED = "options_refused"
    KEEPALIVE_REFUSED = "keepalive_refused"
    KEEPALIVE_UNANSWERED = "keepalive_unanswered"
    AGGREGATE_REFUSED = "aggregate_refused"
    OTHER_CHANNELS = "other_channels"
    NO_CHANNELS = "no_channels"
    ONE_CHANNEL = "one_channel"
    TRANSPORT_NOT_TCP = "transport_not_tcp"
    BAD_SSRC = "bad_ssrc"
    WRONG_SSRC = "wrong_ssrc"
    # URLs
    BASE_RELATIVE = "base_relative"
    BASE_WITHOUT_SCHEME = "base_without_scheme"
    BASE_DOUBLED_SCHEME = "base_doubled_scheme"
    BASE_BARE_IPV6 = "base_bare_ipv6"
    BASE_UNUSABLE = "base_unusable"
    NO_CONTROL = "no_control"
    # SDP
    NO_CONTENT_TYPE = "no_content_type"
    SDP_MISSING_LINE = "sdp_missing_line"
    SDP_DOUBLED_LINE = "sdp_doubled_line"
    SDP_BAD_LINE = "sdp_bad_line"
    NO_RTPMAP = "no_rtpmap"
    NO_CLOCK_RATE = "no_clock_rate"
    FMTP_OTHER_TYPE = "fmtp_other_type"
    FMTP_TRAILING = "fmtp_trailing"
    SPROP_ANNEX_B = "sprop_annex_b"
    SPROP_TRAILING_ZEROS = "sprop_trailing_zeros"
    SPROP_UNUSABLE = "sprop_unusable"


class QuirkNotes:
    """Counts of the quirks a feed has shown. Bounded by the number of quirks."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[Quirk] = Counter()

    def note(self, quirk: Quirk) -> None:
        """Count one more."""
        self._counts[quirk] += 1

    def __getitem__(self, quirk: Quirk) -> int:
        return self._counts[quirk]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((quirk.value, count) for quirk, count in self._counts.items())

    def __contains__(self, quirk: Quirk) -> bool:
        return self._counts[quirk] > 0


_DOUBLED_SCHEME = re.compile(r"(?i)^(?:rtsps?://)+(?=rtsps?://)")
_BARE_IPV6 = re.compile(r"(?i)^(rtsps?://)([0-9a-f]*:[0-9a-f:.]*:[0-9a-f:.]*)(/.*)?$")


def mend_base(base: str, notes: QuirkNotes, request_root: str) -> str:
    """A Content-Base as an absolute URL; ``request_root`` is ``rtsp://host:port`` of the request.

    ``/path`` (relative), ``host/path`` (no scheme), ``rtsp://rtsp://host/path`` (doubled, seen from
    NVRs that paste a URL into a template), ``rtsp://fe80::1/path`` (IPv6 without brackets).
    """
    base = base.strip()
    mended = _DOUBLED_SCHEME.sub("", base)
    if mended != base:
        notes.note(Quirk.BASE_DOUBLED_SCHEME)
    if mended.startswith("/") and not mended.startswith("//"):
        notes.note(Quirk.BASE_RELATIVE)
        return request_root + mended
    if not re.match(r"(?i)rtsps?://", mended):
        notes.note(Quirk.BASE_WITHOUT_SCHEME)
        mended = request_root.partition("://")[0] + "://" + mended.lstrip("/")
    if bare := _BARE_IPV6.match(mended):
        notes.note(Quirk.BASE_BARE_IPV6)
        mended = f"{bare[1]}[{bare[2]}]{bare[3] or ''}"
    return mended


def mend_fmtp(value: str, notes: QuirkNotes) -> str:
    """Format parameters without NULs and blanks at their ends (Dahua, Reolink)."""
    mended = value.replace("\x00", "").strip()
    if mended != value:
        notes.note(Quirk.FMTP_TRAILING)
    return mended


_START_CODE = re.compile(rb"\x00\x00\x00?\x01")


def mend_parameter_set(encoded: str, notes: QuirkNotes) -> list[bytes]:
    """NAL units of one base64 item of an sprop; none if it is not base64.

    Missing padding is supplied. Annex B start codes inside (cheap cameras put a whole SPS+PPS
    stream in one item) separate NAL units. A trailing NUL after the RBSP stop bit (Dahua, PPS) is
    no part of the NAL unit: H.264 and H.265 section 7.4.1 forbid it.
    """
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        notes.note(Quirk.SPROP_UNUSABLE)
        return []
    pieces = [data]
    if _START_CODE.match(data):
        notes.note(Quirk.SPROP_ANNEX_B)
        pieces = _START_CODE.split(data)
    stripped = [piece.rstrip(b"\x00") for piece in pieces]
    if len(pieces) == 1 and stripped != pieces:
        notes.note(Quirk.SPROP_TRAILING_ZEROS)
    return [piece for piece in stripped if piece]
