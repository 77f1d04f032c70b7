"""RTSP over TCP, taken apart: interleaved RTP straight to its track, text messages aside.

Owns: the region sockets are read into, and what is unfinished at the end of a read. Never does:
sockets, RTSP semantics, timing; it never guesses where a frame begins.

- One region serves every connection of an event loop, so it stays in the cache: a read is consumed
  before the next ``get_buffer`` of any connection (event loops call get_buffer, recv and
  buffer_updated back to back). Used by one thread.
- Frames are parsed where they were read. Only what is unfinished is kept, in memory of the
  connection's own, and put in front of the region when more comes.
- Whatever the split into reads, the same frames and messages come out.
- A connection that broke a rule stays broken: where its next frame begins is unknown.

RFC 2326, 10.12 (RFC 7826, 14). The algorithm is in interleaved.h.
"""

from libc.errno cimport errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize

from cext.limits cimport BINDINGS_MAX, GIL_RELEASE_BYTES_MIN, RECEIVE_HEADROOM_BYTES
from cext.limits cimport RECEIVE_REGION_BYTES, RTSP_MESSAGE_BYTES_MAX, RTSP_PENDING_BYTES_MAX
from cext.track cimport EVENT_BROKEN, EVENT_TEXT, RV_EVENT_NO_MEMORY, VideoTrack, rv_track
from cext.track cimport track_receive, track_receive_rtcp, track_tick

from cext.errors import FrameError, LimitExceeded


cdef extern from "stdlib.h":
    int posix_memalign(void **memory, size_t alignment, size_t nbytes) nogil


cdef extern from "interleaved.h":
    enum:
        RV_DEMUX_DONE
        RV_DEMUX_TEXT
        RV_DEMUX_TOO_LONG
        RV_DEMUX_NO_MEMORY

    ctypedef int (*rv_receive)(rv_track *, const uint8_t *, size_t, int64_t) noexcept nogil
    ctypedef int (*rv_tick)(rv_track *, int64_t) noexcept nogil

    ctypedef struct rv_binding:
        rv_track *track
        uint8_t rtp_channel
        uint8_t rtcp_channel

    ctypedef struct rv_demuxer_fields "rv_demuxer":
        rv_receive receive
        rv_receive receive_rtcp
        rv_tick tick
        uint8_t channels[256]
        rv_binding bindings[8]
        uint32_t binding_count

    int rv_demux(rv_demuxer *, rv_demux_run *, int64_t) noexcept nogil
    int rv_demux_keep(rv_demuxer *, const uint8_t *, uint32_t, int) noexcept nogil
    int rv_demux_read(
        rv_demuxer *, uint8_t *, size_t, int, int64_t, rv_demux_run *
    ) noexcept nogil
    int rv_demux_tick(rv_demuxer *, int64_t) noexcept nogil


cdef extern from "fcntl.h":
    enum:
        F_DUPFD_CLOEXEC
    int fcntl(int fd, int command, int argument) nogil


cdef extern from "unistd.h":
    int close(int fd) nogil


cdef extern from "time.h":
    enum:
        CLOCK_MONOTONIC
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *time) nogil


# By the number of the error in interleaved.h.
cdef tuple RULES = (
    "neither an interleaved frame nor the start of an RTSP message",
    "control character in the head of an RTSP message",
    "Content-Length is not a number",
    "Content-Length given twice with different values",
)

cdef size_t PAGE_BYTES = 4096


cdef class _Region:
    """The memory behind a ``ReceiveArea``, as a writable buffer."""

    cdef uint8_t *memory
    cdef Py_ssize_t nbytes

    def __cinit__(self, Py_ssize_t nbytes) -> None:
        cdef void *memory = NULL
        if posix_memalign(&memory, PAGE_BYTES, RECEIVE_HEADROOM_BYTES + nbytes) != 0:
            raise MemoryError
        self.memory = <uint8_t *>memory
        self.nbytes = nbytes

    def __dealloc__(self) -> None:
        free(self.memory)

    def __getbuffer__(self, Py_buffer *buffer, int flags) -> None:
        PyBuffer_FillInfo(
            buffer, self, self.memory + <Py_ssize_t>RECEIVE_HEADROOM_BYTES, self.nbytes, False,
            flags,
        )


