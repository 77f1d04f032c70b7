"""The log keeps what it acknowledged: across restarts, processes, torn writes and tampering."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from storage.audit import merkle
from storage.audit.events import CameraRemoved, encode_event
from storage.audit.log import ACKNOWLEDGED_NAME, LOG_NAME, AuditLog, TornTail
from storage.errors import AuditBroken, DiskError


def event(number: int) -> CameraRemoved:
    return CameraRemoved(
        time_ns=number, camera_id=f"cam-{number}", camera_uid=bytes(16), actor="tester"
    )


def fill(directory: Path, count: int) -> bytes:
    with AuditLog.open(directory) as log:
        for number in range(count):
            assert log.append(event(number)) == number
        return log.root()


def test_entries_and_root_survive_a_restart(tmp_path: Path) -> None:
    root = fill(tmp_path, 20)
    assert root == merkle.tree_root([merkle.leaf_hash(encode_event(event(n))) for n in range(20)])
    with AuditLog.open(tmp_path) as log:
        assert log.head().size == len(log) == 20
        assert log.root() == root
        assert [entry.event for entry in log.entries(17)] == [event(17), event(18), event(19)]
        assert log.verify().root == root


def test_proofs_of_the_log_verify(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path) as log:
        for number in range(5):
            log.append(event(number))
        old = log.head()
        for number in range(5, 13):
            log.append(event(number))
        new = log.head()
        leaf = merkle.leaf_hash(encode_event(event(6)))
        assert merkle.verify_inclusion(leaf, 6, new.size, log.inclusion_proof(6), new.root)
        proof = log.consistency_proof(old.size)
        assert merkle.verify_consistency(old.size, new.size, proof, old.root, new.root)
        with pytest.raises(IndexError):
            log.inclusion_proof(13)
        with pytest.raises(IndexError):
            log.consistency_proof(3, 14)


def test_an_index_is_returned_only_after_the_fdatasync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        real(fd)
        synced.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with AuditLog.open(tmp_path) as log:
        log.append(event(1))
        assert synced[-1] == (tmp_path / LOG_NAME).stat().st_size
        size = synced[-1]
        log.append(event(2))
        assert synced[-1] > size


def test_threads_that_append_together_share_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sync is held until all threads wait: the rest must go out in one batch."""
    syncs = 0
    entered, go_on = threading.Event(), threading.Event()
    real = os.fdatasync
    with AuditLog.open(tmp_path) as log:

        def fdatasync(fd: int) -> None:
            nonlocal syncs
            syncs += 1
            entered.set()
            assert go_on.wait(30)
            real(fd)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        indexes: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: indexes.append(log.append(event(n))))
            for n in range(17)
        ]
        threads[0].start()
        assert entered.wait(30)
        for thread in threads[1:]:
            thread.start()
        while len(log._waiting) < 16:
            pass
        go_on.set()
        for thread in threads:
            thread.join(30)
        assert sorted(indexes) == list(range(17))
        assert syncs == 2
        assert {e.event for e in log.entries()} == {event(n) for n in range(17)}


def _append_in_process(directory: Path, first: int, count: int) -> None:
    with AuditLog.open(directory) as log:
        for number in range(first, first + count):
            index = log.append(event(number))
            assert next(log.entries(index)).event == event(number)


def test_processes_that_append_together_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_append_in_process, args=(tmp_path, first, 60))
        for first in (0, 1000, 2000)
    ]
    with AuditLog.open(tmp_path) as log:
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        numbers = [entry.event.time_ns for entry in log.entries()]
        assert sorted(numbers) == [f + n for f in (0, 1000, 2000) for n in range(60)]
        assert log.verify().size == 180


@pytest.mark.parametrize("kept", range(0, 130, 9))
def test_an_unfinished_write_is_cut_off_and_reported(tmp_path: Path, kept: int) -> None:
    root = fill(tmp_path, 3)
    path = tmp_path / LOG_NAME
    before = path.stat().st_size
    acknowledged = (tmp_path / ACKNOWLEDGED_NAME).read_bytes()
    with AuditLog.open(tmp_path) as log:
        log.append(event(3))
    (tmp_path / ACKNOWLEDGED_NAME).write_bytes(acknowledged)
    whole = path.stat().st_size - before
    kept = min(kept, whole - 1)
    os.truncate(path, before + kept)
    tails: list[TornTail] = []
    with AuditLog.open(tmp_path, tails.append) as log:
        assert log.root() == root
        assert tails == ([TornTail(3, before, kept)] if kept else [])
        assert log.append(event(4)) == 3
        assert log.verify().size == 4


