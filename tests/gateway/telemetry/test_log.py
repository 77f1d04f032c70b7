"""Goal: logs are one JSON object a line, without credentials, without storms."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway.telemetry.log import configure_logging, get_logger, redact


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    configure_logging("debug", "auto", "worker-3", stream)
    yield stream
    root.handlers[:], root.level = before
    structlog.reset_defaults()


SECRETS = [
    ("rtsp://admin:hunter2@10.0.0.1:554/s", "rtsp://***@10.0.0.1:554/s"),
    ("see rtsp://admin:hun@ter2@h/s?x=1.", "see rtsp://***@h/s?x=1."),
    ("rtsp://hunter2@h", "rtsp://***@h"),
    ('Authorization: Digest username="a", response="hunter2"', "Authorization: ***"),
    ("authorization: Bearer hunter2", "authorization: ***"),
    (
        "grant eyJhbGciOiJFZDI1NTE5In0.eyJqdGkiOiJodW50ZXIyIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ !",
        "grant *** !",
    ),
]


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(redact(text)) == redact(text)


def test_harmless_text_is_left_alone() -> None:
    for text in ("rtsp://10.0.0.1:554/s", "mail a@b.c", "http://h/x@y", "a.b.c"):
        assert redact(text) == text


@pytest.mark.parametrize("text", [text for text, _ in SECRETS])
def test_no_credential_reaches_the_log_by_any_way(lines: io.StringIO, text: str) -> None:
    log = get_logger("test")
    log.info("plain", url=text, nested={"a": [text], "b": text.encode()}, error=ValueError(text))
    logging.getLogger("uvicorn.error").info("stdlib %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("raised")
    log.info(text)
    assert "hunter2" not in lines.getvalue()
    assert "aHVudGVyMg" not in lines.getvalue() and "eyJqdGki" not in lines.getvalue()
    assert lines.getvalue().count("***") >= 6


def test_fields_named_like_secrets_are_hidden(lines: io.StringIO) -> None:
    get_logger("test").info("x", password="hunter2", admin_token="hunter2", options={"secret": 1})
    assert "hunter2" not in lines.getvalue()


def test_a_line_is_one_json_object(lines: io.StringIO) -> None:
    get_logger("test").info("feed_started", camera="gate-1", fps=25)
    logging.getLogger("other").warning("from %s", "outside")
    first, second = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert first["event"] == "feed_started" and first["process"] == "worker-3"
    assert (first["camera"], first["fps"], first["level"]) == ("gate-1", 25, "info")
    assert first["timestamp"].endswith("Z")
    assert second["event"] == "from outside" and second["level"] == "warning"


def test_errors_of_one_cause_are_limited_and_others_are_not(lines: io.StringIO) -> None:
    log = get_logger("test")
    for _ in range(50):
        log.warning("camera_offline", camera="a", code="CONNECT_FAILED")
    log.warning("camera_offline", camera="b", code="CONNECT_FAILED")
    for _ in range(50):
        log.info("harmless")
    events = [json.loads(line)["event"] for line in lines.getvalue().splitlines()]
    assert events.count("camera_offline") == 2
    assert events.count("harmless") == 50
