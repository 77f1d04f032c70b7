"""Everything of one installation that is on disks: its volumes and its index, opened and checked.

Used by the API process, the command line and fsck to read, by serve and its workers to record.
Owns opening in order, closing, and recovery after a crash. Never records (storage.recorder) and
never lets a byte of footage out (storage.clip).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
import numpy.typing as npt

from storage.base.clock import Clock, TrustedMark
from storage.base.disk import Disk
from storage.errors import IndexCorrupt, StorageError
from storage.index.files import IndexBusy
from storage.index.format import IndexEntry, capacity_for
from storage.index.index import CameraIndex
from storage.index.mapping import index_path
from storage.index.rebuild import restore_camera
from storage.index.writer import CameraIndexWriter
from storage.layout import InstallationPaths
from storage.volume.format import KIND_FRAGMENT
from storage.volume.recovery import RecoveredSlot, VolumeRecovery
from storage.volume.scan import Hole
from storage.volume.slot import SlotRecord
from storage.volume.volume import Volume

INDEX_DAYS_DEFAULT = 32


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """One volume as the configuration names it."""

    number: int
    path: Path


@dataclass(frozen=True, slots=True)
class RecoveryFinding:
    """Something recovery met that an operator should know of. ``kind`` is stable."""

    kind: str
    volume: int | None
    slot: int | None
    camera_uid: bytes | None
    detail: str


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What recovery did. ``records`` were found in slots, ``restored`` were missing in rings."""

    slots: int
    slots_sealed: int
    records: int
    restored: int
    cameras: int
    holes: tuple[Hole, ...]
    findings: tuple[RecoveryFinding, ...]
    duration_ns: int


class Store:
    """Volumes and index of one installation. Made by ``Store.open``; close it."""

    def __init__(
        self, paths: InstallationPaths, installation_uuid: bytes, volumes: Mapping[int, Volume]
    ) -> None:
        self.paths = paths
        self.installation_uuid = installation_uuid
        self.volumes: Mapping[int, Volume] = MappingProxyType(dict(volumes))

    @classmethod
    def open(
        cls,
        paths: InstallationPaths,
        installation_uuid: bytes,
        volumes: Sequence[VolumeConfig],
        *,
        write: bool = False,
        exclusive: bool = False,
        repair: bool = False,
        disk: Disk | None = None,
    ) -> Self:
        """Open all volumes, or none. ``write``, ``exclusive`` and ``repair`` as in Volume.open.

        Raises VolumeMissing, VolumeForeign, VolumeCorrupt, VolumeBusy, DiskError.
        """
        numbers = [config.number for config in volumes]
        if not numbers or len(set(numbers)) != len(numbers):
            raise ValueError(f"volume numbers must be given and unique: {numbers}")
        opened: dict[int, Volume] = {}
        try:
            for config in volumes:
                opened[config.number] = Volume.open(
                    config.path,
                    number=config.number,
                    installation_uuid=installation_uuid,
                    write=write,
                    exclusive=exclusive,
                    repair=repair,
                    disk=disk,
                )
        except BaseException:
            for volume in opened.values():
                volume.close()
            raise
        return cls(paths, installation_uuid, opened)

    def close(self) -> None:
        for volume in self.volumes.values():
            volume.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def generations(self, volume_number: int) -> npt.NDArray[np.uint32] | None:
        """Generation by slot, live (storage.index.liveness.SlotGenerations); None = no such."""
        volume = self.volumes.get(volume_number)
        return volume.generations if volume is not None else None

    def index(self, camera_uid: bytes) -> CameraIndex:
        """A reader of the camera's index. Raises IndexCorrupt, also when there is none."""
        return CameraIndex.open(self.paths.index, camera_uid, self)

    def has_index(self, camera_uid: bytes) -> bool:
        """True once the camera was opened for recording."""
        return index_path(self.paths.index, camera_uid).exists()

    def index_writer(self, camera_uid: bytes, camera_id: str, *, days: int) -> CameraIndexWriter:
        """Open for appending, or create. Raises IndexBusy, IndexCorrupt, DiskError."""
        self.paths.index.mkdir(parents=True, exist_ok=True)
        return CameraIndexWriter.open(
            self.paths.index,
            camera_uid,
            camera_id,
            self.installation_uuid,
            self,
            capacity=capacity_for(max(days, 1)),
        )

    def mark(self) -> TrustedMark:
        """The newest trusted time any volume remembers (T7), for SystemClock."""
        marks = [volume.superblock.mark for volume in self.volumes.values()]
        return max(marks, key=lambda mark: mark.trusted_ns)

    def persist_trusted(self, mark: TrustedMark) -> None:
        """On every volume; serve does so once a minute. Raises DiskError after trying all."""
        failure: StorageError | None = None
        for volume in self.volumes.values():
            try:
                volume.persist_trusted(mark)
            except StorageError as error:
                failure = error
        if failure is not None:
            raise failure


def recover(store: Store, clock: Clock, *, worker: int | None = None) -> RecoveryReport:
    """Procedure Recover: before anything is recorded, for all workers or for one that died.

    With ``worker`` only that worker's slots are touched: others may be recording meanwhile.
    A finding is not a failure; recording may begin when this returns. Raises StorageError only
    where nothing can go on (a disk that cannot be read).
    """
    started_ns = time.monotonic_ns()
    findings: list[RecoveryFinding] = []
    slots: list[RecoveredSlot] = []
    recoveries = [VolumeRecovery(volume, worker) for volume in store.volumes.values()]
    with ThreadPoolExecutor(len(recoveries)) as disks:  # each volume is a disk of its own
        for recovery, found in zip(
            recoveries, disks.map(VolumeRecovery.scan, recoveries), strict=True
        ):
            slots += found
            findings += [
                RecoveryFinding("table_entry", recovery.volume.number, slot, None, text)
                for slot, text in recovery.faults
            ]
    by_camera = _by_camera(slots)
    for records in by_camera.values():
        _mark_config_changes(records)
    for recovery in recoveries:
        recovery.seal_open(clock.utc_ns())
    restored = 0
    for camera_uid, records in by_camera.items():
        restored += _restore(store, camera_uid, records, findings)
    return RecoveryReport(
        slots=len(slots),
        slots_sealed=sum(slot.was_open for slot in slots),
        records=sum(len(slot.records) for slot in slots),
        restored=restored,
        cameras=len(by_camera),
        holes=tuple(hole for slot in slots for hole in slot.holes),
        findings=tuple(findings),
        duration_ns=time.monotonic_ns() - started_ns,
    )


@dataclass(slots=True)
class _Found:
    slot: RecoveredSlot
    position: int

    @property
    def record(self) -> SlotRecord:
        return self.slot.records[self.position]

    @property
    def entry(self) -> IndexEntry:
        header = self.slot.header
        return index_entry(self.slot.volume_number, header.slot, header.generation, self.record)


def _by_camera(slots: Sequence[RecoveredSlot]) -> dict[bytes, list[_Found]]:
    """Each camera's records in stream order; of two with one number the fragment, then the first.

    A number occurs twice when a batch failed, was written again elsewhere, and the process ended
    before the failed slot was sealed without it.
    """
    best: dict[tuple[bytes, int], _Found] = {}
    for slot in slots:
        for position, record in enumerate(slot.records):
            key = (record.camera_uid, record.stream_sequence)
            found = _Found(slot, position)
            if key not in best or record.kind < best[key].record.kind:
                best[key] = found
    by_camera: dict[bytes, list[_Found]] = {}
    for (camera_uid, _), found in sorted(best.items()):
        by_camera.setdefault(camera_uid, []).append(found)
    return by_camera


def _mark_config_changes(found: Sequence[_Found]) -> None:
    """Set CONFIG_CHANGE on walked fragments: a record's header does not say it, two together do.

    Where the fragment before is not at hand the flag is set: once too often harms nobody.
    """
    before: _Found | None = None
    for one in found:
        if one.record.kind != KIND_FRAGMENT:
            continue
        if one.slot.walked:
            config_id = one.slot.codec_config_id(one.position)
            if before is None or before.slot.codec_config_id(before.position) != config_id:
                one.slot.mark_config_change(one.position)
        before = one


def _restore(
    store: Store, camera_uid: bytes, found: Sequence[_Found], findings: list[RecoveryFinding]
) -> int:
    """Entries that were missing in the camera's ring and now are there."""
    try:
        writer = store.index_writer(camera_uid, "", days=INDEX_DAYS_DEFAULT)
    except (IndexCorrupt, IndexBusy) as error:
        findings.append(RecoveryFinding("index", None, None, camera_uid, str(error)))
        return 0
    try:
        return restore_camera(writer, [one.entry for one in found])
    except StorageError as error:
        findings.append(RecoveryFinding("index", None, None, camera_uid, str(error)))
        return 0
    finally:
        writer.abandon()


def index_entry(volume_number: int, slot: int, generation: int, record: SlotRecord) -> IndexEntry:
    """What the index says of a record in that place."""
    return IndexEntry(
        record.start_ns,
        record.end_ns,
        volume_number,
        slot,
        generation,
        record.offset_blocks,
        record.record_bytes,
        record.flags,
        record.stream_sequence,
        record.gap_cause,
    )
