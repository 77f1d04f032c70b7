"""A lane: the open slot that some cameras of one retention class are written to, and its successor.

Owns when a slot is opened, retired, abandoned and sealed, and how long to wait after the disk
refused. Never writes records. Belongs to one writer thread.

- A slot that saw a failed write or flush takes no more records; it is sealed with what was durable
  before, as soon as the disk lets us (recovery does it if we end first).
- A full volume is asked again every 5 s, a failing disk with growing pauses.
"""

from __future__ import annotations

import msgspec

from storage.base.clock import Clock
from storage.base.gap import GapCause
from storage.base.retention import RetentionClass
from storage.base.timebase import MINUTE_NS, SECOND_NS
from storage.errors import DiskError, VolumeCorrupt, VolumeFull
from storage.volume.events import (
    IntakeResumed,
    Report,
    SlotSealed,
    VolumeFullAlarm,
    disk_fault,
)
from storage.volume.slot import OpenSlot
from storage.volume.volume import Volume

NEXT_SLOT_FILL = 0.85
FULL_RETRY_NS = 5 * SECOND_NS
FAULT_RETRY_FIRST_NS = SECOND_NS
FAULT_RETRY_MAX_NS = MINUTE_NS
ALARM_INTERVAL_NS = MINUTE_NS
ABANDONED_MAX = 8
FAULTS_IN_A_ROW_MAX = 2


class Blocked(msgspec.Struct, frozen=True):
    """Why a lane takes nothing now: the cause and detail of the gaps that follow from it."""

    cause: GapCause
    detail: str


class Lane:
    """One open slot at a time; see the module docstring."""

    def __init__(
        self,
        volume: Volume,
        retention: RetentionClass,
        number: int,
        *,
        worker: int,
        clock: Clock,
        report: Report,
    ) -> None:
        self.volume = volume
        self.retention = retention
        self.number = number
        self.rate_bytes_per_s = 0.0
        self.blocked: Blocked | None = None
        self._worker = worker
        self._clock = clock
        self._report = report
        self._slot: OpenSlot | None = None
        self._spare: OpenSlot | None = None
        self._retired: list[OpenSlot] = []
        self._abandoned: list[OpenSlot] = []
        self._retry_at_ns = 0
        self._retry_pause_ns = FAULT_RETRY_FIRST_NS
        self._alarm_at_ns = 0
        self._faults_in_a_row = 0
        self._was_blocked = False

    def current(self) -> OpenSlot | None:
        """The slot to write to, opened if need be; None while the lane is blocked."""
        if self._slot is None:
            self._slot, self._spare = self._spare, None
        if self._slot is None:
            self._slot = self._allocate()
        return self._slot

    def retire(self) -> None:
        """The current slot is full; it is sealed once its last records are durable."""
        assert self._slot is not None
        self._retired.append(self._slot)
        self._slot = None

    def abandon(self) -> None:
        """A write or flush failed: what is not durable is forgotten, the slots are given up."""
        for slot in [*self._retired, *([self._slot] if self._slot else [])]:
            slot.rollback()
            self._abandoned.append(slot)
        self._retired.clear()
        self._slot = None
        self._faults_in_a_row += 1
        if self._faults_in_a_row >= FAULTS_IN_A_ROW_MAX:
            # Another slot failed too: a dying disk must not eat the ring slot by slot.
            self.blocked = Blocked(GapCause.DISK_ERROR, "writing failed on several slots")
            self._pause(self._clock.monotonic_ns())

    def note_success(self) -> None:
        """Records of this lane became durable."""
        self._faults_in_a_row = 0
        self._retry_pause_ns = FAULT_RETRY_FIRST_NS
        if self._was_blocked:
            self._was_blocked = False
            self._report(IntakeResumed(self.volume.number, self.retention.id))

    def tend(self) -> None:
        """After a commit: seal what is full, open the next slot before it is needed.

        A blocked lane tries again even when all its cameras have moved away: else the volume
        would count as failing for ever and never get them back.
        """
        if self.blocked is not None:
            self.current()
        while self._retired:
            if not self._seal(self._retired[0]):
                self._abandoned.append(self._retired.pop(0))
                break
            self._retired.pop(0)
        if self._slot is not None and self._spare is None and self._slot.fill > NEXT_SLOT_FILL:
            self._spare = self._allocate(ahead=True)
        now_ns = self._clock.monotonic_ns()
        if self._abandoned and now_ns >= self._retry_at_ns:
            if self._seal(self._abandoned[0]):
                self._abandoned.pop(0)
            else:
                self._pause(now_ns)

    def close(self) -> None:
        """Clean stop: seal every slot that holds something, give back those that do not."""
        if self._slot is not None:
            self.retire()
        for slot in [*self._retired, *self._abandoned]:
            self._seal(slot)
        self._retired.clear()
        self._abandoned.clear()
        if self._spare is not None:
            self._seal(self._spare)
            self._spare = None

    def probe(self) -> bool:
        """True if the lane takes records now; a blocked one tries again when its pause is over."""
        return self.current() is not None

    def _allocate(self, *, ahead: bool = False) -> OpenSlot | None:
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._retry_at_ns:
            return None
        if len(self._abandoned) >= ABANDONED_MAX:
            self._pause(now_ns)
            return None
        try:
            slot = self.volume.allocate(
                self.retention,
                worker=self._worker,
                lane=self.number,
                trusted_ns=self._clock.trusted_ns(),
                opened_ns=self._clock.utc_ns(),
            )
        except VolumeFull as error:
            self._retry_at_ns = now_ns + FULL_RETRY_NS
            if not ahead:
                self.blocked = Blocked(GapCause.VOLUME_FULL, "every slot is protected")
            if now_ns >= self._alarm_at_ns:
                self._alarm_at_ns = now_ns + ALARM_INTERVAL_NS
                self._report(VolumeFullAlarm(self.volume.number, self.retention.id, error))
            return None
        except (DiskError, VolumeCorrupt) as error:
            operation = error.operation if isinstance(error, DiskError) else "opening a slot"
            self._pause(now_ns)
            self.blocked = Blocked(GapCause.DISK_ERROR, operation)
            self._report(disk_fault(self.volume.number, operation, error))
            return None
        self._alarm_at_ns = 0
        self._was_blocked = self._was_blocked or self.blocked is not None
        self.blocked = None
        return slot

    def _seal(self, slot: OpenSlot) -> bool:
        """False if the disk refused."""
        try:
            if slot.record_count == 0:
                self.volume.release_empty(slot.slot, slot.generation)
                return True
            footer = self.volume.seal(slot, self._clock.utc_ns())
        except DiskError as error:
            self._report(disk_fault(self.volume.number, error.operation, error))
            return False
        self._report(
            SlotSealed(
                volume_number=self.volume.number,
                volume_uuid=self.volume.uuid,
                slot=slot.slot,
                generation=slot.generation,
                seal=footer.seal,
                record_count=len(footer.entries),
                first_ns=footer.first_ns,
                newest_ns=footer.newest_ns,
            )
        )
        return True

    def _pause(self, now_ns: int) -> None:
        self._retry_at_ns = now_ns + self._retry_pause_ns
        self._retry_pause_ns = min(2 * self._retry_pause_ns, FAULT_RETRY_MAX_NS)
