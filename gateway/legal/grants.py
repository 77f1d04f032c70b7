"""Making an extraction grant: the least lawful path there is until the full workflow exists.

Owns the checks (two different officials, a document, a sane range), the audit entry and the
signature. Never hands out footage: storage does, against the token made here.

- The audit entry is durable before the token exists; a refusal is an entry too.
- Two officials are two people only if neither name nor card are the same, however they are spelled.
"""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.jwk import OKPKey
from msgspec import json

from gateway.legal.refusals import Refused
from gateway.limits import GRANT_FIELD_CHARS_MAX, GRANT_HOURS_DEFAULT, GRANT_HOURS_MAX
from storage.audit.events import AuditedOfficial, AuditEvent, GrantIssued, GrantRefused
from storage.base.grant import (
    ALGORITHM,
    CAMERAS_MAX,
    TOKEN_TYPE,
    Action,
    ExtractionGrant,
    Official,
)
from storage.base.timebase import HOUR_NS, format_rfc3339

OFFICIALS_MIN = 2


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """What is asked for, unchecked. Times ns UTC, half-open; ``expires_ns`` None: the default.

    ``officials``: each ``NAME:CARD`` as given.
    """

    cameras: tuple[str, ...]
    start_ns: int
    end_ns: int
    action: Action
    document_no: str
    officials: tuple[str, ...]
    expires_ns: int | None
    actor: str


@dataclass(frozen=True, slots=True)
class GrantOffice:
    """Who grants: installation, key, the log, and the question whether a camera is known here."""

    installation_uuid: bytes
    trial: bool
    signing_key: Ed25519PrivateKey
    audit: Callable[[AuditEvent], int]
    is_camera: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class IssuedGrant:
    """The grant and its token (a compact JWS), which is a credential."""

    grant: ExtractionGrant
    token: str
    audit_index: int


def parse_official(text: str) -> Official:
    """``NAME:CARD`` (also with a full-width colon). Raises Refused(DOC_INCOMPLETE)."""
    name, colon, card = text.replace("\uff1a", ":").rpartition(":")
    name, card = " ".join(name.split()), " ".join(card.split())
    if not colon or not name or not card:
        raise Refused("DOC_INCOMPLETE", f"official {text!r} lacks a name or a card number")
    if len(name) > GRANT_FIELD_CHARS_MAX or len(card) > GRANT_FIELD_CHARS_MAX:
        raise Refused(
            "DOC_INCOMPLETE", f"official {text[:40]!r}... is too long for a name and card"
        )
    return Official(name, card)


def create_grant(request: GrantRequest, office: GrantOffice, now_ns: int) -> IssuedGrant:
    """Check, enter into the audit log, sign.

    Raises Refused (after its own audit entry), and what ``office.audit`` raises, in which case
    there is no token.
    """
    try:
        grant = _checked(request, office, now_ns)
    except Refused as refused:
        office.audit(_refusal(request, refused, now_ns))
        raise
    index = office.audit(
        GrantIssued(
            time_ns=now_ns,
            grant_id=grant.grant_id,
            cameras=grant.cameras,
            start_ns=grant.start_ns,
            end_ns=grant.end_ns,
            action=grant.action,
            document_no=grant.document_no,
            officials=tuple(AuditedOfficial(o.name, o.card) for o in grant.officials),
            expires_ns=grant.expires_ns,
            trial=grant.trial,
            actor=request.actor,
        )
    )
    return IssuedGrant(grant, sign(grant, office.signing_key), index)


def sign(grant: ExtractionGrant, key: Ed25519PrivateKey) -> str:
    """The token: a compact JWS (RFC 7515) with Ed25519 (RFC 9864)."""
    signer = OKPKey.import_key(key)
    header = {"alg": ALGORITHM, "typ": TOKEN_TYPE}
    payload = json.encode(grant.to_payload())
    return jws.serialize_compact(header, payload, signer, algorithms=[ALGORITHM])


def _checked(request: GrantRequest, office: GrantOffice, now_ns: int) -> ExtractionGrant:
    document_no = " ".join(request.document_no.split())
    if not document_no:
        raise Refused("NO_DOCUMENT", "no document was presented")
    if len(document_no) > GRANT_FIELD_CHARS_MAX:
        raise Refused("DOC_INCOMPLETE", "the document number is too long to be one")
    officials = tuple(parse_official(text) for text in request.officials)
    _check_people(officials)
    _check_cameras(request.cameras, office)
    _check_times(request, now_ns)
    return ExtractionGrant(
        grant_id=str(uuid.uuid4()),
        installation_uuid=office.installation_uuid,
        cameras=request.cameras,
        start_ns=request.start_ns,
        end_ns=request.end_ns,
        action=request.action,
        document_no=document_no,
        officials=officials,
        issued_ns=now_ns,
        expires_ns=_expiry(request, now_ns),
        trial=office.trial,
    )


def _check_people(officials: Sequence[Official]) -> None:
    names = {_same(official.name) for official in officials}
    cards = {_same(official.card) for official in officials}
    if len(officials) < OFFICIALS_MIN:
        raise Refused("ONE_PERSON_ONLY", f"{len(officials)} official, at least two must come")
    for what, values in (("name", names), ("card", cards)):
        if len(values) != len(officials):
            raise Refused("ONE_PERSON_ONLY", f"two of the officials have the same {what}")


def _same(text: str) -> str:
    """What is left of a name or number when spelling does not count."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c.isalnum())


def _check_cameras(cameras: Sequence[str], office: GrantOffice) -> None:
    if not 1 <= len(cameras) <= CAMERAS_MAX:
        raise Refused("OUT_OF_SCOPE", f"{len(cameras)} cameras: a grant names 1 to {CAMERAS_MAX}")
    if len(set(cameras)) != len(cameras):
        raise Refused("OUT_OF_SCOPE", "a camera is named twice")
    for camera_id in cameras:
        if not office.is_camera(camera_id):
            raise Refused("OUT_OF_SCOPE", f"camera {camera_id!r} is not one of this installation")


def _check_times(request: GrantRequest, now_ns: int) -> None:
    if request.end_ns <= request.start_ns:
        raise Refused(
            "OUT_OF_SCOPE",
            f"the range is empty: {format_rfc3339(request.start_ns)} to "
            f"{format_rfc3339(request.end_ns)}",
        )
    if request.start_ns >= now_ns:
        raise Refused(
            "OUT_OF_SCOPE", f"the range begins in the future ({format_rfc3339(request.start_ns)})"
        )
    expires_ns = _expiry(request, now_ns)
    if expires_ns <= now_ns:
        raise Refused("OUT_OF_SCOPE", f"it would have expired at {format_rfc3339(expires_ns)}")
    if expires_ns > now_ns + GRANT_HOURS_MAX * HOUR_NS:
        raise Refused("OUT_OF_SCOPE", f"a grant lives at most {GRANT_HOURS_MAX} hours")


def _expiry(request: GrantRequest, now_ns: int) -> int:
    if request.expires_ns is not None:
        return request.expires_ns
    return now_ns + GRANT_HOURS_DEFAULT * HOUR_NS


def _refusal(request: GrantRequest, refused: Refused, now_ns: int) -> GrantRefused:
    return GrantRefused(
        time_ns=now_ns,
        code=refused.code,
        article=refused.article,
        message=str(refused),
        cameras=request.cameras,
        start_ns=request.start_ns,
        end_ns=request.end_ns,
        action=request.action,
        document_no=request.document_no,
        # As they were given: they may be what is wrong.
        officials=tuple(AuditedOfficial(text, "") for text in request.officials),
        actor=request.actor,
    )
