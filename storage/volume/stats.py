"""Counters of a writer and how long records took to become durable."""

from __future__ import annotations

import threading

import msgspec
import numpy as np

LATENCIES_KEPT = 16_384


class LatencySummary(msgspec.Struct, frozen=True):
    """Nanoseconds over the last LATENCIES_KEPT records; ``max_ns`` since the writer started."""

    count: int
    p50_ns: int
    p99_ns: int
    max_ns: int


class Latencies:
    """A ring of the newest latencies. Written by one thread, summarised by any."""

    def __init__(self) -> None:
        self._values = np.zeros(LATENCIES_KEPT, dtype=np.int64)
        self._count = 0
        self._max_ns = 0
        self._lock = threading.Lock()

    def add(self, values_ns: list[int]) -> None:
        if not values_ns:
            return
        batch = np.array(values_ns[-LATENCIES_KEPT:], dtype=np.int64)
        with self._lock:
            at = self._count % LATENCIES_KEPT
            head = min(len(batch), LATENCIES_KEPT - at)
            self._values[at : at + head] = batch[:head]
            self._values[: len(batch) - head] = batch[head:]
            self._count += len(batch)
            self._max_ns = max(self._max_ns, *values_ns)

    def summary(self) -> LatencySummary:
        with self._lock:
            kept = self._values[: min(self._count, LATENCIES_KEPT)].copy()
            count, max_ns = self._count, self._max_ns
        if not len(kept):
            return LatencySummary(0, 0, 0, 0)
        p50, p99 = np.percentile(kept, [50, 99])
        return LatencySummary(count, int(p50), int(p99), max_ns)


class WriterStats(msgspec.Struct, frozen=True):
    """One volume as one worker writes it.

    ``commit``: from submit() to durable. ``loss_window``: from the receipt of a fragment's first
    access unit to its durability, what a power cut at the worst moment takes (P6).
    """

    volume_number: int
    queue_bytes: int
    queue_bytes_max: int
    queue_records: int
    batches: int
    records_written: int
    bytes_written: int
    records_lost: int
    errors: int
    cameras: int
    blocked: tuple[str, ...]
    commit: LatencySummary
    loss_window: LatencySummary
    slots_total: int
    slots_free: int
    slots_sealed: int
    oldest_ns: int | None
