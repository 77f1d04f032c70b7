"""What the resources stand on: store, registry, supervisor, clips. One object per API process.

Owns opening and closing, short-lived copies of what others know (cameras, report, archive
figures), and the bridge from reading threads to the control connection for audit entries. Never
records and never opens the audit log: the supervisor has it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import msgspec

from gateway.api.clips import ClipCache, ClipRequest, ClipThreads
from gateway.footage import FootageDesk, OpenedClip
from gateway.ingest.control import (
    AuditAppend,
    AuditAppended,
    Channel,
    ControlError,
    StatusQuery,
    StatusReport,
)
from gateway.ingest.registry import Camera, CameraUnknown
from gateway.installation import Installation, open_store
from gateway.limits import CONTROL_TIMEOUT_S
from gateway.overview import ArchiveFigures, Overview, archive_figures, build_overview
from gateway.telemetry.log import lines_suppressed
from storage.audit.events import AuditEvent, encode_event
from storage.base.clock import SystemClock
from storage.base.ids import CAMERA_UID_BYTES
from storage.base.timebase import TimeRange
from storage.index.coverage import Coverage, coverage

# How long a copy of what the registry, the supervisor or the archive said is used again.
CAMERAS_AGE_S = 1.0
REPORT_AGE_S = 0.5
FIGURES_AGE_S = 5.0

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class _Copy(Generic[ValueT]):
    value: ValueT
    taken_s: float

    def fresh(self, age_max_s: float) -> bool:
        return time.monotonic() - self.taken_s < age_max_s


class Services:
    """Made when the process starts, with the connection to the supervisor; closed when it ends."""

    def __init__(self, installation: Installation, supervisor: Channel) -> None:
        self.installation = installation
        self.threads = ClipThreads()
        self.clips = ClipCache(time.monotonic_ns)
        self.clock = SystemClock()
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._store = open_store(installation)
        self._desk = FootageDesk(installation, self._store, self.clock, self._audit_from_thread)
        self._registry = installation.registry()
        self._cameras: _Copy[dict[str, Camera]] | None = None
        self._report: _Copy[StatusReport] | None = None
        self._figures: dict[str, _Copy[ArchiveFigures]] = {}

    def close(self) -> None:
        """Let go of everything; reads under way end first."""
        self.threads.close()
        self._registry.close()
        self._store.close()

    # ---- cameras ------------------------------------------------------------------------------

    async def cameras(self) -> dict[str, Camera]:
        """All that were ever enrolled, by id; at most CAMERAS_AGE_S old. Raises RegistryError."""
        if self._cameras is None or not self._cameras.fresh(CAMERAS_AGE_S):
            taken_s = time.monotonic()
            listed = await self.threads.run(lambda: self._registry.cameras(removed=True))
            self._cameras = _Copy({camera.id: camera for camera in listed}, taken_s)
        return self._cameras.value

    async def camera(self, camera_id: str) -> Camera:
        """Raises CameraUnknown."""
        found = (await self.cameras()).get(camera_id)
        if found is None:
            raise CameraUnknown(
                f"no camera {camera_id!r} is enrolled", remedy="/v1/cameras lists all"
            )
        return found

    async def coverage(self, camera: Camera, wanted: TimeRange) -> Coverage:
        """Spans and gaps of a camera in a range. Raises IndexCorrupt."""

        def read() -> Coverage:
            now_ns = self.clock.utc_ns()
            if not self._store.has_index(camera.uid):
                past_ns = max(0, min(wanted.end_ns, now_ns) - wanted.start_ns)
                return Coverage(wanted, (), (), past_ns, 0)
            index = self._store.index(camera.uid)
            try:
                return coverage(index, wanted, now_ns)
            finally:
                index.close()

        return await self.threads.run(read)

    # ---- supervisor ---------------------------------------------------------------------------

    async def report(self) -> StatusReport | None:
        """What the supervisor says; None when it does not answer any more."""
        if self._report is None or not self._report.fresh(REPORT_AGE_S):
            taken_s = time.monotonic()
            try:
                answer = await self._supervisor.request(StatusQuery())
            except ControlError:
                return None
            assert isinstance(answer, StatusReport)
            self._report = _Copy(answer, taken_s)
        return self._report.value

    async def overview(self) -> Overview:
        """Everything at one moment. Raises IndexCorrupt, RegistryError."""
        cameras = [camera for camera in (await self.cameras()).values() if camera.active]
        report = await self.report()
        return await self.threads.run(
            lambda: build_overview(
                self.installation,
                cameras,
                report,
                self._store,
                self.clock.utc_ns(),
                self._archive_figures,
            )
        )

    def _archive_figures(self, camera: Camera) -> ArchiveFigures:
        known = self._figures.get(camera.id)
        if known is None or not known.fresh(FIGURES_AGE_S):
            taken_s = time.monotonic()
            known = _Copy(archive_figures(self._store, camera, self.clock.utc_ns()), taken_s)
            self._figures[camera.id] = known
        return known.value

    # ---- clips --------------------------------------------------------------------------------

    async def clip(self, asked: ClipRequest) -> OpenedClip:
        """The clip a grant allows, its opening entered into the audit log (G2).

        The caller holds a place of ``threads``. Raises GrantRejected, CameraUnknown, ControlError.
        """
        cached = self.clips.get(asked.key)
        if cached is not None:
            # It may have expired since, and this use is an entry of its own.
            self._desk.allowed_action(asked.token)
            now_ns = self.clock.utc_ns()
            await self._append(replace(cached.entry, time_ns=now_ns, client=asked.client))
            return cached
        known = (await self.cameras()).get(asked.camera_id)
        # An unknown camera gets the same answer as one the grant does not name: the reader decides.
        uid = known.uid if known is not None else bytes(CAMERA_UID_BYTES)
        opened = await self.threads.run(
            lambda: self._desk.open(
                asked.token,
                asked.camera_id,
                uid,
                requested=asked.requested,
                client=asked.client,
            )
        )
        self.clips.put(asked.key, opened)
        return opened

    def counters(self) -> dict[str, float]:
        """Figures of this process for the metrics."""
        return {
            "clips_reading": self.threads.reading,
            "clips_refused_total": self.threads.refused,
            "clip_bytes_sent_total": self.threads.bytes_sent,
            "log_lines_suppressed_total": lines_suppressed(),
        }

    async def _append(self, event: AuditEvent) -> int:
        answer = await self._supervisor.request(AuditAppend(msgspec.Raw(encode_event(event))))
        assert isinstance(answer, AuditAppended)
        return answer.index

    def _audit_from_thread(self, event: AuditEvent) -> int:
        """For ``ClipReader`` on a thread: returns once the entry is durable."""
        waiting = asyncio.run_coroutine_threadsafe(self._append(event), self._loop)
        return waiting.result(timeout=CONTROL_TIMEOUT_S + 1)
