"""Records out of slots: headers and payloads, verified, several at a time.

Owns reading, verification and what a failed one means (C12, C13). Never decides what belongs in a
clip and never writes, the damage list excepted.

docs/design/clip.md, "Truth".
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from cext.crc32c import crc32c
from cext.errors import FrameError
from cext.record import (
    HEADER_BYTES_MAX,
    RecordHeader,
    codec_config,
    frame_table,
    parse_header,
    region_bytes,
    verify_payload,
)
from cext.segment_writer import AlignedBuffer, read_aligned
from storage.base.gap import GapCause
from storage.errors import DamagedFragment, DiskError, FootageGone
from storage.index.format import Rows, row_ends_ns
from storage.volume.damage import DamagedPlace, DamageList
from storage.volume.format import BLOCK_BYTES
from storage.volume.volume import Volume

READ_THREADS: Final = 8
HEADERS_PER_TASK: Final = 16
LOADING_BYTES_MAX: Final = 4 << 20
SPARE_BUFFER_BYTES_MAX: Final = 32 << 20
SMALLEST_BUFFER_BYTES: Final = 1 << 16
LARGE_FRAGMENT_BYTES: Final = 4 << 20
STEP_BYTES: Final = 1 << 20
# What was verified at an open and waits to be read: of one clip, and of all of the process.
KEPT_BYTES_MAX: Final = 16 << 20
KEPT_BYTES_PROCESS_MAX: Final = 32 << 20


class Place(msgspec.Struct, frozen=True):
    """Where a record lies and when it is, as the index says."""

    volume_number: int
    slot: int
    generation: int
    offset_blocks: int
    record_bytes: int
    start_ns: int
    end_ns: int

    @property
    def key(self) -> tuple[int, int, int, int]:
        return self.volume_number, self.slot, self.generation, self.offset_blocks


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record whose header verified. ``frames``: the frame table's bytes (FRAME_ENTRY);
    ``config``: avcC/hvcC body, of a gap its detail text."""

    place: Place
    header: RecordHeader
    frames: bytes
    config: bytes


@dataclass(frozen=True, slots=True)
class LostRecord:
    """A record that cannot be used: DAMAGED or EXPIRED."""

    place: Place
    cause: GapCause
    reason: str


class KnownDamage:
    """The damage list as one clip sees it: read once when opened, added to when more is found."""

    def __init__(
        self,
        damage: DamageList,
        camera_uid: bytes,
        now_ns: Callable[[], int],
        on_new: Callable[[Place, str], None],
    ) -> None:
        """``on_new`` is told once of each record newly found damaged. Raises DiskError."""
        self._damage = damage
        self._camera_uid = camera_uid
        self._now_ns = now_ns
        self._on_new = on_new
        self._lock = threading.Lock()
        self._reasons = {place.key: place.reason for place in damage.load()}

    def reason(self, place: Place) -> str | None:
        """Why the record there must not be used; None if nothing is known against it."""
        return self._reasons.get(place.key)

    def report(self, place: Place, reason: str) -> None:
        """Enter it in the list, durably, once. Raises DiskError, and what ``on_new`` raises."""
        with self._lock:
            if place.key in self._reasons:
                return
            entry = DamagedPlace(
                volume=place.volume_number,
                slot=place.slot,
                generation=place.generation,
                offset_blocks=place.offset_blocks,
                camera=self._camera_uid.hex(),
                start_ns=place.start_ns,
                end_ns=place.end_ns,
                found_ns=self._now_ns(),
                reason=reason,
            )
            added = self._damage.append([entry])
            self._reasons[place.key] = reason
        if added:
            self._on_new(place, reason)


class BufferPool:
    """Page-aligned buffers in power-of-two sizes, recycled so that pages are not faulted anew."""

    def __init__(self, spare_bytes_max: int) -> None:
        # A finaliser may give while this very thread is in here.
        self._lock = threading.RLock()
        self._spare: dict[int, list[AlignedBuffer]] = defaultdict(list)
        self._spare_bytes = 0
        self._spare_bytes_max = spare_bytes_max

    def take(self, nbytes: int) -> AlignedBuffer:
        size = max(SMALLEST_BUFFER_BYTES, 1 << (nbytes - 1).bit_length())
        with self._lock:
            if self._spare[size]:
                self._spare_bytes -= size
                return self._spare[size].pop()
        return AlignedBuffer(size)

    def give(self, buffer: AlignedBuffer) -> None:
        with self._lock:
            if self._spare_bytes + buffer.nbytes <= self._spare_bytes_max:
                self._spare_bytes += buffer.nbytes
                self._spare[buffer.nbytes].append(buffer)


