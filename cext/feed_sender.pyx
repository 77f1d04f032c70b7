"""Sends packet templates over many TCP sockets at the pace of their clips.

One native call a tick serves every feed: each access unit that is due is stamped into a scratch
buffer and handed to the socket without blocking. What a socket does not take is kept, at most one
access unit and the control messages behind it, and the feed begins no other until that is out. So
a slow receiver makes its feed late; it never makes it lose a frame, and it delays no other feed.

It opens, reads and closes no socket and speaks no RTSP.

- Bytes of one feed leave in order: a control message never lands inside an interleaved frame.
- The first ``frames_sent`` access units from ``first_position`` on have been handed to the kernel
  whole, so what was sent is known exactly.
- A pacer and its feeds belong to one thread: there are no locks.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove

from cext.packetize cimport PacketTemplate, packet_length, stamp

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t length, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    # A feed that fell behind catches up by at most this many access units a tick.
    CATCH_UP_MAX = 8
    # One access unit and its control messages; more means a peer that asks and never reads.
    PENDING_BYTES_MAX = 67108864
    FRAMING_BYTES = 16
    NEWS_FULL = 1
    NEWS_FINISHED = 2
    NEWS_BROKEN = 4
    NS = 1000000000


cdef int64_t due_ns(const rv_schedule *schedule, uint64_t position) noexcept nogil:
    """When an access unit is due after position 0, rounds included."""
    cdef uint64_t count = schedule.template.frame_count
    cdef int64_t ticks = (<int64_t>(position // count) * schedule.loop_ticks
                          + schedule.decode_ticks[position % count])
    cdef int64_t seconds = ticks // schedule.clock_rate
    return seconds * NS + (ticks % schedule.clock_rate) * NS // schedule.clock_rate


cdef uint32_t rtp_offset(const rv_schedule *schedule, uint64_t position) noexcept nogil:
    """RTP timestamp of an access unit minus that of position 0's base, modulo 2**32."""
    cdef uint64_t count = schedule.template.frame_count
    return <uint32_t>(<int64_t>(position // count) * schedule.loop_ticks
                      + schedule.presentation_ticks[position % count])


cdef int keep(rv_feed *feed, const uint8_t *data, uint64_t length) noexcept nogil:
    """Append to what waits for the socket; -1 when there is no room."""
    cdef uint64_t used = feed.pending_end - feed.pending_start
    cdef uint8_t *grown
    if used + length > PENDING_BYTES_MAX:
        feed.error = ENOBUFS
        return -1
    if feed.pending_start > 0:
        memmove(feed.pending, feed.pending + feed.pending_start, used)
        feed.pending_start = 0
        feed.pending_end = used
    if used + length > feed.pending_capacity:
        grown = <uint8_t *>realloc(feed.pending, used + length)
        if grown == NULL:
            feed.error = ENOMEM
            return -1
        feed.pending = grown
        feed.pending_capacity = used + length
    memcpy(feed.pending + used, data, length)
    feed.pending_end = used + length
    return 0


cdef int64_t offer(rv_feed *feed, const uint8_t *data, uint64_t length) noexcept nogil:
    """Hand bytes to the socket until it takes no more: bytes taken, -1 when it failed."""
    cdef uint64_t done = 0
    cdef ssize_t sent
    while done < length:
        sent = send(feed.fd, data + done, length - done, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent >= 0:
            done += sent
        elif errno == EAGAIN:
            break
        elif errno != EINTR:
            feed.error = errno
            return -1
    feed.bytes_sent += done
    return <int64_t>done


cdef int drain(rv_feed *feed) noexcept nogil:
    """Send what waits: 1 = all gone, 0 = some left, -1 = broken."""
    cdef int64_t done
    if feed.pending_start == feed.pending_end:
        return 1
    done = offer(feed, feed.pending + feed.pending_start, feed.pending_end - feed.pending_start)
    if done < 0:
        return -1
    feed.pending_start += done
    return 1 if feed.pending_start == feed.pending_end else 0


cdef int put(rv_feed *feed, const uint8_t *data, uint64_t length) noexcept nogil:
    """Send behind what waits, and keep what the socket does not take: 1, 0 or -1 as drain()."""
    cdef int64_t done = 0
    cdef int state = drain(feed)
    if state < 0:
        return -1
    if state > 0:
        done = offer(feed, data, length)
        if done < 0:
            return -1
        if <uint64_t>done == length:
            return 1
    return keep(feed, data + done, length - done)


cdef uint32_t thin(rv_feed *feed, uint32_t frame, uint8_t *data) noexcept nogil:
    """Close the ranks over the packets that a lossy network would swallow; bytes left."""
    cdef uint32_t n, length
    cdef uint32_t kept = 0
    cdef uint32_t start = 0
    for n in range(feed.schedule.template.spans[frame].packet_count):
        length = packet_length(feed.schedule.template, frame, n)
        if (feed.packets_sent + feed.packets_dropped + 1) % feed.drop_every == 0:
            feed.packets_dropped += 1
        else:
            memmove(data + kept, data + start, length)
            kept += length
            feed.packets_sent += 1
            feed.octets_sent += length - FRAMING_BYTES
        start += length
    return kept


cdef int send_next(rv_feed *feed, uint8_t *scratch) noexcept nogil:
    """Send the next access unit, nothing waiting: 1, 0 or -1 as drain()."""
    cdef uint32_t frame = <uint32_t>(feed.position % feed.schedule.template.frame_count)
    cdef uint32_t packets = feed.schedule.template.spans[frame].packet_count
    cdef uint32_t length = stamp(
        feed.schedule.template, frame, scratch, feed.channel, feed.sequence,
        feed.timestamp_base + rtp_offset(feed.schedule, feed.position), feed.ssrc)
    if feed.drop_every:
        length = thin(feed, frame, scratch)
    else:
        feed.packets_sent += packets
        feed.octets_sent += length - FRAMING_BYTES * packets
    feed.sequence = <uint16_t>(feed.sequence + packets)
    feed.position += 1
    feed.frame_end = feed.bytes_sent + length
    return put(feed, scratch, length)


cdef void advance(rv_feed *feed, int64_t now_ns, uint8_t *scratch) noexcept nogil:
    """Send what is due, in order, while the socket takes it."""
    cdef int64_t due
    cdef int burst = 0
    while (not feed.error and not feed.holding and burst < CATCH_UP_MAX
           and (feed.end_position == 0 or feed.position < feed.end_position)):
        due = feed.start_ns + due_ns(feed.schedule, feed.position)
        if due > now_ns:
            return
        if drain(feed) <= 0:
            if not feed.stalled:
                feed.stalled = True
                feed.stall_count += 1
            return
        feed.stalled = False
        feed.lag_max_ns = max(feed.lag_max_ns, now_ns - due)
        send_next(feed, scratch)
        burst += 1


cdef uint8_t news(const rv_feed *feed) noexcept nogil:
    """What the owner of a feed has to know."""
    if feed.error:
        return NEWS_BROKEN
    if feed.pending_start < feed.pending_end:
        return NEWS_FULL
    if feed.end_position and feed.position >= feed.end_position:
        return NEWS_FINISHED
    return 0


cdef class Schedule:
    """A template with its times: decoding order decides when, presentation time what is stamped.

    ``decode_ticks`` (never decreasing, first one 0) and ``presentation_ticks`` hold one entry an
    access unit, in units of 1 / clock_rate; ``loop_ticks`` is the length of one round. Raises
    ValueError when they disagree.
    """

    def __cinit__(self, PacketTemplate template not None, decode_ticks, presentation_ticks, *,
                  int64_t loop_ticks, uint32_t clock_rate=90000):
        cdef list decode = list(decode_ticks)
        cdef list presentation = list(presentation_ticks)
        cdef Py_ssize_t n
        if not len(decode) == len(presentation) == len(template):
            raise ValueError(f"{len(decode)} decode and {len(presentation)} presentation times"
                             f" for {len(template)} access units")
        if clock_rate == 0 or decode[0] != 0 or decode != sorted(decode):
            raise ValueError("decode times must begin at 0 and never decrease")
        if loop_ticks <= decode[len(decode) - 1]:
            raise ValueError(f"a round of {loop_ticks} ticks ends before its last access unit")
        self.template = template
        self.schedule.template = &template.template
        self.schedule.clock_rate = clock_rate
        self.schedule.loop_ticks = loop_ticks
        self.schedule.decode_ticks = <int64_t *>calloc(len(decode), sizeof(int64_t))
        self.schedule.presentation_ticks = <int64_t *>calloc(len(decode), sizeof(int64_t))
        if self.schedule.decode_ticks == NULL or self.schedule.presentation_ticks == NULL:
            raise MemoryError()
        for n in range(len(decode)):
            self.schedule.decode_ticks[n] = decode[n]
            self.schedule.presentation_ticks[n] = presentation[n]

    def __dealloc__(self):
        free(self.schedule.decode_ticks)
        free(self.schedule.presentation_ticks)


cdef class Feed:
    """One clip going out over one connected socket. ``fd`` stays the caller's.

    ``start_ns`` is the monotonic time at which the access unit at ``first_position`` is due, and
    ``timestamp`` its RTP timestamp. With ``rounds`` > 0 the feed ends after that many whole
    clips. ``drop_every`` = n leaves out every n-th RTP packet, its sequence number used up: a
    lossy network for tests.
    """

    def __cinit__(self, Schedule schedule not None, int fd, *, uint8_t channel, uint32_t ssrc,
                  uint16_t sequence, uint32_t timestamp, int64_t start_ns,
                  uint64_t first_position=0, uint32_t rounds=0, uint32_t drop_every=0):
        self.schedule = schedule
        self.first_position = first_position
        self.feed.schedule = &schedule.schedule
        self.feed.fd = fd
        self.feed.channel = channel
        self.feed.ssrc = ssrc
        self.feed.sequence = sequence
        self.feed.timestamp_base = timestamp - rtp_offset(&schedule.schedule, first_position)
        self.feed.position = first_position
        self.feed.start_ns = start_ns - due_ns(&schedule.schedule, first_position)
        if rounds:
            self.feed.end_position = first_position + <uint64_t>rounds * len(schedule.template)
        self.feed.drop_every = drop_every

    def __dealloc__(self):
        free(self.feed.pending)

    @property
    def fd(self):
        return self.feed.fd

    @property
    def ssrc(self):
        return self.feed.ssrc

    @property
    def error(self):
        """errno of the send that failed; 0 while the socket is well."""
        return self.feed.error

    @property
    def frames_sent(self):
        """Access units handed to the kernel whole."""
        cdef uint64_t begun = self.feed.position - self.first_position
        return begun - 1 if begun and self.feed.bytes_sent < self.feed.frame_end else begun

    @property
    def packets_sent(self):
        return self.feed.packets_sent

    @property
    def packets_dropped(self):
        return self.feed.packets_dropped

    @property
    def octets_sent(self):
        """RTP payload octets, as sender reports count them."""
        return self.feed.octets_sent

    @property
    def bytes_sent(self):
        """Bytes the socket took, framing and control messages included."""
        return self.feed.bytes_sent

    @property
    def stall_count(self):
        """Access units that were due while the one before still waited for the socket."""
        return self.feed.stall_count

    @property
    def lag_max_ns(self):
        """The longest time between an access unit's being due and its being sent."""
        return self.feed.lag_max_ns

    @property
    def pending_bytes(self):
        """Bytes that wait for the socket."""
        return self.feed.pending_end - self.feed.pending_start

    @property
    def finished(self):
        """Every access unit of the last round is out; never true of an endless feed."""
        return news(&self.feed) == NEWS_FINISHED

    @property
    def next_sequence(self):
        return self.feed.sequence

    @property
    def next_timestamp(self):
        """RTP timestamp of the access unit that is sent next."""
        return <uint32_t>(self.feed.timestamp_base
                          + rtp_offset(self.feed.schedule, self.feed.position))

    def timestamp_at(self, int64_t monotonic_ns):
        """RTP timestamp of a moment (RFC 3550 section 6.4.1), for sender reports."""
        cdef object elapsed = monotonic_ns - self.feed.start_ns     # exact: Python integers
        ticks = elapsed * self.feed.schedule.clock_rate // NS
        return (self.feed.timestamp_base + ticks) % 2**32

    def hold(self):
        """Begin no further access unit; one that is half out still goes out whole by flush()."""
        self.feed.holding = True

    def write(self, data):
        """Send a control message behind whatever waits; raises OSError when the socket failed."""
        cdef const uint8_t[::1] view = data
        self.check()
        if view.shape[0]:
            put(&self.feed, &view[0], view.shape[0])
            self.check()

    def flush(self):
        """Send what waits; True when nothing is left. Raises OSError when the socket failed."""
        self.check()
        cdef int state = drain(&self.feed)
        self.check()
        return state == 1

    cdef int check(self) except -1:
        if self.feed.error:
            raise OSError(self.feed.error, f"sending on socket {self.feed.fd} failed")
        return 0


cdef class Pacer:
    """Every feed of one thread. Call run() every few milliseconds."""

    def __cinit__(self):
        self._feeds = []

    def __dealloc__(self):
        free(self._pointers)
        free(self._scratch)

    def __len__(self):
        return len(self._feeds)

    def add(self, Feed feed not None):
        """Begin to serve a feed; ValueError when it is served already."""
        cdef size_t capacity
        cdef void *grown
        if feed in self._feeds:
            raise ValueError("the feed is served already")
        if <size_t>len(self._feeds) == self._capacity:
            capacity = max(64, 2 * self._capacity)
            grown = realloc(self._pointers, capacity * sizeof(rv_feed *))
            if grown == NULL:
                raise MemoryError()
            self._pointers = <rv_feed **>grown
            self._capacity = capacity
        if feed.schedule.template.frame_bytes_max > self._scratch_bytes:
            grown = realloc(self._scratch, feed.schedule.template.frame_bytes_max)
            if grown == NULL:
                raise MemoryError()
            self._scratch = <uint8_t *>grown
            self._scratch_bytes = feed.schedule.template.frame_bytes_max
        self._pointers[len(self._feeds)] = &feed.feed
        self._feeds.append(feed)

    def remove(self, Feed feed not None):
        """Stop serving a feed; ValueError when it is not served."""
        cdef Py_ssize_t n
        self._feeds.remove(feed)
        for n in range(len(self._feeds)):
            self._pointers[n] = &(<Feed>self._feeds[n]).feed

    def run(self, int64_t now_ns):
        """Send every access unit due at ``now_ns`` (monotonic, the clock of ``start_ns``).

        Returns the feeds that newly need their owner: socket full (flush() it when writable),
        finished, or broken (``error``). Each is returned once, until its state changes.
        """
        cdef Py_ssize_t n
        cdef Py_ssize_t count = len(self._feeds)
        cdef uint8_t state
        cdef list changed = []
        with nogil:
            for n in range(count):
                advance(self._pointers[n], now_ns, self._scratch)
        for n in range(count):
            state = news(self._pointers[n])
            if state != self._pointers[n].reported:
                self._pointers[n].reported = state
                if state:
                    changed.append(self._feeds[n])
        return changed
