"""Seal fragments, finish their records, write them to a slot.

Owns: the last step before the disk, and the few aligned transfers storage needs beside it. Never
does: choosing the place, deciding what is durable (no call here flushes but ``datasync``), or
retrying after an error.

- A record is read back out of memory and checked before any byte of its batch is written; a
  mismatch is our own mistake: ``RuntimeError``, nothing written.
- Memory, offset and length of every transfer are multiples of 4096: ready for O_DIRECT.
- A fragment keeps its arena while a call works on it, whoever releases it meanwhile.
- After ``WriteError`` the bytes from its offset on are unknown; the records may be written again,
  anywhere.

docs/design/volume-format.md, "Record" and "Commit".
"""

import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release
from cpython.buffer cimport PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from cext.arena cimport (
    RV_BLOCK, RV_RECORD_FIXED_BYTES, Fragment, rv_fragment, rv_record_header, rv_round_to_block,
)
from cext.record cimport rv_violation

from cext.errors import LimitExceeded, WriteError


cdef extern from "segment_write.h":
    ctypedef struct rv_place:
        uint8_t volume_uuid[16]
        uint32_t slot
        uint32_t generation
        uint32_t offset_blocks
        uint32_t slot_sequence

    ctypedef struct rv_write_item:
        rv_fragment *fragment
        uint8_t *start
        uint32_t record_bytes
        uint32_t offset_blocks
        uint32_t header_crc32c
        uint32_t payload_crc32c
        uint8_t fragment_root[32]

    void rv_seal(rv_fragment **fragments, size_t count) noexcept nogil
    void rv_build_gap(
        uint8_t *block, rv_record_header *h, const uint8_t *detail, uint32_t detail_bytes
    ) noexcept
    int rv_finish_records(
        rv_write_item *items, size_t count, const rv_place *place, size_t *failed,
        rv_violation *violation,
    ) noexcept nogil
    int rv_write_items(
        int fd, const rv_write_item *items, size_t count, int64_t *offset
    ) noexcept nogil
    int rv_write_run(int fd, void *data, size_t nbytes, int64_t *offset) noexcept nogil
    Py_ssize_t rv_read_run(int fd, uint8_t *data, size_t nbytes, int64_t offset) noexcept nogil
    int rv_datasync(int fd) noexcept nogil

cdef extern from "stdlib.h":
    int posix_memalign(void **memory, size_t alignment, size_t nbytes) noexcept nogil

cdef enum:
    BOUNCE_BYTES_MAX = 1 << 20

GAP_DETAIL_BYTES_MAX = RV_BLOCK - RV_RECORD_FIXED_BYTES


cdef uint8_t *aligned_zeros(size_t nbytes) except NULL:
    cdef void *memory = NULL
    if posix_memalign(&memory, RV_BLOCK, nbytes) != 0:
        raise MemoryError
    memset(memory, 0, nbytes)
    return <uint8_t *>memory


cdef int need_aligned(str name, int64_t value) except -1:
    if value < 0 or value % RV_BLOCK != 0:
        raise ValueError(f"{name} {value} is not a multiple of {RV_BLOCK}")
    return 0


cdef object write_error(int error, int64_t offset):
    return WriteError(error, os.strerror(error), offset)


