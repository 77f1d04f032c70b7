"""The time a feed is away, as gap records with their causes (S3 of docs/design/rtsp.md).

Owns one outage: when each cause took over. Pure; the caller writes the gaps.

    last stored end         process start        refused          back
    |--- recorder_restart ---|-- camera_offline --|- auth_failed -|
"""

from __future__ import annotations

from gateway.limits import OUTAGE_CAUSES_MAX
from storage.base.gap import Gap, GapCause


class Outage:
    """Began at ``start_ns``; ``cause`` is None while nothing has failed yet."""

    def __init__(self, start_ns: int, cause: GapCause | None, detail: str = "") -> None:
        self._spans: list[tuple[int, GapCause | None, str]] = [(start_ns, cause, detail)]

    @property
    def start_ns(self) -> int:
        """The end of what is stored, or of the last gap written."""
        return self._spans[0][0]

    @property
    def cause(self) -> GapCause | None:
        """The one in force."""
        return self._spans[-1][1]

    def blame(self, now_ns: int, cause: GapCause, detail: str) -> None:
        """``cause`` holds from now on; from the beginning if there was none before.

        One cause that goes on stays one gap, with the first text. Beyond OUTAGE_CAUSES_MAX
        changes the last cause simply goes on: memory stays bounded and no time is lost.
        """
        start_ns, current, _ = self._spans[-1]
        if current is None:
            self._spans[-1] = (start_ns, cause, detail)
        elif current is not cause and len(self._spans) < OUTAGE_CAUSES_MAX:
            self._spans.append((max(now_ns, start_ns), cause, detail))

    def gaps_until(self, end_ns: int) -> list[Gap]:
        """The gaps from the start to ``end_ns``, none empty; the outage goes on from there."""
        gaps: list[Gap] = []
        ends = [span[0] for span in self._spans[1:]] + [end_ns]
        for (start_ns, cause, detail), span_end_ns in zip(self._spans, ends, strict=True):
            clipped_ns = min(span_end_ns, end_ns)
            if cause is not None and clipped_ns > start_ns:
                gaps.append(Gap(start_ns, clipped_ns, cause, 0, detail))
        _, cause, detail = self._spans[-1]
        self._spans = [(max(end_ns, self.start_ns), cause, detail)]
        return gaps
