"""Every exception storage raises on purpose. Each says what, where, and what to do about it.

    StorageError
    ├── VolumeError                 one volume; carries ``path`` and, if known, ``number``
    │   ├── VolumeMissing           the directory or one of its files is not there
    │   ├── VolumeForeign           it belongs to another installation or another number
    │   ├── VolumeCorrupt           no superblock quorum, wrong sizes, undecodable
    │   ├── VolumeBusy              another process holds the owner lock
    │   ├── VolumeNotEmpty          create() was pointed at a directory with something in it
    │   ├── VolumeFull              every slot is protected; carries the numbers
    │   ├── RetentionMismatch       TRIAL footage and production volumes do not mix
    │   └── DiskError               an operation of the operating system failed; carries errno
    ├── CapacityError               too little space or too few days; carries the numbers
    ├── RecordInvalid               bytes that are no record of this place (V4, V5)
    ├── IndexCorrupt                a camera's ring cannot be used; rebuild it
    ├── DamagedFragment             stored, but does not verify any more
    ├── FootageGone                 what was asked for was overwritten meanwhile
    ├── GrantRejected               no clip: the grant does not carry this
    ├── AuditBroken                 the audit log contradicts itself
    ├── RecorderStopped             submit() after stop()
    └── ValueFormatError            a time, size or name that does not parse (also a ValueError)

Our own mistakes are assertions, not members of this tree.
"""

from __future__ import annotations

from pathlib import Path


class StorageError(Exception):
    """Root of everything storage raises on purpose."""


class VolumeError(StorageError):
    """Something about one volume. ``path`` is its directory, ``number`` its configured number."""

    def __init__(self, message: str, *, path: Path | str, number: int | None = None) -> None:
        name = f"volume {number}" if number is not None else "volume"
        super().__init__(f"{name} at {path}: {message}")
        self.path = Path(path)
        self.number = number


class VolumeMissing(VolumeError):
    """The directory, or a file that must be in it, does not exist."""


class VolumeForeign(VolumeError):
    """A healthy volume, but not this one: other installation, other number, other uuid."""


class VolumeCorrupt(VolumeError):
    """The volume's own metadata contradict each other beyond automatic repair."""


class VolumeBusy(VolumeError):
    """Another process holds the owner lock in a way that excludes this use."""


class VolumeNotEmpty(VolumeError):
    """create() never writes into a directory that already holds something."""


class RetentionMismatch(VolumeError):
    """A TRIAL class on a production volume, or the reverse."""


class VolumeFull(VolumeError):
    """Every slot is protected by the floor (V3). Nothing is overwritten; intake stops.

    ``next_free_ns`` is the trusted time at which the first slot is let go, None if none ever is
    (all held or open).
    """

    def __init__(
        self,
        *,
        path: Path | str,
        number: int,
        slots: int,
        open_slots: int,
        held_slots: int,
        protected_slots: int,
        next_free_ns: int | None,
        trusted_ns: int,
    ) -> None:
        wait = (
            f"the next is let go in {(next_free_ns - trusted_ns) / 3.6e12:.1f} h"
            if next_free_ns is not None
            else "none of them ages out"
        )
        super().__init__(
            f"full: of {slots} slots {open_slots} are open, {held_slots} held and "
            f"{protected_slots} younger than their retention floor; {wait}. "
            "Add a volume, or record fewer or smaller streams",
            path=path,
            number=number,
        )
        self.slots = slots
        self.open_slots = open_slots
        self.held_slots = held_slots
        self.protected_slots = protected_slots
        self.next_free_ns = next_free_ns
        self.trusted_ns = trusted_ns


class DiskError(VolumeError):
    """The operating system refused a disk operation. ``errno`` and ``operation`` say which."""

    def __init__(
        self, operation: str, cause: OSError, *, path: Path | str, number: int | None = None
    ) -> None:
        super().__init__(f"{operation} failed: {cause}", path=path, number=number)
        self.operation = operation
        self.errno = cause.errno


class CapacityError(StorageError):
    """Not enough room. ``needed`` and ``available`` are in ``unit`` ("bytes", "days")."""

    def __init__(self, message: str, *, needed: float, available: float, unit: str) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available
        self.unit = unit


class RecordInvalid(StorageError):
    """Bytes that are not the record expected there. ``rule`` is the check that failed."""

    def __init__(self, rule: str, *, offset_bytes: int | None = None) -> None:
        where = "" if offset_bytes is None else f" at byte {offset_bytes}"
        super().__init__(f"not a valid record{where}: {rule}")
        self.rule = rule
        self.offset_bytes = offset_bytes


class IndexCorrupt(StorageError):
    """A camera's index file cannot be used. The footage is safe: rebuild the index."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(
            f"index {path}: {reason}. The footage is not affected; run `ringvault index rebuild`"
        )
        self.path = Path(path)
        self.reason = reason


class DamagedFragment(StorageError):
    """A stored fragment does not verify: its bytes must not leave. Readers make it a gap."""

    def __init__(
        self, *, volume: int, slot: int, generation: int, offset_blocks: int, reason: str
    ) -> None:
        super().__init__(
            f"damaged fragment on volume {volume}, slot {slot} generation {generation}, "
            f"block {offset_blocks}: {reason}"
        )
        self.volume = volume
        self.slot = slot
        self.generation = generation
        self.offset_blocks = offset_blocks
        self.reason = reason


class FootageGone(StorageError):
    """The footage was past its retention and its slot was reused while, or before, reading."""


class GrantRejected(StorageError):
    """The grant does not allow this. ``code`` is stable; ``article`` names the rule of law."""

    def __init__(self, code: str, message: str, *, article: str = "") -> None:
        super().__init__(f"{code}: {message}" + (f" ({article})" if article else ""))
        self.code = code
        self.article = article


class AuditBroken(StorageError):
    """The audit log contradicts itself: entries are missing, changed or out of order."""


class RecorderStopped(StorageError):
    """The recorder, or this camera's writer, was stopped and takes nothing more."""


class ValueFormatError(StorageError, ValueError):
    """A value from a person or a file that does not parse; the message shows what would."""
