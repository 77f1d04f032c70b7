"""C face of ``cext.depacketize_h264``: a cursor over one payload; the functions are inline, in C."""

from libc.stdint cimport uint8_t, uint32_t


cdef extern from "depacketize_h264.h":
    ctypedef struct rv_nal_cursor:
        pass

    ctypedef struct rv_nal_piece:
        const uint8_t *data
        uint32_t nbytes
        uint8_t header[2]
        uint8_t header_bytes
        uint8_t type
        uint8_t begins
        uint8_t ends

    rv_nal_cursor rv_h264_open(const uint8_t *payload, uint32_t nbytes) noexcept nogil
    int rv_cursor_next(rv_nal_cursor *cursor, rv_nal_piece *piece) noexcept nogil
