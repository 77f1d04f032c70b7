"""Checkpoints promise what the disk holds (I5); restore and rebuild give the ring back (V7)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from storage.base.timebase import TimeRange
from storage.errors import DiskError
from storage.index.checkpoint import IndexCheckpoint
from storage.index.format import WORD_FLUSHED_HEAD, IndexEntry
from storage.index.index import CameraIndex
from storage.index.mapping import index_path
from storage.index.rebuild import IndexRebuild, restore_camera

from .conftest import INSTALLATION, SECOND, UID, Rig, Tables, fragment, gap

ALWAYS = TimeRange(-(10**18), 10**18 * 4)


def starts(index: CameraIndex) -> list[int]:
    return (index.find(ALWAYS).rows["start_ns"] // SECOND).tolist()


def test_a_slot_is_indexed_after_the_second_checkpoint_that_follows(rig: Rig) -> None:
    checkpoint: IndexCheckpoint[str] = IndexCheckpoint()
    rig.writer.append([fragment(0)])
    checkpoint.sealed("a")
    assert checkpoint.run([rig.writer]) == ()
    checkpoint.sealed("b")
    assert checkpoint.run([rig.writer]) == ("a",)
    assert checkpoint.waiting == 1
    assert checkpoint.run([rig.writer]) == ("b",)
    assert checkpoint.run([rig.writer]) == ()
    rig.close()


def test_what_indexed_promises_a_crash_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only bytes that a fdatasync covered survive: flushed_head on the disk covers slot "a"."""
    rig = Rig(tmp_path)
    disk: dict[str, bytes] = {}
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        real(fd)
        disk["image"] = index_path(tmp_path, UID).read_bytes()

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    checkpoint: IndexCheckpoint[str] = IndexCheckpoint()
    rig.writer.append([fragment(n) for n in range(5)])
    checkpoint.sealed("a")
    rows_of_a = rig.writer.head
    while "a" not in checkpoint.run([rig.writer]):
        rig.writer.append([fragment(rig.writer.head)])
    image = disk["image"]
    flushed = int.from_bytes(image[WORD_FLUSHED_HEAD * 8 : WORD_FLUSHED_HEAD * 8 + 8], "little")
    assert flushed >= rows_of_a
    rig.close()
    index_path(tmp_path, UID).write_bytes(image)
    writer = rig.open_writer()
    writer.restore([])
    assert writer.head == flushed
    writer.abandon()


def test_a_failed_checkpoint_promotes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint: IndexCheckpoint[str] = IndexCheckpoint()
    checkpoint.sealed("a")
    assert checkpoint.run([rig.writer]) == ()

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        checkpoint.sealed("b")
        with pytest.raises(DiskError):
            checkpoint.run([rig.writer])
    assert checkpoint.waiting == 2
    assert checkpoint.run([rig.writer]) == ("a",)
    assert checkpoint.run([rig.writer]) == ("b",)
    rig.close()


def test_close_leaves_a_flushed_head_that_is_durable(rig: Rig) -> None:
    rig.writer.append([fragment(n) for n in range(9)])
    rig.writer.close()
    rig.writer = rig.open_writer()
    assert rig.writer.flushed_head == rig.writer.head == 9
    assert rig.writer.last_stream_sequence == 9
    assert rig.writer.last_end_ns == 9 * SECOND
    rig.close()


@pytest.mark.parametrize("shuffled", [False, True])
def test_restore_appends_only_what_the_ring_lacks(rig: Rig, shuffled: bool) -> None:
    everything = [fragment(n, slot=n // 4) for n in range(20)]
    rig.writer.append(everything[:10])
    rig.writer.checkpoint()
    rig.writer.append(everything[10:15])  # published, never flushed: the crash takes them
    rig.writer.abandon()
    rig.writer = rig.open_writer()
    found = everything[8:]
    if shuffled:
        random.Random(7).shuffle(found)
    assert restore_camera(rig.writer, found) == 10
    assert starts(rig.reader) == list(range(20))
    assert rig.writer.last_stream_sequence == 20
    rig.writer.append([fragment(20)])
    assert starts(rig.reader) == list(range(21))
    rig.close()


def test_restore_takes_up_a_record_that_belongs_among_durable_rows(rig: Rig) -> None:
    rig.writer.append([fragment(n) for n in (0, 1, 2, 4, 5)] + [gap(9, 5 * SECOND, 7 * SECOND)])
    rig.writer.checkpoint()
    before = rig.reader.find(ALWAYS).rows
    assert restore_camera(rig.writer, [fragment(3), fragment(2)]) == 1
    assert starts(rig.reader) == [0, 1, 2, 3, 4, 5, 5]
    after = rig.reader.find(ALWAYS).rows
    assert (after[4:] == before[3:]).all()
    rig.close()


def test_rebuild_gives_the_rings_back_whatever_the_order_of_the_slots(tmp_path: Path) -> None:
    other = bytes(16)
    truth: dict[bytes, list[IndexEntry]] = {
        UID: [fragment(n, slot=n % 7) for n in range(300)] + [gap(300, 300 * SECOND, 310 * SECOND)],
        other: [fragment(n, slot=7) for n in range(5)],
    }
    rig = Rig(tmp_path)
    rig.writer.append(truth[UID][:3])
    rebuild = IndexRebuild(tmp_path, INSTALLATION, {UID: "gate-1"}, days=1)
    for slot in (3, 7, 0, 6, 1, 5, 2, 4):
        for uid, entries in truth.items():
            rebuild.add(uid, [e for e in entries if e.slot == slot])
    report = rebuild.finish()
    assert (report.cameras, report.entries) == (2, 306)
    assert starts(rig.reader) == [*range(300), 300], "an open reader follows to the new file"
    assert rig.reader.camera_id == "gate-1"
    assert len(CameraIndex.open(tmp_path, other, rig.tables).find(ALWAYS)) == 5
    rig.close()
    writer = rig.open_writer()
    assert (writer.head, writer.flushed_head) == (301, 301)
    assert (writer.last_stream_sequence, writer.last_end_ns) == (301, 310 * SECOND)
    writer.abandon()
    assert not (tmp_path / "rebuild.spool").exists()


def test_rebuild_spools_when_memory_is_short_and_clears_an_unfinished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.index.rebuild.SPOOL_ROWS_MAX", 10)
    spool = tmp_path / "rebuild.spool"
    spool.mkdir()
    (spool / UID.hex()).write_bytes(b"left over")
    rebuild = IndexRebuild(tmp_path, INSTALLATION, {}, days=1)
    for number in range(100):
        rebuild.add(UID, [fragment(number)])
    assert len(np.fromfile(spool / UID.hex(), np.uint8)) == 100 * 48
    assert rebuild.finish().entries == 100
    index = CameraIndex.open(tmp_path, UID, Tables())
    assert starts(index) == list(range(100))
    index.close()
