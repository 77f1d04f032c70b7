"""The list of fragments found damaged: what fsck and readers met, remembered between processes.

One JSON object a line, only ever appended to. Readers consult it so that a fragment known not to
verify becomes a gap without being read again. It is a cache like the index: losing it loses
nothing but that knowledge. Never changes a volume or an index.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from storage.errors import DiskError


class DamagedPlace(msgspec.Struct, frozen=True):
    """One damaged record. Times ns UTC; ``camera`` is the uid in hex; ``reason`` for people."""

    volume: int
    slot: int
    generation: int
    offset_blocks: int
    camera: str
    start_ns: int
    end_ns: int
    found_ns: int
    reason: str

    @property
    def key(self) -> tuple[int, int, int, int]:
        return self.volume, self.slot, self.generation, self.offset_blocks


class DamageList:
    """The list as one process sees it; follows what other processes append."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[tuple[int, int, int, int], DamagedPlace] = {}
        self._read_bytes = 0

    def contains(self, volume: int, slot: int, generation: int, offset_blocks: int) -> bool:
        """Also true for what another process has appended since. Raises DiskError."""
        self._follow()
        return (volume, slot, generation, offset_blocks) in self._places

    def load(self) -> tuple[DamagedPlace, ...]:
        """Every place, oldest first. Raises DiskError."""
        self._follow()
        return tuple(self._places.values())

    def append(self, places: Iterable[DamagedPlace]) -> int:
        """Add those not listed yet, durably; returns how many. Raises DiskError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(self._path, flags, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._follow()
                fresh = {place.key: place for place in places if place.key not in self._places}
                if fresh:
                    text = b"".join(msgspec.json.encode(one) + b"\n" for one in fresh.values())
                    # A line another process did not finish must not swallow our first one.
                    whole = self._read_bytes == os.fstat(fd).st_size
                    _write_all(fd, text if whole else b"\n" + text)
                    os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise DiskError("writing the damage list", error, path=self._path) from error
        self._follow()
        return len(fresh)

    def _follow(self) -> None:
        try:
            with open(self._path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read_bytes:
                    self._places.clear()  # somebody started it anew
                    self._read_bytes = 0
                file.seek(self._read_bytes)
                new = file.read()
        except FileNotFoundError:
            self._places.clear()
            self._read_bytes = 0
            return
        except OSError as error:
            raise DiskError("reading the damage list", error, path=self._path) from error
        complete = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        for line in complete.splitlines():
            place = _parse(line)
            if place is not None:
                self._places[place.key] = place


def _parse(line: bytes) -> DamagedPlace | None:
    """None for a line a crash cut short: the damage is found again where it is met again."""
    try:
        return msgspec.convert(json.loads(line), DamagedPlace)
    except (ValueError, msgspec.ValidationError):
        return None


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
