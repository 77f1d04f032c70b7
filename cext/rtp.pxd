"""C face of ``cext.rtp``: headers and sequence numbers; the functions are inline, in C."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "reorder.h":
    ctypedef struct rv_rtp_packet:
        const uint8_t *payload
        uint32_t payload_bytes
        uint32_t timestamp
        uint32_t ssrc
        uint16_t sequence
        uint8_t payload_type
        uint8_t marker

    ctypedef struct rv_held_packet:
        rv_rtp_packet packet

    ctypedef struct rv_sequence:
        uint32_t window
        uint32_t held_count
        uint64_t reordered_packets
        uint64_t duplicate_packets
        uint64_t late_packets
        uint64_t restarts


cdef class Sequencer:
    cdef rv_sequence sequence

    cdef list drained(self, bint force, list delivered)
    cdef list without_first_gap(self, list delivered)
