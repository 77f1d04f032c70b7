"""From a time range to the parts of a clip: index, headers, frames, head, pieces, gaps.

Owns Procedure Open, steps 2 to 5, of docs/design/clip.md. Never sees a grant: callers are checked
before (storage.clip.reader is the only one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from storage.base.clock import Clock
from storage.base.gap import Gap, GapCause
from storage.base.timebase import SECOND_NS, TimeRange
from storage.clip import mp4
from storage.clip.config import SampleConfig, merge_configs
from storage.clip.selection import (
    FrameTable,
    Ints,
    Selection,
    first_shown_ns,
    frame_table,
    last_key,
    select,
    timing,
)
from storage.clip.source import KnownDamage, LostRecord, Place, RecordSource, StoredRecord
from storage.clip.virtual import Piece
from storage.errors import StorageError
from storage.index.coverage import unexplained
from storage.index.format import FLAG_KEY, ROW, Mask, Rows, gap_causes, row_ends_ns
from storage.index.index import CameraIndex, RowSpan
from storage.volume.damage import DamageList
from storage.volume.volume import Volume

DAMAGE_MERGE_NS = 1_000_000


EMPTY_SPAN = RowSpan(0, np.empty(0, ROW), np.zeros(0, np.int64), np.zeros(0, np.bool_), False)


class ClipTooLong(StorageError):
    """More records in the range than one clip may have: ask for it in several parts."""

    def __init__(self, records: int, records_max: int) -> None:
        super().__init__(
            f"the range holds {records} records, one clip at most {records_max}: "
            "ask for it in several parts"
        )
        self.records = records
        self.records_max = records_max


class ClipPaths(Protocol):
    @property
    def damage(self) -> Path: ...


class ClipStore(Protocol):
    """What a clip needs of storage.store.Store."""

    @property
    def paths(self) -> ClipPaths: ...
    @property
    def volumes(self) -> Mapping[int, Volume]: ...
    def has_index(self, camera_uid: bytes) -> bool: ...
    def index(self, camera_uid: bytes) -> CameraIndex: ...


class Bounds(Protocol):
    @property
    def verify_ahead_bytes_max(self) -> int: ...
    @property
    def key_search_ns(self) -> int: ...
    @property
    def records_max(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """Everything a Clip is made of."""

    head: bytes
    pieces: tuple[Piece, ...]
    source: RecordSource
    delivered: TimeRange | None
    gaps: tuple[Gap, ...]
    frame_count: int
    presented_count: int
    preroll_count: int
    configs: tuple[SampleConfig, ...]


def assemble(
    store: ClipStore,
    camera_uid: bytes,
    wanted: TimeRange,
    clock: Clock,
    limits: Bounds,
    on_damage: Callable[[Place, str], None],
    *,
    trial: bool,
) -> Assembly:
    """Select, read and verify what the clip needs. Raises ClipTooLong, IndexCorrupt, DiskError.

    ``on_damage`` is told of each record newly found damaged, now or when the clip is read.
    """
    past_ns = max(clock.utc_ns(), wanted.start_ns)
    past = TimeRange(wanted.start_ns, min(wanted.end_ns, past_ns))
    damage = DamageList(store.paths.damage)
    known = KnownDamage(damage, camera_uid, clock.utc_ns, on_damage)
    source = RecordSource(store.volumes, camera_uid, known)
    found = _search(store, camera_uid, wanted, limits)
    rows = found.inside
    is_gap = found.inside_gaps
    if len(rows) > limits.records_max:
        raise ClipTooLong(len(rows), limits.records_max)
    verify = int(rows["record_bytes"].sum(dtype=np.int64)) <= limits.verify_ahead_bytes_max
    loaded = source.load(rows[~is_gap], verify=verify)
    good = [record for record in loaded if isinstance(record, StoredRecord)]
    good, table, ends = _with_preroll(good, wanted, found.before, source, verify)
    chosen = select(table, ends, wanted)
    gaps = _recorded_gaps(source, rows[is_gap], past)
    gaps += _lost_gaps(rows[~is_gap], loaded, past)
    explained = [(gap.start_ns, gap.end_ns) for gap in gaps]
    explained += [(r.header.start_ns, r.header.end_ns) for r in good]
    gaps += unexplained(found.around, past, explained)
    if chosen is not None and chosen.passed_over_ns is not None:
        detail = "no key frame before it: not decodable"
        start_ns = chosen.passed_over_ns
        gaps.append(Gap(start_ns, chosen.delivered.start_ns, GapCause.UNKNOWN, detail=detail))
    gaps.sort(key=lambda gap: (gap.start_ns, gap.end_ns))
    return _assemble_file(source, good, table, ends, chosen, wanted, tuple(gaps), trial=trial)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Index rows: all around the range, the live ones touching it, live fragments before it."""

    around: RowSpan
    inside: Rows
    inside_gaps: Mask
    before: Rows


