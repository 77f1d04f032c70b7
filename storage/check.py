"""fsck: what is on the disks against what it should be. Reads only; works while serve records.

Three levels, each including the one before:

- **presence**: superblock copies, slot table, slot headers, footers and their seals; every record
  of a sealed slot has its entry in the camera's index, every live entry its record.
- **headers**: every record header of sealed slots, in its place (V4), against its footer entry.
- **full**: every payload CRC, every access unit's SHA-256, every fragment root.

Memory, and time per slot, do not depend on the size of the archive. Findings are data. A slot that
is reused while it is read yields none: it moved on. Damaged fragments are appended to the damage
list by the caller's wish; nothing else is ever written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np

from cext.errors import FrameError
from cext.record import parse_header, verify_record
from storage.base.timebase import TimeRange
from storage.errors import DiskError, RecordInvalid, StorageError, VolumeCorrupt
from storage.index.format import Rows
from storage.index.index import CameraIndex
from storage.store import Store
from storage.volume.damage import DamagedPlace, DamageList
from storage.volume.format import BLOCK_BYTES, HEADER_BYTES_MAX, INDEX_GAP, KIND_GAP
from storage.volume.slot import Footer, SlotRecord, slot_records
from storage.volume.table import TableEntry
from storage.volume.volume import Volume


class Level(StrEnum):
    """How much is read; see the module docstring."""

    PRESENCE = "presence"
    HEADERS = "headers"
    FULL = "full"


class Severity(StrEnum):
    """``damage``: footage or proof is lost. ``fault``: metadata, repairable. ``notice``: known."""

    DAMAGE = "damage"
    FAULT = "fault"
    NOTICE = "notice"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be. ``kind`` is stable; fields that do not apply None."""

    kind: str
    severity: Severity
    detail: str
    volume: int | None = None
    slot: int | None = None
    generation: int | None = None
    offset_blocks: int | None = None
    camera_uid: bytes | None = None
    start_ns: int | None = None
    end_ns: int | None = None


class FsckReport(msgspec.Struct, frozen=True):
    """What was looked at and found. ``clean``: exit status 0."""

    level: Level
    volumes: int
    slots_checked: int
    slots_open: int
    slots_reused_meanwhile: int
    records_checked: int
    bytes_read: int
    cameras: int
    findings: tuple[Finding, ...]
    duration_ns: int

    @property
    def clean(self) -> bool:
        return not any(one.severity is not Severity.NOTICE for one in self.findings)


