"""The ring gives the answers of a plain list, whatever is appended, expired, wrapped or grown."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cext.index_search import first_at_or_after
from storage.base.timebase import TimeRange
from storage.index.format import FLAG_KEY, IndexEntry

from .conftest import SECOND, Rig, Tables, fragment, gap

MS = 1_000_000

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("fragment"),
            st.integers(0, 3 * SECOND),  # space before it
            st.integers(0, 2 * SECOND),  # duration
            st.booleans(),  # key
            st.integers(0, 5),  # slot
        ),
        st.tuples(st.just("gap"), st.integers(0, SECOND), st.integers(0, 90 * SECOND)),
        st.tuples(st.just("expire"), st.integers(0, 5)),
        st.tuples(st.just("checkpoint")),
        st.tuples(st.just("reopen")),
    ),
    max_size=120,
)
queries = st.lists(
    st.tuples(st.integers(-SECOND, 400 * SECOND), st.integers(1, 120 * SECOND)), max_size=12
)


class Model:
    """What an index means, said in the slowest way."""

    def __init__(self, tables: Tables) -> None:
        self.entries: list[IndexEntry] = []
        self.tables = tables

    def alive(self, entry: IndexEntry) -> bool:
        table = self.tables.generations(entry.volume_number)
        return table is not None and int(table[entry.slot]) == entry.generation

    def find(self, wanted: TimeRange) -> list[tuple[int, int, int]]:
        found = []
        for entry in self.entries:
            unit = MS if entry.flags & 2 else 1000
            end = entry.start_ns - (entry.start_ns - entry.end_ns) // unit * unit
            end = max(end, entry.start_ns + 1)
            if self.alive(entry) and entry.start_ns < wanted.end_ns and end > wanted.start_ns:
                found.append((entry.start_ns, entry.slot, entry.offset_blocks))
        return found

    def key_before(self, time_ns: int) -> int | None:
        keys = [
            number
            for number, entry in enumerate(self.entries)
            if entry.flags & FLAG_KEY and entry.start_ns <= time_ns and self.alive(entry)
        ]
        return keys[-1] if keys else None


@settings(max_examples=150, deadline=None)
@given(steps=steps, queries=queries)
def test_ring_equals_a_list(
    steps: list[tuple[object, ...]], queries: list[tuple[int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(Path(directory), capacity=8)
        model = Model(rig.tables)
        clock = 0
        for number, step in enumerate(steps):
            match step:
                case ("fragment", int(space), int(duration), bool(key), int(slot)):
                    generation = int(rig.tables.by_volume[1][slot])
                    clock += space
                    entry = fragment(
                        number,
                        start_ns=clock,
                        duration_ns=duration,
                        key=key,
                        slot=slot,
                        generation=generation,
                    )
                    clock += duration
                case ("gap", int(space), int(duration)):
                    clock += space
                    entry = gap(number, clock, clock + duration, slot=6)
                    clock += duration
                case ("expire", int(slot)):
                    rig.tables.by_volume[1][slot] += 1
                    continue
                case ("checkpoint",):
                    rig.writer.checkpoint()
                    continue
                case _:
                    rig.writer.close()
                    rig.writer = rig.open_writer()
                    continue
            rig.writer.append([entry])
            model.entries.append(entry)
        for start, length in queries:
            wanted = TimeRange(start, start + length)
            rows = rig.reader.find(wanted).rows
            found = list(
                zip(
                    rows["start_ns"].tolist(),
                    rows["slot"].tolist(),
                    rows["offset_blocks"].tolist(),
                    strict=True,
                )
            )
            assert found == model.find(wanted)
            assert rig.reader.key_before(start) == model.key_before(start)
        fragments = [e for e in model.entries if not e.flags & 2 and model.alive(e)]
        assert rig.reader.oldest_ns == (fragments[0].start_ns if fragments else None)
        if fragments:
            newest = rig.reader.newest_ns
            assert newest is not None
            assert 0 <= newest - fragments[-1].end_ns < 1000
        else:
            assert rig.reader.newest_ns is None
        if model.entries:
            assert rig.reader.last_end_ns == max(e.end_ns for e in model.entries)
        rig.close()


@settings(max_examples=60, deadline=None)
@given(
    starts=st.lists(st.integers(0, 50 * SECOND), min_size=1, max_size=60),
    probe=st.integers(-1, 60 * SECOND),
)
def test_search_finds_the_first_at_or_after_among_equal_and_uneven_starts(
    starts: list[int], probe: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(Path(directory), capacity=64)
        ordered = sorted(starts * 9)  # runs of equal starts, and more rows than a guess skips
        rig.writer.append([fragment(n, start_ns=s) for n, s in enumerate(ordered)])
        expected = next((n for n, s in enumerate(ordered) if s >= probe), len(ordered))
        assert rig.reader.entry_count == len(ordered)  # follows the grown file
        assert first_at_or_after(rig.reader._map.quads, probe, 0, len(ordered)) == expected
        rig.close()