cdef class ReceiveArea:
    """A page-aligned region of ``region_bytes`` that all connections of one event loop read into.

    Raises ``ValueError`` unless ``region_bytes`` is at least one page.
    """

    def __cinit__(self, region_bytes: int = RECEIVE_REGION_BYTES) -> None:
        cdef _Region region
        if not <Py_ssize_t>PAGE_BYTES <= region_bytes <= 2**30:
            raise ValueError(f"region_bytes is {region_bytes}, not {PAGE_BYTES} to {2**30}")
        region = _Region(region_bytes)
        self.region = region.memory + <Py_ssize_t>RECEIVE_HEADROOM_BYTES
        self.region_bytes = region_bytes
        self.view = memoryview(region)


cdef inline rv_demuxer_fields *fields(Demuxer demuxer) noexcept:
    return <rv_demuxer_fields *>&demuxer.demuxer


cdef class Demuxer:
    """One RTSP connection over TCP.

    ``get_buffer`` and ``consume`` are the two halves of ``asyncio.BufferedProtocol``: read into
    the one, tell the other how much it was.
    """

    def __cinit__(self, ReceiveArea area not None) -> None:
        self.area = area
        self.view = area.view
        self.tracks = []
        self.texts = []
        fields(self).receive = track_receive
        fields(self).receive_rtcp = track_receive_rtcp
        fields(self).tick = track_tick
        self.demuxer.fd = -1

    def __dealloc__(self) -> None:
        if self.demuxer.fd >= 0:
            close(self.demuxer.fd)
        free(self.demuxer.carry)

    def attach(self, fd: int) -> None:
        """``drain`` reads this socket from now on, by a descriptor of our own.

        A number that was closed may be another camera's the next moment; ours cannot be. Raises
        ``OSError`` if there is no descriptor left.
        """
        cdef int own = fcntl(<int>fd, F_DUPFD_CLOEXEC, 3)
        if own < 0:
            raise OSError(errno, "a socket could not be duplicated")
        self.detach()
        self.demuxer.fd = own

    def detach(self) -> None:
        """``drain`` reads nothing more here; our descriptor is closed. May be called again."""
        if self.demuxer.fd >= 0:
            close(self.demuxer.fd)
            self.demuxer.fd = -1

    @property
    def attached(self) -> bool:
        """Whether ``drain`` reads the socket."""
        return self.demuxer.fd >= 0

    def bind(self, rtp_channel: int, VideoTrack track not None, rtcp_channel: int) -> None:
        """Frames of these channels (0 to 255) go to ``track`` from now on.

        The two may be equal (RTCP is then told apart by RFC 5761). Raises ``ValueError`` for a
        channel that is taken or out of range, ``LimitExceeded`` beyond BINDINGS_MAX tracks.
        """
        cdef rv_demuxer_fields *d = fields(self)
        cdef uint32_t number = d.binding_count
        for channel in (rtp_channel, rtcp_channel):
            if not 0 <= channel <= 255:
                raise ValueError(f"interleaved channel {channel} is not 0 to 255")
            if d.channels[<uint8_t>channel] != 0:
                raise ValueError(f"interleaved channel {channel} is taken")
        if number == BINDINGS_MAX:
            raise LimitExceeded("BINDINGS_MAX", number + 1, BINDINGS_MAX)
        d.bindings[number].track = track.track
        d.bindings[number].rtp_channel = rtp_channel
        d.bindings[number].rtcp_channel = rtcp_channel
        d.channels[<uint8_t>rtcp_channel] = <uint8_t>(2 * number + 2)
        d.channels[<uint8_t>rtp_channel] = <uint8_t>(2 * number + 1)
        d.binding_count = number + 1
        self.tracks.append(track)

    def get_buffer(self, Py_ssize_t sizehint=-1) -> memoryview:
        """The region to read into, at once and whole; always the same object."""
        return self.view

    def consume(self, Py_ssize_t nbytes, int64_t recv_ns) -> int:
        """``nbytes`` were read into the region at ``recv_ns`` (ns UTC). Returns EVENT_* bits.

        Raises ``FrameError`` for bytes that are neither RTSP nor a frame, with their offset in the
        connection, and ``LimitExceeded`` for a message over RTSP_MESSAGE_BYTES_MAX or more than
        RTSP_PENDING_BYTES_MAX not taken. What came before is in the tracks and ``take_text``; the
        connection is of no further use, and every later call raises the same error.
        """
        if nbytes < 0 or nbytes > self.area.region_bytes:
            raise ValueError(f"{nbytes} bytes cannot have been read into {self.area.region_bytes}")
        return self.take(self.area.region, nbytes, recv_ns)

    def feed(self, const uint8_t[::1] data not None, int64_t recv_ns) -> int:
        """The same for bytes from anywhere (TLS, tests): as if each had been read."""
        cdef Py_ssize_t at = 0, part
        cdef int events = 0
        while at < data.shape[0]:
            part = min(self.area.region_bytes, data.shape[0] - at)
            if self.area.busy:
                raise RuntimeError("a ReceiveArea is used by two threads")
            memcpy(self.area.region, &data[at], <size_t>part)
            events |= self.take(self.area.region, part, recv_ns)
            at += part
        return events

    cdef int take(self, const uint8_t *region, Py_ssize_t nbytes, int64_t recv_ns) except -1:
        cdef Py_ssize_t carried = self.demuxer.carry_bytes
        cdef uint8_t *start
        if self.broken is not None:
            raise self.broken
        if self.area.busy:
            raise RuntimeError("a ReceiveArea is used by two threads")
        self.demuxer.bytes_received += <uint64_t>nbytes
        if carried == 0:
            return self.run(region, region + nbytes, recv_ns)
        if carried + nbytes < <Py_ssize_t>self.demuxer.needed_bytes:
            self.keep(region, nbytes, True)
            return 0
        start = self.area.region - carried
        memcpy(start, self.demuxer.carry, <size_t>carried)
        return self.run(start, region + nbytes, recv_ns)

    cdef int run(self, const uint8_t *at, const uint8_t *end, int64_t recv_ns) except -1:
        cdef rv_demux_run run
        cdef int status
        run.at = at
        run.end = end
        run.events = 0
        if end - at >= <Py_ssize_t>GIL_RELEASE_BYTES_MIN:
            self.area.busy = True
            with nogil:
                status = rv_demux(&self.demuxer, &run, recv_ns)
            self.area.busy = False
        else:
            status = rv_demux(&self.demuxer, &run, recv_ns)
        return self.settle(status, &run, recv_ns)

    cdef int settle(self, int status, rv_demux_run *run, int64_t recv_ns) except -1:
        # From where rv_demux stopped to the end of what was read.
        while status == RV_DEMUX_TEXT:
            run.events |= EVENT_TEXT
            self.take_text_message(run.text, <Py_ssize_t>run.text_bytes)
            status = rv_demux(&self.demuxer, run, recv_ns)
        if run.events & RV_EVENT_NO_MEMORY:
            self.broken = MemoryError("no memory for the parameter sets of a track")
            raise self.broken
        if status == RV_DEMUX_DONE:
            self.keep(run.at, run.end - run.at, False)
            return run.events
        if status == RV_DEMUX_NO_MEMORY:
            self.broken = MemoryError("no memory for an unfinished frame")
        elif status == RV_DEMUX_TOO_LONG:
            self.broken = LimitExceeded(
                "RTSP_MESSAGE_BYTES_MAX", run.text_bytes, RTSP_MESSAGE_BYTES_MAX
            )
        else:
            offset = self.demuxer.bytes_received - <uint64_t>(run.end - run.at)
            self.broken = FrameError(offset, RULES[-1 - status])
        raise self.broken

    cdef int keep(self, const uint8_t *at, Py_ssize_t nbytes, bint append) except -1:
        if nbytes == 0 and not append and self.demuxer.carry_capacity == 0:
            return 0
        if rv_demux_keep(&self.demuxer, at, <uint32_t>nbytes, append) < 0:
            self.broken = MemoryError("no memory for an unfinished frame")
            raise self.broken
        return 0

    cdef int take_text_message(self, const uint8_t *text, Py_ssize_t nbytes) except -1:
        if self.texts_bytes + nbytes > <Py_ssize_t>RTSP_PENDING_BYTES_MAX:
            self.broken = LimitExceeded(
                "RTSP_PENDING_BYTES_MAX", self.texts_bytes + nbytes, RTSP_PENDING_BYTES_MAX
            )
            raise self.broken
        self.texts.append(PyBytes_FromStringAndSize(<const char *>text, nbytes))
        self.texts_bytes += nbytes
        return 0

    def take_text(self) -> list[bytes]:
        """Complete RTSP messages, head and body, in the order they came."""
        texts = self.texts
        self.texts = []
        self.texts_bytes = 0
        return texts

    @property
    def bytes_received(self) -> int:
        return self.demuxer.bytes_received

    @property
    def frames(self) -> int:
        """Interleaved frames of any channel."""
        return self.demuxer.frames

    @property
    def unassigned_packets(self) -> int:
        """Frames of channels nobody was bound to."""
        return self.demuxer.unassigned_packets

    @property
    def unassigned_bytes(self) -> int:
        return self.demuxer.unassigned_bytes

    @property
    def carried_bytes(self) -> int:
        """Bytes of an unfinished frame or message kept for the next read."""
        return self.demuxer.carry_bytes

    @property
    def memory_bytes(self) -> int:
        """What this connection holds for unfinished input."""
        return self.demuxer.carry_capacity + self.texts_bytes


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef int settle_drained(Demuxer demuxer, int status, rv_demux_run *run, int64_t recv_ns) noexcept:
    cdef int events = run.events
    try:
        events |= demuxer.settle(status, run, recv_ns)
    except Exception:
        events |= EVENT_BROKEN | (run.events & ~RV_EVENT_NO_MEMORY)
    return events


