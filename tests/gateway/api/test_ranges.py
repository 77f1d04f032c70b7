"""Goal: exactly the bytes asked for, or the answer RFC 9110 gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.ranges import Selection, select

TAG = '"abc"'


def answer(range_header: str | None, size: int = 1000, **more: str) -> Selection:
    return select(size=size, etag=TAG, range_header=range_header, **more)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (200, 0, 1000)),
        ("bytes=0-0", (206, 0, 1)),
        ("bytes=0-", (206, 0, 1000)),
        ("bytes=999-", (206, 999, 1000)),
        ("bytes=10-19", (206, 10, 20)),
        ("bytes=990-5000", (206, 990, 1000)),
        ("bytes=-1", (206, 999, 1000)),
        ("bytes=-5000", (206, 0, 1000)),
        ("BYTES = 1 - 2", (206, 1, 3)),
        ("bytes=1000-", (416, 0, 0)),
        ("bytes=1000-2000", (416, 0, 0)),
        ("bytes=-0", (416, 0, 0)),
        # ignored, as RFC 9110 section 14.2 allows: the whole is sent
        ("bytes=20-10", (200, 0, 1000)),
        ("bytes=-", (200, 0, 1000)),
        ("bytes=", (200, 0, 1000)),
        ("bytes=a-b", (200, 0, 1000)),
        ("bytes=0-1,5-6", (200, 0, 1000)),
        ("items=0-1", (200, 0, 1000)),
        ("bytes=" + "9" * 5000 + "-", (200, 0, 1000)),
        ("bytes=\u0663-\u0664", (200, 0, 1000)),
    ],
)
def test_single_ranges(header: str | None, expected: tuple[int, int, int]) -> None:
    found = answer(header)
    assert (found.status, found.start, found.end) == expected


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=0-0"])
def test_nothing_of_an_empty_representation_can_be_satisfied(header: str) -> None:
    assert answer(header, size=0).status == 416
    assert answer(None, size=0).status == 200


def test_content_range() -> None:
    assert answer("bytes=10-19").content_range == "bytes 10-19/1000"
    assert answer("bytes=1000-").content_range == "bytes */1000"
    assert answer(None).content_range is None


@pytest.mark.parametrize(
    ("if_range", "status"),
    [(TAG, 206), ('"other"', 200), (f"W/{TAG}", 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)],
)
def test_if_range_compares_strongly(if_range: str, status: int) -> None:
    assert answer("bytes=10-19", if_range=if_range).status == status


@pytest.mark.parametrize(
    ("header", "status"),
    [(TAG, 304), (f"W/{TAG}", 304), (f'"x", {TAG}', 304), ("*", 304), ('"x"', 200), ("abc", 200)],
)
def test_if_none_match_compares_weakly(header: str, status: int) -> None:
    assert answer(None, if_none_match=header).status == status
    assert answer("bytes=0-1", if_none_match=header).status in (304, 206)


@given(st.integers(0, 50), st.text(alphabet="bytes=0123456789-, x", max_size=20))
def test_no_header_selects_bytes_that_do_not_exist(size: int, header: str) -> None:
    found = select(size=size, etag=TAG, range_header=header)
    assert 0 <= found.start <= found.end <= size
    assert (found.status == 206) <= (found.length > 0)


@given(st.binary(min_size=1, max_size=50), st.integers(0, 60))
def test_a_download_resumed_anywhere_is_whole(data: bytes, at: int) -> None:
    rest = answer(f"bytes={at}-", size=len(data), if_range=TAG)
    if at < len(data):
        assert data[:at] + data[rest.start : rest.end] == data
    else:
        assert rest.status == 416