def fsck(
    store: Store,
    level: Level,
    *,
    found_ns: int = 0,
    damage: DamageList | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FsckReport:
    """Check every volume and every camera's index.

    ``damage``: where damaged fragments are remembered (with ``found_ns`` as the time), if given.
    ``progress(done_slots, all_slots)``. Raises nothing for what it finds; a volume that cannot be
    opened at all never gets here (Store.open).
    """
    return _Check(store, level, found_ns, damage, progress).run()


class _Check:
    def __init__(
        self,
        store: Store,
        level: Level,
        found_ns: int,
        damage: DamageList | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._store = store
        self._level = level
        self._found_ns = found_ns
        self._damage = damage
        self._progress = progress
        self._findings: list[Finding] = []
        self._indexes: dict[bytes, CameraIndex | None] = {}
        self._slots = self._open = self._reused = self._records = self._bytes = 0

    def run(self) -> FsckReport:
        started_ns = time.monotonic_ns()
        total = sum(volume.slot_count for volume in self._store.volumes.values())
        done = 0
        for volume in self._store.volumes.values():
            self._volume(volume)
            for slot in range(volume.slot_count):
                self._slot(volume, slot)
                done += 1
                if self._progress is not None:
                    self._progress(done, total)
        cameras = self._all_indexes()
        self._remember()
        return FsckReport(
            level=self._level,
            volumes=len(self._store.volumes),
            slots_checked=self._slots,
            slots_open=self._open,
            slots_reused_meanwhile=self._reused,
            records_checked=self._records,
            bytes_read=self._bytes,
            cameras=cameras,
            findings=tuple(self._findings),
            duration_ns=time.monotonic_ns() - started_ns,
        )

    # ---- volumes ------------------------------------------------------------------------------

    def _volume(self, volume: Volume) -> None:
        for text in volume.superblock_faults():
            self._add("superblock_copy", Severity.FAULT, text, volume=volume.number)
        fault = volume.table.header_fault(volume.uuid)
        if fault is not None:
            self._add("table_header", Severity.FAULT, fault, volume=volume.number)

    def _slot(self, volume: Volume, slot: int) -> None:
        entry = volume.table.get(slot)
        if entry is None:
            self._add(
                "table_entry",
                Severity.FAULT,
                "does not carry its CRC; recovery derives it from the slot",
                volume=volume.number,
                slot=slot,
            )
            return
        if entry.generation == 0:
            return
        self._slots += 1
        before = len(self._findings)
        try:
            self._used_slot(volume, slot, entry)
        except (DiskError, VolumeCorrupt) as error:
            self._add("unreadable", Severity.DAMAGE, str(error), volume=volume.number, slot=slot)
        if volume.table.generation(slot) != entry.generation:
            del self._findings[before:]  # reused while we looked: what we saw is gone
            self._reused += 1

    def _used_slot(self, volume: Volume, slot: int, entry: TableEntry) -> None:
        place: dict[str, Any] = {
            "volume": volume.number,
            "slot": slot,
            "generation": entry.generation,
        }
        header = volume.read_slot_header(slot)
        self._bytes += BLOCK_BYTES
        if entry.open:
            self._open += 1
            return  # being written, or left by a crash: recovery's business
        if not entry.sealed:
            return
        if header is None or header.generation != entry.generation:
            self._add("slot_header", Severity.FAULT, "does not verify, or is not its own", **place)
        elif header.min_days > entry.min_days:
            text = f"table says {entry.min_days} days, the slot's header {header.min_days}"
            self._add("min_days", Severity.FAULT, text, **place)
        try:
            footer = volume.read_footer(slot, entry.generation)
        except RecordInvalid as error:
            self._add("footer", Severity.DAMAGE, error.rule, **place)
            return
        self._bytes += len(footer.entries) * 96 + 2 * BLOCK_BYTES
        if footer.computed_seal() != footer.seal:
            self._add("seal", Severity.DAMAGE, "is not the root over the records", **place)
        if (footer.newest_ns, len(footer.entries)) != (entry.newest_ns, entry.record_count):
            self._add("table_entry", Severity.FAULT, "does not say what the footer says", **place)
        records = slot_records(footer.entries)
        self._check_index(volume, footer, records)
        if self._level is not Level.PRESENCE:
            self._check_records(volume, footer, records)

    def _check_records(self, volume: Volume, footer: Footer, records: list[SlotRecord]) -> None:
        for ordinal, record in enumerate(records):
            if volume.table.generation(footer.slot) != footer.generation:
                return
            self._records += 1
            fault = self._record_fault(volume, footer, ordinal, record)
            if fault is not None:
                self._add(
                    "damaged_record",
                    Severity.DAMAGE,
                    fault,
                    volume=volume.number,
                    slot=footer.slot,
                    generation=footer.generation,
                    offset_blocks=record.offset_blocks,
                    camera_uid=record.camera_uid,
                    start_ns=record.start_ns,
                    end_ns=record.end_ns,
                )

    def _record_fault(
        self, volume: Volume, footer: Footer, ordinal: int, record: SlotRecord
    ) -> str | None:
        full = self._level is Level.FULL
        start = record.offset_blocks * BLOCK_BYTES
        if start + record.record_bytes > footer.used_bytes:
            return "footer entry points outside the records"
        length = record.record_bytes if full else min(record.record_bytes, HEADER_BYTES_MAX)
        try:
            data = volume.read(footer.slot, start, length)
            self._bytes += length
            header = verify_record(data, full=True) if full else parse_header(data)
        except FrameError as error:
            return str(error)
        except DiskError as error:
            return str(error)
        place = (header.volume_uuid, header.slot, header.generation, header.offset_blocks)
        if place != (volume.uuid, footer.slot, footer.generation, record.offset_blocks):
            return "written for another place (V4)"
        facts = (
            header.slot_sequence,
            header.camera_uid,
            header.stream_sequence,
            header.start_ns,
            header.end_ns,
            header.fragment_root,
            header.header_crc32c,
            header.payload_crc32c,
        )
        listed = (
            ordinal,
            record.camera_uid,
            record.stream_sequence,
            record.start_ns,
            record.end_ns,
            record.fragment_root,
            record.header_crc32c,
            record.payload_crc32c,
        )
        if facts[1:] != listed[1:] or facts[0] < ordinal:
            return "valid, but not the record the footer lists"
        return None

    # ---- index --------------------------------------------------------------------------------

    def _check_index(self, volume: Volume, footer: Footer, records: list[SlotRecord]) -> None:
        """Each camera's index against the footer, for this slot: missing and dangling entries."""
        stored: dict[bytes, set[_Listed]] = {}
        for record in records:
            stored.setdefault(record.camera_uid, set()).add(_listed_by_footer(record))
        span = TimeRange(footer.first_ns, max(footer.newest_ns, footer.first_ns) + 1)
        for uid, blocks in stored.items():
            index = self._index(uid)
            if index is None:
                continue
            rows = index.find(span).rows
            here = (
                (rows["volume_number"] == volume.number)
                & (rows["slot"] == footer.slot)
                & (rows["generation"] == footer.generation)
            )
            listed = _listed_by_index(rows[here])
            for kind, found in (
                ("index_lacks", blocks - listed),
                ("index_dangling", listed - blocks),
            ):
                if found:
                    self._add(
                        kind,
                        Severity.FAULT,
                        f"{len(found)} of {len(blocks)} records; run `ringvault index rebuild`",
                        volume=volume.number,
                        slot=footer.slot,
                        generation=footer.generation,
                        offset_blocks=min(found)[0],
                        camera_uid=uid,
                    )

    def _index(self, uid: bytes) -> CameraIndex | None:
        """The camera's index, kept open; None (and one finding) if it cannot be used."""
        if uid not in self._indexes:
            self._indexes[uid] = None
            if not self._store.has_index(uid):
                text = "stored footage, but no index; run `ringvault index rebuild`"
                self._add("index_missing", Severity.FAULT, text, camera_uid=uid)
                return None
            try:
                self._indexes[uid] = self._store.index(uid)
            except StorageError as error:
                self._add("index", Severity.FAULT, str(error), camera_uid=uid)
        return self._indexes[uid]

    def _all_indexes(self) -> int:
        for path in sorted(self._store.paths.index.glob("*.rvi")):
            try:
                uid = bytes.fromhex(path.stem)
            except ValueError:
                self._add("index_name", Severity.NOTICE, f"{path.name} is no camera's index")
                continue
            self._index(uid)
        for index in self._indexes.values():
            if index is not None:
                index.close()
        return len(self._indexes)

    # ---- helpers ------------------------------------------------------------------------------

    def _remember(self) -> None:
        if self._damage is None:
            return
        self._damage.append(
            DamagedPlace(
                volume=one.volume or 0,
                slot=one.slot or 0,
                generation=one.generation or 0,
                offset_blocks=one.offset_blocks or 0,
                camera=(one.camera_uid or b"").hex(),
                start_ns=one.start_ns or 0,
                end_ns=one.end_ns or 0,
                found_ns=self._found_ns,
                reason=one.detail,
            )
            for one in self._findings
            if one.kind == "damaged_record"
        )

    def _add(self, kind: str, severity: Severity, detail: str, **where: Any) -> None:
        self._findings.append(Finding(kind, severity, detail, **where))


# What the index must say of a record: offset_blocks, record_bytes, start_ns, duration. A gap may
# take several rows of other times, so of it only the place counts.
_Listed = tuple[int, int, int, int]


def _listed_by_footer(record: SlotRecord) -> _Listed:
    if record.kind == KIND_GAP:
        return record.offset_blocks, record.record_bytes, 0, 0
    return record.offset_blocks, record.record_bytes, record.start_ns, record.index_duration


def _listed_by_index(rows: Rows) -> set[_Listed]:
    fragment = (rows["flags"] & INDEX_GAP) == 0
    return set(
        zip(
            rows["offset_blocks"].tolist(),
            rows["record_bytes"].tolist(),
            np.where(fragment, rows["start_ns"], 0).tolist(),
            np.where(fragment, rows["duration"], 0).tolist(),
            strict=True,
        )
    )
