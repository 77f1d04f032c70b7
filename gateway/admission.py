"""May these cameras be enrolled? The ring must hold everybody's legal period, with them too.

Owns what is taken as a camera's rate: what was recorded of it, what is arriving now, or the
configured assumption, whichever is known and larger. The arithmetic is ``storage.capacity``'s
(docs/design/capacity.md). Never asked on a trial, which has no legal period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.config import Config
from gateway.ingest.control import StatusReport
from gateway.ingest.registry import Camera
from storage.base.retention import BUILT_IN
from storage.base.timebase import HOUR_NS, SECOND_NS, TimeRange
from storage.capacity import CapacityPlan, Demand, VolumeSpace, plan, usable_bytes
from storage.store import Store

# Less than this recorded says little about a camera's rate over a day.
_MEASURED_NS_MIN = HOUR_NS
# A mean over this much of the newest footage follows a camera whose settings were changed.
_WINDOW_NS = 6 * HOUR_NS


def capacity_plan(
    config: Config,
    store: Store,
    cameras: Sequence[Camera],
    wanted_classes: Sequence[str],
    report: StatusReport | None,
) -> CapacityPlan:
    """Days held against days needed with ``cameras`` (enrolled) and one more of each wanted
    class.
    """
    live = live_rates(report)
    assumed = config.capacity.assumed_kbps * 1000 / 8
    by_class: dict[str, list[float]] = {}
    for camera in cameras:
        known = max(recorded_rate(store, camera), live.get(camera.id, 0.0))
        by_class.setdefault(camera.retention, []).append(known or assumed)
    for name in wanted_classes:
        by_class.setdefault(name, []).append(assumed)
    demands = [
        Demand(name, BUILT_IN[name].min_days, sum(rates), len(rates))
        for name, rates in sorted(by_class.items())
    ]
    usable = usable_bytes(
        [VolumeSpace(v.slot_count, v.slot_size_bytes) for v in store.volumes.values()],
        workers=config.server.workers,
        lanes=config.storage.lanes,
        classes=len(by_class),
    )
    return plan(usable, demands)


def live_rates(report: StatusReport | None) -> Mapping[str, float]:
    """Bytes per second arriving now, by camera id."""
    if report is None:
        return {}
    return {
        feed.camera_id: feed.bitrate_bps / 8
        for view in report.workers
        if view.snapshot is not None
        for feed in view.snapshot.feeds
    }


def recorded_rate(store: Store, camera: Camera) -> float:
    """Bytes per second of the newest hours on disk; 0 when there is too little to tell."""
    if not store.has_index(camera.uid):
        return 0.0
    index = store.index(camera.uid)
    try:
        oldest_ns, newest_ns = index.oldest_ns, index.newest_ns
        if oldest_ns is None or newest_ns is None:
            return 0.0
        window = TimeRange(max(oldest_ns, newest_ns - _WINDOW_NS), newest_ns)
        entries = index.find(window)
        footage = ~entries.is_gap
        stored_ns = int((entries.end_ns - entries.start_ns)[footage].sum())
        if stored_ns < _MEASURED_NS_MIN:
            return 0.0
        return float(entries.rows["record_bytes"][footage].sum()) / (stored_ns / SECOND_NS)
    finally:
        index.close()
