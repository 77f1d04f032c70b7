"""Goal: the native search finds what a plain one finds, whatever the rows and wherever the ring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.index_search import entries_around, first_at_or_after
from storage.index.format import FLAG_GAP, ROW, Rows, row_ends_ns

CAPACITY = 1024


def ring(starts: list[int], durations: list[int], gaps: list[bool], first: int) -> Rows:
    """Entries [first, first + len(starts)) where a ring of CAPACITY has them."""
    rows = np.zeros(CAPACITY, ROW)
    rows["start_ns"] = -1 if len(starts) else 0  # what a search must never look at
    for n, (start, duration, gap) in enumerate(zip(starts, durations, gaps, strict=True)):
        row = rows[(first + n) % CAPACITY]
        row["start_ns"], row["duration"], row["flags"] = start, duration, FLAG_GAP if gap else 0
    return rows


@st.composite
def entries(draw: st.DrawFn) -> tuple[Rows, int, int]:
    """(ring, tail, head): uneven steps and equal starts, some rows that reach far."""
    count = draw(st.integers(0, CAPACITY))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    largest = draw(st.sampled_from([0, 10, 1_000_000_000]))
    starts = np.cumsum(random.integers(0, largest + 1, count)).tolist()
    durations = (random.integers(0, 1000, count) ** draw(st.sampled_from([1, 3]))).tolist()
    gaps = (random.random(count) < 0.1).tolist()
    tail = draw(st.sampled_from([0, 5, CAPACITY - 3, 7 * CAPACITY + 100]))
    return ring(starts, durations, gaps, tail), tail, tail + count


def plain(
    rows: Rows, start_ns: int, end_ns: int, tail: int, head: int, walk_rows: int
) -> tuple[int, int]:
    starts = [int(rows["start_ns"][n % CAPACITY]) for n in range(tail, head)]
    ends = row_ends_ns(rows)
    low = tail + sum(s < start_ns for s in starts)
    high = tail + sum(s < end_ns for s in starts)
    earliest = number = low
    while number > tail and earliest - number < walk_rows:
        number -= 1
        if ends[number % CAPACITY] > start_ns:
            earliest = number
    return earliest, high


@settings(max_examples=300, deadline=None)
@given(made=entries(), data=st.data(), walk_rows=st.sampled_from([1, 5, 64]))
def test_it_finds_what_a_plain_search_finds(
    made: tuple[Rows, int, int], data: st.DataObject, walk_rows: int
) -> None:
    rows, tail, head = made
    newest = int(rows["start_ns"].max())
    start_ns = data.draw(st.integers(-5, newest + 5))
    end_ns = start_ns + data.draw(st.sampled_from([0, 1, 1000, 10**9, 10**11]))
    expected = plain(rows, start_ns, end_ns, tail, head, walk_rows)
    assert entries_around(rows, start_ns, end_ns, tail, head, walk_rows) == expected
    low = first_at_or_after(rows, end_ns, tail, head)
    assert low == expected[1]


def test_numbers_at_the_ends_of_what_fits() -> None:
    rows = ring([-(1 << 62), 0, (1 << 62)], [1, 1, 1], [False] * 3, 0)
    assert entries_around(rows, -(1 << 63), (1 << 63) - 1, 0, 3, 64) == (0, 3)
    assert first_at_or_after(rows, 1, 0, 3) == 2
    with pytest.raises(OverflowError):
        first_at_or_after(rows, 1 << 63, 0, 3)


def test_rows_that_change_meanwhile_harm_nobody() -> None:
    """A writer may turn the ring under a search; the answer is then dropped, but must end."""
    random = np.random.default_rng(1)
    for _ in range(300):
        rows = np.frombuffer(random.bytes(CAPACITY * 32), ROW)
        first, end = entries_around(rows, 0, 1 << 60, 10, 10 + CAPACITY, 64)
        assert 10 <= first <= 10 + CAPACITY and 10 <= end <= 10 + CAPACITY


@pytest.mark.parametrize("nbytes", [0, 31, 96, 32 * 3])
def test_what_is_no_ring_is_refused(nbytes: int) -> None:
    with pytest.raises(ValueError, match="no ring"):
        first_at_or_after(bytes(nbytes), 0, 0, 0)
