"""Coverage says what is there, what is not and why; it smooths over nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.base.gap import Gap, GapCause
from storage.base.timebase import DAY_NS, TimeRange
from storage.index.coverage import Span, coverage

from .conftest import SECOND, Rig, fragment, gap

S = SECOND
FAR = 10**6 * S


def test_fragments_merge_over_small_spaces_and_part_over_large_ones(rig: Rig) -> None:
    rig.writer.append([fragment(0), fragment(1), fragment(2, start_ns=3 * S)])
    rig.writer.append([fragment(3, start_ns=5 * S + 1)])
    got = coverage(rig.reader, TimeRange(0, 6 * S), FAR)
    assert got.spans == (Span(0, 4 * S, 3), Span(5 * S + 1, 6 * S, 1))
    assert got.gaps == (Gap(4 * S, 5 * S + 1, GapCause.UNKNOWN),)
    assert got.stored_ns == 4 * S + S - 1
    assert got.expected_ns == 6 * S
    rig.close()


def test_recorded_gaps_keep_their_cause_and_explain_the_space(rig: Rig) -> None:
    rig.writer.append([fragment(0), gap(1, S, 20 * S, 4), fragment(2, start_ns=20 * S)])
    got = coverage(rig.reader, TimeRange(0, 21 * S), FAR)
    assert got.gaps == (Gap(S, 20 * S, GapCause.STALL),)
    assert [span.start_ns for span in got.spans] == [0, 20 * S]
    rig.close()


def test_a_loss_inside_a_span_is_reported_and_does_not_split_it(rig: Rig) -> None:
    rig.writer.append([fragment(0), gap(1, S // 2, S // 2 + S // 10, 1), fragment(1)])
    got = coverage(rig.reader, TimeRange(0, 2 * S), FAR)
    assert got.spans == (Span(0, 2 * S, 2),)
    assert got.gaps == (Gap(S // 2, S // 2 + S // 10, GapCause.PACKET_LOSS),)
    rig.close()


def test_a_long_gap_in_several_rows_is_one_gap(rig: Rig) -> None:
    rig.writer.append([gap(0, 0, 120 * DAY_NS, 13)])
    got = coverage(rig.reader, TimeRange(DAY_NS, 119 * DAY_NS), 200 * DAY_NS)
    assert got.gaps == (Gap(DAY_NS, 119 * DAY_NS, GapCause.DISABLED),)
    assert got.spans == ()
    rig.close()


def test_rows_of_reused_slots_are_expired_and_what_never_was_is_unknown(rig: Rig) -> None:
    rig.writer.append([fragment(n, slot=1) for n in range(10)])
    rig.writer.append([fragment(n, slot=2) for n in range(10, 20)])
    rig.tables.by_volume[1][1] = 2
    got = coverage(rig.reader, TimeRange(-5 * S, 20 * S), FAR)
    assert got.gaps == (
        Gap(-5 * S, 0, GapCause.UNKNOWN),
        Gap(0, 10 * S, GapCause.EXPIRED),
    )
    rig.writer.checkpoint()  # moves the tail: the ring has forgotten, so all of it is expired
    got = coverage(rig.reader, TimeRange(-5 * S, 20 * S), FAR)
    assert got.gaps == (Gap(-5 * S, 10 * S, GapCause.EXPIRED),)
    rig.tables.by_volume[1][2] = 2
    got = coverage(rig.reader, TimeRange(-5 * S, 20 * S), FAR)
    assert got.gaps == (Gap(-5 * S, 20 * S, GapCause.EXPIRED),)
    rig.close()


def test_nothing_at_all_is_one_unknown_gap(rig: Rig) -> None:
    got = coverage(rig.reader, TimeRange(0, S // 2), FAR)
    assert got.gaps == (Gap(0, S // 2, GapCause.UNKNOWN),)
    assert (got.stored_ns, got.expected_ns) == (0, S // 2)
    rig.close()


def test_the_future_is_not_expected(rig: Rig) -> None:
    rig.writer.append([fragment(0)])
    got = coverage(rig.reader, TimeRange(0, 100 * S), 2 * S)
    assert (got.stored_ns, got.expected_ns) == (S, 2 * S)
    assert got.gaps == ()
    assert coverage(rig.reader, TimeRange(5 * S, 9 * S), 2 * S).expected_ns == 0
    rig.close()


def test_days_are_summed_by_the_local_calendar(rig: Rig) -> None:
    eight = 8 * 3600 * S
    rig.writer.append([fragment(0, start_ns=DAY_NS - 3600 * S - eight, duration_ns=3600 * S)])
    rig.writer.append([fragment(1, start_ns=DAY_NS - eight, duration_ns=1800 * S)])
    got = coverage(rig.reader, TimeRange(-eight, 3 * DAY_NS - eight), 10 * DAY_NS)
    days = got.per_day(utc_offset_ns=eight)
    assert [(d.day_start_ns + eight) // DAY_NS for d in days] == [0, 1, 2]
    assert [d.stored_ns // S for d in days] == [3600, 1800, 0]
    assert {d.expected_ns for d in days} == {DAY_NS}
    rig.close()


@settings(max_examples=80, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.sampled_from("fgs"), st.integers(1, 5_000), st.integers(0, 3)), max_size=30
    ),
    low=st.integers(-2_000, 60_000),
    length=st.integers(1, 60_000),
)
def test_every_instant_is_a_span_a_gap_or_a_short_space(
    parts: list[tuple[str, int, int]], low: int, length: int
) -> None:
    ms = 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(Path(directory), capacity=8)
        clock = 0
        for number, (kind, duration, slot) in enumerate(parts):
            end = clock + duration * ms
            if kind == "f":
                rig.writer.append(
                    [fragment(number, start_ns=clock, duration_ns=duration * ms, slot=slot)]
                )
            elif kind == "g":
                rig.writer.append([gap(number, clock, end, slot=5)])
            clock = end
        rig.tables.by_volume[1][3] = 9
        wanted = TimeRange(low * ms, (low + length) * ms)
        got = coverage(rig.reader, wanted, FAR)
        edges = sorted([(s.start_ns, s.end_ns) for s in [*got.spans, *got.gaps]])
        at = wanted.start_ns
        for start, end in edges:
            assert wanted.start_ns <= start <= end <= wanted.end_ns
            assert start - at <= S
            at = max(at, end)
        assert wanted.end_ns - at <= S
        for before, after in zip(got.spans, got.spans[1:], strict=False):
            assert after.start_ns - before.end_ns > S
        rig.close()
