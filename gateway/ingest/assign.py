"""Which worker owns which camera: rendezvous hashing (docs/design/processes.md, G5). Pure.

Owns nothing, remembers nothing. The answer depends on the camera's uid and the number of workers
alone, so every process and every restart agree, and one worker more moves one camera in N + 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar


class HasUid(Protocol):
    """Whatever carries a 16-byte camera uid."""

    @property
    def uid(self) -> bytes: ...


CameraT = TypeVar("CameraT", bound=HasUid)


def owner(uid: bytes, workers: int) -> int:
    """The worker in ``0 <= w < workers`` that records camera ``uid``."""
    assert workers > 0
    return max(range(workers), key=lambda worker: (_weight(uid, worker), worker))


def _weight(uid: bytes, worker: int) -> bytes:
    return hashlib.blake2b(uid + worker.to_bytes(4, "little"), digest_size=8).digest()


def partition(cameras: Iterable[CameraT], workers: int) -> list[list[CameraT]]:
    """The cameras of each worker, in the order given."""
    parts: list[list[CameraT]] = [[] for _ in range(workers)]
    for camera in cameras:
        parts[owner(camera.uid, workers)].append(camera)
    return parts


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns the running set into the desired one; ids, sorted."""

    start: tuple[str, ...]
    stop: tuple[str, ...]
    restart: tuple[str, ...]


def difference(running: Mapping[str, object], desired: Mapping[str, object]) -> Difference:
    """Compare by equality of what each id means; equal ones appear nowhere (G6)."""
    return Difference(
        start=tuple(sorted(desired.keys() - running.keys())),
        stop=tuple(sorted(running.keys() - desired.keys())),
        restart=tuple(
            sorted(key for key in running.keys() & desired.keys() if running[key] != desired[key])
        ),
    )
