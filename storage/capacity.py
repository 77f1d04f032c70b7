"""How many days a set of volumes holds, and whether another camera may be enrolled. Pure.

Owns the arithmetic of docs/design/capacity.md and the sentence that carries its numbers. Decides
nothing by itself: enrolment asks, the ring (V3) protects.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from storage.base.timebase import format_size
from storage.errors import CapacityError

SECONDS_PER_DAY = 86_400
MARGIN_DAYS = 2.0
# A record's header block, half a block of padding, its footer entry; at most two records a second.
RECORD_OVERHEAD_BYTES = 4096 + 2048 + 96
RECORDS_PER_SECOND = 2
# Slot header, footer head, tail, and the end of a slot that the next record does not fit into.
SLOT_OVERHEAD_PER_MILLE = 5
# One open slot per lane is never reusable, whatever is in it; lanes hold one spare while they turn.
SLOTS_PER_LANE = 2


class VolumeSpace(msgspec.Struct, frozen=True):
    """What counts of one volume."""

    slot_count: int
    slot_size_bytes: int


class Demand(msgspec.Struct, frozen=True):
    """What is recorded into one retention class: measured, or assumed where nothing is known.

    ``bytes_per_s`` is video as it arrives, of all the class's ``cameras`` together.
    """

    class_id: str
    min_days: int
    bytes_per_s: float
    cameras: int

    @property
    def stored_bytes_per_s(self) -> float:
        """With what every record needs besides its video."""
        return self.bytes_per_s + self.cameras * RECORDS_PER_SECOND * RECORD_OVERHEAD_BYTES


class CapacityPlan(msgspec.Struct, frozen=True):
    """The answer with its numbers. Bytes, bytes per second as stored, days.

    ``days_held``: how far back the ring reaches at this rate. ``days_needed``: the floor, by the
    rates of the classes, plus margin. ``admitted`` exactly if days_held >= days_needed.
    """

    usable_bytes: int
    bytes_per_s: float
    days_held: float
    days_needed: float
    margin_days: float
    cameras: int

    @property
    def admitted(self) -> bool:
        return self.days_held >= self.days_needed

    @property
    def missing_bytes(self) -> int:
        """Space that would have to be added; 0 if admitted."""
        needed = self.days_needed * SECONDS_PER_DAY * self.bytes_per_s
        return max(0, int(needed - self.usable_bytes) + 1) if not self.admitted else 0


def usable_bytes(volumes: Sequence[VolumeSpace], *, workers: int, lanes: int, classes: int) -> int:
    """Bytes of records the volumes can hold at once, after what is always open.

    Slots are reused whole: the oldest slot goes only when its newest frame may go, so one slot per
    lane is on its way out while another fills.
    """
    turning = workers * lanes * max(classes, 1) * SLOTS_PER_LANE
    total = 0
    for volume in volumes:
        slots = max(0, volume.slot_count - turning)
        total += slots * volume.slot_size_bytes
    return total * (1000 - SLOT_OVERHEAD_PER_MILLE) // 1000


def plan(
    usable: int, demands: Sequence[Demand], *, margin_days: float = MARGIN_DAYS
) -> CapacityPlan:
    """Days held against days needed, for all classes together.

    Classes share the ring: it turns as one, and space for class c is needed for its min_days at
    its own rate. So the need in days is the mean of min_days weighted by bytes per second.
    """
    rate = sum(demand.stored_bytes_per_s for demand in demands)
    cameras = sum(demand.cameras for demand in demands)
    if rate <= 0:
        return CapacityPlan(usable, 0.0, float("inf"), margin_days, margin_days, cameras)
    protected = sum(demand.min_days * demand.stored_bytes_per_s for demand in demands) / rate
    return CapacityPlan(
        usable_bytes=usable,
        bytes_per_s=rate,
        days_held=usable / rate / SECONDS_PER_DAY,
        days_needed=protected + (margin_days if protected else 0.0),
        margin_days=margin_days,
        cameras=cameras,
    )


def require_admitted(found: CapacityPlan) -> None:
    """Raises CapacityError with the numbers if the floor could not be kept."""
    if found.admitted:
        return
    raise CapacityError(
        f"{found.cameras} cameras at {found.bytes_per_s * 8 / 1e6:.1f} Mbit/s would fill "
        f"{format_size(found.usable_bytes)} in {found.days_held:.1f} days; "
        f"{found.days_needed:.1f} are needed ({found.margin_days:.0f} of them margin). "
        f"Add {format_size(found.missing_bytes)}, or record less",
        needed=found.days_needed,
        available=found.days_held,
        unit="days",
    )
