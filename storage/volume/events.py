"""What happens on a volume while it is being recorded to, told to whoever is responsible.

Events are emitted from writer threads: a handler must be quick and must not raise. Storms are
folded here: a standing condition is reported when it begins, then once a minute, and when it ends.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from storage.errors import StorageError, VolumeFull


class SlotSealed(msgspec.Struct, frozen=True):
    """A slot is complete; ``seal`` (32 bytes) goes to the audit log."""

    volume_number: int
    volume_uuid: bytes
    slot: int
    generation: int
    seal: bytes
    record_count: int
    first_ns: int
    newest_ns: int


class DiskFault(msgspec.Struct, frozen=True):
    """An operation on the volume failed; what could not be written became gaps or moved away."""

    volume_number: int
    operation: str
    errno: int
    detail: str


class VolumeFullAlarm(msgspec.Struct, frozen=True):
    """Intake of a retention class stopped: every slot is protected. Nothing was overwritten."""

    volume_number: int
    class_id: str
    facts: VolumeFull


class IntakeResumed(msgspec.Struct, frozen=True):
    """The class is recorded on the volume again, after a fault or after it was full."""

    volume_number: int
    class_id: str


class CommitLag(msgspec.Struct, frozen=True):
    """Records became durable later than commit_interval after they were submitted."""

    volume_number: int
    worst_ns: int
    commit_interval_ns: int
    queue_bytes: int


class BufferedWrites(msgspec.Struct, frozen=True):
    """The file system has no O_DIRECT: correct, but several times the CPU. Once, at start."""

    volume_number: int
    path: str


class IndexFault(msgspec.Struct, frozen=True):
    """Durable records could not be made visible yet; tried again at the next commit."""

    volume_number: int
    camera_uid: bytes
    detail: str


class CameraMoved(msgspec.Struct, frozen=True):
    """A camera goes on on another volume."""

    camera_uid: bytes
    from_volume: int
    to_volume: int
    reason: str


class WriterFailed(msgspec.Struct, frozen=True):
    """Our own mistake ended a writer thread. The worker process must end and be restarted."""

    volume_number: int
    detail: str


RecorderEvent = (
    SlotSealed
    | DiskFault
    | VolumeFullAlarm
    | IntakeResumed
    | CommitLag
    | BufferedWrites
    | IndexFault
    | CameraMoved
    | WriterFailed
)
Report = Callable[[RecorderEvent], None]


def disk_fault(volume_number: int, operation: str, error: OSError | StorageError) -> DiskFault:
    return DiskFault(volume_number, operation, getattr(error, "errno", None) or 0, str(error))
