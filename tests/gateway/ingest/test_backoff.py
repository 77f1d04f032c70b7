"""Delays: a fast first retry, doubling, a ceiling, and patience with locked accounts."""

from __future__ import annotations

from gateway.ingest.backoff import Backoff
from gateway.ingest.model import FeedSettings
from storage.base.gap import GapCause

OFFLINE, AUTH = GapCause.CAMERA_OFFLINE, GapCause.AUTH_FAILED
SETTINGS = FeedSettings(retry_first_s=0.2, retry_max_s=10, auth_retry_s=30, auth_retry_max_s=100)


def delays(backoff: Backoff, *causes: GapCause) -> list[float]:
    return [round(backoff.next_delay_s(cause), 6) for cause in causes]


def test_doubles_up_to_the_maximum_for_ever() -> None:
    backoff = Backoff(SETTINGS, lambda: 1.0)
    assert delays(backoff, *[OFFLINE] * 8) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
    assert delays(backoff, *[OFFLINE] * 5000)[-1] == 10


def test_jitter_takes_up_to_half() -> None:
    assert delays(Backoff(SETTINGS, lambda: 0.0), OFFLINE, OFFLINE) == [0.1, 0.2]
    assert delays(Backoff(SETTINGS, lambda: 0.5), OFFLINE) == [0.15]


def test_refused_credentials_are_not_tried_again_soon() -> None:
    backoff = Backoff(SETTINGS, lambda: 1.0)
    assert delays(backoff, AUTH, AUTH, AUTH, AUTH) == [30, 60, 100, 100]
    assert delays(backoff, OFFLINE) == [3.2]
    assert delays(backoff, AUTH) == [30]


def test_success_starts_anew() -> None:
    backoff = Backoff(SETTINGS, lambda: 1.0)
    delays(backoff, *[OFFLINE] * 6)
    backoff.succeeded()
    assert delays(backoff, OFFLINE) == [0.2]
