"""URLs: what is connected to, what is sent, and where the password goes (nowhere)."""

from __future__ import annotations

import pytest

from gateway.errors import RtspLimitError, RtspSyntaxError
from gateway.rtsp.messages import Credentials, Response, RtspUrl


@pytest.mark.parametrize(
    ("text", "address", "target", "credentials"),
    [
        ("rtsp://10.0.0.1", ("10.0.0.1", 554), "", None),
        ("rtsp://cam:8554/a/b?c=d&e", ("cam", 8554), "/a/b?c=d&e", None),
        ("RTSP://u:p@cam/x", ("cam", 554), "/x", ("u", "p")),
        ("rtsp://u:p%40%3A%2f@cam/x", ("cam", 554), "/x", ("u", "p@:/")),
        ("rtsp://u:p@ss:w@cam/x", ("cam", 554), "/x", ("u", "p@ss:w")),
        ("rtsp://u@cam?x", ("cam", 554), "?x", ("u", "")),
        ("rtsp://[fe80::1]:555/x@y", ("fe80::1", 555), "/x@y", None),
        ("rtsp://cam/x#fragment", ("cam", 554), "/x", None),
    ],
)
def test_urls(
    text: str, address: tuple[str, int], target: str, credentials: tuple[str, str] | None
) -> None:
    url = RtspUrl.parse(text)
    assert (url.address, url.target) == (address, target)
    assert url.credentials == (Credentials(*credentials) if credentials else None)
    assert "@" not in str(url).partition("/x")[0]
    if credentials:
        assert credentials[0] not in str(url.authority)
        assert repr(credentials[1]) not in repr(url)


@pytest.mark.parametrize(
    "text",
    ["", "http://cam/", "rtsp://", "rtsp:///x", "rtsp://cam:0/", "rtsp://cam:99999/", "rtsp://[::1",
     "rtsp://cam/a b", "rtsp://cam/\r\nX: y", "rtsp://cam:port/", "rtsp://u:p@/x"],
)  # fmt: skip
def test_no_urls(text: str) -> None:
    with pytest.raises(RtspSyntaxError):
        RtspUrl.parse(text)


def test_a_url_has_a_length() -> None:
    with pytest.raises(RtspLimitError):
        RtspUrl.parse("rtsp://cam/" + "a" * 4000)


def test_an_answer_has_a_reason_and_a_length() -> None:
    assert Response(454).encode() == b"RTSP/1.0 454 Session Not Found\r\n\r\n"
    assert Response(200, body=b"abc").encode().endswith(b"Content-Length: 3\r\n\r\nabc")
