"""The audit log file: append, read, prove. An index returned means durable.

Owns `audit.log` and `audit.acknowledged`. Never changes or removes an acknowledged entry.

- L1 append returns after the fdatasync that covers its entry; threads that append meanwhile share
  one fdatasync.
- L2 every writer holds flock(2) on the log while it writes and first reads what others appended,
  so several processes may append; indexes and the tree are the same for all.
- L3 what was acknowledged is never cut: an entry that does not verify is a torn tail only beyond
  the acknowledged size and only if it is incomplete (the file ends inside it, or it holds a zero
  byte, which canonical JSON never does: a sector that was not written). Else it is AuditBroken.
- L4 a log that failed to write or sync refuses all further appends until it is opened again.

docs/design/audit.md.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cext.crc32c import crc32c
from storage.audit import merkle
from storage.audit.events import AuditEvent, decode_event, encode_event
from storage.errors import AuditBroken, DiskError

LOG_NAME: Final = "audit.log"
ACKNOWLEDGED_NAME: Final = "audit.acknowledged"
MAGIC: Final = b"RVAUDIT1"
HEADER: Final = struct.Struct("<8sII")  # magic, version, CRC of the first 12 bytes
ENTRY: Final = struct.Struct("<II")  # length of the data, CRC of length and data
ACKNOWLEDGED: Final = struct.Struct("<QQ32sI")  # size, entries, root, CRC of the first 48 bytes
FORMAT_VERSION: Final = 1
ENTRY_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class TornTail:
    """An unacknowledged write was cut off: entry number, where, how many bytes."""

    entry: int
    offset_bytes: int
    removed_bytes: int


@dataclass(frozen=True, slots=True)
class TreeHead:
    """Entries and Merkle root (RFC 6962) at one moment."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry: its number, its canonical bytes, and the event they say."""

    index: int
    data: bytes

    @property
    def event(self) -> AuditEvent:
        """Raises ValueError for an event of a newer version."""
        return decode_event(self.data)


