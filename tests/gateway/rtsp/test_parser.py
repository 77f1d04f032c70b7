"""Messages from bytes: captures, hostile input, and every way to split a stream."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import RtspLimitError, RtspSyntaxError, WireError
from gateway.limits import RTSP_BODY_BYTES_MAX, RTSP_HEAD_BYTES_MAX, RTSP_HEADERS_MAX
from gateway.rtsp.messages import Headers, Request, Response
from gateway.rtsp.parser import InterleavedFrame, Message, MessageParser, parse_message
from gateway.rtsp.quirks import QuirkNotes

CAPTURES = [
    "bunny_describe",
    "bunny_play",
    "bunny_setup",
    "dahua_describe_h264_aac_onvif",
    "dahua_options",
    "dahua_play",
    "dahua_setup",
    "foscam_describe",
    "hikvision_describe",
    "hikvision_play",
    "hikvision_setup",
    "reolink_describe",
    "reolink_play",
    "reolink_setup",
    "reolink_teardown",
]


def test_every_capture_is_listed(media_dir: Path) -> None:
    assert sorted(CAPTURES) == sorted(p.stem for p in (media_dir / "rtsp").glob("*.txt"))


@pytest.mark.parametrize("name", CAPTURES)
def test_camera_answers_parse_and_encode_to_the_same(media_dir: Path, name: str) -> None:
    data = (media_dir / "rtsp" / f"{name}.txt").read_bytes()
    notes = QuirkNotes()
    message = parse_message(data, notes)
    assert isinstance(message, Response)
    assert (message.status, message.reason) == (200, "OK")
    assert message.headers.get("cseq").isdigit()
    assert not list(notes), "a well-known camera needs no mending of its messages"
    if "describe" in name:
        assert message.body.startswith(b"v=0")
    assert parse_message(message.encode()) == message


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("rtsp_requests_aac", ["DESCRIBE", "SETUP", "PLAY"]),
        ("rtsp_requests_mkv", ["DESCRIBE", "SETUP", "SETUP", "PLAY", "TEARDOWN"]),
    ],
)
def test_client_requests_parse(media_dir: Path, name: str, methods: list[str]) -> None:
    data = (media_dir / "rtsp" / f"{name}.raw").read_bytes()
    requests = list(MessageParser().feed(data))
    assert [r.method for r in requests if isinstance(r, Request)] == methods
    assert (
        b"".join(r.encode() for r in requests if isinstance(r, Request))
        == data.rstrip(b"\r\n") + b"\r\n\r\n"
    )


def test_interleaved_capture_splits_into_its_frames(media_dir: Path) -> None:
    data = (media_dir / "rtsp" / "bunny.rtsp").read_bytes()
    frames = list(MessageParser().feed(data))
    assert all(isinstance(f, InterleavedFrame) for f in frames)
    channels = [f.channel for f in frames if isinstance(f, InterleavedFrame)]
    assert (channels.count(0), channels.count(2)) == (102, 269)


STREAM = (
    b"OPTIONS rtsp://h/a RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    b"$\x00\x00\x05\r\n\r\n$"
    b"\r\nRTSP/1.0 200 OK\nCSeq: 2\nContent-Length: 6\n\n\r\n\r\n$$"
    b"$\x07\x00\x00"
    b'RTSP/1.0 401\r\nWWW-Authenticate: Basic realm="x",\r\n Digest nonce="y"\r\n\r\n'
)


def collect(pieces: list[bytes]) -> tuple[list[Message | InterleavedFrame], dict[str, int]]:
    notes = QuirkNotes()
    parser = MessageParser(notes)
    found = [item for piece in pieces for item in parser.feed(piece)]
    # How often blank lines were skipped depends on the split, that they were does not.
    return found, {name: count for name, count in notes if name != "leading_blank_lines"}


def test_any_split_gives_the_same_messages() -> None:
    """P2: whole, byte-wise, and every split in two."""
    whole = collect([STREAM])
    assert len(whole[0]) == 5
    assert collect([bytes((byte,)) for byte in STREAM]) == whole
    for at in range(1, len(STREAM)):
        assert collect([STREAM[:at], STREAM[at:]]) == whole, at


header_text = st.text(
    st.characters(codec="ascii", exclude_characters="\r\n\x00", min_codepoint=33), max_size=20
)
token = st.text("ABCdef-9", min_size=1, max_size=12)
messages = st.one_of(
    st.builds(
        Request,
        st.sampled_from(["OPTIONS", "DESCRIBE", "SET_PARAMETER"]),
        st.just("rtsp://h/x?y=1"),
        st.builds(Headers, st.lists(st.tuples(token, header_text), max_size=5)),
        st.binary(max_size=40),
    ),
    st.builds(
        Response,
        st.integers(100, 599),
        st.sampled_from(["OK", "Not Found", "x y z"]),
        st.builds(Headers, st.lists(st.tuples(token, header_text), max_size=5)),
        st.binary(max_size=40),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(messages, max_size=4), st.randoms(use_true_random=False))
def test_what_is_encoded_is_parsed_again(sent: list[Message], rng: random.Random) -> None:
    data = b"".join(message.encode() for message in sent)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    parser = MessageParser()
    got = [item for piece in pieces for item in parser.feed(piece)]
    for before, after in zip(sent, got, strict=True):
        assert parse_message(before.encode()) == after
        assert after.body == before.body  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "offset", "rule"),
    [
        (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n", 26, "ends inside its head"),
        (b"HTTP/1.1 200 OK\r\n\r\n", 0, "neither"),
        (b"RTSP/2.0 200 OK\r\n\r\n", 0, "not RTSP/1.0"),
        (b"RTSP/1.0 20 OK\r\n\r\n", 0, "neither"),
        (b"RTSP/1.0 200 OK\r\nA: b\r\nB(: c\r\n\r\n", 23, "no token"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: x\r\n\r\n", 0, "not a number"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n", 0, "not a number"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 0, "twice"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nab", 38, "body has 2 bytes"),
        (b"RTSP/1.0 200 OK\r\n\r\nleft over", 19, "body has 9 bytes"),
        (b"PLAY\r\n\r\n", 0, "neither"),
        (b"PL(AY rtsp://x RTSP/1.0\r\n\r\n", 0, "no token"),
    ],
)
def test_errors_say_where_and_which_rule(data: bytes, offset: int, rule: str) -> None:
    with pytest.raises(RtspSyntaxError) as caught:
        parse_message(data)
    assert caught.value.offset == offset
    assert rule in caught.value.rule


def test_offsets_count_from_the_start_of_the_stream() -> None:
    parser = MessageParser()
    first = b"RTSP/1.0 200 OK\r\n\r\n"
    items = parser.feed(first + b"\x00")
    assert isinstance(next(items), Response)
    with pytest.raises(RtspSyntaxError) as caught:
        next(items)
    assert caught.value.offset == len(first)


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (b"RTSP/1.0 200 OK\r\nA: " + b"a" * RTSP_HEAD_BYTES_MAX, "RTSP_HEAD_BYTES_MAX"),
        (
            b"RTSP/1.0 200 OK\r\n" + b"A: b\r\n" * (RTSP_HEADERS_MAX + 1) + b"\r\n",
            "RTSP_HEADERS_MAX",
        ),
        (
            b"RTSP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (RTSP_BODY_BYTES_MAX + 1),
            "RTSP_BODY_BYTES_MAX",
        ),
    ],
)
def test_bounds_are_errors_not_memory(data: bytes, limit: str) -> None:
    with pytest.raises(RtspLimitError) as caught:
        list(MessageParser().feed(data))
    assert caught.value.limit == limit
    with pytest.raises(WireError):
        parse_message(data)


def seeds(media_dir: Path, *folders: str) -> Iterator[bytes]:
    for folder in folders:
        files = sorted((media_dir / "fuzz-seeds" / folder).iterdir())
        assert files, folder
        yield from (file.read_bytes() for file in files)


def mutations(data: bytes, count: int = 200) -> Iterator[bytes]:
    """The input itself, and what random edits make of it; the same every time."""
    rng = random.Random(len(data))
    yield data
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(changed) + 1)
            change = rng.randrange(4)
            if change == 0 and at < len(changed):
                changed[at] = rng.randrange(256)
            elif change == 1:
                del changed[at : at + rng.randrange(8)]
            elif change == 2:
                changed[at:at] = rng.choice(
                    (b"\r\n", b"\n\n", b":", b"$", b"\x00", b'"', b";", b"=")
                )
            else:
                changed[at:at] = changed[: rng.randrange(16)]
        yield bytes(changed)


def test_fuzz_seeds_raise_typed_errors_only(media_dir: Path) -> None:
    """P1, over what broke other parsers and what cameras say, both mutilated."""
    bases = list(
        seeds(
            media_dir,
            "gortsplib_base_FuzzHeaderUnmarshal",
            "gortsplib_base_FuzzInterleavedFrameUnmarshal",
            "gortsplib_base_FuzzRequestUnmarshal",
            "gortsplib_base_FuzzResponseUnmarshal",
        )
    )
    bases += [(media_dir / "rtsp" / f"{name}.txt").read_bytes() for name in CAPTURES]
    for base in bases:
        for data in mutations(base):
            for parse in (parse_message, lambda d: list(MessageParser().feed(d))):
                with contextlib.suppress(WireError):
                    parse(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_typed_errors_only(data: bytes) -> None:
    for prefix in (b"", b"RTSP/1.0 200 OK\r\n", b"PLAY rtsp://h RTSP/1.0\r\nCSeq: 1\r\n"):
        with contextlib.suppress(WireError):
            parse_message(prefix + data)
        with contextlib.suppress(WireError):
            list(MessageParser().feed(prefix + data))


def test_headers_compare_names_without_case_and_keep_order() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert headers.get("B") == "2"
    assert headers.get_all("a") == ["1", "3"]
    assert headers.get("none", "x") == "x"
    assert "B" in headers and "c" not in headers
    assert headers == Headers([("a", "1"), ("B", "2"), ("A", "3")])


def test_secrets_are_not_shown() -> None:
    request = Request("PLAY", "rtsp://h", Headers([("Authorization", "Basic c2VjcmV0")]))
    assert "c2VjcmV0" not in repr(request)
    assert b"c2VjcmV0" in request.encode()
