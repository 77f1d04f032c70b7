"""Index files as a whole: create one durably, lock it, make it durable.

Owns open, lock, rename and fsync. Never looks into the rows.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from storage.errors import DiskError, StorageError
from storage.index.format import HEADER_BYTES, ROW_BYTES, Rows


class IndexBusy(StorageError):
    """Another process appends to this camera's index (V10)."""


def open_locked(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DiskError("open", error, path=path) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise IndexBusy(f"index {path}: another process appends to it") from error
    return fd


def create_file(
    path: Path,
    temporary: Path,
    header: bytes,
    capacity: int,
    rows: Rows | None = None,
    first_number: int = 0,
) -> int:
    """Write a whole index file aside, make it durable, rename it to ``path``.

    Returns the descriptor, locked. ``rows`` become entries from ``first_number`` on.
    """
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise DiskError("create", error, path=temporary) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(fd, HEADER_BYTES + capacity * ROW_BYTES)
        _write_all(fd, header, 0)
        if rows is not None and len(rows):
            position = first_number & (capacity - 1)
            before_wrap = capacity - position
            _write_all(fd, rows[:before_wrap].tobytes(), HEADER_BYTES + position * ROW_BYTES)
            _write_all(fd, rows[before_wrap:].tobytes(), HEADER_BYTES)
        os.fsync(fd)
        os.rename(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        os.close(fd)
        raise DiskError("writing a new index", error, path=temporary) from error
    return fd


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def sync_file(fd: int, path: Path) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise DiskError("fdatasync", error, path=path) from error
