"""CRC-32C, the checksum of headers and payloads.

Owns: nothing; a pure function. Never does: detection of tampering, that is what SHA-256 is for.

- ``crc32c(b, crc32c(a)) == crc32c(a + b)``.
- The hardware and the table path give equal results; the choice is made when the module loads.

Polynomial 0x1EDC6F41, RFC 3720 appendix B.4. docs/design/volume-format.md.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer


cdef extern from "crc32c.h":
    int rv_crc32c_hardware() noexcept nogil

cdef enum:
    NOGIL_BYTES_MIN = 8192   # below this, releasing the GIL costs more than the work


def crc32c(data: object, value: int = 0) -> int:
    """CRC-32C of a contiguous buffer, going on from ``value``; GIL released for long ones."""
    cdef Py_buffer buffer
    cdef uint32_t crc = value
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    if buffer.len < NOGIL_BYTES_MIN:
        crc = rv_crc32c(crc, buffer.buf, buffer.len)
    else:
        with nogil:
            crc = rv_crc32c(crc, buffer.buf, buffer.len)
    PyBuffer_Release(&buffer)
    return crc


def crc32c_table(data: object, value: int = 0) -> int:
    """The same by the portable path: what runs where the instruction is missing."""
    cdef Py_buffer buffer
    cdef uint32_t crc = value
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    with nogil:
        crc = rv_crc32c_table(crc, buffer.buf, buffer.len)
    PyBuffer_Release(&buffer)
    return crc


def crc32c_join(crc_a: int, crc_b: int, nbytes: int) -> int:
    """The CRC of ``a + b`` out of the CRCs of both and the length of ``b`` in bytes."""
    return rv_crc32c_join(crc_a, crc_b, nbytes)


def hardware() -> bool:
    """Whether ``crc32c`` uses the processor's instruction."""
    return rv_crc32c_hardware() != 0
