"""An ingest worker: ``python -m gateway.ingest.worker``, started by the supervisor alone.

Owns one event loop, one memory pool, one receive area, one Recorder and the sessions of its
cameras (docs/design/processes.md). Turns the desired state it is sent into running sessions.
Never reads the registry or the configuration again after its start, and never touches a slot or a
camera of another worker (V10).

- Applying a desired state disturbs only the feeds that differ (G6).
- One feed's failure ends in its session; one camera whose index cannot be opened is tried again
  and harms no other.
- A stop, or the end of the supervisor, drains: sessions leave, the recorder commits and seals
  (G4).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from cext.arena import ArenaPool
from cext.interleaved import ReceiveArea
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.ingest.assign import difference
from gateway.ingest.children import bind_to_parent, child_arguments
from gateway.ingest.control import (
    Answer,
    Assign,
    AuditAppend,
    Channel,
    ControlError,
    Request,
    StopWorker,
    WorkerFault,
    WorkerReady,
    WorkerSnapshot,
    open_fd,
)
from gateway.ingest.model import CameraSpec, FeedEvent, FeedEventKind, FeedSettings
from gateway.ingest.session import FeedSession
from gateway.ingest.status import WorkerState
from gateway.installation import Installation, open_store
from gateway.limits import (
    ARENA_OPEN_BYTES_MAX,
    CHECK_TICKS,
    REOPEN_INTERVAL_S,
    SEALS_WAITING_MAX,
    SNAPSHOT_FEEDS_MAX,
    SNAPSHOT_INTERVAL_LONG_S,
    SNAPSHOT_INTERVAL_S,
    STOP_TIME_MAX_S,
    TICK_SLICES,
)
from gateway.net.tcp import drain
from gateway.telemetry.log import configure_logging, get_logger, lines_suppressed
from storage.audit.events import SlotSealed as SealEvent
from storage.audit.events import encode_event
from storage.base.clock import SystemClock
from storage.base.gap import GapCause
from storage.base.retention import BUILT_IN
from storage.errors import StorageError
from storage.recorder import (
    CameraWriter,
    DiskFault,
    Recorder,
    RecorderEvent,
    RecorderSettings,
    SlotSealed,
    VolumeFullAlarm,
    WriterFailed,
)

log = get_logger(__name__)

MS_NS = 1_000_000
# Of the stop time: what sessions and recorder may take, the rest is the supervisor's.
_STOP_RECORDER_S = STOP_TIME_MAX_S - 4.0
_GC_THRESHOLDS = (20_000, 50, 100)
_QUIET = frozenset({FeedEventKind.PLAYING, FeedEventKind.RECOVERED, FeedEventKind.CONFIG_CHANGED})


@dataclass(slots=True)
class _Feed:
    """A camera that should run: what it is, its task, and its session once there is one."""

    spec: CameraSpec
    task: asyncio.Task[None]


class Worker:
    """One worker's life. Build it on its loop, then ``await run()``."""

    def __init__(self, installation: Installation, number: int, workers: int, fd: int) -> None:
        config = installation.config
        self._number = number
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._failed = False
        self._store = open_store(installation, write=True)
        self._clock = SystemClock(self._store.mark())
        self._settings = feed_settings(config)
        self._pool = ArenaPool(config.storage.queue_bytes_max + ARENA_OPEN_BYTES_MAX)
        self._area = ReceiveArea()
        self._recorder = Recorder(
            self._store,
            number,
            self._clock,
            RecorderSettings(
                commit_interval_ns=config.storage.commit_interval_ms * MS_NS,
                queue_bytes_max=config.storage.queue_bytes_max,
                lanes=config.storage.lanes,
            ),
            self._on_recorder_event,
        )
        self._feeds: dict[str, _Feed] = {}
        self._sessions: dict[str, FeedSession] = {}
        self._slices: list[list[FeedSession]] = [[] for _ in range(TICK_SLICES)]
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._assigned = False
        self._stagger_s = workers / config.ingest.stagger_per_s
        self._next_start_s = 0.0
        self._seals: asyncio.Queue[SealEvent] = asyncio.Queue(maxsize=SEALS_WAITING_MAX)
        self._lag_ns = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._supervisor: Channel | None = None

    async def run(self) -> int:
        """Until told to stop; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        supervisor = self._supervisor = await open_fd(self._fd, self._handle)
        self._recorder.start()
        _quiet_gc()
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            link = group.create_task(self._listen(supervisor))
            helpers = [
                group.create_task(self._tick_for_ever()),
                group.create_task(self._tell_for_ever(supervisor)),
                group.create_task(self._audit_for_ever(supervisor)),
            ]
            await supervisor.notify(WorkerReady(self._number, os.getpid()))
            await self._stop.wait()
            await self._stop_feeds()
            drained = await asyncio.to_thread(self._recorder.stop, _STOP_RECORDER_S)
            if not drained:
                log.error("drain_incomplete", worker=self._number)
            # What the recorder reported from its threads is in the loop's queue by now.
            await asyncio.sleep(0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._seals.join(), timeout=1.0)
            for task in (*helpers, link):
                task.cancel()
        self._store.close()
        return 1 if self._failed or not drained else 0

    # ---- the supervisor -----------------------------------------------------------------------

    async def _listen(self, supervisor: Channel) -> None:
        try:
            await supervisor.run()
        except ControlError as error:
            log.error("control_broken", error=str(error))
        # Stopped or gone: either way nobody wants us any more.
        self._stop.set()

    async def _handle(self, channel: Channel, body: Request) -> Answer | None:
        del channel
        match body:
            case Assign():
                self._apply(body)
            case StopWorker():
                self._stop.set()
            case _:
                log.warning("unexpected_message", message=type(body).__name__)
        return None

    async def _tell_for_ever(self, supervisor: Channel) -> None:
        while True:
            long = len(self._sessions) > SNAPSHOT_FEEDS_MAX
            await asyncio.sleep(SNAPSHOT_INTERVAL_LONG_S if long else SNAPSHOT_INTERVAL_S)
            with contextlib.suppress(ControlError):  # _listen sees the same and stops us
                await supervisor.notify(self.snapshot())

    def snapshot(self) -> WorkerSnapshot:
        """Everything this worker knows of itself now."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        lag_ns, self._lag_ns = self._lag_ns, 0
        return WorkerSnapshot(
            utc_ns=self._clock.utc_ns(),
            feeds=[session.status() for session in self._sessions.values()],
            state=WorkerState(
                pid=os.getpid(),
                cpu_s=usage.ru_utime + usage.ru_stime,
                rss_bytes=_resident_bytes(),
                loop_lag_ns=lag_ns,
                arena_bytes=self._pool.bytes_in_use,
                arena_spare_bytes=self._pool.bytes_spare,
                arena_exhausted=self._pool.exhausted_count,
                log_lines_suppressed=lines_suppressed(),
                recorder=self._recorder.stats(),
            ),
        )

    async def _audit_for_ever(self, supervisor: Channel) -> None:
        while True:
            seal = await self._seals.get()
            try:
                await supervisor.request(AuditAppend(msgspec.Raw(encode_event(seal))))
            except GatewayError as error:
                # Not lost: the next start compares sealed slots with the log and enters it.
                log.error("seal_not_entered", slot=seal.slot, code=error.code, error=str(error))
            finally:
                self._seals.task_done()

    # ---- desired state ------------------------------------------------------------------------

    def _apply(self, assign: Assign) -> None:
        desired = {camera.id: camera for camera in assign.cameras}
        running = {camera_id: feed.spec for camera_id, feed in self._feeds.items()}
        change = difference(running, desired)
        for camera_id in (*change.stop, *change.restart):
            self._end(camera_id)
        for camera_id in (*change.start, *change.restart):
            known_before = camera_id in change.restart or not self._assigned
            self._begin(
                desired[camera_id],
                GapCause.RECORDER_RESTART if known_before else GapCause.DISABLED,
            )
        self._assigned = True
        log.info(
            "assigned",
            revision=assign.revision,
            cameras=len(desired),
            started=len(change.start),
            stopped=len(change.stop),
            restarted=len(change.restart),
        )

    def _begin(self, spec: CameraSpec, resume_cause: GapCause) -> None:
        assert self._tasks is not None
        now_s = self._loop.time()
        self._next_start_s = max(now_s, self._next_start_s + self._stagger_s)
        task = self._tasks.create_task(
            self._run_feed(
                spec, resume_cause, self._next_start_s - now_s, self._ending.get(spec.id)
            )
        )
        self._feeds[spec.id] = _Feed(spec, task)

    def _end(self, camera_id: str) -> None:
        task = self._feeds.pop(camera_id).task
        task.cancel()
        self._ending[camera_id] = task
        task.add_done_callback(lambda done: self._forget_ending(camera_id, done))

    def _forget_ending(self, camera_id: str, task: asyncio.Task[None]) -> None:
        if self._ending.get(camera_id) is task:
            del self._ending[camera_id]

    async def _run_feed(
        self,
        spec: CameraSpec,
        resume_cause: GapCause,
        delay_s: float,
        before: asyncio.Task[None] | None,
    ) -> None:
        """One camera from its turn to start until its task is cancelled."""
        if before is not None:
            await asyncio.wait({before})
        await asyncio.sleep(delay_s)
        writer = await self._open(spec)
        session = FeedSession(
            spec,
            area=self._area,
            pool=self._pool,
            sink=writer,
            clock=self._clock,
            settings=self._settings,
            report=self._on_feed_event,
            resume_cause=resume_cause,
        )
        self._sessions[spec.id] = session
        self._slice_sessions()
        try:
            await session.run()
        finally:
            if self._sessions.get(spec.id) is session:
                del self._sessions[spec.id]
                self._slice_sessions()
            writer.close()

    async def _open(self, spec: CameraSpec) -> CameraWriter:
        """The camera's writer; as long as it cannot be had, an error in the log now and then."""
        retention = BUILT_IN[spec.retention]
        while True:
            opening = asyncio.ensure_future(
                asyncio.to_thread(self._recorder.open_camera, spec.uid, spec.id, retention)
            )
            try:
                return await asyncio.shield(opening)
            except StorageError as error:
                log.error("camera_not_opened", camera=spec.id, error=str(error))
            except asyncio.CancelledError:
                # The thread goes on: what it opens must be closed, or it could not be opened again.
                with contextlib.suppress(StorageError):
                    (await opening).close()
                raise
            await asyncio.sleep(REOPEN_INTERVAL_S)

    async def _stop_feeds(self) -> None:
        for camera_id in list(self._feeds):
            self._end(camera_id)
        if self._ending:
            await asyncio.wait(list(self._ending.values()))

    # ---- time ---------------------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        """Every tick interval each session once, a slice at a time."""
        interval_s = self._settings.tick_interval_ns / 1e9 / TICK_SLICES
        due_s = self._loop.time()
        turn = 0
        while True:
            due_s += interval_s
            now_s = self._loop.time()
            if due_s > now_s:
                await asyncio.sleep(due_s - now_s)
            else:
                self._lag_ns = max(self._lag_ns, int((now_s - due_s) * 1e9))
                # Late by more than a whole tick: go on from now, make up for nothing.
                due_s = max(due_s, now_s - interval_s * TICK_SLICES)
                await asyncio.sleep(0)
            self._tick(turn)
            turn += 1

    def _tick(self, turn: int) -> None:
        """One slice: read it, and look after it every CHECK_TICKS-th time."""
        sessions = self._slices[turn % TICK_SLICES]
        now_ns = self._clock.utc_ns()
        drain([p for session in sessions if (p := session.protocol) is not None], now_ns)
        if turn // TICK_SLICES % CHECK_TICKS == 0:
            for session in list(sessions):
                session.check(now_ns)

    def _slice_sessions(self) -> None:
        sessions = list(self._sessions.values())
        self._slices = [sessions[number::TICK_SLICES] for number in range(TICK_SLICES)]

    # ---- what others report -------------------------------------------------------------------

    def _on_feed_event(self, event: FeedEvent) -> None:
        level = log.info if event.kind in _QUIET else log.warning
        if event.kind is FeedEventKind.INTERNAL_ERROR:
            level = log.error
        level(
            f"feed_{event.kind.value}",
            camera=event.camera_id,
            cause=event.cause.label if event.cause else None,
            code=event.code,
            text=event.text,
        )

    def _on_recorder_event(self, event: RecorderEvent) -> None:
        """On a thread of the recorder."""
        self._loop.call_soon_threadsafe(self._take_recorder_event, event)

    def _take_recorder_event(self, event: RecorderEvent) -> None:
        if isinstance(event, SlotSealed):
            try:
                self._seals.put_nowait(self._seal_of(event))
            except asyncio.QueueFull:
                log.error("seal_not_entered", slot=event.slot, code="QUEUE_FULL")
            return
        name = type(event).__name__
        if isinstance(event, VolumeFullAlarm):
            log.error("volume_full", volume=event.volume_number, text=str(event.facts))
            self._tell_fault("VOLUME_FULL", event.volume_number, str(event.facts))
        else:
            log.warning("recorder_event", kind=name, **_plain(event))
        if isinstance(event, DiskFault):
            text = f"{event.operation}: {event.detail}"
            self._tell_fault("DISK_ERROR", max(event.volume_number, 0), text)
        if isinstance(event, WriterFailed):
            # A mistake of ours: this process must not go on recording (the supervisor restarts it).
            self._failed = True
            self._stop.set()

    def _tell_fault(self, code: str, volume: int, text: str) -> None:
        async def tell() -> None:
            assert self._supervisor is not None
            with contextlib.suppress(ControlError):  # _listen sees the same and stops us
                await self._supervisor.notify(WorkerFault(self._clock.utc_ns(), code, volume, text))

        assert self._tasks is not None
        self._tasks.create_task(tell())

    def _seal_of(self, event: SlotSealed) -> SealEvent:
        return SealEvent(
            time_ns=self._clock.utc_ns(),
            volume_uuid=event.volume_uuid,
            slot=event.slot,
            generation=event.generation,
            seal=event.seal,
            record_count=event.record_count,
            first_ns=event.first_ns,
            newest_ns=event.newest_ns,
        )


