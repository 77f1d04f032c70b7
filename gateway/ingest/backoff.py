"""How long a feed waits before it connects again (S6 of docs/design/rtsp.md).

Owns the sequence of delays. Pure: randomness comes in. Never gives up.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.ingest.model import FeedSettings
from storage.base.gap import GapCause

JITTER_PART = 0.5  # a delay is between this part of its step and the step
_DOUBLINGS_MAX = 32


class Backoff:
    """Delays of one feed: first, doubling to the maximum; slower after refused credentials.

    The first delay after a success is short whatever failed, except for credentials: cameras lock
    accounts that fail often. ``random`` returns numbers in [0, 1).
    """

    def __init__(self, settings: FeedSettings, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._failures = 0
        self._refusals = 0

    def next_delay_s(self, cause: GapCause) -> float:
        """The delay before the next attempt, after a life that ended with ``cause``."""
        s = self._settings
        step_s = min(s.retry_first_s * 2.0 ** min(self._failures, _DOUBLINGS_MAX), s.retry_max_s)
        self._failures += 1
        if cause is GapCause.AUTH_FAILED:
            auth_s = s.auth_retry_s * 2.0 ** min(self._refusals, _DOUBLINGS_MAX)
            step_s = max(step_s, min(auth_s, s.auth_retry_max_s))
            self._refusals += 1
        else:
            self._refusals = 0
        return step_s * (JITTER_PART + (1 - JITTER_PART) * self._random())

    def succeeded(self) -> None:
        """The feed has recorded for a while: the next failure starts from the first step."""
        self._failures = 0
        self._refusals = 0