def drain(demuxers: list[Demuxer], int64_t now_ns, reads_max: int = 4) -> list[tuple[int, int]]:
    """One tick of many connections of one loop: read the attached ones, let time pass for all.

    ``now_ns`` (ns UTC) is the time at the call; each connection gets its own, as time goes on.
    Returns (place in ``demuxers``, EVENT_* bits) of those to which something happened.
    EVENT_BROKEN: the connection broke a rule, and ``consume`` raises which. An end of the stream
    is left to the event loop. Each socket is read at most ``reads_max`` times, so that a burst
    does not keep the others waiting. The GIL is released while all are read.
    """
    cdef Py_ssize_t count = len(demuxers), i
    cdef rv_demuxer **connections
    cdef int *events
    cdef Demuxer demuxer
    cdef ReceiveArea area
    cdef uint8_t *region
    cdef size_t region_bytes
    cdef rv_demux_run run
    cdef int status = 0, reads = reads_max
    cdef int64_t recv_ns = now_ns, since_ns = now_ns - monotonic_ns()
    if count == 0:
        return []
    area = (<Demuxer?>demuxers[0]).area
    if area.busy:
        raise RuntimeError("a ReceiveArea is used by two threads")
    region = area.region
    region_bytes = <size_t>area.region_bytes
    connections = <rv_demuxer **>malloc(<size_t>count * (sizeof(void *) + sizeof(int)))
    if connections is NULL:
        raise MemoryError
    events = <int *>(connections + count)
    try:
        for i in range(count):
            demuxer = <Demuxer?>demuxers[i]
            if demuxer.area is not area:
                raise ValueError("the connections are of two ReceiveAreas")
            connections[i] = NULL if demuxer.broken is not None else &demuxer.demuxer
            events[i] = 0
        i = 0
        while i < count:
            area.busy = True
            with nogil:
                while i < count:
                    if connections[i] is not NULL:
                        recv_ns = since_ns + monotonic_ns()
                        if connections[i].fd >= 0:
                            status = rv_demux_read(
                                connections[i], region, region_bytes, reads, recv_ns, &run
                            )
                            events[i] = run.events
                            if status != RV_DEMUX_DONE or run.events & RV_EVENT_NO_MEMORY:
                                break
                        events[i] |= rv_demux_tick(connections[i], recv_ns)
                    i += 1
            area.busy = False
            if i < count:  # a message to take, or an error: rare
                demuxer = demuxers[i]
                events[i] = settle_drained(demuxer, status, &run, recv_ns)
                if demuxer.broken is None:
                    events[i] |= rv_demux_tick(&demuxer.demuxer, recv_ns)
                i += 1
        found = []
        for i in range(count):
            if events[i] & RV_EVENT_NO_MEMORY:
                (<Demuxer>demuxers[i]).broken = MemoryError("no memory for a track")
                events[i] = (events[i] & ~RV_EVENT_NO_MEMORY) | EVENT_BROKEN
            if events[i]:
                found.append((i, events[i]))
        return found
    finally:
        free(connections)
