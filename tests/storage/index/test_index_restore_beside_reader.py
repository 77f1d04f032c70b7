"""Recovery writes rows again that readers of other processes see: not for a moment may they differ.

The reader is another process, as in production: within one the interpreter lock would hide it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from storage.index.index import CameraIndex

from .conftest import UID, Rig, fragment

ROWS = 32
SECONDS = 1.0


def test_restoring_visible_rows_is_invisible(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    entries = [fragment(n) for n in range(ROWS)]
    rig.writer.append(entries)
    child = os.fork()
    if child == 0:  # pragma: no cover - ends by a signal
        while True:
            rig.writer.restore(entries)
    try:
        reader = CameraIndex.open(tmp_path, UID, rig.tables)
        rows = reader._map.rows[:ROWS]
        expected = rows.copy()
        deadline = time.monotonic() + SECONDS
        looks = 0
        while time.monotonic() < deadline:
            seen = rows.copy()
            assert np.array_equal(seen, expected), f"a row was torn (look {looks})"
            looks += 1
        assert looks > 100
        del rows
        reader.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    rig.close()