def _search(store: ClipStore, camera_uid: bytes, wanted: TimeRange, limits: Bounds) -> _Found:
    """One look at the index. A camera that never recorded has none: then nothing is found."""
    nothing = EMPTY_SPAN.rows
    if not store.has_index(camera_uid):
        return _Found(EMPTY_SPAN, nothing, np.zeros(0, np.bool_), nothing)
    index = store.index(camera_uid)
    try:
        around = index.rows_in(wanted)
        span = around.touching(wanted)
        earlier = index.before(
            wanted.start_ns, not_before_ns=wanted.start_ns - limits.key_search_ns
        )
    finally:
        index.close()
    before = nothing
    if earlier:
        # Newest block first; what touches the range is already in `span`.
        blocks = list(reversed(earlier))
        numbers = np.concatenate([block.numbers for block in blocks])
        fragments = ~np.concatenate([block.is_gap for block in blocks])
        kept = fragments & ~np.isin(numbers, span.numbers)
        before = np.concatenate([block.rows for block in blocks])[kept]
    return _Found(around, span.rows, span.is_gap, before)


def _with_preroll(
    good: list[StoredRecord], wanted: TimeRange, before: Rows, source: RecordSource, verify: bool
) -> tuple[list[StoredRecord], FrameTable, Ints]:
    """C1: put the fragments from the last key frame on in front, if they do not hold it yet.

    Returns the fragments, their frames and their ends.
    """
    table, ends = frame_table(good), _ends(good)
    shown_ns = first_shown_ns(table, ends, wanted)
    if shown_ns is None or last_key(table, shown_ns) is not None:
        return good, table, ends
    candidates = np.flatnonzero((before["flags"] & FLAG_KEY) != 0)
    for number in candidates[::-1].tolist():
        record = source.load_one(before[number : number + 1], verify=verify)
        if not isinstance(record, StoredRecord):
            continue
        if last_key(frame_table([record]), shown_ns) is None:
            continue
        between = source.load(before[number + 1 :], verify=verify)
        good = [record, *(r for r in between if isinstance(r, StoredRecord)), *good]
        return good, frame_table(good), _ends(good)
    return good, table, ends


def _ends(records: list[StoredRecord]) -> Ints:
    return np.array([record.header.end_ns for record in records], np.int64)


