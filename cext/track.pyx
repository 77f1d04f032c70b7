"""One camera's video: RTP packets in, closed fragments out.

Owns: sequence and timestamp state, the parameter sets in force, the fragment being filled. Never
does: sockets, clocks, policy; it never decodes, and never changes a byte of a NAL unit.

- A packet makes no Python object and is copied once, from where it was read into the arena.
- Used by one thread, the one that reads the socket; fragments taken from it may go anywhere.
- A packet of another SSRC is never recorded, whatever else happens.
- Every frame that is missing or may be damaged lies in the loss interval of some fragment.

The algorithms are in track.h, access_unit.h, reorder.h and the depacketize headers. Formats:
docs/design/volume-format.md, "Record"; docs/design/time.md; RFC 3550, 6184, 7798.
"""

from collections.abc import Sequence

from libc.stdlib cimport calloc, free
from cpython.bytes cimport PyBytes_FromStringAndSize

from cext.arena cimport Fragment, RV_ARENA_BYTES_MIN, RV_CODEC_H264, RV_CODEC_H265
from cext.arena cimport fragment_wrap, rv_pool
from cext.limits cimport ACCESS_UNIT_BYTES_MAX, REORDER_PACKETS_MAX

from cext.values import SenderReport, TrackCounters


cdef extern from "track.h":
    ctypedef struct rv_parameter_snapshot:
        uint32_t generation
        uint32_t count
        uint32_t sizes[32]
        uint8_t bytes[1]

    ctypedef struct rv_parameter_table:
        uint32_t generation
        rv_parameter_snapshot *snapshot

    ctypedef struct rv_closed:
        rv_fragment *fragment
        rv_parameter_snapshot *parameter_sets

    ctypedef struct rv_unit_counters:
        uint64_t access_units
        uint64_t key_frames
        uint64_t oversize_access_units
        uint64_t exhausted_access_units
        uint64_t incomplete_nals
        uint64_t malformed_parameter_sets
        int64_t last_access_unit_recv_ns
        uint32_t key_interval_frames

    ctypedef struct rv_assembler:
        rv_pool *pool
        int codec
        uint32_t clock_rate
        uint32_t access_unit_bytes_max
        int64_t fragment_age_max_ns
        rv_parameter_table parameters
        uint64_t arena_bytes
        rv_unit_counters counters

    ctypedef struct rv_sequence:
        uint32_t window
        uint64_t reordered_packets
        uint64_t duplicate_packets
        uint64_t late_packets
        uint64_t restarts

    ctypedef struct rv_track_counters:
        uint64_t packets
        uint64_t bytes
        uint64_t lost_packets
        uint64_t wrong_payload_type
        uint64_t wrong_ssrc
        uint64_t ssrc_changes
        uint64_t malformed_packets
        uint64_t timestamp_jumps

    ctypedef struct rv_sender_report:
        int64_t ntp_ns_utc

    ctypedef struct rv_track_fields "rv_track":
        rv_sequence sequence
        rv_assembler assembler
        rv_track_counters counters
        uint8_t payload_type
        uint8_t ssrc_known
        uint8_t report_valid
        uint8_t report_extended
        uint32_t ssrc
        uint32_t foreign_ssrc
        uint32_t foreign_packets
        rv_sender_report report
        int64_t report_rtp
        int64_t report_recv_ns
        uint32_t jitter_x16

    enum:
        RV_PARAMETERS_CHANGED
        RV_PARAMETERS_REFUSED

    int rv_track_receive(rv_track *, const uint8_t *, size_t, int64_t) noexcept nogil
    int rv_track_receive_rtcp(rv_track *, const uint8_t *, size_t, int64_t) noexcept nogil
    int rv_track_tick(rv_track *, int64_t) noexcept nogil
    int rv_track_flush(rv_track *, int) noexcept nogil
    int rv_track_accept_ssrc(rv_track *, int, uint32_t) noexcept nogil
    void rv_track_clear(rv_track *) noexcept nogil
    rv_closed *rv_closed_pop(rv_assembler *) noexcept nogil
    void rv_closed_free(rv_closed *) noexcept nogil
    int rv_parameter_table_compare(
        rv_parameter_table *, int, const uint8_t *, uint32_t, int
    ) noexcept nogil
    int rv_parameter_table_take(
        rv_parameter_table *, int, const uint8_t *, uint32_t, int
    ) noexcept nogil
    int rv_parameter_table_publish(rv_parameter_table *) noexcept nogil


cdef int track_receive(
    rv_track *track, const uint8_t *packet, size_t nbytes, int64_t recv_ns
) noexcept nogil:
    return rv_track_receive(track, packet, nbytes, recv_ns)


cdef int track_receive_rtcp(
    rv_track *track, const uint8_t *packet, size_t nbytes, int64_t recv_ns
) noexcept nogil:
    return rv_track_receive_rtcp(track, packet, nbytes, recv_ns)


cdef int track_tick(rv_track *track, int64_t now_ns) noexcept nogil:
    return rv_track_tick(track, now_ns)


