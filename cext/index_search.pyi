from typing import Any

from numpy.typing import NDArray
from typing_extensions import Buffer

def first_at_or_after(rows: Buffer | NDArray[Any], time_ns: int, low: int, high: int) -> int: ...
def entries_around(
    rows: Buffer | NDArray[Any],
    start_ns: int,
    end_ns: int,
    tail: int,
    head: int,
    walk_rows: int,
) -> tuple[int, int]: ...
