"""Records as readers meet them: decode the header, verify payload, hashes and root.

Owns: the rules a record must keep. Never does: input or output, or deciding whether a record is
where it belongs (V4): the caller compares volume, slot, generation, offset and ordinal.

- A ``RecordHeader`` exists only after its CRC and every structural rule held (V5), so offsets and
  sizes in it may be used without further checks.
- Every violation is a ``FrameError`` with the byte offset in the record and the broken rule.

docs/design/volume-format.md, "Record".
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcpy, memcmp

from cext.arena cimport RV_BLOCK, RV_FRAME_ENTRY_BYTES, RV_HEADROOM_BYTES, RV_RECORD_FIXED_BYTES

from cext.errors import FrameError

BLOCK_BYTES = RV_BLOCK
FIXED_BYTES = RV_RECORD_FIXED_BYTES
FRAME_ENTRY_BYTES = RV_FRAME_ENTRY_BYTES
HEADER_BYTES_MAX = RV_HEADROOM_BYTES


@cython.final
cdef class RecordHeader:
    """The fixed part of a verified record header; attributes are the fields of the format page.

    Made by ``parse_header`` and ``verify_record``. Frozen; equal when all 256 bytes are.
    """

    def __cinit__(self) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecordHeader):
            return NotImplemented
        return memcmp(&self.h, &(<RecordHeader>other).h, sizeof(self.h)) == 0

    def __hash__(self) -> int:
        return hash((self.camera_uid, self.h.stream_sequence, self.h.header_crc32c))

    def __repr__(self) -> str:
        kind = "gap" if self.is_gap else "fragment"
        return (
            f"<RecordHeader {kind} {self.camera_uid.hex()} #{self.h.stream_sequence} at slot "
            f"{self.h.slot}.{self.h.generation} block {self.h.offset_blocks}, "
            f"[{self.h.start_ns}, {self.h.end_ns}) ns>"
        )

    @property
    def is_gap(self) -> bool:
        return self.h.kind == 2

    @property
    def kind(self) -> int:
        return self.h.kind

    @property
    def header_bytes(self) -> int:
        return self.h.header_bytes

    @property
    def payload_bytes(self) -> int:
        return self.h.payload_bytes

    @property
    def record_bytes(self) -> int:
        return self.h.record_bytes

    @property
    def volume_uuid(self) -> bytes:
        return self.h.volume_uuid[:16]

    @property
    def slot(self) -> int:
        return self.h.slot

    @property
    def generation(self) -> int:
        return self.h.generation

    @property
    def offset_blocks(self) -> int:
        return self.h.offset_blocks

    @property
    def slot_sequence(self) -> int:
        return self.h.slot_sequence

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
    def recv_first_ns(self) -> int:
        return self.h.recv_first_ns

    @property
    def recv_last_ns(self) -> int:
        return self.h.recv_last_ns

    @property
    def rtp_first(self) -> int:
        return self.h.rtp_first

    @property
    def camera_ns(self) -> int:
        return self.h.camera_ns

    @property
    def camera_offset_ns(self) -> int:
        return self.h.camera_offset_ns

    @property
    def clock_rate(self) -> int:
        return self.h.clock_rate

    @property
    def run_id(self) -> int:
        """Timeline run; of a gap: ``packets``."""
        return self.h.run_id

    @property
    def packets(self) -> int:
        """Of a gap: packets lost, 0 unknown (the same field as ``run_id``)."""
        return self.h.run_id

    @property
    def frame_count(self) -> int:
        return self.h.frame_count

    @property
    def codec(self) -> int:
        """RV_CODEC_*; of a gap: ``cause``."""
        return self.h.codec

    @property
    def cause(self) -> int:
        """Of a gap: its cause code (the same field as ``codec``)."""
        return self.h.codec

    @property
    def width(self) -> int:
        return self.h.width

    @property
    def height(self) -> int:
        return self.h.height

    @property
    def codec_config_offset(self) -> int:
        return self.h.codec_config_offset

    @property
    def codec_config_bytes(self) -> int:
        return self.h.codec_config_bytes

    @property
    def frame_table_offset(self) -> int:
        return self.h.frame_table_offset

    @property
    def moof_offset(self) -> int:
        return self.h.moof_offset

    @property
    def moof_bytes(self) -> int:
        return self.h.moof_bytes

    @property
    def flags(self) -> int:
        return self.h.flags

    @property
    def fragment_root(self) -> bytes:
        return self.h.fragment_root[:32]

    @property
    def payload_crc32c(self) -> int:
        return self.h.payload_crc32c

    @property
    def codec_config_id(self) -> int:
        return self.h.codec_config_id

    @property
    def recv_quantum_ns(self) -> int:
        return self.h.recv_quantum_ns

    @property
    def encryption_key_id(self) -> bytes:
        return self.h.encryption_key_id[:16]

    @property
    def header_crc32c(self) -> int:
        return self.h.header_crc32c


cdef class _View:
    """A borrowed contiguous buffer."""

    cdef Py_buffer buffer
    cdef bint held
    cdef const uint8_t *start
    cdef size_t nbytes

    def __cinit__(self, data):
        PyObject_GetBuffer(data, &self.buffer, PyBUF_SIMPLE)
        self.held = True
        self.start = <const uint8_t *>self.buffer.buf
        self.nbytes = self.buffer.len

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)


cdef object frame_error(const rv_violation *violation):
    return FrameError(violation.offset, violation.rule.decode("ascii"))


cdef RecordHeader parse(_View view):
    cdef RecordHeader header
    cdef rv_violation violation
    if view.nbytes < <size_t>RV_RECORD_FIXED_BYTES:
        raise FrameError(view.nbytes, "the fixed part of the header is cut short")
    if rv_check_header(view.start, view.nbytes, &violation) < 0:
        raise frame_error(&violation)
    header = RecordHeader.__new__(RecordHeader)
    memcpy(&header.h, view.start, sizeof(header.h))
    return header


cdef int need_payload(RecordHeader header, _View payload) except -1:
    if payload.nbytes < header.h.payload_bytes:
        raise FrameError(header.h.header_bytes + payload.nbytes, "the payload is cut short")
    return 0


def region_bytes(buffer: object) -> int:
    """How many bytes ``parse_header`` wants: 4096 to 20480, from the first 256 bytes alone.

    Raises ``FrameError`` when these are not the beginning of a record.
    """
    cdef _View view = _View(buffer)
    cdef rv_record_header h
    cdef rv_violation violation
    if view.nbytes < <size_t>RV_RECORD_FIXED_BYTES:
        raise FrameError(view.nbytes, "the fixed part of the header is cut short")
    memcpy(&h, view.start, sizeof(h))
    if rv_check_frame(&h, &violation) < 0:
        raise frame_error(&violation)
    return h.header_bytes


def parse_header(buffer: object) -> RecordHeader:
    """Decode the header region at the start of ``buffer``, after its CRC and every rule held.

    Nearly all regions are one block. When ``buffer`` holds less than the region, the error is
    ``FrameError`` "the header region is cut short"; ``region_bytes`` says how much is needed.
    """
    return parse(_View(buffer))


def frame_table(buffer: object, header: RecordHeader) -> memoryview:
    """The frame entries, 48 bytes each, as a view into ``buffer`` (no copy; empty for a gap)."""
    cdef Py_ssize_t start = header.h.frame_table_offset
    cdef Py_ssize_t end = start + RV_FRAME_ENTRY_BYTES * header.h.frame_count
    view = memoryview(buffer).cast("B")
    if len(view) < end:
        raise FrameError(len(view), "the frame table is cut short")
    return view[start:end]


def codec_config(buffer: object, header: RecordHeader) -> bytes:
    """The ``avcC`` or ``hvcC`` body; of a gap its UTF-8 detail text."""
    cdef Py_ssize_t start = header.h.codec_config_offset
    cdef Py_ssize_t end = start + header.h.codec_config_bytes
    view = memoryview(buffer).cast("B")
    if len(view) < end:
        raise FrameError(len(view), "the codec configuration is cut short")
    return bytes(view[start:end])


def verify_payload(header: RecordHeader, payload: object) -> None:
    """The payload CRC over the first ``payload_bytes`` of ``payload``. The GIL is released."""
    cdef _View view = _View(payload)
    cdef rv_violation violation
    cdef int failed
    need_payload(header, view)
    with nogil:
        failed = rv_check_payload(&header.h, view.start, &violation)
    if failed:
        raise frame_error(&violation)


def verify_hashes(region: object, payload: object) -> RecordHeader:
    """Header, the SHA-256 of each access unit, and the fragment root. The GIL is released."""
    cdef _View region_view = _View(region)
    cdef _View payload_view = _View(payload)
    cdef RecordHeader header = parse(region_view)
    cdef rv_violation violation
    cdef int failed
    need_payload(header, payload_view)
    with nogil:
        failed = rv_check_hashes(region_view.start, payload_view.start, &violation)
    if failed:
        raise frame_error(&violation)
    return header


def verify_record(buffer: object, *, full: bool) -> RecordHeader:
    """Header alone, or with ``full`` also the payload CRC, every frame hash and the root.

    ``buffer`` begins with the record and, for ``full``, holds header region and payload. Raises
    ``FrameError``. The GIL is released for ``full``.
    """
    cdef _View view = _View(buffer)
    cdef RecordHeader header = parse(view)
    cdef rv_violation violation
    cdef const uint8_t *payload
    cdef int failed
    if not full:
        return header
    if view.nbytes < <size_t>header.h.header_bytes + header.h.payload_bytes:
        raise FrameError(view.nbytes, "the payload is cut short")
    payload = view.start + header.h.header_bytes
    with nogil:
        failed = rv_check_payload(&header.h, payload, &violation)
        if not failed:
            failed = rv_check_hashes(view.start, payload, &violation)
    if failed:
        raise frame_error(&violation)
    return header
