"""The reading side of a camera's index: which records hold a time range.

Owns search and the consistent copy of rows while another process appends. Never writes, never
locks, touches no page of the file but those its probes and answers lie on.

How a copy is consistent although the ring turns: rows at and above `tail` are immutable until
tail passes them (I6 moves tail before a row is overwritten), so what was copied is right if tail,
read again afterwards, is still at or below the first row used; otherwise the search runs again.

docs/design/volume-format.md, "Index of a camera" (I1-I6).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from cext.index_search import entries_around, first_at_or_after
from storage.base.timebase import TimeRange
from storage.errors import IndexCorrupt
from storage.index.format import (
    FLAG_GAP,
    FLAG_KEY,
    WORD_HEAD,
    WORD_LAST_END_NS,
    WORD_REPLACED,
    WORD_TAIL,
    Mask,
    Rows,
    Times,
    row_ends_ns,
)
from storage.index.liveness import SlotGenerations, live_mask
from storage.index.mapping import IndexMap, index_path

WALK_ROWS: Final = 64
SCAN_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class EntrySpan:
    """Live entries, oldest first: a copy that stays valid.

    ``numbers``: entry numbers, int64. ``rows``: structured array (storage.index.format.ROW).
    """

    numbers: Times
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def start_ns(self) -> Times:
        starts: Times = self.rows["start_ns"]
        return starts

    @property
    def end_ns(self) -> Times:
        """Rounded up to the microsecond (fragments) or millisecond (gaps)."""
        return row_ends_ns(self.rows)

    @property
    def is_gap(self) -> Mask:
        gaps: Mask = (self.rows["flags"] & FLAG_GAP) != 0
        return gaps

    @property
    def is_key(self) -> Mask:
        """Fragments that hold a random access point."""
        flags = self.rows["flags"]
        keys: Mask = ((flags & FLAG_KEY) != 0) & ((flags & FLAG_GAP) == 0)
        return keys


@dataclass(frozen=True, slots=True, eq=False)
class RowSpan:
    """Entries [first, first + len(rows)), live or not, with the mask that tells (I2).

    ``ends_ns``: end of each row. ``forgotten``: entries older than these existed once.
    """

    first: int
    rows: Rows
    ends_ns: Times
    live: Mask
    forgotten: bool

    def touching(self, wanted: TimeRange) -> EntrySpan:
        """The live entries that have an instant in common with the range this is the answer to."""
        # All begin before the end (rows_in); an entry of no length touches at its start.
        reaching = self.ends_ns > wanted.start_ns
        reaching |= self.rows["start_ns"] == wanted.start_ns
        return _chosen(self.first, self.rows, self.live & reaching)


class CameraIndex:
    """Reader of one camera's ring; safe beside a writer in any process.

    One object is used by one thread at a time; objects are cheap (a map and two views).
    """

    def __init__(self, path: Path, tables: SlotGenerations) -> None:
        """Map the file lazily: nothing but the header is read. Raises IndexCorrupt, also when
        the camera has no index yet.
        """
        self._path = path
        self._tables = tables
        self._map = _open_map(path)
        self._oldest_live = 0

    @classmethod
    def open(cls, directory: Path, camera_uid: bytes, tables: SlotGenerations) -> CameraIndex:
        index = cls(index_path(directory, camera_uid), tables)
        if index._map.camera_uid != camera_uid:
            found = index._map.camera_uid.hex()
            index.close()
            raise IndexCorrupt(index._path, f"belongs to camera {found}")
        return index

    @property
    def camera_uid(self) -> bytes:
        return self._map.camera_uid

    @property
    def camera_id(self) -> str:
        return self._map.camera_id

    @property
    def entry_count(self) -> int:
        """Entries in the ring, live or not yet forgotten."""
        self._follow()
        return self._map.words[WORD_HEAD] - self._map.words[WORD_TAIL]

    @property
    def last_end_ns(self) -> int:
        """End of the newest record, 0 when there never was one."""
        self._follow()
        return self._map.words[WORD_LAST_END_NS]

    @property
    def oldest_ns(self) -> int | None:
        """Start of the oldest live fragment; None without any."""
        number = self._first_live_fragment()
        return None if number is None else self._start(number)

    @property
    def newest_ns(self) -> int | None:
        """End of the newest live fragment (rounded up to a microsecond); None without any."""
        while True:
            self._follow()
            tail, head = self._bounds()
            end, step = head, WALK_ROWS
            while end > tail:
                first = max(tail, end - step)
                rows = self._map.copy_rows(first, end)
                end, step = first, min(step * 8, SCAN_ROWS)
                live = live_mask(rows, self._tables, absent_is_live=False)
                found = np.flatnonzero(live & ((rows["flags"] & FLAG_GAP) == 0))
                if len(found) and self._unchanged_from(first):
                    return int(row_ends_ns(rows[found[-1:]])[0])
            if self._unchanged_from(tail):
                return None

    def find(self, wanted: TimeRange) -> EntrySpan:
        """Live entries that have an instant in common with ``wanted``, gap entries included.

        Cost: about 10 probes and a copy of the answer; some 20 us.
        """
        return self.rows_in(wanted).touching(wanted)

    def key_before(self, start_ns: int, *, not_before_ns: int | None = None) -> int | None:
        """Number of the last live fragment with KEY that starts at or before ``start_ns``.

        ``not_before_ns`` bounds the walk; None when there is no such fragment.
        """
        spans = self.before(start_ns + 1, not_before_ns=not_before_ns)
        for span in spans:
            keys = np.flatnonzero(span.is_key)
            if len(keys):
                return int(span.numbers[keys[-1]])
        return None

    def before(self, end_ns: int, *, not_before_ns: int | None) -> list[EntrySpan]:
        """Live entries that start in [not_before_ns, end_ns), in blocks, newest block first."""
        start_ns = -(1 << 62) if not_before_ns is None else not_before_ns
        if end_ns <= start_ns:
            return []
        while True:
            self._follow()
            tail, head = self._bounds()
            high = first_at_or_after(self._map.quads, end_ns, tail, head)
            low = first_at_or_after(self._map.quads, start_ns, tail, high)
            blocks = []
            for end in range(high, low, -SCAN_ROWS):
                first = max(low, end - SCAN_ROWS)
                rows = self._map.copy_rows(first, end)
                live = live_mask(rows, self._tables, absent_is_live=False)
                blocks.append(_chosen(first, rows, live))
            if self._unchanged_from(low):
                return blocks

    def rows_in(self, wanted: TimeRange) -> RowSpan:
        """All entries around ``wanted``, live or not: those that start in it, and those before
        that reach into it (looked for until WALK_ROWS in a row do not).
        """
        while True:
            self._follow()
            tail, head = self._bounds()
            first, end = entries_around(
                self._map.quads, wanted.start_ns, wanted.end_ns, tail, head, WALK_ROWS
            )
            rows = self._map.copy_rows(first, end)
            ends = row_ends_ns(rows)
            live = live_mask(rows, self._tables, absent_is_live=False)
            if self._unchanged_from(first):
                return RowSpan(first, rows, ends, live, first == tail and tail > 0)

    def close(self) -> None:
        self._map.close()

    def _bounds(self) -> tuple[int, int]:
        # Head before tail: tail only grows, so [tail, head) never claims a forgotten entry.
        head = self._map.words[WORD_HEAD]
        tail = self._map.words[WORD_TAIL]
        return min(tail, head), head

    def _unchanged_from(self, first: int) -> bool:
        return self._map.words[WORD_TAIL] <= first

    def _follow(self) -> None:
        """Take the larger file once a growing writer has put it in this one's place."""
        if not self._map.words[WORD_REPLACED]:
            return
        if os.stat(self._path).st_ino == self._map.inode:
            return  # not renamed yet: this is still the whole index
        fresh = _open_map(self._path)
        self._map.close()
        self._map = fresh
        self._oldest_live = 0

    def _start(self, number: int) -> int:
        return int(self._map.starts[number & self._map.mask])

    def _first_live_fragment(self) -> int | None:
        while True:
            self._follow()
            tail, head = self._bounds()
            number, step = max(tail, self._oldest_live), WALK_ROWS
            while number < head:
                end = min(number + step, head)
                step = min(step * 8, SCAN_ROWS)
                rows = self._map.copy_rows(number, end)
                live = live_mask(rows, self._tables, absent_is_live=False)
                if not self._unchanged_from(number):
                    break
                live &= (rows["flags"] & FLAG_GAP) == 0
                if live.any():
                    self._oldest_live = number + int(live.argmax())
                    return self._oldest_live
                number = end
            else:
                return None


def _chosen(first_number: int, rows: Rows, mask: Mask) -> EntrySpan:
    """The entries under the mask; usually one run, which needs no copy."""
    places = mask.nonzero()[0]
    count = len(places)
    if count == 0:
        return EntrySpan(places, rows[:0])
    first, end = int(places[0]), int(places[-1]) + 1
    places += first_number
    return EntrySpan(places, rows[first:end] if end - first == count else rows[mask])


def _open_map(path: Path) -> IndexMap:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise IndexCorrupt(path, "there is no such file") from error
    try:
        return IndexMap(path, fd, writable=False)
    finally:
        os.close(fd)
