"""An outage is told as it was: which cause from when to when, nothing left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.outage import Outage
from gateway.limits import OUTAGE_CAUSES_MAX
from storage.base.gap import GapCause

OFFLINE, AUTH, STALL = GapCause.CAMERA_OFFLINE, GapCause.AUTH_FAILED, GapCause.STALL


def told(outage: Outage, end_ns: int) -> list[tuple[int, int, GapCause, str]]:
    return [(g.start_ns, g.end_ns, g.cause, g.detail) for g in outage.gaps_until(end_ns)]


def test_causes_in_turn() -> None:
    outage = Outage(100, STALL, "s")
    outage.blame(200, OFFLINE, "a")
    outage.blame(250, OFFLINE, "b")
    outage.blame(300, AUTH, "c")
    assert told(outage, 400) == [
        (100, 200, STALL, "s"),
        (200, 300, OFFLINE, "a"),
        (300, 400, AUTH, "c"),
    ]
    assert told(outage, 500) == [(400, 500, AUTH, "c")]


def test_the_first_cause_reaches_back_to_the_start() -> None:
    outage = Outage(100, None)
    assert told(outage, 150) == []
    outage.blame(300, OFFLINE, "a")
    assert told(outage, 400) == [(150, 400, OFFLINE, "a")]


def test_an_end_before_a_cause_began() -> None:
    """A camera returns with what it buffered: its first frame may lie before the last blame."""
    outage = Outage(100, STALL)
    outage.blame(200, OFFLINE, "a")
    assert told(outage, 150) == [(100, 150, STALL, "")]
    assert told(Outage(100, STALL), 90) == []


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.sampled_from([OFFLINE, AUTH, STALL])), max_size=60),
    st.integers(0, 2000),
)
def test_gaps_join_without_hole_and_stay_bounded(
    blames: list[tuple[int, GapCause]], end_ns: int
) -> None:
    outage = Outage(50, STALL)
    now_ns = 50
    for step_ns, cause in blames:
        now_ns += step_ns
        outage.blame(now_ns, cause, "")
    gaps = outage.gaps_until(now_ns + end_ns)
    assert len(gaps) <= OUTAGE_CAUSES_MAX
    edges = [50, *(gap.end_ns for gap in gaps)]
    assert [gap.start_ns for gap in gaps] == edges[:-1]
    assert edges[-1] == max(now_ns + end_ns, 50)
