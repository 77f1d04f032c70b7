"""C face of ``cext.arena``: filling fragments without the GIL.

A depacketizer opens an ``rv_fragment`` from ``ArenaPool.pool``, writes an access unit at
``rv_fragment_payload(f) + f.payload_bytes``, takes it in with ``rv_fragment_add`` and, when the
fragment closes, hands it to ``fragment_wrap``, which owns it from then on.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "record.h":
    enum:
        RV_BLOCK
        RV_FORMAT_VERSION
        RV_RECORD_FIXED_BYTES
        RV_FRAME_ENTRY_BYTES
        RV_KIND_FRAGMENT
        RV_KIND_GAP
        RV_RECORD_KEY
        RV_RECORD_LOSS
        RV_RECORD_DISCONTINUITY
        RV_RECORD_REORDERED
        RV_RECORD_TRIAL
        RV_RECORD_CLOCK_UNSYNCHRONISED
        RV_FRAME_KEY
        RV_FRAME_LOSS
        RV_FRAME_PARAMETER_SETS
        RV_FRAME_RECOVERY_POINT
        RV_CODEC_H264
        RV_CODEC_H265

    ctypedef struct rv_record_header:
        uint8_t magic[8]
        uint16_t format_version
        uint16_t kind
        uint32_t header_bytes
        uint32_t payload_bytes
        uint32_t record_bytes
        uint8_t volume_uuid[16]
        uint32_t slot
        uint32_t generation
        uint32_t offset_blocks
        uint32_t slot_sequence
        uint8_t camera_uid[16]
        uint64_t stream_sequence
        int64_t start_ns
        int64_t end_ns
        int64_t recv_first_ns
        int64_t recv_last_ns
        int64_t rtp_first
        int64_t camera_ns
        int64_t camera_offset_ns
        uint32_t clock_rate
        uint32_t run_id
        uint16_t frame_count
        uint16_t codec
        uint16_t width
        uint16_t height
        uint32_t codec_config_offset
        uint32_t codec_config_bytes
        uint32_t frame_table_offset
        uint32_t moof_offset
        uint32_t moof_bytes
        uint32_t flags
        uint8_t fragment_root[32]
        uint32_t payload_crc32c
        uint32_t codec_config_id
        int64_t recv_quantum_ns
        uint8_t encryption_key_id[16]
        uint8_t reserved[12]
        uint32_t header_crc32c

    ctypedef struct rv_frame_entry:
        uint32_t size_bytes
        int32_t pts_ticks
        uint32_t recv_us
        uint16_t flags
        uint16_t nal_count
        uint8_t sha256[32]


cdef extern from "fragment.h":
    enum:
        RV_HEADROOM_BYTES
        RV_FRAMES_MAX
        RV_CODEC_CONFIG_BYTES_MAX

    ctypedef struct rv_fragment:
        uint8_t *arena
        uint64_t capacity_bytes
        uint32_t payload_bytes
        uint16_t frame_count
        uint16_t codec
        uint32_t clock_rate
        uint32_t flags
        int64_t rtp_first
        int64_t recv_first_ns
        int64_t recv_last_ns
        int32_t pts_min_ticks
        int32_t pts_max_ticks
        int64_t earliest_recv_minus_rtp_ns
        int32_t last_delta_ticks
        uint32_t config_generation
        int64_t next_rtp
        int32_t next_rtp_known
        uint32_t lost_packets
        int64_t lost_from_rtp
        int64_t lost_to_rtp
        uint32_t oversize_count
        uint32_t exhausted_count
        int32_t described
        int32_t sealed
        uint32_t payload_crc32c
        uint8_t fragment_root[32]
        uint32_t codec_config_bytes
        rv_record_header header
        rv_frame_entry frames[128]
        uint8_t codec_config[4096]

    uint32_t rv_round_to_block(uint32_t nbytes) noexcept nogil


cdef extern from "arena.h":
    enum:
        RV_ARENA_BYTES_MIN
        RV_ARENA_BYTES_MAX
        RV_PAYLOAD_BYTES_MAX

    ctypedef struct rv_pool:
        uint64_t bytes_max          # both fixed
        uint64_t spare_bytes_max

    # Bare arenas; fragments are the usual way. NULL: no memory (counted).
    uint8_t *rv_pool_take(rv_pool *pool, uint64_t nbytes, uint64_t *capacity_bytes) noexcept nogil
    void rv_pool_give(rv_pool *pool, uint8_t *arena, uint64_t capacity_bytes) noexcept nogil

    # A new, empty fragment with room for payload_bytes, or NULL: no memory (counted). The caller
    # sets codec, clock_rate (before the first rv_fragment_add) and config_generation.
    rv_fragment *rv_fragment_open(rv_pool *pool, uint64_t payload_bytes) noexcept nogil
    void rv_fragment_free(rv_fragment *f) noexcept nogil
    void rv_fragment_release(rv_fragment *f) noexcept nogil
    uint8_t *rv_fragment_payload(const rv_fragment *f) noexcept nogil
    uint64_t rv_fragment_room(const rv_fragment *f) noexcept nogil
    # Room for payload_bytes in all, keeping the first used_bytes; may move the arena (take
    # rv_fragment_payload again). -1: no memory, nothing changed.
    int rv_fragment_reserve(
        rv_fragment *f, uint64_t used_bytes, uint64_t payload_bytes
    ) noexcept nogil
    # Takes in the access unit of size_bytes that lies behind payload_bytes. Keeps pts range, KEY,
    # LOSS, REORDERED, receive times and earliest_recv_minus_rtp_ns. -1: full, or pts too far.
    int rv_fragment_add(
        rv_fragment *f, uint32_t size_bytes, int64_t rtp, int64_t recv_ns, uint16_t flags,
        uint16_t nal_count,
    ) noexcept nogil
    int32_t rv_fragment_usual_delta(const rv_fragment *f) noexcept nogil


@cython.final
cdef class ArenaPool:
    cdef rv_pool *pool


@cython.final
cdef class Fragment:
    cdef rv_fragment *f
    cdef tuple _parameter_sets
    cdef Py_ssize_t holds    # exported views and native work in progress
    cdef bint released

    cdef void hold(self) noexcept        # GIL: the arena stays until unhold()
    cdef void unhold(self) noexcept      # GIL


# Takes ownership of f, also when it raises. parameter_sets is shared, not copied.
cdef Fragment fragment_wrap(rv_fragment *f, tuple parameter_sets)
