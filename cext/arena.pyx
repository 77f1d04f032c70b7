"""Arenas and the fragments that live in them.

Owns: the memory between the depacketizers and the segment writer, and the facts that travel with
it. Never does: parsing, hashing, input or output; it knows no camera and no disk.

- A fragment holds its arena until ``release()`` or deallocation; while a view is exported, or a
  native call works on it without the GIL, the arena stays and goes back right after.
- ``ArenaPool`` is safe from any thread: fragments are filled on the event loop and released on
  the writer thread.
- What a fragment says never changes after ``seal()``.

Layout: ``cext/fragment.h``; format: docs/design/volume-format.md, "Record".
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_FillInfo
from libc.string cimport memcpy, memset

from cext.errors import LimitExceeded


cdef extern from "arena.h":
    rv_pool *rv_pool_new(uint64_t bytes_max, uint64_t spare_bytes_max) noexcept nogil
    void rv_pool_close(rv_pool *pool) noexcept nogil
    ctypedef struct rv_pool_use:
        uint64_t bytes_in_use
        uint64_t bytes_spare
        uint64_t exhausted_count
    rv_pool_use rv_pool_read(rv_pool *pool) noexcept nogil


cdef extern from "fmp4.h":
    uint32_t rv_header_region_bytes(uint32_t frame_count, uint32_t codec_config_bytes) noexcept
    uint32_t rv_moof_bytes(uint32_t frame_count) noexcept
    enum:
        RV_MDAT_HEADER_BYTES


@cython.final
cdef class ArenaPool:
    """Hands out page-aligned arenas in power-of-two size classes, 128 KiB to 32 MiB.

    ``bytes_max`` bounds what is in use, ``spare_bytes_max`` what is kept for reuse; beyond it
    arenas go back to the kernel, so resident memory stays flat. Thread-safe.
    """

    def __cinit__(self, bytes_max: int, spare_bytes_max: int = 64 << 20) -> None:
        if bytes_max < <int64_t>RV_ARENA_BYTES_MIN:
            raise ValueError(f"bytes_max is {bytes_max}, an arena takes {RV_ARENA_BYTES_MIN}")
        if spare_bytes_max < 0:
            raise ValueError(f"spare_bytes_max is {spare_bytes_max}")
        self.pool = rv_pool_new(bytes_max, spare_bytes_max)
        if self.pool is NULL:
            raise MemoryError

    def __dealloc__(self) -> None:
        if self.pool is not NULL:
            rv_pool_close(self.pool)

    @property
    def bytes_max(self) -> int:
        return self.pool.bytes_max

    @property
    def spare_bytes_max(self) -> int:
        return self.pool.spare_bytes_max

    @property
    def bytes_in_use(self) -> int:
        """Bytes of the arenas that are out, whole size classes."""
        return rv_pool_read(self.pool).bytes_in_use

    @property
    def bytes_spare(self) -> int:
        """Bytes of the arenas kept for reuse."""
        return rv_pool_read(self.pool).bytes_spare

    @property
    def exhausted_count(self) -> int:
        """How often an arena was refused."""
        return rv_pool_read(self.pool).exhausted_count


@cython.final
cdef class Fragment:
    """Some consecutive access units of one track, in one arena.

    Made by the depacketizers, or by ``from_samples``; a bare ``Fragment()`` is empty and counts
    as released. Life: filled, ``describe()``,
    ``segment_writer.seal()``, ``segment_writer.write_records()``, ``release()``.
    """

    def __cinit__(self) -> None:
        self.f = &nothing
        self.released = True
        self._parameter_sets = ()

    def __dealloc__(self) -> None:
        if self.f is not &nothing:
            rv_fragment_free(self.f)

    cdef void hold(self) noexcept:
        self.holds += 1

    cdef void unhold(self) noexcept:
        self.holds -= 1
        if self.holds == 0 and self.released:
            rv_fragment_release(self.f)

    def release(self) -> None:
        """Give the arena back; the facts stay readable. Exported views keep it until they go."""
        self.released = True
        if self.holds == 0:
            rv_fragment_release(self.f)

    def __getbuffer__(self, Py_buffer *buffer, int flags) -> None:
        if self.released:
            raise BufferError("the fragment was released")
        PyBuffer_FillInfo(
            buffer, self, rv_fragment_payload(self.f), self.f.payload_bytes, True, flags
        )
        self.hold()

    def __releasebuffer__(self, Py_buffer *buffer) -> None:
        self.unhold()

    def __buffer__(self, flags: int, /) -> memoryview:
        """PEP 688, so that type checkers see a buffer below Python 3.12 too."""
        return memoryview(self)

    def payload(self) -> memoryview:
        """The samples in decoding order, each NAL unit behind its u32 big-endian length."""
        need_arena(self)
        return memoryview(self)

    def frames(self) -> list[tuple[int, int, int, int, int]]:
        """(size_bytes, pts_ticks, recv_us, flags, nal_count) of each access unit."""
        cdef rv_frame_entry *entry
        cdef Py_ssize_t i
        result = []
        for i in range(self.f.frame_count):
            entry = &self.f.frames[i]
            result.append(
                (entry.size_bytes, entry.pts_ticks, entry.recv_us, entry.flags, entry.nal_count)
            )
        return result

    def describe(
        self, camera_uid: bytes, stream_sequence: int, start_ns: int, end_ns: int,
        camera_ns: int, camera_offset_ns: int, run_id: int, width: int, height: int, flags: int,
        codec_config: bytes, codec_config_id: int, recv_quantum_ns: int,
    ) -> None:
        """Fix everything the record says but its place and its hashes.

        Times are ns UTC, ``[start_ns, end_ns)``; ``flags`` (RV_RECORD_*) are added to those seen
        while filling. Raises ``ValueError`` for an empty, sealed or released fragment, a uid of
        other than 16 bytes or a range that ends before it starts; ``LimitExceeded`` for a codec
        configuration over 4096 bytes; ``OverflowError`` for a number its field cannot hold.
        """
        cdef rv_fragment *f = self.f
        cdef rv_record_header h
        need_arena(self)
        if f.frame_count == 0:
            raise ValueError("an empty fragment cannot be described")
        if f.sealed:
            raise ValueError("the fragment is sealed")
        if PyBytes_GET_SIZE(camera_uid) != 16:
            raise ValueError(f"camera_uid has {len(camera_uid)} bytes, not 16")
        if end_ns < start_ns:
            raise ValueError(f"the fragment ends at {end_ns}, before its start {start_ns}")
        if PyBytes_GET_SIZE(codec_config) > <Py_ssize_t>RV_CODEC_CONFIG_BYTES_MAX:
            raise LimitExceeded("codec_config_bytes", len(codec_config), RV_CODEC_CONFIG_BYTES_MAX)

        memset(&h, 0, sizeof(h))
        memcpy(h.magic, b"RVFRAG01", 8)
        h.format_version = RV_FORMAT_VERSION
        h.kind = RV_KIND_FRAGMENT
        memcpy(h.camera_uid, PyBytes_AS_STRING(camera_uid), 16)
        h.stream_sequence = stream_sequence
        h.start_ns = start_ns
        h.end_ns = end_ns
        h.recv_first_ns = f.recv_first_ns
        h.recv_last_ns = f.recv_last_ns
        h.rtp_first = f.rtp_first
        h.camera_ns = camera_ns
        h.camera_offset_ns = camera_offset_ns
        h.clock_rate = f.clock_rate
        h.run_id = run_id
        h.frame_count = f.frame_count
        h.codec = f.codec
        h.width = width
        h.height = height
        h.flags = f.flags | <uint32_t>flags
        h.codec_config_id = codec_config_id
        h.recv_quantum_ns = recv_quantum_ns
        h.payload_bytes = f.payload_bytes
        f.codec_config_bytes = <uint32_t>PyBytes_GET_SIZE(codec_config)
        memcpy(f.codec_config, PyBytes_AS_STRING(codec_config), f.codec_config_bytes)
        layout_header(&h, f.codec_config_bytes)
        f.header = h
        f.described = 1

    @classmethod
    def from_samples(
        cls, pool: ArenaPool, codec: int, clock_rate: int,
        samples: list[tuple[bytes, int, int, int]], *,
        parameter_sets: tuple[bytes, ...] = (), next_rtp: int | None = None,
        config_generation: int = 0,
    ) -> Fragment:
        """A fragment of (AVCC sample, extended RTP timestamp, receive time ns, RV_FRAME_* flags).

        Raises ``ValueError`` for no samples, more than 128, or one whose NAL lengths do not add
        up, ``LimitExceeded`` when the pool has no arena for them.
        """
        cdef uint64_t payload_bytes = 0
        cdef Fragment fragment
        cdef rv_fragment *f
        cdef Py_ssize_t nal_count
        if not 0 < len(samples) <= <Py_ssize_t>RV_FRAMES_MAX:
            raise ValueError(f"{len(samples)} samples, a fragment takes 1 to {RV_FRAMES_MAX}")
        for sample in samples:
            payload_bytes += len(sample[0])
        f = rv_fragment_open(pool.pool, payload_bytes)
        if f is NULL:
            raise LimitExceeded("arena_pool_bytes", payload_bytes, pool.bytes_max)
        fragment = fragment_wrap(f, parameter_sets)
        f.codec = codec
        f.clock_rate = clock_rate
        f.config_generation = config_generation
        for data, rtp, recv_ns, flags in samples:
            nal_count = count_nals(data)
            memcpy(
                rv_fragment_payload(f) + f.payload_bytes, PyBytes_AS_STRING(data),
                PyBytes_GET_SIZE(data),
            )
            if rv_fragment_add(f, <uint32_t>len(data), rtp, recv_ns, flags, nal_count) < 0:
                raise ValueError(f"RTP timestamp {rtp} is too far from the first, {f.rtp_first}")
        f.last_delta_ticks = rv_fragment_usual_delta(f)
        if next_rtp is not None:
            f.next_rtp = next_rtp
            f.next_rtp_known = 1
        return fragment

    def __repr__(self) -> str:
        state = "sealed" if self.f.sealed else "described" if self.f.described else "filled"
        if self.released:
            state = "released"
        return (
            f"<Fragment {state}, {self.f.frame_count} frames, {self.f.payload_bytes} bytes, "
            f"rtp {self.f.rtp_first}>"
        )

    @property
    def frame_count(self) -> int:
        return self.f.frame_count

    @property
    def payload_bytes(self) -> int:
        return self.f.payload_bytes

    @property
    def codec(self) -> int:
        return self.f.codec

    @property
    def clock_rate(self) -> int:
        return self.f.clock_rate

    @property
    def flags(self) -> int:
        """RV_RECORD_* as seen while filling; with those of ``describe()`` after it."""
        return self.f.header.flags if self.f.described else self.f.flags

    @property
    def rtp_first(self) -> int:
        return self.f.rtp_first

    @property
    def pts_min_ticks(self) -> int:
        return self.f.pts_min_ticks

    @property
    def pts_max_ticks(self) -> int:
        return self.f.pts_max_ticks

    @property
    def recv_first_ns(self) -> int:
        return self.f.recv_first_ns

    @property
    def recv_last_ns(self) -> int:
        return self.f.recv_last_ns

    @property
    def earliest_recv_minus_rtp_ns(self) -> int:
        """Least of receive time minus RTP time since ``rtp_first``, ns UTC (time.md, T3)."""
        return self.f.earliest_recv_minus_rtp_ns

    @property
    def last_delta_ticks(self) -> int:
        """The usual distance of frames at the end: the guess for the last frame's duration."""
        return self.f.last_delta_ticks

    @property
    def next_rtp(self) -> int | None:
        """Extended RTP timestamp of the access unit that follows, if it was already here."""
        return self.f.next_rtp if self.f.next_rtp_known else None

    @property
    def config_generation(self) -> int:
        return self.f.config_generation

    @property
    def parameter_sets(self) -> tuple[bytes, ...]:
        return self._parameter_sets

    @property
    def lost_packets(self) -> int:
        return self.f.lost_packets

    @property
    def lost_from_rtp(self) -> int:
        return self.f.lost_from_rtp

    @property
    def lost_to_rtp(self) -> int:
        return self.f.lost_to_rtp

    @property
    def oversize_count(self) -> int:
        return self.f.oversize_count

    @property
    def exhausted_count(self) -> int:
        return self.f.exhausted_count

    @property
    def described(self) -> bool:
        return self.f.described != 0

    @property
    def sealed(self) -> bool:
        return self.f.sealed != 0

    @property
    def header_bytes(self) -> int:
        """Bytes of the record's header region; 0 before ``describe()``."""
        return self.f.header.header_bytes if self.f.described else 0

    @property
    def record_bytes(self) -> int:
        """Bytes of the whole record, a multiple of 4096; 0 before ``describe()``."""
        return self.f.header.record_bytes if self.f.described else 0

    @property
    def fragment_root(self) -> bytes:
        """32 bytes; raises ``ValueError`` before ``seal()``."""
        if not self.f.sealed:
            raise ValueError("the fragment is not sealed")
        return self.f.fragment_root[:32]


