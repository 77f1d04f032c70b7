"""Where a fragment lies in time (docs/design/time.md, T2 to T5 and T8).

Owns the mapping of RTP time to our clock for one camera, over all its connections. Pure: receive
times come with the fragments, nothing here reads a clock. Never refuses a fragment.

Within a *run*, ``t = anchor + rtp_elapsed``. The anchor follows the least delayed frame of the last
ten seconds by at most 500 ppm: jitter cannot move it, and the camera's oscillator cannot run away.
Where that is not enough, because RTP and receive time part, a new run begins:

- late, for a second on end: the camera stamps too few ticks (nominal frame rate), or stood still;
- early, at once: a frame cannot arrive before it was taken, so the anchor was wrong;
- by a jump of either, at once.

Start times never decrease. Records may overlap where a camera's ticks run ahead of time (T8).
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import msgspec

from gateway.limits import (
    ANCHOR_SAMPLES_MAX,
    ANCHOR_WINDOW_NS,
    CATCH_UP_NS_MAX,
    EARLY_NS_MAX,
    FRAME_DURATION_NS_MAX,
    JUMP_NS,
    LATE_HOLD_NS,
    LATE_NS_MAX,
    SECOND_NS,
    SENDER_REPORT_AGE_NS_MAX,
    SLEW_PPM_MAX,
)

RUN_ID_MODULUS = 2**32


class RunReason(Enum):
    """Why a run began."""

    FIRST = "first"
    CONNECTION = "connection"
    LATE = "late"
    EARLY = "early"
    JUMP = "jump"


class SenderReport(msgspec.Struct, frozen=True, gc=False):
    """The camera's wall clock at an extended RTP time (RFC 3550 section 6.4.1), UTC ns."""

    ntp_ns: int
    rtp: int


class FragmentFacts(msgspec.Struct, frozen=True, gc=False):
    """What the timeline needs of a fragment; RTP times extended to 64 bits, ``pts`` from rtp_first.

    ``earliest_ns`` is the least of (receive time - RTP time since rtp_first) over its frames: when
    the first frame would have come had it been delayed as little as the least delayed one.
    """

    rtp_first: int
    pts_min_ticks: int
    pts_max_ticks: int
    last_delta_ticks: int
    next_rtp: int | None
    recv_first_ns: int
    recv_last_ns: int
    earliest_ns: int
    sender_report: SenderReport | None = None


class Placement(msgspec.Struct, frozen=True, gc=False):
    """[start_ns, end_ns) of a fragment. ``reason`` is set on the first fragment of a run.

    ``camera_ns`` is the camera's own time of the first frame in decoding order, and
    ``camera_offset_ns`` that minus ours; both 0 if there is no usable sender report.
    ``behind_ns``: our clock was set back by so much and lies behind the timeline (T2), else 0.
    ``gap_before_ns``: from the end of what was placed before to this start; 0 for the first.
    """

    start_ns: int
    end_ns: int
    run_id: int
    reason: RunReason | None
    camera_ns: int
    camera_offset_ns: int
    behind_ns: int
    gap_before_ns: int

    @property
    def discontinuity(self) -> bool:
        """A new run begins here."""
        return self.reason is not None

    @property
    def clock_unsynchronised(self) -> bool:
        """Recording went on from the last stored end because our clock lies behind it (T2)."""
        return self.behind_ns > EARLY_NS_MAX


