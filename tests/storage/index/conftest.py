"""A slot table one can move by hand, and an index on a temporary directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from storage.index.format import FLAG_GAP, FLAG_KEY, IndexEntry
from storage.index.index import CameraIndex
from storage.index.writer import CameraIndexWriter

UID = bytes(range(16))
INSTALLATION = bytes(range(100, 116))
SECOND = 1_000_000_000


class Tables:
    """SlotGenerations of volumes held in memory."""

    def __init__(self, slots: int = 64, volumes: tuple[int, ...] = (1,)) -> None:
        self.by_volume = {v: np.ones(slots, np.uint32) for v in volumes}

    def generations(self, volume_number: int) -> NDArray[np.uint32] | None:
        return self.by_volume.get(volume_number)


def fragment(
    number: int,
    *,
    start_ns: int | None = None,
    duration_ns: int = SECOND,
    slot: int = 0,
    generation: int = 1,
    volume: int = 1,
    key: bool = True,
) -> IndexEntry:
    start = number * SECOND if start_ns is None else start_ns
    return IndexEntry(
        start_ns=start,
        end_ns=start + duration_ns,
        volume_number=volume,
        slot=slot,
        generation=generation,
        offset_blocks=number % (1 << 32),
        record_bytes=8192,
        flags=FLAG_KEY if key else 0,
        stream_sequence=number + 1,
    )


def gap(
    number: int, start_ns: int, end_ns: int, cause: int = 2, *, slot: int = 0, generation: int = 1
) -> IndexEntry:
    return IndexEntry(
        start_ns=start_ns,
        end_ns=end_ns,
        volume_number=1,
        slot=slot,
        generation=generation,
        offset_blocks=number,
        record_bytes=4096,
        flags=FLAG_GAP,
        stream_sequence=number + 1,
        gap_cause=cause,
    )


class Rig:
    """Writer and reader of one camera over one directory."""

    def __init__(self, directory: Path, capacity: int = 64, tables: Tables | None = None) -> None:
        self.directory = directory
        self.tables = tables or Tables()
        self.capacity = capacity
        self.writer = self.open_writer()
        self.reader = CameraIndex.open(directory, UID, self.tables)

    def open_writer(self) -> CameraIndexWriter:
        return CameraIndexWriter.open(
            self.directory, UID, "gate-1", INSTALLATION, self.tables, capacity=self.capacity
        )

    def close(self) -> None:
        self.writer.abandon()
        self.reader.close()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)
