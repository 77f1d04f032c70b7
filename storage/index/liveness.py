"""I2: which index rows exist, asked of the volumes' slot tables.

Owns the vectorised comparison. Never decides that a slot may be reused: that is the floor's (V3).
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.index.format import Mask, Rows

# ndarray.all without its wrapper in Python: a lookup is made of many small steps.
_ALL: Final = np.logical_and.reduce


class SlotGenerations(Protocol):
    """The slot tables of all volumes, as far as the index needs them."""

    def generations(self, volume_number: int) -> NDArray[np.uint32] | None:
        """Generation of every slot, a view that follows the table; None = volume not present."""


def live_mask(rows: Rows, tables: SlotGenerations, *, absent_is_live: bool) -> Mask:
    """True where ``table[slot].generation == row.generation``.

    ``absent_is_live``: the answer for rows of a volume that is not mounted or a slot it does not
    have. Readers pass False (nothing can be read there), the writer True (nothing is forgotten).
    """
    if len(rows) == 0:
        return np.zeros(0, np.bool_)
    volumes = rows["volume_number"]
    first = int(volumes[0])
    if _ALL(volumes == first):
        return _live_on_one(rows, tables.generations(first), absent_is_live)
    live = np.empty(len(rows), np.bool_)
    for number in np.unique(volumes):
        mine = volumes == number
        live[mine] = _live_on_one(rows[mine], tables.generations(int(number)), absent_is_live)
    return live


def _live_on_one(rows: Rows, table: NDArray[np.uint32] | None, absent_is_live: bool) -> Mask:
    if table is None:
        return np.full(len(rows), absent_is_live)
    slots = rows["slot"]
    known = slots < len(table)
    if _ALL(known):
        live: Mask = table[slots] == rows["generation"]
        return live
    live = np.full(len(rows), absent_is_live)
    live[known] = table[slots[known]] == rows["generation"][known]
    return live
