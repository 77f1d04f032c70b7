"""Which slot is written next: pure arithmetic over the slot table. No clock, no disk, no lock.

The floor lives here: a slot is chosen only if it is free, or sealed, not held, and its newest
footage ends at or before ``trusted - min_days - margin`` (V3). There is no other branch.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from storage.base.timebase import DAY_NS
from storage.volume.format import (
    SLOT_FREE,
    SLOT_OPEN,
    SLOT_SEALED,
    TABLE_HELD,
    StructuredArray,
)

NEVER_NS = int(np.iinfo(np.int64).max)
MIN_DAYS_MAX = 36_500


class Choice(msgspec.Struct, frozen=True):
    """Take this slot. ``reused``: it holds footage that is past its floor."""

    slot: int
    reused: bool


class FullFacts(msgspec.Struct, frozen=True):
    """Why there is no slot; ``next_free_ns`` is in trusted time, None if nothing ages out."""

    slots: int
    open_slots: int
    held_slots: int
    protected_slots: int
    next_free_ns: int | None


def protected_until_ns(entries: StructuredArray, margin_ns: int) -> npt.NDArray[np.int64]:
    """Trusted time from which each slot may be reused.

    Saturates instead of wrapping round, and a floor beyond a century counts as for ever: damaged
    numbers protect, they never free.
    """
    assert 0 <= margin_ns < MIN_DAYS_MAX * DAY_NS
    newest_ns = np.maximum(entries["newest_ns"].astype(np.int64), 0)
    min_days = entries["min_days"].astype(np.int64)
    keep_ns = np.minimum(min_days, MIN_DAYS_MAX) * DAY_NS + margin_ns
    endless = (min_days > MIN_DAYS_MAX) | (newest_ns > NEVER_NS - keep_ns)
    return np.where(endless, NEVER_NS, np.where(endless, 0, newest_ns) + keep_ns)


def choose_slot(
    entries: StructuredArray,
    trusted_ns: int,
    margin_ns: int,
    excluded: frozenset[int] = frozenset(),
) -> Choice | FullFacts:
    """A free slot (lowest number), else the reusable one with the oldest footage.

    ``entries`` has one TABLE_ENTRY a slot. ``excluded`` slots are never chosen (their place on
    the disk failed, or their entry is unreadable).
    """
    state = entries["state"]
    usable = np.ones(len(entries), dtype=bool)
    usable[[slot for slot in excluded if slot < len(entries)]] = False
    held = (entries["flags"] & TABLE_HELD) != 0
    free = np.flatnonzero((state == SLOT_FREE) & ~held & usable)
    if free.size:
        return Choice(int(free[0]), reused=False)
    candidates = np.flatnonzero((state == SLOT_SEALED) & ~held & usable)
    until_ns = protected_until_ns(entries[candidates], margin_ns)
    ready = candidates[until_ns <= trusted_ns]
    if ready.size:
        oldest = ready[np.argmin(entries["newest_ns"][ready])]
        return Choice(int(oldest), reused=True)
    return FullFacts(
        slots=len(entries),
        open_slots=int((state == SLOT_OPEN).sum()),
        held_slots=int(held.sum()),
        protected_slots=int(candidates.size),
        next_free_ns=int(until_ns.min()) if candidates.size else None,
    )
