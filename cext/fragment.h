/* A fragment while it is in memory: one page-aligned arena, shared by the depacketizers, which
 * fill the payload, and the segment writer, which fills the header region in front of it.
 *
 *   arena                arena + RV_HEADROOM_BYTES                       arena + capacity_bytes
 *   | header region, right-aligned | payload: [u32 length][NAL] ... | zero pad to a block |
 *
 * The header region of a record of header_bytes begins at arena + RV_HEADROOM_BYTES - header_bytes,
 * so a record is one contiguous, block-aligned run of memory: one iovec.
 *
 * Who writes what: the filling side (rv_fragment_add and the depacketizers) everything down to
 * `frames`; describe() `header` and `codec_config`; seal() the hashes, the root and the CRC;
 * write_records() the header region of the arena and the zero padding.
 */
#ifndef RINGVAULT_FRAGMENT_H
#define RINGVAULT_FRAGMENT_H

#include "record.h"

/* The largest header region: fixed part + 128 frame entries + codec configuration + moof of 128
 * samples + mdat header = 256 + 6144 + 4096 + 2136 + 8, in whole blocks, and one block to spare. */
#define RV_HEADROOM_BYTES 20480u
#define RV_FRAMES_MAX 128u
#define RV_CODEC_CONFIG_BYTES_MAX 4096u

struct rv_pool;

typedef struct {
    struct rv_pool *pool; /* where the arena goes back to */
    uint8_t *arena;       /* page-aligned; NULL once given back */
    uint64_t capacity_bytes;
    uint32_t payload_bytes; /* complete access units only */
    uint16_t frame_count;
    uint16_t codec;
    uint32_t clock_rate;
    uint32_t flags;    /* RV_RECORD_KEY, _LOSS, _REORDERED as seen while filling */
    int64_t rtp_first; /* extended RTP timestamp of the first access unit */
    int64_t recv_first_ns;
    int64_t recv_last_ns;
    int32_t pts_min_ticks;
    int32_t pts_max_ticks;
    /* min over access units of recv_ns - (rtp - rtp_first) * 1e9 / clock_rate (time.md, T3) */
    int64_t earliest_recv_minus_rtp_ns;
    int32_t last_delta_ticks; /* usual distance of frames at the end */
    uint32_t config_generation;
    int64_t next_rtp; /* extended RTP timestamp of the access unit that follows */
    int32_t next_rtp_known;
    /* losses seen inside: one aggregated interval [lost_from_rtp, lost_to_rtp) in RTP time */
    uint32_t lost_packets;
    int64_t lost_from_rtp;
    int64_t lost_to_rtp;
    uint32_t oversize_count;
    uint32_t exhausted_count;
    /* progress */
    int32_t described;
    int32_t sealed;
    uint32_t payload_crc32c;
    uint8_t fragment_root[32];
    uint32_t codec_config_bytes;
    /* everything from here on is not cleared when a fragment is opened */
    rv_record_header header;
    rv_frame_entry frames[RV_FRAMES_MAX]; /* sha256 filled by seal */
    uint8_t codec_config[RV_CODEC_CONFIG_BYTES_MAX];
} rv_fragment;

static inline uint32_t rv_round_to_block(uint32_t nbytes) {
    return (nbytes + RV_BLOCK - 1) & ~(RV_BLOCK - 1);
}

#endif
