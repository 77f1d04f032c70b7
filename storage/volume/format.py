"""Byte layouts of a volume: the tables of docs/design/volume-format.md, and nothing that acts.

A test compares every offset and size below with the page. Everything is little-endian and packed.
Decoding checks magic, version and CRC before it gives a field away (V5); it raises RecordInvalid
with the rule that failed. Encoding fills the CRC. Records themselves are decoded by cext.record;
here is only their layout, for scanning.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cext.crc32c import crc32c
from storage.errors import RecordInvalid

if TYPE_CHECKING:
    from typing_extensions import Buffer

BLOCK_BYTES = 4096
FORMAT_VERSION = 1
HEADER_BYTES_MAX = 20480  # cext/fragment.h RV_HEADROOM_BYTES
FRAMES_MAX = 128
SUPERBLOCK_COPIES = 4
FIRST_RECORD_BLOCK = 1

SUPERBLOCK_MAGIC = b"RVSUPER1"
TABLE_MAGIC = b"RVTABLE1"
SLOT_MAGIC = b"RVSLOT01"
RECORD_MAGIC = b"RVFRAG01"
FOOTER_MAGIC = b"RVFOOT01"
TAIL_MAGIC = b"RVTAIL01"

KIND_FRAGMENT = 1
KIND_GAP = 2

RECORD_KEY = 1
RECORD_LOSS = 2
RECORD_DISCONTINUITY = 4
RECORD_REORDERED = 8
RECORD_TRIAL = 16
RECORD_CLOCK_UNSYNCHRONISED = 32

INDEX_KEY = 1
INDEX_GAP = 2
INDEX_LOSS = 4
INDEX_DISCONTINUITY = 8
INDEX_CONFIG_CHANGE = 16
INDEX_CAUSE_SHIFT = 8

SLOT_FREE = 0
SLOT_OPEN = 1
SLOT_SEALED = 2

TABLE_HELD = 1
TABLE_INDEXED = 2
TABLE_DAMAGED = 4

VOLUME_TRIAL = 1

StructuredArray = npt.NDArray[np.void]

SUPERBLOCK = np.dtype(
    [
        ("magic", "S8"),
        ("format_version", "<u4"),
        ("copy_index", "<u4"),
        ("volume_uuid", "V16"),
        ("installation_uuid", "V16"),
        ("sequence", "<u8"),
        ("created_ns", "<i8"),
        ("slot_size_bytes", "<u8"),
        ("slot_count", "<u4"),
        ("volume_number", "<u2"),
        ("flags", "<u2"),
        ("trusted_ns", "<i8"),
        ("open_id", "<u4"),
        ("zero", "V4"),
        ("wall_ns", "<i8"),
        ("zero_2", "V3988"),
        ("crc32c", "<u4"),
    ]
)
TABLE_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("format_version", "<u4"),
        ("slot_count", "<u4"),
        ("volume_uuid", "V16"),
        ("zero", "V4060"),
        ("crc32c", "<u4"),
    ]
)
TABLE_ENTRY = np.dtype(
    [
        ("generation", "<u4"),
        ("state", "u1"),
        ("flags", "u1"),
        ("worker", "<u2"),
        ("first_ns", "<i8"),
        ("newest_ns", "<i8"),
        ("used_bytes", "<u8"),
        ("record_count", "<u4"),
        ("min_days", "<u4"),
        ("class_id", "S8"),
        ("alloc_sequence", "<u8"),
        ("zero", "V4"),
        ("crc32c", "<u4"),
    ]
)
SLOT_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("format_version", "<u4"),
        ("slot", "<u4"),
        ("volume_uuid", "V16"),
        ("generation", "<u4"),
        ("worker", "<u2"),
        ("lane", "<u2"),
        ("class_id", "S8"),
        ("min_days", "<u4"),
        ("flags", "<u4"),
        ("opened_ns", "<i8"),
        ("alloc_sequence", "<u8"),
        ("slot_size_bytes", "<u8"),
        ("zero", "V4012"),
        ("crc32c", "<u4"),
    ]
)
FRAME_ENTRY = np.dtype(
    [
        ("size_bytes", "<u4"),
        ("pts_ticks", "<i4"),
        ("recv_us", "<u4"),
        ("flags", "<u2"),
        ("nal_count", "<u2"),
        ("sha256", "V32"),
    ]
)
FOOTER = np.dtype(
    [
        ("magic", "S8"),
        ("format_version", "<u4"),
        ("slot", "<u4"),
        ("volume_uuid", "V16"),
        ("generation", "<u4"),
        ("entry_count", "<u4"),
        ("entries_bytes", "<u4"),
        ("zero", "V4"),
        ("first_ns", "<i8"),
        ("newest_ns", "<i8"),
        ("sealed_ns", "<i8"),
        ("seal", "V32"),
        ("entries_crc32c", "<u4"),
        ("zero_2", "V3984"),
        ("crc32c", "<u4"),
    ]
)
FOOTER_ENTRY = np.dtype(
    [
        ("offset_blocks", "<u4"),
        ("record_bytes", "<u4"),
        ("kind", "<u2"),
        ("index_flags", "<u2"),
        ("index_duration", "<u4"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("camera_uid", "V16"),
        ("stream_sequence", "<u8"),
        ("fragment_root", "V32"),
        ("header_crc32c", "<u4"),
        ("payload_crc32c", "<u4"),
    ]
)
TAIL = np.dtype(
    [
        ("magic", "S8"),
        ("format_version", "<u4"),
        ("slot", "<u4"),
        ("generation", "<u4"),
        ("footer_offset_blocks", "<u4"),
        ("zero", "V4068"),
        ("crc32c", "<u4"),
    ]
)
RECORD = np.dtype(
    [
        ("magic", "S8"),
        ("format_version", "<u2"),
        ("kind", "<u2"),
        ("header_bytes", "<u4"),
        ("payload_bytes", "<u4"),
        ("record_bytes", "<u4"),
        ("volume_uuid", "V16"),
        ("slot", "<u4"),
        ("generation", "<u4"),
        ("offset_blocks", "<u4"),
        ("slot_sequence", "<u4"),
        ("camera_uid", "V16"),
        ("stream_sequence", "<u8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("recv_first_ns", "<i8"),
        ("recv_last_ns", "<i8"),
        ("rtp_first", "<i8"),
        ("camera_ns", "<i8"),
        ("camera_offset_ns", "<i8"),
        ("clock_rate", "<u4"),
        ("run_id", "<u4"),
        ("frame_count", "<u2"),
        ("codec", "<u2"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("codec_config_offset", "<u4"),
        ("codec_config_bytes", "<u4"),
        ("frame_table_offset", "<u4"),
        ("moof_offset", "<u4"),
        ("moof_bytes", "<u4"),
        ("flags", "<u4"),
        ("fragment_root", "V32"),
        ("payload_crc32c", "<u4"),
        ("codec_config_id", "<u4"),
        ("recv_quantum_ns", "<i8"),
        ("encryption_key_id", "V16"),
        ("zero", "V12"),
        ("header_crc32c", "<u4"),
    ]
)
RECORD_FIXED_BYTES = 256

# TABLE_ENTRY without its CRC: entries are replaced often, and struct is far quicker than numpy.
TABLE_ENTRY_STRUCT = struct.Struct("<IBBHqqQII8sQ4x")
assert TABLE_ENTRY_STRUCT.size == TABLE_ENTRY.itemsize - 4

for _dtype, _size in (
    (SUPERBLOCK, BLOCK_BYTES),
    (TABLE_HEADER, BLOCK_BYTES),
    (TABLE_ENTRY, 64),
    (SLOT_HEADER, BLOCK_BYTES),
    (FRAME_ENTRY, 48),
    (FOOTER, BLOCK_BYTES),
    (FOOTER_ENTRY, 96),
    (TAIL, BLOCK_BYTES),
    (RECORD, RECORD_FIXED_BYTES),
):
    assert _dtype.itemsize == _size, (_dtype, _dtype.itemsize, _size)


def pack_block(dtype: np.dtype[np.void], **fields: Any) -> bytes:
    """One block of a given layout, its CRC filled in."""
    return _with_crc(_fill(dtype, fields))


def unpack_block(dtype: np.dtype[np.void], data: Buffer, magic: bytes) -> np.void:
    """Verify magic, version and CRC of a one-block structure. Raises RecordInvalid."""
    view = memoryview(data)
    name = magic.decode()
    if len(view) < BLOCK_BYTES:
        raise RecordInvalid(f"{name}: shorter than a block")
    if view[:8] != magic:
        raise RecordInvalid(f"{name}: magic")
    block = np.frombuffer(view, dtype=dtype, count=1)[0]
    if int(block["crc32c"]) != crc32c(view[: BLOCK_BYTES - 4]):
        raise RecordInvalid(f"{name}: CRC")
    if int(block["format_version"]) != FORMAT_VERSION:
        raise RecordInvalid(f"{name}: format version {int(block['format_version'])}")
    return block  # type: ignore[no-any-return]


def pack_table_entry(
    generation: int = 0,
    state: int = SLOT_FREE,
    flags: int = 0,
    worker: int = 0,
    first_ns: int = 0,
    newest_ns: int = 0,
    used_bytes: int = 0,
    record_count: int = 0,
    min_days: int = 0,
    class_id: bytes = b"",
    alloc_sequence: int = 0,
) -> bytes:
    """One entry of 64 bytes, its CRC filled in."""
    data = TABLE_ENTRY_STRUCT.pack(
        generation,
        state,
        flags,
        worker,
        first_ns,
        newest_ns,
        used_bytes,
        record_count,
        min_days,
        class_id,
        alloc_sequence,
    )
    return data + crc32c(data).to_bytes(4, "little")


def table_entry_valid(data: Buffer) -> bool:
    """True if the 64 bytes carry their own CRC; an all-zero entry (never used) does too."""
    view = memoryview(data)
    if not any(view):
        return True
    return crc32c(view[:60]) == int.from_bytes(view[60:64], "little")


def class_bytes(class_id: str) -> bytes:
    """ASCII, at most 8 bytes; numpy pads with zeros and strips them again."""
    raw = class_id.encode("ascii")
    if not 1 <= len(raw) <= 8:
        raise ValueError(f"retention class id {class_id!r} must have 1 to 8 ASCII characters")
    return raw


def _fill(dtype: np.dtype[np.void], fields: dict[str, Any]) -> bytearray:
    data = bytearray(dtype.itemsize)
    row = np.frombuffer(data, dtype=dtype, count=1)
    for name, value in fields.items():
        row[name] = np.void(value) if dtype[name].kind == "V" else value
    return data


def _with_crc(data: bytearray) -> bytes:
    end = len(data) - 4
    data[end:] = crc32c(data[:end]).to_bytes(4, "little")
    return bytes(data)
