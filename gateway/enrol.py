"""What a person or a file asks to be recorded, checked field by field before the registry.

Owns the fields of an enrolment, the two file formats of ``camera import`` and the checks that
need no other part: id, URL, place, retention, transport. Never stores anything and never prints a
URL: they hold credentials.

- A file is taken whole or not at all; every bad line is named with its number and reason.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from gateway.errors import GatewayError
from gateway.legal.places import Place, check_place
from gateway.legal.refusals import Refused
from storage.base.ids import parse_camera_id
from storage.errors import ValueFormatError

URL_CHARACTERS_MAX = 2048
IMPORT_CAMERAS_MAX = 100_000
TRANSPORTS = ("tcp",)

_REQUIRED = ("id", "url", "place_category", "place_type")
_OPTIONAL = ("retention", "transport", "basis_doc")


class EnrolmentError(GatewayError):
    """A field of an enrolment cannot be used."""

    code = "BAD_CAMERA"


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line (1-based) of an import file and why it cannot be used.

    ``camera_id`` may be empty.
    """

    line: int
    camera_id: str
    code: str
    reason: str


class ImportRejected(GatewayError):
    """Nothing of the file was taken; ``bad`` names every line at fault, in order."""

    code = "IMPORT_REJECTED"

    def __init__(self, name: str, bad: Sequence[BadLine]) -> None:
        count = len(bad)
        lines = "\n".join(
            f"  line {b.line}{f' ({b.camera_id})' if b.camera_id else ''}: {b.code}: {b.reason}"
            for b in bad
        )
        super().__init__(
            f"{name}: {count} bad line{'s' if count > 1 else ''}, nothing was imported\n{lines}",
            remedy="correct these lines and import the file again",
        )
        self.bad = tuple(bad)


@dataclass(frozen=True, slots=True)
class CameraRequest:
    """What was asked for, unchecked. ``line`` is 0 unless it came from a file."""

    id: str
    url: str = field(repr=False)
    place_category: int
    place_type: str
    retention: str | None = None
    transport: str | None = None
    basis_doc: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class CheckedCamera:
    """A request whose every field holds."""

    id: str
    url: str = field(repr=False)
    place: Place
    retention: str
    transport: str
    line: int


@dataclass(frozen=True, slots=True)
class EnrolmentRules:
    """What the installation allows: its retention classes, their default, and the day."""

    retention_classes: frozenset[str]
    retention_default: str
    today: date


def check_request(request: CameraRequest, rules: EnrolmentRules) -> CheckedCamera:
    """Raises Refused (places), EnrolmentError, ValueFormatError (id)."""
    # The place first: an attempt on a private place counts as one even if the rest is wrong too.
    place = check_place(request.place_category, request.place_type, request.basis_doc, rules.today)
    camera_id = parse_camera_id(request.id)
    _check_url(request.url)
    retention = request.retention or rules.retention_default
    if retention not in rules.retention_classes:
        known = ", ".join(sorted(rules.retention_classes))
        raise EnrolmentError(
            f"retention class {retention!r} does not exist here", remedy=f"one of: {known}"
        )
    transport = (request.transport or "tcp").lower()
    if transport not in TRANSPORTS:
        raise EnrolmentError(
            f"transport {transport!r} is not available",
            remedy="use tcp: RTP interleaved in the RTSP connection",
        )
    return CheckedCamera(camera_id, request.url, place, retention, transport, request.line)


def check_all(
    requests: Sequence[CameraRequest], rules: EnrolmentRules
) -> tuple[list[CheckedCamera], list[BadLine]]:
    """Every request's result; ids that occur twice are bad at their second occurrence."""
    good: list[CheckedCamera] = []
    bad: list[BadLine] = []
    first_line: dict[str, int] = {}
    for request in requests:
        try:
            checked = check_request(request, rules)
            if checked.id in first_line:
                raise EnrolmentError(
                    f"the id was used on line {first_line[checked.id]} already", remedy=""
                )
        except ValueFormatError as error:
            bad.append(BadLine(request.line, request.id, "BAD_CAMERA", str(error)))
        except (Refused, EnrolmentError) as error:
            bad.append(BadLine(request.line, request.id, error.code, str(error)))
        else:
            first_line[checked.id] = request.line
            good.append(checked)
    return good, bad


def _check_url(url: str) -> None:
    def refuse(reason: str, remedy: str = "write it as rtsp://user:password@host:554/path") -> None:
        # Never the URL itself: it may hold a password, and this one could not be taken apart.
        raise EnrolmentError(f"the camera URL {reason}", remedy=remedy)

    if len(url) > URL_CHARACTERS_MAX:
        refuse(f"is longer than {URL_CHARACTERS_MAX} characters")
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in url):
        refuse("holds a blank or a control character", "write it as %20")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        refuse(
            "has no valid host and port",
            "percent-encode special characters of the password: / as %2F, @ as %40, : as %3A",
        )
        raise AssertionError("refuse() raises") from None
    if parts.scheme.lower() != "rtsp":
        refuse(f"has the scheme {parts.scheme or 'none'!r}")
    if not host:
        refuse("names no host")
    if port == 0:
        refuse("names port 0")
    if "@" in parts.path and "@" not in parts.netloc:
        refuse("has an @ in its path", "write it as %40; in a password write / as %2F")
    if parts.fragment:
        refuse("has a fragment (#...)", "write # as %23")


