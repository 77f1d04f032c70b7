"""A process that records synthetic cameras until it is killed, and says what became visible.

Run as ``python -m tests.crash.recorder_child ROOT CAMERAS``. Every line on stdout names one entry
that a reader can see: camera, entry number, volume, slot, generation, block, start_ns.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from storage.base.clock import SystemClock
from storage.base.timebase import TimeRange
from storage.recorder import CameraWriter
from storage.store import Store, recover
from tests.crash.synthetic import submit_one
from tests.storage.rig import Rig, uid

COMMIT_INTERVAL_NS = 80_000_000
CHECKPOINT_INTERVAL_NS = 150_000_000


def feed(rig: Rig, camera: CameraWriter, number: int) -> None:
    while True:
        if not submit_one(rig.pool, camera, number, time.time_ns()):
            time.sleep(0.002)
        time.sleep(0.004)


def tell(store: Store, cameras: int) -> None:
    """Follow the indexes as any reader would, and print what is new."""
    indexes = [store.index(uid(n)) for n in range(cameras)]
    seen = [index.last_end_ns for index in indexes]
    while True:
        for n, index in enumerate(indexes):
            span = index.find(TimeRange(seen[n], 1 << 62))
            lines = []
            for number, row in zip(span.numbers.tolist(), span.rows, strict=True):
                start_ns = int(row["start_ns"])
                if start_ns < seen[n]:
                    continue
                place = [int(row[name]) for name in PLACE]
                lines.append(" ".join(map(str, (n, number, *place, start_ns))))
                seen[n] = start_ns + 1
            if lines:
                os.write(1, ("\n".join(lines) + "\n").encode())
        time.sleep(0.002)


PLACE = ("volume_number", "slot", "generation", "offset_blocks")


def main() -> None:
    root, cameras = Path(sys.argv[1]), int(sys.argv[2])
    rig = Rig(root, trial=True)
    store = rig.open()
    clock = SystemClock(store.mark())
    rig.clock = clock  # type: ignore[assignment]
    recover(store, clock)
    recorder = rig.recorder(
        store,
        commit_interval_ns=COMMIT_INTERVAL_NS,
        checkpoint_interval_ns=CHECKPOINT_INTERVAL_NS,
        queue_bytes_max=16 << 20,
    )
    recorder.start()
    for n in range(cameras):
        camera = recorder.open_camera(uid(n), f"camera-{n}", rig.retention)
        threading.Thread(target=feed, args=(rig, camera, n), daemon=True).start()
    tell(store, cameras)


if __name__ == "__main__":
    main()
