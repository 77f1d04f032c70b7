"""Slow twin of cext.rtp: RTP headers, and sequence numbers put in order with plain sets."""

from dataclasses import dataclass, field
from typing import NamedTuple

MISORDER_MAX = 100
DROPOUT_MAX = 3000
SEEN = 64  # how far back a duplicate is told from a late packet


class Packet(NamedTuple):
    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


def parse_packet(data: bytes) -> Packet | None:
    """RFC 3550, 5.1; None: malformed."""
    if len(data) < 12 or data[0] >> 6 != 2:
        return None
    rest = data[12:]
    csrc_bytes = 4 * (data[0] & 15)
    if len(rest) < csrc_bytes:
        return None
    rest = rest[csrc_bytes:]
    if data[0] & 0x10:
        if len(rest) < 4:
            return None
        extension_bytes = 4 + 4 * int.from_bytes(rest[2:4], "big")
        if len(rest) < extension_bytes:
            return None
        rest = rest[extension_bytes:]
    if data[0] & 0x20:
        padding = data[-1]
        if not 1 <= padding <= len(rest):
            return None
        rest = rest[:-padding]
    return Packet(
        data[1] & 127,
        data[1] >= 128,
        int.from_bytes(data[2:4], "big"),
        int.from_bytes(data[4:8], "big"),
        int.from_bytes(data[8:12], "big"),
        rest,
    )


def build_packet(
    payload: bytes,
    *,
    sequence: int,
    timestamp: int,
    ssrc: int = 0x1234,
    payload_type: int = 96,
    marker: bool = False,
) -> bytes:
    return (
        bytes([0x80, marker << 7 | payload_type])
        + (sequence & 0xFFFF).to_bytes(2, "big")
        + (timestamp & 0xFFFFFFFF).to_bytes(4, "big")
        + ssrc.to_bytes(4, "big")
        + payload
    )


@dataclass
class Sequencer:
    """Numbers never wrap here: each is unrolled to the one nearest to what is due."""

    window: int
    due: int | None = None
    held: set[int] = field(default_factory=set)
    delivered: set[int] = field(default_factory=set)
    probation: int | None = None
    reordered: int = 0
    duplicate: int = 0
    late: int = 0
    restarts: int = 0

    def offer(self, sequence: int) -> list[tuple[int, int, bool]]:
        """(sequence, lost before it, first of a new run) of everything now deliverable."""
        if self.due is None:
            self.due = sequence
        ahead = (sequence - self.due + 0x8000) % 0x10000 - 0x8000
        number = self.due + ahead
        if ahead > DROPOUT_MAX or ahead < -MISORDER_MAX:
            return self._far(sequence)
        if ahead < 0:
            if number in self.delivered and ahead >= -SEEN:
                self.duplicate += 1
            else:
                self.late += 1
            return []
        if 0 < ahead < self.window:
            if number in self.held:
                self.duplicate += 1
            else:
                self.reordered += any(other > number for other in self.held)
                self.held.add(number)
            return []
        out: list[tuple[int, int, bool]] = []
        while ahead > 0 and self.held:
            out += self.give_up()
            ahead = number - self.due
            if 0 < ahead < self.window:
                return out + self.offer(sequence)
        if ahead == 0:
            self.reordered += bool(self.held)
        if self.probation is not None:
            self.probation = None
            self.late += 1
        out.append(self._deliver(number))
        return out + self._due_ones()

    def give_up(self) -> list[tuple[int, int, bool]]:
        if not self.held:
            return []
        first = min(self.held)
        self.held.remove(first)
        return [self._deliver(first), *self._due_ones()]

    def _deliver(self, number: int) -> tuple[int, int, bool]:
        assert self.due is not None
        lost = number - self.due
        self.due = number + 1
        self.delivered.add(number)
        return number % 0x10000, lost, False

    def _due_ones(self) -> list[tuple[int, int, bool]]:
        out = []
        while self.due in self.held:
            self.held.remove(self.due)
            out.append(self._deliver(self.due))
        return out

    def _far(self, sequence: int) -> list[tuple[int, int, bool]]:
        if self.probation is None:
            self.probation = sequence
        elif sequence == self.probation:
            self.duplicate += 1
        elif sequence == (self.probation + 1) % 0x10000:
            out = []
            while self.held:
                out += self.give_up()
            out.append((self.probation, 0, True))
            self.restarts += 1
            self.due = self.probation + 1
            self.delivered = {self.probation}
            self.probation = None
            return out + self.offer(sequence)
        else:
            self.late += 1
            self.probation = sequence
        return []
