"""Rings out of volumes: after a crash the newest part of each, after a disaster all of them.

Owns what recovery and `ringvault index rebuild` do with the records that volumes were found to
hold. Never reads a volume itself; storage.volume.recovery finds the records.

docs/design/volume-format.md, "Recover" and "Rebuild".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from storage.errors import DiskError
from storage.index.files import create_file
from storage.index.format import (
    CAUSE_SHIFT,
    FLAG_GAP,
    FRAGMENT_TICK_NS,
    GAP_TICK_NS,
    ROW,
    WORD_REPLACED,
    IndexEntry,
    Rows,
    capacity_for,
    encode_header,
)
from storage.index.mapping import index_path
from storage.index.writer import CameraIndexWriter

SPOOL_ROWS_MAX: Final = 1 << 20
_FLAGS: Final = (1 << CAUSE_SHIFT) - 1
_SPOOLED: Final = np.dtype([("row", ROW), ("stream_sequence", "<u8"), ("end_ns", "<i8")])


def restore_camera(writer: CameraIndexWriter, found: Iterable[IndexEntry]) -> int:
    """Cut the ring back to flushed_head and append what it lacks of ``found``, in stream order.

    ``found``: the camera's records in all slots that were open, or sealed but not INDEXED, in any
    order; those the ring holds already are left alone. Returns how many entries were added.
    """
    durable = writer.rows_from(0)
    known = {
        tuple(place)
        for place in durable[["volume_number", "slot", "generation", "offset_blocks"]].tolist()
    }
    missing = sorted(
        (
            entry
            for entry in found
            if (entry.volume_number, entry.slot, entry.generation, entry.offset_blocks) not in known
        ),
        key=_time_order,
    )
    entries = list(missing)
    if missing and len(durable):
        later = int(np.searchsorted(durable["start_ns"], missing[0].start_ns, side="right"))
        if later < len(durable):
            # A record that belongs among durable rows: take those behind it up again (I1).
            entries = sorted(entries + _entries_of(durable[later:]), key=_time_order)
            writer.lower_flushed_head(writer.flushed_head - (len(durable) - later))
    writer.restore(entries)
    return len(missing)


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What finish() wrote."""

    cameras: int
    entries: int


class IndexRebuild:
    """All rings anew, offline: records go in slot by slot, in any order; finish() writes the files.

    Memory stays bounded (SPOOL_ROWS_MAX rows, and one camera at a time at the end): rows are
    spooled to one file a camera beside the index. The old files stay in use until each is replaced.
    """

    def __init__(
        self,
        directory: Path,
        installation_uuid: bytes,
        camera_ids: Mapping[bytes, str],
        *,
        days: int,
        fragments_per_second: float = 1.0,
    ) -> None:
        """``camera_ids``: uid to id, as far as known. Removes an unfinished rebuild's spool."""
        self._directory = directory
        self._installation_uuid = installation_uuid
        self._camera_ids = camera_ids
        self._capacity = capacity_for(days, fragments_per_second)
        self._spool = directory / "rebuild.spool"
        self._waiting: dict[bytes, list[tuple[object, ...]]] = {}
        self._waiting_rows = 0
        self._cameras: set[bytes] = set()
        if self._spool.exists():
            shutil.rmtree(self._spool)
        self._spool.mkdir(parents=True)

    def add(self, camera_uid: bytes, entries: Sequence[IndexEntry]) -> None:
        """Records of one camera, of live slot generations. Raises DiskError."""
        rows = self._waiting.setdefault(camera_uid, [])
        for entry in entries:
            for row in entry.rows():
                rows.append((row, entry.stream_sequence, entry.end_ns))
                self._waiting_rows += 1
        if self._waiting_rows >= SPOOL_ROWS_MAX:
            self._flush()

    def finish(self) -> RebuildReport:
        """Sort and write every camera's ring, durable, flushed to its head. Raises DiskError."""
        self._flush()
        total = 0
        for camera_uid in sorted(self._cameras):
            total += self._write(camera_uid)
        shutil.rmtree(self._spool)
        return RebuildReport(len(self._cameras), total)

    def _flush(self) -> None:
        try:
            for camera_uid, rows in self._waiting.items():
                with open(self._spool / camera_uid.hex(), "ab") as spool:
                    spool.write(np.array(rows, _SPOOLED).tobytes())
                self._cameras.add(camera_uid)
        except OSError as error:
            raise DiskError("writing the rebuild spool", error, path=self._spool) from error
        self._waiting = {}
        self._waiting_rows = 0

    def _write(self, camera_uid: bytes) -> int:
        spooled = np.fromfile(self._spool / camera_uid.hex(), _SPOOLED)
        order = np.lexsort((spooled["stream_sequence"], spooled["row"]["start_ns"]))
        rows: Rows = np.ascontiguousarray(spooled["row"][order])
        capacity = max(self._capacity, 1 << (len(rows) * 9 // 8).bit_length())
        path = index_path(self._directory, camera_uid)
        header = encode_header(
            capacity=capacity,
            camera_uid=camera_uid,
            camera_id=self._camera_ids.get(camera_uid, ""),
            installation_uuid=self._installation_uuid,
            head=len(rows),
            flushed_head=len(rows),
            last_stream_sequence=int(spooled["stream_sequence"].max(initial=0)),
            last_end_ns=int(spooled["end_ns"].max(initial=0)),
        )
        old = os.open(path, os.O_RDWR | os.O_CLOEXEC) if path.exists() else None
        os.close(create_file(path, path.with_suffix(".new"), header, capacity, rows))
        if old is not None:
            _mark_replaced(path, old)
        return len(rows)


def _mark_replaced(path: Path, fd: int) -> None:
    """Tell readers that still map the old file; one too broken to be mapped has none."""
    try:
        if os.fstat(fd).st_size >= 4096:
            os.pwrite(fd, (1).to_bytes(8, "little"), WORD_REPLACED * 8)
    finally:
        os.close(fd)


def _time_order(entry: IndexEntry) -> tuple[int, int]:
    return entry.start_ns, entry.stream_sequence


def _entries_of(rows: Rows) -> list[IndexEntry]:
    """Rows as entries again; sequence 0 (the header keeps the newest one's)."""
    entries = []
    for start_ns, duration, generation, slot, offset_blocks, size, flags, volume in rows.tolist():
        tick_ns = GAP_TICK_NS if flags & FLAG_GAP else FRAGMENT_TICK_NS
        entries.append(
            IndexEntry(
                start_ns=start_ns,
                end_ns=start_ns + duration * tick_ns,
                volume_number=volume,
                slot=slot,
                generation=generation,
                offset_blocks=offset_blocks,
                record_bytes=size,
                flags=flags & _FLAGS,
                stream_sequence=0,
                gap_cause=flags >> CAUSE_SHIFT,
            )
        )
    return entries
