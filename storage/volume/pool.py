"""Which camera writes to which volume.

Owns the choice: cameras are spread so that every volume holds the same number of days, by measured
bytes per second against capacity; away from a volume that fails or is full. Never moves a record
itself: a stream's writer thread does, at the end of a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from storage.base.retention import RetentionClass
from storage.errors import RetentionMismatch
from storage.volume.pending import CameraStream
from storage.volume.writer import VolumeWriter

IMBALANCE_MAX = 1.25


class VolumePool:
    """The writers of one worker, one a volume."""

    def __init__(self, writers: Sequence[VolumeWriter]) -> None:
        self.writers = tuple(writers)
        self._lock = threading.Lock()
        self._streams: dict[CameraStream, None] = {}

    def assign(self, stream: CameraStream) -> VolumeWriter:
        """The volume a new stream begins on. Raises RetentionMismatch if none takes its class."""
        usable = self._usable(stream.retention)
        if not usable:
            self.writers[0].volume.check_retention(stream.retention)
        with self._lock:
            self._streams[stream] = None
            candidates = [writer for writer in usable if writer.healthy] or usable
            return min(candidates, key=lambda writer: self._load(writer, stream))

    def forget(self, stream: CameraStream) -> None:
        with self._lock:
            self._streams.pop(stream, None)

    def refuge(self, stream: CameraStream, away_from: VolumeWriter) -> VolumeWriter | None:
        """A healthy volume for a stream whose own does not take it now; None if there is none."""
        candidates = [
            writer
            for writer in self._usable(stream.retention)
            if writer is not away_from and writer.healthy
        ]
        with self._lock:
            return min(candidates, key=lambda writer: self._load(writer, stream), default=None)

    def rebalance(self, now_ns: int) -> CameraStream | None:
        """Measure all rates; ask one camera to move if a volume carries much more than its share.

        Called about once a minute, so cameras trickle to a volume that was added or came back.
        """
        with self._lock:
            streams = list(self._streams)
            for stream in streams:
                stream.measure_rate(now_ns)
            healthy = [writer for writer in self.writers if writer.healthy]
            if len(healthy) < 2:
                return None
            loads = {writer: self._load(writer, None) for writer in healthy}
            fullest, emptiest = (
                max(healthy, key=loads.__getitem__),
                min(healthy, key=loads.__getitem__),
            )
            mean = sum(loads.values()) / len(loads)
            if loads[fullest] <= mean * IMBALANCE_MAX:
                return None
            for stream in sorted(streams, key=lambda one: one.rate_bytes_per_s):
                moved = stream.rate_bytes_per_s / emptiest.volume.capacity_bytes
                if stream.writer is fullest and loads[emptiest] + moved < loads[fullest]:
                    stream.wanted = emptiest
                    return stream
            return None

    def _usable(self, retention: RetentionClass) -> list[VolumeWriter]:
        usable = []
        for writer in self.writers:
            try:
                writer.volume.check_retention(retention)
            except RetentionMismatch:
                continue
            usable.append(writer)
        return usable

    def _load(self, writer: VolumeWriter, extra: CameraStream | None) -> float:
        """Share of the volume's capacity written per second, with ``extra`` on it too."""
        rate = sum(stream.rate_bytes_per_s for stream in self._streams if stream.writer is writer)
        if extra is not None and extra.writer is not writer:
            rate += extra.rate_bytes_per_s
        return rate / writer.volume.capacity_bytes
