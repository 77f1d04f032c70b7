"""Retention classes: how long footage must be kept (the floor) and may be kept (the ceiling).

Classes are data. The floor of a slot is frozen in its header when the slot is opened, so editing a
class never shortens what is already stored.
"""

from __future__ import annotations

from dataclasses import dataclass

CLASS_ID_BYTES_MAX = 8
MIN_DAYS_MAX = 36_500


@dataclass(frozen=True, slots=True)
class RetentionClass:
    """``min_days``: never overwritten before. ``target_days``: erased after, None = no ceiling.

    ``basis`` names the rule of law the numbers come from.
    """

    id: str
    min_days: int
    target_days: int | None
    basis: str

    def __post_init__(self) -> None:
        if not (self.id.isascii() and 1 <= len(self.id) <= CLASS_ID_BYTES_MAX):
            raise ValueError(f"retention class id {self.id!r}: 1 to 8 ASCII characters")
        if not 0 <= self.min_days <= MIN_DAYS_MAX:
            raise ValueError(f"retention class {self.id}: min_days {self.min_days}")
        if self.target_days is not None and self.target_days < self.min_days:
            raise ValueError(f"retention class {self.id}: target_days below min_days")

    @property
    def trial(self) -> bool:
        return self.id == TRIAL_ID


TRIAL_ID = "TRIAL"
R30 = RetentionClass("R30", 30, 32, "Public Security Video System Regulation, art. 20")
R90_AT = RetentionClass("R90-AT", 90, 92, "Counter-terrorism Law, art. 32")
TRIAL = RetentionClass(TRIAL_ID, 0, None, "demonstrations and benchmarks only")
BUILT_IN = {entry.id: entry for entry in (R30, R90_AT, TRIAL)}
