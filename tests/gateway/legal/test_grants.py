"""Goal: no token without two people, a document and an audit entry; what is signed verifies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.legal.grants import GrantOffice, GrantRequest, create_grant, parse_official
from gateway.legal.refusals import Refused
from storage.audit.events import (
    AuditedOfficial,
    AuditEvent,
    GrantIssued,
    GrantRefused,
    decode_event,
    encode_event,
)
from storage.base.grant import Official, verify_grant
from storage.base.timebase import HOUR_NS, SECOND_NS
from storage.errors import DiskError, GrantRejected

INSTALLATION = b"i" * 16
NOW = 1_800_000_000 * SECOND_NS
REQUEST = GrantRequest(
    cameras=("gate-1",),
    start_ns=NOW - HOUR_NS,
    end_ns=NOW,
    action="copy",
    document_no="2026-17",
    officials=("Li Lei:C-1", "Han Meimei:C-2"),
    expires_ns=None,
    actor="test",
)


class Log(list[AuditEvent]):
    def __call__(self, event: AuditEvent) -> int:
        assert decode_event(encode_event(event)) == event, "it must survive the log"
        self.append(event)
        return len(self) - 1


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def office(log: Log) -> GrantOffice:
    key = Ed25519PrivateKey.generate()
    return GrantOffice(INSTALLATION, False, key, log, lambda camera: camera.startswith("gate"))


def test_a_lawful_request_is_entered_and_then_signed(log: Log, office: GrantOffice) -> None:
    issued = create_grant(REQUEST, office, NOW)
    key = office.signing_key.public_key()
    assert verify_grant(issued.token, key, INSTALLATION, NOW) == issued.grant
    (entry,) = log
    assert isinstance(entry, GrantIssued)
    assert entry.grant_id == issued.grant.grant_id and issued.audit_index == 0
    assert entry.officials == (
        AuditedOfficial("Li Lei", "C-1"),
        AuditedOfficial("Han Meimei", "C-2"),
    )
    assert issued.grant.expires_ns == NOW + 24 * HOUR_NS


def test_it_expires(office: GrantOffice) -> None:
    issued = create_grant(replace(REQUEST, expires_ns=NOW + HOUR_NS), office, NOW)
    key = office.signing_key.public_key()
    verify_grant(issued.token, key, INSTALLATION, NOW + HOUR_NS - 1)
    with pytest.raises(GrantRejected) as caught:
        verify_grant(issued.token, key, INSTALLATION, NOW + HOUR_NS)
    assert caught.value.code == "EXPIRED"


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no document": ({"document_no": ""}, "NO_DOCUMENT"),
    "blank document": ({"document_no": " \t"}, "NO_DOCUMENT"),
    "nobody": ({"officials": ()}, "ONE_PERSON_ONLY"),
    "one": ({"officials": ("Li Lei:1",)}, "ONE_PERSON_ONLY"),
    "one twice": ({"officials": ("Li Lei:1", "Li Lei:1")}, "ONE_PERSON_ONLY"),
    "one name, two cards": ({"officials": ("Li Lei:1", "li  lei:2")}, "ONE_PERSON_ONLY"),
    "two names, one card": ({"officials": ("Li Lei:C-1", "Han:c 1")}, "ONE_PERSON_ONLY"),
    "full-width spelling": ({"officials": ("Li:1", "\uff2c\uff49:2")}, "ONE_PERSON_ONLY"),
    "two of three": ({"officials": ("A:1", "B:2", "a:3")}, "ONE_PERSON_ONLY"),
    "no card": ({"officials": ("Li Lei:", "Han:2")}, "DOC_INCOMPLETE"),
    "no name": ({"officials": ("Li Lei:1", ":2")}, "DOC_INCOMPLETE"),
    "no colon": ({"officials": ("Li Lei", "Han:2")}, "DOC_INCOMPLETE"),
    "unknown camera": ({"cameras": ("roof",)}, "OUT_OF_SCOPE"),
    "no camera": ({"cameras": ()}, "OUT_OF_SCOPE"),
    "a camera twice": ({"cameras": ("gate-1", "gate-1")}, "OUT_OF_SCOPE"),
    "empty range": ({"end_ns": NOW - HOUR_NS}, "OUT_OF_SCOPE"),
    "reversed range": ({"end_ns": NOW - 2 * HOUR_NS}, "OUT_OF_SCOPE"),
    "the future": ({"start_ns": NOW, "end_ns": NOW + 1}, "OUT_OF_SCOPE"),
    "expired at birth": ({"expires_ns": NOW}, "OUT_OF_SCOPE"),
    "for a month": ({"expires_ns": NOW + 31 * 24 * HOUR_NS}, "OUT_OF_SCOPE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_an_entry_and_no_token(case: str, log: Log, office: GrantOffice) -> None:
    changes, code = REFUSED[case]
    with pytest.raises(Refused) as caught:
        create_grant(replace(REQUEST, **changes), office, NOW)
    assert caught.value.code == code
    assert caught.value.article and caught.value.remedy
    (entry,) = log
    assert isinstance(entry, GrantRefused)
    assert (entry.code, entry.actor) == (code, "test")


def test_no_entry_no_token(office: GrantOffice) -> None:
    def full(event: AuditEvent) -> int:
        raise DiskError("append", OSError(28, "No space left on device"), path="audit")

    with pytest.raises(DiskError):
        create_grant(REQUEST, replace(office, audit=full), NOW)


def test_a_range_may_reach_into_the_future(office: GrantOffice) -> None:
    """A case that is still going on: what is not recorded yet can be fetched once it is."""
    issued = create_grant(replace(REQUEST, end_ns=NOW + HOUR_NS), office, NOW)
    assert issued.grant.end_ns == NOW + HOUR_NS


def test_a_trial_says_so(office: GrantOffice) -> None:
    assert create_grant(REQUEST, replace(office, trial=True), NOW).grant.trial


@given(st.text(max_size=30), st.text(max_size=30))
def test_whoever_is_signed_for_is_two_people(one: str, other: str) -> None:
    log = Log()
    key = Ed25519PrivateKey.generate()
    office = GrantOffice(INSTALLATION, False, key, log, lambda camera: True)
    request = replace(REQUEST, officials=(f"{one}:1", f"{other}:2"))
    squash: Callable[[str], str] = lambda name: "".join(name.split()).casefold()  # noqa: E731
    try:
        grant = create_grant(request, office, NOW).grant
    except Refused:
        assert isinstance(log[-1], GrantRefused)
    else:
        first, second = grant.officials
        assert first.name and second.name and squash(first.name) != squash(second.name)


@pytest.mark.parametrize(
    ("text", "official"),
    [
        ("Li Lei:C-1", Official("Li Lei", "C-1")),
        ("  Li   Lei : C 1 ", Official("Li Lei", "C 1")),
        ("李雷\uff1a警号001", Official("李雷", "警号001")),
        ("Li: the second:7", Official("Li: the second", "7")),
    ],
)
def test_officials_as_typed(text: str, official: Official) -> None:
    assert parse_official(text) == official
