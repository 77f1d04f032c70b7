"""SHA-256 of many messages, two at a time, and the Merkle tree hash of RFC 6962.

Owns: nothing; pure functions. Never does: streaming; a message is one contiguous buffer.

- Every function gives what ``hashlib.sha256`` gives.
- The SHA extensions are used when the processor has them, chosen when the module loads; where
  they are missing the portable code runs, slower, with equal results.

FIPS 180-4; RFC 6962 section 2.1; docs/design/volume-format.md, "fragment_root" and "seal".
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free


cdef extern from "sha256.h":
    int rv_sha256_use_ni
    void rv_sha256_by_portable(const void *data, size_t nbytes, uint8_t *digest) noexcept nogil


cdef class _Batch:
    """Borrowed buffers and room for their digests."""

    cdef Py_buffer *buffers
    cdef rv_sha256_message *messages
    cdef uint8_t *digests
    cdef Py_ssize_t count

    def __cinit__(self, list data not None):
        cdef Py_ssize_t count = len(data)
        self.buffers = <Py_buffer *>calloc(count + 1, sizeof(Py_buffer))
        self.messages = <rv_sha256_message *>calloc(count + 1, sizeof(rv_sha256_message))
        self.digests = <uint8_t *>calloc(count + 1, 32)
        if self.buffers is NULL or self.messages is NULL or self.digests is NULL:
            raise MemoryError
        for item in data:
            PyObject_GetBuffer(item, &self.buffers[self.count], PyBUF_SIMPLE)
            self.messages[self.count].data = <const uint8_t *>self.buffers[self.count].buf
            self.messages[self.count].nbytes = self.buffers[self.count].len
            self.messages[self.count].digest = self.digests + 32 * self.count
            self.count += 1

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            PyBuffer_Release(&self.buffers[i])
        free(self.buffers)
        free(self.messages)
        free(self.digests)

    cdef bytes digest(self, Py_ssize_t i):
        return PyBytes_FromStringAndSize(<char *>self.digests + 32 * i, 32)


def sha256(data: object) -> bytes:
    """The digest, 32 bytes, of a contiguous buffer. The GIL is released."""
    return sha256_many([data])[0]


def sha256_pair(a: object, b: object) -> tuple[bytes, bytes]:
    """The digests of two buffers, computed side by side. The GIL is released."""
    first, second = sha256_many([a, b])
    return first, second


def sha256_many(data: list) -> list[bytes]:
    """The digests of many buffers, two at a time; quickest when the long ones come first."""
    cdef _Batch batch = _Batch(data)
    with nogil:
        rv_sha256_many(batch.messages, batch.count)
    return [batch.digest(i) for i in range(batch.count)]


def sha256_portable(data: object) -> bytes:
    """The same as ``sha256`` by the portable code, whatever the processor has."""
    cdef _Batch batch = _Batch([data])
    with nogil:
        rv_sha256_by_portable(batch.messages.data, batch.messages.nbytes, batch.digests)
    return batch.digest(0)


def merkle_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1 over the leaves' data, 32 bytes. The GIL is released."""
    cdef _Batch batch = _Batch([b"\x00" + leaf for leaf in leaves])
    cdef uint8_t root[32]
    with nogil:
        rv_sha256_many(batch.messages, batch.count)
        rv_merkle_root(batch.digests, batch.count, root)
    return root[:32]


def implementation() -> str:
    """``sha-ni`` or ``portable``: what the other functions use on this processor."""
    return "sha-ni" if rv_sha256_use_ni else "portable"
