"""Disks that fail: injected errors, and a power cut that loses, reorders and tears unsynced writes.

``FaultDisk`` does what RealDisk does and remembers, for each file, what has not been made durable.
``cut()`` then makes the files what a disk might hold after the power went: every unsynced sector
is, independently, its old or its new content; pages of mapped files any state since their sync.
What the machine's own disk keeps is of no concern here, so nothing is really synced.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import storage.adopted as adopted
import storage.index.writer as index_writer
from cext.arena import Fragment
from cext.segment_writer import GapRecord, RecordPlace
from storage.base.disk import Progress, RealDisk

SNAPSHOTS_MAX = 6


class PowerCut(BaseException):
    """The process is gone. Not an Exception: nothing may handle it."""


@dataclass
class Unsynced:
    offset: int
    old: bytes
    new: bytes


class FaultDisk(RealDisk):
    """``fail(operation, path)`` may raise what the next operation shall raise."""

    def __init__(self) -> None:
        self.fail: Callable[[str, Path], None] = lambda operation, path: None
        self.operations = 0
        self._paths: dict[int, Path] = {}
        self._unsynced: dict[Path, list[Unsynced]] = {}
        self._mapped: dict[Path, list[bytes]] = {}

    # ---- Disk ---------------------------------------------------------------------------------

    def open(self, path: Path, *, write: bool, direct: bool) -> int:
        fd = super().open(path, write=write, direct=direct)
        self._paths[fd] = path
        return fd

    def close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        super().close(fd)

    def create(self, path: Path, size_bytes: int, progress: Progress | None) -> None:
        self._before("create", path)
        super().create(path, size_bytes, progress)

    def read(self, fd: int, offset_bytes: int, length: int) -> memoryview:
        if fd in self._paths:
            self.fail("read", self._paths[fd])
        return super().read(fd, offset_bytes, length)

    def write(self, fd: int, offset_bytes: int, data: bytes) -> None:
        padded = bytes(data).ljust(-(-len(data) // 4096) * 4096, b"\0")
        path = self._paths[fd]
        self._note(path, offset_bytes, padded)
        self._before("write", path)
        super().write(fd, offset_bytes, data)

    def write_records(
        self,
        fd: int,
        slot_offset_bytes: int,
        first_block: int,
        first_sequence: int,
        volume_uuid: bytes,
        slot: int,
        generation: int,
        records: Sequence[Fragment | GapRecord],
    ) -> list[RecordPlace]:
        path = self._paths[fd]
        start = slot_offset_bytes + first_block * 4096
        length = sum(record.record_bytes for record in records)
        old = _peek(path, start, length)
        self._before("write_records", path)
        places = super().write_records(
            fd,
            slot_offset_bytes,
            first_block,
            first_sequence,
            volume_uuid,
            slot,
            generation,
            records,
        )
        unsynced = self._unsynced.setdefault(path, [])
        unsynced.append(Unsynced(start, old, _peek(path, start, length)))
        self._before("written_records", path)
        return places

    def datasync(self, fd: int) -> None:
        path = self._paths[fd]
        self._before("datasync", path)
        self._unsynced.pop(path, None)
        if path in self._mapped:
            self._mapped[path] = [path.read_bytes()]
        self._before("datasynced", path)

    def map(self, fd: int, length: int, *, write: bool) -> mmap.mmap:
        path = self._paths[fd]
        self._mapped.setdefault(path, [path.read_bytes()])
        return super().map(fd, length, write=write)

    # ---- the index, which syncs by itself -----------------------------------------------------

    def watch_index(self, monkeypatch: object) -> None:
        """Follow index files: durable when created and at each of their fdatasyncs."""
        create = index_writer.create_file

        def create_file(path: Path, *args: object, **kwargs: object) -> int:
            fd = create(path, *args, **kwargs)  # type: ignore[arg-type]
            self._mapped[path] = [path.read_bytes()]
            return fd

        def sync_file(fd: int, path: Path) -> None:
            self._before("sync_index", path)
            self._mapped[path] = [path.read_bytes()]

        monkeypatch.setattr(index_writer, "create_file", create_file)  # type: ignore[attr-defined]
        for module in (index_writer, adopted):
            monkeypatch.setattr(module, "sync_file", sync_file)  # type: ignore[attr-defined]

    # ---- the cut ------------------------------------------------------------------------------

    def cut(self, rng: random.Random) -> None:
        """Make the files what the disk holds now. Everything must be closed."""
        for path, writes in self._unsynced.items():
            _tear_writes(path, writes, rng)
        for path, states in self._mapped.items():
            _tear_mapping(path, [*states, path.read_bytes()], rng)
        self._unsynced.clear()
        self._mapped.clear()
        self._paths.clear()

    def _before(self, operation: str, path: Path) -> None:
        self.operations += 1
        for mapped, states in self._mapped.items():
            if len(states) < SNAPSHOTS_MAX:
                now = mapped.read_bytes()
                if now != states[-1]:
                    states.append(now)
        self.fail(operation, path)

    def _note(self, path: Path, offset: int, new: bytes) -> None:
        old = _peek(path, offset, len(new))
        self._unsynced.setdefault(path, []).append(Unsynced(offset, old, new))


def no_space(*names: str) -> Callable[[str, Path], None]:
    return _failing(errno.ENOSPC, names)


def io_error(*names: str) -> Callable[[str, Path], None]:
    """EIO for the named operations."""
    return _failing(errno.EIO, names)


def _failing(code: int, names: tuple[str, ...]) -> Callable[[str, Path], None]:
    def fail(operation: str, path: Path) -> None:
        if operation in names:
            raise OSError(code, os.strerror(code))

    return fail


def cut_at(disk: FaultDisk, operation: int) -> None:
    """The power goes at the so-many-th operation from now."""
    last = disk.operations + operation

    def fail(name: str, path: Path) -> None:
        if disk.operations >= last and name != "read":
            raise PowerCut

    disk.fail = fail


def _peek(path: Path, offset: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def _tear_writes(path: Path, writes: list[Unsynced], rng: random.Random) -> None:
    sector = rng.choice((512, 4096))
    keep = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    with open(path, "r+b") as file:
        for write in reversed(writes):
            file.seek(write.offset)
            file.write(write.old)
        for write in writes:
            for at in range(0, len(write.new), sector):
                if rng.random() < keep:
                    file.seek(write.offset + at)
                    file.write(write.new[at : at + sector])


def _tear_mapping(path: Path, states: list[bytes], rng: random.Random) -> None:
    with open(path, "r+b") as file:
        for at in range(0, len(states[0]), 512):
            sectors = {state[at : at + 512] for state in states}
            if len(sectors) > 1:
                file.seek(at)
                file.write(rng.choice(states)[at : at + 512])
