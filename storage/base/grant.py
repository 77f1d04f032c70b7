"""The extraction grant: what it says, and the check that it says so.

Owns the token's form and its verification. Never signs: storage holds only the verify key; signing
is the legal side's (gateway).

Token: compact JWS (RFC 7515), header exactly ``{"alg":"Ed25519","typ":"ringvault-grant+jwt"}``,
payload the JSON object of GRANT_FIELDS. Ed25519 as fully specified algorithm: RFC 9864.

- G1 the algorithm is ours, never the token's: any other ``alg`` is BAD_SIGNATURE, no key is used.
- G2 nothing of the payload is believed, not even its shape, before the signature verified.
- G3 ranges are half-open and compared as integers: a nanosecond outside is outside.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import uuid
from dataclasses import dataclass
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from storage.base.timebase import TimeRange, format_rfc3339, parse_rfc3339
from storage.errors import GrantRejected, ValueFormatError

ALGORITHM: Final = "Ed25519"
TOKEN_TYPE: Final = "ringvault-grant+jwt"
TOKEN_BYTES_MAX: Final = 65_536
CAMERAS_MAX: Final = 1_000

EXPIRED: Final = "EXPIRED"
OUT_OF_SCOPE: Final = "OUT_OF_SCOPE"
BAD_SIGNATURE: Final = "BAD_SIGNATURE"
MALFORMED: Final = "MALFORMED"
WRONG_INSTALLATION: Final = "WRONG_INSTALLATION"

Action = Literal["view", "copy"]


@dataclass(frozen=True, slots=True)
class Official:
    """One of the officials the footage is handed to: name and card number."""

    name: str
    card: str


@dataclass(frozen=True, slots=True)
class ExtractionGrant:
    """Leave to view or copy footage of these cameras in [start_ns, end_ns). Times ns UTC."""

    grant_id: str
    installation_uuid: bytes
    cameras: tuple[str, ...]
    start_ns: int
    end_ns: int
    action: Action
    document_no: str
    officials: tuple[Official, ...]
    issued_ns: int
    expires_ns: int
    trial: bool

    @property
    def range(self) -> TimeRange:
        return TimeRange(self.start_ns, self.end_ns)

    def to_payload(self) -> dict[str, Any]:
        """The claims, as signed: times RFC 3339, uuid as text."""
        return {
            "grant_id": self.grant_id,
            "installation": str(uuid.UUID(bytes=self.installation_uuid)),
            "cameras": list(self.cameras),
            "start": format_rfc3339(self.start_ns),
            "end": format_rfc3339(self.end_ns),
            "action": self.action,
            "document_no": self.document_no,
            "officials": [{"name": o.name, "card": o.card} for o in self.officials],
            "issued": format_rfc3339(self.issued_ns),
            "expires": format_rfc3339(self.expires_ns),
            "trial": self.trial,
        }

    def check_scope(
        self, camera_id: str, wanted: TimeRange, action: Action, *, trial: bool
    ) -> None:
        """Raise GrantRejected(OUT_OF_SCOPE) unless all of it is granted.

        A grant to copy covers viewing; one to view never covers a copy. ``trial`` is the
        installation's: neither kind of grant works on the other kind of installation.
        """
        if camera_id not in self.cameras:
            raise GrantRejected(OUT_OF_SCOPE, f"the grant does not name camera {camera_id}")
        if wanted.start_ns < self.start_ns or wanted.end_ns > self.end_ns:
            raise GrantRejected(
                OUT_OF_SCOPE,
                f"asked for {format_rfc3339(wanted.start_ns)} to {format_rfc3339(wanted.end_ns)}, "
                f"granted {format_rfc3339(self.start_ns)} to {format_rfc3339(self.end_ns)}",
            )
        if action != self.action and not (action == "view" and self.action == "copy"):
            raise GrantRejected(OUT_OF_SCOPE, f"asked to {action}, granted to {self.action}")
        if trial != self.trial:
            kind = "a trial" if self.trial else "a production"
            raise GrantRejected(OUT_OF_SCOPE, f"{kind} grant, but not such an installation")


GRANT_FIELDS: Final = frozenset(
    {
        "grant_id",
        "installation",
        "cameras",
        "start",
        "end",
        "action",
        "document_no",
        "officials",
        "issued",
        "expires",
        "trial",
    }
)


def verify_grant(
    token: str, verify_key: Ed25519PublicKey, installation_uuid: bytes, now_ns: int
) -> ExtractionGrant:
    """The grant a token carries, once its signature, installation and expiry are right.

    Raises GrantRejected: MALFORMED, BAD_SIGNATURE, WRONG_INSTALLATION, EXPIRED. What it allows is
    for check_scope().
    """
    payload = _verified_payload(token.strip(), verify_key)
    grant = _parse(payload)
    if grant.installation_uuid != installation_uuid:
        raise GrantRejected(WRONG_INSTALLATION, "the grant is for another installation")
    if now_ns >= grant.expires_ns:
        raise GrantRejected(EXPIRED, f"expired at {format_rfc3339(grant.expires_ns)}")
    return grant


def _verified_payload(token: str, verify_key: Ed25519PublicKey) -> bytes:
    if len(token) > TOKEN_BYTES_MAX or token.count(".") != 2 or not token.isascii():
        raise GrantRejected(MALFORMED, "not a compact JWS")
    header = _header(token.partition(".")[0])
    # G1: compared before any key or algorithm is looked up.
    if header != {"alg": ALGORITHM, "typ": TOKEN_TYPE}:
        raise GrantRejected(BAD_SIGNATURE, f"signed with {header.get('alg')!r}, not {ALGORITHM}")
    key = _jwk(verify_key.public_bytes_raw())
    try:
        signed = jws.deserialize_compact(token, key, algorithms=[ALGORITHM])
    except (JoseError, ValueError) as error:
        raise GrantRejected(BAD_SIGNATURE, "the signature is not by this installation") from error
    return signed.payload


@functools.lru_cache(maxsize=4)
def _jwk(public_key: bytes) -> OKPKey:
    x = base64.urlsafe_b64encode(public_key).rstrip(b"=").decode()
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x})


def _header(part: str) -> dict[str, Any]:
    try:
        header = json.loads(base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise GrantRejected(MALFORMED, "the JWS header does not parse") from error
    if not isinstance(header, dict):
        raise GrantRejected(MALFORMED, "the JWS header is no object")
    return header


def _parse(payload: bytes) -> ExtractionGrant:
    """Claims of a verified token. A signed but wrong shape is still MALFORMED."""
    try:
        claims = json.loads(payload)
        if not isinstance(claims, dict) or set(claims) != GRANT_FIELDS:
            raise ValueError("other fields than a grant has")
        cameras = tuple(_text(camera) for camera in claims["cameras"])
        officials = tuple(
            Official(_text(official["name"]), _text(official["card"]))
            for official in claims["officials"]
        )
        action = claims["action"]
        if action not in ("view", "copy") or not isinstance(claims["trial"], bool):
            raise ValueError("action or trial")
        if not 1 <= len(cameras) <= CAMERAS_MAX:
            raise ValueError(f"{len(cameras)} cameras")
        grant = ExtractionGrant(
            grant_id=_text(claims["grant_id"]),
            installation_uuid=uuid.UUID(_text(claims["installation"])).bytes,
            cameras=cameras,
            start_ns=parse_rfc3339(_text(claims["start"])),
            end_ns=parse_rfc3339(_text(claims["end"])),
            action=action,
            document_no=_text(claims["document_no"]),
            officials=officials,
            issued_ns=parse_rfc3339(_text(claims["issued"])),
            expires_ns=parse_rfc3339(_text(claims["expires"])),
            trial=claims["trial"],
        )
        if grant.start_ns >= grant.end_ns:
            raise ValueError("empty range")
    except (ValueError, KeyError, TypeError, ValueFormatError) as error:
        raise GrantRejected(MALFORMED, f"signed, but no grant: {error}") from error
    return grant


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value
