"""Prometheus metrics, made from the supervisor's report at each scrape; nothing is kept between.

Owns names, types and labels. Every process's figures and every camera's gauges come from the same
report that ``status`` shows, so the two never disagree. Labels hold ids and numbers, never a URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.ingest.control import StatusReport, WorkerSnapshot
from gateway.ingest.model import FeedState, FeedStatus

PREFIX = "ringvault"


def render_metrics(
    report: StatusReport | None, healthy: bool, own: Mapping[str, float]
) -> tuple[bytes, str]:
    """(body, content type). ``own``: counters of the API process itself, by name without prefix."""
    registry = CollectorRegistry()
    registry.register(_Report(report, healthy, own))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Report(Collector):
    def __init__(
        self, report: StatusReport | None, healthy: bool, own: Mapping[str, float]
    ) -> None:
        self._report = report
        self._healthy = healthy
        self._own = own

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield _gauge("healthy", "1 while recording as it should.", self._healthy)
        for name, value in self._own.items():
            if name.endswith("_total"):
                yield CounterMetricFamily(f"{PREFIX}_api_{name}", "Of the API process.", value)
            else:
                yield _gauge(f"api_{name}", "Of the API process.", value)
        if self._report is None:
            return
        yield from _supervisor(self._report)
        snapshots = [
            (str(view.worker), view.snapshot)
            for view in self._report.workers
            if view.snapshot is not None
        ]
        yield from _workers(snapshots)
        yield from _volumes(snapshots)
        yield from _cameras(feed for _, snapshot in snapshots for feed in snapshot.feeds)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, float(value))


def _supervisor(report: StatusReport) -> Iterator[Metric]:
    yield _gauge("start_time_seconds", "When serve started.", report.started_ns / 1e9)
    yield _gauge(
        "clock_synchronised", "0 while our clock and UTC differ.", report.clock_synchronised
    )
    restarts = CounterMetricFamily(
        f"{PREFIX}_process_restarts", "Children started again.", labels=["process"]
    )
    for view in report.workers:
        restarts.add_metric([f"worker-{view.worker}"], view.restarts)
    restarts.add_metric(["api"], report.api_restarts)
    yield restarts


def _workers(snapshots: list[tuple[str, WorkerSnapshot]]) -> Iterator[Metric]:
    def family(kind: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str, text: str,
               field: str, scale: float = 1.0) -> Metric:  # fmt: skip
        metric = kind(f"{PREFIX}_worker_{name}", text, labels=["worker"])
        for worker, snapshot in snapshots:
            metric.add_metric([worker], getattr(snapshot.state, field) * scale)
        return metric

    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    yield family(counter, "cpu_seconds", "User and system time.", "cpu_s")
    yield family(gauge, "resident_bytes", "Resident memory.", "rss_bytes")
    yield family(gauge, "loop_lag_seconds", "Worst delay of a tick.", "loop_lag_ns", 1e-9)
    yield family(gauge, "arena_bytes", "Memory of fragments in use.", "arena_bytes")
    yield family(counter, "arena_exhausted", "Fragments refused memory.", "arena_exhausted")
    yield family(counter, "log_lines_suppressed", "Held back by the storm limiter.",
                 "log_lines_suppressed")  # fmt: skip


def _volumes(snapshots: list[tuple[str, WorkerSnapshot]]) -> Iterator[Metric]:
    labels = ["worker", "volume"]
    written = CounterMetricFamily(f"{PREFIX}_written_bytes", "Recorded, durable.", labels=labels)
    lost = CounterMetricFamily(f"{PREFIX}_records_lost", "Became gaps here.", labels=labels)
    errors = CounterMetricFamily(f"{PREFIX}_volume_errors", "Failed operations.", labels=labels)
    queue = GaugeMetricFamily(f"{PREFIX}_queue_bytes", "Waiting for the disk.", labels=labels)
    blocked = GaugeMetricFamily(f"{PREFIX}_volume_blocked", "1: takes nothing.", labels=labels)
    free = GaugeMetricFamily(f"{PREFIX}_slots_free", "Slots never used.", labels=["volume"])
    total = GaugeMetricFamily(f"{PREFIX}_slots", "Slots in all.", labels=["volume"])
    latency = GaugeMetricFamily(
        f"{PREFIX}_commit_seconds", "From submit to durable.", labels=[*labels, "quantile"]
    )
    seen: set[str] = set()
    for worker, snapshot in snapshots:
        for stats in snapshot.state.recorder.volumes:
            volume = str(stats.volume_number)
            written.add_metric([worker, volume], stats.bytes_written)
            lost.add_metric([worker, volume], stats.records_lost)
            errors.add_metric([worker, volume], stats.errors)
            queue.add_metric([worker, volume], stats.queue_bytes)
            blocked.add_metric([worker, volume], bool(stats.blocked))
            latency.add_metric([worker, volume, "0.5"], stats.commit.p50_ns / 1e9)
            latency.add_metric([worker, volume, "0.99"], stats.commit.p99_ns / 1e9)
            if volume not in seen:
                seen.add(volume)
                free.add_metric([volume], stats.slots_free)
                total.add_metric([volume], stats.slots_total)
    yield from (written, lost, errors, queue, blocked, latency, free, total)


def _cameras(feeds: Iterable[FeedStatus]) -> Iterator[Metric]:
    recording = GaugeMetricFamily(f"{PREFIX}_camera_recording", "1: playing.", labels=["camera"])
    fps = GaugeMetricFamily(f"{PREFIX}_camera_fps", "Frames a second.", labels=["camera"])
    rate = GaugeMetricFamily(f"{PREFIX}_camera_bits_per_second", "As received.", labels=["camera"])
    last = GaugeMetricFamily(
        f"{PREFIX}_camera_last_frame_seconds", "Time of the last frame.", labels=["camera"]
    )
    reconnects = CounterMetricFamily(
        f"{PREFIX}_camera_reconnects", "Connections after the first.", labels=["camera"]
    )
    events = CounterMetricFamily(
        f"{PREFIX}_camera_events", "Counters of the feed, by name.", labels=["camera", "event"]
    )
    for feed in feeds:
        camera = [feed.camera_id]
        recording.add_metric(camera, feed.state is FeedState.PLAYING)
        fps.add_metric(camera, feed.fps)
        rate.add_metric(camera, feed.bitrate_bps)
        last.add_metric(camera, feed.last_frame_ns / 1e9)
        reconnects.add_metric(camera, feed.reconnects)
        for name, value in feed.counters.items():
            events.add_metric([feed.camera_id, name], value)
    yield from (recording, fps, rate, last, reconnects, events)
