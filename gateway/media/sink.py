"""Where a feed's fragments go: the only thing ``media`` and ``ingest`` ask of storage.

Owns the protocol, nothing else. ``storage.recorder``'s camera writer fits it as it is; what a
fragment's ``meta`` is made of is storage's word, so its type is a parameter.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from cext.arena import Fragment
from storage.base.gap import Gap

Meta = TypeVar("Meta", contravariant=True)


class Sink(Protocol[Meta]):
    """One camera's way to the disks. Called by one thread, never blocks.

    Records must come in order of start_ns. ``submit`` and ``submit_gap`` return False if the queue
    is full: the record is then not taken, a fragment stays the caller's, and the caller owes a
    ``queue_full`` gap.
    """

    @property
    def last_end_ns(self) -> int:
        """The end of the camera's last record, 0 if it has none."""
        ...

    def submit(self, fragment: Fragment, meta: Meta) -> bool:
        """Take the fragment; if True it is the sink's from now on, released by it."""
        ...

    def submit_gap(self, gap: Gap) -> bool:
        """Take a gap record."""
        ...
