"""Slow twin of the depacketizers and of access unit assembly: bytes, lists, and no cleverness.

It knows nothing of arenas and fragments: out come access units.
"""

import re
from dataclasses import dataclass, field

from tests.oracle.rtp import Packet, Sequencer, parse_packet

H264 = 1
H265 = 2
START_CODE = re.compile(rb"\x00\x00\x01")


@dataclass(frozen=True)
class Piece:
    nal_type: int
    data: bytes
    begins: bool
    ends: bool


def header_bytes(codec: int) -> int:
    return 1 if codec == H264 else 2


def nal_type(codec: int, nal: bytes) -> int:
    return nal[0] & 31 if codec == H264 else (nal[0] >> 1) & 63


def is_vcl(codec: int, kind: int) -> bool:
    return 1 <= kind <= 5 if codec == H264 else kind <= 31


def is_key(codec: int, kind: int) -> bool:
    return kind == 5 if codec == H264 else 16 <= kind <= 21


def is_parameter_set(codec: int, kind: int) -> bool:
    return kind in (7, 8) if codec == H264 else kind in (32, 33, 34)


def plausible(codec: int, nal: bytes) -> bool:
    if len(nal) < header_bytes(codec) or nal[0] >= 0x80:
        return False
    if codec == H264:
        return 1 <= nal[0] & 31 <= 23
    layer = (nal[0] & 1) << 5 | nal[1] >> 3
    return nal_type(codec, nal) < 48 and layer == 0 and nal[1] & 7 != 0


def cuts(codec: int, unit: bytes) -> list[tuple[int, int]]:
    """The stretches of a unit between believable start codes."""
    out, start, position = [], 0, 0
    while match := START_CODE.search(unit, position):
        if plausible(codec, unit[match.end() :]):
            out.append((start, match.start()))
            start = match.end()
        position = match.end()
    return [*out, (start, len(unit))]


def pieces(codec: int, payload: bytes) -> tuple[list[Piece], bool]:
    """The pieces of one payload, and whether some of it was malformed."""
    out: list[Piece] = []
    malformed = False
    units, readable = _units(codec, payload)
    for data, header, kind, begins, ends, scan in units:
        stretches = cuts(codec, data) if scan else [(0, len(data))]
        for number, (start, stop) in enumerate(stretches):
            last = number == len(stretches) - 1
            nal = data[start:stop]
            if len(stretches) > 1 and (not last or ends):
                nal = nal.rstrip(b"\0")
            opens = begins or number > 0
            front = header if number == 0 else b""
            if opens and not front:
                if not nal and not last:
                    continue
                if len(nal) < header_bytes(codec):
                    malformed = True
                    continue
                own = nal_type(codec, nal)
            else:
                own = kind
            if own >= (24 if codec == H264 else 48) or (codec == H264 and own == 0):
                malformed = True
                continue
            out.append(Piece(own, front + nal, opens, ends if last else True))
    return out, malformed or not readable


def _units(
    codec: int, payload: bytes
) -> tuple[list[tuple[bytes, bytes, int, bool, bool, bool]], bool]:
    """(data, rebuilt header, type, begins, ends, may hold start codes); and all readable."""
    if not payload:
        return [], True
    size = header_bytes(codec)
    if len(payload) < size:
        return [], False
    kind = nal_type(codec, payload)
    aggregation, fragmentation = (24, 28) if codec == H264 else (48, 49)
    if kind == aggregation:
        units: list[tuple[bytes, bytes, int, bool, bool, bool]] = []
        rest = payload[size:]
        while rest:
            nbytes = int.from_bytes(rest[:2], "big")
            if len(rest) < 2 or len(rest) - 2 < nbytes:
                return units, False
            units.append((rest[2 : 2 + nbytes], b"", 0, True, True, True))
            rest = rest[2 + nbytes :]
        return units, True
    if kind == fragmentation:
        if len(payload) < size + 1:
            return [], False
        flags = payload[size]
        own = flags & (31 if codec == H264 else 63)
        if own >= aggregation or (codec == H264 and own == 0):
            return [], False
        begins, ends = flags >= 0x80, bool(flags & 0x40)
        header = b""
        if begins and codec == H264:
            header = bytes([payload[0] & 0xE0 | own])
        elif begins:
            header = bytes([payload[0] & 0x81 | own << 1, payload[1]])
        scan = not is_vcl(codec, own)
        return [(payload[size + 1 :], header, own, begins, ends, scan)], True
    if kind > aggregation:
        return [], False
    return [(payload, b"", 0, True, True, True)], True


