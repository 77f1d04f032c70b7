"""The supervisor of ``serve``: desired state, children, audit log, trusted time.

Owns the loop that keeps N workers and the API process running, answers the control socket, and
stops all in order (docs/design/processes.md: start steps 6-7, stop, "When one dies"). Never opens
a camera and never reads footage. What it works on (store, audit log, registry, sockets) is opened
by ``gateway/app.py``, which runs the steps before.

Everything that may block (fsync of the audit log, recovery, the registry) runs on threads; the
log has one thread of its own, so that its entries are in the order asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.errors import GatewayError
from gateway.ingest.assign import partition
from gateway.ingest.children import Child, ChildSpec, Spawned
from gateway.ingest.control import (
    Accepted,
    Answer,
    Applied,
    Assign,
    AuditAppend,
    AuditAppended,
    Channel,
    ControlError,
    RegistryChanged,
    Request,
    StatusQuery,
    StatusReport,
    StopServe,
    StopWorker,
    WorkerFault,
    WorkerReady,
    WorkerSnapshot,
    WorkerView,
    listen,
)
from gateway.ingest.model import CameraSpec
from gateway.ingest.registry import Camera
from gateway.limits import (
    FAULTS_KEPT_MAX,
    REGISTRY_POLL_S,
    STOP_TIME_MAX_S,
    TRUSTED_INTERVAL_S,
)
from gateway.telemetry.log import get_logger

log = get_logger(__name__)

# What is left for the supervisor itself after the last child was killed.
_STOP_OWN_S = 1.0
# The API is started when every worker is ready, or has had this long to become it.
_WORKERS_FIRST_MAX_S = 5.0


class Backend(Protocol):
    """What the supervisor needs done that is not its own: synchronous, called on threads."""

    def append_audit(self, event: bytes) -> int:
        """Enter an encoded event; returns its index once durable."""
        ...

    def recover_worker(self, worker: int) -> str:
        """Recover the open slots of a worker that died; what was found, for the log.

        Raises GatewayError when it is not done.
        """
        ...

    def persist_trusted(self) -> None:
        """Write trusted time to every volume."""
        ...

    def desired(self) -> tuple[int, list[Camera]]:
        """Revision of the registry and the cameras to record."""
        ...

    def revision(self) -> int:
        """Revision of the registry alone."""
        ...

    def utc_ns(self) -> int:
        """Our clock."""
        ...

    def clock_synchronised(self) -> bool:
        """False while UTC and our clock differ by a step."""
        ...


@dataclass(frozen=True, slots=True)
class ServePlan:
    """What to run. ``lock_fd`` and ``http_fd`` are inherited by the children that need them."""

    config_file: Path
    workers: int
    control_socket: Path
    lock_fd: int
    http_fd: int
    http_address: str
    recovery: str
    log_level: str


def spawn_workers(plan: ServePlan) -> list[Spawned]:
    """Start loading the workers while the store is still being opened and recovered (step 4).

    They wait at their gates for the Supervisor they are given to; without one, abandon them.
    """
    return [Spawned(_worker_spec(plan, number)) for number in range(plan.workers)]


class Supervisor:
    """One run of ``serve``. Build it, then ``await run()``.

    ``spawned``: what ``spawn_workers`` made of the same plan; nothing: they are started by run.
    """

    def __init__(self, plan: ServePlan, backend: Backend, spawned: Sequence[Spawned] = ()) -> None:
        self._plan = plan
        self._backend = backend
        self._started_ns = backend.utc_ns()
        self._stop = asyncio.Event()
        self._audit_thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._parts: list[list[CameraSpec]] = [[] for _ in range(plan.workers)]
        self._revision = 0
        self._reconciling = asyncio.Lock()
        self._snapshots: list[WorkerSnapshot | None] = [None] * plan.workers
        self._ready: list[bool] = [False] * plan.workers
        self._faults: deque[WorkerFault] = deque(maxlen=FAULTS_KEPT_MAX)
        self._all_ready = asyncio.Event()
        assert len(spawned) in (0, plan.workers), spawned
        self._workers = [
            self._worker_child(number, first)
            for number, first in enumerate(spawned or [None] * plan.workers)
        ]
        self._api = self._api_child()

    async def run(self) -> None:
        """Serve until SIGINT, SIGTERM or StopServe, then stop everything within STOP_TIME_MAX_S."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        server = await listen(self._plan.control_socket, self._handle, _broken)
        try:
            async with asyncio.TaskGroup() as group:
                await self._reconcile()
                keepers = [group.create_task(worker.keep()) for worker in self._workers]
                keepers.append(group.create_task(self._keep_api()))
                housekeeping = [
                    group.create_task(self._every(REGISTRY_POLL_S, self._poll_registry)),
                    group.create_task(self._every(TRUSTED_INTERVAL_S, self._persist_trusted)),
                ]
                await self._stop.wait()
                log.info("stopping")
                await self._stop_children(keepers)
                for task in housekeeping:
                    task.cancel()
        finally:
            server.close()
            self._plan.control_socket.unlink(missing_ok=True)
            await self._persist_trusted()
            self._audit_thread.shutdown(wait=True)
            log.info("stopped")

    # ---- children -----------------------------------------------------------------------------

    async def _keep_api(self) -> None:
        """Recording comes first: two processes that load at once delay each other."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WORKERS_FIRST_MAX_S):
                await self._all_ready.wait()
        await self._api.keep()

    def _worker_child(self, number: int, first: Spawned | None) -> Child:
        async def handle(channel: Channel, body: Request) -> Answer | None:
            return await self._handle_worker(number, channel, body)

        async def between() -> bool:
            self._ready[number] = False
            self._snapshots[number] = None
            try:
                found = await asyncio.to_thread(self._backend.recover_worker, number)
            except GatewayError as error:
                # Without recovery nothing may be recorded there; the others go on meanwhile.
                log.error("not_recovered", worker=number, code=error.code, error=str(error))
                return False
            log.warning("worker_recovered", worker=number, found=found)
            return True

        return Child(_worker_spec(self._plan, number), handle, between, first)

    def _api_child(self) -> Child:
        async def between() -> bool:
            return True

        spec = ChildSpec(
            name="api",
            module="gateway.api.__main__",
            arguments=(
                f"--config={self._plan.config_file}",
                f"--http-fd={self._plan.http_fd}",
                f"--log-level={self._plan.log_level}",
            ),
            fds=(self._plan.lock_fd, self._plan.http_fd),
        )
        return Child(spec, self._handle, between)

    async def _stop_children(self, keepers: list[asyncio.Task[None]]) -> None:
        children = [*self._workers, self._api]
        for child in children:
            child.stop()
        self._all_ready.set()  # or an API that was not started yet would be waited for
        self._api.terminate()
        for worker in self._workers:
            await _tell(worker, StopWorker())
        _, late = await asyncio.wait(keepers, timeout=STOP_TIME_MAX_S - _STOP_OWN_S)
        if late:
            for child in children:
                child.kill()
            await asyncio.wait(late)

    # ---- the control protocol -----------------------------------------------------------------

    async def _handle_worker(self, number: int, channel: Channel, body: Request) -> Answer | None:
        match body:
            case WorkerReady():
                log.info("worker_ready", worker=number, pid=body.pid)
                self._ready[number] = True
                if all(self._ready):
                    self._all_ready.set()
                await channel.notify(Assign(self._revision, self._parts[number]))
                return None
            case WorkerSnapshot():
                self._snapshots[number] = body
                return None
            case WorkerFault():
                self._faults.append(body)
                log.error("worker_fault", worker=number, code=body.code, message=body.message)
                return None
            case _:
                return await self._handle(channel, body)

    async def _handle(self, channel: Channel, body: Request) -> Answer | None:
        match body:
            case AuditAppend():
                return AuditAppended(await self._append_audit(bytes(body.event)))
            case StatusQuery():
                return self.report()
            case RegistryChanged():
                return Applied(await self._reconcile())
            case StopServe():
                self._stop.set()
                return Accepted()
            case _:
                raise ControlError(
                    f"{type(body).__name__} is for workers", remedy="use the documented commands"
                )

    async def _append_audit(self, event: bytes) -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._audit_thread, self._backend.append_audit, event)

    def report(self) -> StatusReport:
        """What there is to know now; URLs redacted (G7)."""
        return StatusReport(
            pid=os.getpid(),
            started_ns=self._started_ns,
            utc_ns=self._backend.utc_ns(),
            revision=self._revision,
            http_address=self._plan.http_address,
            workers=[
                WorkerView(number, child.pid, child.restarts, snapshot)
                for number, (child, snapshot) in enumerate(
                    zip(self._workers, self._snapshots, strict=True)
                )
            ],
            faults=list(self._faults),
            recovery=self._plan.recovery,
            clock_synchronised=self._backend.clock_synchronised(),
            api_restarts=self._api.restarts,
        )

    # ---- desired state ------------------------------------------------------------------------

    async def _reconcile(self) -> int:
        """Read the registry and send each worker whose part changed all of it; the revision."""
        async with self._reconciling:
            revision, cameras = await asyncio.to_thread(self._backend.desired)
            parts = [
                [spec_of(camera) for camera in part]
                for part in partition(cameras, self._plan.workers)
            ]
            changed = [number for number, part in enumerate(parts) if part != self._parts[number]]
            self._parts, self._revision = parts, revision
            for number in changed:
                # A worker that is not ready yet gets it when it says so.
                if self._ready[number]:
                    await _tell(self._workers[number], Assign(revision, parts[number]))
            return revision

    async def _poll_registry(self) -> None:
        if await asyncio.to_thread(self._backend.revision) != self._revision:
            await self._reconcile()

    async def _persist_trusted(self) -> None:
        await asyncio.to_thread(self._backend.persist_trusted)

    async def _every(self, interval_s: float, action: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again; what fails is said and tried again next time."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await action()
            except GatewayError as error:
                log.error("housekeeping_failed", code=error.code, error=str(error))


def _worker_spec(plan: ServePlan, number: int) -> ChildSpec:
    return ChildSpec(
        name=f"worker-{number}",
        module="gateway.ingest.worker",
        arguments=(
            f"--config={plan.config_file}",
            f"--worker={number}",
            f"--workers={plan.workers}",
            f"--log-level={plan.log_level}",
        ),
        fds=(plan.lock_fd,),
    )


async def _tell(child: Child, body: Request) -> None:
    channel = child.channel
    if channel is None:
        return
    try:
        await channel.notify(body)
    except ControlError as error:
        # It is dying: its keeper sees that, and a new one is sent everything anyway.
        log.warning("notice_lost", child=child.spec.name, error=str(error))


def _broken(error: ControlError) -> None:
    log.warning("control_connection_broken", error=str(error))


def spec_of(camera: Camera) -> CameraSpec:
    """What a worker needs to know of a camera."""
    return CameraSpec(
        id=camera.id,
        uid=camera.uid,
        url=camera.url,
        transport=camera.transport,
        retention=camera.retention,
    )
