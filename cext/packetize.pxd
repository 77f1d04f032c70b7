from cpython.array cimport array
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef struct rv_access_unit_span:
    uint64_t offset         # of the first interleaved frame in the template's bytes
    uint32_t length         # bytes of all its interleaved frames
    uint32_t first_packet   # index into packet_offsets
    uint32_t packet_count


cdef struct rv_packet_template:
    const uint8_t *data                 # every packet of the clip, framed, patch fields zero
    const uint32_t *packet_offsets      # from the start of the packet's access unit
    rv_access_unit_span *spans
    uint32_t frame_count


cdef uint32_t packet_length(
    const rv_packet_template *template, uint32_t frame, uint32_t packet) noexcept nogil
cdef uint32_t stamp(
    const rv_packet_template *template, uint32_t frame, uint8_t *out, uint8_t channel,
    uint16_t sequence, uint32_t timestamp, uint32_t ssrc) noexcept nogil


cdef class PacketTemplate:
    cdef rv_packet_template template
    cdef bytes _data                    # owns template.data
    cdef array _packet_offsets          # owns template.packet_offsets
    cdef readonly int codec
    cdef readonly int payload_type
    cdef readonly uint32_t packet_bytes_max
    cdef readonly uint32_t packet_count
    cdef readonly uint32_t frame_bytes_max
    cdef readonly uint64_t total_bytes

    cdef const rv_access_unit_span *span(self, Py_ssize_t frame) except NULL