@dataclass
class AccessUnit:
    rtp: int
    nals: list[bytes] = field(default_factory=list)
    lost: bool = False
    vcl: bool = False
    placed: bool = False  # its first NAL unit was looked at
    partial: bytes | None = None  # the open fragmented NAL unit


class Track:
    """Packets to access units: (rtp, NAL units, lost)."""

    def __init__(self, codec: int, payload_type: int, window: int) -> None:
        self.codec = codec
        self.payload_type = payload_type
        self.sequencer = Sequencer(window)
        self.waiting: dict[int, Packet] = {}
        self.unit: AccessUnit | None = None
        self.done: list[AccessUnit] = []
        self.rtp: int | None = None
        self.ssrc: int | None = None
        self.loss_pending = False
        self.marks = False
        self.lost_packets = 0
        self.malformed = 0

    def receive(self, data: bytes) -> None:
        packet = parse_packet(data)
        if packet is None:
            self.malformed += 1
            return
        if self.ssrc is None and packet.payload_type == self.payload_type:
            self.ssrc = packet.ssrc
        if packet.ssrc != self.ssrc:
            return
        self.waiting.setdefault(packet.sequence, packet)
        self._deliver(self.sequencer.offer(packet.sequence))

    def finish(self) -> list[AccessUnit]:
        while ready := self.sequencer.give_up():
            self._deliver(ready)
        if self.unit is not None and self.unit.vcl:
            self.unit.lost |= self.marks
            self._end()
        return self.done

    def _deliver(self, ready: list[tuple[int, int, bool]]) -> None:
        for sequence, lost, restarted in ready:
            self.lost_packets += lost
            self._packet(self.waiting.pop(sequence), lost > 0 or restarted)
        expected = self.sequencer.held | {self.sequencer.probation}
        numbers = {number % 0x10000 for number in expected if number is not None}
        self.waiting = {s: p for s, p in self.waiting.items() if s in numbers}

    def _packet(self, packet: Packet, missing: bool) -> None:
        if missing and self.unit is not None:
            self.unit.partial = None
            self.unit.lost = True
        if packet.payload_type != self.payload_type or not packet.payload:
            self.loss_pending |= missing
            return
        if self.rtp is None:
            self.rtp = packet.timestamp
        rtp = self.rtp + (packet.timestamp - self.rtp + 2**31) % 2**32 - 2**31
        if rtp != self.rtp and self.unit is not None:
            if self.unit.vcl:
                self._end()
            else:
                self.unit.rtp = rtp
                self._abort(self.unit)
        self.rtp = rtp
        self.loss_pending |= missing
        if self.unit is not None:
            self.unit.lost |= missing
        else:
            self.unit = AccessUnit(rtp, lost=self.loss_pending)
        found, malformed = pieces(self.codec, packet.payload)
        for piece in found:
            self._piece(piece)
        unit = self.unit
        if malformed:
            self.malformed += 1
            self._abort(unit)
            unit.lost = True
        if packet.marker and unit.vcl and unit.partial is None:
            self.marks = True
            self._end()

    def _abort(self, unit: AccessUnit) -> None:
        if unit.partial is not None:
            unit.partial = None
            unit.lost = True

    def _piece(self, piece: Piece) -> None:
        unit = self.unit
        assert unit is not None
        unit.vcl |= is_vcl(self.codec, piece.nal_type)
        if piece.begins:
            self._abort(unit)
            if not unit.placed and self._continues(piece):
                last = self.done.pop()
                last.lost |= unit.lost
                last.partial = None
                unit = self.unit = last
            unit.placed = True
            unit.partial = b""
        elif unit.partial is None:
            unit.lost = True
            return
        assert unit.partial is not None
        unit.partial += piece.data
        if piece.ends:
            unit.nals.append(unit.partial)
            unit.partial = None

    def _continues(self, piece: Piece) -> bool:
        """More of the frame before, by a camera that marks every packet."""
        unit = self.unit
        assert unit is not None
        if not self.done or self.done[-1].rtp != unit.rtp:
            return False
        if is_vcl(self.codec, piece.nal_type):
            size = header_bytes(self.codec)
            return len(piece.data) > size and piece.data[size] < 0x80
        return piece.nal_type in ((10, 11, 12) if self.codec == H264 else (36, 37, 38, 40))

    def _end(self) -> None:
        unit = self.unit
        assert unit is not None
        self._abort(unit)
        if unit.nals:
            self.done.append(unit)
            self.loss_pending = False
        elif unit.lost:
            self.loss_pending = True
        self.unit = None
