"""The bytes of a camera's index: header block, 32-byte rows, and what one record becomes in rows.

Owns the mirror of "Index of a camera" in docs/design/volume-format.md: dtypes, flags, rounding.
Never touches a file.

Rounding: a duration is rounded *up*, to a microsecond for a fragment and a millisecond for a gap,
so that a row never ends before its record. A reader cuts the excess at the next row's start.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

FORMAT_VERSION: Final = 1
MAGIC: Final = b"RVINDEX1"
HEADER_BYTES: Final = 4096
ROW_BYTES: Final = 32
CAMERA_ID_BYTES_MAX: Final = 64

FLAG_KEY: Final = 1
FLAG_GAP: Final = 2
FLAG_LOSS: Final = 4
FLAG_DISCONTINUITY: Final = 8
FLAG_CONFIG_CHANGE: Final = 16
CAUSE_SHIFT: Final = 8

FRAGMENT_TICK_NS: Final = 1_000
GAP_TICK_NS: Final = 1_000_000
DURATION_MAX: Final = 0xFFFFFFFF
_TICK_NS: Final = np.array([FRAGMENT_TICK_NS, 0, GAP_TICK_NS], np.int64)  # by flags & FLAG_GAP

HEADER: Final = np.dtype(
    {
        "names": [
            "magic",
            "format_version",
            "capacity",
            "camera_uid",
            "head",
            "tail",
            "flushed_head",
            "last_stream_sequence",
            "last_end_ns",
            "replaced",
            "installation_uuid",
            "camera_id",
        ],
        "formats": [
            "V8",
            "<u4",
            "<u4",
            "V16",
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "<i8",
            "<u8",
            "V16",
            "V64",
        ],
        "offsets": [0, 8, 12, 16, 32, 40, 48, 56, 64, 72, 80, 96],
        "itemsize": HEADER_BYTES,
    }
)

ROW: Final = np.dtype(
    [
        ("start_ns", "<i8"),
        ("duration", "<u4"),
        ("generation", "<u4"),
        ("slot", "<u4"),
        ("offset_blocks", "<u4"),
        ("record_bytes", "<u4"),
        ("flags", "<u2"),
        ("volume_number", "<u2"),
    ]
)
assert ROW.itemsize == ROW_BYTES

# A row as struct packs it: start_ns, then the fields of ROW in order.
ROW_STRUCT: Final = "<qIIIIIHH"

# Places of the header's 64-bit words, counted in words: each is stored and loaded in one piece.
WORD_HEAD: Final = 4
WORD_TAIL: Final = 5
WORD_FLUSHED_HEAD: Final = 6
WORD_LAST_STREAM_SEQUENCE: Final = 7
WORD_LAST_END_NS: Final = 8
WORD_REPLACED: Final = 9

Rows = NDArray[np.void]
Times = NDArray[np.int64]
Mask = NDArray[np.bool_]


class IndexEntry(msgspec.Struct, frozen=True, gc=False):
    """One durable record (fragment or gap) as the index keeps it.

    ``start_ns``/``end_ns``: ns UTC, half-open. ``slot``, ``generation``, ``offset_blocks``:
    where the record begins. ``flags``: FLAG_*; a gap carries FLAG_GAP and ``gap_cause``.
    ``stream_sequence``: of the record; not in the row, kept in the header for the newest one.
    """

    start_ns: int
    end_ns: int
    volume_number: int
    slot: int
    generation: int
    offset_blocks: int
    record_bytes: int
    flags: int
    stream_sequence: int
    gap_cause: int = 0

    def rows(self) -> list[tuple[int, int, int, int, int, int, int, int]]:
        """The row tuples (ROW_STRUCT order), rising; several for a gap beyond 49 days.

        Raises ValueError for a fragment longer than 71 minutes or an end before the start.
        """
        if self.end_ns < self.start_ns:
            raise ValueError(f"index entry ends at {self.end_ns}, before {self.start_ns}")
        start_ns, flags = self.start_ns, self.flags
        gap = flags & FLAG_GAP
        tick_ns = GAP_TICK_NS if gap else FRAGMENT_TICK_NS
        ticks = -((start_ns - self.end_ns) // tick_ns)
        if ticks > DURATION_MAX and not gap:
            raise ValueError(f"fragment of {self.end_ns - start_ns} ns has no index row")
        rest = (
            self.generation,
            self.slot,
            self.offset_blocks,
            self.record_bytes,
            flags | self.gap_cause << CAUSE_SHIFT,
            self.volume_number,
        )
        rows = []
        while ticks > DURATION_MAX:
            rows.append((start_ns, DURATION_MAX, *rest))
            start_ns += DURATION_MAX * tick_ns
            ticks -= DURATION_MAX
        rows.append((start_ns, ticks, *rest))
        return rows


def row_ends_ns(rows: Rows) -> Times:
    """End of each row, ns UTC: start + duration in the unit its kind has."""
    ends: Times = rows["start_ns"] + rows["duration"] * _TICK_NS[rows["flags"] & FLAG_GAP]
    return ends


def gap_causes(rows: Rows) -> NDArray[np.uint16]:
    """The cause code of each row (0 for fragments)."""
    flags: NDArray[np.uint16] = rows["flags"]
    causes: NDArray[np.uint16] = np.right_shift(flags, CAUSE_SHIFT, dtype=np.uint16)
    return causes


def encode_header(
    *,
    capacity: int,
    camera_uid: bytes,
    camera_id: str,
    installation_uuid: bytes,
    head: int = 0,
    tail: int = 0,
    flushed_head: int = 0,
    last_stream_sequence: int = 0,
    last_end_ns: int = 0,
) -> bytes:
    """The header block (4096 bytes). Raises ValueError when a field does not fit."""
    name = camera_id.encode()
    if len(camera_uid) != 16 or len(installation_uuid) != 16:
        raise ValueError("camera_uid and installation_uuid are 16 bytes each")
    if len(name) > CAMERA_ID_BYTES_MAX:
        raise ValueError(f"camera id of {len(name)} bytes, at most {CAMERA_ID_BYTES_MAX}")
    if capacity <= 0 or capacity & (capacity - 1) or capacity > 1 << 31:
        raise ValueError(f"capacity {capacity} is no power of two up to 2^31")
    header: NDArray[Any] = np.zeros(1, HEADER)
    values = {
        "magic": np.void(MAGIC),
        "format_version": FORMAT_VERSION,
        "capacity": capacity,
        "camera_uid": np.void(camera_uid),
        "head": head,
        "tail": tail,
        "flushed_head": flushed_head,
        "last_stream_sequence": last_stream_sequence,
        "last_end_ns": last_end_ns,
        "installation_uuid": np.void(installation_uuid),
        "camera_id": np.void(name.ljust(CAMERA_ID_BYTES_MAX, b"\0")),
    }
    for field, value in values.items():
        header[field] = value
    return header.tobytes()


def capacity_for(days: int, fragments_per_second: float = 1.0) -> int:
    """Rows for ``days`` of footage with an eighth to spare, as a power of two.

    The file is sparse, so a generous capacity costs nothing until it is used.
    """
    rows = max(1024, int(days * 86_400 * fragments_per_second * 9 / 8))
    return 1 << (rows - 1).bit_length()
