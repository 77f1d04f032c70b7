"""Goal: one line a second per cause, the first at once, and no held-back line uncounted."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.storm import StormLimiter

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def test_a_thousand_errors_in_a_second_are_one_line() -> None:
    clock = Clock()
    limiter = StormLimiter(clock)
    passed = [limiter.admit("offline") for _ in range(1000)]
    assert passed == [0, *[None] * 999]
    clock.now += SECOND
    assert limiter.admit("offline") == 999
    assert limiter.admit("offline") is None
    assert limiter.suppressed_total == 1000


def test_causes_do_not_hide_each_other() -> None:
    limiter = StormLimiter(Clock())
    assert [limiter.admit(n) for n in range(100)] == [0] * 100


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, SECOND)), max_size=200))
def test_every_line_either_passes_or_is_counted(events: list[tuple[int, int]]) -> None:
    clock = Clock()
    limiter = StormLimiter(clock)
    passed: dict[int, list[int]] = {}
    counted = 0
    for cause, wait in events:
        clock.now += wait
        held = limiter.admit(cause)
        if held is not None:
            passed.setdefault(cause, []).append(clock.now)
            counted += 1 + held
    clock.now += SECOND
    for cause in {c for c, _ in events}:
        counted += limiter.admit(cause) or 0
    assert counted == len(events)
    for times in passed.values():
        assert all(b - a >= SECOND for a, b in pairwise(times))


def test_memory_is_bounded() -> None:
    limiter = StormLimiter(Clock(), causes_max=10)
    for cause in range(1000):
        limiter.admit(cause)
    assert limiter.admit(999) is None, "the newest causes are remembered"
    assert limiter.admit(0) == 0, "the oldest are not"
