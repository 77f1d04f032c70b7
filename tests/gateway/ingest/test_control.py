"""Goal: requests get their answer, notices their order, and a broken peer harms nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gateway.errors import GatewayError
from gateway.ingest import control
from gateway.ingest.control import (
    Accepted,
    Answer,
    Assign,
    AuditAppend,
    AuditAppended,
    Channel,
    ControlError,
    ControlFailed,
    RegistryChanged,
    Request,
    StatusQuery,
    StopServe,
    StopWorker,
    WorkerReady,
    call,
    decode_frame,
    encode_frame,
    listen,
)
from gateway.ingest.model import CameraSpec
from gateway.limits import CONTROL_FRAME_BYTES_MAX, CONTROL_REQUESTS_MAX

EVENT = msgspec.Raw(b'{"a":1,"b":[2,3]}')
MESSAGES = [
    AuditAppend(EVENT),
    StatusQuery(),
    Assign(3, [CameraSpec("a", bytes(16), "rtsp://u:p@h/", "tcp", "R30")]),
    WorkerReady(1, 2),
    AuditAppended(7),
]


class Refusal(GatewayError):
    code = "NO"


async def answer(channel: Channel, body: Request) -> Answer | None:
    """What the server of these tests does."""
    match body:
        case AuditAppend():
            return AuditAppended(len(bytes(body.event)))
        case StopServe():
            raise Refusal("not now", remedy="later")
        case StatusQuery():
            await asyncio.sleep(3600)
    return Accepted()


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Channel, Channel]]:
    """Two ends of one connection, both served."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    async with asyncio.TaskGroup() as group:
        ends = []
        for end in (ours, theirs):
            reader, writer = await asyncio.open_connection(sock=end)
            ends.append(Channel(reader, writer, answer))
        tasks = [group.create_task(end.run()) for end in ends]
        yield ends[0], ends[1]
        for end in ends:
            end.close()
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize("body", MESSAGES, ids=lambda body: type(body).__name__)
def test_frames_are_read_as_written(body: Request | Answer) -> None:
    frame = encode_frame(9, body)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert decode_frame(frame[4:]) == (9, body)


def test_an_audit_event_crosses_byte_for_byte() -> None:
    """Its bytes are the leaf of the log."""
    _, body = decode_frame(encode_frame(1, AuditAppend(EVENT))[4:])
    assert isinstance(body, AuditAppend) and bytes(body.event) == bytes(EVENT)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"id":1}', b'{"id":1,"body":{"type":"Nonsense"}}',
     b'{"id":1,"body":{"type":"StatusQuery","extra":1}}',
     b'{"id":"1","body":{"type":"StopServe"}}'],
)  # fmt: skip
def test_what_does_not_decode_is_a_typed_error(text: bytes) -> None:
    with pytest.raises(ControlError, match="does not decode"):
        decode_frame(text)


def test_a_frame_has_a_limit() -> None:
    huge = AuditAppend(msgspec.Raw(b'"' + b"x" * CONTROL_FRAME_BYTES_MAX + b'"'))
    with pytest.raises(ControlError, match="longer"):
        encode_frame(1, huge)


async def test_requests_run_side_by_side_and_find_their_answers(
    pair: tuple[Channel, Channel],
) -> None:
    one, other = pair
    sizes = range(2, 30)
    asked = [one.request(AuditAppend(msgspec.Raw(b"1" * size))) for size in sizes]
    asked += [other.request(AuditAppend(msgspec.Raw(b"1" * size))) for size in sizes]
    found = await asyncio.gather(*asked)
    assert found == [AuditAppended(size) for size in sizes] * 2


async def test_a_refused_request_comes_back_typed(pair: tuple[Channel, Channel]) -> None:
    with pytest.raises(ControlFailed, match="not now") as caught:
        await pair[0].request(StopServe())
    assert (caught.value.code, caught.value.remedy) == ("NO", "later")
    assert await pair[0].request(RegistryChanged()) == Accepted(), "the connection lives on"


