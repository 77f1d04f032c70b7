"""One slot: its header, footer and tail, and an open slot being filled.

Owns what is written where inside a slot and how much room is left. Never talks to the disk and
never touches the table: Volume does both.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cext.crc32c import crc32c
from cext.sha256 import merkle_root
from storage.base.disk import round_up
from storage.errors import RecordInvalid
from storage.volume.format import (
    BLOCK_BYTES,
    FIRST_RECORD_BLOCK,
    FOOTER,
    FOOTER_ENTRY,
    FOOTER_MAGIC,
    FORMAT_VERSION,
    INDEX_CAUSE_SHIFT,
    INDEX_CONFIG_CHANGE,
    INDEX_DISCONTINUITY,
    INDEX_GAP,
    INDEX_KEY,
    INDEX_LOSS,
    KIND_GAP,
    RECORD_DISCONTINUITY,
    RECORD_KEY,
    RECORD_LOSS,
    SLOT_HEADER,
    SLOT_MAGIC,
    TAIL,
    TAIL_MAGIC,
    StructuredArray,
    class_bytes,
    pack_block,
    unpack_block,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SlotHeader(msgspec.Struct, frozen=True):
    """Block 0 of a slot. ``min_days`` is frozen here when the slot is opened (V3)."""

    slot: int
    volume_uuid: bytes
    generation: int
    worker: int
    lane: int
    class_id: str
    min_days: int
    flags: int
    opened_ns: int
    alloc_sequence: int
    slot_size_bytes: int

    def encode(self) -> bytes:
        fields = msgspec.structs.asdict(self)
        fields["class_id"] = class_bytes(self.class_id)
        return pack_block(SLOT_HEADER, magic=SLOT_MAGIC, format_version=FORMAT_VERSION, **fields)


def decode_slot_header(block: Buffer) -> SlotHeader:
    """Raises RecordInvalid."""
    row = unpack_block(SLOT_HEADER, block, SLOT_MAGIC)
    fields: dict[str, Any] = {
        name: int(row[name])
        for name in SlotHeader.__struct_fields__
        if name not in ("volume_uuid", "class_id")
    }
    return SlotHeader(
        volume_uuid=row["volume_uuid"].tobytes(),
        class_id=row["class_id"].decode("ascii", "replace"),
        **fields,
    )


class Footer(msgspec.Struct, frozen=True):
    """A sealed slot's list of records. ``entries``: FOOTER_ENTRY rows in order of writing."""

    slot: int
    volume_uuid: bytes
    generation: int
    first_ns: int
    newest_ns: int
    sealed_ns: int
    seal: bytes
    entries: StructuredArray
    offset_blocks: int

    @property
    def used_bytes(self) -> int:
        """Bytes of the slot below the footer."""
        return self.offset_blocks * BLOCK_BYTES

    def computed_seal(self) -> bytes:
        """What ``seal`` must be: the Merkle root over the records' roots."""
        return merkle_root([root.tobytes() for root in self.entries["fragment_root"]])


_ENTRY = struct.Struct("<IIHHIqq16sQ32sII")
assert _ENTRY.size == FOOTER_ENTRY.itemsize


class SlotRecord(msgspec.Struct, frozen=True, gc=False):
    """One record as footer and index name it. Fields and units: the format page, section Footer."""

    offset_blocks: int
    record_bytes: int
    kind: int
    index_flags: int
    index_duration: int
    start_ns: int
    end_ns: int
    camera_uid: bytes
    stream_sequence: int
    fragment_root: bytes
    header_crc32c: int
    payload_crc32c: int

    def encode(self) -> bytes:
        """One footer entry, 96 bytes."""
        return _ENTRY.pack(
            self.offset_blocks,
            self.record_bytes,
            self.kind,
            self.index_flags,
            self.index_duration,
            self.start_ns,
            self.end_ns,
            self.camera_uid,
            self.stream_sequence,
            self.fragment_root,
            self.header_crc32c,
            self.payload_crc32c,
        )

    @property
    def flags(self) -> int:
        """INDEX_* without the gap cause."""
        return self.index_flags & ((1 << INDEX_CAUSE_SHIFT) - 1)

    @property
    def gap_cause(self) -> int:
        return self.index_flags >> INDEX_CAUSE_SHIFT


