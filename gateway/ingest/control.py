"""The control protocol between an installation's processes (docs/design/processes.md).

Owns the messages, the framing and both ends of a connection: :class:`Channel` for event loops,
:func:`call` for commands. Never interprets a message.

- One frame: 4-byte big-endian length, then JSON ``{"id": n, "body": {"type": ..., ...}}``. A
  frame that is too long or does not decode ends the connection with ``ControlError``.
- Every request gets exactly one answer or the connection ends; ``id`` 0 is a notice and gets
  none.
- Pending requests, and requests being served, are bounded; a sender waits for the peer to drain.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from gateway.errors import GatewayError
from gateway.ingest.model import CameraSpec, FeedStatus
from gateway.ingest.status import WorkerState
from gateway.limits import (
    CONTROL_FRAME_BYTES_MAX,
    CONTROL_REQUESTS_MAX,
    CONTROL_TIMEOUT_S,
)

_LENGTH = struct.Struct(">I")


class ControlError(GatewayError):
    """The other process cannot be reached, went away, or does not speak the protocol."""

    code = "CONTROL"


class ControlFailed(GatewayError):
    """The other process answered ``Failed``; ``code`` is its code."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    pass


class AuditAppend(_Message, frozen=True):
    """Enter ``event`` (canonical JSON of a storage.audit event) into the log."""

    event: msgspec.Raw


class StatusQuery(_Message, frozen=True):
    """Ask for a StatusReport."""


class RegistryChanged(_Message, frozen=True):
    """The registry was changed: read it again."""


class StopServe(_Message, frozen=True):
    """Stop everything, cleanly."""


class WorkerReady(_Message, frozen=True):
    """The worker has opened its store and waits for Assign."""

    worker: int
    pid: int


class WorkerSnapshot(_Message, frozen=True):
    """What a worker measured; sent every second. ``utc_ns`` is when."""

    utc_ns: int
    feeds: list[FeedStatus]
    state: WorkerState


class WorkerFault(_Message, frozen=True):
    """A fault of a volume, seen by a worker. ``volume`` is its number; 0 is none in particular."""

    utc_ns: int
    code: str
    volume: int
    message: str


class Assign(_Message, frozen=True):
    """The whole desired state of a worker (not a difference)."""

    revision: int
    cameras: list[CameraSpec]


class StopWorker(_Message, frozen=True):
    """Stop cleanly; the process ends by itself."""


class AuditAppended(_Message, frozen=True):
    """The event is durable as entry ``index``."""

    index: int


class StatusReport(_Message, frozen=True):
    """The supervisor's view: its own facts and the last snapshot of each worker."""

    pid: int
    started_ns: int
    utc_ns: int
    revision: int
    http_address: str
    workers: list[WorkerView]
    faults: list[WorkerFault]
    recovery: str
    clock_synchronised: bool
    api_restarts: int


class WorkerView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One worker as the supervisor sees it. ``pid`` 0: not running. ``snapshot`` None: none yet."""

    worker: int
    pid: int
    restarts: int
    snapshot: WorkerSnapshot | None


class Applied(_Message, frozen=True):
    """Every worker was sent its part of this revision."""

    revision: int


class Accepted(_Message, frozen=True):
    """Understood; it will happen."""


class Failed(_Message, frozen=True):
    """The request could not be done."""

    code: str
    message: str
    remedy: str


Request: TypeAlias = (
    AuditAppend
    | StatusQuery
    | RegistryChanged
    | StopServe
    | WorkerReady
    | WorkerSnapshot
    | WorkerFault
    | Assign
    | StopWorker
)
Answer: TypeAlias = AuditAppended | StatusReport | Applied | Accepted | Failed
_ANSWERS = (AuditAppended, StatusReport, Applied, Accepted, Failed)


class _Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: int
    body: Request | Answer


_decoder = msgspec.json.Decoder(_Frame)
_encoder = msgspec.json.Encoder()


def encode_frame(request_id: int, body: Request | Answer) -> bytes:
    """The bytes of one frame. Raises ControlError when it is longer than the limit."""
    text = _encoder.encode(_Frame(request_id, body))
    if len(text) > CONTROL_FRAME_BYTES_MAX:
        raise ControlError(
            f"a {type(body).__name__} of {len(text)} bytes is longer than a frame may be "
            f"({CONTROL_FRAME_BYTES_MAX})",
            remedy="fewer cameras per installation, or raise CONTROL_FRAME_BYTES_MAX",
        )
    return _LENGTH.pack(len(text)) + text


def decode_frame(text: bytes) -> tuple[int, Request | Answer]:
    """(id, body) of a frame without its length. Raises ControlError."""
    try:
        frame = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise ControlError(
            f"a control frame does not decode: {error}",
            remedy="all processes of an installation must run the same version",
        ) from error
    return frame.id, frame.body


def _frame_length(head: bytes) -> int:
    length: int = _LENGTH.unpack(head)[0]
    if length > CONTROL_FRAME_BYTES_MAX:
        raise ControlError(
            f"a control frame of {length} bytes is announced, the limit is "
            f"{CONTROL_FRAME_BYTES_MAX}",
            remedy="only Ringvault's own processes may connect to the control socket",
        )
    return length


Handler: TypeAlias = Callable[["Channel", Request], Awaitable[Answer | None]]


class Channel:
    """One connection on an event loop, both directions.

    ``run`` serves it until the peer closes. ``handler`` answers requests (its GatewayErrors
    become ``Failed``) and takes notices (its answer to one is ignored). Notices are handled one
    after the other in the order sent; requests run side by side, at most CONTROL_REQUESTS_MAX.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._next_id = 1
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._serving = asyncio.Semaphore(CONTROL_REQUESTS_MAX)
        self._closed = False

    async def request(self, body: Request, timeout_s: float = CONTROL_TIMEOUT_S) -> Answer:
        """Send and wait for the answer. Raises ControlFailed, ControlError (gone, or too slow)."""
        if self._closed:
            raise _gone()
        if len(self._pending) >= CONTROL_REQUESTS_MAX:
            raise ControlError(
                f"{CONTROL_REQUESTS_MAX} control requests wait for an answer already",
                remedy="try again in a moment; if it stays so, the audit log's disk is too slow",
            )
        request_id, self._next_id = self._next_id, self._next_id + 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(request_id, body)
                found = await answer
        except TimeoutError as error:
            raise ControlError(
                f"no answer to {type(body).__name__} within {timeout_s:g} s",
                remedy="look at the supervisor's log",
            ) from error
        finally:
            del self._pending[request_id]
        if isinstance(found, Failed):
            raise ControlFailed(found.code, found.message, found.remedy)
        return found

    async def notify(self, body: Request) -> None:
        """Send without an answer; waits while the peer is slow. Raises ControlError."""
        await self._send(0, body)

    async def run(self) -> None:
        """Serve until the peer closes (returns) or breaks the protocol (raises ControlError)."""
        try:
            async with asyncio.TaskGroup() as group:
                while (frame := await self._read()) is not None:
                    request_id, body = frame
                    if isinstance(body, _ANSWERS):
                        self._settle(request_id, body)
                    elif request_id == 0:
                        await self._handler(self, body)
                    else:
                        await self._serving.acquire()
                        group.create_task(self._serve(request_id, body))
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; requests under way raise ControlError."""
        self._closed = True
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(_gone())
        self._writer.close()

    def _settle(self, request_id: int, body: Answer) -> None:
        answer = self._pending.get(request_id)
        # An answer that nobody waits for any more came after its timeout.
        if answer is not None and not answer.done():
            answer.set_result(body)

    async def _serve(self, request_id: int, body: Request) -> None:
        try:
            answer = await self._handler(self, body)
        except GatewayError as error:
            answer = Failed(error.code, str(error), error.remedy)
        finally:
            self._serving.release()
        if answer is None:
            answer = Failed("CONTROL", f"{type(body).__name__} is a notice, not a request", "")
        try:
            await self._send(request_id, answer)
        except ControlError:
            # The peer left without waiting for its answer: nobody is there to tell.
            self.close()

    async def _read(self) -> tuple[int, Request | Answer] | None:
        try:
            length = _frame_length(await self._reader.readexactly(_LENGTH.size))
            return decode_frame(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _send(self, request_id: int, body: Request | Answer) -> None:
        if self._closed:
            raise _gone()
        try:
            self._writer.write(encode_frame(request_id, body))
            await self._writer.drain()
        except (ConnectionError, RuntimeError) as error:
            raise _gone() from error


def _gone() -> ControlError:
    return ControlError(
        "the other process closed the control connection", remedy="look at the supervisor's log"
    )


async def open_fd(fd: int, handler: Handler) -> Channel:
    """The channel over an inherited socket (``--control-fd``)."""
    peer = socket.socket(fileno=fd)
    peer.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=peer)
    return Channel(reader, writer, handler)


async def listen(
    path: Path, handler: Handler, broken: Callable[[ControlError], None]
) -> asyncio.Server:
    """Serve the control socket at ``path``, mode 0600, in place of a stale one.

    The caller holds ``serve.lock``, so nobody else listens there. ``broken`` hears of connections
    that broke the protocol.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await Channel(reader, writer, handler).run()
        except ControlError as error:
            broken(error)

    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(connected, path)
    finally:
        os.umask(before)


def call(path: Path, body: Request, timeout_s: float = CONTROL_TIMEOUT_S) -> Answer | None:
    """One request from a command, blocking. None: no supervisor listens at ``path``.

    Raises ControlFailed, or ControlError when it listens but does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(timeout_s)
        try:
            peer.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError as error:
            raise ControlError(
                f"{path}: permission denied", remedy="run as the user who runs `ringvault serve`"
            ) from error
        try:
            peer.sendall(encode_frame(1, body))
            length = _frame_length(_receive(peer, _LENGTH.size))
            _, answer = decode_frame(_receive(peer, length))
        except TimeoutError as error:
            raise ControlError(
                f"`ringvault serve` does not answer within {timeout_s:g} s",
                remedy="look at its log",
            ) from error
        except OSError as error:
            if error.errno in (errno.ECONNRESET, errno.EPIPE):
                raise _gone() from error
            raise
    if isinstance(answer, Failed):
        raise ControlFailed(answer.code, answer.message, answer.remedy)
    assert isinstance(answer, _ANSWERS)
    return answer


def _receive(peer: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = peer.recv(length - len(parts))
        if not part:
            raise _gone()
        parts += part
    return bytes(parts)


def to_builtins(value: Any) -> Any:
    """A message or a part of one as JSON-ready builtins."""
    return msgspec.to_builtins(value)