cdef inline rv_track_fields *fields(VideoTrack track) noexcept:
    return <rv_track_fields *>track.track


cdef class VideoTrack:
    """Depacketizes one RTP stream of H.264 (RFC 6184) or H.265 (RFC 7798) into fragments.

    ``codec`` is RV_CODEC_H264 (1) or RV_CODEC_H265 (2), ``clock_rate`` in Hz (90000).
    ``ssrc``: believe only these packets; None: those of the first packet of the payload type.
    ``parameter_sets``: NAL units of the SDP, without start codes; unusable ones are counted, and
    what the stream brings outranks them.
    ``reorder_packets``: how many packets may wait for a missing one (0 over TCP, where a gap
    never closes).

    A fragment closes in front of an access unit when it has 128, its arena is full, it is
    ``fragment_age_max_ns`` old (three quarters of it: in front of a key frame), the parameter sets change,
    or the timestamps jump by more than ten seconds.

    Raises ``ValueError`` for an argument out of range.
    """

    def __cinit__(
        self, codec: int, payload_type: int, clock_rate: int, ArenaPool pool not None, *,
        fragment_age_max_ns: int, ssrc: int | None = None,
        parameter_sets: Sequence[bytes] = (),
        access_unit_bytes_max: int = ACCESS_UNIT_BYTES_MAX,
        reorder_packets: int = REORDER_PACKETS_MAX,
    ) -> None:
        cdef rv_track_fields *t
        if codec != RV_CODEC_H264 and codec != RV_CODEC_H265:
            raise ValueError(f"codec is {codec}: 1 is H.264, 2 is H.265")
        check("payload_type", payload_type, 0, 127)
        check("clock_rate", clock_rate, 1, 1_000_000_000)
        check("fragment_age_max_ns", fragment_age_max_ns, 1, 3600 * 10**9)
        check("access_unit_bytes_max", access_unit_bytes_max, 1, ACCESS_UNIT_BYTES_MAX)
        check("reorder_packets", reorder_packets, 0, REORDER_PACKETS_MAX)
        if ssrc is not None:
            check("ssrc", ssrc, 0, 2**32 - 1)
        self.track = <rv_track *>calloc(1, sizeof(rv_track))
        if self.track is NULL:
            raise MemoryError
        t = fields(self)
        self._pool = pool
        t.payload_type = payload_type
        t.ssrc_known = ssrc is not None
        t.ssrc = ssrc or 0
        t.sequence.window = reorder_packets
        t.assembler.pool = pool.pool
        t.assembler.codec = codec
        t.assembler.clock_rate = clock_rate
        t.assembler.access_unit_bytes_max = access_unit_bytes_max
        t.assembler.fragment_age_max_ns = fragment_age_max_ns
        t.assembler.arena_bytes = RV_ARENA_BYTES_MIN
        take_from_sdp(t, parameter_sets)
        self._parameter_sets = self.parameter_sets_of(t.assembler.parameters.snapshot)

    def __dealloc__(self) -> None:
        if self.track is not NULL:
            rv_track_clear(self.track)
            free(self.track)

    cdef int checked(self, int events) except -1:
        if events & RV_EVENT_NO_MEMORY:
            raise MemoryError("no memory for the parameter sets of a track")
        return events

    cdef tuple parameter_sets_of(self, const void *snapshot):
        cdef rv_parameter_snapshot *s = <rv_parameter_snapshot *>snapshot
        cdef uint8_t *at = s.bytes
        cdef uint32_t i
        if self._parameter_sets is not None and self._generation == s.generation:
            return self._parameter_sets
        sets = []
        for i in range(s.count):
            sets.append(PyBytes_FromStringAndSize(<char *>at, s.sizes[i]))
            at += s.sizes[i]
        self._parameter_sets = tuple(sets)
        self._generation = s.generation
        return self._parameter_sets

    def receive(self, const uint8_t[::1] packet not None, int64_t recv_ns) -> int:
        """Take one RTP packet that arrived at ``recv_ns`` (ns UTC); returns EVENT_* bits.

        A bad packet is counted, never raised. RTCP that comes here is recognised (RFC 5761, 4).
        """
        return self.checked(
            rv_track_receive(self.track, start_of(packet), <size_t>packet.shape[0], recv_ns)
        )

    def receive_rtcp(self, const uint8_t[::1] packet not None, int64_t recv_ns) -> int:
        """Take one compound RTCP packet: EVENT_SENDER_REPORT, EVENT_BYE or 0."""
        return self.checked(
            rv_track_receive_rtcp(self.track, start_of(packet), <size_t>packet.shape[0], recv_ns)
        )

    def tick(self, int64_t now_ns) -> int:
        """Let time pass: a gap is given up after 200 ms, an old fragment closes."""
        return self.checked(rv_track_tick(self.track, now_ns))

    def flush(self, end_of_stream: bool) -> int:
        """Close what is complete; at the end of the stream the access unit in progress too."""
        return self.checked(rv_track_flush(self.track, bool(end_of_stream)))

    def accept_ssrc(self, ssrc: int | None) -> int:
        """Believe another SSRC (None: the next to come), after EVENT_SSRC_CHANGED.

        What was in progress is closed; sequence and timestamps begin anew.
        """
        if ssrc is not None:
            check("ssrc", ssrc, 0, 2**32 - 1)
        return self.checked(rv_track_accept_ssrc(self.track, ssrc is not None, ssrc or 0))

    def take_fragments(self) -> list[Fragment]:
        """The fragments closed since the last call, in order; the caller releases them."""
        cdef rv_track_fields *t = fields(self)
        cdef rv_closed *node
        cdef rv_fragment *fragment
        taken = []
        node = rv_closed_pop(&t.assembler)
        while node is not NULL:
            try:
                sets = self.parameter_sets_of(node.parameter_sets)
                fragment = node.fragment
                node.fragment = NULL
                taken.append(fragment_wrap(fragment, sets))
            finally:
                rv_closed_free(node)
            node = rv_closed_pop(&t.assembler)
        return taken

    def sender_report(self) -> SenderReport | None:
        """The last sender report of this SSRC; None before it, and after a timestamp jump."""
        cdef rv_track_fields *t = fields(self)
        if not t.report_valid or not t.report_extended:
            return None
        return SenderReport(t.report.ntp_ns_utc, t.report_rtp, t.report_recv_ns)

    @property
    def access_units(self) -> int:
        """How many were completed so far: what a watch looks at, without a TrackCounters."""
        return fields(self).assembler.counters.access_units

    def counters(self) -> TrackCounters:
        """Everything counted so far, as one value."""
        cdef rv_track_fields *t = fields(self)
        cdef rv_unit_counters *unit = &t.assembler.counters
        return TrackCounters(
            packets=t.counters.packets,
            bytes=t.counters.bytes,
            access_units=unit.access_units,
            key_frames=unit.key_frames,
            lost_packets=t.counters.lost_packets,
            reordered_packets=t.sequence.reordered_packets,
            duplicate_packets=t.sequence.duplicate_packets,
            late_packets=t.sequence.late_packets,
            sequence_restarts=t.sequence.restarts,
            wrong_payload_type=t.counters.wrong_payload_type,
            wrong_ssrc=t.counters.wrong_ssrc,
            ssrc_changes=t.counters.ssrc_changes,
            malformed_packets=t.counters.malformed_packets,
            malformed_parameter_sets=unit.malformed_parameter_sets,
            oversize_access_units=unit.oversize_access_units,
            exhausted_access_units=unit.exhausted_access_units,
            incomplete_nals=unit.incomplete_nals,
            timestamp_jumps=t.counters.timestamp_jumps,
            last_access_unit_recv_ns=unit.last_access_unit_recv_ns,
            key_interval_frames=unit.key_interval_frames,
            jitter_ticks=t.jitter_x16 >> 4,
        )

    @property
    def codec(self) -> int:
        return fields(self).assembler.codec

    @property
    def payload_type(self) -> int:
        return fields(self).payload_type

    @property
    def clock_rate(self) -> int:
        return fields(self).assembler.clock_rate

    @property
    def ssrc(self) -> int | None:
        """The SSRC believed; None: none yet."""
        return fields(self).ssrc if fields(self).ssrc_known else None

    @property
    def foreign_ssrc(self) -> int | None:
        """The SSRC of the last packet that was not believed; None: there was none."""
        return fields(self).foreign_ssrc if fields(self).counters.wrong_ssrc else None

    @property
    def parameter_sets(self) -> tuple[bytes, ...]:
        """The NAL units in force now: VPS, SPS, PPS; of each kind those of the stream first."""
        return self.parameter_sets_of(fields(self).assembler.parameters.snapshot)

    @property
    def config_generation(self) -> int:
        """0 for those of the SDP, then one more with every change."""
        return fields(self).assembler.parameters.generation


cdef inline const uint8_t *start_of(const uint8_t[::1] data) noexcept:
    if data.shape[0] == 0:
        return NULL  # never read: every parser looks at the length first
    return &data[0]


cdef int check(str name, value, minimum, maximum) except -1:
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} is {value}, not {minimum} to {maximum}")
    return 0


cdef int take_from_sdp(rv_track_fields *t, parameter_sets) except -1:
    cdef rv_parameter_table *table = &t.assembler.parameters
    cdef const uint8_t[::1] nal
    cdef uint32_t nbytes
    cdef int verdict
    for parameter_set in parameter_sets:
        nal = parameter_set
        nbytes = <uint32_t>min(nal.shape[0], 2**31)
        verdict = rv_parameter_table_compare(
            table, t.assembler.codec, start_of(nal), nbytes, 0
        )
        if verdict == RV_PARAMETERS_REFUSED:
            t.assembler.counters.malformed_parameter_sets += 1
        elif verdict == RV_PARAMETERS_CHANGED:
            if rv_parameter_table_take(table, t.assembler.codec, start_of(nal), nbytes, 0) < 0:
                raise MemoryError
    table.generation = 0
    if rv_parameter_table_publish(table) < 0:
        raise MemoryError
    return 0