BUFFERS: Final = BufferPool(SPARE_BUFFER_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Payload:
    """A verified payload in memory: ``size`` bytes of ``buffer`` from ``start`` on.

    Followed by one ``lend`` or one ``give_back``.
    """

    buffer: AlignedBuffer
    start: int
    size: int

    def lend(self, first: int, end: int) -> memoryview:
        """Bytes [first, end), not copied. The buffer returns to the pool by itself when the last
        view of them is gone, be it in the event loop's transport.
        """
        # All views of an exporter keep it alive, slices of slices too; so it is ours, not pooled.
        exporter = np.frombuffer(memoryview(self.buffer), np.uint8, end - first, self.start + first)
        weakref.finalize(exporter, BUFFERS.give, self.buffer).atexit = False
        return exporter.data.toreadonly()

    def give_back(self) -> None:
        """Nobody wants it."""
        BUFFERS.give(self.buffer)


class KeptPayloads:
    """Payloads verified when a clip was opened, for the read that mostly follows at once.

    Each is taken once. The oldest go when there is more than ``bytes_max`` of buffers.
    """

    def __init__(self, bytes_max: int) -> None:
        self._lock = threading.Lock()
        self._payloads: OrderedDict[tuple[int, int, int, int], Payload] = OrderedDict()
        self._bytes = 0
        self._bytes_max = bytes_max

    def put(self, place: Place, payload: Payload) -> None:
        """Keep it, in place of one of the same place."""
        with self._lock:
            dropped = [self._payloads.pop(place.key, None)]
            self._payloads[place.key] = payload
            self._bytes += payload.buffer.nbytes
            if dropped[0] is not None:
                self._bytes -= dropped[0].buffer.nbytes
            while self._bytes > self._bytes_max:
                _, oldest = self._payloads.popitem(last=False)
                self._bytes -= oldest.buffer.nbytes
                dropped.append(oldest)
        for payload_out in dropped:
            if payload_out is not None:
                payload_out.give_back()

    def take(self, place: Place) -> Payload | None:
        """The payload of that place, the caller's from now on."""
        with self._lock:
            payload = self._payloads.pop(place.key, None)
            if payload is not None:
                self._bytes -= payload.buffer.nbytes
            return payload

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            payloads, self._payloads, self._bytes = self._payloads, OrderedDict(), 0
        for payload in payloads.values():
            payload.give_back()


KEPT: Final = KeptPayloads(KEPT_BYTES_PROCESS_MAX)
_THREADS: ThreadPoolExecutor | None = None
_THREADS_LOCK: Final = threading.Lock()


def read_threads() -> ThreadPoolExecutor:
    """The threads that wait for disks, shared by all clips of the process; made at first use.

    What is submitted is bounded by each clip: a window of bytes, or one load() at a time.
    """
    global _THREADS
    with _THREADS_LOCK:
        if _THREADS is None:
            _THREADS = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="clip-read")
        return _THREADS


