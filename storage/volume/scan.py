"""Walking a slot record by record, trusting nothing but what verifies (V4, V5).

Used by recovery for slots without a footer and by fsck. Reads only.

Below ``used_bytes`` of the table everything was durable: header CRCs are checked. Above it a batch
may have been cut off anywhere, so payloads are checked too. Where the walk breaks it goes on block
by block, for records of this very place with a higher ordinal; what lies between is a hole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from cext.errors import FrameError
from cext.record import RecordHeader, parse_header, region_bytes, verify_record
from storage.volume.format import (
    BLOCK_BYTES,
    FIRST_RECORD_BLOCK,
    RECORD_FIXED_BYTES,
    RECORD_MAGIC,
)
from storage.volume.slot import SlotHeader
from storage.volume.volume import Volume

# Large to look for records block by block, small to step from header to header.
SEARCH_BYTES = 4 << 20
WINDOW_BYTES = 64 << 10
_MAGIC_WORD = int.from_bytes(RECORD_MAGIC, "little")


class Hole(msgspec.Struct, frozen=True):
    """Blocks between two valid records of a slot that hold none: [start_block, end_block)."""

    volume_number: int
    slot: int
    generation: int
    start_block: int
    end_block: int


class Walk(NamedTuple):
    """Valid records in order of place, and the holes between them."""

    headers: list[RecordHeader]
    holes: list[Hole]

    @property
    def end_block(self) -> int:
        """First block behind the last valid record."""
        if not self.headers:
            return FIRST_RECORD_BLOCK
        last = self.headers[-1]
        return last.offset_blocks + last.record_bytes // BLOCK_BYTES


class SlotScanner:
    """Reads one slot through a window, so that neighbouring looks cost one read."""

    def __init__(self, volume: Volume, header: SlotHeader) -> None:
        self._volume = volume
        self._header = header
        self._window = memoryview(b"")
        self._window_start = 0
        self._end = volume.slot_size_bytes - BLOCK_BYTES  # the tail is no record

    def record_at(self, block: int, *, full: bool) -> RecordHeader | None:
        """The record that begins at the block, verified; None if there is none of this place."""
        start = block * BLOCK_BYTES
        try:
            size = region_bytes(self._view(start, RECORD_FIXED_BYTES))
            record = parse_header(self._view(start, size))
            if not self._belongs(record, block):
                return None
            if full:
                verify_record(self._view(start, record.record_bytes), full=True)
        except FrameError:
            return None
        return record

    def walk(self, used_bytes: int) -> Walk:
        """All valid records of the slot; see the module docstring."""
        headers: list[RecordHeader] = []
        holes: list[Hole] = []
        block, ordinal = FIRST_RECORD_BLOCK, 0
        while block * BLOCK_BYTES < self._end:
            record = self.record_at(block, full=block * BLOCK_BYTES >= used_bytes)
            if record is None or record.slot_sequence < ordinal:
                record = self._next_record(block + 1, ordinal, used_bytes)
                if record is None:
                    break
                holes.append(
                    Hole(
                        self._volume.number,
                        self._header.slot,
                        self._header.generation,
                        block,
                        record.offset_blocks,
                    )
                )
            headers.append(record)
            ordinal = record.slot_sequence + 1
            block = record.offset_blocks + record.record_bytes // BLOCK_BYTES
        return Walk(headers, holes)

    def _next_record(self, block: int, ordinal: int, used_bytes: int) -> RecordHeader | None:
        for candidate in self._candidates(block):
            full = candidate * BLOCK_BYTES >= used_bytes
            record = self.record_at(candidate, full=full)
            if record is not None and record.slot_sequence >= ordinal:
                return record
        return None

    def _candidates(self, block: int) -> Iterator[int]:
        """Blocks from ``block`` on that begin with the record magic."""
        start = block * BLOCK_BYTES
        while start < self._end:
            size = min(SEARCH_BYTES, self._end - start)
            chunk = np.frombuffer(self._volume.read(self._header.slot, start, size), dtype="<u8")
            found = np.flatnonzero(chunk[:: BLOCK_BYTES // 8] == _MAGIC_WORD)
            for index in found.tolist():
                yield start // BLOCK_BYTES + index
            start += size

    def _belongs(self, record: RecordHeader, block: int) -> bool:
        """V4, and inside the slot."""
        place = (record.volume_uuid, record.slot, record.generation, record.offset_blocks)
        wanted = (self._volume.uuid, self._header.slot, self._header.generation, block)
        return place == wanted and block * BLOCK_BYTES + record.record_bytes <= self._end

    def _view(self, start: int, length: int) -> memoryview:
        """Bytes of the slot, fewer at its end; valid until the next call."""
        length = min(length, self._end - start)
        offset = start - self._window_start
        if not 0 <= offset <= len(self._window) - length:
            size = min(max(length, WINDOW_BYTES), self._end - start)
            size = -(-size // BLOCK_BYTES) * BLOCK_BYTES
            self._window = self._volume.read(self._header.slot, start, size)
            self._window_start, offset = start, 0
        return self._window[offset : offset + length]
