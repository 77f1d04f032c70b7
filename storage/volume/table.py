"""The slot table: one memory-mapped 64-byte entry a slot, shared by every process.

Owns reading and replacing entries, each with its CRC. Never decides which slot is reused (ring.py)
and never reads the slots themselves: an entry that does not carry its CRC is derived anew by
Volume from the slot (V7). An entry is replaced as a whole by one memory copy; a reader in another
process that catches one half-written sees a CRC that does not fit and looks again. The generation,
which liveness hangs on (I2), is one aligned 32-bit word and is never torn.
"""

from __future__ import annotations

import mmap
import time

import msgspec
import numpy as np
import numpy.typing as npt

from storage.errors import RecordInvalid
from storage.volume.format import (
    BLOCK_BYTES,
    FORMAT_VERSION,
    SLOT_FREE,
    SLOT_OPEN,
    SLOT_SEALED,
    TABLE_ENTRY,
    TABLE_ENTRY_STRUCT,
    TABLE_HEADER,
    TABLE_HELD,
    TABLE_INDEXED,
    TABLE_MAGIC,
    StructuredArray,
    pack_block,
    pack_table_entry,
    table_entry_valid,
    unpack_block,
)

_READ_ATTEMPTS = 8
_READ_PAUSE_S = 0.001


class TableEntry(msgspec.Struct, frozen=True, gc=False):
    """One slot as the table knows it. Fields and units: the format page, section Slot table."""

    generation: int = 0
    state: int = SLOT_FREE
    flags: int = 0
    worker: int = 0
    first_ns: int = 0
    newest_ns: int = 0
    used_bytes: int = 0
    record_count: int = 0
    min_days: int = 0
    class_id: str = ""
    alloc_sequence: int = 0

    @property
    def open(self) -> bool:
        return self.state == SLOT_OPEN

    @property
    def sealed(self) -> bool:
        return self.state == SLOT_SEALED

    @property
    def held(self) -> bool:
        return bool(self.flags & TABLE_HELD)

    @property
    def indexed(self) -> bool:
        return bool(self.flags & TABLE_INDEXED)

    def changed(self, **fields: int | str) -> TableEntry:
        return msgspec.structs.replace(self, **fields)


_CLASS_ID = TableEntry.__struct_fields__.index("class_id")


def table_bytes(slot_count: int) -> int:
    return BLOCK_BYTES + slot_count * TABLE_ENTRY.itemsize


def table_header(slot_count: int, volume_uuid: bytes) -> bytes:
    return pack_block(
        TABLE_HEADER,
        magic=TABLE_MAGIC,
        format_version=FORMAT_VERSION,
        slot_count=slot_count,
        volume_uuid=volume_uuid,
    )


class SlotTable:
    """The mapped table of one volume. Writers follow Volume's locking; readers need none."""

    def __init__(self, mapping: mmap.mmap, slot_count: int) -> None:
        self.slot_count = slot_count
        self._map = mapping
        self._entries: StructuredArray = np.frombuffer(
            mapping, dtype=TABLE_ENTRY, count=slot_count, offset=BLOCK_BYTES
        )

    @property
    def entries(self) -> StructuredArray:
        """All entries as a live structured array (TABLE_ENTRY); for vectorised reading only."""
        return self._entries

    @property
    def generations(self) -> npt.NDArray[np.uint32]:
        """Generation by slot, live: what an index entry's must equal (I2)."""
        return self._entries["generation"]

    def generation(self, slot: int) -> int:
        return int(self._entries["generation"][slot])

    def header_fault(self, volume_uuid: bytes) -> str | None:
        """What is wrong with the header block, or None. Raises nothing."""
        try:
            row = unpack_block(TABLE_HEADER, self._map[:BLOCK_BYTES], TABLE_MAGIC)
        except RecordInvalid as error:
            return error.rule
        if int(row["slot_count"]) != self.slot_count:
            return f"table of {int(row['slot_count'])} slots, superblock says {self.slot_count}"
        if row["volume_uuid"].tobytes() != volume_uuid:
            return "table of another volume"
        return None

    def get(self, slot: int) -> TableEntry | None:
        """The entry, or None if it does not carry its CRC even after looking several times."""
        start = self._offset(slot)
        for _ in range(_READ_ATTEMPTS):
            raw = self._map[start : start + TABLE_ENTRY.itemsize]
            if table_entry_valid(raw):
                return decode_entry(raw)
            time.sleep(_READ_PAUSE_S)
        return None

    def valid(self, slot: int) -> bool:
        """True if the entry carries its CRC (looked at several times, as get() does)."""
        return self.get(slot) is not None

    def put(self, slot: int, entry: TableEntry) -> None:
        """Replace an entry. Visible to all processes at once; durable after Volume.sync_table()."""
        start = self._offset(slot)
        self._map[start : start + TABLE_ENTRY.itemsize] = encode_entry(entry)

    def put_header(self, header: bytes) -> None:
        self._map[:BLOCK_BYTES] = header

    def close(self) -> None:
        self._entries = np.zeros(0, dtype=TABLE_ENTRY)
        try:
            self._map.close()
        except BufferError:
            # A reader still looks through an array; the mapping goes when the last one does.
            return

    def _offset(self, slot: int) -> int:
        if not 0 <= slot < self.slot_count:
            raise IndexError(f"slot {slot} of {self.slot_count}")
        return BLOCK_BYTES + slot * TABLE_ENTRY.itemsize


def encode_entry(entry: TableEntry) -> bytes:
    return pack_table_entry(
        entry.generation,
        entry.state,
        entry.flags,
        entry.worker,
        entry.first_ns,
        entry.newest_ns,
        entry.used_bytes,
        entry.record_count,
        entry.min_days,
        entry.class_id.encode("ascii"),
        entry.alloc_sequence,
    )


def decode_entry(raw: bytes) -> TableEntry:
    fields = list(TABLE_ENTRY_STRUCT.unpack_from(raw))
    fields[_CLASS_ID] = fields[_CLASS_ID].rstrip(b"\0").decode("ascii", "replace")
    return TableEntry(*fields)
