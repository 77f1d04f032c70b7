"""Growth, order, room, identity, damage and concurrency of one camera's ring, rule by rule."""

from __future__ import annotations

import multiprocessing
import os
import re
import struct
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from storage.base.timebase import TimeRange
from storage.errors import IndexCorrupt
from storage.index.files import IndexBusy
from storage.index.format import (
    DURATION_MAX,
    HEADER,
    HEADER_BYTES,
    ROW,
    ROW_BYTES,
    ROW_STRUCT,
    WORD_HEAD,
    WORD_REPLACED,
    WORD_TAIL,
    capacity_for,
)
from storage.index.index import CameraIndex
from storage.index.mapping import index_path
from storage.index.writer import CameraIndexWriter

from .conftest import INSTALLATION, SECOND, UID, Rig, Tables, fragment, gap

PAGE = Path(__file__).resolve().parents[3] / "docs/design/volume-format.md"
ALWAYS = TimeRange(-(10**18), 10**18 * 4)


def numbers(index: CameraIndex, wanted: TimeRange = ALWAYS) -> list[int]:
    return index.find(wanted).rows["offset_blocks"].tolist()


def test_layout_is_the_page() -> None:
    """Offsets and sizes of the two tables under "Index of a camera"."""
    section = PAGE.read_text().split("## Index of a camera")[1].split("- **I1**")[0]
    tables = [
        [(int(m[1]), int(m[2]), m[3]) for m in re.finditer(r"\| (\d+) \| (\d+) \| ([\w ]+)", part)]
        for part in (section.split("entry field")[0], section.split("entry field")[1])
    ]
    for dtype, table in zip((HEADER, ROW), tables, strict=True):
        assert dtype.fields is not None
        ours = [(f[1], f[0].itemsize) for f in dtype.fields.values()]
        assert sorted(ours) == sorted((offset, size) for offset, size, _ in table)
    assert ROW.itemsize == ROW_BYTES == struct.calcsize(ROW_STRUCT)
    assert HEADER.itemsize == HEADER_BYTES


def test_a_start_before_the_last_is_refused_and_changes_nothing(rig: Rig) -> None:
    rig.writer.append([fragment(5)])
    with pytest.raises(ValueError, match="I1"):
        rig.writer.append([fragment(6), fragment(4)])
    assert numbers(rig.reader) == [5]
    rig.writer.append([fragment(6)])
    assert numbers(rig.reader) == [5, 6]
    rig.close()


def test_a_full_ring_of_live_entries_grows_and_readers_follow(tmp_path: Path) -> None:
    rig = Rig(tmp_path, capacity=8)
    late = CameraIndex.open(tmp_path, UID, rig.tables)
    for number in range(100):
        rig.writer.append([fragment(number)])
    assert rig.writer.capacity == 128
    assert numbers(rig.reader) == list(range(100))
    assert numbers(late) == list(range(100))
    assert CameraIndex.open(tmp_path, UID, rig.tables).entry_count == 100
    assert rig.reader.camera_id == "gate-1"
    late.close()
    rig.close()


