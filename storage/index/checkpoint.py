"""I5: when a sealed slot may be called INDEXED.

Owns the two-checkpoint rule for one worker. Never writes a slot table: the caller sets the flag on
the slots run() returns, and after that recovery need not look into them.

Why two: checkpoint k makes the rows durable and then stores flushed_head; that store itself is
only made durable by the fdatasync of checkpoint k + 1.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from storage.index.writer import CameraIndexWriter

Slot = TypeVar("Slot", bound=Hashable)


class IndexCheckpoint(Generic[Slot]):
    """Slots go in when sealed and come out when their rows are covered by durable flushed_heads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sealed: list[Slot] = []
        self._once: list[Slot] = []

    @property
    def waiting(self) -> int:
        """Slots sealed, not yet safe to be called INDEXED."""
        return len(self._sealed) + len(self._once)

    def sealed(self, slot: Slot) -> None:
        """A slot was sealed: all its rows were appended before this call."""
        with self._lock:
            self._sealed.append(slot)

    def run(self, writers: Iterable[CameraIndexWriter]) -> tuple[Slot, ...]:
        """One checkpoint over all open writers of the worker; returns the slots it finished.

        A writer that closed since has made its own two. Raises DiskError at the first index that
        could not be made durable; nothing is promoted then, the next run starts over.
        """
        with self._lock:
            before, self._sealed = self._sealed, []
        try:
            for writer in writers:
                writer.checkpoint()
        except BaseException:
            with self._lock:
                self._sealed = before + self._sealed
            raise
        with self._lock:
            finished, self._once = self._once, before
        return tuple(finished)
