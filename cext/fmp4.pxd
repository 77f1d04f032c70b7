from libc.stdint cimport uint8_t, uint32_t

from cext.arena cimport rv_frame_entry, rv_record_header


cdef extern from "fmp4.h":
    enum:
        RV_MDAT_HEADER_BYTES

    uint32_t rv_moof_bytes(uint32_t frame_count) noexcept nogil
    # moof and mdat header: rv_moof_bytes(count) + RV_MDAT_HEADER_BYTES bytes at `at`.
    void rv_build_moof(
        const rv_record_header *header, const rv_frame_entry *frames, uint32_t count, uint8_t *at
    ) noexcept nogil
