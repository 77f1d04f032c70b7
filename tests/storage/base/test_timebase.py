"""Goal: times, ranges, sizes and names are parsed once, exactly, and refused with an example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.base.gap import Gap, GapCause
from storage.base.ids import camera_uid, new_camera_uid, parse_camera_id
from storage.base.retention import BUILT_IN, RetentionClass
from storage.base.timebase import (
    TimeRange,
    format_rfc3339,
    format_size,
    parse_rfc3339,
    parse_size,
)
from storage.errors import StorageError, ValueFormatError

TIMES = [
    ("1970-01-01T00:00:00Z", 0),
    ("2026-05-04T13:00:00+08:00", 1_777_870_800 * 10**9),
    ("2026-05-04T05:00:00Z", 1_777_870_800 * 10**9),
    ("2026-05-04t05:00:00.5z", 1_777_870_800 * 10**9 + 500_000_000),
    ("2026-05-04 05:00:00.123456789Z", 1_777_870_800 * 10**9 + 123_456_789),
    ("2016-12-31T23:59:60Z", 1_483_228_800 * 10**9),
    ("1969-12-31T23:59:59.999999999Z", -1),
]


@pytest.mark.parametrize(("text", "time_ns"), TIMES)
def test_rfc3339(text: str, time_ns: int) -> None:
    assert parse_rfc3339(text) == time_ns


@given(st.integers(-(10**18), 4 * 10**18))
def test_rfc3339_round_trip_loses_no_nanosecond(time_ns: int) -> None:
    text = format_rfc3339(time_ns)
    assert parse_rfc3339(text) == time_ns
    assert len(text.partition(".")[2]) == (4 if time_ns % 10**6 == 0 else 10)


@pytest.mark.parametrize(
    "text",
    [
        "2026-05-04T13:00:00",
        "2026-05-04",
        "2026-13-04T13:00:00Z",
        "2026-02-30T13:00:00Z",
        "2026-05-04T25:00:00Z",
        "2026-05-04T13:00:61Z",
        "2026-05-04T13:00:00+08:75",
        "2026-05-04T13:00:00+24:00",
        "2026-05-04T13:00:00.1234567891Z",
        "0001-01-01T00:00:00+23:00x",
        "yesterday",
        "",
    ],
)
def test_what_is_no_time_is_refused_never_guessed(text: str) -> None:
    with pytest.raises(ValueFormatError):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500GiB", 500 << 30),
        ("8TB", 8 * 10**12),
        ("1.5 TiB", 3 << 39),
        ("0.1kB", 100),
        ("4096", 4096),
        ("10b", 10),
        ("64 MIB", 64 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-5GiB", "5 XB", "1e3", "5GiB5", "0x10"])
def test_sizes_refused(text: str) -> None:
    with pytest.raises(ValueFormatError):
        parse_size(text)


def test_format_size() -> None:
    assert [format_size(n) for n in (0, 1023, 1024, 3 << 29, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
        "5.0 TiB",
    ]


def test_ranges_are_half_open() -> None:
    one = TimeRange(10, 20)
    assert 10 in one and 20 not in one
    assert not one.touches(TimeRange(20, 30))
    assert one.touches(TimeRange(19, 30))
    assert one.intersect(TimeRange(15, 99)) == TimeRange(15, 20)
    assert one.intersect(TimeRange(20, 30)) is None
    with pytest.raises(ValueFormatError):
        TimeRange(5, 4)


def test_camera_names() -> None:
    assert parse_camera_id("Gate-3_north.2") == "Gate-3_north.2"
    for bad in ("", "..", "a b", "x" * 65, "ümlaut", "a/b"):
        with pytest.raises(ValueFormatError):
            parse_camera_id(bad)
    made = new_camera_uid()
    assert camera_uid(made.hex()) == camera_uid(made) == made
    for wrong in ("zz", b"short"):
        with pytest.raises(StorageError):
            camera_uid(wrong)


def test_gaps_and_classes_check_themselves() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        Gap(5, 4, GapCause.STALL)
    assert set(BUILT_IN) == {"R30", "R90-AT", "TRIAL"}
    for wrong in ({"id": "TOOLONGID"}, {"min_days": -1}, {"target_days": 1}):
        fields = {"id": "X", "min_days": 5, "target_days": 6, "basis": ""} | wrong
        with pytest.raises(ValueError, match="retention class"):
            RetentionClass(**fields)  # type: ignore[arg-type]
