from cext.packetize cimport PacketTemplate, rv_packet_template
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef struct rv_schedule:
    const rv_packet_template *template
    int64_t *decode_ticks           # when each access unit is sent
    int64_t *presentation_ticks     # its RTP timestamp
    int64_t loop_ticks
    uint32_t clock_rate


cdef struct rv_feed:
    const rv_schedule *schedule
    int fd
    int error                       # errno of the send that failed; 0 = none
    int64_t start_ns                # monotonic time of position 0
    uint64_t position               # of the next access unit, rounds included
    uint64_t end_position           # 0 = for ever
    uint64_t frame_end              # bytes handed over once the last access unit is out
    uint64_t packets_sent
    uint64_t packets_dropped
    uint64_t octets_sent            # RTP payload, as sender reports count it
    uint64_t bytes_sent             # taken by the socket, everything included
    uint64_t stall_count            # access units that were due before the one before was out
    int64_t lag_max_ns              # the latest that one began after it was due
    uint8_t *pending                # bytes that the socket did not take yet
    uint64_t pending_start
    uint64_t pending_end
    uint64_t pending_capacity
    uint32_t ssrc
    uint32_t timestamp_base         # of position 0
    uint32_t drop_every
    uint16_t sequence               # of the next packet
    uint8_t channel
    uint8_t holding                 # begin no further access unit
    uint8_t stalled                 # the next access unit was counted as stalled
    uint8_t reported                # NEWS_ bits that run() returned already


cdef class Schedule:
    cdef rv_schedule schedule
    cdef readonly PacketTemplate template


cdef class Feed:
    cdef rv_feed feed
    cdef readonly Schedule schedule
    cdef readonly uint64_t first_position

    cdef int check(self) except -1


cdef class Pacer:
    cdef list _feeds
    cdef rv_feed **_pointers
    cdef size_t _capacity
    cdef uint8_t *_scratch
    cdef uint64_t _scratch_bytes
