"""What is audited: one frozen dataclass an act, and its canonical bytes.

Owns the vocabulary and the encoding. Never decides when to audit.

Encoding: JSON, keys sorted, no spaces, UTF-8, no floats. ``type`` and ``version`` come with every
event. A field ``x_ns`` is the RFC 3339 time ``x`` (JSON numbers beyond 2^53 are not portable);
bytes are hex. Equal events have equal bytes, so a leaf hash can be recomputed from the fields.
docs/design/audit.md.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from storage.base.timebase import format_rfc3339, parse_rfc3339

EVENT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class AuditedOfficial:
    """A person an act was done for: name and card number as on the request."""

    name: str
    card: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Base of all events. ``time_ns``: when it happened, ns UTC."""

    kind: ClassVar[str] = ""
    time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationCreated(AuditEvent):
    kind: ClassVar[str] = "installation_created"
    installation_uuid: bytes
    name: str
    trial: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraAdded(AuditEvent):
    kind: ClassVar[str] = "camera_added"
    camera_id: str
    camera_uid: bytes
    place_category: str
    place_type: str
    retention_class: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraRemoved(AuditEvent):
    """Recording stopped. Footage stays until its class lets it go."""

    kind: ClassVar[str] = "camera_removed"
    camera_id: str
    camera_uid: bytes
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraRefused(AuditEvent):
    """Somebody asked to record where the law forbids it. ``code`` and ``article`` say why not."""

    kind: ClassVar[str] = "camera_refused"
    code: str
    article: str
    camera_id: str
    place_category: str
    place_type: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantIssued(AuditEvent):
    kind: ClassVar[str] = "grant_issued"
    grant_id: str
    cameras: tuple[str, ...]
    start_ns: int
    end_ns: int
    action: str
    document_no: str
    officials: tuple[AuditedOfficial, ...]
    expires_ns: int
    trial: bool
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRefused(AuditEvent):
    """A request for footage that got no grant. What was asked is kept as it was asked."""

    kind: ClassVar[str] = "grant_refused"
    code: str
    article: str
    message: str
    cameras: tuple[str, ...]
    start_ns: int
    end_ns: int
    action: str
    document_no: str
    officials: tuple[AuditedOfficial, ...]
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOpened(AuditEvent):
    """A verified grant is used; durable before the first byte of the clip leaves.

    ``delivered_*``: None when nothing is stored in the requested range.
    """

    kind: ClassVar[str] = "clip_opened"
    grant_id: str
    camera_id: str
    camera_uid: bytes
    action: str
    document_no: str
    officials: tuple[AuditedOfficial, ...]
    requested_start_ns: int
    requested_end_ns: int
    delivered_start_ns: int | None
    delivered_end_ns: int | None
    frames: int
    gaps: int
    size_bytes: int
    etag: str
    trial: bool
    client: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRefused(AuditEvent):
    """No clip. ``grant_id`` is empty when the token could not be trusted to say one."""

    kind: ClassVar[str] = "clip_refused"
    code: str
    message: str
    grant_id: str
    token_sha256: bytes
    camera_id: str
    requested_start_ns: int | None
    requested_end_ns: int | None
    client: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSealed(AuditEvent):
    """``seal``: Merkle root over the slot's fragment roots; ties footage to this log."""

    kind: ClassVar[str] = "slot_sealed"
    volume_uuid: bytes
    slot: int
    generation: int
    seal: bytes
    record_count: int
    first_ns: int
    newest_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageFound(AuditEvent):
    kind: ClassVar[str] = "damage_found"
    volume_number: int
    slot: int
    generation: int
    offset_blocks: int
    camera_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(AuditEvent):
    """serve started: what it found open and put in order."""

    kind: ClassVar[str] = "recovered"
    slots: int
    records: int
    lost_bytes: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRebuilt(AuditEvent):
    kind: ClassVar[str] = "index_rebuilt"
    cameras: int
    entries: int
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTailTruncated(AuditEvent):
    """A write that nobody was told of was cut off: the process or machine stopped inside it."""

    kind: ClassVar[str] = "log_tail_truncated"
    entry: int
    offset_bytes: int
    removed_bytes: int


EVENT_TYPES: Final[dict[str, type[AuditEvent]]] = {
    event.kind: event
    for event in (
        InstallationCreated,
        CameraAdded,
        CameraRemoved,
        CameraRefused,
        GrantIssued,
        GrantRefused,
        ClipOpened,
        ClipRefused,
        SlotSealed,
        DamageFound,
        Recovered,
        IndexRebuilt,
        LogTailTruncated,
    )
}


def encode_event(event: AuditEvent) -> bytes:
    """Canonical bytes of an event: the data of its leaf."""
    document = _to_json(event)
    assert isinstance(document, dict)
    document["type"] = event.kind
    document["version"] = EVENT_VERSION
    text = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def decode_event(data: bytes) -> AuditEvent:
    """The event of canonical bytes. Raises ValueError when they are not exactly that."""
    try:
        document = json.loads(data)
        kind, version = document.pop("type"), document.pop("version")
        if version != EVENT_VERSION:
            raise ValueError(f"event version {version}, this software knows {EVENT_VERSION}")
        event = _from_json(document, EVENT_TYPES[kind])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no audit event: {error!r}") from error
    assert isinstance(event, AuditEvent)
    if encode_event(event) != data:
        raise ValueError("audit event is not in canonical form")
    return event


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        document = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.name.endswith("_ns") and item is not None:
                document[field.name.removesuffix("_ns")] = format_rfc3339(item)
            else:
                document[field.name.removesuffix("_ns")] = _to_json(item)
        return document
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    assert value is None or isinstance(value, str | int | bool), type(value)
    return value


# By class: resolving annotations takes longer than everything else about an event.
_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(target: type[Any]) -> dict[str, Any]:
    if target not in _HINTS:
        _HINTS[target] = typing.get_type_hints(target)
    return _HINTS[target]


def _from_json(document: dict[str, Any], target: type[Any]) -> Any:
    hints = _hints(target)
    values = {}
    for field in dataclasses.fields(target):
        item = document.pop(field.name.removesuffix("_ns"))
        if field.name.endswith("_ns") and item is not None:
            values[field.name] = parse_rfc3339(item)
        else:
            values[field.name] = _convert(item, hints[field.name])
    if document:
        raise ValueError(f"unknown fields: {', '.join(sorted(document))}")
    return target(**values)


def _convert(item: Any, hint: Any) -> Any:
    if hint is bytes:
        return bytes.fromhex(item)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _from_json(dict(item), hint)
    if typing.get_origin(hint) is tuple:
        return tuple(_convert(part, typing.get_args(hint)[0]) for part in item)
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(item) not in allowed:
        raise ValueError(f"{item!r} is no {hint}")
    return item
