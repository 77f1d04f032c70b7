"""The one place where the gateway opens footage: ``ClipReader.open``, for API and command line.

Owns the choice of the action a grant allows. Never looks at footage itself, and holds no way
around the grant: storage verifies it and makes the audit entry first.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gateway.installation import Installation
from storage.audit.events import AuditEvent, ClipOpened
from storage.base.clock import Clock
from storage.base.grant import Action, verify_grant
from storage.base.timebase import TimeRange
from storage.clip.reader import Clip, ClipReader
from storage.store import Store


def unverified_claims(token: str) -> tuple[tuple[str, ...], str]:
    """(cameras, action) a token claims, believed by nobody; empty where there is none to read."""
    try:
        payload = token.split(".")[1]
        claims = msgspec.json.decode(
            base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims
        )
    except (IndexError, ValueError, msgspec.MsgspecError):
        return (), ""
    return claims.cameras, claims.action


class _Claims(msgspec.Struct):
    cameras: tuple[str, ...]
    action: str


Audit = Callable[[AuditEvent], int]


@dataclass(frozen=True, slots=True)
class OpenedClip:
    """A clip, what may be done with it, and the audit entry of its opening."""

    clip: Clip
    action: Action
    entry: ClipOpened


class FootageDesk:
    """Opens clips of one installation. Used from any thread."""

    def __init__(
        self, installation: Installation, store: Store, clock: Clock, audit: Audit
    ) -> None:
        """Raises KeyUnusable."""
        self._installation = installation
        self._store = store
        self._clock = clock
        self._audit = audit
        self._verify_key = installation.verify_key()

    def allowed_action(self, token: str) -> Action:
        """What the grant allows, if it holds now. Raises GrantRejected."""
        grant = verify_grant(token, self._verify_key, self._installation.uuid, self._clock.utc_ns())
        return grant.action

    def open(
        self,
        token: str,
        camera_id: str,
        camera_uid: bytes,
        *,
        requested: TimeRange | None,
        client: str,
    ) -> OpenedClip:
        """The clip, its opening durable in the audit log (G2). Raises as ``ClipReader.open``.

        ``requested``: the part of the granted range, None all of it.
        """
        entries: list[ClipOpened] = []

        def audit(event: AuditEvent) -> int:
            if isinstance(event, ClipOpened):
                entries.append(event)
            return self._audit(event)

        # Only what to ask for: the reader verifies the grant and refuses what it does not allow.
        action: Action = "copy" if unverified_claims(token)[1] == "copy" else "view"
        clip = ClipReader.open(
            token,
            camera_id,
            camera_uid,
            store=self._store,
            verify_key=self._verify_key,
            installation_uuid=self._installation.uuid,
            clock=self._clock,
            audit=audit,
            requested=requested,
            action=action,
            client=client,
        )
        (entry,) = entries
        return OpenedClip(clip, action, entry)