async def test_a_request_without_answer_times_out(pair: tuple[Channel, Channel]) -> None:
    with pytest.raises(ControlError, match=r"within 0\.05 s"):
        await pair[0].request(StatusQuery(), timeout_s=0.05)
    assert await pair[0].request(RegistryChanged()) == Accepted()


async def test_too_many_requests_are_refused_at_once(pair: tuple[Channel, Channel]) -> None:
    waiting = [
        asyncio.ensure_future(pair[0].request(StatusQuery(), timeout_s=1))
        for _ in range(CONTROL_REQUESTS_MAX)
    ]
    await asyncio.sleep(0.05)
    with pytest.raises(ControlError, match="wait for an answer already"):
        await pair[0].request(RegistryChanged())
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_requests_under_way_end_when_the_peer_goes(pair: tuple[Channel, Channel]) -> None:
    asked = asyncio.ensure_future(pair[0].request(StatusQuery()))
    await asyncio.sleep(0.05)
    pair[1].close()
    with pytest.raises(ControlError, match="closed"):
        await asked
    with pytest.raises(ControlError, match="closed"):
        await pair[0].notify(StopWorker())


async def test_notices_are_handled_in_order() -> None:
    seen: list[int] = []

    async def handle(channel: Channel, body: Request) -> None:
        assert isinstance(body, WorkerReady)
        await asyncio.sleep(0.001 if body.pid % 2 else 0)
        seen.append(body.pid)

    ours, theirs = socket.socketpair()
    ends = []
    for end in (ours, theirs):
        end.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=end)
        ends.append(Channel(reader, writer, handle))
    serving = asyncio.ensure_future(ends[1].run())
    for number in range(20):
        await ends[0].notify(WorkerReady(0, number))
    ends[0].close()
    await serving
    assert seen == list(range(20))


Script = Callable[[Path, list[ControlError]], Awaitable[None]]


async def with_server(tmp_path: Path, script: Script) -> list[ControlError]:
    broken: list[ControlError] = []
    path = tmp_path / "control.sock"
    server = await listen(path, answer, broken.append)
    async with server:
        await script(path, broken)
    return broken


async def test_the_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:

        async def script(path: Path, _: list[ControlError]) -> None:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

        await with_server(tmp_path, script)
    finally:
        os.umask(before)


async def test_a_command_asks_and_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "control.sock"))
    stale.close()
    assert call(tmp_path / "control.sock", StatusQuery()) is None, "nobody listens there"

    async def script(path: Path, _: list[ControlError]) -> None:
        assert await asyncio.to_thread(call, path, AuditAppend(EVENT)) == AuditAppended(17)
        with pytest.raises(ControlFailed):
            await asyncio.to_thread(call, path, StopServe())
        with pytest.raises(ControlError, match="does not answer"):
            await asyncio.to_thread(call, path, StatusQuery(), 0.05)

    assert await with_server(tmp_path, script) == []


def test_without_a_supervisor_there_is_no_answer(tmp_path: Path) -> None:
    assert call(tmp_path / "nothing.sock", StatusQuery()) is None


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", b"\0\0\0\4{}{}", b"\0\0\0\2[]", encode_frame(1, StatusQuery())[:-1]],
)
async def test_garbage_ends_its_own_connection_only(tmp_path: Path, garbage: bytes) -> None:
    async def script(path: Path, broken: list[ControlError]) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(garbage)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert await asyncio.to_thread(call, path, RegistryChanged()) == Accepted()
        # Half a frame is a peer that went away, the others are broken ones.
        assert len(broken) == (0 if garbage.endswith(b"}") and len(garbage) > 10 else 1)

    await with_server(tmp_path, script)


def test_the_page_lists_the_messages() -> None:
    page = Path(__file__).resolve().parents[3] / "docs/design/processes.md"
    text = page.read_text("utf-8")
    kinds = [
        kind.__name__
        for kind in vars(control).values()
        if isinstance(kind, type) and issubclass(kind, control._Message)
    ]
    assert len(kinds) > 10
    missing = [name for name in kinds if f"`{name}`" not in text and name != "_Message"]
    assert not missing
