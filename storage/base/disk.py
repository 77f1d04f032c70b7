"""The file operations a volume uses, as a protocol: tests put a failing disk in its place.

``RealDisk`` is the operating system. It retries nothing, hides nothing: an OSError reaches the
caller as it is (``WriteError`` of cext is one). Files that are opened ``direct`` take only aligned
offsets and lengths; the helpers here align for callers that are not in a hurry.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cext.arena import Fragment
from cext.segment_writer import (
    AlignedBuffer,
    GapRecord,
    RecordPlace,
    datasync,
    read_aligned,
    write_aligned,
    write_records,
)

BLOCK_BYTES = 4096
ALLOCATE_STEP_BYTES = 1 << 30

Progress = Callable[[int, int], None]


class Disk(Protocol):
    """Everything a volume does to a disk. Errors are OSError."""

    def open(self, path: Path, *, write: bool, direct: bool) -> int:
        """A file descriptor. ``direct`` bypasses the page cache; OSError(EINVAL) if it cannot."""

    def close(self, fd: int) -> None: ...

    def create(self, path: Path, size_bytes: int, progress: Progress | None) -> None:
        """A new file with its space allocated, durable; progress(done_bytes, size_bytes)."""

    def size_bytes(self, fd: int) -> int: ...

    def read(self, fd: int, offset_bytes: int, length: int) -> memoryview:
        """``length`` bytes at a block-aligned offset; fewer only at the end of the file."""

    def write(self, fd: int, offset_bytes: int, data: bytes) -> None:
        """Whole blocks at a block-aligned offset. Not durable before datasync()."""

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
        """Finish the records' headers for their place and write them one behind the other."""

    def datasync(self, fd: int) -> None:
        """Everything written to this file, also through its map, is durable when it returns."""

    def map(self, fd: int, length: int, *, write: bool) -> mmap.mmap:
        """A shared mapping of the file's first ``length`` bytes."""

    def free_bytes(self, path: Path) -> int:
        """Space an unprivileged process may still use on the file system of ``path``."""

    def sync_directory(self, path: Path) -> None:
        """New names in the directory are durable."""


class RealDisk:
    """The operating system's files."""

    def open(self, path: Path, *, write: bool, direct: bool) -> int:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
        return os.open(path, flags | (os.O_DIRECT if direct else 0))

    def close(self, fd: int) -> None:
        os.close(fd)

    def create(self, path: Path, size_bytes: int, progress: Progress | None) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            for start in range(0, size_bytes, ALLOCATE_STEP_BYTES):
                step = min(ALLOCATE_STEP_BYTES, size_bytes - start)
                os.posix_fallocate(fd, start, step)
                if progress is not None:
                    progress(start + step, size_bytes)
            os.fsync(fd)
        finally:
            os.close(fd)

    def size_bytes(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, offset_bytes: int, length: int) -> memoryview:
        buffer = AlignedBuffer(round_up(length))
        got = read_aligned(fd, offset_bytes, buffer, round_up(length))
        return memoryview(buffer)[: min(got, length)]

    def write(self, fd: int, offset_bytes: int, data: bytes) -> None:
        write_aligned(fd, offset_bytes, data)

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
        return write_records(
            fd,
            slot_offset_bytes,
            first_block,
            first_sequence,
            volume_uuid,
            slot,
            generation,
            list(records),
        )

    def datasync(self, fd: int) -> None:
        datasync(fd)

    def map(self, fd: int, length: int, *, write: bool) -> mmap.mmap:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        return mmap.mmap(fd, length, mmap.MAP_SHARED, access)

    def free_bytes(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def round_up(length: int, multiple: int = BLOCK_BYTES) -> int:
    return -(-length // multiple) * multiple


def open_slots(disk: Disk, path: Path, *, write: bool) -> tuple[int, bool]:
    """(fd, direct): O_DIRECT where the file system has it, the page cache where it has not.

    tmpfs and some network file systems refuse O_DIRECT at open with EINVAL; others only at the
    first transfer, hence the probing read.
    """
    try:
        fd = disk.open(path, write=write, direct=True)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    else:
        try:
            disk.read(fd, 0, BLOCK_BYTES)
            return fd, True
        except OSError as error:
            with contextlib.suppress(OSError):
                disk.close(fd)
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return disk.open(path, write=write, direct=False), False
