"""A bare HTTP/1.1 client: one GET on its own connection, timed to the first byte of the body."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.report import CheckFailed

_READ_BYTES = 1 << 20
_TIMEOUT_S = 60
_HEAD_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Fetched:
    """Seconds count from before the connection was opened. ``body`` is empty unless kept."""

    first_byte_s: float
    total_s: float
    size: int
    body: bytes


def fetch(
    address: str, path: str, token: str, *, keep: bool = False, to_file: Path | None = None
) -> Fetched:
    """GET ``path`` with a grant; the whole body is read. Raises CheckFailed unless it is 200."""
    parts = urlsplit(address if "//" in address else f"http://{address}")
    kept = bytearray()
    buffer = bytearray(_READ_BYTES)
    sink = to_file.open("wb") if to_file is not None else None

    def take(data: bytes | memoryview) -> None:
        if sink is not None:
            sink.write(data)
        if keep:
            kept.extend(data)

    begun = time.perf_counter()
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), _TIMEOUT_S) as sock:
            lines = [f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
            sock.sendall("\r\n".join([*lines, f"Authorization: Bearer {token}", "", ""]).encode())
            head, rest = _read_head(sock)
            length = _content_length(head, path)
            while not rest:
                rest = sock.recv(_READ_BYTES)
                if not rest:
                    raise CheckFailed(f"GET {path}: closed before the first byte of the body")
            first = time.perf_counter()
            size = len(rest)
            take(rest)
            while size < length:
                count = sock.recv_into(buffer)
                if not count:
                    raise CheckFailed(f"GET {path}: closed after {size} of {length} bytes")
                size += count
                take(memoryview(buffer)[:count])
            ended = time.perf_counter()
    finally:
        if sink is not None:
            sink.close()
    return Fetched(first - begun, ended - begun, size, bytes(kept))


def _read_head(sock: socket.socket) -> tuple[str, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(_READ_BYTES)
        if not more or len(data) > _HEAD_BYTES_MAX:
            raise CheckFailed(f"no HTTP answer: {data[:200]!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _content_length(head: str, path: str) -> int:
    status, *lines = head.split("\r\n")
    if " 200 " not in status + " ":
        raise CheckFailed(f"GET {path}: {status}")
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            return int(value)
    raise CheckFailed(f"GET {path}: no Content-Length")