@cython.final
cdef class AlignedBuffer:
    """``nbytes`` of zeroed memory on a page boundary, writable through the buffer protocol.

    The memory behind it is whole blocks; a view shows ``nbytes``.
    """

    cdef uint8_t *memory
    cdef readonly Py_ssize_t nbytes

    def __cinit__(self, nbytes: int) -> None:
        if not 0 < nbytes <= (1 << 31):
            raise ValueError(f"an aligned buffer of {nbytes} bytes")
        self.nbytes = nbytes
        self.memory = aligned_zeros((nbytes + RV_BLOCK - 1) // RV_BLOCK * RV_BLOCK)

    def __dealloc__(self) -> None:
        free(self.memory)

    def __len__(self) -> int:
        return self.nbytes

    def __getbuffer__(self, Py_buffer *buffer, int flags) -> None:
        PyBuffer_FillInfo(buffer, self, self.memory, self.nbytes, False, flags)

    def __buffer__(self, flags: int, /) -> memoryview:
        """PEP 688, so that type checkers see a buffer below Python 3.12 too."""
        return memoryview(self)


@cython.final
cdef class GapRecord:
    """A record that says footage is missing: one block, with the cause and a detail text.

    Times are ns UTC, ``[start_ns, end_ns)``; ``cause`` as the format page lists; ``packets`` 0 =
    unknown. The UTF-8 detail is cut to 3840 bytes at a character. Raises ``ValueError``.
    """

    cdef uint8_t *block
    cdef rv_record_header h
    cdef readonly str detail

    def __cinit__(
        self, camera_uid: bytes, stream_sequence: int, start_ns: int, end_ns: int, cause: int,
        packets: int, detail: str, flags: int = 0,
    ) -> None:
        if PyBytes_GET_SIZE(camera_uid) != 16:
            raise ValueError(f"camera_uid has {len(camera_uid)} bytes, not 16")
        if end_ns < start_ns:
            raise ValueError(f"the gap ends at {end_ns}, before its start {start_ns}")
        if not 0 < cause < 256:
            raise ValueError(f"gap cause {cause}")
        cdef bytes text = detail.encode("utf-8")
        if len(text) > GAP_DETAIL_BYTES_MAX:
            text = text[:GAP_DETAIL_BYTES_MAX].decode("utf-8", "ignore").encode("utf-8")
        memset(&self.h, 0, sizeof(self.h))
        memcpy(self.h.camera_uid, PyBytes_AS_STRING(camera_uid), 16)
        self.h.stream_sequence = stream_sequence
        self.h.start_ns = start_ns
        self.h.end_ns = end_ns
        self.h.codec = cause
        self.h.run_id = packets
        self.h.flags = flags
        self.detail = text.decode("utf-8")
        self.block = aligned_zeros(RV_BLOCK)
        rv_build_gap(
            self.block, &self.h, <const uint8_t *>PyBytes_AS_STRING(text), <uint32_t>len(text)
        )

    def __dealloc__(self) -> None:
        free(self.block)

    def __repr__(self) -> str:
        return (
            f"<GapRecord {self.camera_uid.hex()} #{self.h.stream_sequence} cause {self.h.codec} "
            f"[{self.h.start_ns}, {self.h.end_ns}) ns>"
        )

    @property
    def camera_uid(self) -> bytes:
        return self.h.camera_uid[:16]

    @property
    def stream_sequence(self) -> int:
        return self.h.stream_sequence

    @property
    def start_ns(self) -> int:
        return self.h.start_ns

    @property
    def end_ns(self) -> int:
        return self.h.end_ns

    @property
    def cause(self) -> int:
        return self.h.codec

    @property
    def packets(self) -> int:
        return self.h.run_id

    @property
    def flags(self) -> int:
        """RV_RECORD_*."""
        return self.h.flags

    @property
    def record_bytes(self) -> int:
        return self.h.record_bytes

    @property
    def fragment_root(self) -> bytes:
        return self.h.fragment_root[:32]


@cython.final
cdef class RecordPlace:
    """Where a record was written, and the checksums a footer keeps of it."""

    cdef readonly uint32_t offset_blocks
    cdef readonly uint32_t record_bytes
    cdef readonly uint32_t header_crc32c
    cdef readonly uint32_t payload_crc32c
    cdef readonly bytes fragment_root

    def __cinit__(
        self, offset_blocks: int, record_bytes: int, header_crc32c: int, payload_crc32c: int,
        fragment_root: bytes,
    ) -> None:
        self.offset_blocks = offset_blocks
        self.record_bytes = record_bytes
        self.header_crc32c = header_crc32c
        self.payload_crc32c = payload_crc32c
        self.fragment_root = fragment_root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordPlace) and fields(self) == fields(other)

    def __hash__(self) -> int:
        return hash(fields(self))

    def __repr__(self) -> str:
        return (
            f"RecordPlace(offset_blocks={self.offset_blocks}, record_bytes={self.record_bytes}, "
            f"header_crc32c={self.header_crc32c:#010x}, "
            f"payload_crc32c={self.payload_crc32c:#010x}, "
            f"fragment_root={self.fragment_root.hex()})"
        )


cdef tuple fields(RecordPlace place):
    return (
        place.offset_blocks, place.record_bytes, place.header_crc32c, place.payload_crc32c,
        place.fragment_root,
    )