def test_dead_entries_make_room_without_growth_and_only_behind_a_durable_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: the fdatasync that carries the tail comes before the first row that needs it."""
    rig = Rig(tmp_path, capacity=8)
    log: list[tuple[str, int]] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        log.append(("sync", int(rig.writer._map.words[WORD_TAIL])))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for number in range(40):
        rig.tables.by_volume[1][:] = 1
        slot = number % 4
        # Everything but the last four entries is dead: a generation of its own each.
        entry = fragment(number, slot=slot, generation=number + 1)
        for back in range(4):
            if number - back >= 0:
                rig.tables.by_volume[1][(number - back) % 4] = number - back + 1
        before = len(log)
        rig.writer.append([entry])
        if number >= 8:
            durable = max(tail for what, tail in log if what == "sync")
            assert number - 8 < durable, "overwrote a row its durable tail does not exclude"
        if len(log) > before:
            assert log[-1][1] > number - 8
    assert rig.writer.capacity == 8
    assert numbers(rig.reader) == [36, 37, 38, 39]
    rig.close()


def test_rows_of_an_absent_volume_are_invisible_but_never_forgotten(tmp_path: Path) -> None:
    tables = Tables(volumes=(1, 2))
    rig = Rig(tmp_path, capacity=8, tables=tables)
    rig.writer.append([fragment(n, volume=2) for n in range(8)])
    absent = tables.by_volume.pop(2)
    rig.writer.append([fragment(8)])
    assert numbers(rig.reader) == [8]
    tables.by_volume[2] = absent
    assert numbers(rig.reader) == list(range(9))
    rig.close()


def test_a_gap_beyond_49_days_takes_several_rows_and_is_found_everywhere(rig: Rig) -> None:
    day = 86_400 * SECOND
    rig.writer.append([gap(0, 0, 200 * day)])
    rows = rig.reader.find(ALWAYS).rows
    assert len(rows) == 5
    assert set(rows["duration"].tolist()[:-1]) == {DURATION_MAX}
    span = rig.reader.find(TimeRange(150 * day, 150 * day + 1))
    assert len(span) == 1
    assert span.is_gap.all()
    assert int(rig.reader.find(ALWAYS).end_ns.max()) == 200 * day
    rig.close()


def test_an_entry_that_reaches_into_the_range_from_before_is_found(rig: Rig) -> None:
    """A loss inside a fragment starts later than it and ends sooner; both touch."""
    rig.writer.append([fragment(0, duration_ns=10 * SECOND), gap(1, SECOND, 2 * SECOND, 1)])
    assert numbers(rig.reader, TimeRange(5 * SECOND, 6 * SECOND)) == [0]
    assert numbers(rig.reader, TimeRange(10 * SECOND, 11 * SECOND)) == []
    assert numbers(rig.reader, TimeRange(10 * SECOND - 1, 11 * SECOND)) == [0]
    rig.close()


def test_a_second_writer_is_refused(rig: Rig) -> None:
    with pytest.raises(IndexBusy):
        rig.open_writer()
    rig.close()
    rig.open_writer().abandon()


def test_another_cameras_or_installations_file_is_refused(rig: Rig) -> None:
    rig.close()
    with pytest.raises(IndexCorrupt, match="belongs to"):
        CameraIndexWriter.open(rig.directory, UID, "x", bytes(16), rig.tables, capacity=64)
    other = bytes(16)
    os.rename(index_path(rig.directory, UID), index_path(rig.directory, other))
    with pytest.raises(IndexCorrupt, match="belongs to"):
        CameraIndex.open(rig.directory, other, rig.tables)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"RVINDEX9"),
        (8, b"\x02"),
        (12, b"\x03"),
        (12, b"\x80"),
        (32, b"\xff" * 6),
        (40, b"\x09"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(rig: Rig, offset: int, value: bytes) -> None:
    rig.writer.append([fragment(0)])
    rig.close()
    with open(index_path(rig.directory, UID), "r+b") as file:
        file.seek(offset)
        file.write(value)
    with pytest.raises(IndexCorrupt):
        CameraIndex.open(rig.directory, UID, rig.tables)
    with pytest.raises(IndexCorrupt):
        rig.open_writer()


@pytest.mark.parametrize("size", [0, 100, 4096, 4096 + 63 * 32])
def test_a_truncated_file_is_refused_not_mapped(rig: Rig, size: int) -> None:
    rig.close()
    os.truncate(index_path(rig.directory, UID), size)
    with pytest.raises(IndexCorrupt):
        CameraIndex.open(rig.directory, UID, rig.tables)


def test_capacity_is_deterministic_and_the_file_sparse(tmp_path: Path) -> None:
    assert capacity_for(30) == capacity_for(30, 1.0) == 1 << 22
    assert capacity_for(90) == 1 << 24
    assert capacity_for(1) == 1 << 17
    rig = Rig(tmp_path, capacity=capacity_for(90))
    status = index_path(tmp_path, UID).stat()
    assert status.st_size == HEADER_BYTES + (1 << 24) * ROW_BYTES
    assert status.st_blocks * 512 < 1 << 20
    rig.close()


def test_a_process_that_ended_between_replaced_and_rename_does_no_harm(rig: Rig) -> None:
    rig.writer.append([fragment(0)])
    rig.writer._map.words[WORD_REPLACED] = 1
    assert numbers(rig.reader) == [0]
    rig.writer.abandon()
    rig.writer = rig.open_writer()
    assert rig.writer._map.words[WORD_REPLACED] == 0
    rig.writer.append([fragment(1)])
    assert numbers(rig.reader) == [0, 1]
    rig.close()


def _append_many(directory: Path, total: int, started: Event) -> None:
    tables = Tables()
    writer = CameraIndexWriter.open(directory, UID, "gate-1", INSTALLATION, tables, capacity=64)
    started.set()
    for first in range(0, total, 7):
        # A dead prefix every now and then, so that the ring turns as well as grows.
        batch = range(first, min(first + 7, total))
        writer.append([fragment(n, slot=n // 1000 % 64) for n in batch])
    writer.close()


def test_a_reader_beside_a_writing_process_sees_a_growing_prefix(tmp_path: Path) -> None:
    """I3: every entry below head is whole: its number is its time, at every moment."""
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    total = 60_000
    process = context.Process(target=_append_many, args=(tmp_path, total, started))
    process.start()
    assert started.wait(60)
    reader = CameraIndex.open(tmp_path, UID, Tables())
    seen = looks = 0
    while seen < total:
        rows = reader.find(TimeRange((seen - 50) * SECOND, ALWAYS.end_ns)).rows
        if len(rows):
            found = rows["offset_blocks"].astype(np.int64)
            assert (rows["start_ns"] == found * SECOND).all()
            assert (np.diff(found) == 1).all()
            assert int(found[-1]) + 1 >= seen
            seen = int(found[-1]) + 1
        looks += 1
    process.join(60)
    assert process.exitcode == 0
    assert looks > 20
    reader.close()


def test_a_copy_made_while_the_tail_passes_is_made_again(rig: Rig) -> None:
    """The seqlock rule: rows at or below a tail that moved meanwhile are not handed out."""
    rig.writer.append([fragment(n) for n in range(10)])
    real = rig.reader._map.copy_rows
    calls = []

    def copy_rows(first: int, end: int) -> object:
        rows = real(first, end)
        calls.append(first)
        if len(calls) == 1:
            rig.writer._map.words[WORD_TAIL] = 5
        return rows

    class Racing:
        def __init__(self, inner: object) -> None:
            self.inner = inner
            self.copy_rows = copy_rows

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    rig.reader._map = Racing(rig.reader._map)  # type: ignore[assignment]
    assert numbers(rig.reader, TimeRange(2 * SECOND, 100 * SECOND)) == [5, 6, 7, 8, 9]
    assert len(calls) == 2
    assert int(rig.writer._map.words[WORD_HEAD]) == 10
