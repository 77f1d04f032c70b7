"""Goal: our clock never goes back and follows UTC as T1 says; trusted time frees nothing (T7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.base.clock import ClockStep, SimulatedClock, SystemClock, TrustedMark
from storage.base.timebase import DAY_NS, HOUR_NS, SECOND_NS

START_NS = 1_800_000_000 * SECOND_NS


class Sources:
    """UTC and the monotonic clock as the machine would give them."""

    def __init__(self) -> None:
        self.mono = 50 * SECOND_NS
        self.offset = START_NS - self.mono

    def monotonic(self) -> int:
        return self.mono

    def utc(self) -> int:
        return self.mono + self.offset

    def clock(self, mark: TrustedMark | None = None) -> SystemClock:
        return SystemClock(mark, utc=self.utc, monotonic=self.monotonic)


def run(sources: Sources, clock: SystemClock, seconds: int) -> int:
    for _ in range(seconds):
        sources.mono += SECOND_NS
        clock.utc_ns()
    return clock.utc_ns()


def test_a_small_difference_is_slewed_at_500_ppm() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.offset += 300_000_000
    run(sources, clock, 1)  # the difference is seen here
    before = clock.utc_ns()
    sources.mono += 100 * SECOND_NS
    assert clock.utc_ns() - before == 100 * SECOND_NS + 100 * 500_000
    assert clock.synchronised
    run(sources, clock, 600)
    assert clock.utc_ns() == sources.utc()
    assert clock.take_steps() == []


def test_slewing_stops_exactly_at_utc_however_long_nobody_looked() -> None:
    for difference in (200_000, -200_000, 999_999_999, -999_999_999):
        sources = Sources()
        clock = sources.clock()
        sources.offset += difference
        run(sources, clock, 1)
        sources.mono += 5000 * SECOND_NS
        assert clock.utc_ns() == sources.utc()


@pytest.mark.parametrize("difference", [1, -1, 1500, -1500, 400_000, -400_000])
def test_the_slew_ends_on_the_nanosecond(difference: int) -> None:
    """The short cut of a settled clock begins where the slew ends, and not one tick earlier."""
    sources = Sources()
    clock = sources.clock()
    sources.offset += difference
    run(sources, clock, 1)
    begun, shown = sources.mono, clock.utc_ns()
    ends = abs(difference) * 1_000_000 // 500
    for elapsed in (0, 1, 1999, 2000, ends - 1, ends, ends + 1, SECOND_NS - 1):
        sources.mono = begun + max(elapsed, 0)
        slewed = min(abs(difference), max(elapsed, 0) * 500 // 1_000_000)
        expected = max(elapsed, 0) + (slewed if difference > 0 else -slewed)
        assert clock.utc_ns() - shown == expected


def test_a_step_forwards_is_taken_recorded_and_marked_until_the_two_agree() -> None:
    sources = Sources()
    clock = sources.clock()
    before = run(sources, clock, 5)
    sources.offset += 3 * HOUR_NS
    sources.mono += SECOND_NS
    assert clock.utc_ns() == sources.utc()
    assert not clock.synchronised
    run(sources, clock, 1)
    assert clock.synchronised
    assert clock.take_steps() == [ClockStep(before + SECOND_NS, 3 * HOUR_NS, taken=True)]
    assert clock.take_steps() == []


def test_a_step_backwards_is_not_taken_and_marks_until_utc_comes_back() -> None:
    sources = Sources()
    clock = sources.clock()
    before = run(sources, clock, 5)
    sources.offset -= 2 * HOUR_NS
    assert run(sources, clock, 30) == before + 30 * SECOND_NS
    assert not clock.synchronised
    assert [step.taken for step in clock.take_steps()] == [False], "one step, not one a second"
    sources.offset += 2 * HOUR_NS
    run(sources, clock, 1)
    assert clock.synchronised


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20 * SECOND_NS),
            st.one_of(st.just(0), st.integers(-2 * SECOND_NS, 2 * SECOND_NS)),
            st.integers(-40 * DAY_NS, 40 * DAY_NS).map(lambda n: n if n % 7 == 0 else 0),
        ),
        max_size=60,
    )
)
def test_our_clock_never_goes_back_and_trusted_never_runs_ahead(
    moves: list[tuple[int, int, int]],
) -> None:
    sources = Sources()
    clock = sources.clock(TrustedMark(START_NS - 50, START_NS - 50))
    last = trusted_last = 0
    for elapsed, drift, step in moves:
        sources.mono += elapsed
        sources.offset += drift + step
        now, trusted = clock.utc_ns(), clock.trusted_ns()
        assert now >= last
        assert trusted >= trusted_last
        assert trusted <= now
        assert trusted <= START_NS + sources.mono - 50 * SECOND_NS
        last, trusted_last = now, trusted


def test_a_clock_a_month_ahead_frees_nothing_however_often_we_restart() -> None:
    sources = Sources()
    clock = sources.clock(TrustedMark(START_NS, START_NS))
    sources.offset += 30 * DAY_NS
    run(sources, clock, 60)
    trusted = clock.trusted_ns()
    assert trusted == START_NS + 60 * SECOND_NS
    for _ in range(50):
        clock = sources.clock(clock.mark())
        run(sources, clock, 1)
    assert clock.trusted_ns() <= trusted + 51 * SECOND_NS


def test_a_clock_set_while_we_were_down_gains_at_most_a_day_once() -> None:
    sources = Sources()
    mark = TrustedMark(START_NS - HOUR_NS, START_NS - HOUR_NS)
    assert sources.clock(mark).trusted_ns() == START_NS
    sources.offset += 30 * DAY_NS
    clock = sources.clock(mark)
    assert clock.trusted_ns() == START_NS - HOUR_NS + DAY_NS
    again = sources.clock(clock.mark())
    assert again.trusted_ns() == START_NS - HOUR_NS + DAY_NS


def test_a_clock_behind_what_was_trusted_is_not_synchronised() -> None:
    sources = Sources()
    clock = sources.clock(TrustedMark(START_NS + 5 * SECOND_NS, START_NS + 5 * SECOND_NS))
    assert not clock.synchronised
    assert clock.trusted_ns() == START_NS, "never ahead of our clock"
    run(sources, clock, 7)
    assert clock.synchronised


def test_simulated_clock() -> None:
    clock = SimulatedClock(1000)
    clock.advance(5)
    assert (clock.utc_ns(), clock.trusted_ns()) == (1005, 1005)
    clock.step(100)
    assert (clock.utc_ns(), clock.trusted_ns()) == (1105, 1005)
    with pytest.raises(AssertionError):
        clock.advance(-1)
