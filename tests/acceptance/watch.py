"""Somebody who looks at an installation from outside, all the time, and forgets nothing.

Owns a thread that reads every camera's index beside the recording processes and remembers each
entry that was ever visible; a record is read and verified the moment its entry is first seen, and
again whenever asked. Opens the store for reading only, as the API process does.

What "verifies" means here: the record carries the place, camera and time its entry says, header and
payload checksums, every access unit's SHA-256 and the fragment root (cext), and by hashlib alone:
each access unit is one that the camera sent.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cext.errors import CextError
from cext.record import RecordHeader, frame_table, verify_record
from gateway.installation import Installation, open_store
from gateway.simulate.footage import Footage
from storage.base.timebase import SECOND_NS, TimeRange
from storage.errors import IndexCorrupt, StorageError
from storage.index.format import FLAG_GAP
from storage.store import Store

POLL_S = 0.02
FAR_NS = 1 << 62
# Entries of the newest seconds are looked at again: gap records may begin before the last entry.
BACK_NS = 20 * SECOND_NS
FRAME_ENTRY = np.dtype(
    [
        ("size_bytes", "<u4"),
        ("pts_ticks", "<i4"),
        ("recv_us", "<u4"),
        ("flags", "<u2"),
        ("nal_count", "<u2"),
        ("sha256", "V32"),
    ]
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One index entry that was visible once."""

    uid: bytes
    start_ns: int
    volume: int
    slot: int
    generation: int
    offset_blocks: int
    record_bytes: int
    gap: bool

    @property
    def place(self) -> tuple[int, int, int, int]:
        return (self.volume, self.slot, self.generation, self.offset_blocks)


class Untrue(Exception):
    """A visible entry whose record is not what it must be."""


def hashes_of(footage: Footage) -> frozenset[bytes]:
    """SHA-256 of every access unit as it is stored, by hashlib."""
    return frozenset(hashlib.sha256(unit.sample).digest() for unit in footage.access_units)


def check(store: Store, seen: Seen, known: frozenset[bytes]) -> RecordHeader:
    """Read and verify one record. Raises Untrue."""
    volume = store.volumes[seen.volume]
    try:
        data = volume.read(seen.slot, seen.offset_blocks * 4096, seen.record_bytes)
        header = verify_record(data, full=True)
    except (CextError, StorageError, AssertionError) as error:
        raise Untrue(f"{seen}: {error}") from error
    told = (
        header.volume_uuid,
        header.slot,
        header.generation,
        header.offset_blocks,
        header.record_bytes,
        header.camera_uid,
        header.start_ns,
        header.is_gap,
    )
    wanted = (
        volume.uuid,
        seen.slot,
        seen.generation,
        seen.offset_blocks,
        seen.record_bytes,
        seen.uid,
        seen.start_ns,
        seen.gap,
    )
    if told != wanted:
        raise Untrue(f"{seen}: the record says {told}")
    if not seen.gap:
        _check_frames(seen, header, data, known)
    return header


def _check_frames(
    seen: Seen, header: RecordHeader, data: memoryview, known: frozenset[bytes]
) -> None:
    table = np.frombuffer(frame_table(data, header), FRAME_ENTRY)
    at = header.header_bytes
    for size in table["size_bytes"].tolist():
        if hashlib.sha256(data[at : at + size]).digest() not in known:
            raise Untrue(f"{seen}: holds an access unit that its camera never sent")
        at += size
    if not len(table) or at != header.header_bytes + header.payload_bytes:
        raise Untrue(f"{seen}: its frames do not fill it")


class Watcher:
    """``with Watcher(...) as watcher``: looks until the end; ``faults`` must stay empty."""

    def __init__(self, installation: Installation, known: Mapping[bytes, frozenset[bytes]]) -> None:
        self._installation = installation
        self._known = known
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._seen: dict[bytes, dict[tuple[int, int, int, int], Seen]] = defaultdict(dict)
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self.faults: list[str] = []
        self.looks = 0

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def remembered(self) -> list[Seen]:
        """Every entry that was ever visible."""
        with self._lock:
            return [seen for entries in self._seen.values() for seen in entries.values()]

    def newest_fragment_ns(self, uid: bytes) -> int:
        """Start of the camera's newest fragment that was ever visible, 0 for none."""
        with self._lock:
            return max((s.start_ns for s in self._seen[uid].values() if not s.gap), default=0)

    def check_all(self, entries: Iterable[Seen] | None = None) -> int:
        """Everything remembered (or ``entries``) must be visible and verify, now; how many were.

        Raises Untrue. Call it while recovery is not running.
        """
        by_camera: dict[bytes, list[Seen]] = defaultdict(list)
        for seen in self.remembered() if entries is None else entries:
            by_camera[seen.uid].append(seen)
        count = 0
        with open_store(self._installation) as store:
            for uid, wanted in by_camera.items():
                places = {seen.place for seen in visible_entries(store, uid, -FAR_NS)}
                for seen in wanted:
                    if seen.place not in places:
                        raise Untrue(f"{seen}: was visible, and is not any more")
                    check(store, seen, self._known[uid])
                    count += 1
        return count

    def _run(self) -> None:
        with open_store(self._installation) as store:
            while not self._stop.is_set():
                for uid in self._known:
                    try:
                        self._look(store, uid)
                    except Untrue as fault:
                        self.faults.append(str(fault))
                self.looks += 1
                time.sleep(POLL_S)

    def _look(self, store: Store, uid: bytes) -> None:
        if not store.has_index(uid):
            return
        mine = self._seen[uid]
        since_ns = max((s.start_ns for s in mine.values()), default=0) - BACK_NS
        try:
            visible = visible_entries(store, uid, since_ns)
        except IndexCorrupt as error:
            raise Untrue(str(error)) from error
        for seen in visible:
            if seen.place in mine:
                continue
            check(store, seen, self._known[uid])
            with self._lock:
                mine[seen.place] = seen
        # Not for a moment, not even while a dead worker's slots are recovered.
        places = {seen.place for seen in visible}
        gone = [s for s in mine.values() if s.start_ns >= since_ns and s.place not in places]
        if gone:
            raise Untrue(f"{gone[0]}: was visible, and is not now ({len(gone)} of them)")


def visible_entries(store: Store, uid: bytes, since_ns: int) -> list[Seen]:
    """The camera's live entries that reach beyond ``since_ns``, oldest first."""
    index = store.index(uid)
    try:
        rows = index.find(TimeRange(since_ns, FAR_NS)).rows.tolist()
    finally:
        index.close()
    return [
        Seen(uid, start_ns, volume, slot, generation, offset_blocks, nbytes, bool(flags & FLAG_GAP))
        for start_ns, _, generation, slot, offset_blocks, nbytes, flags, volume in rows
    ]
