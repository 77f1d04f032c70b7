"""Which frames a clip holds, which it shows, and when: pure arithmetic over frame tables.

Owns C1-C4 and C8-C11 of docs/design/clip.md. Never reads anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage.base.timebase import HOUR_NS, SECOND_NS, TimeRange
from storage.clip.source import StoredRecord
from storage.volume.format import FRAME_ENTRY

FRAME_KEY: Final = 1
TIMESCALE: Final = 90_000
FRAME_TICKS_MAX: Final = 12 * HOUR_NS // SECOND_NS * TIMESCALE

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """All frames of some fragments in decoding order; arrays of equal length.

    ``times_ns``: "The time of a frame" of the format page; ``elapsed_ticks``: the same from the
    start of its fragment, in 1/90000 s, not rounded to ns. ``fragment``: index of the fragment.
    ``starts_ns``: start of each fragment. ``firsts``: number of each fragment's first frame, and
    the number of all frames at the end.
    """

    times_ns: Ints
    elapsed_ticks: Ints
    sizes: Ints
    keys: NDArray[np.bool_]
    fragment: Ints
    starts_ns: Ints
    firsts: Ints

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True, slots=True)
class Selection:
    """Frames [first, end) of a table are in the file; ``delivered`` is shown.

    ``presented``: frames with a time in the requested range that are shown. ``passed_over_ns``:
    start of footage left out because no key frame precedes it (C1), None usually.
    """

    first: int
    end: int
    delivered: TimeRange
    presented: int
    passed_over_ns: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """Ticks of the selected frames (C8-C11): see storage.clip.mp4.SampleTable, Presentation."""

    decode_ticks: Ints
    offset_ticks: Ints
    last_ticks: int
    edit_start_ticks: int
    edit_ticks: int


def frame_table(records: Sequence[StoredRecord]) -> FrameTable:
    """Frames of fragments that follow each other in stream order."""
    counts = np.array([record.header.frame_count for record in records], np.int64)
    firsts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    if len(records) == 0:
        nothing = np.zeros(0, np.int64)
        no_keys = np.zeros(0, np.bool_)
        return FrameTable(nothing, nothing, nothing, no_keys, nothing, nothing, firsts)
    frames = np.frombuffer(b"".join([record.frames for record in records]), FRAME_ENTRY)
    pts = frames["pts_ticks"].astype(np.int64)
    starts = np.array([record.header.start_ns for record in records], np.int64)
    rates = np.array([record.header.clock_rate for record in records], np.int64)
    earliest = np.minimum.reduceat(pts, firsts[:-1])
    elapsed = pts - np.repeat(earliest, counts)
    rate = np.repeat(rates, counts)
    return FrameTable(
        times_ns=np.repeat(starts, counts) + elapsed * SECOND_NS // rate,
        elapsed_ticks=elapsed * TIMESCALE // rate,
        sizes=frames["size_bytes"].astype(np.int64),
        keys=(frames["flags"] & FRAME_KEY) != 0,
        fragment=np.repeat(np.arange(len(records)), counts),
        starts_ns=starts,
        firsts=firsts,
    )


def first_shown_ns(table: FrameTable, ends_ns: Ints, wanted: TimeRange) -> int | None:
    """C3: `from` where a frame is on show there, else the first frame's time; None without any.

    ``ends_ns``: end of each fragment.
    """
    if len(table) == 0:
        return None
    if ((table.starts_ns <= wanted.start_ns) & (ends_ns > wanted.start_ns)).any():
        return wanted.start_ns
    inside = (table.times_ns >= wanted.start_ns) & (table.times_ns < wanted.end_ns)
    return int(table.times_ns[inside].min()) if inside.any() else None


def last_key(table: FrameTable, time_ns: int) -> int | None:
    """Number of the last key frame with a time at or before ``time_ns``."""
    numbers = np.flatnonzero(table.keys & (table.times_ns <= time_ns))
    return int(numbers[-1]) if len(numbers) else None


def select(table: FrameTable, ends_ns: Ints, wanted: TimeRange) -> Selection | None:
    """C1-C3 over fragments that reach back to the key frame, if there is one. None: nothing."""
    shown_ns = first_shown_ns(table, ends_ns, wanted)
    if shown_ns is None:
        return None
    end = int(np.flatnonzero(table.times_ns < wanted.end_ns)[-1]) + 1
    first = last_key(table, shown_ns)
    passed_over_ns = None
    if first is None:
        keys = np.flatnonzero(table.keys[:end] & (table.times_ns[:end] < wanted.end_ns))
        first = 0
        if len(keys):
            first, passed_over_ns = int(keys[0]), shown_ns
            shown_ns = int(table.times_ns[first])
    times = table.times_ns[first:end]
    inside = (times >= shown_ns) & (times < wanted.end_ns)
    # With a range inside one frame's time on show, that frame is all there is to see.
    newest = times[inside].max() if inside.any() else times[times <= shown_ns].max()
    last = first + int(np.flatnonzero(times == newest)[-1])
    delivered_end_ns = min(wanted.end_ns, _end_of(table, ends_ns, last))
    return Selection(
        first=first,
        end=end,
        delivered=TimeRange(shown_ns, max(delivered_end_ns, shown_ns + 1)),
        presented=int(inside.sum()) if inside.any() else 1,
        passed_over_ns=passed_over_ns,
    )


def timing(table: FrameTable, ends_ns: Ints, chosen: Selection, origin_ns: int) -> Timing:
    """C8-C11. ``origin_ns``: the requested start, tick 0 before the shift."""
    times = table.times_ns[chosen.first : chosen.end]
    ticks = _ticks(table.starts_ns - origin_ns)[table.fragment[chosen.first : chosen.end]]
    ticks = ticks + table.elapsed_ticks[chosen.first : chosen.end]
    order = np.argsort(ticks, kind="stable")
    ordered = ticks[order]
    steps = np.diff(ordered)
    shortened = np.concatenate(([0], np.cumsum(np.maximum(steps - FRAME_TICKS_MAX, 0))))
    edit_start, edit_end = _edit(times, ticks, chosen.delivered, origin_ns)
    edit_end -= int(shortened[np.searchsorted(ordered, edit_end, side="left") - 1])
    composed = np.empty_like(ticks)
    composed[order] = ordered - shortened
    ordered = ordered - shortened
    shift = int((ordered - composed).max())
    zero = int(ordered[0])
    final = chosen.first + int(order[-1])
    end_ticks = int(_ticks(np.array([_end_of(table, ends_ns, final) - origin_ns]))[0])
    last_ticks = end_ticks - int(shortened[-1]) - int(ordered[-1])
    return Timing(
        decode_ticks=ordered - zero,
        offset_ticks=composed - ordered + shift,
        last_ticks=min(max(last_ticks, 1), FRAME_TICKS_MAX),
        edit_start_ticks=edit_start - zero + shift,
        edit_ticks=max(edit_end - edit_start, 1),
    )


def _edit(times: Ints, ticks: Ints, delivered: TimeRange, origin_ns: int) -> tuple[int, int]:
    """First tick shown and first tick not shown any more: exactly the frames of ``delivered``.

    A nanosecond and a tick do not round alike: a frame a nanosecond outside may share the edge's
    tick. So the edges move between the frames; where two frames share a tick, showing wins.
    """
    start, end = _ticks(np.array([delivered.start_ns, delivered.end_ns]) - origin_ns).tolist()
    before = ticks[times < delivered.start_ns]
    after = ticks[times >= delivered.end_ns]
    shown = ticks[(times >= delivered.start_ns) & (times < delivered.end_ns)]
    if len(before):
        start = max(start, int(before.max()) + 1)
    if len(after):
        end = min(end, int(after.min()))
    if len(shown):
        start, end = min(start, int(shown.min())), max(end, int(shown.max()) + 1)
    if start >= end:
        # Less than a tick of a frame that began before: a tick of it, none of the next one.
        if len(after) and int(after.min()) <= start:
            start = end - 1
        else:
            end = start + 1
    return start, end


def _end_of(table: FrameTable, ends_ns: Ints, frame: int) -> int:
    """When a frame stops being shown: at the next one of its fragment, else at that one's end."""
    fragment = int(table.fragment[frame])
    times = table.times_ns[table.firsts[fragment] : table.firsts[fragment + 1]]
    later = times[times > table.times_ns[frame]]
    return int(later.min()) if len(later) else int(ends_ns[fragment])


def _ticks(elapsed_ns: Ints) -> Ints:
    """C8."""
    ticks: Ints = (elapsed_ns * 9 + 8) // 100_000
    return ticks