def parse_import(name: str, data: bytes) -> tuple[list[CameraRequest], list[BadLine]]:
    """The requests of a JSON list or a CSV file with a header, each with its line number.

    Which of the two is told by the first character. Raises EnrolmentError when the file as a
    whole is neither.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EnrolmentError(
            f"{name}: line {line} is not UTF-8", remedy="save the file as UTF-8"
        ) from error
    items = _json_items(name, text) if text.lstrip().startswith("[") else _csv_items(name, text)
    requests: list[CameraRequest] = []
    bad: list[BadLine] = []
    for line, item in items:
        if len(requests) + len(bad) >= IMPORT_CAMERAS_MAX:
            raise EnrolmentError(
                f"{name}: more than {IMPORT_CAMERAS_MAX} cameras", remedy="split the file"
            )
        found = _request(line, item)
        if isinstance(found, BadLine):
            bad.append(found)
        else:
            requests.append(found)
    if not requests and not bad:
        raise EnrolmentError(f"{name}: no camera in it", remedy="one line, or one object, a camera")
    return requests, bad


def _request(line: int, item: Any) -> CameraRequest | BadLine:
    def refuse(reason: str) -> BadLine:
        shown = item.get("id") if isinstance(item, dict) else None
        return BadLine(line, shown if isinstance(shown, str) else "", "BAD_CAMERA", reason)

    if isinstance(item, BadLine):
        return item
    if not isinstance(item, dict):
        return refuse("not an object with the fields " + ", ".join(_REQUIRED))
    if unknown := sorted(set(item) - {*_REQUIRED, *_OPTIONAL}):
        return refuse(f"unknown field {unknown[0]!r}")
    # An empty CSV cell and a JSON null both mean "not given".
    item = {key: value for key, value in item.items() if value not in (None, "")}
    if missing := [key for key in _REQUIRED if key not in item]:
        return refuse(f"{missing[0]} is missing")
    category = item["place_category"]
    if isinstance(category, str) and category.strip().isdecimal() and len(category) < 10:
        category = int(category)
    if not isinstance(category, int) or isinstance(category, bool):
        return refuse("place_category is not a number from 1 to 13")
    for key, value in item.items():
        if key != "place_category" and not isinstance(value, str):
            return refuse(f"{key} is not text")
    return CameraRequest(**{**item, "place_category": category}, line=line)


def _json_items(name: str, text: str) -> Iterable[tuple[int, Any]]:
    """The elements of a JSON list with the line each begins on."""
    decoder = json.JSONDecoder()

    def line_at(position: int) -> int:
        return text.count("\n", 0, position) + 1

    def skip(position: int) -> int:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        return position

    def broken(position: int, reason: str) -> EnrolmentError:
        return EnrolmentError(
            f"{name}: line {line_at(position)}: {reason}", remedy="correct the JSON at that line"
        )

    position = skip(skip(0) + 1)
    while text[position : position + 1] != "]":
        try:
            item, end = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
            raise broken(position, reason) from error
        yield line_at(position), item
        position = skip(end)
        if text[position : position + 1] == ",":
            position = skip(position + 1)
            if text[position : position + 1] == "]":
                raise broken(position, "a comma before the end of the list")
        elif text[position : position + 1] != "]":
            raise broken(position, "a comma or the end of the list is missing")
    if skip(position + 1) != len(text):
        raise broken(position, "something follows the list")


def _csv_items(name: str, text: str) -> Iterable[tuple[int, Any]]:
    """The rows under the header as dicts; blank lines and ``#`` lines are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for row in reader:
            begins, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in row) or row[0].lstrip().startswith("#"):
                continue
            cells = [cell.strip() for cell in row]
            if header is None:
                header = [cell.lower() for cell in cells]
                if missing := [key for key in _REQUIRED if key not in header]:
                    columns = ",".join(_REQUIRED + _OPTIONAL)
                    raise EnrolmentError(
                        f"{name}: line {begins}: the header has no column {missing[0]}",
                        remedy=f"the first line names the columns: {columns}",
                    )
                if len(set(header)) != len(header):
                    raise EnrolmentError(
                        f"{name}: line {begins}: the header names a column twice", remedy=""
                    )
            elif len(cells) != len(header):
                reason = f"{len(cells)} cells, the header has {len(header)}"
                yield begins, BadLine(begins, "", "BAD_CAMERA", reason)
            else:
                yield begins, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise EnrolmentError(
            f"{name}: line {reader.line_num}: {error}", remedy="correct the CSV at that line"
        ) from error
