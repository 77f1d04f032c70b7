"""Goal: nothing unchecked reaches the registry, and every bad line of an import is named."""

from __future__ import annotations

import json
from datetime import date

import pytest

from gateway.enrol import (
    BadLine,
    CameraRequest,
    EnrolmentError,
    EnrolmentRules,
    check_all,
    check_request,
    parse_import,
)
from gateway.legal.refusals import Refused

RULES = EnrolmentRules(frozenset({"R30", "R90-AT"}), "R30", date(2026, 5, 4))
GOOD = CameraRequest("gate-1", "rtsp://user:pass@10.0.0.1:554/s", 8, "road")


def request(**changes: object) -> CameraRequest:
    fields = {name: getattr(GOOD, name) for name in GOOD.__slots__}
    return CameraRequest(**{**fields, **changes})


def test_a_good_request_comes_back_with_defaults_filled_in() -> None:
    checked = check_request(GOOD, RULES)
    assert (checked.id, checked.retention, checked.transport) == ("gate-1", "R30", "tcp")
    assert checked.place.type == "road"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://cam/s", "scheme"),
        ("cam/s", "scheme"),
        ("rtsp:///s", "no host"),
        ("rtsp://cam:99999/s", "no valid host and port"),
        ("rtsp://cam:0/s", "port 0"),
        ("rtsp://admin:pa/ss@cam/s", "no valid host and port"),
        ("rtsp://admin:1/ss@cam/s", "an @ in its path"),
        ("rtsp://cam/a b", "blank"),
        ("rtsp://cam/a\nb", "control character"),
        ("rtsp://cam/#1", "fragment"),
        ("rtsp://cam/" + "a" * 3000, "longer than"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_repeated(url: str, said: str) -> None:
    with pytest.raises(EnrolmentError, match=said) as caught:
        check_request(request(url=url), RULES)
    assert "ss@cam" not in str(caught.value) + caught.value.remedy
    assert "admin" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["rtsp://cam/s", "rtsp://[2001:db8::1]:8554/s?channel=1&subtype=0", "RTSP://u:p%2F@cam"],
)
def test_usual_urls_are_taken(url: str) -> None:
    assert check_request(request(url=url), RULES).url == url


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"retention": "TRIAL"}, "does not exist here"),
        ({"transport": "udp"}, "not available"),
        ({"transport": "carrier-pigeon"}, "not available"),
    ],
)
def test_other_fields(changes: dict[str, object], said: str) -> None:
    with pytest.raises(EnrolmentError, match=said):
        check_request(request(**changes), RULES)


def test_a_private_place_counts_even_if_all_else_is_wrong() -> None:
    with pytest.raises(Refused) as caught:
        check_request(request(id="", url="nonsense", place_type="toilet", place_category=99), RULES)
    assert caught.value.code == "PRIVATE_PLACE"


def test_the_repr_of_a_request_holds_no_url() -> None:
    assert "pass" not in repr(GOOD)
    assert "pass" not in repr(check_request(GOOD, RULES))


CSV = """\
# cameras of the harbour
id,url,place_category,place_type,retention
a,rtsp://h/a,8,road,R30

b,rtsp://h/b,8,road,
c,rtsp://h/c,eight,road,
d,rtsp://h/d,8
e,rtsp://h/e,8,toilet,
a,rtsp://h/f,8,road,
,rtsp://h/g,8,road,
"""


def test_every_bad_line_of_a_csv_is_named() -> None:
    requests, bad = parse_import("cams.csv", CSV.encode())
    good, refused = check_all(requests, RULES)
    assert [c.id for c in good] == ["a", "b"]
    found = {(b.line, b.code) for b in [*bad, *refused]}
    assert found == {
        (6, "BAD_CAMERA"),
        (7, "BAD_CAMERA"),
        (8, "PRIVATE_PLACE"),
        (9, "BAD_CAMERA"),
        (10, "BAD_CAMERA"),
    }
    assert BadLine(7, "", "BAD_CAMERA", "3 cells, the header has 5") in bad


def test_every_bad_object_of_a_json_list_is_named_with_its_line() -> None:
    text = """[
  {"id": "a", "url": "rtsp://h/a", "place_category": 8, "place_type": "road"},
  {"id": "b", "url": "rtsp://h/b",
   "place_category": true, "place_type": "road"},
  {"id": "c", "url": "rtsp://h/c", "place_category": 8, "place_type": "road", "colour": "red"},
  17,
  {"id": "d", "place_category": 8, "place_type": "road"}
]"""
    requests, bad = parse_import("cams.json", text.encode())
    assert [(r.line, r.id) for r in requests] == [(2, "a")]
    assert [(b.line, b.camera_id) for b in bad] == [(3, "b"), (5, "c"), (6, ""), (7, "d")]
    assert "colour" in bad[1].reason and "url is missing" in bad[3].reason


def test_both_formats_mean_the_same() -> None:
    rows = [
        {"id": "x", "url": "rtsp://h/x", "place_category": 13, "place_type": "road",
         "basis_doc": "order 7", "transport": "tcp"},
    ]  # fmt: skip
    header = "transport,id,url,place_category,place_type,basis_doc\n"
    (from_json,), _ = parse_import("j", json.dumps(rows).encode())
    (from_csv,), _ = parse_import("c", (header + "tcp,x,rtsp://h/x,13,road,order 7\n").encode())
    assert check_request(from_json, RULES).place == check_request(from_csv, RULES).place


def test_a_spreadsheet_with_byte_order_mark_and_quotes_is_read() -> None:
    text = (
        'id,url,place_category,place_type,basis_doc\r\na,rtsp://h/a,13,road,"order 7, 2\r\nb"\r\n'
    )
    (found,), bad = parse_import("x", b"\xef\xbb\xbf" + text.encode())
    assert not bad and found.basis_doc == "order 7, 2\r\nb" and found.line == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no camera in it"),
        (b"[]", "no camera in it"),
        (b"[{]", "line 1"),
        (b'[\n{"id": 1}\n{"id": 2}]', "line 3: a comma or the end"),
        (b'[\n{"id": 1},\n]', "line 3: a comma before the end"),
        (b'[{"id": 1}] x', "something follows"),
        (b"[" * 100_000, "nested too deep"),
        (b"id,url\n", "no column place_category"),
        (b"id,id,url,place_category,place_type\n", "twice"),
        (b'id,url,place_category,place_type\n"a,b\n', "line"),
        (b"id,url,place_category,place_type\n\xff,b,8,road\n", "line 2 is not UTF-8"),
    ],
)
def test_a_file_that_is_neither_format(data: bytes, said: str) -> None:
    with pytest.raises(EnrolmentError, match=said):
        parse_import("file", data)
