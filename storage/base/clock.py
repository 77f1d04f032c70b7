"""Clocks as constructor arguments (docs/design/time.md, T1 and T7).

``SystemClock`` is ``monotonic + offset``: it never goes backwards, follows UTC by at most 500 ppm,
takes a step forwards at once and a step backwards never. Trusted time, which alone lets footage be
overwritten, additionally never runs faster than the monotonic clock since it was last persisted.

It never sleeps, never writes: persisting the trusted time is serve's duty, once a minute.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from storage.base.timebase import DAY_NS, SECOND_NS

SLEW_PPM_MAX = 500
STEP_MIN_NS = SECOND_NS
DISCIPLINE_INTERVAL_NS = SECOND_NS
DOWNTIME_CREDIT_NS_MAX = DAY_NS
STEPS_KEPT_MAX = 64


class Clock(Protocol):
    """What storage and gateway know of time."""

    def utc_ns(self) -> int:
        """Our clock, T1: never decreases within a process."""

    def monotonic_ns(self) -> int:
        """For durations and deadlines; its zero means nothing."""

    def trusted_ns(self) -> int:
        """T7: at most our clock; the only time that lets a slot be reused."""

    @property
    def synchronised(self) -> bool:
        """False while our clock and UTC differ by a step: records carry CLOCK_UNSYNCHRONISED."""


@dataclass(frozen=True, slots=True)
class TrustedMark:
    """What a superblock remembers: trusted time, and what our clock said at that moment."""

    trusted_ns: int
    wall_ns: int


@dataclass(frozen=True, slots=True)
class ClockStep:
    """UTC and our clock differed by a second or more. ``taken``: we followed it (forwards)."""

    at_ns: int
    step_ns: int
    taken: bool


class SystemClock:
    """The clock of a process. Thread-safe; a call costs one monotonic read in the usual case.

    ``mark`` is the newest trusted time persisted on any volume, None before there is one (then
    nothing is stored yet that could be freed). Time we were down counts as our clock saw it, at
    most 24 hours of it: a clock set a month forward frees nothing, however often we restart.
    """

    def __init__(
        self,
        mark: TrustedMark | None = None,
        *,
        utc: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._utc = utc
        self._monotonic = monotonic
        self._lock = threading.Lock()
        started_ns, wall_ns = monotonic(), utc()
        self._begin_segment(started_ns, wall_ns, 0)
        self._next_discipline_ns = started_ns + DISCIPLINE_INTERVAL_NS
        self._steps: deque[ClockStep] = deque(maxlen=STEPS_KEPT_MAX)
        self._step_seen_ns = 0
        self._trusted_floor_ns = mark.trusted_ns if mark else wall_ns
        # Behind a time we already trusted: the clock was set back while we were down.
        self._unsynchronised = wall_ns < self._trusted_floor_ns
        if mark:
            down_ns = min(max(wall_ns - mark.wall_ns, 0), DOWNTIME_CREDIT_NS_MAX)
            self._trusted_base_ns = mark.trusted_ns + down_ns - started_ns
        else:
            self._trusted_base_ns = wall_ns - started_ns

    def monotonic_ns(self) -> int:
        return self._monotonic()

    def utc_ns(self) -> int:
        now_ns = self._monotonic()
        settled_ns, until_ns, offset_ns = self._steady
        if settled_ns <= now_ns < until_ns:
            return now_ns + offset_ns
        if now_ns >= self._next_discipline_ns:
            self._discipline(now_ns)
        return self._at(now_ns)

    def trusted_ns(self) -> int:
        return min(self.utc_ns(), self._trusted_base_ns + self._monotonic())

    @property
    def synchronised(self) -> bool:
        return not self._unsynchronised

    def mark(self) -> TrustedMark:
        """What serve persists once a minute: ``Volume.persist_trusted(mark)``."""
        return TrustedMark(self.trusted_ns(), self.utc_ns())

    def take_steps(self) -> list[ClockStep]:
        """The steps seen since the last call, oldest first; for the log and the audit trail."""
        with self._lock:
            steps = list(self._steps)
            self._steps.clear()
        return steps

    def _begin_segment(self, mono_ns: int, base_ns: int, drift_ns: int) -> None:
        """Our clock from mono_ns on; at mono m, with dt = m - mono_ns, it shows
        base_ns + dt + sign(drift) * min(|drift|, dt * 500 ppm).
        """
        # Tuples, each replaced as a whole: readers need no lock.
        self._segment = (mono_ns, base_ns, drift_ns)
        # The drift is worked off after |drift| / 500 ppm, mostly microseconds; from then until
        # the next look at UTC our clock is the monotonic one and a constant.
        settled_ns = mono_ns - (-abs(drift_ns) * 1_000_000 // SLEW_PPM_MAX)
        until_ns = mono_ns + DISCIPLINE_INTERVAL_NS
        self._steady = (settled_ns, until_ns, base_ns + drift_ns - mono_ns)

    def _at(self, now_ns: int) -> int:
        mono_ns, base_ns, drift_ns = self._segment
        elapsed_ns = now_ns - mono_ns
        slewed_ns = min(abs(drift_ns), elapsed_ns * SLEW_PPM_MAX // 1_000_000)
        return base_ns + elapsed_ns + (slewed_ns if drift_ns >= 0 else -slewed_ns)

    def _discipline(self, now_ns: int) -> None:
        with self._lock:
            if now_ns < self._next_discipline_ns:
                return
            ours_ns = self._at(now_ns)
            drift_ns = self._utc() - ours_ns
            if abs(drift_ns) < STEP_MIN_NS:
                self._begin_segment(now_ns, ours_ns, drift_ns)
                self._step_seen_ns = 0
                self._unsynchronised = ours_ns < self._trusted_floor_ns
            elif drift_ns > 0:
                self._begin_segment(now_ns, ours_ns + drift_ns, 0)
                self._steps.append(ClockStep(ours_ns, drift_ns, taken=True))
                self._step_seen_ns = 0
                self._unsynchronised = True  # until the next look finds the two agree
            else:
                self._begin_segment(now_ns, ours_ns, 0)
                self._unsynchronised = True
                # A standing difference is one step, not one a second.
                if abs(drift_ns - self._step_seen_ns) >= STEP_MIN_NS:
                    self._steps.append(ClockStep(ours_ns, drift_ns, taken=False))
                    self._step_seen_ns = drift_ns
            self._next_discipline_ns = now_ns + DISCIPLINE_INTERVAL_NS


class SimulatedClock:
    """For tests: time moves when told. ``trusted_lag_ns`` keeps trusted time behind ours."""

    def __init__(self, utc_ns: int = 1_800_000_000 * SECOND_NS, *, trusted_lag_ns: int = 0) -> None:
        self._utc_ns = utc_ns
        self._monotonic_ns = SECOND_NS
        self.trusted_lag_ns = trusted_lag_ns
        self.synchronised_now = True

    def utc_ns(self) -> int:
        return self._utc_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def trusted_ns(self) -> int:
        return self._utc_ns - self.trusted_lag_ns

    @property
    def synchronised(self) -> bool:
        return self.synchronised_now

    def advance(self, duration_ns: int) -> None:
        """Both clocks move on together."""
        assert duration_ns >= 0
        self._utc_ns += duration_ns
        self._monotonic_ns += duration_ns

    def step(self, step_ns: int, *, trusted: bool = False) -> None:
        """Our clock alone jumps; trusted time stays where it was unless told otherwise."""
        self._utc_ns += step_ns
        if not trusted:
            self.trusted_lag_ns += step_ns
