from libc.stdint cimport uint32_t


cdef extern from "crc32c.h":
    # Going on from crc (0 to begin).
    uint32_t rv_crc32c(uint32_t crc, const void *data, size_t nbytes) noexcept nogil
    uint32_t rv_crc32c_table(uint32_t crc, const void *data, size_t nbytes) noexcept nogil
    uint32_t rv_crc32c_join(uint32_t crc_a, uint32_t crc_b, uint32_t nbytes) noexcept nogil
