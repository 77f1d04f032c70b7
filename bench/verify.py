"""Reads back what was recorded and compares it with what was sent, access unit by access unit.

Goes through the store's index as a reader does, but decodes records and compares samples itself:
the bytes in the payload must be those of the access unit that the camera sent at that place, and
the hash in the frame table must be the SHA-256 of that access unit.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from bench.report import CheckFailed
from cext.record import RecordHeader, frame_table, parse_header, verify_payload
from cext.segment_writer import AlignedBuffer, read_aligned
from gateway.simulate.connection import Played
from gateway.simulate.footage import Footage
from storage.base.gap import GapCause
from storage.base.timebase import TimeRange
from storage.index.format import FLAG_GAP
from storage.store import Store
from storage.volume.format import FRAME_ENTRY

_EVER = TimeRange(0, 1 << 62)
_BUFFER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What the archive holds. ``gaps`` counts gap records by cause."""

    cameras: int
    records: int
    frames: int
    payload_bytes: int
    gaps: dict[str, int]


class Verifier:
    """Compares a store with footage; holds one large read buffer."""

    def __init__(self, store: Store, footage: Footage) -> None:
        self._store = store
        self._samples = [unit.sample for unit in footage.access_units]
        self._hashes = [hashlib.sha256(sample).digest() for sample in self._samples]
        self._buffer = AlignedBuffer(_BUFFER_BYTES)
        self._records = 0
        self._frames = 0
        self._payload_bytes = 0
        self._gaps: dict[str, int] = {}

    def check_camera(self, uid: bytes, played: Sequence[Played]) -> None:
        """Every access unit sent is stored once, in order, and nothing else is.

        Raises CheckFailed naming the camera and the first place that differs.
        """
        self._check(uid, [number for play in played for number in self._numbers(play)])

    def check_cut_camera(self, uid: bytes, before: Played, after: Played) -> int:
        """As check_camera, but the end of ``before`` may be missing: how many access units."""
        frames = self._count_frames(uid)
        lost = before.frames_sent + after.frames_sent - frames
        if not 0 <= lost <= before.frames_sent:
            sent = before.frames_sent + after.frames_sent
            raise CheckFailed(f"camera {uid.hex()}: {sent} access units sent, {frames} stored")
        kept = self._numbers(before)[: before.frames_sent - lost]
        self._check(uid, kept + self._numbers(after))
        return lost

    def _numbers(self, play: Played) -> list[int]:
        """What was sent, as numbers of the footage's access units."""
        return [(play.first_frame + n) % len(self._samples) for n in range(play.frames_sent)]

    def _count_frames(self, uid: bytes) -> int:
        headers = [self._read(entry) for entry in self._store.index(uid).find(_EVER).rows]
        return sum(header.frame_count for header in headers if not header.is_gap)

    def _check(self, uid: bytes, expected: Sequence[int]) -> None:
        stored = 0
        for entry in self._store.index(uid).find(_EVER).rows:
            header = self._read(entry)
            if header.is_gap:
                cause = GapCause(header.cause).label
                self._gaps[cause] = self._gaps.get(cause, 0) + 1
                continue
            stored += self._compare(header, uid, expected, stored)
            self._records += 1
            self._payload_bytes += header.payload_bytes
        if stored != len(expected):
            raise CheckFailed(
                f"camera {uid.hex()}: {len(expected)} access units sent, {stored} stored"
            )
        self._frames += stored

    def result(self, cameras: int) -> ReadBack:
        """The sum over all cameras checked."""
        return ReadBack(cameras, self._records, self._frames, self._payload_bytes, self._gaps)

    def _read(self, entry: np.void) -> RecordHeader:
        volume = self._store.volumes[int(entry["volume_number"])]
        offset = int(entry["slot"]) * volume.slot_size_bytes + int(entry["offset_blocks"]) * 4096
        length = int(entry["record_bytes"])
        if read_aligned(volume.slots_fd, offset, self._buffer, length) != length:
            raise CheckFailed(f"volume {volume.number}: record at {offset} is cut short")
        header = parse_header(self._buffer)
        if header.is_gap != bool(int(entry["flags"]) & FLAG_GAP):
            raise CheckFailed("index and record disagree whether this is a gap")
        return header

    def _compare(
        self, header: RecordHeader, uid: bytes, expected: Sequence[int], stored: int
    ) -> int:
        payload = memoryview(self._buffer)[header.header_bytes :][: header.payload_bytes]
        verify_payload(header, payload)
        frames = np.frombuffer(frame_table(self._buffer, header), dtype=FRAME_ENTRY)
        at = 0
        for n, frame in enumerate(frames):
            size = int(frame["size_bytes"])
            place = stored + n
            if place >= len(expected):
                raise CheckFailed(f"camera {uid.hex()}: more stored than the {place} sent")
            number = expected[place]
            if bytes(payload[at : at + size]) != self._samples[number]:
                raise CheckFailed(
                    f"camera {uid.hex()}: access unit {place} is not the one that was sent"
                )
            if frame["sha256"].tobytes() != self._hashes[number]:
                raise CheckFailed(f"camera {uid.hex()}: hash of access unit {place} is wrong")
            at += size
        if at != header.payload_bytes:
            raise CheckFailed(f"camera {uid.hex()}: bytes between the access units of a record")
        return len(frames)


def read_back(
    store: Store, footage: Footage, uids: Sequence[bytes], played: Sequence[Played]
) -> ReadBack:
    """Check all cameras; ``uids[n]`` recorded camera n. Raises CheckFailed."""
    verifier = Verifier(store, footage)
    for camera, uid in enumerate(uids):
        verifier.check_camera(uid, [play for play in played if play.camera == camera])
    return verifier.result(len(uids))


def check_mp4(clip: bytes | Path, footage: Footage, frames: int) -> None:
    """A clip holds ``frames`` consecutive access units of the footage, byte for byte.

    In front of them there may be those that lead up from a key picture (cut off by the edit
    list). Raises CheckFailed.
    """
    source = str(clip) if isinstance(clip, Path) else io.BytesIO(clip)
    samples = [unit.sample for unit in footage.access_units]
    with av.open(source, "r") as container:
        got = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    if not got or got[0] not in samples:
        raise CheckFailed("the clip does not begin with an access unit that was recorded")
    first = samples.index(got[0])
    if not footage.access_units[first].key:
        raise CheckFailed("the clip does not begin with a key picture")
    for place, sample in enumerate(got):
        if sample != samples[(first + place) % len(samples)]:
            raise CheckFailed(f"access unit {place} of the clip is not the one recorded")
    lead = len(got) - frames
    longest = max_key_distance(footage)
    if not 0 <= lead <= longest:
        raise CheckFailed(f"the clip has {len(got)} access units, {frames} were asked for")


def max_key_distance(footage: Footage) -> int:
    """The most access units from one key picture to the next, rounds included."""
    keys = [n for n, unit in enumerate(footage.access_units) if unit.key]
    wrapped = [*keys, keys[0] + len(footage.access_units)]
    return max(b - a for a, b in pairwise(wrapped))
