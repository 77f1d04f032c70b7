"""A file that exists nowhere: a head in memory, then byte ranges of stored fragments.

Owns reading any byte range of it, verified, a bounded number of bytes ahead. Never decides what is
in the file.

- Bytes of a fragment leave only after its payload CRC fitted in the same read (C12).
- One reader holds at most AHEAD_BYTES_MAX read ahead and CHUNK_BYTES_MIN joined, beside what it
  handed out and its caller still has.
- A part of VIEW_BYTES_MIN or more is handed out as a view of where the disk put it, not copied.

docs/design/clip.md, "Procedure Read".
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from cext.record import RecordHeader
from storage.clip.source import (
    LARGE_FRAGMENT_BYTES,
    Payload,
    Place,
    RecordSource,
    read_threads,
)

CHUNK_BYTES_MIN: Final = 1 << 20
AHEAD_BYTES_MAX: Final = 8 << 20
VIEW_BYTES_MIN: Final = 64 << 10

Chunk = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [first, end) of one fragment's payload."""

    place: Place
    header: RecordHeader
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """Part of a piece on its way; ``future`` is None for a fragment too large to hold."""

    piece: Piece
    first: int
    end: int
    future: Future[Payload] | None


class VirtualFile:
    """``head`` followed by ``pieces``. Any number of readers at once."""

    def __init__(self, head: bytes, pieces: Sequence[Piece], source: RecordSource) -> None:
        self._head = head
        self._pieces = pieces
        self._source = source
        # Where each piece begins in the file, and where the last one ends.
        self._starts = list(
            accumulate((piece.end - piece.first for piece in pieces), initial=len(head))
        )

    @property
    def size_bytes(self) -> int:
        return self._starts[-1]

    def read(self, offset: int, length: int) -> Generator[Chunk, None, None]:
        """Bytes [offset, offset + length), cut at the end of the file, in chunks of any size up to
        a few MiB; small parts are joined. Close the iterator to stop early.

        Raises ValueError for a negative argument; DamagedFragment, FootageGone, DiskError before
        any byte of the fragment concerned.
        """
        if offset < 0 or length < 0:
            raise ValueError(f"read({offset}, {length})")
        return self._read(offset, min(offset + length, self.size_bytes))

    def _read(self, offset: int, end: int) -> Generator[Chunk, None, None]:
        small: list[Chunk] = []
        small_bytes = 0
        if offset < min(end, len(self._head)):
            small.append(self._head[offset:end])
            small_bytes = len(small[0])
        with contextlib.closing(self._parts(offset, end)) as parts:
            for part in parts:
                large = len(part) >= VIEW_BYTES_MIN
                if not large:
                    small.append(part)
                    small_bytes += len(part)
                if small and (large or small_bytes >= CHUNK_BYTES_MIN):
                    joined = b"".join(small)
                    small, small_bytes = [], 0
                    yield joined
                if large:
                    yield part
                del part  # or its buffer would be held until the next one is there
            if small:
                yield b"".join(small)

    def _parts(self, offset: int, end: int) -> Generator[Chunk, None, None]:
        """Verified payload parts in order."""
        pending: deque[_Reading] = deque()
        ahead_bytes = 0
        try:
            for piece, first, last in self._plan(offset, end):
                size = piece.header.payload_bytes
                while pending and ahead_bytes + size > AHEAD_BYTES_MAX:
                    ahead_bytes -= pending[0].piece.header.payload_bytes
                    yield from self._deliver(pending.popleft())
                future = None
                if size <= LARGE_FRAGMENT_BYTES:
                    future = read_threads().submit(self._source.payload, piece.place, piece.header)
                pending.append(_Reading(piece, first, last, future))
                ahead_bytes += size
            while pending:
                yield from self._deliver(pending.popleft())
        finally:
            for reading in pending:
                if reading.future is not None and not reading.future.cancel():
                    reading.future.add_done_callback(_give_back_late)

    def _deliver(self, reading: _Reading) -> Iterator[Chunk]:
        if reading.future is not None:
            yield reading.future.result().lend(reading.first, reading.end)
            return
        piece = reading.piece
        yield from self._source.large_payload(piece.place, piece.header, reading.first, reading.end)

    def _plan(self, offset: int, end: int) -> Iterator[tuple[Piece, int, int]]:
        """Pieces the byte range lies on, with the bounds inside the fragment's payload."""
        number = max(bisect_right(self._starts, max(offset, len(self._head))) - 1, 0)
        while number < len(self._pieces) and self._starts[number] < end:
            piece, start = self._pieces[number], self._starts[number]
            first = piece.first + max(offset - start, 0)
            last = min(piece.end, piece.first + end - start)
            if first < last:
                yield piece, first, last
            number += 1


def _give_back_late(future: Future[Payload]) -> None:
    """Of a read that nobody waits for any more."""
    if not future.cancelled() and future.exception() is None:
        future.result().give_back()
