"""The format page, the C structs, the oracle and what is really written: one layout, four times."""

from __future__ import annotations

import re
from pathlib import Path
from struct import calcsize, unpack_from

from cext.arena import ArenaPool
from cext.record import BLOCK_BYTES, FIXED_BYTES, FRAME_ENTRY_BYTES, HEADER_BYTES_MAX
from cext.segment_writer import GapRecord, seal, write_records
from tests.cext.fragments import CAMERA, MIB, VOLUME, make, plain
from tests.oracle import record as oracle

ROOT = Path(__file__).resolve().parents[2]
C_BYTES = {
    "uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8, "int32_t": 4, "int64_t": 8,
}  # fmt: skip
C_CODES = {
    "uint16_t": "H", "uint32_t": "I", "uint64_t": "Q", "int32_t": "i", "int64_t": "q",
}  # fmt: skip
# What the page says in words, the structs name.
NAMES = {
    "header CRC over the header region with this field zero": "header_crc32c",
    "payload CRC over payload_bytes": "payload_crc32c",
    "encryption key id": "encryption_key_id",
    "SHA-256 of the sample's bytes": "sha256",
    "zero": "reserved",
}
Rows = list[tuple[int, int, str]]


def page_table(heading: str) -> Rows:
    """(offset, size, field) of the first table behind a line that begins with ``heading``."""
    text = (ROOT / "docs/design/volume-format.md").read_text(encoding="utf-8")
    _, found, behind = text.partition(f"\n{heading}")
    assert found, heading
    rows: Rows = []
    for line in behind.splitlines():
        match = re.match(r"\| (\d+) \| (\d+) \| (.+?) \|$", line)
        if match:
            words = match[3]
            plain_name = re.match(r"\w+", words)
            assert plain_name
            name = next((NAMES[key] for key in NAMES if words.startswith(key)), plain_name[0])
            rows.append((int(match[1]), int(match[2]), name))
        elif rows:
            break
    return rows


def c_struct(name: str) -> list[tuple[int, int, str, str]]:
    """(offset, size, field, type) of a packed struct of cext/record.h."""
    text = (ROOT / "cext/record.h").read_text(encoding="utf-8")
    body = text[: text.index(f"}} {name};")].rpartition("typedef struct")[2]
    rows, offset = [], 0
    for kind, field, count in re.findall(r"^ +(\w+) (\w+)(?:\[(\d+)\])?;", body, re.M):
        size = C_BYTES[kind] * int(count or 1)
        rows.append((offset, size, field, kind))
        offset += size
    return rows


def oracle_rows(fields: dict[str, str]) -> Rows:
    return [
        (oracle.offset_of(name, fields), calcsize(f"<{code}"), name)
        for name, code in fields.items()
    ]


def test_record_header_is_the_table_of_the_page() -> None:
    table = page_table("### Record\n")
    assert len(table) == 39
    assert table == oracle_rows(oracle.FIELDS)
    assert table == [row[:3] for row in c_struct("rv_record_header")]
    assert table[-1][0] + table[-1][1] == oracle.FIXED_BYTES == FIXED_BYTES


def test_frame_entry_is_the_table_of_the_page() -> None:
    table = page_table("Frame table entry")
    assert table == oracle_rows(oracle.ENTRY_FIELDS)
    assert table == [row[:3] for row in c_struct("rv_frame_entry")]
    assert table[-1][0] + table[-1][1] == oracle.ENTRY_BYTES == FRAME_ENTRY_BYTES


def test_signs_of_the_structs_and_the_oracle_agree() -> None:
    for struct, fields in (
        ("rv_record_header", oracle.FIELDS),
        ("rv_frame_entry", oracle.ENTRY_FIELDS),
    ):
        for _, _, name, kind in c_struct(struct):
            if kind in C_CODES:
                assert fields[name] == C_CODES[kind], name


