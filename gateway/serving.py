"""``serve``, wired together: start steps 1 to 6 of docs/design/processes.md, then the supervisor.

Owns the order of opening and closing, and what the supervisor has done by storage (Backend).
Decides nothing after the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from gateway.errors import GatewayError
from gateway.ingest.children import Spawned
from gateway.ingest.registry import Camera, SqliteRegistry
from gateway.ingest.supervisor import ServePlan, Supervisor, spawn_workers
from gateway.installation import (
    AlreadyServing,
    Installation,
    ServeLock,
    holder_description,
    holder_is_alive,
    open_store,
)
from gateway.limits import STOP_TIME_MAX_S
from gateway.problem import explain
from gateway.telemetry.log import configure_logging, get_logger
from storage.audit.events import (
    AuditEvent,
    LogTailTruncated,
    Recovered,
    SlotSealed,
    decode_event,
)
from storage.audit.log import AuditLog, TornTail
from storage.base.clock import SystemClock
from storage.base.disk import BLOCK_BYTES
from storage.errors import RecordInvalid, StorageError
from storage.store import RecoveryReport, Store, recover
from storage.volume.format import SLOT_SEALED
from storage.volume.volume import Volume

log = get_logger(__name__)

_LOCK_POLL_S = 0.1
_HTTP_BACKLOG = 1024
_SEALS_JOIN_S = 5.0
_SEALS_CLOSING_MAX = 10_000  # so few are compared and entered also while we stop

_SlotKey = tuple[bytes, int, int]  # volume uuid, slot, generation


class AddressUnusable(GatewayError):
    """The API cannot listen where the configuration says."""

    code = "HTTP_ADDRESS"


def serve_installation(config_file: Path, workers: int | None) -> None:
    """Run until told to stop. Raises what keeps it from starting, all of it typed."""
    installation = Installation.load(config_file)
    config = installation.config
    configure_logging(config.log.level, config.log.format, "supervisor")
    installation.verify_key()
    with contextlib.ExitStack() as opened:
        lock = ServeLock(installation.paths.run)
        _acquire(lock, installation)
        opened.callback(lock.release)
        listener = _listen(config.server.http_host, config.server.http_port)
        opened.enter_context(listener)
        host, port = listener.getsockname()[:2]
        plan = ServePlan(
            config_file=installation.paths.config,
            workers=workers or config.server.workers,
            control_socket=installation.control_socket,
            lock_fd=lock.fd,
            http_fd=listener.fileno(),
            http_address=f"http://{f'[{host}]' if ':' in host else host}:{port}",
            recovery="",
            log_level=config.log.level,
        )
        # They load while we recover, and touch nothing before the supervisor lets them go (G3).
        spawned = spawn_workers(plan)
        unwind = opened.enter_context(contextlib.ExitStack())
        for worker in spawned:
            unwind.callback(worker.abandon)
        store = opened.enter_context(open_store(installation, write=True))
        clock = SystemClock(store.mark())
        audit = opened.enter_context(_open_audit(installation, clock))
        registry = opened.enter_context(installation.registry())
        backend = _Backend(store, audit, registry, clock)
        opened.callback(backend.close)
        plan = replace(plan, recovery=backend.recover_all())
        for volume in store.volumes.values():
            volume.begin_serving()
        log.info("serving", http=plan.http_address, workers=plan.workers, trial=installation.trial)
        unwind.pop_all()
        try:
            asyncio.run(_supervise(plan, backend, spawned))
        except ExceptionGroup as group:
            # One cause: say that one. More, or a mistake of ours: show all.
            if len(group.exceptions) == 1 and explain(group.exceptions[0]) is not None:
                raise group.exceptions[0] from None
            raise


async def _supervise(plan: ServePlan, backend: _Backend, spawned: Sequence[Spawned]) -> None:
    await Supervisor(plan, backend, spawned).run()


def _acquire(lock: ServeLock, installation: Installation) -> None:
    """Wait for orphans of a supervisor that was killed; refuse beside a living one (G1)."""
    me = holder_description(time.time_ns())
    deadline = time.monotonic() + STOP_TIME_MAX_S
    told = False
    while (holder := lock.try_acquire(me)) is not None:
        alive = holder_is_alive(holder)
        if alive or time.monotonic() >= deadline:
            detail = holder if alive else f"processes left by {holder}"
            raise AlreadyServing(
                f"{installation.paths.root}: another `ringvault serve` runs here: {detail}",
                remedy="stop it first; one installation is served once",
            )
        if not told:
            log.warning("waiting_for_orphans", left_by=holder)
            told = True
        time.sleep(_LOCK_POLL_S)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_HTTP_BACKLOG)
    except OSError as error:
        raise AddressUnusable(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            remedy="free the port, or change server.http_host and server.http_port",
        ) from error


def _open_audit(installation: Installation, clock: SystemClock) -> AuditLog:
    torn: list[TornTail] = []
    audit = AuditLog.open(installation.paths.audit, torn.append)
    for tail in torn:
        audit.append(
            LogTailTruncated(
                time_ns=clock.utc_ns(),
                entry=tail.entry,
                offset_bytes=tail.offset_bytes,
                removed_bytes=tail.removed_bytes,
            )
        )
    return audit


class _Backend:
    """What the supervisor has done by storage. Called on threads; see supervisor.Backend."""

    def __init__(
        self, store: Store, audit: AuditLog, registry: SqliteRegistry, clock: SystemClock
    ) -> None:
        self._store = store
        self._audit = audit
        self._registry = registry
        self._clock = clock
        self._entering: list[threading.Thread] = []
        self._closing = threading.Event()

    def append_audit(self, event: bytes) -> int:
        try:
            decoded = decode_event(event)
        except ValueError as error:
            raise _BadEvent(str(error), remedy="all processes must run the same version") from error
        return self._append(decoded)

    def _append(self, event: AuditEvent) -> int:
        try:
            return self._audit.append(event)
        except StorageError as error:
            raise _AuditFailed(str(error), remedy="check the disk of the audit log") from error

    def recover_all(self) -> str:
        """Start steps 4 and 5; a summary for people."""
        report = recover(self._store, self._clock)
        self._enter_missing_seals(self._sealed_slots(worker=None))
        summary = _summary(report)
        if report.slots:
            self._audit.append(_event(report, self._clock.utc_ns(), summary))
        _tell(report, "recovered", worker=None)
        return summary

    def recover_worker(self, worker: int) -> str:
        try:
            report = recover(self._store, self._clock, worker=worker)
        except StorageError as error:
            raise _NotRecovered(str(error), remedy="check that volume's disk") from error
        # Its own slots only: another worker's seal may be on its way into the log just now.
        self._enter_missing_seals(self._sealed_slots(worker=worker))
        summary = _summary(report)
        self._append(_event(report, self._clock.utc_ns(), f"worker {worker}: {summary}"))
        _tell(report, "recovered_worker", worker=worker)
        return summary

    def close(self) -> None:
        """Wait a while for seals being entered; what is left the next start enters."""
        self._closing.set()
        for thread in self._entering:
            thread.join(_SEALS_JOIN_S)

    def _sealed_slots(self, *, worker: int | None) -> dict[_SlotKey, Volume]:
        """Every sealed slot, of one worker or of all. Nobody seals one of them meanwhile."""
        found: dict[_SlotKey, Volume] = {}
        for volume in self._store.volumes.values():
            entries = volume.table.entries
            sealed = entries["state"] == SLOT_SEALED
            if worker is not None:
                sealed = sealed & (entries["worker"] == worker)
            for slot in np.flatnonzero(sealed).tolist():
                found[volume.uuid, slot, int(entries["generation"][slot])] = volume
        return found

    def _enter_missing_seals(self, sealed: dict[_SlotKey, Volume]) -> None:
        """Enter the seals the log lacks: those made by recovery, or while nobody could be told.

        On a thread of its own: the log of a month takes minutes to read, and no camera waits for
        that.
        """
        thread = threading.Thread(
            target=self._compare_seals, args=(sealed,), name="seals", daemon=True
        )
        self._entering = [one for one in self._entering if one.is_alive()] + [thread]
        thread.start()

    def _compare_seals(self, missing: dict[_SlotKey, Volume]) -> None:
        try:
            for entry in self._audit.entries():
                if self._closing.is_set() and len(missing) > _SEALS_CLOSING_MAX:
                    return
                if (seal := _sealed_slot(entry.data)) is not None:
                    key = (bytes.fromhex(seal.volume_uuid), seal.slot, seal.generation)
                    missing.pop(key, None)
            for (_, slot, generation), volume in missing.items():
                self._enter_seal(volume, slot, generation)
        except (StorageError, GatewayError) as error:
            log.error("seals_not_entered", left=len(missing), error=str(error))

    def _enter_seal(self, volume: Volume, slot: int, generation: int) -> None:
        try:
            footer = volume.read_footer(slot, generation)
        except RecordInvalid as error:
            log.error("footer_unreadable", volume=volume.number, slot=slot, error=str(error))
            return
        self._append(
            SlotSealed(
                time_ns=footer.sealed_ns,
                volume_uuid=volume.uuid,
                slot=slot,
                generation=generation,
                seal=footer.seal,
                record_count=len(footer.entries),
                first_ns=footer.first_ns,
                newest_ns=footer.newest_ns,
            )
        )

    def persist_trusted(self) -> None:
        for step in self._clock.take_steps():
            log.error("clock_step", step_ms=step.step_ns // 1_000_000, taken=step.taken)
        try:
            self._store.persist_trusted(self._clock.mark())
        except StorageError as error:
            raise _TrustedFailed(str(error), remedy="check that volume's disk") from error

    def desired(self) -> tuple[int, list[Camera]]:
        revision = self._registry.revision()
        return revision, self._registry.cameras()

    def revision(self) -> int:
        return self._registry.revision()

    def utc_ns(self) -> int:
        return self._clock.utc_ns()

    def clock_synchronised(self) -> bool:
        return self._clock.synchronised


class _SealedSlot(msgspec.Struct):
    """The part of a SlotSealed entry that names the slot."""

    type: str
    volume_uuid: str = ""
    slot: int = -1
    generation: int = -1


_SEALED_SLOT = msgspec.json.Decoder(_SealedSlot)
_SEALED_MARK = f'"type":"{SlotSealed.kind}"'.encode()


def _sealed_slot(entry: bytes) -> _SealedSlot | None:
    """What slot an entry seals; None for other entries.

    A city seals a slot a second, so a month of them is read at a start: decoding and checking
    each whole event takes a hundred times as long.
    """
    if _SEALED_MARK not in entry:
        return None
    found = _SEALED_SLOT.decode(entry)
    return found if found.type == SlotSealed.kind else None


class _BadEvent(GatewayError):
    code = "BAD_EVENT"


class _AuditFailed(GatewayError):
    code = "AUDIT_FAILED"


class _NotRecovered(GatewayError):
    code = "NOT_RECOVERED"


class _TrustedFailed(GatewayError):
    code = "TRUSTED_TIME"


def _summary(report: RecoveryReport) -> str:
    return (
        f"{report.slots} slots read, {report.slots_sealed} sealed, {report.records} records found, "
        f"{report.restored} restored to the index, {len(report.holes)} holes, "
        f"{report.duration_ns // 1_000_000} ms"
    )


def _event(report: RecoveryReport, now_ns: int, detail: str) -> Recovered:
    return Recovered(
        time_ns=now_ns,
        slots=report.slots,
        records=report.records,
        lost_bytes=sum(h.end_block - h.start_block for h in report.holes) * BLOCK_BYTES,
        detail=detail,
    )


def _tell(report: RecoveryReport, event: str, *, worker: int | None) -> None:
    log.info(event, worker=worker, found=_summary(report))
    for finding in report.findings:
        log.error(
            "recovery_finding",
            kind=finding.kind,
            volume=finding.volume,
            slot=finding.slot,
            detail=finding.detail,
        )
