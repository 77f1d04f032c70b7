"""The one process that appends to a camera's index.

Owns append, room (forget, grow), checkpoint and restore. Never reads footage and never decides
what is live: the slot tables do.

- I1 start_ns never decreases: append refuses a row that would break it, nothing is published.
- I3 head is stored after the bytes of the rows below it.
- I4 a ring that would overwrite a live entry grows first.
- I5 ``flushed_head`` covers what was durable at the checkpoint before the last.
- I6 a row is overwritten only after a tail beyond it is durable.
- Space is allocated ahead of the rows: a full disk is a DiskError here, never a SIGBUS later.

docs/design/volume-format.md, "Index of a camera".
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from storage.errors import DiskError, IndexCorrupt
from storage.index.files import create_file, open_locked, sync_file
from storage.index.format import (
    HEADER_BYTES,
    ROW_BYTES,
    ROW_STRUCT,
    WORD_FLUSHED_HEAD,
    WORD_HEAD,
    WORD_LAST_END_NS,
    WORD_LAST_STREAM_SEQUENCE,
    WORD_REPLACED,
    WORD_TAIL,
    IndexEntry,
    Rows,
    encode_header,
)
from storage.index.liveness import SlotGenerations, live_mask
from storage.index.mapping import IndexMap, index_path

ALLOCATE_ROWS: Final = 8192
# Nearly always the first row looked at is live: begin small, a page, not to read cold ones.
SCAN_ROWS_FIRST: Final = 64
SCAN_ROWS: Final = 65_536
_pack_row: Final = struct.Struct(ROW_STRUCT).pack
CAPACITY_MAX: Final = 1 << 31


class CameraIndexWriter:
    """Append side of one camera's ring. Methods may be called from several threads."""

    def __init__(self, path: Path, tables: SlotGenerations) -> None:
        """Open an existing file for appending. Raises IndexBusy, IndexCorrupt, DiskError."""
        self._path = path
        self._tables = tables
        self._lock = threading.Lock()
        self._fd = open_locked(path)
        try:
            self._map = IndexMap(path, self._fd, writable=True)
        except BaseException:
            os.close(self._fd)
            raise
        words = self._map.words
        words[WORD_REPLACED] = 0  # set, but never replaced: the process ended in between
        self._head = words[WORD_HEAD]
        self._tail = words[WORD_TAIL]
        self._last_stream_sequence = words[WORD_LAST_STREAM_SEQUENCE]
        self._last_end_ns = words[WORD_LAST_END_NS]
        self._durable_tail = 0  # what is mapped is not known to be on the disk
        self._last_start_ns = self._start_of_last()
        self._allocate(self._head)

    @classmethod
    def open(
        cls,
        directory: Path,
        camera_uid: bytes,
        camera_id: str,
        installation_uuid: bytes,
        tables: SlotGenerations,
        *,
        capacity: int,
    ) -> CameraIndexWriter:
        """Open the camera's index, or create an empty one of ``capacity`` rows (power of two).

        Raises IndexBusy, IndexCorrupt (also: of another camera or installation), DiskError.
        """
        path = index_path(directory, camera_uid)
        if not path.exists():
            header = encode_header(
                capacity=capacity,
                camera_uid=camera_uid,
                camera_id=camera_id,
                installation_uuid=installation_uuid,
            )
            os.close(create_file(path, path.with_suffix(".new"), header, capacity))
        writer = cls(path, tables)
        found = (writer._map.camera_uid, writer._map.installation_uuid)
        if found != (camera_uid, installation_uuid):
            writer._release()
            raise IndexCorrupt(path, f"belongs to camera {found[0].hex()} of {found[1].hex()}")
        return writer

    @property
    def path(self) -> Path:
        return self._path

    @property
    def camera_uid(self) -> bytes:
        return self._map.camera_uid

    @property
    def head(self) -> int:
        """Entries ever appended."""
        return self._head

    @property
    def tail(self) -> int:
        return self._tail

    @property
    def flushed_head(self) -> int:
        return self._map.words[WORD_FLUSHED_HEAD]

    @property
    def capacity(self) -> int:
        return self._map.capacity

    @property
    def last_stream_sequence(self) -> int:
        return self._last_stream_sequence

    @property
    def last_end_ns(self) -> int:
        return self._last_end_ns

    def append(self, entries: Sequence[IndexEntry]) -> None:
        """Make durable records visible (V1: call after their fdatasync). All or none.

        Raises ValueError when a start lies before the last one (I1), DiskError when the disk
        has no room for the rows; the index then stands as it was and may be appended to again.
        """
        with self._lock:
            rows = self._rows_in_order(entries, self._last_start_ns)
            self._store(self._head, rows)
            self._publish(entries, rows)

    def restore(self, entries: Sequence[IndexEntry]) -> None:
        """Recovery: everything from flushed_head on becomes ``entries``, in stream order.

        Rows the process had published already are written again with the same bytes and head moves
        once, at the end: a reader in another process loses sight of nothing.
        """
        with self._lock:
            head = self.flushed_head
            if head < self._tail:
                raise IndexCorrupt(self._path, f"tail {self._tail} is beyond flushed_head {head}")
            start_ns = self._start_of(head - 1) if head > self._tail else -(1 << 63)
            rows = self._rows_in_order(entries, start_ns)
            self._head = head
            self._last_start_ns = start_ns
            self._allocate(head)
            self._store(head, rows)
            self._publish(entries, rows)

    def lower_flushed_head(self, number: int) -> None:
        """Recovery: let restore() replace the entries from ``number`` on. Durable on return."""
        with self._lock:
            words = self._map.words
            if not self._tail <= number <= words[WORD_FLUSHED_HEAD]:
                raise ValueError(f"entry {number} is not below flushed_head")
            words[WORD_FLUSHED_HEAD] = number
            sync_file(self._fd, self._path)

    def rows_from(self, number: int) -> Rows:
        """Recovery: a copy of the entries from ``number`` (or the tail) up to flushed_head."""
        with self._lock:
            return self._map.copy_rows(max(number, self._tail), self.flushed_head)

    def checkpoint(self) -> int:
        """I5: one fdatasync; returns the head it covers. Raises DiskError.

        Not holding the lock while the disk works: appends go on meanwhile.
        """
        with self._lock:
            self._forget()
            head, tail = self._head, self._tail
            fd = os.dup(self._fd)
        try:
            sync_file(fd, self._path)
        finally:
            os.close(fd)
        with self._lock:
            words = self._map.words
            words[WORD_FLUSHED_HEAD] = max(head, words[WORD_FLUSHED_HEAD])
            self._durable_tail = max(tail, self._durable_tail)
        return head

    def close(self) -> None:
        """Two checkpoints, so that flushed_head itself is durable; then let go of the file."""
        self.checkpoint()
        self.checkpoint()
        self._release()

    def abandon(self) -> None:
        """Let go of the file without writing anything (after an error)."""
        self._release()

    def _release(self) -> None:
        self._map.close()
        os.close(self._fd)

    def _start_of(self, number: int) -> int:
        return int(self._map.starts[number & self._map.mask])

    def _start_of_last(self) -> int:
        return self._start_of(self._head - 1) if self._head > self._tail else -(1 << 63)

    def _rows_in_order(self, entries: Sequence[IndexEntry], last_ns: int) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        for entry in entries:
            if entry.start_ns < last_ns:
                raise ValueError(f"I1: entry starts at {entry.start_ns}, after one at {last_ns}")
            rows += entry.rows()
            last_ns = rows[-1][0]
        return rows

    def _store(self, head: int, rows: Sequence[tuple[int, ...]]) -> None:
        """Write the bytes of ``rows`` as entries from ``head`` on; publishes nothing."""
        if head + len(rows) - self._map.capacity > self._durable_tail:
            self._make_room(head, len(rows))
        buffer, mask = self._map.buffer, self._map.mask
        for row in rows:
            if head % ALLOCATE_ROWS == 0:
                self._allocate(head)
            # Not pack_into: it zeroes the place first, and restore() writes rows that are visible.
            at = HEADER_BYTES + (head & mask) * ROW_BYTES
            buffer[at : at + ROW_BYTES] = _pack_row(*row)
            head += 1

    def _publish(self, entries: Sequence[IndexEntry], rows: Sequence[tuple[int, ...]]) -> None:
        words = self._map.words
        for entry in entries:
            if entry.stream_sequence > self._last_stream_sequence:
                self._last_stream_sequence = entry.stream_sequence
            if entry.end_ns > self._last_end_ns:
                self._last_end_ns = entry.end_ns
        words[WORD_LAST_STREAM_SEQUENCE] = self._last_stream_sequence
        words[WORD_LAST_END_NS] = self._last_end_ns
        self._head += len(rows)
        if rows:
            self._last_start_ns = rows[-1][0]
        words[WORD_HEAD] = self._head  # I3: last

    def _make_room(self, head: int, count: int) -> None:
        """I4, I6: afterwards entries [head, head + count), which had no room, may be written."""
        self._forget()
        if head + count - self._map.capacity <= self._tail:
            sync_file(self._fd, self._path)
            self._durable_tail = self._tail
            return
        while head + count - self._map.capacity > self._tail:
            self._grow(head)

    def _forget(self) -> None:
        """Move the tail over the dead entries at the old end."""
        tail, step = self._tail, SCAN_ROWS_FIRST
        while tail < self._head:
            rows = self._map.copy_rows(tail, min(tail + step, self._head))
            step = min(step * 8, SCAN_ROWS)
            live = live_mask(rows, self._tables, absent_is_live=True)
            first_live = int(live.argmax()) if live.any() else len(rows)
            tail += first_live
            if first_live < len(rows):
                break
        if tail != self._tail:
            self._tail = tail
            self._map.words[WORD_TAIL] = tail

    def _grow(self, head: int) -> None:
        """I4: copy to a file twice as large, then rename it over this one."""
        old, capacity = self._map, self._map.capacity * 2
        if capacity > CAPACITY_MAX:
            raise IndexCorrupt(self._path, f"{old.capacity} live entries: no larger ring exists")
        header = encode_header(
            capacity=capacity,
            camera_uid=old.camera_uid,
            camera_id=old.camera_id,
            installation_uuid=old.installation_uuid,
            head=head,
            tail=self._tail,
            flushed_head=head,
            last_stream_sequence=self.last_stream_sequence,
            last_end_ns=self.last_end_ns,
        )
        rows = old.copy_rows(self._tail, head)
        temporary = self._path.with_suffix(".grow")
        # `replaced` first: should we end before the rename, a reader merely looks again.
        old.words[WORD_REPLACED] = 1
        fd = create_file(self._path, temporary, header, capacity, rows, self._tail)
        try:
            self._map = IndexMap(self._path, fd, writable=True)
        except BaseException:
            os.close(fd)
            raise
        old.close()
        os.close(self._fd)
        self._fd = fd
        self._durable_tail = self._tail
        self._allocate(head)

    def _allocate(self, number: int) -> None:
        """Give the block of rows around entry ``number`` its disk space."""
        position = number & self._map.mask
        first = position - position % ALLOCATE_ROWS
        count = min(ALLOCATE_ROWS, self._map.capacity - first)
        try:
            os.posix_fallocate(self._fd, HEADER_BYTES + first * ROW_BYTES, count * ROW_BYTES)
        except OSError as error:
            raise DiskError("allocating index space", error, path=self._path) from error
