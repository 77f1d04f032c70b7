"""One memory map of an index file, shared by reader and writer.

Owns opening, checking the header, and the word and row views. Never changes a byte by itself.

- A map is handed out only after magic, version, size and identity fit, so no later access can
  run behind the end of the file (SIGBUS).
- The header's 64-bit words are read and stored as aligned machine words: a reader in another
  process never sees half of one. Little-endian machines only, as the format is.

docs/design/volume-format.md, "Index of a camera".
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from storage.errors import IndexCorrupt
from storage.index.format import (
    FORMAT_VERSION,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    ROW,
    ROW_BYTES,
    Rows,
    Times,
)

assert sys.byteorder == "little", "the volume format is mapped into memory as it is"

SUFFIX: Final = ".rvi"


def index_path(directory: Path, camera_uid: bytes) -> Path:
    """The file of a camera: ``<directory>/<uid hex>.rvi``."""
    return directory / (camera_uid.hex() + SUFFIX)


class IndexMap:
    """Header words and rows of one open index file."""

    __slots__ = (
        "buffer",
        "camera_id",
        "camera_uid",
        "capacity",
        "inode",
        "installation_uuid",
        "mask",
        "path",
        "quads",
        "rows",
        "starts",
        "words",
    )

    def __init__(self, path: Path, fd: int, *, writable: bool) -> None:
        """Map ``fd``, which the caller keeps. Raises IndexCorrupt."""
        status = os.fstat(fd)
        if status.st_size < HEADER_BYTES + ROW_BYTES:
            raise IndexCorrupt(path, f"{status.st_size} bytes are no index")
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self.buffer = mmap.mmap(fd, 0, access=access)
        self.path = path
        self.inode = status.st_ino
        header: Any = np.frombuffer(self.buffer, HEADER, 1)[0]
        reason = _objection(header, status.st_size)
        if reason:
            del header
            self.buffer.close()
            raise IndexCorrupt(path, reason)
        self.capacity = int(header["capacity"])
        self.mask = self.capacity - 1
        self.camera_uid = bytes(header["camera_uid"])
        self.installation_uuid = bytes(header["installation_uuid"])
        self.camera_id = bytes(header["camera_id"]).rstrip(b"\0").decode("utf-8", "replace")
        # A view, not an array: its items are plain integers, and taken or stored far quicker.
        self.words: memoryview[int] = memoryview(self.buffer)[:HEADER_BYTES].cast("q")
        self.rows: Rows = np.frombuffer(self.buffer, ROW, self.capacity, HEADER_BYTES)
        self.starts: Times = self.rows["start_ns"]
        # The same rows as four words each: numpy copies these at once, not field by field.
        self.quads = np.frombuffer(self.buffer, np.uint64, self.capacity * 4, HEADER_BYTES)

    def copy_rows(self, first: int, end: int) -> Rows:
        """A copy of entries [first, end), oldest first; at most ``capacity`` of them."""
        if first >= end:
            return np.empty(0, ROW)
        low, high = (first & self.mask) * 4, (end & self.mask) * 4
        if low < high:
            return self.quads[low:high].copy().view(ROW)
        return np.concatenate((self.quads[low:], self.quads[:high])).view(ROW)

    def close(self) -> None:
        """Unmap. Arrays got from copy_rows stay valid."""
        self.words.release()
        del self.words, self.starts, self.rows, self.quads
        self.buffer.close()


def _objection(header: Any, size_bytes: int) -> str:
    """Why this header is not to be used; empty when it is fine."""
    if bytes(header["magic"]) != MAGIC:
        return "wrong magic"
    if header["format_version"] != FORMAT_VERSION:
        return f"format version {header['format_version']}, this software knows {FORMAT_VERSION}"
    capacity = int(header["capacity"])
    if capacity == 0 or capacity & (capacity - 1):
        return f"capacity {capacity} is no power of two"
    if size_bytes != HEADER_BYTES + capacity * ROW_BYTES:
        return f"{size_bytes} bytes do not hold the {capacity} entries of the header"
    head, tail, flushed = (int(header[n]) for n in ("head", "tail", "flushed_head"))
    if not (tail <= head <= tail + capacity and flushed <= head):
        return f"tail {tail}, flushed_head {flushed}, head {head} contradict each other"
    return ""
