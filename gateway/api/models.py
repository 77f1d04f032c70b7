"""The JSON bodies of the API that are not shown elsewhere, and their making.

Owns their shape alone. Times are RFC 3339 UTC; causes are the names of
docs/design/volume-format.md.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

from storage.base.gap import Gap
from storage.base.timebase import SECOND_NS, format_rfc3339
from storage.index.coverage import Coverage


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProblemAnswer(_Answer):
    """Every error."""

    code: str = Field(description="stable; docs/ref/errors.md lists all")
    message: str
    article: str = Field(description="the rule of law it rests on, where there is one")
    remedy: str = Field(description="what to do about it")


class HealthAnswer(_Answer):
    """Is the installation recording as it should?"""

    ok: bool
    reasons: tuple[str, ...] = Field(description="what keeps it from being well")
    warnings: tuple[str, ...] = Field(description="what is worth knowing, but harms nothing else")


class SpanAnswer(_Answer):
    """Footage without a space of more than a second."""

    start: str
    end: str
    seconds: float
    fragments: int


class GapAnswer(_Answer):
    """A time without footage, and why."""

    start: str
    end: str
    seconds: float
    cause: str
    packets: int = Field(description="lost packets, 0 if not known")
    detail: str


class CoverageAnswer(_Answer):
    """What a camera has in a range."""

    camera: str
    start: str
    end: str
    expected_seconds: float = Field(description="of the range, without what is in the future")
    stored_seconds: float
    spans: list[SpanAnswer]
    gaps: list[GapAnswer]


class SidecarAnswer(RootModel[dict[str, Any]]):
    """Facts about a clip: requested and delivered range, frames, gaps, codec configurations."""


def coverage_answer(camera_id: str, found: Coverage) -> CoverageAnswer:
    """Coverage as JSON."""
    return CoverageAnswer(
        camera=camera_id,
        start=format_rfc3339(found.range.start_ns),
        end=format_rfc3339(found.range.end_ns),
        expected_seconds=found.expected_ns / SECOND_NS,
        stored_seconds=found.stored_ns / SECOND_NS,
        spans=[
            SpanAnswer(
                start=format_rfc3339(span.start_ns),
                end=format_rfc3339(span.end_ns),
                seconds=span.duration_ns / SECOND_NS,
                fragments=span.fragments,
            )
            for span in found.spans
        ],
        gaps=[_gap(gap) for gap in found.gaps],
    )


def _gap(gap: Gap) -> GapAnswer:
    return GapAnswer(
        start=format_rfc3339(gap.start_ns),
        end=format_rfc3339(gap.end_ns),
        seconds=gap.duration_ns / SECOND_NS,
        cause=gap.cause.label,
        packets=gap.packets,
        detail=gap.detail,
    )
