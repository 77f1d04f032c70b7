"""A grant opens what it names and nothing else; no token but ours is believed."""

from __future__ import annotations

import base64
import dataclasses
import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import OKPKey

from storage.base.grant import ExtractionGrant, Official, verify_grant
from storage.base.timebase import TimeRange
from storage.errors import GrantRejected

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
HOME = bytes(range(16))
NOW = 1_767_225_600_000_000_000
HOUR = 3_600_000_000_000
GRANT = ExtractionGrant(
    grant_id="g-1",
    installation_uuid=HOME,
    cameras=("gate-1", "gate-2"),
    start_ns=NOW - HOUR,
    end_ns=NOW - HOUR // 2 + 1,
    action="copy",
    document_no="(2026) 17",
    officials=(Official("李明", "110-1"), Official("Zhang Wei", "110-2")),
    issued_ns=NOW - 5,
    expires_ns=NOW + HOUR,
    trial=False,
)
HEADER = {"alg": "Ed25519", "typ": "ringvault-grant+jwt"}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(
    payload: Any = None, header: Any = None, key: Ed25519PrivateKey = KEY, signature: Any = None
) -> str:
    """A compact JWS made by hand, so that the test does not trust the library under test."""
    body = GRANT.to_payload() if payload is None else payload
    head = b64(json.dumps(HEADER if header is None else header).encode())
    signed = f"{head}.{b64(body if isinstance(body, bytes) else json.dumps(body).encode())}"
    return f"{signed}.{b64(key.sign(signed.encode()) if signature is None else signature)}"


def refused(text: str, now_ns: int = NOW, home: bytes = HOME) -> str:
    with pytest.raises(GrantRejected) as caught:
        verify_grant(text, PUBLIC, home, now_ns)
    return caught.value.code


def test_a_good_token_gives_the_grant() -> None:
    assert verify_grant(token(), PUBLIC, HOME, NOW) == GRANT
    assert verify_grant(f"\n{token()} \n", PUBLIC, HOME, NOW) == GRANT


def test_a_token_of_the_library_is_the_same_thing() -> None:
    key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "d": b64(KEY.private_bytes_raw()),
                             "x": b64(PUBLIC.public_bytes_raw())})  # fmt: skip
    body = json.dumps(GRANT.to_payload()).encode()
    made = jws.serialize_compact(HEADER, body, key, algorithms=["Ed25519"])
    assert verify_grant(made, PUBLIC, HOME, NOW) == GRANT


def test_another_key_is_refused() -> None:
    assert refused(token(key=Ed25519PrivateKey.generate())) == "BAD_SIGNATURE"


def test_alg_none_is_refused_with_and_without_a_signature() -> None:
    none = {"alg": "none", "typ": "ringvault-grant+jwt"}
    assert refused(token(header=none)) == "BAD_SIGNATURE"
    assert refused(token(header=none, signature=b"")) == "BAD_SIGNATURE"


def test_an_hmac_over_the_public_key_is_refused() -> None:
    """The classic confusion: HS256 with the public key's bytes or its PEM as the secret."""
    header = {"alg": "HS256", "typ": "ringvault-grant+jwt"}
    pem = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (PUBLIC.public_bytes_raw(), pem):
        unsigned = token(header=header).rpartition(".")[0]
        forged = f"{unsigned}.{b64(hmac.new(secret, unsigned.encode(), sha256).digest())}"
        assert refused(forged) == "BAD_SIGNATURE"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "EdDSA", "typ": "ringvault-grant+jwt"},
        {"alg": "ed25519", "typ": "ringvault-grant+jwt"},
        {"alg": "Ed25519", "typ": "JWT"},
        {"alg": "Ed25519"},
        {**HEADER, "crit": ["b64"], "b64": False},
        {**HEADER, "jwk": {"kty": "OKP"}},
        {**HEADER, "kid": "another"},
    ],
)
def test_only_our_exact_header_counts(header: dict[str, object]) -> None:
    assert refused(token(header=header)) == "BAD_SIGNATURE"


def test_any_altered_byte_of_payload_or_signature_is_refused() -> None:
    head, body, signature = token().split(".")
    for position in range(0, len(body), 7):
        other = "A" if body[position] != "A" else "B"
        altered = body[:position] + other + body[position + 1 :]
        assert refused(f"{head}.{altered}.{signature}") == "BAD_SIGNATURE"
    for position in range(0, len(signature) - 1, 9):
        other = "A" if signature[position] != "A" else "B"
        altered = signature[:position] + other + signature[position + 1 :]
        assert refused(f"{head}.{body}.{altered}") == "BAD_SIGNATURE"


@pytest.mark.parametrize(
    "text", ["", "x", "a.b", "a.b.c", "....", "é.b.c", "W10.e30.AA", "A" * 70_000 + ".b.c"]
)
def test_what_is_no_token_is_malformed(text: str) -> None:
    assert refused(text) == "MALFORMED"


@pytest.mark.parametrize(
    "change",
    [
        {"cameras": []},
        {"cameras": [1]},
        {"cameras": None},
        {"action": "delete"},
        {"start": "2026-01-01 00:00:00"},
        {"start": 5},
        {"end": "2020-01-01T00:00:00Z"},
        {"trial": 0},
        {"installation": "x"},
        {"officials": [{"name": "x"}]},
        {"officials": [{"name": "", "card": "1"}]},
        {"grant_id": ""},
        {"more": 1},
        {"expires": None},
    ],
)
def test_a_signed_payload_that_is_no_grant_is_malformed(change: dict[str, object]) -> None:
    assert refused(token({**GRANT.to_payload(), **change})) == "MALFORMED"


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"\xff", b'{"a":1}'])
def test_a_signed_payload_that_is_no_object_is_malformed(payload: bytes) -> None:
    assert refused(token(payload)) == "MALFORMED"


def test_expiry_is_to_the_nanosecond() -> None:
    assert verify_grant(token(), PUBLIC, HOME, GRANT.expires_ns - 1) == GRANT
    assert refused(token(), GRANT.expires_ns) == "EXPIRED"


def test_another_installation_is_refused() -> None:
    assert refused(token(), home=bytes(16)) == "WRONG_INSTALLATION"


def out_of_scope(**changes: Any) -> bool:
    wanted = {
        "camera": "gate-1",
        "start": GRANT.start_ns,
        "end": GRANT.end_ns,
        "action": "copy",
        "trial": False,
        "grant": GRANT,
        **changes,
    }
    try:
        wanted["grant"].check_scope(
            wanted["camera"],
            TimeRange(wanted["start"], wanted["end"]),
            wanted["action"],
            trial=wanted["trial"],
        )
    except GrantRejected as error:
        assert error.code == "OUT_OF_SCOPE"
        return True
    return False


def test_scope_is_cameras_range_action_and_trial() -> None:
    assert not out_of_scope()
    assert not out_of_scope(camera="gate-2", start=GRANT.start_ns + 1, end=GRANT.end_ns - 1)
    assert out_of_scope(camera="gate-3")
    assert out_of_scope(camera="gate-1 ")
    assert out_of_scope(start=GRANT.start_ns - 1)
    assert out_of_scope(end=GRANT.end_ns + 1)
    assert out_of_scope(trial=True)
    assert out_of_scope(grant=dataclasses.replace(GRANT, trial=True))
    assert not out_of_scope(grant=dataclasses.replace(GRANT, trial=True), trial=True)


def test_copy_covers_view_but_not_the_other_way() -> None:
    assert not out_of_scope(action="view")
    view = dataclasses.replace(GRANT, action="view")
    assert not out_of_scope(grant=view, action="view")
    assert out_of_scope(grant=view)
