"""An RTSP client that keeps everything it gets: the far end in tests of cameras.

Own code from end to end (no gateway.rtsp.client, no cext depacketizer), so that it can disagree.
"""

import asyncio
import re
import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from gateway.media.codec import Codec
from gateway.rtsp.messages import Response
from gateway.rtsp.parser import InterleavedFrame, MessageParser

READ_BYTES = 65_536
TIMEOUT_S = 10
H264 = Codec.H264


def reassemble(codec: int, payloads: list[bytes]) -> list[bytes]:
    """RFC 6184 and RFC 7798, the receiving side, written the slow way."""
    head = 1 if codec == H264 else 2
    nals: list[bytes] = []
    open_unit: bytearray | None = None
    for payload in payloads:
        kind = payload[0] & 31 if codec == H264 else payload[0] >> 1 & 63
        if kind == (24 if codec == H264 else 48):
            at = head
            while at < len(payload):
                size = int.from_bytes(payload[at : at + 2], "big")
                nals.append(payload[at + 2 : at + 2 + size])
                assert len(nals[-1]) == size
                at += 2 + size
        elif kind == (28 if codec == H264 else 49):
            flags = payload[head]
            start, end = flags & 0x80, flags & 0x40
            assert not (start and end), "a fragmentation unit must not be a whole NAL unit"
            if start:
                assert open_unit is None
                if codec == H264:
                    open_unit = bytearray((payload[0] & 0xE0 | flags & 31,))
                else:
                    open_unit = bytearray((payload[0] & 0x81 | (flags & 63) << 1, payload[1]))
            assert open_unit is not None and len(payload) > head + 1
            open_unit += payload[head + 1 :]
            if end:
                nals.append(bytes(open_unit))
                open_unit = None
        else:
            assert open_unit is None
            nals.append(payload)
    assert open_unit is None
    return nals


class AccessUnits:
    """RTP packets, grouped by timestamp up to the marker, and what is in them."""

    def __init__(self, codec: Codec, packets: list[bytes]) -> None:
        self.units: list[list[bytes]] = []
        self._timestamps: list[int] = []
        self._sequences = [struct.unpack_from("!H", packet, 2)[0] for packet in packets]
        payloads: list[bytes] = []
        for packet in packets:
            marker = packet[1] & 0x80
            payloads.append(packet[12:])
            if marker:
                self.units.append(reassemble(codec, payloads))
                self._timestamps.append(struct.unpack_from("!I", packet, 4)[0])
                payloads = []

    def __len__(self) -> int:
        return len(self.units)

    def samples(self) -> list[bytes]:
        """As they are stored: NAL units behind 32-bit lengths."""
        return [b"".join(struct.pack("!I", len(nal)) + nal for nal in unit) for unit in self.units]

    def elapsed_ticks(self) -> list[int]:
        """Timestamps since the first, signed, wrap undone."""
        first = self._timestamps[0]
        return [(stamp - first + (1 << 31)) % (1 << 32) - (1 << 31) for stamp in self._timestamps]

    def sequence_is_gapless(self) -> bool:
        first = self._sequences[0]
        return self._sequences == [(first + n) & 0xFFFF for n in range(len(self._sequences))]


class Viewer:
    """``async with Viewer(url) as viewer: await viewer.play()``; RTP on channel 0, RTCP on 1."""

    def __init__(self, url: str, *, receive_buffer: int = 0) -> None:
        self.url = url
        self.description = b""
        self.statuses: list[int] = []
        self.reports: list[bytes] = []
        self.said_goodbye = False
        self._receive_buffer = receive_buffer
        self._sock: socket.socket | None = None
        self._parser = MessageParser()
        self._packets: list[bytes] = []
        self._session = ""
        self._sequence = 0
        self._answer: Response | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        parts = urlsplit(self.url)
        self._sock = socket.socket()
        if self._receive_buffer:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        self._sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._sock, (parts.hostname, parts.port))

    async def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    @classmethod
    async def status_of(cls, method: str, url: str) -> int:
        async with cls(url) as viewer:
            return await viewer.request(method)

    async def set_up(self) -> None:
        assert await self.request("DESCRIBE") == 200
        transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
        assert await self.request("SETUP", transport, path="/trackID=0") == 200

    async def play(self) -> None:
        await self.set_up()
        assert await self.request("PLAY") == 200

    async def request(self, method: str, *fields: str, path: str = "") -> int:
        """Send and wait for the answer; media that comes in between is kept."""
        self._answer = None
        await self.send(method, *fields, path=path)
        while self._answer is None:
            assert await self._read(), f"the camera closed instead of answering {method}"
        answer: Response = self._answer
        if match := re.match(r"[^;]+", answer.headers.get("Session")):
            self._session = match[0].strip()
        if method == "DESCRIBE":
            self.description = answer.body
        return answer.status

    async def send(self, method: str, *fields: str, path: str = "") -> None:
        assert self._sock is not None
        self._sequence += 1
        lines = [f"{method} {self.url}{path} RTSP/1.0", f"CSeq: {self._sequence}", *fields]
        lines += [f"Session: {self._session}"] if self._session else []
        data = "\r\n".join([*lines, "", ""]).encode()
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def read_packets_until(self, access_units: int) -> list[bytes]:
        """Packets up to the end of that many access units, kept ones first."""
        while True:
            ends = [n for n, packet in enumerate(self._packets) if packet[1] & 0x80]
            if len(ends) >= access_units:
                cut = ends[access_units - 1] + 1
                taken, self._packets = self._packets[:cut], self._packets[cut:]
                return taken
            assert await self._read(), "the camera closed too early"

    async def read_to_end(self) -> list[bytes]:
        """Packets up to the end of the connection, kept ones first."""
        while await self._read():
            pass
        taken, self._packets = self._packets, []
        return taken

    async def read_raw(self) -> bytes:
        assert self._sock is not None
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.sock_recv(self._sock, READ_BYTES), TIMEOUT_S)

    async def _read(self) -> bool:
        try:
            data = await self.read_raw()
        except ConnectionResetError:
            data = b""
        for item in self._parser.feed(data):
            if isinstance(item, Response):
                self._answer = item
                self.statuses.append(item.status)
            elif isinstance(item, InterleavedFrame) and item.channel == 0:
                self._packets.append(item.payload)
            elif isinstance(item, InterleavedFrame) and item.payload[1] == 203:
                self.said_goodbye = True
            elif isinstance(item, InterleavedFrame):
                self.reports.append(item.payload)
        return bool(data)
