"""What a worker tells of itself beside its feeds.

Owns plain values that cross processes as JSON. docs/design/processes.md, ``WorkerSnapshot``.
"""

from __future__ import annotations

import msgspec

from storage.recorder import RecorderStats


class WorkerState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One worker process now.

    ``loop_lag_ns``: the worst delay of a tick since the last snapshot. ``arena_*``: memory of
    fragments.
    """

    pid: int
    cpu_s: float
    rss_bytes: int
    loop_lag_ns: int
    arena_bytes: int
    arena_spare_bytes: int
    arena_exhausted: int
    log_lines_suppressed: int
    recorder: RecorderStats