def _plain(event: RecorderEvent) -> dict[str, object]:
    return {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in msgspec.structs.asdict(event).items()
    }


def feed_settings(config: Config) -> FeedSettings:
    """What sessions need of the configuration."""
    ingest = config.ingest
    return FeedSettings(
        connect_timeout_s=ingest.connect_timeout_s,
        handshake_timeout_s=ingest.connect_timeout_s,
        stall_timeout_s=ingest.stall_timeout_s,
        retry_first_s=ingest.retry_first_s,
        retry_max_s=ingest.retry_max_s,
        commit_interval_ns=config.storage.commit_interval_ms * MS_NS,
        rcvlowat_bytes_max=ingest.rcvlowat_bytes_max,
        user_agent=ingest.user_agent,
    )


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _quiet_gc() -> None:
    """What exists now lives for ever, and what feeds make is freed by counting."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _raise_file_limit() -> None:
    """A socket and an index a camera: the usual soft limit of 1024 is soon reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(installation: Installation, number: int, workers: int, fd: int) -> int:
    return await Worker(installation, number, workers, fd).run()


def main(argv: Sequence[str]) -> int:
    """Run one worker; its exit status."""
    arguments = child_arguments(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bind_to_parent(int(arguments["parent-pid"]))
    number = int(arguments["worker"])
    installation = Installation.load(Path(arguments["config"]))
    configure_logging(arguments["log-level"], installation.config.log.format, f"worker-{number}")
    _raise_file_limit()
    fd = int(arguments["control-fd"])
    return uvloop.run(_run(installation, number, int(arguments["workers"]), fd))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
