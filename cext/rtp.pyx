"""RTP headers, RTCP sender reports and the reorder window, for Python.

The recording path runs the same C (rtp.h, reorder.h) inside ``cext.track`` and makes none of these
objects. Owns nothing but a ``Sequencer``'s window; never interprets a payload.

RFC 3550, 5.1, 6.4.1, A.1.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize

from cext.limits cimport REORDER_PACKETS_MAX

from cext.errors import FrameError
from cext.values import Delivery, RtpPacket


cdef extern from "reorder.h":
    enum:
        RV_RTP_OK
        RV_RTCP_SENDER_REPORT
        RV_DELIVER
        RV_FULL
        RV_RESTART

    ctypedef struct rv_sender_report:
        uint32_t ssrc
        uint32_t rtp
        int64_t ntp_ns_utc

    int rv_rtp_parse(const uint8_t *, size_t, rv_rtp_packet *) noexcept nogil
    int rv_rtcp_parse(const uint8_t *, size_t, int, uint32_t, rv_sender_report *) noexcept nogil
    int rv_sequence_offer(rv_sequence *, const rv_rtp_packet *, int64_t, uint32_t *) noexcept nogil
    const rv_held_packet *rv_sequence_pop(rv_sequence *, int, uint32_t *, int *) noexcept nogil
    void rv_sequence_restart(rv_sequence *) noexcept nogil
    void rv_sequence_clear(rv_sequence *) noexcept nogil


# By the number of the error in rtp.h: the rule, and where in the packet it is broken.
cdef tuple RULES = (
    ("an RTP packet has at least 12 bytes", 0),
    ("the RTP version is 2", 0),
    ("the CSRC list lies inside the packet", 12),
    ("the header extension lies inside the packet", 12),
    ("padding is at least 1 byte and at most the payload", 12),
)


cdef inline const uint8_t *start_of(const uint8_t[::1] data) noexcept:
    if data.shape[0] == 0:
        return NULL  # never read: the parsers look at the length first
    return &data[0]


def parse_packet(const uint8_t[::1] packet not None) -> RtpPacket:
    """The header's fields and the payload. Raises ``FrameError`` for what is no RTP packet."""
    cdef rv_rtp_packet p
    cdef int status = rv_rtp_parse(start_of(packet), <size_t>packet.shape[0], &p)
    if status != RV_RTP_OK:
        rule, offset = RULES[-1 - status]
        raise FrameError(offset, rule)
    return RtpPacket(
        p.payload_type, bool(p.marker), p.sequence, p.timestamp, p.ssrc,
        PyBytes_FromStringAndSize(<const char *>p.payload, p.payload_bytes),
    )


def parse_sender_report(const uint8_t[::1] packet not None) -> tuple[int, int, int] | None:
    """(ssrc, RTP timestamp, ns UTC) of the last sender report in a compound RTCP packet.

    None when it holds none with a wall clock. Raises ``FrameError`` when it is no RTCP.
    """
    cdef rv_sender_report report
    cdef int found = rv_rtcp_parse(start_of(packet), <size_t>packet.shape[0], 1, 0, &report)
    if found < 0:
        raise FrameError(0, "an RTCP packet has version 2 and lies inside its datagram")
    if not found & RV_RTCP_SENDER_REPORT:
        return None
    return report.ssrc, report.rtp, report.ntp_ns_utc


cdef class Sequencer:
    """Puts sequence numbers in order; ``window`` (0 to 32) of them may wait for a missing one.

    Raises ``ValueError`` for another window.
    """

    def __cinit__(self, window: int) -> None:
        if not 0 <= window <= REORDER_PACKETS_MAX:
            raise ValueError(f"window is {window}, not 0 to {REORDER_PACKETS_MAX}")
        self.sequence.window = window

    def __dealloc__(self) -> None:
        rv_sequence_clear(&self.sequence)

    def offer(self, uint16_t sequence) -> list[Delivery]:
        """What may be delivered now that this packet came."""
        cdef rv_rtp_packet packet
        cdef uint32_t lost
        cdef int verdict
        cdef list delivered = []
        packet.payload = NULL
        packet.payload_bytes = 0
        packet.sequence = sequence
        while True:
            verdict = rv_sequence_offer(&self.sequence, &packet, 0, &lost)
            if verdict == RV_DELIVER:
                delivered.append(Delivery(sequence, lost, False))
                return self.drained(False, delivered)
            if verdict == RV_FULL:
                self.without_first_gap(delivered)
            elif verdict == RV_RESTART:
                self.drained(True, delivered)
                rv_sequence_restart(&self.sequence)
                self.drained(False, delivered)
            else:
                return delivered

    def give_up(self) -> list[Delivery]:
        """The first gap is lost: what may be delivered then."""
        return self.without_first_gap([])

    cdef list without_first_gap(self, list delivered):
        cdef uint32_t lost
        cdef int restarted
        cdef const rv_held_packet *held = rv_sequence_pop(&self.sequence, 1, &lost, &restarted)
        if held is not NULL:
            delivered.append(Delivery(held.packet.sequence, lost, bool(restarted)))
        return self.drained(False, delivered)

    cdef list drained(self, bint force, list delivered):
        cdef uint32_t lost
        cdef int restarted
        cdef const rv_held_packet *held = rv_sequence_pop(&self.sequence, force, &lost, &restarted)
        while held is not NULL:
            delivered.append(Delivery(held.packet.sequence, lost, bool(restarted)))
            held = rv_sequence_pop(&self.sequence, force, &lost, &restarted)
        return delivered

    @property
    def held(self) -> int:
        return self.sequence.held_count

    @property
    def reordered_packets(self) -> int:
        return self.sequence.reordered_packets

    @property
    def duplicate_packets(self) -> int:
        return self.sequence.duplicate_packets

    @property
    def late_packets(self) -> int:
        return self.sequence.late_packets

    @property
    def restarts(self) -> int:
        return self.sequence.restarts
