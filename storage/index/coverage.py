"""What a camera has in a time range: spans of footage, gaps with their causes, sums per day.

Owns the merging of index rows. Never reads a record: times of gaps are those of the index, right
to the millisecond; a clip, which reads the records, gives them to the nanosecond.

Rules
- Fragments that follow each other within SPACE_MAX_NS are one span.
- A recorded gap is reported as recorded, also where it lies inside a span (packets lost there).
- A longer space that no live record explains is `expired` as far as a row whose slot was reused
  covers it or the ring has forgotten what was there, else `unknown`. Nothing is smoothed.
- `stored_ns` counts spans; `expected_ns` is the part of the range that is not in the future.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage.base.gap import Gap, GapCause
from storage.base.timebase import DAY_NS, SECOND_NS, TimeRange
from storage.index.format import FLAG_GAP, Times, gap_causes
from storage.index.index import CameraIndex, RowSpan

SPACE_MAX_NS: Final = SECOND_NS

Extent = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Span:
    """Footage without a space of more than a second. ns UTC, half-open."""

    start_ns: int
    end_ns: int
    fragments: int

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class DaySum:
    """One UTC day (of a shifted calendar: ``day_start_ns`` says where it begins)."""

    day_start_ns: int
    expected_ns: int
    stored_ns: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Answer of coverage(): spans and gaps in time order, clipped to ``range``."""

    range: TimeRange
    spans: tuple[Span, ...]
    gaps: tuple[Gap, ...]
    expected_ns: int
    stored_ns: int

    def per_day(self, *, utc_offset_ns: int = 0) -> tuple[DaySum, ...]:
        """Sums for each calendar day that the past part of the range touches, empty days too."""
        end_ns = self.range.start_ns + self.expected_ns
        days = []
        day_ns = (self.range.start_ns + utc_offset_ns) // DAY_NS * DAY_NS - utc_offset_ns
        while day_ns < end_ns:
            low, high = max(day_ns, self.range.start_ns), min(day_ns + DAY_NS, end_ns)
            stored_ns = sum(
                max(0, min(span.end_ns, high) - max(span.start_ns, low)) for span in self.spans
            )
            days.append(DaySum(day_ns, high - low, stored_ns))
            day_ns += DAY_NS
        return tuple(days)


def coverage(index: CameraIndex, wanted: TimeRange, now_ns: int) -> Coverage:
    """Spans and gaps of one camera. ``now_ns``: the later part of the range is not expected yet.

    Cost: a copy of the rows in the range and a few vector operations on it.
    """
    end_ns = min(wanted.end_ns, max(now_ns, wanted.start_ns))
    past = TimeRange(wanted.start_ns, end_ns)
    around = index.rows_in(past)
    starts: Times = around.rows["start_ns"]
    gap = (around.rows["flags"] & FLAG_GAP) != 0
    fragments, gaps = around.live & ~gap, around.live & gap
    spans = _spans(starts[fragments], around.ends_ns[fragments], past)
    causes = gap_causes(around.rows[gaps])
    recorded = _recorded_gaps(starts[gaps], around.ends_ns[gaps], causes, past)
    holes = unexplained(around, past, [(s.start_ns, s.end_ns) for s in spans] + _extents(recorded))
    return Coverage(
        range=wanted,
        spans=tuple(spans),
        gaps=tuple(sorted([*recorded, *holes], key=lambda g: (g.start_ns, g.end_ns))),
        expected_ns=past.duration_ns,
        stored_ns=sum(span.duration_ns for span in spans),
    )


def unexplained(around: RowSpan, past: TimeRange, explained: list[Extent]) -> list[Gap]:
    """The spaces in ``past`` that no extent explains, as gaps, expired or unknown.

    ``around``: all rows of the range, as CameraIndex.rows_in gives them. Spaces of up to
    SPACE_MAX_NS are not reported, unless nothing at all is there.
    """
    starts: Times = around.rows["start_ns"]
    dead = ~around.live
    vanished = [(s.start_ns, s.end_ns) for s in _spans(starts[dead], around.ends_ns[dead], past)]
    forgotten_before_ns = past.start_ns
    if around.forgotten:
        forgotten_before_ns = int(starts[0]) if len(starts) else past.end_ns
    holes = []
    for low, high in _complement(_merge(explained), past):
        if high - low > SPACE_MAX_NS or not explained:
            holes += _name_hole(low, high, vanished, forgotten_before_ns)
    return holes


