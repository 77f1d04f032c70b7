"""Receiver process of the naive floor: ``python -m bench.floor``, JSON in and out.

Reads one JSON object from stdin: ``{"urls": [...], "file": path, "file_bytes": n}``. Opens every
feed by RTSP, prints ``{"ready": true}``, hands the sockets to floor.c, and when the last one has
ended prints ``{"received": [media bytes of each feed]}``. Its CPU time is taken from outside.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SOURCE = Path(__file__).with_name("floor.c")
_END_OF_HEAD = b"\r\n\r\n"


def build(directory: Path) -> Path:
    """Compile floor.c with the system's compiler, as the recorder's own C is compiled."""
    library = directory / "floor.so"
    command = [os.environ.get("CC", "cc"), "-O3", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(SOURCE)], check=True)
    return library


def set_up(url: str) -> tuple[socket.socket, str]:
    """Connect and set up the video interleaved; the socket and the PLAY request to send on it."""
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname or "", parts.port or 554), timeout=10)
    transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
    head = exchange(sock, f"SETUP {url}/trackID=0 RTSP/1.0\r\nCSeq: 1\r\n{transport}\r\n\r\n")
    session = header(head, "session").partition(";")[0]
    return sock, f"PLAY {url} RTSP/1.0\r\nCSeq: 2\r\nSession: {session}\r\n\r\n"


def open_feeds(urls: list[str]) -> list[socket.socket]:
    """Start all feeds; what each socket gives next is the first byte of media.

    All are set up before the first one plays: a feed that plays while nobody reads would stall.
    """
    feeds = [set_up(url) for url in urls]
    for sock, request in feeds:
        sock.sendall(request.encode())
    for sock, _ in feeds:
        read_answer(sock)
    return [sock for sock, _ in feeds]


def exchange(sock: socket.socket, request: str) -> str:
    """Send one request; the head of its answer."""
    sock.sendall(request.encode())
    return read_answer(sock)


def read_answer(sock: socket.socket) -> str:
    """Take one answer, and not a byte more, off the socket; its head."""
    seen = b""
    while _END_OF_HEAD not in seen:
        seen = sock.recv(65_536, socket.MSG_PEEK)
        if not seen:
            raise ConnectionError("the sender closed during the handshake")
    length = seen.index(_END_OF_HEAD) + len(_END_OF_HEAD)
    head = sock.recv(length, socket.MSG_WAITALL).decode()
    if not head.startswith("RTSP/1.0 200"):
        raise ConnectionError(f"the sender refused: {head.splitlines()[0]}")
    return head


def header(head: str, name: str) -> str:
    """The value of a header field, "" if there is none."""
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return ""


def say(answer: dict[str, Any]) -> None:
    """One line for the bench."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run one floor measurement as told on stdin."""
    order = json.loads(sys.stdin.readline())
    file = Path(order["file"])
    library = ctypes.CDLL(str(build(file.parent)))
    feeds = open_feeds(order["urls"])
    fds = (ctypes.c_int * len(feeds))(*[feed.fileno() for feed in feeds])
    received = (ctypes.c_uint64 * len(feeds))()
    say({"ready": True})
    status = library.floor_run(
        fds,
        len(feeds),
        os.fsencode(file),
        ctypes.c_uint64(order["file_bytes"]),
        received,
    )
    file.unlink(missing_ok=True)
    if status:
        raise OSError(-status, os.strerror(-status), str(file))
    say({"received": list(received)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