class AuditLog:
    """One process's handle on the log. All methods may be called from several threads."""

    def __init__(self, directory: Path, on_torn_tail: Callable[[TornTail], None]) -> None:
        self._path = directory / LOG_NAME
        self._on_torn_tail = on_torn_tail
        self._leaves = bytearray()
        self._frontier = merkle.Frontier()
        self._offsets: list[int] = []
        self._end = HEADER.size
        self._state = threading.Condition()
        self._waiting: list[_Append] = []
        self._committing = False
        self._failure: Exception | None = None
        self._fd = -1
        self._acknowledged_fd = -1

    @classmethod
    def open(
        cls, directory: Path, on_torn_tail: Callable[[TornTail], None] = lambda tail: None
    ) -> AuditLog:
        """Open or create, and verify every entry. A torn tail is cut off and reported.

        Raises AuditBroken naming the entry, DiskError.
        """
        log = cls(directory, on_torn_tail)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            log._fd = os.open(log._path, flags, 0o640)
            log._acknowledged_fd = os.open(directory / ACKNOWLEDGED_NAME, flags, 0o640)
            with log._locked():
                log._create_or_check_header(directory)
                log._catch_up()
        except OSError as error:
            log.close()
            raise DiskError("opening the audit log", error, path=log._path) from error
        except BaseException:
            log.close()
            raise
        return log

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for fd in (self._fd, self._acknowledged_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._acknowledged_fd = -1

    def append(self, event: AuditEvent) -> int:
        """Make the event durable; returns its index (L1). Raises DiskError, AuditBroken."""
        data = encode_event(event)
        if len(data) > ENTRY_BYTES_MAX:
            raise ValueError(f"audit event of {len(data)} bytes, at most {ENTRY_BYTES_MAX}")
        mine = _Append(data)
        with self._state:
            self._waiting.append(mine)
            while mine.index is None:
                if self._failure is not None:
                    raise self._failure
                if self._committing:
                    self._state.wait()
                    continue
                batch, self._waiting = self._waiting, []
                self._committing = True
                self._state.release()
                failure: Exception | None = None
                try:
                    self._commit(batch)
                except OSError as error:
                    failure = DiskError("appending to the audit log", error, path=self._path)
                except Exception as error:
                    failure = error
                except BaseException:
                    failure = AuditBroken(f"{self._path}: an append was interrupted; open again")
                    raise
                finally:
                    self._state.acquire()
                    self._committing = False
                    self._failure = self._failure or failure
                    self._state.notify_all()
        return mine.index

    def head(self) -> TreeHead:
        """Size and root, what other processes appended included."""
        self._refresh()
        with self._state:
            return TreeHead(self._frontier.size, self._frontier.root())

    def root(self) -> bytes:
        return self.head().root

    def __len__(self) -> int:
        return self.head().size

    def entries(self, first: int = 0) -> Iterator[AuditEntry]:
        """Entries from ``first`` on, each verified again. Raises AuditBroken."""
        size = self.head().size
        for index in range(first, size):
            data = self._read_entry(index)
            yield AuditEntry(index, data)

    def verify(self) -> TreeHead:
        """Read everything from the disk once more and compare with the tree. Raises AuditBroken."""
        head = self.head()
        frontier = merkle.Frontier()
        for entry in self.entries():
            if entry.index >= head.size:
                break
            frontier.append(merkle.leaf_hash(entry.data))
        if frontier.root() != head.root:
            raise AuditBroken(f"{self._path}: the entries do not give the root {head.root.hex()}")
        return head

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Audit path of an entry in the tree of ``size`` (now). Raises IndexError."""
        return merkle.inclusion_proof(self._leaf_hashes(size), index)

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        """That the tree of ``size`` (now) begins with that of ``old_size``. Raises IndexError."""
        return merkle.consistency_proof(self._leaf_hashes(size), old_size)

    def _leaf_hashes(self, size: int | None) -> Sequence[bytes]:
        head = self.head()
        count = head.size if size is None else size
        if not 0 <= count <= head.size:
            raise IndexError(f"tree of {count} leaves, the log has {head.size}")
        width = merkle.HASH_BYTES
        return [bytes(self._leaves[n * width : (n + 1) * width]) for n in range(count)]

    def _refresh(self) -> None:
        """Take in what others appended. While this process commits, its view is current."""
        with self._state:
            if self._committing or os.fstat(self._fd).st_size == self._end:
                return
            with self._locked():
                self._catch_up()

    def _commit(self, batch: list[_Append]) -> None:
        """Write and sync a batch. Runs without ``_state``; only one thread at a time is in here."""
        with self._locked():
            with self._state:
                self._catch_up()
            _write_all(self._fd, b"".join(_frame(item.data) for item in batch), self._end)
            os.fdatasync(self._fd)
            with self._state:
                for item in batch:
                    item.index = self._take_in(item.data)
                self._acknowledge()

    def _take_in(self, data: bytes) -> int:
        index = self._frontier.size
        leaf = merkle.leaf_hash(data)
        self._leaves += leaf
        self._frontier.append(leaf)
        self._offsets.append(self._end)
        self._end += ENTRY.size + len(data)
        return index

    def _acknowledge(self) -> None:
        """A hint that sharpens L3; not synced: older is allowed, the CRC excludes half of one."""
        record = ACKNOWLEDGED.pack(self._end, self._frontier.size, self._frontier.root(), 0)
        os.pwrite(self._acknowledged_fd, record[:-4] + crc32c(record[:-4]).to_bytes(4, "little"), 0)

    def _create_or_check_header(self, directory: Path) -> None:
        found = os.pread(self._fd, HEADER.size, 0)
        wanted = HEADER.pack(MAGIC, FORMAT_VERSION, 0)[:12]
        wanted += crc32c(wanted).to_bytes(4, "little")
        if found == wanted:
            return
        if len(found) == HEADER.size or self._read_acknowledged() is not None:
            raise AuditBroken(f"{self._path}: the header is not that of an audit log")
        _write_all(self._fd, wanted, 0)
        os.fdatasync(self._fd)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read_acknowledged(self) -> tuple[int, int, bytes] | None:
        data = os.pread(self._acknowledged_fd, ACKNOWLEDGED.size, 0)
        if len(data) < ACKNOWLEDGED.size:
            return None
        size, count, root, crc = ACKNOWLEDGED.unpack(data)
        return (size, count, root) if crc == crc32c(data[:-4]) else None

    def _catch_up(self) -> None:
        """Read entries behind ``_end``; needs the lock. Cuts a torn tail (L3)."""
        file_bytes = os.fstat(self._fd).st_size
        acknowledged = self._read_acknowledged()
        safe_bytes = acknowledged[0] if acknowledged else 0
        if file_bytes < max(self._end, safe_bytes):
            raise AuditBroken(
                f"{self._path} has {file_bytes} bytes, but {max(self._end, safe_bytes)} were "
                f"acknowledged: entries from about {len(self._offsets)} on are missing"
            )
        while self._end < file_bytes:
            data, reason, torn = _parse_entry(self._fd, self._end, file_bytes)
            if data is None:
                if not torn or self._end < safe_bytes:
                    raise AuditBroken(
                        f"{self._path}: entry {len(self._offsets)} at byte {self._end}: {reason}"
                    )
                self._cut_tail(file_bytes)
                break
            self._take_in(data)
            if acknowledged and self._frontier.size == acknowledged[1]:
                _compare_roots(self._path, self._frontier, acknowledged)

    def _cut_tail(self, file_bytes: int) -> None:
        tail = TornTail(len(self._offsets), self._end, file_bytes - self._end)
        os.ftruncate(self._fd, self._end)
        os.fdatasync(self._fd)
        self._on_torn_tail(tail)

    def _read_entry(self, index: int) -> bytes:
        offset = self._offsets[index]
        data, reason, _ = _parse_entry(self._fd, offset, os.fstat(self._fd).st_size)
        width = merkle.HASH_BYTES
        if data is None:
            raise AuditBroken(f"{self._path}: entry {index} at byte {offset}: {reason}")
        if merkle.leaf_hash(data) != self._leaves[index * width : (index + 1) * width]:
            raise AuditBroken(f"{self._path}: entry {index} was replaced since it was read")
        return data

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


class _Append:
    """One thread's event on its way to the disk."""

    __slots__ = ("data", "index")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.index: int | None = None


def _frame(data: bytes) -> bytes:
    length = len(data).to_bytes(4, "little")
    return length + crc32c(data, crc32c(length)).to_bytes(4, "little") + data


def _parse_entry(fd: int, offset: int, file_bytes: int) -> tuple[bytes | None, str, bool]:
    """(data, "", False), or (None, what is wrong, whether it looks like an unfinished write)."""
    head = os.pread(fd, ENTRY.size, offset)
    if len(head) < ENTRY.size:
        return None, "the file ends inside its head", True
    length, crc = ENTRY.unpack(head)
    if length == 0 or length > ENTRY_BYTES_MAX:
        return None, f"length {length}", length == 0
    data = os.pread(fd, length, offset + ENTRY.size)
    if len(data) < length:
        return None, "the file ends inside it", offset + ENTRY.size + length > file_bytes
    if crc32c(data, crc32c(head[:4])) != crc:
        return None, "its CRC does not fit", b"\0" in data
    return data, "", False


def _compare_roots(
    path: Path, frontier: merkle.Frontier, acknowledged: tuple[int, int, bytes]
) -> None:
    if frontier.root() != acknowledged[2]:
        raise AuditBroken(f"{path}: the first {acknowledged[1]} entries are not those acknowledged")


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
