"""What there is to see: cameras with their feeds and their footage, volumes, processes, health.

Owns the joining of three sources (registry, the supervisor's report, the index) into the values
that ``ringvault status``, ``/v1/status``, ``/healthz`` and ``/metrics`` show, and the rule what
counts as well. Never changes anything and never shows a credential (G7).

- Figures of an archive cost milliseconds a camera whatever it holds: beyond EXACT_ENTRIES_MAX
  index rows the bytes kept are estimated from samples, and marked so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from gateway.ingest.control import StatusReport, WorkerView
from gateway.ingest.model import FeedState, FeedStatus
from gateway.ingest.registry import Camera
from gateway.installation import Installation
from gateway.limits import SNAPSHOT_AGE_MAX_S
from gateway.telemetry.log import redact
from storage.base.timebase import SECOND_NS, TimeRange, format_rfc3339
from storage.index.coverage import coverage
from storage.index.index import CameraIndex, EntrySpan
from storage.store import Store
from storage.volume.format import SLOT_FREE, SLOT_SEALED
from storage.volume.stats import WriterStats

# A fault of a disk is worth a look for so long after it happened, if nothing else tells of it.
FAULT_SHOWN_NS = 600 * SECOND_NS
FAULTS_SHOWN = 3
# Sums over more rows than this would make a status of a large archive slow: they are sampled.
EXACT_ENTRIES_MAX = 200_000
SAMPLES = 64
SAMPLE_NS = 60 * SECOND_NS

NOT_RUNNING = "not running"


@dataclass(frozen=True, slots=True)
class FeedProblem:
    """Why the last connection of a feed ended."""

    code: str
    cause: str
    message: str
    remedy: str
    time: str


@dataclass(frozen=True, slots=True)
class CameraOverview:
    """One camera. Times RFC 3339 UTC, None where there is none; rates as received."""

    id: str
    uid: str
    url: str
    place_category: int
    place_type: str
    retention: str
    transport: str
    created: str
    removed: str | None
    state: str
    codec: str
    width: int
    height: int
    fps: float
    bitrate_bps: float
    last_frame: str | None
    reconnects: int
    last_error: FeedProblem | None
    worker: int | None
    gaps_today: int
    gap_seconds_today: float
    bytes_kept: int
    bytes_exact: bool
    oldest: str | None
    newest: str | None
    counters: dict[str, int]


@dataclass(frozen=True, slots=True)
class VolumeOverview:
    """One volume: slots by state, and what is wrong with it."""

    number: int
    path: str
    capacity_bytes: int
    slots: int
    slots_free: int
    slots_sealed: int
    oldest: str | None
    queue_bytes: int
    commit_p99_ms: float
    loss_window_p99_ms: float
    errors: int
    blocked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """``ok``: recording as it should. ``reasons`` keep it from being so; ``warnings`` do not."""

    ok: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything at one moment."""

    installation: str
    name: str
    trial: bool
    time: str
    serving: bool
    http_address: str
    started: str | None
    recovery: str
    health: Health
    cameras: tuple[CameraOverview, ...]
    volumes: tuple[VolumeOverview, ...]


@dataclass(frozen=True, slots=True)
class ArchiveFigures:
    """What is kept of one camera. ``bytes_exact`` False: estimated from samples."""

    oldest_ns: int | None
    newest_ns: int | None
    bytes_kept: int
    bytes_exact: bool
    gaps_today: int
    gap_ns_today: int


_NOTHING = ArchiveFigures(None, None, 0, True, 0, 0)


def archive_figures(store: Store, camera: Camera, now_ns: int) -> ArchiveFigures:
    """Read one camera's index. Cost: milliseconds, whatever the archive holds.

    A camera never recorded has none. Raises IndexCorrupt.
    """
    if not store.has_index(camera.uid):
        return _NOTHING
    index = store.index(camera.uid)
    try:
        oldest_ns, newest_ns = index.oldest_ns, index.newest_ns
        if oldest_ns is None or newest_ns is None:
            return _NOTHING
        kept, exact = _bytes_kept(index, TimeRange(oldest_ns, newest_ns))
        today = TimeRange(max(_midnight_ns(now_ns), camera.created_ns), now_ns)
        gaps = coverage(index, today, now_ns).gaps if today.duration_ns else ()
        # What came last is always a little in the past: that is no gap.
        real = [gap for gap in gaps if gap.start_ns < newest_ns or gap.cause.stored]
        return ArchiveFigures(
            oldest_ns, newest_ns, kept, exact, len(real), sum(gap.duration_ns for gap in real)
        )
    finally:
        index.close()


