"""Procedure Recover, one volume's part: what the newest slots hold, whatever the crash left.

Owns finding the records of slots that are open, or sealed but not INDEXED, putting table entries
right (V7), and sealing. The camera rings are the caller's (storage.store.recover). Reads are
checked (V4, V5); with ``worker`` it touches that worker's slots only, so others may record on.
"""

from __future__ import annotations

import msgspec
import numpy as np

from cext.record import RecordHeader
from storage.errors import RecordInvalid
from storage.volume.format import (
    FOOTER_ENTRY,
    INDEX_CONFIG_CHANGE,
    KIND_FRAGMENT,
    KIND_GAP,
)
from storage.volume.scan import Hole, SlotScanner
from storage.volume.slot import (
    SlotHeader,
    SlotRecord,
    gap_index_flags,
    index_duration,
    index_flags,
    make_footer,
    slot_records,
)
from storage.volume.table import TableEntry
from storage.volume.volume import Volume


class RecoveredSlot:
    """A slot's valid records. ``was_open``: it has no footer yet; seal_open() writes one."""

    def __init__(
        self,
        volume: Volume,
        header: SlotHeader,
        records: list[SlotRecord],
        *,
        was_open: bool,
        walked: bool,
        end_block: int,
        holes: list[Hole],
    ) -> None:
        self.volume = volume
        self.header = header
        self.records = records
        self.was_open = was_open
        self.walked = walked
        self.end_block = end_block
        self.holes = holes

    @property
    def volume_number(self) -> int:
        return self.volume.number

    def codec_config_id(self, position: int) -> int | None:
        """Of a fragment, read from its header; None if that does not verify any more."""
        scanner = SlotScanner(self.volume, self.header)
        record = scanner.record_at(self.records[position].offset_blocks, full=False)
        return record.codec_config_id if record is not None else None

    def mark_config_change(self, position: int) -> None:
        record = self.records[position]
        self.records[position] = msgspec.structs.replace(
            record, index_flags=record.index_flags | INDEX_CONFIG_CHANGE
        )


class VolumeRecovery:
    """scan() first, then, when the caller has settled the records' flags, seal_open()."""

    def __init__(self, volume: Volume, worker: int | None) -> None:
        assert volume.writable
        self.volume = volume
        self.faults: list[tuple[int, str]] = []
        self._worker = worker
        self._found: list[RecoveredSlot] = []

    def scan(self) -> list[RecoveredSlot]:
        """The slots that may hold what the index lacks, oldest allocation first."""
        entries = self.volume.table.entries
        if self._worker is None:
            self.repair_table()
        candidates = []
        for slot in np.flatnonzero(entries["state"] != 0).tolist():
            entry = self.volume.table.get(slot)
            if entry is None:
                continue  # of another worker, being written this moment, or repaired above
            ours = self._worker is None or entry.worker == self._worker
            if ours and (entry.open or not entry.indexed):
                candidates.append((entry.alloc_sequence, slot, entry))
        for _, slot, entry in sorted(candidates, key=lambda one: one[:2]):
            recovered = self._scan_slot(slot, entry)
            if recovered is not None:
                self._found.append(recovered)
        return list(self._found)

    def seal_open(self, sealed_ns: int) -> None:
        """Give every slot that was open its footer. Raises DiskError."""
        for slot in self._found:
            if not slot.was_open:
                continue
            if not slot.records:
                self.volume.release_empty(slot.header.slot, slot.header.generation)
                continue
            raw = b"".join(record.encode() for record in slot.records)
            entries = np.frombuffer(raw, dtype=FOOTER_ENTRY)
            footer = make_footer(slot.header, entries, slot.end_block, sealed_ns)
            self.volume.write_footer(footer)
            self.volume.mark_sealed(slot.header, footer)

    def repair_table(self) -> int:
        """Derive anew each entry that does not carry its CRC; how many there were (V7)."""
        repaired = 0
        for slot in range(self.volume.slot_count):
            if self.volume.table.valid(slot):
                continue
            repaired += 1
            try:
                truth = self.volume.derive_entry(slot, None)
            except RecordInvalid as error:
                self.faults.append((slot, f"neither table entry nor slot header: {error.rule}"))
                continue
            self.faults.append((slot, "table entry was damaged; derived from the slot"))
            self.volume.table.put(slot, truth)
        if repaired:
            self.volume.sync_table()
        return repaired

    def _scan_slot(self, slot: int, entry: TableEntry) -> RecoveredSlot | None:
        header = self.volume.read_slot_header(slot)
        if header is None or header.generation != entry.generation:
            # Allocated, but its header never became durable: nothing was ever written to it.
            if entry.open:
                self.volume.release_empty(slot, entry.generation)
            else:
                self.faults.append((slot, "sealed, but its header does not verify"))
            return None
        if entry.sealed:
            try:
                footer = self.volume.read_footer(slot, entry.generation)
            except RecordInvalid as error:
                self.faults.append((slot, f"sealed, but its footer does not verify: {error.rule}"))
            else:
                return RecoveredSlot(
                    self.volume,
                    header,
                    slot_records(footer.entries),
                    was_open=False,
                    walked=False,
                    end_block=footer.offset_blocks,
                    holes=[],
                )
        walk = SlotScanner(self.volume, header).walk(entry.used_bytes)
        return RecoveredSlot(
            self.volume,
            header,
            [record_of(found) for found in walk.headers],
            was_open=entry.open,
            walked=True,
            end_block=walk.end_block,
            holes=walk.holes,
        )


def rebuild_table(volume: Volume) -> VolumeRecovery:
    """Procedure Rebuild, the table's part: every entry anew from header and footer, offline.

    Held and indexed flags of entries that are readable are kept. Slots without a footer come out
    open; the caller recovers them next. Raises DiskError.
    """
    recovery = VolumeRecovery(volume, None)
    for slot in range(volume.slot_count):
        try:
            truth = volume.derive_entry(slot, volume.table.get(slot))
        except RecordInvalid as error:
            recovery.faults.append((slot, f"slot header and table entry unreadable: {error.rule}"))
            continue
        volume.table.put(slot, truth)
    volume.sync_table()
    return recovery


def record_of(header: RecordHeader) -> SlotRecord:
    """A footer entry from a record's own header. CONFIG_CHANGE is not in it: the caller's."""
    if header.is_gap:
        kind, flags = KIND_GAP, gap_index_flags(header.cause)
    else:
        kind, flags = KIND_FRAGMENT, index_flags(header.flags, config_change=False)
    return SlotRecord(
        offset_blocks=header.offset_blocks,
        record_bytes=header.record_bytes,
        kind=kind,
        index_flags=flags,
        index_duration=index_duration(kind, header.start_ns, header.end_ns),
        start_ns=header.start_ns,
        end_ns=header.end_ns,
        camera_uid=header.camera_uid,
        stream_sequence=header.stream_sequence,
        fragment_root=header.fragment_root,
        header_crc32c=header.header_crc32c,
        payload_crc32c=header.payload_crc32c,
    )
