"""Everything that can be derived, derived anew: slot tables and all rings, offline.

Owns ``ringvault index rebuild``: the Rebuild procedure of docs/design/volume-format.md over a
whole installation. Reads slot headers, footers and, where a footer is lost, records; never
changes a record.

Order: tables (V7), then Recover, which seals what was open, then every ring from the footers of
all sealed slots. The old rings stay in use until each is replaced by its new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from storage.base.clock import Clock
from storage.errors import RecordInvalid
from storage.index.format import IndexEntry
from storage.index.rebuild import IndexRebuild
from storage.store import INDEX_DAYS_DEFAULT, Store, index_entry, recover
from storage.volume.recovery import RecoveredSlot, rebuild_table, record_of
from storage.volume.scan import SlotScanner
from storage.volume.slot import slot_records
from storage.volume.volume import Volume

Progress = Callable[[int, int], None]


class StoreRebuild(msgspec.Struct, frozen=True):
    """What was done. ``faults``: what could not be read, for people."""

    slots: int
    cameras: int
    entries: int
    faults: tuple[str, ...]
    duration_ns: int


def rebuild_store(
    store: Store,
    clock: Clock,
    camera_ids: Mapping[bytes, str],
    *,
    progress: Progress | None = None,
) -> StoreRebuild:
    """Rebuild tables and rings of a store opened with ``exclusive`` (and ``repair``).

    ``camera_ids``: uid to id, as far as known. ``progress(done_slots, all_slots)``. Raises
    DiskError.
    """
    started_ns = time.monotonic_ns()
    faults: list[str] = []
    for volume in store.volumes.values():
        recovery = rebuild_table(volume)
        faults += [f"volume {volume.number} slot {slot}: {text}" for slot, text in recovery.faults]
    report = recover(store, clock)
    faults += [
        finding.detail for finding in report.findings if finding.kind not in _MENDED_BY_REBUILD
    ]
    rebuild = IndexRebuild(
        store.paths.index, store.installation_uuid, camera_ids, days=INDEX_DAYS_DEFAULT
    )
    total = sum(volume.slot_count for volume in store.volumes.values())
    done = slots = 0
    for volume in store.volumes.values():
        for slot in range(volume.slot_count):
            found = _slot(volume, slot, faults)
            if found is not None:
                slots += 1
                for camera_uid, entries in _by_camera(found).items():
                    rebuild.add(camera_uid, entries)
            done += 1
            if progress is not None:
                progress(done, total)
    finished = rebuild.finish()
    return StoreRebuild(
        slots=slots,
        cameras=finished.cameras,
        entries=finished.entries,
        faults=tuple(faults),
        duration_ns=time.monotonic_ns() - started_ns,
    )


# A ring that recovery could not use is exactly what is made anew here.
_MENDED_BY_REBUILD = frozenset({"index"})


def _slot(volume: Volume, slot: int, faults: list[str]) -> RecoveredSlot | None:
    """The records of a sealed slot; None of one that is free or unreadable."""
    entry = volume.table.get(slot)
    if entry is None or not entry.sealed:
        return None
    header = volume.read_slot_header(slot)
    if header is None or header.generation != entry.generation:
        faults.append(f"volume {volume.number} slot {slot}: sealed, but its header is unreadable")
        return None
    try:
        footer = volume.read_footer(slot, entry.generation)
        records, walked = slot_records(footer.entries), False
        end_block, holes = footer.offset_blocks, []
    except RecordInvalid as error:
        walk = SlotScanner(volume, header).walk(entry.used_bytes)
        records, walked = [record_of(found) for found in walk.headers], True
        end_block, holes = walk.end_block, walk.holes
        faults.append(
            f"volume {volume.number} slot {slot}: footer unreadable ({error.rule}); "
            f"{len(records)} records found by walking"
        )
    return RecoveredSlot(
        volume,
        header,
        records,
        was_open=False,
        walked=walked,
        end_block=end_block,
        holes=holes,
    )


def _by_camera(found: RecoveredSlot) -> dict[bytes, list[IndexEntry]]:
    by_camera: dict[bytes, list[IndexEntry]] = {}
    for record in found.records:
        entry = index_entry(found.volume_number, found.header.slot, found.header.generation, record)
        by_camera.setdefault(record.camera_uid, []).append(entry)
    return by_camera