def _bytes_kept(index: CameraIndex, kept: TimeRange) -> tuple[int, bool]:
    """(bytes, exact). Beyond EXACT_ENTRIES_MAX, from evenly spaced samples of the range."""
    if index.entry_count <= EXACT_ENTRIES_MAX:
        return _record_bytes(index.find(kept)), True
    step_ns = kept.duration_ns // SAMPLES
    sampled = sum(
        _record_bytes(index.find(TimeRange(start_ns, start_ns + SAMPLE_NS)))
        for start_ns in range(kept.start_ns, kept.end_ns - SAMPLE_NS, step_ns)
    )
    return sampled * kept.duration_ns // (SAMPLES * SAMPLE_NS), False


def _record_bytes(entries: EntrySpan) -> int:
    rows = entries.rows
    return int(rows["record_bytes"][~entries.is_gap].sum(dtype=np.int64))


def _midnight_ns(now_ns: int) -> int:
    """Start of today in the machine's time zone."""
    here = datetime.fromtimestamp(now_ns // SECOND_NS).astimezone()
    midnight = here.replace(hour=0, minute=0, second=0, microsecond=0)
    return int(midnight.timestamp()) * SECOND_NS


def build_overview(
    installation: Installation,
    cameras: Sequence[Camera],
    report: StatusReport | None,
    store: Store,
    now_ns: int,
    figures: Callable[[Camera], ArchiveFigures],
) -> Overview:
    """Join everything. ``report`` None: no supervisor answers."""
    feeds = _feeds(report, now_ns)
    config = installation.config
    return Overview(
        installation=str(config.installation.uuid),
        name=config.installation.name,
        trial=installation.trial,
        time=format_rfc3339(now_ns),
        serving=report is not None,
        http_address=report.http_address if report else "",
        started=format_rfc3339(report.started_ns) if report else None,
        recovery=report.recovery if report else "",
        health=judge(report, cameras, now_ns),
        cameras=tuple(_camera(camera, feeds.get(camera.id), figures(camera)) for camera in cameras),
        volumes=_volumes(store, report),
    )


def _feeds(report: StatusReport | None, now_ns: int) -> dict[str, tuple[int, FeedStatus]]:
    """Worker and status of each feed, by camera id; stale snapshots count for nothing (G8)."""
    if report is None:
        return {}
    return {
        feed.camera_id: (view.worker, feed)
        for view in report.workers
        if is_fresh(view, report.utc_ns) and view.snapshot is not None
        for feed in view.snapshot.feeds
    }


def is_fresh(view: WorkerView, now_ns: int) -> bool:
    """The worker runs and told of itself lately."""
    if view.pid == 0 or view.snapshot is None:
        return False
    return now_ns - view.snapshot.utc_ns <= SNAPSHOT_AGE_MAX_S * SECOND_NS


def _camera(
    camera: Camera, running: tuple[int, FeedStatus] | None, kept: ArchiveFigures
) -> CameraOverview:
    worker, feed = running if running is not None else (None, None)
    return CameraOverview(
        id=camera.id,
        uid=camera.uid.hex(),
        url=redact(camera.url),
        place_category=camera.place_category,
        place_type=camera.place_type,
        retention=camera.retention,
        transport=camera.transport,
        created=format_rfc3339(camera.created_ns),
        removed=_time(camera.removed_ns),
        state=feed.state.value if feed else NOT_RUNNING,
        codec=feed.codec if feed else "",
        width=feed.width if feed else 0,
        height=feed.height if feed else 0,
        fps=round(feed.fps, 2) if feed else 0.0,
        bitrate_bps=round(feed.bitrate_bps) if feed else 0,
        last_frame=_time(feed.last_frame_ns or None) if feed else None,
        reconnects=feed.reconnects if feed else 0,
        last_error=_failure(feed) if feed else None,
        worker=worker,
        gaps_today=kept.gaps_today,
        gap_seconds_today=round(kept.gap_ns_today / SECOND_NS, 3),
        bytes_kept=kept.bytes_kept,
        bytes_exact=kept.bytes_exact,
        oldest=_time(kept.oldest_ns),
        newest=_time(kept.newest_ns),
        counters=feed.counters if feed else {},
    )


def _failure(feed: FeedStatus) -> FeedProblem | None:
    failure = feed.last_error
    if failure is None:
        return None
    return FeedProblem(
        code=failure.code,
        cause=failure.cause.label,
        message=redact(failure.text),
        remedy=failure.remedy,
        time=format_rfc3339(failure.when_ns),
    )


def _time(time_ns: int | None) -> str | None:
    return None if time_ns is None else format_rfc3339(time_ns)


def _volumes(store: Store, report: StatusReport | None) -> tuple[VolumeOverview, ...]:
    """The slot tables' own figures, and what all workers together say of each volume."""
    by_number: dict[int, list[WriterStats]] = {}
    for view in report.workers if report else ():
        if view.snapshot is not None:
            for stats in view.snapshot.state.recorder.volumes:
                by_number.setdefault(stats.volume_number, []).append(stats)
    overviews = []
    for number, volume in sorted(store.volumes.items()):
        entries = volume.table.entries
        states = entries["state"]
        firsts = entries["first_ns"][(states != SLOT_FREE) & (entries["first_ns"] > 0)]
        writers = by_number.get(number, [])
        overviews.append(
            VolumeOverview(
                number=number,
                path=str(volume.path),
                capacity_bytes=volume.capacity_bytes,
                slots=volume.slot_count,
                slots_free=int((states == SLOT_FREE).sum()),
                slots_sealed=int((states == SLOT_SEALED).sum()),
                oldest=_time(int(firsts.min()) if len(firsts) else None),
                queue_bytes=sum(w.queue_bytes for w in writers),
                commit_p99_ms=max((w.commit.p99_ns for w in writers), default=0) / 1e6,
                loss_window_p99_ms=max((w.loss_window.p99_ns for w in writers), default=0) / 1e6,
                errors=sum(w.errors for w in writers),
                blocked=tuple(dict.fromkeys(b for w in writers for b in w.blocked)),
            )
        )
    return tuple(overviews)


def judge(report: StatusReport | None, cameras: Sequence[Camera], now_ns: int) -> Health:
    """Is the installation recording as it should?

    Not well: a process is missing, a volume takes nothing, or no camera at all is recorded. One
    camera that is away is a warning: it harms nobody else.
    """
    if report is None:
        return Health(False, ("`ringvault serve` does not run",), ())
    reasons: list[str] = []
    warnings: list[str] = []
    for view in report.workers:
        if view.pid == 0:
            reasons.append(f"worker {view.worker} does not run")
        elif not is_fresh(view, report.utc_ns):
            reasons.append(f"worker {view.worker} does not report")
        elif view.snapshot is not None:
            for stats in view.snapshot.state.recorder.volumes:
                reasons += [f"volume {stats.volume_number}: {text}" for text in stats.blocked]
    feeds = _feeds(report, now_ns)
    active = [camera for camera in cameras if camera.active]
    away = [
        camera.id
        for camera in active
        if camera.id not in feeds or feeds[camera.id][1].state is not FeedState.PLAYING
    ]
    if away and len(away) == len(active):
        reasons.append(f"none of {len(active)} cameras is recorded")
    elif away:
        shown = ", ".join(away[:5]) + (", ..." if len(away) > 5 else "")
        warnings.append(f"{len(away)} of {len(active)} cameras are not recorded: {shown}")
    warnings += [
        f"{fault.code}: {fault.message}"
        for fault in report.faults[-FAULTS_SHOWN:]
        if report.utc_ns - fault.utc_ns < FAULT_SHOWN_NS
    ]
    if not report.clock_synchronised:
        warnings.append("the clock differs from UTC: nothing is erased meanwhile")
    restarts = sum(view.restarts for view in report.workers)
    if restarts:
        warnings.append(f"workers were restarted {restarts} times since serve started")
    return Health(not reasons, tuple(dict.fromkeys(reasons)), tuple(warnings))
