"""C face of ``cext.interleaved``: the receive region and one connection's demultiplexer."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "interleaved.h":
    ctypedef struct rv_demux_run:
        const uint8_t *at
        const uint8_t *end
        const uint8_t *text
        uint64_t text_bytes
        int events

    ctypedef struct rv_demuxer:
        int fd
        uint8_t *carry
        uint32_t carry_bytes
        uint32_t carry_capacity
        uint32_t needed_bytes
        uint32_t head_scanned
        uint64_t bytes_received
        uint64_t frames
        uint64_t unassigned_packets
        uint64_t unassigned_bytes


cdef class ReceiveArea:
    cdef uint8_t *region            # page-aligned, RV_RECEIVE_HEADROOM_BYTES before it are ours
    cdef readonly Py_ssize_t region_bytes
    cdef object view                # the region, always the same object
    cdef bint busy                  # a consume() runs


cdef class Demuxer:
    cdef rv_demuxer demuxer
    cdef readonly ReceiveArea area
    cdef object view
    cdef list tracks                # keeps bound tracks alive
    cdef list texts
    cdef Py_ssize_t texts_bytes
    cdef object broken              # the error that ended this connection

    cdef int take(self, const uint8_t *region, Py_ssize_t nbytes, int64_t recv_ns) except -1
    cdef int run(self, const uint8_t *at, const uint8_t *end, int64_t recv_ns) except -1
    cdef int settle(self, int status, rv_demux_run *run, int64_t recv_ns) except -1
    cdef int keep(self, const uint8_t *at, Py_ssize_t nbytes, bint append) except -1
    cdef int take_text_message(self, const uint8_t *text, Py_ssize_t nbytes) except -1
