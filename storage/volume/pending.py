"""What waits for a volume: fragments and gaps of cameras, in each camera's own order.

Owns the order of one camera's records: sequence numbers, the pending losses that stand in for
records that could not be written, and the lock under which a camera changes volumes. Never talks
to a disk.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from cext.arena import Fragment
from cext.segment_writer import GAP_DETAIL_BYTES_MAX, GapRecord, RecordPlace
from storage.base.gap import Gap, GapCause
from storage.base.retention import RetentionClass
from storage.volume.format import KIND_FRAGMENT, KIND_GAP, RECORD_TRIAL
from storage.volume.slot import SlotRecord, gap_index_flags, index_duration, index_flags

if TYPE_CHECKING:
    from storage.volume.writer import VolumeWriter

LOSSES_MAX = 64
RATE_ASSUMED_BYTES_PER_S = 512 * 1024


class FragmentMeta(msgspec.Struct, frozen=True, gc=False):
    """What the timeline says of a fragment: docs/design/volume-format.md, section Record.

    Times ns UTC, [start_ns, end_ns); ``flags`` RECORD_* in addition to those of the fragment;
    ``config_change``: its codec configuration differs from the camera's record before.
    """

    start_ns: int
    end_ns: int
    camera_ns: int
    camera_offset_ns: int
    run_id: int
    width: int
    height: int
    flags: int
    codec_config: bytes
    codec_config_id: int
    recv_quantum_ns: int
    config_change: bool = False


class DurableRecord(msgspec.Struct, frozen=True, gc=False):
    """A record whose bytes are durable: what the index is told (V1)."""

    volume_number: int
    slot: int
    generation: int
    record: SlotRecord


class PublishTarget(Protocol):
    """Where a camera's durable records become visible."""

    def publish(self, records: Sequence[DurableRecord]) -> None:
        """In stream order. Raises StorageError if they cannot be made visible now."""


class Pending(msgspec.Struct, eq=False):
    """One record on its way: a fragment with its meta, or a gap. ``nbytes`` count for the queue.

    ``record`` is what will be written, once it is described (and hashed).
    """

    stream: CameraStream
    stream_sequence: int
    start_ns: int
    end_ns: int
    nbytes: int
    submitted_ns: int
    fragment: Fragment | None = None
    meta: FragmentMeta | None = None
    gap: Gap | None = None
    record: Fragment | GapRecord | None = None

    def release(self) -> None:
        """Give the fragment's memory back; the record cannot be written any more."""
        self.record = None
        if self.fragment is not None:
            self.fragment.release()
            self.fragment = None

    def become_gap(self, cause: GapCause, detail: str) -> Gap:
        """The record cannot be stored: a gap takes its place. A gap stays the gap it is."""
        if self.gap is None:
            self.gap = Gap(self.start_ns, self.end_ns, cause, 0, detail)
        self.release()
        self.meta = None
        return self.gap

    def describe(self, trial: bool) -> None:
        """Make ``record``. Raises CextError, ValueError or OverflowError for what has no record."""
        record_flags = RECORD_TRIAL if trial else 0
        if self.gap is not None:
            self.record = GapRecord(
                self.stream.uid,
                self.stream_sequence,
                self.gap.start_ns,
                self.gap.end_ns,
                int(self.gap.cause),
                min(self.gap.packets, 0xFFFF_FFFF),
                _shortened(self.gap.detail),
                record_flags,
            )
            return
        meta = self.meta
        assert meta is not None and self.fragment is not None
        self.fragment.describe(
            self.stream.uid,
            self.stream_sequence,
            meta.start_ns,
            meta.end_ns,
            meta.camera_ns,
            meta.camera_offset_ns,
            meta.run_id,
            meta.width,
            meta.height,
            meta.flags | record_flags,
            meta.codec_config,
            meta.codec_config_id,
            meta.recv_quantum_ns,
        )
        self.record = self.fragment

    def entry(self, place: RecordPlace) -> SlotRecord:
        """What footer and index say of it, once it has its place."""
        if self.gap is not None:
            kind, flags = KIND_GAP, gap_index_flags(int(self.gap.cause))
        else:
            assert self.fragment is not None and self.meta is not None
            kind = KIND_FRAGMENT
            flags = index_flags(self.fragment.flags, config_change=self.meta.config_change)
        return SlotRecord(
            place.offset_blocks,
            place.record_bytes,
            kind,
            flags,
            index_duration(kind, self.start_ns, self.end_ns),
            self.start_ns,
            self.end_ns,
            self.stream.uid,
            self.stream_sequence,
            place.fragment_root,
            place.header_crc32c,
            place.payload_crc32c,
        )


class CameraStream:
    """One camera's records between submit and publish.

    ``lock`` guards ``writer`` and the assignment of sequence numbers, so that a camera's records
    enter one queue in order and change queues together. ``losses`` and ``lane`` belong to the
    thread of the writer the stream is with.
    """

    def __init__(
        self,
        uid: bytes,
        camera_id: str,
        retention: RetentionClass,
        target: PublishTarget,
        *,
        next_sequence: int,
        last_end_ns: int,
    ) -> None:
        self.uid = uid
        self.camera_id = camera_id
        self.retention = retention
        self.target = target
        self.lock = threading.Lock()
        self.writer: VolumeWriter | None = None
        self.wanted: VolumeWriter | None = None
        self.next_sequence = next_sequence
        self.last_start_ns = last_end_ns
        self.last_end_ns = last_end_ns
        self.waiting = 0
        self.losses: list[Pending] = []
        self.unpublished: list[DurableRecord] = []
        self.lane: int | None = None
        self.bytes_submitted = 0
        self.rate_bytes_per_s = float(RATE_ASSUMED_BYTES_PER_S)
        self._rate_bytes = 0
        self._rate_ns = 0
        self._rate_measured = False

    @property
    def idle(self) -> bool:
        """Nothing queued, nothing owed."""
        return not (self.waiting or self.losses or self.unpublished)

    def lose(self, item: Pending, cause: GapCause, detail: str) -> None:
        """The record could not be written: it becomes a gap in its place.

        Losses of one cause that follow each other grow into one gap. Beyond LOSSES_MAX different
        ones the last one grows: memory stays bounded, and no time goes unaccounted for.
        """
        merges = item.gap is None
        gap = item.become_gap(cause, detail)
        item.nbytes = 0
        last = self.losses[-1] if self.losses else None
        if last is not None and last.gap is not None:
            merges = merges and last.gap.cause == gap.cause
            if merges or len(self.losses) >= LOSSES_MAX:
                last.end_ns = max(last.end_ns, gap.end_ns)
                last.gap = dataclasses.replace(last.gap, end_ns=last.end_ns)
                return
        self.losses.append(item)

    def measure_rate(self, now_ns: int) -> None:
        """Update ``rate_bytes_per_s``; called about once a minute."""
        if self._rate_ns:
            elapsed_ns = now_ns - self._rate_ns
            if elapsed_ns <= 0:
                return
            rate = (self.bytes_submitted - self._rate_bytes) * 1e9 / elapsed_ns
            weight = 0.5 if self._rate_measured else 1.0  # an assumption counts for nothing
            self.rate_bytes_per_s += (rate - self.rate_bytes_per_s) * weight
            self._rate_measured = True
        self._rate_bytes = self.bytes_submitted
        self._rate_ns = now_ns


def _shortened(detail: str) -> str:
    return detail.encode()[:GAP_DETAIL_BYTES_MAX].decode(errors="ignore")
