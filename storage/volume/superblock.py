"""The superblock: four copies, written one after the other, read by quorum (V9).

Owns the choice among copies and the order of writing. Never decides what belongs into one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from storage.base.clock import TrustedMark
from storage.base.disk import Disk
from storage.errors import RecordInvalid
from storage.volume.format import (
    BLOCK_BYTES,
    FORMAT_VERSION,
    SUPERBLOCK,
    SUPERBLOCK_COPIES,
    SUPERBLOCK_MAGIC,
    VOLUME_TRIAL,
    pack_block,
    unpack_block,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

QUORUM = 2


class Superblock(msgspec.Struct, frozen=True):
    """What a volume says about itself. uuids are 16 bytes, times ns UTC, sizes bytes."""

    volume_uuid: bytes
    installation_uuid: bytes
    sequence: int
    created_ns: int
    slot_size_bytes: int
    slot_count: int
    volume_number: int
    flags: int
    trusted_ns: int
    wall_ns: int
    open_id: int

    @property
    def trial(self) -> bool:
        return bool(self.flags & VOLUME_TRIAL)

    @property
    def mark(self) -> TrustedMark:
        return TrustedMark(self.trusted_ns, self.wall_ns)

    def encode(self, copy_index: int) -> bytes:
        return pack_block(
            SUPERBLOCK,
            magic=SUPERBLOCK_MAGIC,
            format_version=FORMAT_VERSION,
            copy_index=copy_index,
            **msgspec.structs.asdict(self),
        )


def decode_copy(block: Buffer, copy_index: int) -> Superblock:
    """One copy. Raises RecordInvalid, also when it lies in another copy's place."""
    row = unpack_block(SUPERBLOCK, block, SUPERBLOCK_MAGIC)
    if int(row["copy_index"]) != copy_index:
        raise RecordInvalid(f"superblock copy {int(row['copy_index'])} in place {copy_index}")
    values: dict[str, Any] = {name: _plain(row[name]) for name in Superblock.__struct_fields__}
    return Superblock(**values)


class Quorum(msgspec.Struct, frozen=True):
    """The outcome of reading the copies: the choice, and what was wrong with each bad copy."""

    chosen: Superblock | None
    faults: tuple[str, ...]


def choose(data: Buffer) -> Quorum:
    """V9: the highest sequence that at least two valid, equal copies carry; None if there is none.

    A volume whose last write was cut off after one copy opens with the sequence before.
    """
    view = memoryview(data)
    votes: Counter[Superblock] = Counter()
    faults = []
    for n in range(SUPERBLOCK_COPIES):
        try:
            votes[decode_copy(view[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES], n)] += 1
        except RecordInvalid as error:
            faults.append(f"copy {n}: {error.rule}")
    agreed = [copy for copy, count in votes.items() if count >= QUORUM]
    chosen = max(agreed, key=lambda copy: copy.sequence, default=None)
    faults += [
        f"sequence {copy.sequence} is carried by one copy only"
        for copy in votes
        if chosen is None or copy.sequence != chosen.sequence
    ]
    return Quorum(chosen, tuple(faults))


def read(disk: Disk, fd: int) -> Quorum:
    return choose(disk.read(fd, 0, SUPERBLOCK_COPIES * BLOCK_BYTES))


def write(disk: Disk, fd: int, superblock: Superblock) -> None:
    """All copies, each durable before the next: at every instant two valid copies agree."""
    for n in range(SUPERBLOCK_COPIES):
        disk.write(fd, n * BLOCK_BYTES, superblock.encode(n))
        disk.datasync(fd)


def _plain(value: np.generic) -> int | bytes:
    return value.tobytes() if isinstance(value, np.void) else int(value)
