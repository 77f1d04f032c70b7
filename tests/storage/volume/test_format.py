"""Goal: storage/volume/format.py is docs/design/volume-format.md, byte for byte."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cext.crc32c import crc32c
from storage.base.gap import GapCause
from storage.errors import RecordInvalid
from storage.volume import format as layout
from storage.volume.slot import SlotRecord, slot_records
from storage.volume.table import decode_entry, encode_entry

PAGE = (Path(__file__).resolve().parents[3] / "docs/design/volume-format.md").read_text()

# Heading of the page, and which table below it (0 = first): the dtype that mirrors it.
TABLES = {
    ("## Superblock copy", 0): layout.SUPERBLOCK,
    ("## Slot table", 0): layout.TABLE_ENTRY,
    ("### Slot header", 0): layout.SLOT_HEADER,
    ("### Record", 0): layout.RECORD,
    ("### Record", 1): layout.FRAME_ENTRY,
    ("### Footer", 0): layout.FOOTER_ENTRY,
}
# Fields that the page describes in words.
NAMES = {
    "CRC": "crc32c",
    "payload CRC": "payload_crc32c",
    "payload CRC of": "payload_crc32c",
    "header CRC": "header_crc32c",
    "SHA-256": "sha256",
    "encryption key": "encryption_key_id",
    "index flags": "index_flags",
    "index duration": "index_duration",
}


def tables_under(heading: str) -> list[list[tuple[int, int, str]]]:
    section = PAGE.split(f"\n{heading}", 1)[1]
    section = re.split(r"\n##+ ", section, maxsplit=1)[0]
    found, rows = [], []
    for line in [*section.splitlines(), ""]:
        cells = re.fullmatch(r"\| (\d+) \| (\d+) \| (.*) \|", line)
        if cells:
            rows.append((int(cells[1]), int(cells[2]), cells[3]))
        elif rows:
            found.append(rows)
            rows = []
    return found


def name_of(text: str) -> str:
    for words, name in NAMES.items():
        if text.startswith(words):
            return name
    return re.match(r"\w+", text)[0]  # type: ignore[index]


@pytest.mark.parametrize(("place", "dtype"), TABLES.items(), ids=lambda value: str(value)[:40])
def test_layout_is_the_pages(place: tuple[str, int], dtype: np.dtype[np.void]) -> None:
    rows = tables_under(place[0])[place[1]]
    assert [row[:2] for row in rows] == [
        (dtype.fields[name][1], dtype[name].itemsize) for name in dtype.names
    ]
    named = [re.sub(r"zero(_\d+)?", "zero", name) for name in dtype.names]
    assert [name_of(text) for _, _, text in rows] == named


def test_crc_tables_end_where_the_structure_ends() -> None:
    for dtype in TABLES.values():
        last = dtype.names[-1]
        assert dtype.fields[last][1] + dtype[last].itemsize == dtype.itemsize


def test_footer_and_tail_as_the_page_says_in_words() -> None:
    prose = PAGE.split("\n### Footer", 1)[1].split("\n## ", 1)[0]
    footer = prose.split("One block:", 1)[1].split("Then the entries", 1)[0]
    sizes = [int(size) for size in re.findall(r"\((\d+)[,)]", footer)]
    fields = [name for name in layout.FOOTER.names if name not in ("zero_2", "crc32c")]
    assert sizes == [layout.FOOTER[name].itemsize for name in fields]
    tail = prose.split("Tail (last block", 1)[1]
    sizes = [int(size) for size in re.findall(r"\((\d+)\)", tail)]
    assert sizes == [layout.TAIL[name].itemsize for name in layout.TAIL.names[:5]]
    for magic in ("RVSUPER1", "RVTABLE1", "RVSLOT01", "RVFRAG01", "RVFOOT01", "RVTAIL01"):
        assert f"`{magic}`" in PAGE


def test_gap_causes_are_the_pages() -> None:
    section = PAGE.split("### Gap causes", 1)[1].split("\n### ", 1)[0]
    rows = re.findall(r"\| (\d+) \| (\w+) \| (.*) \|", section)
    assert {int(code): name for code, name, _ in rows} == {
        int(cause): cause.label for cause in GapCause
    }
    never_written = {int(code) for code, _, text in rows if "never written" in text}
    assert never_written == {int(cause) for cause in GapCause if not cause.stored}


def test_a_block_carries_its_crc_and_any_flipped_bit_shows() -> None:
    block = bytearray(
        layout.pack_block(
            layout.TAIL, magic=layout.TAIL_MAGIC, format_version=1, slot=7, generation=3
        )
    )
    assert int(layout.unpack_block(layout.TAIL, block, layout.TAIL_MAGIC)["slot"]) == 7
    for byte in (0, 9, 13, 100, 4095):
        block[byte] ^= 0x10
        with pytest.raises(RecordInvalid):
            layout.unpack_block(layout.TAIL, block, layout.TAIL_MAGIC)
        block[byte] ^= 0x10


def test_unpack_refuses_other_versions_and_short_blocks() -> None:
    block = layout.pack_block(layout.TAIL, magic=layout.TAIL_MAGIC, format_version=2)
    with pytest.raises(RecordInvalid, match="format version 2"):
        layout.unpack_block(layout.TAIL, block, layout.TAIL_MAGIC)
    with pytest.raises(RecordInvalid, match="shorter than a block"):
        layout.unpack_block(layout.TAIL, block[:100], layout.TAIL_MAGIC)


def test_table_entry_crc_covers_bytes_0_to_59() -> None:
    raw = layout.pack_table_entry(generation=5, state=2, class_id=b"R30")
    assert crc32c(raw[:60]) == int.from_bytes(raw[60:], "little")
    assert layout.table_entry_valid(raw)
    assert layout.table_entry_valid(bytes(64))
    assert not layout.table_entry_valid(b"\1" + raw[1:])


def test_table_entry_struct_and_dtype_agree() -> None:
    values = (5, 2, 3, 7, -9, 1 << 62, 1 << 40, 11, 30, b"R90-AT", 1 << 63)
    row = np.frombuffer(layout.pack_table_entry(*values), dtype=layout.TABLE_ENTRY)[0]
    names = [name for name in layout.TABLE_ENTRY.names if name not in ("zero", "crc32c")]
    assert tuple(row[name].item() for name in names) == values
    entry = decode_entry(row.tobytes())
    assert (entry.class_id, entry.newest_ns, entry.alloc_sequence) == ("R90-AT", 1 << 62, 1 << 63)
    assert encode_entry(entry) == row.tobytes()


def test_footer_entry_struct_and_dtype_agree() -> None:
    record = SlotRecord(1, 4096, 2, 0x902, 7, -5, 9, b"u" * 16, 77, b"r" * 32, 11, 12)
    row = np.frombuffer(record.encode(), dtype=layout.FOOTER_ENTRY)
    for name in layout.FOOTER_ENTRY.names:
        value = row[name][0]
        expected = getattr(record, name)
        assert (value.tobytes() if isinstance(expected, bytes) else int(value)) == expected
    assert slot_records(row) == [record]
    assert (record.gap_cause, record.flags) == (9, 2)