def _spans(starts: Times, ends: Times, past: TimeRange) -> list[Span]:
    """Merge extents, clipped, whose starts do not decrease, over spaces of SPACE_MAX_NS."""
    starts, ends = np.maximum(starts, past.start_ns), np.minimum(ends, past.end_ns)
    kept = starts < ends
    starts, ends = starts[kept], ends[kept]
    if len(starts) == 0:
        return []
    reach = np.maximum.accumulate(ends)
    breaks = np.flatnonzero(starts[1:] - reach[:-1] > SPACE_MAX_NS) + 1
    firsts = np.concatenate(([0], breaks))
    lasts = np.concatenate((breaks, [len(starts)]))
    return [
        Span(int(starts[first]), int(reach[last - 1]), int(last - first))
        for first, last in zip(firsts, lasts, strict=True)
    ]


def _recorded_gaps(
    starts: Times, ends: Times, causes: NDArray[np.uint16], past: TimeRange
) -> list[Gap]:
    """Gap rows, clipped; those of one cause that touch (a long gap in several rows) joined."""
    starts, ends = np.maximum(starts, past.start_ns), np.minimum(ends, past.end_ns)
    gaps: list[Gap] = []
    last_of: dict[int, int] = {}
    for start_ns, end_ns, cause in zip(
        starts.tolist(), ends.tolist(), causes.tolist(), strict=True
    ):
        if end_ns < start_ns or (end_ns == start_ns and start_ns not in past):
            continue
        at = last_of.get(cause)
        if at is not None and gaps[at].end_ns >= start_ns:
            gaps[at] = Gap(gaps[at].start_ns, max(end_ns, gaps[at].end_ns), GapCause(cause))
            continue
        last_of[cause] = len(gaps)
        gaps.append(Gap(start_ns, end_ns, GapCause(cause)))
    return gaps


def _extents(gaps: Iterable[Gap]) -> list[Extent]:
    return [(gap.start_ns, gap.end_ns) for gap in gaps]


def _merge(extents: list[Extent]) -> list[Extent]:
    """Sorted, disjoint cover of the extents, spaces up to SPACE_MAX_NS closed."""
    merged: list[Extent] = []
    for start_ns, end_ns in sorted(extents):
        if merged and start_ns - merged[-1][1] <= SPACE_MAX_NS:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_ns))
        else:
            merged.append((start_ns, end_ns))
    return merged


def _complement(extents: list[Extent], past: TimeRange) -> list[Extent]:
    """What of ``past`` the sorted, disjoint extents leave open."""
    holes = []
    at_ns = past.start_ns
    for start_ns, end_ns in extents:
        if start_ns > at_ns:
            holes.append((at_ns, start_ns))
        at_ns = max(at_ns, end_ns)
    if at_ns < past.end_ns:
        holes.append((at_ns, past.end_ns))
    return holes


def _name_hole(low: int, high: int, vanished: list[Extent], forgotten_before_ns: int) -> list[Gap]:
    """Cut an unexplained space into expired and unknown parts."""
    gone = _merge([*vanished, (-(1 << 62), forgotten_before_ns)])
    gaps = []
    at_ns = low
    for start_ns, end_ns in gone:
        start_ns, end_ns = max(start_ns, low), min(end_ns, high)
        if start_ns >= end_ns:
            continue
        if start_ns > at_ns:
            gaps.append(Gap(at_ns, start_ns, GapCause.UNKNOWN))
        gaps.append(Gap(start_ns, end_ns, GapCause.EXPIRED))
        at_ns = end_ns
    if at_ns < high:
        gaps.append(Gap(at_ns, high, GapCause.UNKNOWN))
    return gaps