def test_descriptor_is_bytes_56_to_151() -> None:
    assert oracle.offset_of("camera_uid") == 56
    assert oracle.offset_of("codec_config_offset") == 152


def test_sizes_that_are_not_in_tables() -> None:
    header = (ROOT / "cext/fragment.h").read_text(encoding="utf-8")
    headroom = re.search(r"#define RV_HEADROOM_BYTES (\d+)u", header)
    assert headroom and int(headroom[1]) == HEADER_BYTES_MAX
    assert BLOCK_BYTES == oracle.BLOCK == 4096
    largest = 256 + 128 * 48 + 4096 + 88 + 128 * 16 + 8
    assert largest <= HEADER_BYTES_MAX


def test_written_bytes_are_where_the_page_says(tmp_path: Path) -> None:
    """Every field of one fragment and one gap, read at the page's offsets."""
    pool = ArenaPool(64 * MIB)
    fragment = make(pool, plain(3, stream_sequence=0x1122334455667788))
    gap = GapRecord(CAMERA, 8, 10, 2**40, 4, 77, "no frames for 3 s", flags=16)
    seal([fragment])
    with open(tmp_path / "slots", "wb") as file:
        write_records(file.fileno(), 8192, 5, 9, VOLUME, 3, 6, [fragment, gap])
    data = (tmp_path / "slots").read_bytes()[8192 + 5 * 4096 :]

    def value(at: int, name: str) -> object:
        return unpack_from(f"<{oracle.FIELDS[name]}", data, at + oracle.offset_of(name))[0]

    expected = {
        "magic": b"RVFRAG01", "format_version": 1, "kind": 1, "header_bytes": 4096,
        "payload_bytes": fragment.payload_bytes, "record_bytes": fragment.record_bytes,
        "volume_uuid": VOLUME, "slot": 3, "generation": 6, "offset_blocks": 5,
        "slot_sequence": 9, "camera_uid": CAMERA, "stream_sequence": 0x1122334455667788,
        "start_ns": 1_790_000_000_000_000_000, "end_ns": 1_790_000_000_120_000_000,
        "recv_first_ns": 1_790_000_000_000_000_000, "recv_last_ns": 1_790_000_000_080_000_000,
        "rtp_first": 1 << 32, "camera_ns": 1_790_000_000_000_000_005, "camera_offset_ns": -6,
        "clock_rate": 90_000, "run_id": 3, "frame_count": 3, "codec": 1, "width": 1920,
        "height": 1080, "codec_config_offset": 400, "codec_config_bytes": 13,
        "frame_table_offset": 256, "moof_offset": 4096 - 8 - 136, "moof_bytes": 136,
        "flags": 17, "fragment_root": fragment.fragment_root, "codec_config_id": 2,
        "recv_quantum_ns": 125_000_000, "encryption_key_id": bytes(16), "reserved": bytes(12),
    }  # fmt: skip
    assert {name: value(0, name) for name in expected} == expected
    expected = dict.fromkeys(
        ("payload_bytes", "recv_first_ns", "recv_last_ns", "rtp_first", "camera_ns",
         "camera_offset_ns", "clock_rate", "frame_count", "width", "height", "moof_offset",
         "moof_bytes", "payload_crc32c", "codec_config_id", "recv_quantum_ns"), 0,
    ) | {
        "kind": 2, "header_bytes": 4096, "record_bytes": 4096, "slot_sequence": 10,
        "offset_blocks": 5 + fragment.record_bytes // 4096, "stream_sequence": 8,
        "start_ns": 10, "end_ns": 2**40, "run_id": 77, "codec": 4, "flags": 16,
        "codec_config_offset": 256, "codec_config_bytes": 17, "frame_table_offset": 256,
        "fragment_root": gap.fragment_root,
    }  # fmt: skip
    at = fragment.record_bytes
    assert {name: value(at, name) for name in expected} == expected
    assert data[at + 256 : at + 273] == b"no frames for 3 s"
