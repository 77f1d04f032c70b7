"""An open volume: identity, locks, slot table, and the few steps that change a slot's state.

Owns V2, V3, V6 and V9 in action: allocating, sealing and releasing a slot, in the order the format
page's Procedures give. Never groups commits (writer.py), never walks records (recovery.py).

Locking: ``owner`` is held shared by every process that has the volume open and exclusively by
offline repair; ``lock`` for the moment a slot is allocated, sealed or flagged. flock(2) belongs to
an open file, so threads of one process additionally exclude each other by a mutex.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from cext.arena import Fragment
from cext.segment_writer import GapRecord, RecordPlace
from storage.base.clock import TrustedMark
from storage.base.disk import BLOCK_BYTES, Disk, RealDisk
from storage.base.retention import RetentionClass
from storage.base.timebase import DAY_NS
from storage.errors import (
    DiskError,
    RecordInvalid,
    RetentionMismatch,
    VolumeCorrupt,
    VolumeFull,
)
from storage.volume import ring, superblock
from storage.volume.format import (
    SLOT_FREE,
    SLOT_OPEN,
    SLOT_SEALED,
    VOLUME_TRIAL,
)
from storage.volume.opening import OpenedFiles, open_files
from storage.volume.slot import (
    Footer,
    OpenSlot,
    SlotHeader,
    decode_footer_head,
    decode_slot_header,
    decode_tail,
    encode_footer,
)
from storage.volume.superblock import Superblock
from storage.volume.table import SlotTable, TableEntry

MARGIN_NS = DAY_NS


class Volume:
    """One disk. Made by ``Volume.open``; see storage.volume.create for a new one."""

    def __init__(
        self, path: Path, disk: Disk, block: Superblock, files: OpenedFiles, *, writable: bool
    ) -> None:
        self.path = path
        self.disk = disk
        self.writable = writable
        self._superblock = block
        self._files = files
        self._mutex = threading.RLock()
        self._lock_depth = 0
        self._bad_slots: set[int] = set()
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        number: int,
        installation_uuid: bytes,
        write: bool = False,
        exclusive: bool = False,
        repair: bool = False,
        disk: Disk | None = None,
    ) -> Volume:
        """Open by quorum (V9) and check that it is the volume the configuration means.

        ``write``: to record or recover. ``exclusive``: nobody else may have it open (offline
        repair; implies write). ``repair``, only with exclusive: a lost slot table is made anew,
        empty, instead of refused; the caller must then call recovery.rebuild_table.
        Raises VolumeMissing, VolumeForeign, VolumeCorrupt, VolumeBusy, DiskError.
        """
        assert exclusive or not repair
        disk = disk or RealDisk()
        writable = write or exclusive
        block, files = open_files(
            path,
            number=number,
            installation_uuid=installation_uuid,
            write=writable,
            exclusive=exclusive,
            repair=repair,
            disk=disk,
        )
        return cls(path, disk, block, files, writable=writable)

    def close(self) -> None:
        """Let go of files and locks. Writes nothing; safe to call twice."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            files = self._files
            files.table.close()
            for fd in (
                files.slots_fd,
                files.table_fd,
                files.superblock_fd,
                files.lock_fd,
                files.owner_fd,
            ):
                self.disk.close(fd)

    # ---- identity -----------------------------------------------------------------------------

    @property
    def superblock(self) -> Superblock:
        return self._superblock

    @property
    def number(self) -> int:
        return self._superblock.volume_number

    @property
    def uuid(self) -> bytes:
        return self._superblock.volume_uuid

    @property
    def trial(self) -> bool:
        return self._superblock.trial

    @property
    def slot_count(self) -> int:
        return self._superblock.slot_count

    @property
    def slot_size_bytes(self) -> int:
        return self._superblock.slot_size_bytes

    @property
    def capacity_bytes(self) -> int:
        return self.slot_count * self.slot_size_bytes

    @property
    def table(self) -> SlotTable:
        return self._files.table

    @property
    def generations(self) -> npt.NDArray[np.uint32]:
        """Generation by slot, live (I2)."""
        return self._files.table.generations

    @property
    def slots_fd(self) -> int:
        """Descriptor of the ``slots`` file, for positioned reads; aligned ones if ``direct``."""
        return self._files.slots_fd

    @property
    def direct(self) -> bool:
        """False where the file system refuses O_DIRECT: writes go through the page cache."""
        return self._files.direct

    @property
    def margin_ns(self) -> int:
        """Kept beyond min_days; nothing on a trial volume, whose class protects nothing."""
        return 0 if self.trial else MARGIN_NS

    def check_retention(self, retention: RetentionClass) -> None:
        """TRIAL footage on trial volumes only, and nothing else there. Raises RetentionMismatch."""
        if retention.trial != self.trial:
            raise RetentionMismatch(
                f"class {retention.id} cannot be recorded on a "
                f"{'trial' if self.trial else 'production'} volume",
                path=self.path,
                number=self.number,
            )

    # ---- superblock ---------------------------------------------------------------------------

    def persist_trusted(self, mark: TrustedMark) -> None:
        """T7: serve calls this once a minute. Trusted time never goes back. Raises DiskError."""

        def change(block: Superblock) -> Superblock:
            return msgspec.structs.replace(
                block,
                trusted_ns=max(block.trusted_ns, mark.trusted_ns),
                wall_ns=mark.wall_ns,
            )

        self._update_superblock(change)

    def begin_serving(self) -> int:
        """The open_id of this start of serve, made durable. Raises DiskError."""

        def change(block: Superblock) -> Superblock:
            return msgspec.structs.replace(block, open_id=(block.open_id + 1) & 0xFFFF_FFFF)

        self._update_superblock(change)
        return self._superblock.open_id

    def superblock_faults(self) -> tuple[str, ...]:
        """What is wrong with single superblock copies now; two good ones are enough to open."""
        with self._disk_errors("reading the superblock"):
            return superblock.read(self.disk, self._files.superblock_fd).faults

    def _update_superblock(self, change: Callable[[Superblock], Superblock]) -> None:
        assert self.writable
        with self.locked(), self._disk_errors("writing the superblock"):
            current = superblock.read(self.disk, self._files.superblock_fd).chosen
            if current is None or current.volume_uuid != self.uuid:
                raise VolumeCorrupt(
                    "the superblock became unreadable, or another's, while it was in use. "
                    "Restore the `superblock` file from a backup",
                    path=self.path,
                    number=self.number,
                )
            new = msgspec.structs.replace(change(current), sequence=current.sequence + 1)
            superblock.write(self.disk, self._files.superblock_fd, new)
            self._superblock = new

    # ---- reading ------------------------------------------------------------------------------

    def read(self, slot: int, offset_bytes: int, length: int) -> memoryview:
        """``length`` bytes of a slot at a block-aligned offset. Raises DiskError, VolumeCorrupt."""
        assert 0 <= slot < self.slot_count and offset_bytes % BLOCK_BYTES == 0
        assert 0 <= offset_bytes <= self.slot_size_bytes - length
        start = slot * self.slot_size_bytes + offset_bytes
        with self._disk_errors(f"reading slot {slot}"):
            data = self.disk.read(self._files.slots_fd, start, length)
        if len(data) != length:
            raise VolumeCorrupt(
                f"slot {slot} ends {length - len(data)} bytes early: the file was truncated",
                path=self.path,
                number=self.number,
            )
        return data

    def read_slot_header(self, slot: int) -> SlotHeader | None:
        """The header, or None if block 0 is no valid header of this slot of this volume."""
        try:
            header = decode_slot_header(self.read(slot, 0, BLOCK_BYTES))
        except RecordInvalid:
            return None
        return header if (header.slot, header.volume_uuid) == (slot, self.uuid) else None

    def read_footer(self, slot: int, generation: int) -> Footer:
        """The footer of a sealed slot, verified. Raises RecordInvalid, DiskError."""
        last = self.slot_size_bytes - BLOCK_BYTES
        offset_blocks = decode_tail(self.read(slot, last, BLOCK_BYTES), slot, generation)
        start = offset_blocks * BLOCK_BYTES
        if not BLOCK_BYTES <= start < last:
            raise RecordInvalid("tail points outside the slot")
        block = self.read(slot, start, BLOCK_BYTES)
        head = decode_footer_head(block, self.uuid, slot, generation)
        if start + BLOCK_BYTES + head.entries_bytes > last:
            raise RecordInvalid("footer entries reach beyond the slot")
        if not head.entry_count:
            return head.with_entries(b"", offset_blocks)
        raw = self.read(slot, start + BLOCK_BYTES, head.entries_bytes)
        return head.with_entries(raw, offset_blocks)

    # ---- locks and errors ---------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The volume's ``lock``, against other processes and other threads. Reentrant."""
        with self._mutex:
            if self._lock_depth == 0:
                fcntl.flock(self._files.lock_fd, fcntl.LOCK_EX)
            self._lock_depth += 1
            try:
                yield
            finally:
                self._lock_depth -= 1
                if self._lock_depth == 0:
                    fcntl.flock(self._files.lock_fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _disk_errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskError(operation, error, path=self.path, number=self.number) from error

    # ---- allocate -----------------------------------------------------------------------------

    def allocate(
        self,
        retention: RetentionClass,
        *,
        worker: int,
        lane: int,
        trusted_ns: int,
        opened_ns: int,
    ) -> OpenSlot:
        """Procedure Allocate: the next slot, its table entry and header durable.

        Raises VolumeFull with the numbers, RetentionMismatch, DiskError. After a DiskError the
        slot that failed is not tried again by this process.
        """
        assert self.writable
        self.check_retention(retention)
        with self.locked():
            slot, before = self._choose(trusted_ns)
            header = SlotHeader(
                slot=slot,
                volume_uuid=self.uuid,
                generation=before.generation + 1,
                worker=worker,
                lane=lane,
                class_id=retention.id,
                min_days=retention.min_days,
                flags=VOLUME_TRIAL if self.trial else 0,
                opened_ns=opened_ns,
                alloc_sequence=int(self.table.entries["alloc_sequence"].max()) + 1,
                slot_size_bytes=self.slot_size_bytes,
            )
            try:
                self.table.put(slot, entry_of(header, SLOT_OPEN))
                self.sync_table()  # V2: the index forgets, durably, before the slot is written
                with self._disk_errors(f"writing the header of slot {slot}"):
                    self.disk.write(
                        self._files.slots_fd, slot * self.slot_size_bytes, header.encode()
                    )
                    self.disk.datasync(self._files.slots_fd)
            except DiskError:
                self._bad_slots.add(slot)
                raise
        return OpenSlot(header)

    def _choose(self, trusted_ns: int) -> tuple[int, TableEntry]:
        """The slot to take and its entry, which the slot itself does not contradict."""
        while True:
            choice = ring.choose_slot(
                self.table.entries, trusted_ns, self.margin_ns, frozenset(self._bad_slots)
            )
            if isinstance(choice, ring.FullFacts):
                raise VolumeFull(
                    path=self.path,
                    number=self.number,
                    trusted_ns=trusted_ns,
                    **msgspec.structs.asdict(choice),
                )
            entry = self.table.get(choice.slot)
            try:
                truth = self.derive_entry(choice.slot, entry)
            except (RecordInvalid, DiskError, VolumeCorrupt):
                # Nothing proves that it may be overwritten, so it is not (fsck reports it).
                self._bad_slots.add(choice.slot)
                continue
            if truth == entry:
                return choice.slot, truth
            # The table is a cache (V7): put right, it may or may not be chosen again.
            self.table.put(choice.slot, truth)

    def derive_entry(self, slot: int, entry: TableEntry | None) -> TableEntry:
        """What the slot's table entry must be by the slot's own header and footer (V7).

        ``entry`` is the table's, None if it does not carry its CRC. It is returned unchanged when
        the slot agrees, or is silent. Where the two differ the longer protection wins.
        Raises RecordInvalid if neither table nor slot can be read, DiskError.
        """
        block = self.read(slot, 0, BLOCK_BYTES)
        header = self.read_slot_header(slot)
        if header is None:
            if entry is not None and entry.generation:
                return (
                    entry  # its first allocation was cut off before the header, or the block rotted
                )
            if any(block):
                raise RecordInvalid("slot header unreadable, and no table entry", offset_bytes=0)
            return TableEntry()
        if entry is not None and header.generation < entry.generation:
            return entry  # allocated, but the header never got written: empty
        if entry is not None and header.generation == entry.generation and not entry.sealed:
            return entry
        try:
            footer = self.read_footer(slot, header.generation)
        except RecordInvalid:
            if entry is not None and header.generation == entry.generation:
                return entry.changed(min_days=max(entry.min_days, header.min_days))
            return entry_of(header, SLOT_OPEN)  # recovery will walk it
        truth = sealed_entry(header, footer)
        if entry is None or header.generation != entry.generation:
            return truth
        return entry.changed(
            min_days=max(entry.min_days, header.min_days),
            newest_ns=max(entry.newest_ns, footer.newest_ns),
        )

    # ---- filling and sealing ------------------------------------------------------------------

    def write_records(
        self, slot: OpenSlot, records: Sequence[Fragment | GapRecord]
    ) -> list[RecordPlace]:
        """Write behind what the slot holds. Not durable yet. Raises WriteError (an OSError)."""
        return self.disk.write_records(
            self._files.slots_fd,
            slot.slot * self.slot_size_bytes,
            slot.next_block,
            slot.next_sequence,
            self.uuid,
            slot.slot,
            slot.generation,
            records,
        )

    def sync_slots(self) -> None:
        """Everything written to slots is durable. Raises OSError; then nothing may be assumed."""
        self.disk.datasync(self._files.slots_fd)

    def sync_table(self) -> None:
        with self._disk_errors("fdatasync of the slot table"):
            self.disk.datasync(self._files.table_fd)

    def note_durable(self, slot: OpenSlot) -> None:
        """After fdatasync: the table says how far the slot is durable."""
        entry = self._own_entry(slot)
        self.table.put(
            slot.slot,
            entry.changed(
                first_ns=slot.first_ns,
                newest_ns=slot.newest_ns,
                used_bytes=slot.used_bytes,
                record_count=slot.record_count,
            ),
        )

    def seal(self, slot: OpenSlot, sealed_ns: int) -> Footer:
        """Procedure Seal. Call after the slot's last record is durable. Raises DiskError."""
        footer = slot.footer(sealed_ns)
        self.write_footer(footer)
        self.mark_sealed(slot.header, footer)
        return footer

    def write_footer(self, footer: Footer) -> None:
        """Footer and tail, durable. Raises DiskError."""
        base = footer.slot * self.slot_size_bytes
        body, tail = encode_footer(footer)
        with self._disk_errors(f"sealing slot {footer.slot}"):
            self.disk.write(self._files.slots_fd, base + footer.offset_blocks * BLOCK_BYTES, body)
            self.disk.write(self._files.slots_fd, base + self.slot_size_bytes - BLOCK_BYTES, tail)
            self.disk.datasync(self._files.slots_fd)

    def mark_sealed(self, header: SlotHeader, footer: Footer) -> None:
        """The table says sealed, durably."""
        with self.locked():
            entry = self.table.get(header.slot)
            flags = entry.flags if entry is not None else 0
            self.table.put(header.slot, sealed_entry(header, footer).changed(flags=flags))
            self.sync_table()

    def release_empty(self, slot: int, generation: int) -> None:
        """An open slot without a single record becomes free again, its generation spent."""
        with self.locked():
            entry = self.table.get(slot)
            assert entry is not None and entry.generation == generation and entry.open
            self.table.put(
                slot, TableEntry(generation=generation, alloc_sequence=entry.alloc_sequence)
            )
            self.sync_table()

    def set_flags(self, slot: int, generation: int, flags: int) -> bool:
        """Set TABLE_* flags of a slot in that generation; False if it has moved on. Not durable."""
        with self.locked():
            entry = self.table.get(slot)
            if entry is None or entry.generation != generation:
                return False
            self.table.put(slot, entry.changed(flags=entry.flags | flags))
            return True

    def _own_entry(self, slot: OpenSlot) -> TableEntry:
        entry = self.table.get(slot.slot)
        if entry is None:
            return entry_of(slot.header, SLOT_OPEN)
        assert entry.generation == slot.generation and entry.open, "V10: not our slot"
        return entry


def entry_of(header: SlotHeader, state: int) -> TableEntry:
    """An empty table entry for a slot with this header."""
    assert state in (SLOT_FREE, SLOT_OPEN, SLOT_SEALED)
    return TableEntry(
        generation=header.generation,
        state=state,
        worker=header.worker,
        min_days=header.min_days,
        class_id=header.class_id,
        alloc_sequence=header.alloc_sequence,
    )


def sealed_entry(header: SlotHeader, footer: Footer) -> TableEntry:
    return entry_of(header, SLOT_SEALED).changed(
        first_ns=footer.first_ns,
        newest_ns=footer.newest_ns,
        used_bytes=footer.used_bytes,
        record_count=len(footer.entries),
    )
