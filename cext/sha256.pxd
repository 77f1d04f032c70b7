from libc.stdint cimport uint8_t, uint32_t


cdef extern from "sha256.h":
    ctypedef struct rv_sha256_message:
        const uint8_t *data
        size_t nbytes
        uint8_t *digest
        uint32_t crc32c

    void rv_sha256(const void *data, size_t nbytes, uint8_t *digest) noexcept nogil
    void rv_sha256_many(rv_sha256_message *messages, size_t count) noexcept nogil
    void rv_sha256_portable(uint32_t *state, const uint8_t *data, size_t blocks) noexcept nogil
    # Over leaf hashes of 32 bytes each, which are overwritten.
    void rv_merkle_root(uint8_t *hashes, size_t count, uint8_t *root) noexcept nogil
