"""ClipReader.open: a grant in, a verified clip out, with everything that is missing named.

Owns the order of things: verify the grant, select, audit, and only then hand out the file. Never
lets a byte out without a grant (C18) and an audit entry (C19), and never hides a loss (C13, C15).

docs/design/clip.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from storage.audit.events import AuditedOfficial, AuditEvent, ClipOpened, ClipRefused, DamageFound
from storage.base.clock import Clock
from storage.base.gap import Gap
from storage.base.grant import Action, ExtractionGrant, verify_grant
from storage.base.timebase import SECOND_NS, TimeRange, format_rfc3339
from storage.clip.assembly import Assembly, ClipStore, ClipTooLong, assemble
from storage.clip.config import CODEC_H264
from storage.clip.source import Place
from storage.clip.virtual import VirtualFile
from storage.errors import GrantRejected, StorageError

CONTENT_TYPE: Final = "video/mp4"
TOO_LONG: Final = "TOO_LONG"
ETAG_VERSION: Final = b"ringvault clip 1"


@dataclass(frozen=True, slots=True)
class ClipLimits:
    """Bounds of one clip.

    ``verify_ahead_bytes_max``: up to this much is verified when opened (C14). ``key_search_ns``:
    how far back a key frame is looked for (C1). ``records_max``: about 24 hours; opening keeps
    about 2.5 KB of working memory a record.
    """

    verify_ahead_bytes_max: int = 64 << 20
    key_search_ns: int = 64 * SECOND_NS
    records_max: int = 120_000


class Clip:
    """An open clip. Holds no file and no lock; read() may be called any number of times."""

    content_type = CONTENT_TYPE

    def __init__(
        self, camera_id: str, requested: TimeRange, trial: bool, parts: Assembly, file: VirtualFile
    ) -> None:
        self.camera_id = camera_id
        self.requested = requested
        self.trial = trial
        self.delivered: TimeRange | None = parts.delivered
        self.gaps: tuple[Gap, ...] = parts.gaps
        self.frame_count = parts.frame_count
        self.presented_count = parts.presented_count
        self.etag = _etag(parts)
        self._parts = parts
        self._file = file

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    @property
    def filename(self) -> str:
        """``TRIAL-gate-1_20260504T050000.000Z_20260504T050100.000Z.mp4``: safe in a header."""
        times = [
            format_rfc3339(time_ns).replace("-", "").replace(":", "")
            for time_ns in (self.requested.start_ns, self.requested.end_ns)
        ]
        return f"{'TRIAL-' if self.trial else ''}{self.camera_id}_{times[0]}_{times[1]}.mp4"

    def read(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """Bytes [offset, offset + length) of the file, verified, in chunks of up to a few MiB.

        Raises DamagedFragment, FootageGone, DiskError before any byte of the fragment concerned;
        open the clip again then: the loss is a gap of it, and its etag another (C14).
        """
        return self._file.read(offset, length)

    def sidecar(self) -> dict[str, Any]:
        """What the file cannot say, JSON-ready: times RFC 3339, gaps, configurations, counts."""
        return {
            "camera": self.camera_id,
            "requested": _range_json(self.requested),
            "delivered": _range_json(self.delivered),
            "etag": self.etag,
            "size_bytes": self.size_bytes,
            "trial": self.trial,
            "frames": {
                "stored": self.frame_count,
                "presented": self.presented_count,
                "preroll": self._parts.preroll_count,
            },
            "fragments": len(self._parts.pieces),
            "codecs": [
                {
                    "codec": "h264" if config.codec == CODEC_H264 else "h265",
                    "width": config.width,
                    "height": config.height,
                    "configuration": config.body.hex(),
                }
                for config in self._parts.configs
            ],
            "gaps": [
                {
                    **_range_json(TimeRange(gap.start_ns, gap.end_ns)),
                    "cause": gap.cause.label,
                    "packets": gap.packets,
                    "detail": gap.detail,
                }
                for gap in self.gaps
            ],
        }


class ClipReader:
    """The only way out of storage for footage."""

    @classmethod
    def open(
        cls,
        token: str,
        camera_id: str,
        camera_uid: bytes,
        *,
        store: ClipStore,
        verify_key: Ed25519PublicKey,
        installation_uuid: bytes,
        clock: Clock,
        audit: Callable[[AuditEvent], int],
        limits: ClipLimits | None = None,
        requested: TimeRange | None = None,
        action: Action = "copy",
        client: str = "",
    ) -> Clip:
        """Verify the grant and prepare the clip of one camera.

        ``requested``: the part of the granted range wanted, None = all of it. ``action``: what
        the caller will let happen with it. ``client``: who asks, for the audit log.
        ``audit`` must return only when the entry is durable; what it raises ends the open.

        Raises GrantRejected and ClipTooLong (both audited), IndexCorrupt, DiskError.
        """
        now_ns = clock.utc_ns()

        def refused(code: str, error: StorageError, grant_id: str) -> None:
            audit(
                ClipRefused(
                    time_ns=now_ns,
                    code=code,
                    message=str(error),
                    grant_id=grant_id,
                    token_sha256=sha256(token.encode("utf-8", "surrogatepass")).digest(),
                    camera_id=camera_id,
                    requested_start_ns=requested.start_ns if requested else None,
                    requested_end_ns=requested.end_ns if requested else None,
                    client=client,
                )
            )

        def on_damage(place: Place, reason: str) -> None:
            audit(
                DamageFound(
                    time_ns=clock.utc_ns(),
                    volume_number=place.volume_number,
                    slot=place.slot,
                    generation=place.generation,
                    offset_blocks=place.offset_blocks,
                    camera_id=camera_id,
                    reason=reason,
                )
            )

        grant_id = ""
        try:
            grant = verify_grant(token, verify_key, installation_uuid, now_ns)
            grant_id = grant.grant_id
            wanted = requested or grant.range
            trial = any(volume.trial for volume in store.volumes.values())
            grant.check_scope(camera_id, wanted, action, trial=trial)
        except GrantRejected as error:
            refused(error.code, error, grant_id)
            raise
        try:
            parts = assemble(
                store, camera_uid, wanted, clock, limits or ClipLimits(), on_damage, trial=trial
            )
        except ClipTooLong as error:
            refused(TOO_LONG, error, grant_id)
            raise
        file = VirtualFile(parts.head, parts.pieces, parts.source)
        clip = Clip(camera_id, wanted, trial, parts, file)
        audit(_opened(clip, grant, camera_uid, action, now_ns, client))
        return clip


def _opened(
    clip: Clip, grant: ExtractionGrant, camera_uid: bytes, action: str, now_ns: int, client: str
) -> ClipOpened:
    return ClipOpened(
        time_ns=now_ns,
        grant_id=grant.grant_id,
        camera_id=clip.camera_id,
        camera_uid=camera_uid,
        action=action,
        document_no=grant.document_no,
        officials=tuple(AuditedOfficial(o.name, o.card) for o in grant.officials),
        requested_start_ns=clip.requested.start_ns,
        requested_end_ns=clip.requested.end_ns,
        delivered_start_ns=clip.delivered.start_ns if clip.delivered else None,
        delivered_end_ns=clip.delivered.end_ns if clip.delivered else None,
        frames=clip.frame_count,
        gaps=len(clip.gaps),
        size_bytes=clip.size_bytes,
        etag=clip.etag,
        trial=clip.trial,
        client=client,
    )


def _etag(parts: Assembly) -> str:
    """C16, quoted as HTTP wants it."""
    digest = sha256(ETAG_VERSION)
    digest.update(len(parts.head).to_bytes(8, "little"))
    digest.update(parts.head)
    bounds = np.array([(piece.first, piece.end) for piece in parts.pieces], "<u4")
    digest.update(bounds.tobytes())
    for piece in parts.pieces:
        digest.update(piece.header.fragment_root)
        digest.update(piece.header.payload_crc32c.to_bytes(4, "little"))
    return f'"{digest.hexdigest()[:40]}"'


def _range_json(span: TimeRange | None) -> dict[str, Any]:
    if span is None:
        return {"start": None, "end": None}
    return {"start": format_rfc3339(span.start_ns), "end": format_rfc3339(span.end_ns)}
