"""Searching the rows of a camera's index: two bisections and a short walk back.

Owns: nothing; pure functions over a ring of 32-byte rows in memory. Never does: liveness, and the
check that the ring did not turn meanwhile; both are the caller's (storage.index.index).

- Rows in [low, high) are in order of their start (I1). Whatever they hold, nothing outside the
  ring is read: entry numbers are taken modulo its capacity.
- Released GIL: a row may lie in a page that comes from the disk.

docs/design/volume-format.md, "Index of a camera".
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    typedef struct {
        int64_t start_ns;
        uint32_t duration, generation, slot, offset_blocks, record_bytes;
        uint16_t flags, volume_number;
    } rv_index_row;
    _Static_assert(sizeof(rv_index_row) == 32, "a row of the index has 32 bytes");
    """
    ctypedef struct rv_index_row:
        int64_t start_ns
        uint32_t duration
        uint16_t flags

cdef enum:
    FLAG_GAP = 2
    FRAGMENT_TICK_NS = 1000
    GAP_TICK_NS = 1000000
    INTERPOLATE_ROWS_MIN = 256
    PROBE_ROWS = 64   # a guess is probed this far to both sides: the answer then lies in one page


cdef struct Ring:
    const rv_index_row *rows
    uint64_t mask


cdef inline int64_t start_of(const Ring *ring, int64_t number) noexcept nogil:
    return ring.rows[<uint64_t>number & ring.mask].start_ns


cdef int64_t bisect(const Ring *ring, int64_t time_ns, int64_t low, int64_t high) noexcept nogil:
    """Smallest number in [low, high] whose entry starts at or after time_ns.

    Footage is nearly even in time, so a straight-line guess lands close; every second step halves,
    so it is never more than twice a bisection. A cold lookup reads few pages.
    """
    cdef bint guess = high - low > INTERPOLATE_ROWS_MIN
    cdef int64_t middle, first_ns, last_ns, near, below, above
    while low < high:
        if not guess:
            guess = high - low > INTERPOLATE_ROWS_MIN
            middle = low + (high - low) // 2
            if start_of(ring, middle) < time_ns:
                low = middle + 1
            else:
                high = middle
            continue
        guess = False
        first_ns = start_of(ring, low)
        last_ns = start_of(ring, high - 1)
        if time_ns <= first_ns:
            return low
        if time_ns > last_ns:
            return high
        near = low + <int64_t>(
            (<double>time_ns - <double>first_ns) / (<double>last_ns - <double>first_ns)
            * <double>(high - 1 - low)
        ) if last_ns > first_ns else low
        near = min(max(near, low), high - 1)
        below = max(low, near - PROBE_ROWS)
        above = min(high - 1, near + PROBE_ROWS)
        if start_of(ring, below) >= time_ns:
            high = below
        elif start_of(ring, above) < time_ns:
            low = above + 1
        else:
            low = below + 1
            high = above
    return low


cdef int64_t walk_back(
    const Ring *ring, int64_t time_ns, int64_t tail, int64_t low, int64_t walk_rows
) noexcept nogil:
    """The earliest entry before low that ends after time_ns; low without any. Given up after
    walk_rows in a row that do not."""
    cdef int64_t number = low, earliest = low, end_ns
    cdef const rv_index_row *row
    while number > tail and earliest - number < walk_rows:
        number -= 1
        row = &ring.rows[<uint64_t>number & ring.mask]
        end_ns = row.start_ns + <int64_t>row.duration * (
            GAP_TICK_NS if row.flags & FLAG_GAP else FRAGMENT_TICK_NS
        )
        if end_ns > time_ns:
            earliest = number
    return earliest


cdef int open_ring(object rows, Py_buffer *buffer, Ring *ring) except -1:
    PyObject_GetBuffer(rows, buffer, PyBUF_SIMPLE)
    cdef uint64_t nbytes = buffer.len
    cdef uint64_t capacity = nbytes // sizeof(rv_index_row)
    if capacity == 0 or capacity & (capacity - 1) or capacity * sizeof(rv_index_row) != nbytes:
        PyBuffer_Release(buffer)
        raise ValueError(f"{buffer.len} bytes are no ring of 2^n rows of 32 bytes")
    ring.rows = <const rv_index_row *>buffer.buf
    ring.mask = capacity - 1
    return 0


def first_at_or_after(rows: object, time_ns: int, low: int, high: int) -> int:
    """Smallest number in [low, high] whose entry starts at or after ``time_ns``."""
    cdef Py_buffer buffer
    cdef Ring ring
    cdef int64_t time = time_ns, begin = low, end = high
    open_ring(rows, &buffer, &ring)
    with nogil:
        begin = bisect(&ring, time, begin, end)
    PyBuffer_Release(&buffer)
    return begin


def entries_around(
    rows: object, start_ns: int, end_ns: int, tail: int, head: int, walk_rows: int
) -> tuple[int, int]:
    """[first, end) of [tail, head): entries that start in [start_ns, end_ns), and those before
    them that end after ``start_ns``, as far back as ``walk_rows`` in a row do not."""
    cdef Py_buffer buffer
    cdef Ring ring
    cdef int64_t start = start_ns, end = end_ns, oldest = tail, newest = head, walk = walk_rows
    cdef int64_t low, high
    open_ring(rows, &buffer, &ring)
    with nogil:
        low = bisect(&ring, start, oldest, newest)
        # Mostly a few rows further on.
        high = min(newest, low + PROBE_ROWS)
        if high < newest and start_of(&ring, high) < end:
            high = newest
        high = bisect(&ring, end, low, high)
        low = walk_back(&ring, start, oldest, low, walk)
    PyBuffer_Release(&buffer)
    return low, high
