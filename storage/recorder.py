"""What gateway sees for writing: one Recorder per worker process, one CameraWriter per camera.

Owns sequence numbers, the writers of all volumes, the link from durable to visible, and the
checkpoint thread (I5). Never touches a slot or an index file itself, never blocks the caller of
submit(): hashing, writing and fdatasync happen on the volumes' threads.

Order of life: ``recover()``, then Recorder(...), start(), open_camera() ..., stop(). A clean stop
leaves sealed slots, all INDEXED, so that the next start has nothing to scan.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from cext.arena import Fragment
from storage.adopted import AdoptedSlots, SlotKey
from storage.base.clock import Clock
from storage.base.gap import Gap
from storage.base.retention import RetentionClass
from storage.base.timebase import MINUTE_NS, SECOND_NS
from storage.errors import DiskError, RecorderStopped, StorageError
from storage.index.checkpoint import IndexCheckpoint
from storage.index.files import IndexBusy
from storage.index.writer import CameraIndexWriter
from storage.store import Store, index_entry
from storage.volume.events import (
    BufferedWrites,
    CameraMoved,
    CommitLag,
    DiskFault,
    IndexFault,
    IntakeResumed,
    RecorderEvent,
    SlotSealed,
    VolumeFullAlarm,
    WriterFailed,
)
from storage.volume.format import TABLE_INDEXED
from storage.volume.pending import CameraStream, DurableRecord, FragmentMeta, Pending
from storage.volume.pool import VolumePool
from storage.volume.stats import WriterStats
from storage.volume.writer import VolumeWriter

__all__ = [
    "BufferedWrites",
    "CameraMoved",
    "CameraWriter",
    "CommitLag",
    "DiskFault",
    "FragmentMeta",
    "IndexFault",
    "IntakeResumed",
    "Recorder",
    "RecorderEvent",
    "RecorderSettings",
    "RecorderStats",
    "SlotSealed",
    "VolumeFullAlarm",
    "WriterFailed",
]

_NICE = 10
INDEX_BUSY_ATTEMPTS = 5
INDEX_BUSY_PAUSE_S = 0.02


class RecorderSettings(msgspec.Struct, frozen=True):
    """``queue_bytes_max`` is for all volumes of the worker together, shared out equally."""

    commit_interval_ns: int = SECOND_NS
    queue_bytes_max: int = 512 << 20
    lanes: int = 2
    checkpoint_interval_ns: int = MINUTE_NS


class RecorderStats(msgspec.Struct, frozen=True):
    """A moment's numbers. ``slots_unindexed``: sealed, but recovery would still read them."""

    volumes: tuple[WriterStats, ...]
    cameras: int
    checkpoints: int
    slots_unindexed: int


class CameraWriter:
    """The recording end of one camera. submit() and submit_gap() may be called by one thread."""

    def __init__(
        self, index: CameraIndexWriter, uid: bytes, camera_id: str, retention: RetentionClass
    ) -> None:
        self._index = index
        self._closed = False
        self._wake: Callable[[], None] = lambda: None
        self._clock_ns: Callable[[], int] = lambda: 0
        self.stream = CameraStream(
            uid,
            camera_id,
            retention,
            self,
            next_sequence=index.last_stream_sequence + 1,
            last_end_ns=index.last_end_ns,
        )

    @property
    def last_end_ns(self) -> int:
        """End of the newest record submitted, or stored before; 0 = none ever. T2 goes on here."""
        return self.stream.last_end_ns

    @property
    def next_sequence(self) -> int:
        return self.stream.next_sequence

    @property
    def durable_head(self) -> int:
        """Index entries ever published: grows when records became visible."""
        return self._index.head

    def submit(self, fragment: Fragment, meta: FragmentMeta) -> bool:
        """Hand over a fragment; it is the recorder's from now on, also its memory.

        False: the queue is full, the fragment is still the caller's, who must release it and
        record a queue_full gap for its time. ``meta.start_ns`` must not lie before the start of
        the record before (T2). Raises RecorderStopped.
        """
        item = Pending(
            self.stream,
            0,
            meta.start_ns,
            meta.end_ns,
            fragment.payload_bytes,
            self._clock_ns(),
            fragment,
            meta,
        )
        return self._submit(item)

    def submit_gap(self, gap: Gap) -> bool:
        """Record a time without footage. False if even gaps have no room (try again later)."""
        if not gap.cause.stored:
            raise ValueError(f"{gap.cause.label} is reported by readers, never written")
        item = Pending(
            stream=self.stream,
            stream_sequence=0,
            start_ns=gap.start_ns,
            end_ns=gap.end_ns,
            nbytes=0,
            submitted_ns=self._clock_ns(),
            gap=gap,
        )
        return self._submit(item)

    def close(self) -> None:
        """Nothing more will come. What is queued is still written; the index closes by itself."""
        self._closed = True
        self._wake()

    def publish(self, records: Sequence[DurableRecord]) -> None:
        """For writer threads: make durable records visible."""
        self._index.append(
            [
                index_entry(one.volume_number, one.slot, one.generation, one.record)
                for one in records
            ]
        )

    def _submit(self, item: Pending) -> bool:
        stream = self.stream
        with stream.lock:
            if self._closed:
                raise RecorderStopped(f"camera {stream.camera_id}: submit after close")
            if item.start_ns < stream.last_start_ns or item.end_ns < item.start_ns:
                raise ValueError(
                    f"camera {stream.camera_id}: record [{item.start_ns}, {item.end_ns}) begins "
                    f"before its predecessor ({stream.last_start_ns}) or ends before it begins"
                )
            assert stream.writer is not None
            item.stream_sequence = stream.next_sequence
            if not stream.writer.push(item):
                return False
            stream.next_sequence += 1
            stream.last_start_ns = item.start_ns
            if item.end_ns > stream.last_end_ns:
                stream.last_end_ns = item.end_ns
            stream.bytes_submitted += item.nbytes
            return True


