"""Fetching a clip over HTTP, across dropped connections.

Owns the partial file and the decision to go on or begin anew. A clip is complete only when it has
the announced length: then, durable, it takes its name; until then it is ``NAME.part``, beside
``NAME.part.etag``, and the next try goes on where it ends.

- A part is continued only under the strong entity tag it was begun with (``If-Range``): bytes of
  two different compositions never mix.
- An answer that will not change (4xx) is not tried again.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from gateway.errors import GatewayError

READ_BYTES = 1 << 20
TIMEOUT_S = 30.0
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 10.0

Progress = Callable[[int, int], None]


class DownloadFailed(GatewayError):
    """The clip could not be fetched; what has arrived is kept and the command can be repeated."""

    code = "DOWNLOAD"


class DownloadRefused(GatewayError):
    """The server's refusal, in its own words: code, article, remedy."""

    def __init__(self, code: str, message: str, article: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code
        self.article = article


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What arrived. ``headers`` are those of the last answer."""

    size_bytes: int
    resumed: int
    headers: Message


class _Dropped(Exception):
    """This connection is over; another may go on."""


def clip_url(base: str, camera_id: str, suffix: str) -> str:
    """The address of a camera's clip (``.mp4``) or its sidecar (``.json``)."""
    return f"{base.rstrip('/')}/v1/clips/{quote(camera_id, safe='')}{suffix}"


def fetch(url: str, token: str) -> bytes:
    """A small answer, whole. Raises DownloadRefused, DownloadFailed."""
    try:
        connection, answer = _request(url, token, {})
        with contextlib.closing(connection):
            body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise DownloadFailed(f"{url}: {error}", remedy="try again") from error
    if answer.status != 200:
        raise _refusal(answer.status, body)
    return body


def download(
    url: str, token: str, target: Path, *, retries: int, progress: Progress | None = None
) -> Downloaded:
    """Fetch ``url`` into ``target``, resuming up to ``retries`` times in a row without progress.

    ``progress(done_bytes, total_bytes)``. Raises DownloadRefused, DownloadFailed.
    """
    part, tag_file = _part_of(target)
    failures = resumed = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            headers = _attempt(url, token, part, tag_file, progress)
            break
        except (_Dropped, OSError, http.client.HTTPException) as error:
            now = part.stat().st_size if part.exists() else 0
            failures = 1 if now > before else failures + 1
            if failures > retries:
                raise DownloadFailed(
                    f"{url}: {error}", remedy=f"{now} bytes are kept; run the command again"
                ) from error
            resumed += 1
            time.sleep(min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** (failures - 1)))
    size = part.stat().st_size
    os.replace(part, target)
    tag_file.unlink(missing_ok=True)
    _sync_directory(target.parent)
    return Downloaded(size, resumed, headers)


def _part_of(target: Path) -> tuple[Path, Path]:
    part = target.with_name(target.name + ".part")
    return part, part.with_name(part.name + ".etag")


def _attempt(
    url: str, token: str, part: Path, tag_file: Path, progress: Progress | None
) -> Message:
    """One connection; returns when the part is complete. Raises _Dropped, DownloadRefused."""
    tag = tag_file.read_text("ascii") if tag_file.exists() else ""
    have = part.stat().st_size if tag and part.exists() else 0
    wanted = {"Range": f"bytes={have}-", "If-Range": tag} if have else {}
    connection, answer = _request(url, token, wanted)
    with contextlib.closing(connection):
        if answer.status == 416 and have:
            return _complete_or_stale(answer, part, tag_file, have)
        if answer.status not in (200, 206):
            body = answer.read()
            if answer.status >= 500:
                raise _Dropped(f"the server answered {answer.status}")
            raise _refusal(answer.status, body)
        start = have if answer.status == 206 else 0
        length = answer.length
        if length is None:
            raise _Dropped("the answer has no length")
        tag_file.write_text(answer.headers.get("ETag", ""), "ascii")
        total = start + length
        with open(part, "r+b" if part.exists() else "wb") as out:
            out.truncate(start)
            out.seek(start)
            _copy(answer, out.write, start, total, progress)
            out.flush()
            os.fsync(out.fileno())
        return answer.headers


def _complete_or_stale(
    answer: http.client.HTTPResponse, part: Path, tag_file: Path, have: int
) -> Message:
    """Nothing behind what we have: it is all there, or it is of something else."""
    if answer.headers.get("Content-Range", "") == f"bytes */{have}":
        return answer.headers
    part.unlink()
    tag_file.unlink()
    raise _Dropped("the clip changed meanwhile")


def _copy(
    answer: http.client.HTTPResponse,
    write: Callable[[bytes], int],
    done: int,
    total: int,
    progress: Progress | None,
) -> None:
    while done < total:
        block = answer.read1(READ_BYTES)
        if not block:
            raise _Dropped(f"the connection ended after {done} of {total} bytes")
        write(block)
        done += len(block)
        if progress is not None:
            progress(done, total)


def _request(
    url: str, token: str, headers: dict[str, str]
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadFailed(f"{url!r} is no HTTP address", remedy="write it as http://host:port")
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request(
            "GET", parts.path, headers={"Authorization": f"Bearer {token}", **headers}
        )
        return connection, connection.getresponse()
    except BaseException:
        connection.close()
        raise


def _refusal(status: int, body: bytes) -> DownloadRefused:
    try:
        said = msgspec.json.decode(body, type=dict[str, str])
    except msgspec.DecodeError:
        said = {}
    return DownloadRefused(
        said.get("code", f"HTTP_{status}"),
        said.get("message", f"the server answered {status}"),
        said.get("article", ""),
        said.get("remedy", ""),
    )


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
