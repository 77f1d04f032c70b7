"""Goal: a volume opens with what two copies agree on, whatever single copies say (V9)."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from storage.volume import superblock
from storage.volume.superblock import Superblock

BLOCK = Superblock(
    volume_uuid=b"v" * 16,
    installation_uuid=b"i" * 15 + b"\0",  # a trailing zero byte is part of the uuid
    sequence=7,
    created_ns=1,
    slot_size_bytes=1 << 28,
    slot_count=9,
    volume_number=3,
    flags=1,
    trusted_ns=5,
    wall_ns=6,
    open_id=2,
)


def copies(*blocks: Superblock) -> bytes:
    return b"".join(block.encode(n) for n, block in enumerate(blocks))


def newer(block: Superblock, by: int = 1) -> Superblock:
    return msgspec.structs.replace(block, sequence=block.sequence + by, open_id=99)


def test_round_trip() -> None:
    quorum = superblock.choose(copies(BLOCK, BLOCK, BLOCK, BLOCK))
    assert quorum.chosen == BLOCK
    assert quorum.faults == ()
    assert BLOCK.trial


@given(st.integers(0, 4))
def test_a_write_cut_off_after_any_copy_opens_old_or_new(written: int) -> None:
    blocks = [newer(BLOCK)] * written + [BLOCK] * (4 - written)
    chosen = superblock.choose(copies(*blocks)).chosen
    assert chosen == (newer(BLOCK) if written >= 2 else BLOCK)


def test_one_copy_with_a_high_sequence_does_not_win() -> None:
    quorum = superblock.choose(copies(newer(BLOCK, 1000), BLOCK, BLOCK, BLOCK))
    assert quorum.chosen == BLOCK
    assert quorum.faults == ("sequence 1007 is carried by one copy only",)


@given(st.sets(st.integers(0, 3)), st.integers(0, 4095), st.integers(0, 7))
def test_damaged_copies_are_outvoted(damaged: set[int], byte: int, bit: int) -> None:
    data = bytearray(copies(BLOCK, BLOCK, BLOCK, BLOCK))
    for n in damaged:
        data[n * 4096 + byte] ^= 1 << bit
    quorum = superblock.choose(data)
    assert quorum.chosen == (BLOCK if len(damaged) <= 2 else None)
    assert len([fault for fault in quorum.faults if fault.startswith("copy")]) == len(damaged)


def test_a_copy_in_another_copys_place_does_not_count() -> None:
    data = BLOCK.encode(0) * 4
    quorum = superblock.choose(data)
    assert quorum.chosen is None
    assert "superblock copy 0 in place 1" in quorum.faults[0]


def test_garbage_has_no_quorum() -> None:
    assert superblock.choose(random.Random(1).randbytes(4 * 4096)).chosen is None
    assert superblock.choose(bytes(4 * 4096)).chosen is None
