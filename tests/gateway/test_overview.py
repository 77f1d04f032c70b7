"""Goal: well means recording; one camera away is a warning, none recorded is not well."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from gateway.ingest.control import StatusReport, WorkerFault, WorkerSnapshot, WorkerView
from gateway.ingest.model import FeedState, FeedStatus
from gateway.ingest.registry import Camera
from gateway.ingest.status import WorkerState
from gateway.overview import judge
from gateway.telemetry.metrics import render_metrics
from storage.base.timebase import SECOND_NS
from storage.recorder import RecorderStats
from storage.volume.stats import LatencySummary, WriterStats

NOW = 1_800_000_000 * SECOND_NS
NONE = LatencySummary(0, 0, 0, 0)


def camera(number: int) -> Camera:
    return Camera(f"c{number}", bytes(16), "rtsp://h/", 8, "road", None, "R30", "tcp", 0)


def feed(number: int, state: FeedState = FeedState.PLAYING) -> FeedStatus:
    return FeedStatus(
        camera_id=f"c{number}", state=state, since_ns=NOW, codec="H.264", width=1, height=1,
        fps=25.0, bitrate_bps=4e6, last_frame_ns=NOW, reconnects=0, last_error=None,
        counters={"packets": 7},
    )  # fmt: skip


def volume(*blocked: str) -> WriterStats:
    return WriterStats(
        volume_number=1, queue_bytes=0, queue_bytes_max=1, queue_records=0, batches=0,
        records_written=0, bytes_written=11, records_lost=0, errors=0, cameras=0, blocked=blocked,
        commit=NONE, loss_window=NONE, slots_total=4, slots_free=1, slots_sealed=1, oldest_ns=None,
    )  # fmt: skip


def worker(number: int, *feeds: FeedStatus, age_s: float = 0, blocked: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    state = WorkerState(
        pid=1, cpu_s=1.5, rss_bytes=2, loop_lag_ns=3, arena_bytes=4, arena_spare_bytes=5,
        arena_exhausted=6, log_lines_suppressed=7,
        recorder=RecorderStats((volume(*blocked),), 1, 0, 0),
    )  # fmt: skip
    snapshot = WorkerSnapshot(NOW - int(age_s * 1e9), list(feeds), state)
    return WorkerView(number, 100 + number, 0, snapshot)


def report(*workers: WorkerView, **changes: object) -> StatusReport:
    made = StatusReport(
        pid=1, started_ns=NOW, utc_ns=NOW, revision=1, http_address="http://h", recovery="",
        workers=list(workers), faults=[], clock_synchronised=True, api_restarts=0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


BOTH = [camera(0), camera(1)]
AWAY = feed(1, FeedState.WAITING)


@pytest.mark.parametrize(
    ("found", "cameras", "ok", "said"),
    [
        (None, BOTH, False, "does not run"),
        (report(worker(0, feed(0), feed(1))), BOTH, True, ""),
        (report(worker(0)), [], True, ""),
        (report(worker(0, feed(0)), worker(1, feed(1))), BOTH, True, ""),
        (report(worker(0, feed(0), AWAY)), BOTH, True, "1 of 2 cameras are not recorded: c1"),
        (report(worker(0, feed(0))), BOTH, True, "c1"),
        (report(worker(0, AWAY)), [camera(1)], False, "none of 1 cameras"),
        (report(worker(0, feed(0), feed(1), age_s=6)), BOTH, False, "worker 0 does not report"),
        (report(worker(0, feed(0), feed(1)), WorkerView(1, 0, 3, None)), BOTH, False,
         "worker 1 does not run"),
        (report(worker(0, feed(0), feed(1), blocked=("R30: full",))), BOTH, False,
         "volume 1: R30: full"),
        (report(worker(0, feed(0), feed(1)), clock_synchronised=False), BOTH, True, "UTC"),
        (report(worker(0, feed(0), feed(1)), faults=[WorkerFault(NOW, "DISK_ERROR", 1, "EIO")]),
         BOTH, True, "DISK_ERROR: EIO"),
        (report(worker(0, feed(0), feed(1)), faults=[WorkerFault(0, "DISK_ERROR", 1, "EIO")]),
         BOTH, True, ""),
    ],
)  # fmt: skip
def test_judgement(found: StatusReport | None, cameras: list[Camera], ok: bool, said: str) -> None:
    health = judge(found, cameras, NOW)
    assert health.ok is ok
    told = " ".join(health.warnings if ok else health.reasons)
    assert said in told if said else not told


def test_a_removed_camera_is_not_missed() -> None:
    removed = replace(camera(1), removed_ns=NOW)
    assert not judge(report(worker(0, feed(0))), [camera(0), removed], NOW).warnings


def test_metrics_say_the_same() -> None:
    body, kind = render_metrics(
        report(worker(0, feed(0), AWAY)), True, {"clips_reading": 2, "clips_refused_total": 3}
    )
    lines = set(body.decode().splitlines())
    for line in (
        "ringvault_healthy 1.0",
        "ringvault_api_clips_reading 2.0",
        "ringvault_api_clips_refused_total 3.0",
        'ringvault_camera_recording{camera="c0"} 1.0',
        'ringvault_camera_recording{camera="c1"} 0.0',
        'ringvault_camera_events_total{camera="c0",event="packets"} 7.0',
        'ringvault_written_bytes_total{volume="1",worker="0"} 11.0',
        'ringvault_worker_cpu_seconds_total{worker="0"} 1.5',
        'ringvault_slots_free{volume="1"} 1.0',
    ):
        assert line in lines, line
    assert kind.startswith("text/plain")


def test_metrics_without_a_supervisor() -> None:
    body, _ = render_metrics(None, False, {})
    assert "ringvault_healthy 0.0" in body.decode().splitlines()
