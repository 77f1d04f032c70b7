"""Gaps: a time without footage, and why. Losses are recorded, never smoothed.

Codes are those of docs/design/volume-format.md, "Gap causes"; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class GapCause(IntEnum):
    """Why there is no footage. The value is what records and index entries store."""

    PACKET_LOSS = 1
    CAMERA_OFFLINE = 2
    AUTH_FAILED = 3
    STALL = 4
    RECORDER_RESTART = 5
    OVERSIZE = 6
    QUEUE_FULL = 7
    DISK_ERROR = 8
    VOLUME_FULL = 9
    DAMAGED = 10
    EXPIRED = 11
    PROTOCOL_ERROR = 12
    DISABLED = 13
    UNKNOWN = 14

    @property
    def label(self) -> str:
        """The name of the format page, as in JSON and HTTP headers: ``packet_loss``."""
        return self.name.lower()

    @property
    def stored(self) -> bool:
        """False for the causes only readers report; they are never written."""
        return self not in _REPORTED_ONLY


_REPORTED_ONLY = frozenset({GapCause.DAMAGED, GapCause.EXPIRED, GapCause.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Gap:
    """No footage in [start_ns, end_ns). ``packets`` lost, 0 = not known; ``detail`` for people."""

    start_ns: int
    end_ns: int
    cause: GapCause
    packets: int = 0
    detail: str = ""

    def __post_init__(self) -> None:
        if self.end_ns < self.start_ns:
            raise ValueError(f"gap ends before it starts: [{self.start_ns}, {self.end_ns})")

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns
