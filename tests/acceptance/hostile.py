"""Cameras that misbehave, written by hand on purpose: no line of the product runs in them.

Owns a scripted RTSP server (RFC 2326, just enough to be believed) and RTP packets made with
``struct`` (RFC 3550, RFC 6184 FU-A). A script decides what is answered to DESCRIBE and what is
sent once PLAY came; everything else a client asks is answered 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from tests.acceptance import oracle

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SSRC = 0x52494E47
PAYLOAD_TYPE = 96
_FU_BYTES = 60_000
_TRACK = "trackID=1"


def sdp_of(nal_units: Sequence[bytes], *, payload_type: int = PAYLOAD_TYPE) -> str:
    """The description of one H.264 track whose parameter sets are among ``nal_units``."""
    sets = [nal for nal in nal_units if oracle.is_set(oracle.H264, nal)]
    sprop = ",".join(b64encode(nal).decode() for nal in dict.fromkeys(sets))
    lines = [
        "v=0",
        "o=- 1 1 IN IP4 127.0.0.1",
        "s=hostile",
        "t=0 0",
        f"m=video 0 RTP/AVP {payload_type}",
        "c=IN IP4 0.0.0.0",
        f"a=rtpmap:{payload_type} H264/90000",
        f"a=fmtp:{payload_type} packetization-mode=1;sprop-parameter-sets={sprop}",
        f"a=control:{_TRACK}",
    ]
    return "".join(f"{line}\r\n" for line in lines)


class Rtp:
    """Packets of one stream inside the RTSP connection, channel 0."""

    def __init__(self, *, payload_type: int = PAYLOAD_TYPE, ssrc: int = SSRC) -> None:
        self._payload_type = payload_type
        self._ssrc = ssrc
        self._sequence = 100

    def packet(self, payload: bytes, timestamp: int, *, marker: bool) -> bytes:
        """One interleaved packet (RFC 2326 section 10.12)."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        head = struct.pack(
            "!BBHII",
            0x80,
            marker << 7 | self._payload_type,
            self._sequence,
            timestamp & 0xFFFFFFFF,
            self._ssrc,
        )
        return struct.pack("!cBH", b"$", 0, len(head) + len(payload)) + head + payload

    def nal(self, nal: bytes, timestamp: int, *, last: bool) -> list[bytes]:
        """A NAL unit: one packet, or FU-A (RFC 6184 section 5.8) when it is large."""
        if len(nal) <= _FU_BYTES:
            return [self.packet(nal, timestamp, marker=last)]
        return list(self.fu_a(nal[0], len(nal) - 1, timestamp, body=nal[1:], last=last))

    def fu_a(
        self, header: int, body_bytes: int, timestamp: int, *, body: bytes = b"", last: bool
    ) -> list[bytes]:
        """Fragments of a NAL unit whose body has ``body_bytes`` bytes; zeros if none is given."""
        packets = []
        for at in range(0, body_bytes, _FU_BYTES):
            size = min(_FU_BYTES, body_bytes - at)
            start, end = at == 0, at + size == body_bytes
            fu = bytes((header & 0xE0 | 28, start << 7 | end << 6 | header & 0x1F))
            part = body[at : at + size] if body else b"\xaa" * size
            packets.append(self.packet(fu + part, timestamp, marker=last and end))
        return packets

    def picture(self, nal_units: Sequence[bytes], timestamp: int) -> bytes:
        """All packets of one access unit."""
        packets: list[bytes] = []
        for number, nal in enumerate(nal_units, 1):
            packets += self.nal(nal, timestamp, last=number == len(nal_units))
        return b"".join(packets)


@contextlib.asynccontextmanager
async def listening(script: Script) -> AsyncIterator[str]:
    """Serve every connection by ``script``; yields the camera's URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            # A client that leaves in the middle is what these cameras provoke.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await script(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"rtsp://127.0.0.1:{port}/stream"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def camera(
    description: str | bytes,
    media: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None,
) -> Script:
    """Answers as a camera would; after PLAY ``media`` sends what it likes."""
    body = description.encode() if isinstance(description, str) else description

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        playing: asyncio.Task[None] | None = None
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method = head.split(" ", 1)[0]
                writer.write(_answer(method, head, body))
                await writer.drain()
                if method == "TEARDOWN":
                    return
                if method == "PLAY" and media is not None and playing is None:
                    playing = asyncio.ensure_future(media(writer))
        finally:
            if playing is not None:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)

    return script


def _answer(method: str, head: str, body: bytes) -> bytes:
    found = re.search(r"(?im)^cseq:\s*(\d+)", head)
    assert found is not None, head
    lines = ["RTSP/1.0 200 OK", f"CSeq: {found.group(1)}"]
    sent = b""
    if method == "OPTIONS":
        lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
    elif method == "DESCRIBE":
        lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        sent = body
    elif method == "SETUP":
        lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 4242;timeout=60"]
    else:
        lines.append("Session: 4242;timeout=60")
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + sent


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the connection and everything sent, and never says a word."""
    while await reader.read(65_536):
        pass


def garbage(noise: bytes) -> Script:
    """Answers whatever is said with ``noise``, and goes on with it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        for _ in range(64):
            if writer.is_closing():
                return
            writer.write(noise)
            await writer.drain()
            await asyncio.sleep(0.01)

    return script
