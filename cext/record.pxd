from libc.stdint cimport uint8_t, uint32_t

cimport cython
from cext.arena cimport rv_frame_entry, rv_record_header


cdef extern from "record_check.h":
    ctypedef struct rv_violation:
        size_t offset
        const char *rule

    int rv_check_frame(const rv_record_header *h, rv_violation *violation) noexcept nogil
    int rv_check_header(
        const uint8_t *region, size_t available, rv_violation *violation
    ) noexcept nogil
    int rv_check_payload(
        const rv_record_header *h, const uint8_t *payload, rv_violation *violation
    ) noexcept nogil
    int rv_check_hashes(
        const uint8_t *region, const uint8_t *payload, rv_violation *violation
    ) noexcept nogil
    uint32_t rv_header_crc32c(const uint8_t *region, uint32_t header_bytes) noexcept nogil
    void rv_record_root(
        const rv_record_header *h, const rv_frame_entry *frames, const uint8_t *config,
        uint8_t *root,
    ) noexcept nogil


@cython.final
cdef class RecordHeader:
    cdef rv_record_header h