@pytest.mark.parametrize("zeroed", [slice(0, 8), slice(8, 40), slice(100, None), slice(0, None)])
def test_a_sector_that_never_reached_the_disk_is_a_torn_tail(tmp_path: Path, zeroed: slice) -> None:
    root = fill(tmp_path, 3)
    path = tmp_path / LOG_NAME
    before = path.stat().st_size
    acknowledged = (tmp_path / ACKNOWLEDGED_NAME).read_bytes()
    with AuditLog.open(tmp_path) as log:
        log.append(event(3))
    (tmp_path / ACKNOWLEDGED_NAME).write_bytes(acknowledged)
    data = bytearray(path.read_bytes())
    tail = data[before:]
    tail[zeroed] = bytes(len(tail[zeroed]))
    path.write_bytes(data[:before] + tail)
    tails: list[TornTail] = []
    with AuditLog.open(tmp_path, tails.append) as log:
        assert log.root() == root
    assert [tail.entry for tail in tails] == [3]


@pytest.mark.parametrize("entry", [0, 5, 9])
@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_flipped_bit_is_never_a_torn_tail(tmp_path: Path, entry: int, acknowledged: bool) -> None:
    fill(tmp_path, 10)
    path = tmp_path / LOG_NAME
    with AuditLog.open(tmp_path) as log:
        offset = log._offsets[entry]
    data = bytearray(path.read_bytes())
    data[offset + 30] ^= 1
    path.write_bytes(data)
    if not acknowledged:
        (tmp_path / ACKNOWLEDGED_NAME).unlink()
    with pytest.raises(AuditBroken, match=rf"entry {entry} at byte {offset}: its CRC"):
        AuditLog.open(tmp_path)
    assert path.read_bytes() == data, "nothing was cut"


def test_an_acknowledged_entry_is_not_cut_even_if_it_looks_torn(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    path = tmp_path / LOG_NAME
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(AuditBroken, match="missing"):
        AuditLog.open(tmp_path)
    with open(path, "ab") as file:
        file.write(bytes(5))
    with pytest.raises(AuditBroken, match="entry 3"):
        AuditLog.open(tmp_path)


def test_whole_entries_removed_or_replaced_are_noticed(tmp_path: Path) -> None:
    fill(tmp_path / "a", 6)
    path = tmp_path / "a" / LOG_NAME
    with AuditLog.open(tmp_path / "a") as log:
        cut = log._offsets[5]
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(AuditBroken, match="missing"):
        AuditLog.open(tmp_path / "a")
    with AuditLog.open(tmp_path / "b") as log:
        for number in (0, 1, 2, 9, 4, 5):  # another history of the same length
            log.append(event(number))
    path.write_bytes((tmp_path / "b" / LOG_NAME).read_bytes())
    with pytest.raises(AuditBroken, match="are not those acknowledged"):
        AuditLog.open(tmp_path / "a")


def test_an_entry_changed_while_the_log_is_open_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    with AuditLog.open(tmp_path) as log:
        with open(tmp_path / LOG_NAME, "r+b") as file:
            file.seek(log._offsets[1] + 20)
            file.write(b"X")
        with pytest.raises(AuditBroken, match="entry 1"):
            list(log.entries())
        with pytest.raises(AuditBroken, match="entry 1"):
            log.verify()


def test_a_foreign_file_is_not_taken_for_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_bytes(b"something else entirely")
    with pytest.raises(AuditBroken, match="header"):
        AuditLog.open(tmp_path)


def test_a_log_that_failed_refuses_until_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditLog.open(tmp_path) as log:
        log.append(event(0))

        def broken(fd: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", broken)
            with pytest.raises(DiskError):
                log.append(event(1))
        with pytest.raises(DiskError):
            log.append(event(2))
    with AuditLog.open(tmp_path) as log:
        assert log.append(event(3)) in (1, 2)


def test_an_event_beyond_the_limit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path) as log:
        huge = CameraRemoved(time_ns=0, camera_id="x" * (1 << 20), camera_uid=b"", actor="")
        with pytest.raises(ValueError, match="at most"):
            log.append(huge)
        assert log.append(event(0)) == 0
