"""Index files of cameras that have been recorded for a month, made without a month of footage.

Rows are what a recorder writes for one fragment after the other. They name slots of the real
volume with the generation that those slots will have, so that to a reader they are as live as any
other row; footage is really there only where a bench records it afterwards.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cext.segment_writer import datasync, write_aligned
from storage.index.format import (
    FLAG_CONFIG_CHANGE,
    FLAG_KEY,
    HEADER_BYTES,
    ROW,
    ROW_BYTES,
    Rows,
    encode_header,
)
from storage.index.mapping import index_path
from storage.volume.format import BLOCK_BYTES

_NS = 1_000_000_000
_RECORD_BYTES = 524_288
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class History:
    """Rows of one camera for ``days`` days that end at ``end_ns``."""

    rows: Rows
    days: int
    end_ns: int

    @classmethod
    def make(
        cls,
        days: int,
        end_ns: int,
        *,
        fragment_s: float,
        slots_used: int,
        slot_bytes: int,
        volume_number: int,
        cameras: int,
        seed: int = 1,
    ) -> "History":
        """Fragments of about ``fragment_s`` seconds, with an outage of minutes every day or so.

        Rows move through ``slots_used`` slots, all in their first generation, as the rows of one
        among ``cameras`` cameras do that fill them together.
        """
        random = np.random.default_rng(seed)
        count = int(days * 86_400 / fragment_s)
        lengths = random.uniform(0.8, 1.2, count) * (fragment_s * _NS)
        starts = np.cumsum(lengths) - lengths
        outages = random.random(count) < fragment_s / 86_400
        starts += np.cumsum(outages * random.uniform(60, 1800, count) * _NS)
        number = np.arange(count, dtype=np.int64)
        per_slot = max(1, slot_bytes // _RECORD_BYTES - 1)
        rows = np.zeros(count, ROW)
        rows["start_ns"] = end_ns - int(starts[-1] + lengths[-1]) + starts.astype(np.int64)
        rows["duration"] = (lengths / 1_000).astype(np.uint32)
        rows["generation"] = 1
        rows["slot"] = number * cameras // per_slot % slots_used
        rows["offset_blocks"] = 1 + number % per_slot * (_RECORD_BYTES // BLOCK_BYTES)
        rows["record_bytes"] = _RECORD_BYTES
        rows["flags"] = FLAG_KEY
        rows["flags"][0] |= FLAG_CONFIG_CHANGE
        rows["volume_number"] = volume_number
        return cls(rows, days, end_ns)

    @property
    def file_bytes(self) -> int:
        """Bytes that one file takes on disk (what the ring has not reached is a hole)."""
        return HEADER_BYTES + len(self.rows) * ROW_BYTES

    def write(self, directory: Path, uid: bytes, camera_id: str, installation: bytes) -> Path:
        """One camera's file, written past the page cache and durable."""
        directory.mkdir(parents=True, exist_ok=True)
        path = index_path(directory, uid)
        capacity = 1 << len(self.rows).bit_length()
        header = encode_header(
            capacity=capacity,
            camera_uid=uid,
            camera_id=camera_id,
            installation_uuid=installation,
            head=len(self.rows),
            flushed_head=len(self.rows),
            last_stream_sequence=len(self.rows),
            last_end_ns=self.end_ns,
        )
        body = self.rows.view(np.uint8).data
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC, 0o640)
        try:
            os.ftruncate(fd, HEADER_BYTES + capacity * ROW_BYTES)
            write_aligned(fd, 0, header)
            for at in range(0, len(body), _CHUNK_BYTES):
                write_aligned(fd, HEADER_BYTES + at, body[at : at + _CHUNK_BYTES])
            datasync(fd)
        finally:
            os.close(fd)
        return path