# What an object holds that did not come from fragment_wrap: empty, and released.
cdef rv_fragment nothing
memset(&nothing, 0, sizeof(nothing))


cdef int need_arena(Fragment fragment) except -1:
    if fragment.released:
        raise ValueError("the fragment was released")
    return 0


cdef void layout_header(rv_record_header *h, uint32_t codec_config_bytes) noexcept:
    h.header_bytes = rv_header_region_bytes(h.frame_count, codec_config_bytes)
    h.record_bytes = h.header_bytes + rv_round_to_block(h.payload_bytes)
    h.frame_table_offset = RV_RECORD_FIXED_BYTES
    h.codec_config_offset = RV_RECORD_FIXED_BYTES + RV_FRAME_ENTRY_BYTES * h.frame_count
    h.codec_config_bytes = codec_config_bytes
    h.moof_bytes = rv_moof_bytes(h.frame_count)
    h.moof_offset = h.header_bytes - RV_MDAT_HEADER_BYTES - h.moof_bytes


cdef Py_ssize_t count_nals(bytes sample) except -1:
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(sample)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(sample)
    cdef Py_ssize_t at = 0, count = 0, nbytes
    while at < size:
        if size - at < 4:
            raise ValueError(f"sample ends inside a NAL length, at byte {at}")
        nbytes = (
            (<Py_ssize_t>data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3]
        )
        if nbytes > size - at - 4:
            raise ValueError(f"NAL of {nbytes} bytes at byte {at} passes the sample's end, {size}")
        at += 4 + nbytes
        count += 1
    if count == 0:
        raise ValueError("an empty sample")
    return count


cdef Fragment fragment_wrap(rv_fragment *f, tuple parameter_sets):
    cdef Fragment fragment
    try:
        fragment = Fragment.__new__(Fragment)
    except:
        rv_fragment_free(f)
        raise
    fragment.f = f
    fragment.released = False
    fragment._parameter_sets = parameter_sets
    return fragment
