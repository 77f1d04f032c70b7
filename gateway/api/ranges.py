"""HTTP ranges and preconditions over one representation (RFC 9110 sections 13, 14). Pure.

Owns the decision "which bytes, which status" for a resource whose size and strong entity tag are
known. Only single byte ranges are honoured; a list of ranges, another unit or nonsense is
ignored, as section 14.2 allows, and the whole is sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPEC = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE | re.ASCII)
_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
# More digits than any file has bytes; keeps int() off absurd input.
_DIGITS_MAX = 19


@dataclass(frozen=True, slots=True)
class Selection:
    """What to send: ``status`` 200, 206, 304 or 416 and the half-open byte range [start, end)."""

    status: int
    start: int
    end: int
    size: int

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.end - self.start

    @property
    def content_range(self) -> str | None:
        """The Content-Range header, where the status has one."""
        if self.status == 206:
            return f"bytes {self.start}-{self.end - 1}/{self.size}"
        return f"bytes */{self.size}" if self.status == 416 else None


def select(
    *,
    size: int,
    etag: str,
    range_header: str | None,
    if_range: str | None = None,
    if_none_match: str | None = None,
) -> Selection:
    """Decide. ``etag`` is strong and quoted. Precedence as in RFC 9110 section 13.2.2."""
    whole = Selection(200, 0, size, size)
    if if_none_match is not None and _matches_any(if_none_match, etag):
        return Selection(304, 0, 0, size)
    if range_header is None or (if_range is not None and if_range.strip() != etag):
        # If-Range compares strongly; a date never matches, for we send no Last-Modified.
        return whole
    match = _SPEC.fullmatch(range_header)
    if (
        match is None
        or not any(match.groups())
        or any(len(n) > _DIGITS_MAX for n in match.groups())
    ):
        return whole
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        if last and int(last) < int(first):
            return whole
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= size or start >= end:
        return Selection(416, 0, 0, size)
    return Selection(206, start, end, size)


def _matches_any(header: str, etag: str) -> bool:
    """If-None-Match: ``*``, or a list compared weakly (RFC 9110 section 13.1.2)."""
    if header.strip() == "*":
        return True
    return any(tag == etag for _, tag in _TAG.findall(header))
