"""What a command does, with everything wired together; and the one way into the audit log.

Owns the use cases: enrol, remove, grant, clip, status, repair. Brings law (``gateway.legal``) and
recording (``gateway.ingest``) together, who do not know each other. ``gateway/serving.py`` does
the same for ``serve``.

- Every act is in the audit log before it has effect: through the supervisor while one runs (G2),
  else directly.
- A change of the registry is told to the supervisor, which would see it by itself a little later.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.admission import capacity_plan
from gateway.enrol import (
    BadLine,
    CameraRequest,
    CheckedCamera,
    EnrolmentRules,
    ImportRejected,
    check_all,
    check_request,
    parse_import,
)
from gateway.footage import FootageDesk, OpenedClip
from gateway.ingest.control import (
    AuditAppend,
    AuditAppended,
    RegistryChanged,
    StatusQuery,
    StatusReport,
    call,
)
from gateway.ingest.registry import Camera, CameraUnknown
from gateway.installation import Installation, offline, open_store
from gateway.legal.grants import GrantOffice, GrantRequest, IssuedGrant, create_grant
from gateway.legal.refusals import Refused
from gateway.overview import Overview, archive_figures, build_overview
from storage.audit.events import (
    AuditEvent,
    CameraAdded,
    CameraRefused,
    CameraRemoved,
    IndexRebuilt,
    encode_event,
)
from storage.audit.log import AuditLog
from storage.base.clock import SystemClock
from storage.base.grant import Action
from storage.base.ids import new_camera_uid
from storage.base.retention import BUILT_IN
from storage.base.timebase import SECOND_NS
from storage.capacity import require_admitted
from storage.check import FsckReport, Level, fsck
from storage.rebuild import StoreRebuild, rebuild_store
from storage.volume.damage import DamageList

Progress = Callable[[int, int], None]


class App:
    """One installation, as a command sees it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._clock = SystemClock()

    @classmethod
    def load(cls, config_file: Path) -> App:
        """Raises ConfigError."""
        return cls(Installation.load(config_file))

    def now_ns(self) -> int:
        """Our clock, ns UTC."""
        return self._clock.utc_ns()

    # ---- audit --------------------------------------------------------------------------------

    def audit(self, event: AuditEvent) -> int:
        """Enter ``event``; its index, once durable. Raises ControlError, DiskError, AuditBroken."""
        request = AuditAppend(msgspec.Raw(encode_event(event)))
        answer = call(self.installation.control_socket, request)
        if isinstance(answer, AuditAppended):
            return answer.index
        assert answer is None, answer
        with AuditLog.open(self.installation.paths.audit) as log:
            return log.append(event)

    # ---- cameras ------------------------------------------------------------------------------

    def enrol(self, requests: Sequence[CameraRequest]) -> list[Camera]:
        """Check and enrol all or none.

        Raises Refused (PRIVATE_PLACE after its own audit entry), EnrolmentError,
        ValueFormatError, CameraExists, CapacityError.
        """
        rules = self._rules()
        checked = []
        for request in requests:
            try:
                checked.append(check_request(request, rules))
            except Refused as refused:
                self._audit_refusal(request, refused.code, refused.article)
                raise
        return self._enrol_checked(checked)

    def enrol_file(self, name: str, data: bytes) -> list[Camera]:
        """``camera import``. Raises ImportRejected naming every bad line, and as ``enrol``."""
        requests, unreadable = parse_import(name, data)
        checked, refused = check_all(requests, self._rules())
        by_line = {request.line: request for request in requests}
        for bad in refused:
            if bad.code == "PRIVATE_PLACE":
                article = Refused(bad.code, bad.reason).article
                self._audit_refusal(by_line[bad.line], bad.code, article)
        with self.installation.registry() as registry:
            taken = {camera.id for camera in registry.cameras()}
        exists = [
            BadLine(camera.line, camera.id, "CAMERA_EXISTS", "is enrolled already")
            for camera in checked
            if camera.id in taken
        ]
        if bad_lines := sorted([*unreadable, *refused, *exists], key=lambda bad: bad.line):
            raise ImportRejected(name, bad_lines)
        return self._enrol_checked(checked)

    def cameras(self, *, removed: bool = False) -> list[Camera]:
        """By id. Raises RegistryError."""
        with self.installation.registry() as registry:
            return registry.cameras(removed=removed)

    def camera(self, camera_id: str) -> Camera:
        """Removed or not. Raises CameraUnknown."""
        with self.installation.registry() as registry:
            return registry.camera(camera_id)

    def remove(self, camera_id: str) -> Camera:
        """Stop recording; footage stays. Raises CameraUnknown."""
        with self.installation.registry() as registry:
            known = registry.camera(camera_id)
            if known.active:
                self.audit(
                    CameraRemoved(
                        time_ns=self.now_ns(),
                        camera_id=known.id,
                        camera_uid=known.uid,
                        actor=_actor(),
                    )
                )
            camera = registry.remove(camera_id, self.now_ns())
        self._tell_supervisor()
        return camera

    def _rules(self) -> EnrolmentRules:
        trial = self.installation.trial
        classes = frozenset(name for name, kind in BUILT_IN.items() if kind.trial == trial)
        today = datetime.fromtimestamp(self.now_ns() // SECOND_NS, UTC).date()
        return EnrolmentRules(classes, self.installation.config.retention.default, today)

    def _enrol_checked(self, checked: Sequence[CheckedCamera]) -> list[Camera]:
        self._admit(checked)
        now_ns = self.now_ns()
        cameras = [
            Camera(
                id=camera.id,
                uid=new_camera_uid(),
                url=camera.url,
                place_category=camera.place.category,
                place_type=camera.place.type,
                basis_doc=camera.place.basis_doc,
                retention=camera.retention,
                transport=camera.transport,
                created_ns=now_ns,
            )
            for camera in checked
        ]
        with self.installation.registry() as registry:
            stored = registry.add(cameras)
        for camera in stored:
            self.audit(
                CameraAdded(
                    time_ns=now_ns,
                    camera_id=camera.id,
                    camera_uid=camera.uid,
                    place_category=str(camera.place_category),
                    place_type=camera.place_type,
                    retention_class=camera.retention,
                    actor=_actor(),
                )
            )
        self._tell_supervisor()
        return stored

    def _admit(self, checked: Sequence[CheckedCamera]) -> None:
        """Production only: the ring must last the floor with these cameras too."""
        if self.installation.trial:
            return
        with open_store(self.installation) as store:
            found = capacity_plan(
                self.installation.config,
                store,
                self.cameras(),
                [camera.retention for camera in checked],
                self._report(),
            )
        require_admitted(found)

    def _report(self) -> StatusReport | None:
        """What the supervisor says; None when none runs."""
        report = call(self.installation.control_socket, StatusQuery())
        assert report is None or isinstance(report, StatusReport)
        return report

    def _audit_refusal(self, request: CameraRequest, code: str, article: str) -> None:
        self.audit(
            CameraRefused(
                time_ns=self.now_ns(),
                code=code,
                article=article,
                camera_id=request.id,
                place_category=str(request.place_category),
                place_type=request.place_type,
                actor=_actor(),
            )
        )

    def _tell_supervisor(self) -> None:
        call(self.installation.control_socket, RegistryChanged())

    # ---- footage ------------------------------------------------------------------------------

    def grant(
        self,
        *,
        cameras: tuple[str, ...],
        start_ns: int,
        end_ns: int,
        action: Action,
        document_no: str,
        officials: tuple[str, ...],
        expires_ns: int | None,
    ) -> IssuedGrant:
        """Raises Refused after its own audit entry, KeyUnusable."""
        request = GrantRequest(
            cameras, start_ns, end_ns, action, document_no, officials, expires_ns, _actor()
        )
        office = GrantOffice(
            installation_uuid=self.installation.uuid,
            trial=self.installation.trial,
            signing_key=self.installation.signing_key(),
            audit=self.audit,
            is_camera=self._is_camera,
        )
        return create_grant(request, office, self.now_ns())

    def _is_camera(self, camera_id: str) -> bool:
        try:
            self.camera(camera_id)
        except CameraUnknown:
            return False
        return True

    @contextlib.contextmanager
    def clip(self, token: str, camera_id: str) -> Iterator[OpenedClip]:
        """Open footage from the local store. Raises as ``FootageDesk.open``, CameraUnknown."""
        camera = self.camera(camera_id)
        with open_store(self.installation) as store:
            desk = FootageDesk(self.installation, store, self._clock, self.audit)
            yield desk.open(token, camera_id, camera.uid, requested=None, client=_actor())

    def overview(self, only_camera: str | None = None) -> Overview:
        """What ``ringvault status`` shows. Raises CameraUnknown, VolumeMissing and the like."""
        cameras = [self.camera(only_camera)] if only_camera else self.cameras()
        report = self._report()
        with open_store(self.installation) as store:
            return build_overview(
                self.installation,
                cameras,
                report,
                store,
                self.now_ns(),
                lambda camera: archive_figures(store, camera, self.now_ns()),
            )

    # ---- repair -------------------------------------------------------------------------------

    def fsck(self, level: Level, progress: Progress) -> FsckReport:
        """Check everything; damaged fragments are remembered. Beside a running serve too."""
        damage = DamageList(self.installation.paths.damage)
        with open_store(self.installation) as store:
            return fsck(store, level, found_ns=self.now_ns(), damage=damage, progress=progress)

    def rebuild_index(self, progress: Progress) -> StoreRebuild:
        """Slot tables and rings anew. Raises AlreadyServing while serve runs."""
        with (
            offline(self.installation, f"pid {os.getpid()}, index rebuild"),
            open_store(self.installation, exclusive=True, repair=True) as store,
            self.installation.registry() as registry,
        ):
            ids = {camera.uid: camera.id for camera in registry.cameras(removed=True)}
            clock = SystemClock(store.mark())
            report = rebuild_store(store, clock, ids, progress=progress)
        self.audit(
            IndexRebuilt(
                time_ns=self.now_ns(),
                cameras=report.cameras,
                entries=report.entries,
                actor=_actor(),
            )
        )
        return report


def _actor() -> str:
    """Who runs the command, as far as the system knows."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"cli:{name}"
