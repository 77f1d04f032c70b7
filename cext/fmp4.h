/* The CMAF moof box of one record (ISO/IEC 14496-12 clause 8.8, ISO/IEC 23000-19).
 *
 * It is a pure function of the record header and the frame table, so its size is known before the
 * payload and a verifier can build it again:
 *
 *   moof
 *     mfhd  sequence_number = low 32 bits of stream_sequence
 *     traf
 *       tfhd  track 1, default-base-is-moof
 *       tfdt  version 1: rtp_first + the smallest pts (never negative)
 *       trun  version 1: duration, size, flags, signed composition offset of each sample
 *
 * A camera sends presentation times only. Within a record the decoding times are the presentation
 * times in rising order, so offsets are negative for frames shown before their turn (B-frames)
 * and all zero without reordering. The last sample lasts until end_ns.
 */
#ifndef RINGVAULT_FMP4_H
#define RINGVAULT_FMP4_H

#include "arena.h"

#define RV_MOOF_FIXED_BYTES 88u
#define RV_MOOF_SAMPLE_BYTES 16u
#define RV_MDAT_HEADER_BYTES 8u
#define RV_MOOF_BYTES_MAX (RV_MOOF_FIXED_BYTES + RV_MOOF_SAMPLE_BYTES * RV_FRAMES_MAX)

_Static_assert(RV_RECORD_FIXED_BYTES + RV_FRAMES_MAX * RV_FRAME_ENTRY_BYTES +
                       RV_CODEC_CONFIG_BYTES_MAX + RV_MOOF_BYTES_MAX + RV_MDAT_HEADER_BYTES <=
                   RV_HEADROOM_BYTES,
               "the largest header region fits in front of the payload");

/* sample_depends_on = 2 (on none) */
#define RV_SAMPLE_FLAGS_KEY 0x02000000u
/* sample_depends_on = 1, sample_is_non_sync_sample */
#define RV_SAMPLE_FLAGS_OTHER 0x01010000u

static inline uint32_t rv_moof_bytes(uint32_t frame_count) {
    return RV_MOOF_FIXED_BYTES + RV_MOOF_SAMPLE_BYTES * frame_count;
}

static inline uint32_t rv_header_region_bytes(uint32_t frame_count, uint32_t codec_config_bytes) {
    return rv_round_to_block(RV_RECORD_FIXED_BYTES + RV_FRAME_ENTRY_BYTES * frame_count +
                             codec_config_bytes + rv_moof_bytes(frame_count) +
                             RV_MDAT_HEADER_BYTES);
}

static inline uint8_t *rv_put_be32(uint8_t *at, uint32_t value) {
    value = __builtin_bswap32(value);
    memcpy(at, &value, 4);
    return at + 4;
}

static inline uint8_t *rv_put_be64(uint8_t *at, uint64_t value) {
    at = rv_put_be32(at, (uint32_t)(value >> 32));
    return rv_put_be32(at, (uint32_t)value);
}

static inline uint32_t rv_get_be32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return __builtin_bswap32(value);
}

static inline uint8_t *rv_put_box(uint8_t *at, uint32_t nbytes, const char *type) {
    at = rv_put_be32(at, nbytes);
    memcpy(at, type, 4);
    return at + 4;
}

/* Ticks from the smallest pts to end_ns, rounded to the nearest, kept within what trun can say. */
static inline uint32_t rv_fragment_ticks(const rv_record_header *header) {
    __int128 span_ns = (__int128)header->end_ns - header->start_ns;
    if (span_ns <= 0) return 0;
    __int128 ticks = (span_ns * header->clock_rate + 500000000) / 1000000000;
    return ticks > INT32_MAX ? INT32_MAX : (uint32_t)ticks;
}

static inline uint64_t rv_decode_time(const rv_record_header *header, int32_t pts_min_ticks) {
    __int128 ticks = (__int128)header->rtp_first + pts_min_ticks;
    return ticks < 0 ? 0 : (uint64_t)ticks;
}

/* Writes rv_moof_bytes(count) bytes of moof and the mdat header behind it; 1 <= count <= 128. */
static inline void rv_build_moof(const rv_record_header *header, const rv_frame_entry *frames,
                                 uint32_t count, uint8_t *at) {
    int32_t decode[RV_FRAMES_MAX];
    uint32_t moof_bytes = rv_moof_bytes(count);
    rv_sorted_pts(frames, count, decode);

    at = rv_put_box(at, moof_bytes, "moof");
    at = rv_put_box(at, 16, "mfhd");
    at = rv_put_be32(at, 0);
    at = rv_put_be32(at, (uint32_t)header->stream_sequence);
    at = rv_put_box(at, moof_bytes - 24, "traf");
    at = rv_put_box(at, 16, "tfhd");
    at = rv_put_be32(at, 0x020000); /* default-base-is-moof */
    at = rv_put_be32(at, 1);        /* track_ID */
    at = rv_put_box(at, 20, "tfdt");
    at = rv_put_be32(at, 0x01000000);
    at = rv_put_be64(at, rv_decode_time(header, decode[0]));
    at = rv_put_box(at, 20 + RV_MOOF_SAMPLE_BYTES * count, "trun");
    /* version 1; data offset, and duration, size, flags, composition offset of each sample */
    at = rv_put_be32(at, 0x01000f01);
    at = rv_put_be32(at, count);
    at = rv_put_be32(at, moof_bytes + RV_MDAT_HEADER_BYTES);

    int64_t end = (int64_t)decode[0] + rv_fragment_ticks(header);
    for (uint32_t i = 0; i < count; i++) {
        int64_t next = i + 1 < count ? decode[i + 1] : end;
        int64_t duration = next - decode[i];
        at = rv_put_be32(at, duration > 0 ? (uint32_t)duration : 0);
        at = rv_put_be32(at, frames[i].size_bytes);
        at = rv_put_be32(at, frames[i].flags & RV_FRAME_KEY ? RV_SAMPLE_FLAGS_KEY
                                                            : RV_SAMPLE_FLAGS_OTHER);
        at = rv_put_be32(at, (uint32_t)((int64_t)frames[i].pts_ticks - decode[i]));
    }
    at = rv_put_be32(at, RV_MDAT_HEADER_BYTES + header->payload_bytes);
    memcpy(at, "mdat", 4);
}

#endif