def _assemble_file(
    source: RecordSource,
    good: list[StoredRecord],
    table: FrameTable,
    ends: Ints,
    chosen: Selection | None,
    wanted: TimeRange,
    gaps: tuple[Gap, ...],
    *,
    trial: bool,
) -> Assembly:
    if chosen is None:
        shown = mp4.Presentation(0, 0, max(wanted.start_ns // SECOND_NS, 0), trial)
        return Assembly(mp4.head(mp4.EMPTY_TABLE, shown), (), source, None, gaps, 0, 0, 0, ())
    pieces, counts, used = _pieces(good, table, chosen)
    configs, entry_of = merge_configs(
        [
            SampleConfig(r.header.codec, r.header.width, r.header.height, r.config)
            for r in (good[n] for n in used)
        ]
    )
    times = timing(table, ends, chosen, wanted.start_ns)
    samples = mp4.SampleTable(
        sizes=table.sizes[chosen.first : chosen.end],
        decode_ticks=times.decode_ticks,
        offset_ticks=times.offset_ticks,
        keys=table.keys[chosen.first : chosen.end],
        last_ticks=times.last_ticks,
        chunk_samples=counts,
        chunk_entries=np.array(entry_of, np.int64),
        configs=configs,
    )
    shown = mp4.Presentation(
        start_ticks=times.edit_start_ticks,
        duration_ticks=times.edit_ticks,
        created_s=chosen.delivered.start_ns // SECOND_NS,
        trial=trial,
    )
    before_shown = table.times_ns[chosen.first : chosen.end] < chosen.delivered.start_ns
    return Assembly(
        head=mp4.head(samples, shown),
        pieces=tuple(pieces),
        source=source,
        delivered=chosen.delivered,
        gaps=gaps,
        frame_count=chosen.end - chosen.first,
        presented_count=chosen.presented,
        preroll_count=int(before_shown.sum()),
        configs=configs,
    )


def _pieces(
    good: list[StoredRecord], table: FrameTable, chosen: Selection
) -> tuple[list[Piece], Ints, list[int]]:
    """(pieces, samples of each, number of its fragment): whole fragments but at the two ends."""
    offsets = np.concatenate(([0], np.cumsum(table.sizes)))
    firsts = np.clip(table.firsts[:-1], chosen.first, chosen.end)
    lasts = np.clip(table.firsts[1:], chosen.first, chosen.end)
    base = offsets[table.firsts[:-1]]
    used = np.flatnonzero(firsts < lasts)
    bounds = zip(
        used.tolist(),
        (offsets[firsts[used]] - base[used]).tolist(),
        (offsets[lasts[used]] - base[used]).tolist(),
        strict=True,
    )
    pieces = [
        Piece(good[number].place, good[number].header, first, end) for number, first, end in bounds
    ]
    return pieces, lasts[used] - firsts[used], used.tolist()


def _recorded_gaps(source: RecordSource, rows: Rows, past: TimeRange) -> list[Gap]:
    """Gap records, read for their exact times, packets and detail; a long gap has several rows.

    One that cannot be read any more is reported as the index knows it.
    """
    places, first_rows = np.unique(
        rows[["volume_number", "slot", "generation", "offset_blocks"]], return_index=True
    )
    del places
    kept = rows[np.sort(first_rows)]
    ends = row_ends_ns(kept)
    causes = gap_causes(kept)
    gaps = []
    for number, record in enumerate(source.load(kept, verify=False)):
        if isinstance(record, StoredRecord) and record.header.is_gap:
            header = record.header
            detail = record.config.decode("utf-8", "replace")
            gap = Gap(
                header.start_ns, header.end_ns, GapCause(header.cause), header.packets, detail
            )
        else:
            start_ns = int(kept["start_ns"][number])
            gap = Gap(start_ns, int(ends[number]), GapCause(int(causes[number])))
        clipped = _clip(gap, past)
        if clipped is not None:
            gaps.append(clipped)
    return gaps


def _lost_gaps(rows: Rows, loaded: list[StoredRecord | LostRecord], past: TimeRange) -> list[Gap]:
    """C13; neighbours of one cause joined."""
    ends = row_ends_ns(rows)
    gaps: list[Gap] = []
    for number, record in enumerate(loaded):
        if isinstance(record, StoredRecord):
            continue
        start_ns = int(rows["start_ns"][number])
        gap = _clip(Gap(start_ns, int(ends[number]), record.cause, detail=record.reason), past)
        if gap is None:
            continue
        joined = (
            gaps
            and gaps[-1].cause == gap.cause
            and gap.start_ns - gaps[-1].end_ns <= DAMAGE_MERGE_NS
        )
        if joined:
            gap = Gap(gaps.pop().start_ns, gap.end_ns, gap.cause, detail=gap.detail)
        gaps.append(gap)
    return gaps


def _clip(gap: Gap, past: TimeRange) -> Gap | None:
    """The part of a gap in the range; one of no length counts where its instant is in it."""
    start_ns, end_ns = max(gap.start_ns, past.start_ns), min(gap.end_ns, past.end_ns)
    if start_ns > end_ns or (start_ns == end_ns and start_ns not in past):
        return None
    return Gap(start_ns, end_ns, gap.cause, gap.packets, gap.detail)