cdef class _Sealing:
    """Fragments that are held while the GIL is away."""

    cdef list held
    cdef rv_fragment **fragments
    cdef size_t count

    def __cinit__(self, list fragments not None):
        cdef Fragment fragment
        self.held = []
        self.fragments = <rv_fragment **>calloc(len(fragments) + 1, sizeof(rv_fragment *))
        if self.fragments is NULL:
            raise MemoryError
        for fragment in fragments:
            if fragment is None or fragment.released:
                raise ValueError(f"{fragment!r} cannot be sealed")
            if not fragment.f.described:
                raise ValueError(f"{fragment!r} needs describe() first")
            if fragment.f.sealed:
                continue
            fragment.hold()
            self.held.append(fragment)
            self.fragments[self.count] = fragment.f
            self.count += 1

    def __dealloc__(self):
        cdef Fragment fragment
        for fragment in self.held or ():
            fragment.unhold()
        free(self.fragments)


def seal(fragments: list) -> None:
    """SHA-256 of each access unit, two at a time, then fragment root and payload CRC.

    Fragments need ``describe()`` first; those already sealed are left alone. The GIL is released.
    Raises ``ValueError`` and seals none when one is released or not described.
    """
    cdef _Sealing work = _Sealing(fragments)
    with nogil:
        rv_seal(work.fragments, work.count)


cdef class _Batch:
    """Records on their way to the disk; fragments are held until it goes."""

    cdef list held
    cdef rv_write_item *items
    cdef size_t count
    cdef uint64_t blocks

    def __cinit__(self, list records not None):
        self.held = []
        self.items = <rv_write_item *>calloc(len(records) + 1, sizeof(rv_write_item))
        if self.items is NULL:
            raise MemoryError
        if len(set(records)) != len(records):
            raise ValueError("a record can be written once in a batch")
        for record in records:
            if isinstance(record, Fragment):
                self.add_fragment(record)
            elif isinstance(record, GapRecord):
                self.add_gap(record)
            else:
                raise TypeError(f"{record!r} is neither Fragment nor GapRecord")
            self.blocks += self.items[self.count].record_bytes // RV_BLOCK
            self.count += 1

    cdef int add_fragment(self, Fragment fragment) except -1:
        if fragment.released or not fragment.f.sealed:
            raise ValueError(f"{fragment!r} cannot be written: it must be sealed and not released")
        fragment.hold()
        self.held.append(fragment)
        self.items[self.count].fragment = fragment.f
        self.items[self.count].record_bytes = fragment.f.header.record_bytes
        return 0

    cdef int add_gap(self, GapRecord gap) except -1:
        self.held.append(gap)
        self.items[self.count].start = gap.block
        self.items[self.count].record_bytes = gap.h.record_bytes
        return 0

    def __dealloc__(self):
        for record in self.held or ():
            if isinstance(record, Fragment):
                (<Fragment>record).unhold()
        free(self.items)

    cdef list places(self):
        cdef rv_write_item *item
        cdef size_t i
        result = []
        for i in range(self.count):
            item = &self.items[i]
            result.append(RecordPlace(
                item.offset_blocks, item.record_bytes, item.header_crc32c, item.payload_crc32c,
                item.fragment_root[:32],
            ))
        return result


