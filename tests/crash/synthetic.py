"""Fragments whose bytes follow from camera and stream sequence, so anyone can tell them apart."""

from __future__ import annotations

import random

from cext.arena import ArenaPool, Fragment
from storage.recorder import CameraWriter
from tests.storage.rig import meta, noise

FRAMES = 3
FRAME_BYTES_MAX = 60_000


def samples(camera: int, sequence: int) -> list[bytes]:
    """The access units of that fragment, as stored."""
    rng = random.Random(camera << 48 | sequence)
    found = []
    for n in range(FRAMES):
        size = rng.randrange(20, FRAME_BYTES_MAX)
        nal = bytes([0x65 if n == 0 else 0x41]) + noise(rng, size)
        found.append(len(nal).to_bytes(4, "big") + nal)
    return found


def submit_one(pool: ArenaPool, camera: CameraWriter, number: int, now_ns: int) -> bool:
    units = [
        (unit, n * 3600, now_ns + n, 1 if n == 0 else 0)
        for n, unit in enumerate(samples(number, camera.next_sequence))
    ]
    fragment = Fragment.from_samples(pool, 1, 90_000, units)
    start_ns = max(now_ns, camera.last_end_ns)
    if camera.submit(fragment, meta(start_ns, duration_ns=1_000_000)):
        return True
    fragment.release()
    return False
