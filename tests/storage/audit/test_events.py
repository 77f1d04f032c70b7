"""Events have one encoding; it decodes to the same event, and nothing else decodes."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.audit.events import (
    EVENT_TYPES,
    AuditedOfficial,
    AuditEvent,
    ClipOpened,
    ClipRefused,
    decode_event,
    encode_event,
)
from storage.audit.log import AuditEntry

times = st.integers(0, 253_402_300_799 * 10**9)
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: names,
    bytes: st.binary(max_size=40),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(names, max_size=3).map(tuple),
    tuple[AuditedOfficial, ...]: st.lists(
        st.builds(AuditedOfficial, name=names, card=names), max_size=3
    ).map(tuple),
}


@st.composite
def events(draw: st.DrawFn) -> AuditEvent:
    kind = draw(st.sampled_from(sorted(EVENT_TYPES)))
    target = EVENT_TYPES[kind]
    hints = typing.get_type_hints(target)
    values = {}
    for field in dataclasses.fields(target):
        hint = hints[field.name]
        if field.name.endswith("_ns"):
            values[field.name] = draw(times if hint is int else st.none() | times)
        else:
            values[field.name] = draw(VALUES.get(hint, st.integers(0, 2**53)))
    return target(**values)


@settings(max_examples=300, deadline=None)
@given(event=events())
def test_every_event_comes_back(event: AuditEvent) -> None:
    data = encode_event(event)
    assert b"\0" not in data, "L3 relies on it"
    assert decode_event(data) == event
    assert AuditEntry(0, data).event == event


def test_the_bytes_are_these() -> None:
    event = ClipRefused(
        time_ns=1_767_225_600_000_000_001,
        code="EXPIRED",
        message="abgelaufen: 过期",
        grant_id="",
        token_sha256=b"\xab\xcd",
        camera_id="gate-1",
        requested_start_ns=None,
        requested_end_ns=1_767_225_600_000_000_000,
        client="",
    )
    assert encode_event(event).decode() == (
        '{"camera_id":"gate-1","client":"","code":"EXPIRED","grant_id":"",'
        '"message":"abgelaufen: 过期","requested_end":"2026-01-01T00:00:00.000Z",'
        '"requested_start":null,"time":"2026-01-01T00:00:00.000000001Z",'
        '"token_sha256":"abcd","type":"clip_refused","version":1}'
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"type":"no_such","version":1}',
        b'{"camera_id":"x","camera_uid":"00","actor":1,"time":"2026-01-01T00:00:00.000Z",'
        b'"type":"camera_removed","version":1}',
        b'{"actor":"a","camera_id":"x","camera_uid":"00","more":1,'
        b'"time":"2026-01-01T00:00:00.000Z","type":"camera_removed","version":1}',
        b'{"actor":"a", "camera_id":"x","camera_uid":"00",'
        b'"time":"2026-01-01T00:00:00.000Z","type":"camera_removed","version":1}',
        b'{"actor":"a","camera_id":"x","camera_uid":"00",'
        b'"time":"2026-01-01T00:00:00Z","type":"camera_removed","version":1}',
        b'{"actor":"a","camera_id":"x","camera_uid":"00",'
        b'"time":"2026-01-01T00:00:00.000Z","type":"camera_removed","version":2}',
    ],
)
def test_other_bytes_are_no_event(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_event(data)


def test_kinds_are_unique_and_events_frozen() -> None:
    assert "" not in EVENT_TYPES
    assert all(kind == event.kind for kind, event in EVENT_TYPES.items())
    parameters = ClipOpened.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen
