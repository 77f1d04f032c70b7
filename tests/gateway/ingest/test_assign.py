"""Goal: every camera has one owner, the same for everybody, and few move when workers change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.assign import difference, owner, partition


@dataclass(frozen=True)
class Camera:
    uid: bytes


CAMERAS = [Camera(hashlib.md5(str(n).encode()).digest()) for n in range(2000)]


@given(st.binary(min_size=16, max_size=16), st.integers(1, 64))
def test_a_worker_more_takes_cameras_or_leaves_them(uid: bytes, workers: int) -> None:
    """No camera ever moves between two workers that both stay."""
    before, after = owner(uid, workers), owner(uid, workers + 1)
    assert 0 <= before < workers
    assert after in (before, workers)


def test_owners_do_not_depend_on_the_process() -> None:
    """A fixed vector: a change of the function would move every camera on an upgrade."""
    assert [owner(bytes([n]) * 16, 4) for n in range(8)] == VECTOR


VECTOR = [2, 3, 0, 0, 0, 0, 3, 2]


def test_shares_are_even() -> None:
    sizes = [len(part) for part in partition(CAMERAS, 8)]
    assert sum(sizes) == 2000
    assert all(200 <= size <= 300 for size in sizes)


def test_a_part_keeps_the_order() -> None:
    for part in partition(CAMERAS, 3):
        assert part == sorted(part, key=CAMERAS.index)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
)
def test_a_difference_turns_one_into_the_other(running: dict, desired: dict) -> None:
    change = difference(running, desired)
    result = dict(running)
    for key in change.stop:
        del result[key]
    for key in (*change.start, *change.restart):
        result[key] = desired[key]
    assert result == desired
    assert not set(change.start) & set(change.restart)
    untouched = {k for k in running if k in desired and running[k] == desired[k]}
    assert not untouched & {*change.start, *change.stop, *change.restart}
