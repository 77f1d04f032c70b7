"""Goal: no slot table, clock or margin lets a protected, held or open slot be chosen (V3)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.base.timebase import DAY_NS
from storage.volume.format import SLOT_FREE, SLOT_OPEN, SLOT_SEALED, TABLE_ENTRY, TABLE_HELD
from storage.volume.ring import NEVER_NS, Choice, FullFacts, choose_slot, protected_until_ns

NOW_NS = 1_800_000_000 * 10**9
ENTRY = st.tuples(
    st.sampled_from([SLOT_FREE, SLOT_OPEN, SLOT_SEALED, SLOT_SEALED, SLOT_SEALED]),
    st.sampled_from([0, 0, 0, TABLE_HELD]),
    st.one_of(
        st.integers(NOW_NS - 120 * DAY_NS, NOW_NS + 40 * DAY_NS),
        st.integers(-(1 << 63), (1 << 63) - 1),
    ),
    st.one_of(st.sampled_from([0, 30, 90]), st.integers(0, 2**32 - 1)),
)


def table(rows: list[tuple[int, int, int, int]]) -> np.ndarray:
    entries = np.zeros(len(rows), dtype=TABLE_ENTRY)
    for slot, (state, flags, newest_ns, min_days) in enumerate(rows):
        entries[slot]["state"] = state
        entries[slot]["flags"] = flags
        entries[slot]["newest_ns"] = newest_ns
        entries[slot]["min_days"] = min_days
        entries[slot]["generation"] = 1
    return entries


@given(
    st.lists(ENTRY, min_size=1, max_size=12),
    st.integers(NOW_NS - 200 * DAY_NS, NOW_NS + 200 * DAY_NS),
    st.integers(0, 3 * DAY_NS),
    st.frozensets(st.integers(0, 11)),
)
def test_only_what_the_floor_lets_go_is_chosen(
    rows: list[tuple[int, int, int, int]],
    trusted_ns: int,
    margin_ns: int,
    excluded: frozenset[int],
) -> None:
    choice = choose_slot(table(rows), trusted_ns, margin_ns, excluded)

    def free(slot: int) -> bool:
        state, flags, _, _ = rows[slot]
        return state == SLOT_FREE and not flags and slot not in excluded

    def reusable(slot: int) -> bool:
        state, flags, newest_ns, min_days = rows[slot]
        if state != SLOT_SEALED or flags & TABLE_HELD or slot in excluded:
            return False
        # Exact arithmetic: Python's integers do not wrap.
        return max(newest_ns, 0) + min_days * DAY_NS + margin_ns <= trusted_ns

    slots = range(len(rows))
    if isinstance(choice, Choice):
        if choice.reused:
            assert reusable(choice.slot)
            assert not any(map(free, slots)), "free slots first"
            oldest = min(rows[slot][2] for slot in slots if reusable(slot))
            assert rows[choice.slot][2] == oldest
        else:
            assert free(choice.slot)
    else:
        assert not any(map(free, slots)) and not any(map(reusable, slots))


def test_full_says_when_the_next_slot_is_let_go() -> None:
    rows = [
        (SLOT_SEALED, 0, NOW_NS - 10 * DAY_NS, 30),
        (SLOT_SEALED, 0, NOW_NS - 29 * DAY_NS, 30),
        (SLOT_OPEN, 0, NOW_NS, 30),
        (SLOT_SEALED, TABLE_HELD, NOW_NS - 400 * DAY_NS, 30),
    ]
    facts = choose_slot(table(rows), NOW_NS, DAY_NS)
    assert facts == FullFacts(4, 1, 1, 2, NOW_NS + 2 * DAY_NS)
    due = choose_slot(table(rows), NOW_NS + 2 * DAY_NS, DAY_NS)
    assert due == Choice(1, reused=True)
    assert isinstance(choose_slot(table(rows), NOW_NS + 2 * DAY_NS - 1, DAY_NS), FullFacts)


def test_nothing_but_held_and_open_never_ages_out() -> None:
    rows = [(SLOT_OPEN, 0, 0, 0), (SLOT_SEALED, TABLE_HELD, 0, 0)]
    assert choose_slot(table(rows), NOW_NS, 0) == FullFacts(2, 1, 1, 0, None)


def test_damaged_numbers_protect_for_ever() -> None:
    rows = [(SLOT_SEALED, 0, (1 << 63) - 1, 30), (SLOT_SEALED, 0, 5, 2**32 - 1)]
    assert protected_until_ns(table(rows), DAY_NS).tolist() == [NEVER_NS, NEVER_NS]