class Recorder:
    """See the module docstring. Methods may be called from any thread."""

    def __init__(
        self,
        store: Store,
        worker: int,
        clock: Clock,
        settings: RecorderSettings,
        on_event: Callable[[RecorderEvent], None],
    ) -> None:
        """``on_event`` is called on the recorder's threads: it must be quick and not raise."""
        self._store = store
        self._worker = worker
        self._clock = clock
        self._settings = settings
        self._on_event = on_event
        share = settings.queue_bytes_max // len(store.volumes)
        self._writers = [
            VolumeWriter(
                volume,
                worker=worker,
                lanes=settings.lanes,
                clock=clock,
                commit_interval_ns=settings.commit_interval_ns,
                queue_bytes_max=share,
                report=self._report,
                refuge=self._refuge,
            )
            for volume in store.volumes.values()
        ]
        self._pool = VolumePool(self._writers)
        self._lock = threading.Lock()
        self._cameras: dict[bytes, CameraWriter] = {}
        self._checkpoint: IndexCheckpoint[SlotKey] = IndexCheckpoint()
        self._adopted = AdoptedSlots(store, worker)
        self._checkpoints = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(
            target=self._run_checkpoints, name="checkpoint", daemon=True
        )

    def start(self) -> None:
        self._adopted.find()
        for writer in self._writers:
            writer.start()
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Drain, commit, seal, checkpoint twice. False if a disk did not finish in time; then the
        next start recovers what is missing. Call once."""
        with self._lock:
            self._stopping = True
            cameras = list(self._cameras.values())
        for camera in cameras:
            camera.close()
        deadline_ns = self._clock.monotonic_ns() + int(timeout_s * SECOND_NS)
        drained = True
        for writer in self._writers:
            left_s = max(deadline_ns - self._clock.monotonic_ns(), 0) / SECOND_NS
            drained = writer.stop(left_s) and drained
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(max(deadline_ns - self._clock.monotonic_ns(), SECOND_NS) / SECOND_NS)
        if not drained or self._thread.is_alive():
            return False
        return self._close_indexes()

    def open_camera(self, uid: bytes, camera_id: str, retention: RetentionClass) -> CameraWriter:
        """Open, or create, the camera's index and give it a volume.

        Raises RetentionMismatch, IndexBusy (another worker has it), IndexCorrupt, DiskError,
        RecorderStopped.
        """
        with self._lock:
            if self._stopping:
                raise RecorderStopped("the recorder is stopping")
            camera = self._cameras.get(uid)
            if camera is not None:
                self._reopen(camera, retention)
                return camera
            days = retention.target_days or max(retention.min_days, 1)
            index = self._open_index(uid, camera_id, days)
            camera = CameraWriter(index, uid, camera_id, retention)
            camera._wake = self._wake.set
            camera._clock_ns = self._clock.monotonic_ns
            try:
                writer = self._pool.assign(camera.stream)
            except StorageError:
                index.abandon()
                raise
            with camera.stream.lock:
                writer.adopt(camera.stream, ())
            self._cameras[uid] = camera
            return camera

    @property
    def writers(self) -> tuple[VolumeWriter, ...]:
        """One a volume; tests drive their tick() instead of start()."""
        return tuple(self._writers)

    def stats(self) -> RecorderStats:
        return RecorderStats(
            volumes=tuple(writer.stats() for writer in self._writers),
            cameras=len(self._cameras),
            checkpoints=self._checkpoints,
            slots_unindexed=self._checkpoint.waiting + len(self._adopted),
        )

    # ---- checkpoints --------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """One checkpoint (I5): index files durable, slots of the one before last INDEXED."""
        with self._lock:
            cameras = list(self._cameras.values())
        finished = self._checkpoint.run(camera._index for camera in cameras)
        self._set_indexed([*finished, *self._adopted.advance()])
        self._checkpoints += 1

    def _run_checkpoints(self) -> None:
        with contextlib.suppress(OSError):  # a wish, not a need: the disk queue decides
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        due_ns = self._clock.monotonic_ns() + self._settings.checkpoint_interval_ns
        while True:
            wait_ns = due_ns - self._clock.monotonic_ns()
            self._wake.wait(max(wait_ns, 0) / SECOND_NS)
            self._wake.clear()
            if self._stopping:
                return
            self._close_finished()
            if self._clock.monotonic_ns() < due_ns:
                continue
            due_ns = self._clock.monotonic_ns() + self._settings.checkpoint_interval_ns
            self._pool.rebalance(self._clock.monotonic_ns())
            try:
                self.checkpoint()
            except DiskError as error:
                self._report(DiskFault(-1, error.operation, error.errno or 0, str(error)))

    def _close_finished(self) -> None:
        """Close the indexes of cameras that were closed and have nothing waiting any more."""
        with self._lock:
            for uid, camera in list(self._cameras.items()):
                if camera._closed and camera.stream.idle:
                    self._forget(camera)
                    try:
                        camera._index.close()
                    except DiskError as error:
                        self._report(DiskFault(-1, error.operation, error.errno or 0, str(error)))
                    del self._cameras[uid]

    def _close_indexes(self) -> bool:
        """The clean stop's end: two checkpoints, so that nothing is left for recovery."""
        try:
            for _ in range(2):
                self.checkpoint()
        except DiskError as error:
            self._report(DiskFault(-1, error.operation, error.errno or 0, str(error)))
            return False
        finally:
            for camera in self._cameras.values():
                self._forget(camera)
                camera._index.abandon()
            self._cameras.clear()
        return True

    def _set_indexed(self, slots: Sequence[SlotKey]) -> None:
        touched = set()
        for number, slot, generation in slots:
            self._store.volumes[number].set_flags(slot, generation, TABLE_INDEXED)
            touched.add(number)
        for number in touched:
            self._store.volumes[number].sync_table()

    # ---- helpers ------------------------------------------------------------------------------

    def _open_index(self, uid: bytes, camera_id: str, days: int) -> CameraIndexWriter:
        for _ in range(INDEX_BUSY_ATTEMPTS - 1):
            try:
                return self._store.index_writer(uid, camera_id, days=days)
            except IndexBusy:  # a checkpoint of slots left over holds it for milliseconds
                time.sleep(INDEX_BUSY_PAUSE_S)
        return self._store.index_writer(uid, camera_id, days=days)

    def _reopen(self, camera: CameraWriter, retention: RetentionClass) -> None:
        stream = camera.stream
        if not camera._closed:
            raise ValueError(f"camera {stream.camera_id} is open already")
        with stream.lock:
            assert stream.writer is not None
            stream.writer.volume.check_retention(retention)
            if retention != stream.retention:
                stream.retention = retention
                stream.lane = None
            camera._closed = False

    def _forget(self, camera: CameraWriter) -> None:
        self._pool.forget(camera.stream)
        if camera.stream.writer is not None:
            camera.stream.writer.forget(camera.stream)

    def _refuge(self, stream: CameraStream, away_from: VolumeWriter) -> VolumeWriter | None:
        return self._pool.refuge(stream, away_from)

    def _report(self, event: RecorderEvent) -> None:
        if isinstance(event, SlotSealed):
            self._checkpoint.sealed((event.volume_number, event.slot, event.generation))
        self._on_event(event)