class Timeline:
    """One camera's timeline. ``last_end_ns`` is the end of what is stored of it, 0 for nothing."""

    def __init__(self, clock_rate: int, last_end_ns: int) -> None:
        assert clock_rate > 0, "a clock has a rate"
        self._clock_rate = clock_rate
        self._last_start_ns = 0
        self._last_end_ns = last_end_ns
        self._next_reason: RunReason | None = RunReason.FIRST
        self._run_id = 0
        self._rtp_base = 0
        self._anchor_ns = 0
        self._behind_ns = 0
        self._updated_ns = 0
        self._late_since_ns: int | None = None
        # (receive time, anchor that the least delayed frame then asked for), increasing in both
        self._window: deque[tuple[int, int]] = deque(maxlen=ANCHOR_SAMPLES_MAX)

    @property
    def last_end_ns(self) -> int:
        """The end of the last fragment or gap, 0 for nothing."""
        return self._last_end_ns

    def new_connection(self, clock_rate: int) -> None:
        """RTP time starts anew: the next fragment begins a run."""
        assert clock_rate > 0, "a clock has a rate"
        self._clock_rate = clock_rate
        if self._next_reason is None:
            self._next_reason = RunReason.CONNECTION

    def note_gap(self, end_ns: int) -> None:
        """A gap record that ends at ``end_ns`` was written: nothing may start before its end."""
        self._last_end_ns = max(self._last_end_ns, end_ns)
        self._last_start_ns = max(self._last_start_ns, end_ns)

    def place(self, facts: FragmentFacts) -> Placement:
        """The fragment's place. Call once a fragment, in the order of the stream."""
        reason = self._next_reason
        if reason is None:
            candidate_ns = self._candidate_ns(facts)
            reason = self._parted(facts, candidate_ns)
            if reason is None:
                self._follow(facts.recv_last_ns, candidate_ns)
        if reason is not None:
            self._begin_run(facts, reason)
        rate, pts_min_ticks = self._clock_rate, facts.pts_min_ticks
        # Rounding and a B-frame that precedes its fragment must not turn time back (T2).
        earliest_ns = self.time_of_rtp_ns(facts.rtp_first + pts_min_ticks)
        start_ns = max(earliest_ns, self._last_start_ns)
        span_ns = (facts.pts_max_ticks - pts_min_ticks) * SECOND_NS // rate
        end_ns = start_ns + span_ns + self._last_frame_ns(facts)
        gap_ns = max(start_ns - self._last_end_ns, 0) if self._last_end_ns else 0
        self._last_start_ns = start_ns
        self._last_end_ns = max(self._last_end_ns, end_ns)
        camera_ns = self._camera_ns(facts)
        offset_ns = 0
        if camera_ns:
            offset_ns = camera_ns - (start_ns + -pts_min_ticks * SECOND_NS // rate)
        return Placement(
            start_ns,
            end_ns,
            self._run_id,
            reason,
            camera_ns,
            offset_ns,
            self._behind_ns,
            gap_ns,
        )

    def time_of_rtp_ns(self, rtp: int) -> int:
        """The time of an extended RTP timestamp of the present run; for losses inside it."""
        return self._anchor_ns + (rtp - self._rtp_base) * SECOND_NS // self._clock_rate

    def _duration_ns(self, ticks: int) -> int:
        return ticks * SECOND_NS // self._clock_rate

    def _candidate_ns(self, facts: FragmentFacts) -> int:
        """The anchor that the least delayed frame of this fragment asks for."""
        ticks = facts.rtp_first - self._rtp_base
        return facts.earliest_ns - ticks * SECOND_NS // self._clock_rate

    def _parted(self, facts: FragmentFacts, candidate_ns: int) -> RunReason | None:
        """Why this fragment cannot belong to the run, or None (T4)."""
        late_ns = candidate_ns - (self._anchor_ns - self._behind_ns)
        latest_ns = self.time_of_rtp_ns(facts.rtp_first + facts.pts_max_ticks)
        if abs(late_ns) > JUMP_NS or latest_ns < self._last_start_ns:
            return RunReason.JUMP
        if late_ns < -EARLY_NS_MAX:
            return RunReason.EARLY
        if late_ns <= LATE_NS_MAX:
            self._late_since_ns = None
        elif self._late_since_ns is None:
            self._late_since_ns = facts.recv_first_ns
        elif facts.recv_last_ns - self._late_since_ns >= LATE_HOLD_NS:
            return RunReason.LATE
        return None

    def _begin_run(self, facts: FragmentFacts, reason: RunReason) -> None:
        wanted_ns = facts.earliest_ns + self._duration_ns(facts.pts_min_ticks)
        floor_ns = self._last_end_ns
        if reason is RunReason.EARLY and floor_ns - wanted_ns <= CATCH_UP_NS_MAX:
            # Half a fragment of overlap at most, so that time still goes on (T8).
            floor_ns = (self._last_start_ns + self._last_end_ns + 1) // 2
        start_ns = max(wanted_ns, floor_ns)
        behind_ns = start_ns - wanted_ns
        # A little behind is left to EARLY of the next fragments; much is our clock's fault (T2).
        self._behind_ns = behind_ns if behind_ns > CATCH_UP_NS_MAX else 0
        self._rtp_base = facts.rtp_first
        self._anchor_ns = start_ns - self._duration_ns(facts.pts_min_ticks)
        self._window.clear()
        self._window.append((facts.recv_last_ns, facts.earliest_ns))
        self._updated_ns = facts.recv_last_ns
        self._late_since_ns = None
        self._next_reason = None
        # Larger than any before, over restarts too, as long as runs last a second on average.
        self._run_id = max(self._run_id + 1, start_ns // SECOND_NS) % RUN_ID_MODULUS

    def _follow(self, recv_ns: int, candidate_ns: int) -> None:
        """Move the anchor towards the least delayed frame of the window (T3)."""
        window = self._window
        while window and window[-1][1] >= candidate_ns:
            window.pop()
        window.append((recv_ns, candidate_ns))
        while window[0][0] < recv_ns - ANCHOR_WINDOW_NS:
            window.popleft()
        if recv_ns <= self._updated_ns:
            return
        slew_ns = (recv_ns - self._updated_ns) * SLEW_PPM_MAX // 1_000_000
        self._updated_ns = recv_ns
        error_ns = window[0][1] - self._anchor_ns
        moved_ns = min(max(error_ns, -slew_ns), slew_ns)
        self._anchor_ns += moved_ns
        if moved_ns < 0:
            self._behind_ns = max(self._behind_ns + moved_ns, 0)

    def _last_frame_ns(self, facts: FragmentFacts) -> int:
        """How long the fragment's last frame in output order lasts."""
        rate = self._clock_rate
        known_ns = 0
        if facts.next_rtp is not None:
            ticks = facts.next_rtp - facts.rtp_first - facts.pts_max_ticks
            known_ns = ticks * SECOND_NS // rate
            if 0 < known_ns <= FRAME_DURATION_NS_MAX:
                return known_ns
        usual_ns = max(facts.last_delta_ticks * SECOND_NS // rate, 0)
        if 0 < known_ns <= 3 * usual_ns:  # a slow camera, not a hole
            return known_ns
        # At least a tick: an empty range would be a record that nobody finds.
        return max(min(usual_ns, FRAME_DURATION_NS_MAX), SECOND_NS // rate)

    def _camera_ns(self, facts: FragmentFacts) -> int:
        report = facts.sender_report
        if report is None or report.ntp_ns <= 0:
            return 0
        since_ns = self._duration_ns(facts.rtp_first - report.rtp)
        if abs(since_ns) > SENDER_REPORT_AGE_NS_MAX:
            return 0
        return max(report.ntp_ns + since_ns, 0)