def write_records(
    fd: int, slot_offset_bytes: int, first_block: int, first_sequence: int, volume_uuid: bytes,
    slot: int, generation: int, records: list,
) -> list[RecordPlace]:
    """Write sealed fragments and gaps one behind the other, from block ``first_block`` of a slot.

    ``slot_offset_bytes`` is where the slot begins in the file; ``first_sequence`` the
    slot_sequence of the first record. Headers are finished and checked, then written in as few
    ``pwritev`` as IOV_MAX and 64 MiB allow. Nothing is flushed. The GIL is released.

    Raises ``WriteError`` when the kernel refuses; ``RuntimeError`` when a finished record does not
    verify (nothing is written); ``ValueError`` for a fragment that is not sealed or was released,
    an offset inside a block, a uuid of other than 16 bytes, or a place past 2**32 blocks.
    """
    cdef _Batch batch = _Batch(records)
    cdef rv_place place
    cdef rv_violation violation
    cdef size_t failed = 0
    cdef int error = 0, rejected, descriptor = fd
    cdef int64_t offset
    need_aligned("slot_offset_bytes", slot_offset_bytes)
    if PyBytes_GET_SIZE(volume_uuid) != 16:
        raise ValueError(f"volume_uuid has {len(volume_uuid)} bytes, not 16")
    if first_block + batch.blocks > 0xFFFFFFFF or first_sequence + batch.count > 0xFFFFFFFF:
        raise ValueError(f"records from block {first_block} pass what a header can say")
    memcpy(place.volume_uuid, PyBytes_AS_STRING(volume_uuid), 16)
    place.slot = slot
    place.generation = generation
    place.offset_blocks = first_block
    place.slot_sequence = first_sequence
    offset = slot_offset_bytes + first_block * RV_BLOCK
    with nogil:
        rejected = rv_finish_records(batch.items, batch.count, &place, &failed, &violation)
        if not rejected:
            error = rv_write_items(descriptor, batch.items, batch.count, &offset)
    if rejected:
        raise RuntimeError(
            f"record {failed} of {batch.count}, {batch.held[failed]!r}, does not verify before it "
            f"is written: {violation.rule.decode('ascii')} (at byte {violation.offset})"
        )
    if error:
        raise write_error(error, offset)
    return batch.places()


def write_aligned(fd: int, offset_bytes: int, data: object) -> None:
    """Write any bytes through an aligned buffer, zero-padded to a block. The GIL is released.

    Raises ``WriteError``, or ``ValueError`` for an offset inside a block.
    """
    cdef Py_buffer source
    cdef AlignedBuffer bounce
    cdef int64_t offset = offset_bytes
    cdef size_t done = 0, part, padded, total
    cdef int error = 0, descriptor = fd
    need_aligned("offset_bytes", offset)
    PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
    try:
        total = source.len
        if total == 0:
            return
        bounce = AlignedBuffer(min(rv_round_up(total), <size_t>BOUNCE_BYTES_MAX))
        with nogil:
            while done < total and error == 0:
                part = min(total - done, <size_t>BOUNCE_BYTES_MAX)
                padded = rv_round_up(part)
                memcpy(bounce.memory, <uint8_t *>source.buf + done, part)
                memset(bounce.memory + part, 0, padded - part)
                error = rv_write_run(descriptor, bounce.memory, padded, &offset)
                done += part
    finally:
        PyBuffer_Release(&source)
    if error:
        raise write_error(error, offset)


cdef inline size_t rv_round_up(size_t nbytes) noexcept nogil:
    return (nbytes + RV_BLOCK - 1) & ~(<size_t>RV_BLOCK - 1)


def read_aligned(fd: int, offset_bytes: int, buffer: object, length: int) -> int:
    """Read ``length`` bytes at ``offset_bytes`` into a writable, page-aligned buffer.

    Returns the bytes read, fewer only at the end of the file. Raises ``OSError`` with the errno of
    ``pread``, ``ValueError`` when offset, length or memory is not block-aligned or ``buffer`` is
    smaller than ``length``. The GIL is released.
    """
    cdef Py_buffer target
    cdef int64_t offset = offset_bytes
    cdef Py_ssize_t nbytes = length, done
    cdef int descriptor = fd, error = 0
    need_aligned("offset_bytes", offset)
    need_aligned("length", nbytes)
    PyObject_GetBuffer(buffer, &target, PyBUF_WRITABLE)
    try:
        if target.len < nbytes:
            raise ValueError(f"the buffer holds {target.len} bytes, {nbytes} were asked for")
        if <uintptr_t>target.buf % RV_BLOCK != 0:
            raise ValueError("the buffer does not begin on a page boundary")
        with nogil:
            done = rv_read_run(descriptor, <uint8_t *>target.buf, nbytes, offset)
            if done < 0:
                error = errno
    finally:
        PyBuffer_Release(&target)
    if error:
        raise OSError(error, os.strerror(error))
    return done


def datasync(fd: int) -> None:
    """``fdatasync``. Raises ``WriteError`` (offset -1); what was written since the last good one
    is then unknown, and calling again proves nothing. The GIL is released."""
    cdef int error, descriptor = fd
    with nogil:
        error = rv_datasync(descriptor)
    if error:
        raise write_error(error, -1)
