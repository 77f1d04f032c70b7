"""One line a second per cause, however often it occurs: an offline switch must not fill a disk.

Owns the memory of recent causes, bounded. Never drops a first occurrence and never hides how many
it held back: the next line that passes carries ``suppressed``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

CAUSES_MAX = 4096
INTERVAL_NS = 1_000_000_000


@dataclass(slots=True)
class _Cause:
    passed_ns: int
    suppressed: int


class StormLimiter:
    """Decides, per cause, whether a line passes now.

    ``monotonic_ns`` is the clock; ``suppressed_total`` counts every line held back since the
    start. Causes beyond ``causes_max`` push out the one that passed longest ago, whose count is
    then lost from its line but not from ``suppressed_total``. Not thread-safe by itself: the log
    processor holds a lock.
    """

    def __init__(
        self,
        monotonic_ns: Callable[[], int],
        *,
        interval_ns: int = INTERVAL_NS,
        causes_max: int = CAUSES_MAX,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._interval_ns = interval_ns
        self._causes_max = causes_max
        self._causes: OrderedDict[Hashable, _Cause] = OrderedDict()
        self.suppressed_total = 0

    def admit(self, cause: Hashable) -> int | None:
        """None: hold this line back. A number: let it pass, that many were held back before it."""
        now_ns = self._monotonic_ns()
        known = self._causes.get(cause)
        if known is None:
            self._causes[cause] = _Cause(now_ns, 0)
            if len(self._causes) > self._causes_max:
                self._causes.popitem(last=False)
            return 0
        if now_ns - known.passed_ns < self._interval_ns:
            known.suppressed += 1
            self.suppressed_total += 1
            return None
        suppressed, known.suppressed = known.suppressed, 0
        known.passed_ns = now_ns
        self._causes.move_to_end(cause)
        return suppressed