class RecordSource:
    """Reads records of one camera. Thread-safe; holds nothing open but what the volumes hold."""

    def __init__(
        self,
        volumes: Mapping[int, Volume],
        camera_uid: bytes,
        damage: KnownDamage,
    ) -> None:
        self._volumes = volumes
        self._camera_uid = camera_uid
        self._damage = damage
        self._may_keep_bytes = KEPT_BYTES_MAX

    def load(self, rows: Rows, *, verify: bool) -> list[StoredRecord | LostRecord]:
        """Headers of the records of index rows, in the same order; ``verify``: payloads too.

        Never raises for a bad record. A damaged one is entered in the damage list. The first
        KEPT_BYTES_MAX of what was verified stay in memory for ``payload``.
        """
        places = places_of(rows)
        if verify:
            # Few enough for the bytes under way, large enough that a task is worth its switches.
            largest = max((p.record_bytes for p in places), default=1)
            each = max(1, min(LOADING_BYTES_MAX // READ_THREADS // largest, len(places) // 4))
            tasks = [places[n : n + each] for n in range(0, len(places), each)]
            window = max(1, LOADING_BYTES_MAX // (largest * each))
        else:
            tasks = [
                places[n : n + HEADERS_PER_TASK] for n in range(0, len(places), HEADERS_PER_TASK)
            ]
            window = 4 * READ_THREADS
        if len(tasks) == 1:
            return self._load_some(tasks[0], verify)
        results: list[StoredRecord | LostRecord] = []
        pending: list[Future[list[StoredRecord | LostRecord]]] = []
        threads = read_threads()
        try:
            for task in tasks:
                if len(pending) >= window:
                    results += pending.pop(0).result()
                pending.append(threads.submit(self._load_some, task, verify))
            while pending:
                results += pending.pop(0).result()
        finally:
            for future in pending:
                future.cancel()
        return results

    def load_one(self, row: Rows, *, verify: bool) -> StoredRecord | LostRecord:
        """As load(), for a single row (an array of one)."""
        return self._load_some(places_of(row), verify)[0]

    def payload(self, place: Place, header: RecordHeader) -> Payload:
        """The whole payload, read and verified now or, by the same read, at the open (C12).

        Raises DamagedFragment (entered in the damage list), FootageGone.
        """
        kept = KEPT.take(place)
        if kept is not None and kept.size == header.payload_bytes:
            self._check_generation(place)
            return kept
        buffer = BUFFERS.take(_blocks(header.payload_bytes))
        start = place.offset_blocks * BLOCK_BYTES + header.header_bytes
        try:
            self._read(place, start, buffer, _blocks(header.payload_bytes))
            verify_payload(header, memoryview(buffer)[: header.payload_bytes])
            self._check_generation(place)
        except FrameError as error:
            raise self._damaged(place, error.rule) from error
        return Payload(buffer, 0, header.payload_bytes)

    def large_payload(
        self, place: Place, header: RecordHeader, first: int, end: int
    ) -> Iterator[bytes]:
        """Bytes [first, end) of a payload too large to hold, in steps, verified before any leaves.

        Read twice; the CRC is computed again on the second way, its last step held back until it
        fits. Raises DamagedFragment, FootageGone.
        """
        for _ in self._steps(place, header):
            pass
        held = b""
        at = 0
        for step in self._steps(place, header):
            if held:
                yield held
            low, high = max(first - at, 0), min(end - at, len(step))
            held = bytes(step[low:high]) if low < high else b""
            at += len(step)
        if held:
            yield held

    def _steps(self, place: Place, header: RecordHeader) -> Iterator[memoryview]:
        """The payload in STEP_BYTES; raises after the last step if the CRC did not fit.

        A step is only good until the next one, and only vouched for once the iteration ended.
        """
        start = place.offset_blocks * BLOCK_BYTES + header.header_bytes
        buffer = BUFFERS.take(STEP_BYTES)
        crc = 0
        try:
            for at in range(0, header.payload_bytes, STEP_BYTES):
                length = min(STEP_BYTES, header.payload_bytes - at)
                self._read(place, start + at, buffer, _blocks(length))
                view = memoryview(buffer)[:length]
                crc = crc32c(view, crc)
                yield view
        except FrameError as error:
            raise self._damaged(place, error.rule) from error
        finally:
            BUFFERS.give(buffer)
        self._check_generation(place)
        if crc != header.payload_crc32c:
            raise self._damaged(place, "the payload CRC does not fit")

    def _load_some(self, places: Sequence[Place], verify: bool) -> list[StoredRecord | LostRecord]:
        return [self._load(place, verify) for place in places]

    def _load(self, place: Place, verify: bool) -> StoredRecord | LostRecord:
        reason = self._damage.reason(place)
        if reason is not None:
            return LostRecord(place, GapCause.DAMAGED, reason)
        if not place.record_bytes or place.record_bytes % BLOCK_BYTES:
            wrong = self._wrong_index(place, f"no record has {place.record_bytes} bytes")
            return LostRecord(place, GapCause.DAMAGED, wrong.reason)
        length = place.record_bytes if verify else BLOCK_BYTES
        if length > LARGE_FRAGMENT_BYTES:
            length = BLOCK_BYTES
        buffer = BUFFERS.take(max(length, HEADER_BYTES_MAX))
        kept = False
        try:
            record = self._parse(place, buffer, length, verify)
            kept = length == place.record_bytes and verify and self._keep(record, buffer)
            return record
        except FootageGone as error:
            return LostRecord(place, GapCause.EXPIRED, str(error))
        except DamagedFragment as error:
            return LostRecord(place, GapCause.DAMAGED, error.reason)
        finally:
            if not kept:
                BUFFERS.give(buffer)

    def _keep(self, record: StoredRecord, buffer: AlignedBuffer) -> bool:
        """Hand the verified payload to those that wait to be read, as long as this clip may."""
        header = record.header
        if header.is_gap or buffer.nbytes > self._may_keep_bytes:
            return False
        # Threads may pass this together: each by one record at most.
        self._may_keep_bytes -= buffer.nbytes
        KEPT.put(record.place, Payload(buffer, header.header_bytes, header.payload_bytes))
        return True

    def _parse(
        self, place: Place, buffer: AlignedBuffer, length: int, verify: bool
    ) -> StoredRecord:
        start = place.offset_blocks * BLOCK_BYTES
        try:
            self._read(place, start, buffer, length)
            wanted = region_bytes(memoryview(buffer)[:length])
            if wanted > length:
                self._read(place, start, buffer, wanted)
                length = wanted
            header = parse_header(memoryview(buffer)[:length])
            self._check_place(place, header)
            if verify and length == place.record_bytes:
                verify_payload(header, memoryview(buffer)[header.header_bytes : length])
            frames = bytes(frame_table(buffer, header))
            record = StoredRecord(place, header, frames, codec_config(buffer, header))
        except FrameError as error:
            # Bytes of the next generation are no damage of this one.
            self._check_generation(place)
            raise self._damaged(place, error.rule) from error
        self._check_generation(place)
        if verify and length < place.record_bytes:
            for _ in self._steps(place, header):
                pass
        return record

    def _check_place(self, place: Place, header: RecordHeader) -> None:
        volume = self._volumes[place.volume_number]
        found = (header.volume_uuid, header.slot, header.generation, header.offset_blocks)
        if found != (volume.uuid, place.slot, place.generation, place.offset_blocks):
            raise FrameError(24, "the record was written for another place")
        if header.camera_uid != self._camera_uid:
            raise self._wrong_index(place, "the record there is another camera's")
        if header.record_bytes != place.record_bytes:
            raise self._wrong_index(place, "the record there has another size")

    def _check_generation(self, place: Place) -> None:
        """After the bytes were read: had the slot been reused, they may be the next owner's."""
        found = int(self._volumes[place.volume_number].generations[place.slot])
        if found != place.generation:
            raise FootageGone(
                f"volume {place.volume_number} slot {place.slot} was reused: generation {found}, "
                f"not {place.generation}"
            )

    def _read(self, place: Place, offset: int, buffer: AlignedBuffer, length: int) -> None:
        volume = self._volumes[place.volume_number]
        if offset + length > volume.slot_size_bytes:
            raise FrameError(20, "the record reaches beyond its slot")
        base = place.slot * volume.slot_size_bytes
        try:
            got = read_aligned(volume.slots_fd, base + offset, buffer, length)
        except OSError as error:
            if error.errno != errno.EIO:
                raise DiskError("reading footage", error, path=volume.path) from error
            raise FrameError(0, f"the disk cannot read it: {os.strerror(errno.EIO)}") from error
        if got < length:
            raise FrameError(got, "the slots file ends inside the record")

    def _wrong_index(self, place: Place, reason: str) -> DamagedFragment:
        """The record is whole, what pointed to it is not: nothing for the list of damage, which
        would take the record from the camera it belongs to. FootageGone if the slot moved on.
        """
        self._check_generation(place)
        return DamagedFragment(
            volume=place.volume_number,
            slot=place.slot,
            generation=place.generation,
            offset_blocks=place.offset_blocks,
            reason=f"the index is wrong: {reason}; run `ringvault index rebuild`",
        )

    def _damaged(self, place: Place, reason: str) -> DamagedFragment:
        """Enter it in the list and make the error. FootageGone instead if the slot moved on."""
        self._check_generation(place)
        self._damage.report(place, reason)
        return DamagedFragment(
            volume=place.volume_number,
            slot=place.slot,
            generation=place.generation,
            offset_blocks=place.offset_blocks,
            reason=reason,
        )


def places_of(rows: Rows) -> list[Place]:
    """The places index rows name."""
    columns = ("volume_number", "slot", "generation", "offset_blocks", "record_bytes", "start_ns")
    values = [rows[column].tolist() for column in columns]
    return [Place(*place) for place in zip(*values, row_ends_ns(rows).tolist(), strict=True)]


def _blocks(length: int) -> int:
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES
