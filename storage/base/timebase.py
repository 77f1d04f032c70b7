"""Time as integers: nanoseconds since 1970-01-01 UTC, ranges half-open. No floats, no zones inside.

Text is RFC 3339 with an explicit zone, parsed and written without losing nanoseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from storage.errors import ValueFormatError

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))"
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_SIZE_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{p}b": 1000**n for n, p in enumerate("kmgtp", start=1)},
    **{f"{p}ib": 1024**n for n, p in enumerate("kmgtp", start=1)},
}


@dataclass(frozen=True, slots=True)
class TimeRange:
    """[start_ns, end_ns); an empty range (start == end) is allowed, a reversed one is not."""

    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns < self.start_ns:
            raise ValueFormatError(
                f"range ends before it starts: {format_rfc3339(self.start_ns)} to "
                f"{format_rfc3339(self.end_ns)}"
            )

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns

    def __contains__(self, time_ns: int) -> bool:
        return self.start_ns <= time_ns < self.end_ns

    def touches(self, other: TimeRange) -> bool:
        """True if the two have an instant in common."""
        return self.start_ns < other.end_ns and other.start_ns < self.end_ns

    def intersect(self, other: TimeRange) -> TimeRange | None:
        start_ns = max(self.start_ns, other.start_ns)
        end_ns = min(self.end_ns, other.end_ns)
        return TimeRange(start_ns, end_ns) if start_ns < end_ns else None


def parse_rfc3339(text: str) -> int:
    """Nanoseconds UTC of an RFC 3339 time (section 5.6). A missing zone is an error, never a guess.

    A leap second (:60) is taken as the second after. Raises ValueFormatError.
    """
    match = _RFC3339.fullmatch(text.strip())
    if match is None:
        raise ValueFormatError(
            f"time {text!r}: write it as 2026-05-04T13:00:00+08:00 or 2026-05-04T05:00:00Z"
        )
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    leap = second == 60
    zone: tzinfo = UTC
    try:
        if match[9]:
            away = timedelta(hours=int(match[10]), minutes=int(match[11]))
            if int(match[11]) > 59:
                raise ValueError("zone minutes")
            zone = timezone(away if match[9] == "+" else -away)
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=zone)
        since = moment - _EPOCH
    except (ValueError, OverflowError) as error:
        raise ValueFormatError(f"time {text!r} does not exist: {error}") from error
    whole = since.days * 86_400 + since.seconds + leap
    return whole * SECOND_NS + int((match[7] or "").ljust(9, "0"))


def format_rfc3339(time_ns: int) -> str:
    """UTC with ``Z``; three decimals, or nine where milliseconds would lose something."""
    seconds, nanos = divmod(time_ns, SECOND_NS)
    moment = _EPOCH + timedelta(seconds=seconds)
    fraction = f"{nanos // 1_000_000:03d}" if nanos % 1_000_000 == 0 else f"{nanos:09d}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction}Z"


def parse_size(text: str) -> int:
    """Bytes of ``500GiB``, ``8TB``, ``1.5 TiB`` or a plain number. Raises ValueFormatError."""
    match = _SIZE.fullmatch(text.strip())
    scale = _SIZE_UNITS.get(match[2].lower()) if match else None
    if match is None or scale is None:
        raise ValueFormatError(f"size {text!r}: write it as 500GiB, 8TB or a number of bytes")
    whole, _, fraction = match[1].partition(".")
    divisor: int = 10 ** len(fraction)
    return int(whole + fraction) * scale // divisor


def format_size(size_bytes: int) -> str:
    """For people: ``512.0 MiB``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