def slot_records(entries: StructuredArray) -> list[SlotRecord]:
    """Footer entries as records."""
    return [SlotRecord(*row) for row in _ENTRY.iter_unpack(entries.tobytes())]


def index_flags(record_flags: int, *, config_change: bool) -> int:
    """INDEX_* flags of a fragment from its record flags (RECORD_*)."""
    flags = _INDEX_FLAGS[record_flags & _INDEXED_FLAGS]
    return flags | INDEX_CONFIG_CHANGE if config_change else flags


def _index_flags(record_flags: int) -> int:
    flags = INDEX_KEY if record_flags & RECORD_KEY else 0
    flags |= INDEX_LOSS if record_flags & RECORD_LOSS else 0
    return flags | (INDEX_DISCONTINUITY if record_flags & RECORD_DISCONTINUITY else 0)


_INDEXED_FLAGS = RECORD_KEY | RECORD_LOSS | RECORD_DISCONTINUITY
_INDEX_FLAGS = tuple(map(_index_flags, range(_INDEXED_FLAGS + 1)))


def gap_index_flags(cause: int) -> int:
    return INDEX_GAP | cause << INDEX_CAUSE_SHIFT


def index_duration(kind: int, start_ns: int, end_ns: int) -> int:
    """Rounded up, microseconds of a fragment, milliseconds of a gap; the field's maximum if more
    (start_ns and end_ns stay exact)."""
    tick_ns = 1_000_000 if kind == KIND_GAP else 1_000
    ticks = -((start_ns - end_ns) // tick_ns)
    return ticks if ticks <= 0xFFFF_FFFF else 0xFFFF_FFFF


def footer_bytes(entry_count: int) -> int:
    """Blocks of footer and tail together, in bytes, for so many records."""
    return BLOCK_BYTES + round_up(entry_count * FOOTER_ENTRY.itemsize) + BLOCK_BYTES


def encode_footer(footer: Footer) -> tuple[bytes, bytes]:
    """(footer with its entries, tail): whole blocks, ready for footer.offset_blocks and the end."""
    raw = footer.entries.tobytes()
    padded = round_up(len(raw))
    block = pack_block(
        FOOTER,
        magic=FOOTER_MAGIC,
        format_version=FORMAT_VERSION,
        slot=footer.slot,
        volume_uuid=footer.volume_uuid,
        generation=footer.generation,
        entry_count=len(footer.entries),
        entries_bytes=padded,
        first_ns=footer.first_ns,
        newest_ns=footer.newest_ns,
        sealed_ns=footer.sealed_ns,
        seal=footer.seal,
        entries_crc32c=crc32c(raw),
    )
    tail = pack_block(
        TAIL,
        magic=TAIL_MAGIC,
        format_version=FORMAT_VERSION,
        slot=footer.slot,
        generation=footer.generation,
        footer_offset_blocks=footer.offset_blocks,
    )
    return block + raw.ljust(padded, b"\0"), tail


def decode_tail(block: Buffer, slot: int, generation: int) -> int:
    """Offset of the footer in blocks. Raises RecordInvalid, also for another generation's tail."""
    row = unpack_block(TAIL, block, TAIL_MAGIC)
    if (int(row["slot"]), int(row["generation"])) != (slot, generation):
        raise RecordInvalid("tail of another slot or generation")
    return int(row["footer_offset_blocks"])


class FooterHead(msgspec.Struct, frozen=True):
    """The footer's first block, verified; the entries still have to be read."""

    row: np.void
    entry_count: int
    entries_bytes: int

    def with_entries(self, raw: Buffer, offset_blocks: int) -> Footer:
        """Raises RecordInvalid if the entries do not carry their CRC."""
        used = self.entry_count * FOOTER_ENTRY.itemsize
        view = memoryview(raw)[:used]
        if len(view) != used or crc32c(view) != int(self.row["entries_crc32c"]):
            raise RecordInvalid("footer entries CRC")
        return Footer(
            slot=int(self.row["slot"]),
            volume_uuid=self.row["volume_uuid"].tobytes(),
            generation=int(self.row["generation"]),
            first_ns=int(self.row["first_ns"]),
            newest_ns=int(self.row["newest_ns"]),
            sealed_ns=int(self.row["sealed_ns"]),
            seal=self.row["seal"].tobytes(),
            entries=np.frombuffer(bytes(view), dtype=FOOTER_ENTRY),
            offset_blocks=offset_blocks,
        )


def decode_footer_head(block: Buffer, volume_uuid: bytes, slot: int, generation: int) -> FooterHead:
    """Raises RecordInvalid, also for a footer that belongs elsewhere."""
    row = unpack_block(FOOTER, block, FOOTER_MAGIC)
    if row["volume_uuid"].tobytes() != volume_uuid:
        raise RecordInvalid("footer of another volume")
    if (int(row["slot"]), int(row["generation"])) != (slot, generation):
        raise RecordInvalid("footer of another slot or generation")
    return FooterHead(row, int(row["entry_count"]), int(row["entries_bytes"]))


class OpenSlot:
    """A slot being filled by one lane of one writer (V10). Not thread-safe.

    ``published``: records whose bytes are durable; the footer lists exactly these. What was
    written but not made durable is forgotten by ``rollback()`` and the slot is abandoned.
    """

    def __init__(self, header: SlotHeader) -> None:
        self.header = header
        self.slot = header.slot
        self.generation = header.generation
        self.next_block = FIRST_RECORD_BLOCK
        self.first_ns = 0
        self.newest_ns = 0
        self._blocks_max = header.slot_size_bytes // BLOCK_BYTES
        self._entries: list[bytes] = []
        self._durable_count = 0
        self._durable_block = FIRST_RECORD_BLOCK

    @property
    def next_sequence(self) -> int:
        return len(self._entries)

    @property
    def record_count(self) -> int:
        """Durable records."""
        return self._durable_count

    @property
    def used_bytes(self) -> int:
        """Everything below is durable."""
        return self._durable_block * BLOCK_BYTES

    @property
    def fill(self) -> float:
        """0.0 to 1.0 of the slot's blocks used, footer included."""
        used = self.next_block + footer_bytes(len(self._entries)) // BLOCK_BYTES
        return used / self._blocks_max

    def fitting(self, sizes_bytes: Sequence[int]) -> int:
        """How many records of these sizes, from the first on, still fit behind each other,
        together with the footer that is then needed, and the tail."""
        count = len(sizes_bytes)
        end = self.next_block * BLOCK_BYTES + sum(sizes_bytes)
        while count and not self._fits(end, count):  # once a slot: else all of them fit at once
            count -= 1
            end -= sizes_bytes[count]
        return count

    def _fits(self, end: int, count: int) -> bool:
        return end + footer_bytes(len(self._entries) + count) <= self.header.slot_size_bytes

    def append(self, record: SlotRecord) -> None:
        """The record was written where the slot's next one belongs; not durable yet."""
        assert record.offset_blocks == self.next_block, "records lie without holes"
        self._entries.append(record.encode())
        self.next_block += record.record_bytes // BLOCK_BYTES
        if record.start_ns < self.first_ns or not self.first_ns:
            self.first_ns = record.start_ns
        if record.end_ns > self.newest_ns:
            self.newest_ns = record.end_ns

    def mark_durable(self) -> None:
        """After fdatasync: all appended records count."""
        self._durable_count = len(self._entries)
        self._durable_block = self.next_block

    def rollback(self) -> None:
        """Forget what was appended since mark_durable(); the slot takes no more records."""
        del self._entries[self._durable_count :]
        self.next_block = self._durable_block

    def footer(self, sealed_ns: int) -> Footer:
        """The footer over the durable records, its seal computed."""
        assert self._durable_count == len(self._entries), "sealing what is not durable"
        entries = np.frombuffer(b"".join(self._entries), dtype=FOOTER_ENTRY)
        return make_footer(self.header, entries, self.next_block, sealed_ns)


def make_footer(
    header: SlotHeader, entries: StructuredArray, offset_blocks: int, sealed_ns: int
) -> Footer:
    roots = [root.tobytes() for root in entries["fragment_root"]]
    return Footer(
        slot=header.slot,
        volume_uuid=header.volume_uuid,
        generation=header.generation,
        first_ns=int(entries["start_ns"].min()) if len(entries) else 0,
        newest_ns=int(entries["end_ns"].max()) if len(entries) else 0,
        sealed_ns=sealed_ns,
        seal=merkle_root(roots),
        entries=entries,
        offset_blocks=offset_blocks,
    )
