"""One thread per volume and worker: takes what is queued, writes it, makes it durable, shows it.

Owns group commit (Procedure Commit) and V1: data, fdatasync, table, index entry, visible. Never
decides where a slot may be (Volume), never lets a failing disk stop another volume or lose time
silently: what cannot be written moves to another volume, or becomes a gap in its place.

- The queue is bounded by bytes: push() says no, and the caller records a queue_full gap.
- A camera's records are published in the order of their sequence numbers.
- Memory of a fragment is given back only after it is durable, moved or recorded as lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

import msgspec
import numpy as np

from cext.arena import Fragment
from cext.errors import CextError
from cext.segment_writer import seal
from storage.base.clock import Clock
from storage.base.gap import GapCause
from storage.base.retention import RetentionClass
from storage.base.timebase import SECOND_NS
from storage.errors import StorageError
from storage.volume.events import (
    BufferedWrites,
    CameraMoved,
    CommitLag,
    IndexFault,
    Report,
    WriterFailed,
    disk_fault,
)
from storage.volume.format import (
    SLOT_FREE,
    SLOT_SEALED,
)
from storage.volume.lane import Blocked, Lane
from storage.volume.pending import CameraStream, DurableRecord, Pending
from storage.volume.slot import (
    OpenSlot,
    SlotRecord,
)
from storage.volume.stats import Latencies, WriterStats
from storage.volume.volume import Volume

TICKS_PER_COMMIT_INTERVAL = 8
WRITE_ATTEMPTS = 2
QUEUE_GAPS_MAX = 65_536
UNPUBLISHED_MAX = 4096
LAG_REPORT_INTERVAL_NS = 10 * SECOND_NS

Refuge = Callable[[CameraStream, "VolumeWriter"], "VolumeWriter | None"]


class _Run(msgspec.Struct):
    """What one call wrote to one slot: items and their records, in order."""

    lane: Lane
    slot: OpenSlot
    items: list[Pending]
    records: list[SlotRecord]


class VolumeWriter:
    """See the module docstring. ``tick()`` may also be driven by a test instead of the thread."""

    def __init__(
        self,
        volume: Volume,
        *,
        worker: int,
        lanes: int,
        clock: Clock,
        commit_interval_ns: int,
        queue_bytes_max: int,
        report: Report,
        refuge: Refuge,
    ) -> None:
        assert volume.writable and lanes >= 1
        self.volume = volume
        self.commit_interval_ns = commit_interval_ns
        self.queue_bytes_max = queue_bytes_max
        self._worker = worker
        self._lane_count = lanes
        self._clock = clock
        self._report = report
        self._refuge = refuge
        self._condition = threading.Condition(threading.Lock())
        self._queue: deque[Pending] = deque()
        self._queue_bytes = 0
        self._queue_gaps = 0
        self._stopping = False
        self._failed = False
        self._thread: threading.Thread | None = None
        self._lanes: dict[str, list[Lane]] = {}
        self._owing: dict[CameraStream, None] = {}
        self._streams: set[CameraStream] = set()
        self._commit_latency = Latencies()
        self._loss_window = Latencies()
        self._lag_report_at_ns = 0
        self._batches = self._records_written = self._bytes_written = 0
        self._records_lost = self._errors = 0

    # ---- for any thread -----------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """False while a lane is blocked (disk fault, volume full) or the thread has ended."""
        return not self._failed and not any(
            lane.blocked for lanes in list(self._lanes.values()) for lane in lanes
        )

    def push(self, item: Pending) -> bool:
        """Queue a record; False if there is no room. The caller holds the stream's lock."""
        with self._condition:
            if self._stopping or self._failed:
                return False
            if item.gap is not None:
                if self._queue_gaps >= QUEUE_GAPS_MAX:
                    return False
                self._queue_gaps += 1
            elif self._queue_bytes + item.nbytes > self.queue_bytes_max:
                return False
            self._queue_bytes += item.nbytes
            self._queue.append(item)
            item.stream.waiting += 1
            return True

    def adopt(self, stream: CameraStream, items: Iterable[Pending]) -> None:
        """A stream comes to this volume, with what it has waiting. The caller holds its lock."""
        with self._condition:
            stream.writer = self
            stream.lane = None
            stream.wanted = None
            self._streams.add(stream)
            for item in items:
                self._queue_bytes += item.nbytes
                self._queue_gaps += item.gap is not None
                self._queue.append(item)
                stream.waiting += 1
            if stream.unpublished:
                self._owing[stream] = None

    def start(self) -> None:
        if not self.volume.direct:
            self._report(BufferedWrites(self.volume.number, str(self.volume.path)))
        name = f"volume-{self.volume.number}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Drain, commit, seal the open slots. False if that took longer than ``timeout_s``."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is None:
            self._finish()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stats(self) -> WriterStats:
        entries = self.volume.table.entries
        state = entries["state"].copy()
        first = entries["first_ns"][(state != SLOT_FREE) & (entries["first_ns"] > 0)]
        blocked = [
            f"{lane.retention.id}: {lane.blocked.cause.label} ({lane.blocked.detail})"
            for lanes in list(self._lanes.values())
            for lane in lanes
            if lane.blocked is not None
        ]
        with self._condition:
            return WriterStats(
                volume_number=self.volume.number,
                queue_bytes=self._queue_bytes,
                queue_bytes_max=self.queue_bytes_max,
                queue_records=len(self._queue),
                batches=self._batches,
                records_written=self._records_written,
                bytes_written=self._bytes_written,
                records_lost=self._records_lost,
                errors=self._errors,
                cameras=len(self._streams),
                blocked=tuple(dict.fromkeys(blocked)),
                commit=self._commit_latency.summary(),
                loss_window=self._loss_window.summary(),
                slots_total=len(state),
                slots_free=int(np.count_nonzero(state == SLOT_FREE)),
                slots_sealed=int(np.count_nonzero(state == SLOT_SEALED)),
                oldest_ns=int(first.min()) if len(first) else None,
            )

    # ---- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        pause_ns = self.commit_interval_ns // TICKS_PER_COMMIT_INTERVAL
        due_ns = self._clock.monotonic_ns() + pause_ns
        try:
            while not self._stopping:
                with self._condition:
                    wait_ns = due_ns - self._clock.monotonic_ns()
                    if wait_ns > 0 and not self._stopping:
                        self._condition.wait(wait_ns / 1e9)
                # Late (a slow disk): the next tick is counted from now, none is made up for.
                due_ns = max(due_ns + pause_ns, self._clock.monotonic_ns())
                self.tick()
            self._finish()
        except BaseException as error:
            self._failed = True
            self._report(WriterFailed(self.volume.number, f"{type(error).__name__}: {error}"))
            raise

    def tick(self) -> None:
        """One group commit of everything queued, then what the lanes need."""
        batch = self._take()
        if batch:
            self._batches += 1
            self._commit(batch)
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.tend()

    def _finish(self) -> None:
        self.tick()
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.close()

    def _take(self) -> dict[CameraStream, list[Pending]]:
        """What is queued, by stream in order; losses that can be written now come first."""
        with self._condition:
            items, self._queue = self._queue, deque()
            self._queue_gaps = 0
        batch = _by_stream(items)
        for stream in list(self._owing):
            batch.setdefault(stream, [])
        ready: dict[CameraStream, list[Pending]] = {}
        for stream, queued in batch.items():
            if stream.wanted is not None and stream.wanted is not self:
                self._hand_over(stream, queued, stream.wanted, "balance")
            elif self._lane_of(stream).probe():
                ready[stream] = self._with_losses(stream, queued) if stream.losses else queued
                self._owing.pop(stream, None)
            else:
                self._displace(stream, queued)
        return ready

    def _with_losses(self, stream: CameraStream, queued: list[Pending]) -> list[Pending]:
        losses, stream.losses = stream.losses, []
        with stream.lock:
            stream.waiting += len(losses)
        return _in_order(losses + queued)

    # ---- commit -------------------------------------------------------------------------------

    def _commit(self, batch: dict[CameraStream, list[Pending]]) -> None:
        self._make_ready(batch)
        by_lane: dict[Lane, list[Pending]] = {}
        for stream, items in batch.items():
            by_lane.setdefault(self._lane_of(stream), []).extend(items)
        shown: set[CameraStream] = set()
        for _ in range(WRITE_ATTEMPTS):
            written: list[_Run] = []
            failed: dict[Lane, list[Pending]] = {}
            for lane, items in by_lane.items():
                rest = self._write_lane(lane, items, written)
                if rest:
                    failed[lane] = rest
            if written and not self._make_durable(written):
                for run in reversed(written):
                    failed[run.lane] = run.items + failed.get(run.lane, [])
                written = []
            shown.update(self._show(written))
            by_lane = failed
            if not failed:
                break
        for stream in batch:
            if stream.unpublished and stream not in shown:
                self._publish(stream, [])
        for items in by_lane.values():
            for stream, queued in _by_stream(items).items():
                self._displace(stream, queued)

    def _make_ready(self, batch: dict[CameraStream, list[Pending]]) -> None:
        """Describe and hash. A fragment that has no record becomes a gap in its place."""
        trial = self.volume.trial
        fragments: list[Fragment] = []
        for items in batch.values():
            for item in items:
                if item.record is not None:
                    continue  # came from another volume, described and hashed there
                try:
                    item.describe(trial)
                except (CextError, ValueError, OverflowError) as error:
                    self._make_gap(item, GapCause.PROTOCOL_ERROR, str(error))
                if isinstance(item.record, Fragment):
                    fragments.append(item.record)
        if fragments:
            seal(fragments)

    def _make_gap(self, item: Pending, cause: GapCause, detail: str) -> None:
        with self._condition:
            self._queue_bytes -= item.nbytes
            self._records_lost += 1
        item.nbytes = 0
        item.become_gap(cause, detail)
        item.describe(self.volume.trial)

    def _write_lane(self, lane: Lane, items: list[Pending], written: list[_Run]) -> list[Pending]:
        """Write what fits where it belongs; returns what could not be written, in order."""
        while items:
            slot = lane.current()
            if slot is None:
                return items
            records = [item.record for item in items if item.record is not None]
            assert len(records) == len(items), "described before it is written"
            count = slot.fitting([record.record_bytes for record in records])
            if not count:
                if slot.next_sequence:
                    lane.retire()
                else:
                    self._make_gap(items[0], GapCause.OVERSIZE, "larger than a slot")
                continue
            try:
                places = self.volume.write_records(slot, records[:count])
            except OSError as error:
                self._fault("writing records", error)
                lane.abandon()
                return items
            run = _Run(lane, slot, items[:count], [])
            for item, place in zip(run.items, places, strict=True):
                entry = item.entry(place)
                slot.append(entry)
                run.records.append(entry)
            written.append(run)
            items = items[count:]
        return []

    def _make_durable(self, written: list[_Run]) -> bool:
        try:
            self.volume.sync_slots()
        except OSError as error:
            self._fault("fdatasync", error)
            for lane in {id(run.lane): run.lane for run in written}.values():
                lane.abandon()
            return False
        return True

    def _show(self, written: list[_Run]) -> Iterable[CameraStream]:
        """After fdatasync: table, then index entries, then the memory is free again (V1).

        Returns the streams of which something was shown.
        """
        number = self.volume.number
        by_stream: dict[CameraStream, list[DurableRecord]] = {}
        for run in written:
            slot = run.slot
            slot.mark_durable()
            self.volume.note_durable(slot)
            run.lane.note_success()
            for item, record in zip(run.items, run.records, strict=True):
                durable = DurableRecord(number, slot.slot, slot.generation, record)
                by_stream.setdefault(item.stream, []).append(durable)
        for stream, records in by_stream.items():
            self._publish(stream, records)
        if written:
            self._account(written)
        for stream, records in by_stream.items():
            with stream.lock:
                stream.waiting -= len(records)
        return by_stream

    def _publish(self, stream: CameraStream, records: list[DurableRecord]) -> None:
        if stream.unpublished:
            records = stream.unpublished + records
        try:
            stream.target.publish(records)
            stream.unpublished = []
        except StorageError as error:
            # Durable, but not visible: the next commit tries again, recovery would find them.
            self._errors += 1
            self._report(IndexFault(self.volume.number, stream.uid, str(error)))
            stream.unpublished = records[-UNPUBLISHED_MAX:]
            self._owing[stream] = None

    def _account(self, written: list[_Run]) -> None:
        now_ns, utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        commits: list[int] = []
        losses: list[int] = []
        count = queued_bytes = written_bytes = 0
        for run in written:
            count += len(run.items)
            written_bytes += sum([record.record_bytes for record in run.records])
            for item in run.items:
                fragment = item.fragment
                if fragment is not None:
                    commits.append(now_ns - item.submitted_ns)
                    losses.append(utc_ns - fragment.recv_first_ns)
                    queued_bytes += item.nbytes
                    item.release()
        self._commit_latency.add(commits)
        self._loss_window.add(losses)
        with self._condition:
            self._queue_bytes -= queued_bytes
            self._records_written += count
            self._bytes_written += written_bytes
            queue_bytes = self._queue_bytes
        worst_ns = max(commits, default=0)
        if worst_ns > self.commit_interval_ns and now_ns >= self._lag_report_at_ns:
            self._lag_report_at_ns = now_ns + LAG_REPORT_INTERVAL_NS
            self._report(
                CommitLag(self.volume.number, worst_ns, self.commit_interval_ns, queue_bytes)
            )

    # ---- when it does not work ----------------------------------------------------------------

    def _displace(self, stream: CameraStream, items: list[Pending]) -> None:
        """These cannot be written here now: another volume takes the camera, or they are lost."""
        target = self._refuge(stream, self)
        if target is not None:
            self._hand_over(stream, items, target, "volume full or failing")
            return
        blocked = self._lane_of(stream).blocked or Blocked(GapCause.DISK_ERROR, "write failed")
        for item in items:
            self._lose(item, blocked.cause, blocked.detail)

    def _lose(self, item: Pending, cause: GapCause, detail: str) -> None:
        stream = item.stream
        with self._condition:
            self._queue_bytes -= item.nbytes
            self._records_lost += item.gap is None
        with stream.lock:
            stream.waiting -= 1
        stream.lose(item, cause, detail)
        self._owing[stream] = None

    def _hand_over(
        self, stream: CameraStream, items: list[Pending], target: VolumeWriter, reason: str
    ) -> None:
        """The stream goes on at ``target``: what we hold of it, then what is still queued here."""
        with stream.lock:
            with self._condition:
                later = [item for item in self._queue if item.stream is stream]
                self._queue = deque(item for item in self._queue if item.stream is not stream)
                self._queue_gaps -= sum(item.gap is not None for item in later)
                self._queue_bytes -= sum(item.nbytes for item in (*items, *later))
            stream.waiting -= len(items) + len(later)
            losses, stream.losses = stream.losses, []
            self._owing.pop(stream, None)
            self._streams.discard(stream)
            if stream.lane is not None:
                self._lane_of(stream).rate_bytes_per_s -= stream.rate_bytes_per_s
            target.adopt(stream, _in_order([*losses, *items, *later]))
        self._report(CameraMoved(stream.uid, self.volume.number, target.volume.number, reason))

    def _fault(self, operation: str, error: OSError) -> None:
        self._errors += 1
        self._report(disk_fault(self.volume.number, operation, error))

    # ---- lanes --------------------------------------------------------------------------------

    def _lane_of(self, stream: CameraStream) -> Lane:
        """The camera's lane; a camera sticks to it while it is on this volume."""
        lanes = self._lanes.get(stream.retention.id) or self._open_lanes(stream.retention)
        if stream.lane is None:
            lane = min(lanes, key=lambda one: one.rate_bytes_per_s)
            lane.rate_bytes_per_s += stream.rate_bytes_per_s
            stream.lane = lane.number
        return lanes[stream.lane]

    def _open_lanes(self, retention: RetentionClass) -> list[Lane]:
        lanes = [
            Lane(
                self.volume,
                retention,
                number,
                worker=self._worker,
                clock=self._clock,
                report=self._report,
            )
            for number in range(self._lane_count)
        ]
        self._lanes = {**self._lanes, retention.id: lanes}
        return lanes

    def forget(self, stream: CameraStream) -> None:
        """The camera was closed and has nothing waiting."""
        self._streams.discard(stream)


def _in_order(items: list[Pending]) -> list[Pending]:
    return sorted(items, key=lambda item: item.stream_sequence)


def _by_stream(items: Iterable[Pending]) -> dict[CameraStream, list[Pending]]:
    found: dict[CameraStream, list[Pending]] = {}
    for item in items:
        found.setdefault(item.stream, []).append(item)
    return found
