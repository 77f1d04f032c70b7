/* Decode and verify one record of docs/design/volume-format.md. Used twice: by readers, and by the
 * writer on what it is about to write (pair assertion). It shares with what builds a
 * record only checksum, hash and the arithmetic of sizes.
 *
 * Each function returns 0, or -1 with the first violated rule and its byte offset in the record.
 * Order matters (V5): nothing but magic, version and header_bytes is used before the header CRC.
 */
#ifndef RINGVAULT_RECORD_CHECK_H
#define RINGVAULT_RECORD_CHECK_H

#include "crc32c.h"
#include "fmp4.h"
#include "sha256.h"

typedef struct {
    size_t offset;
    const char *rule;
} rv_violation;

static inline int rv_violated(rv_violation *violation, size_t offset, const char *rule) {
    violation->offset = offset;
    violation->rule = rule;
    return -1;
}

#define RV_REQUIRE(condition, offset, rule)                                                        \
    do {                                                                                           \
        if (!(condition)) return rv_violated(violation, offset, rule);                             \
    } while (0)

#define RV_FIELD(name) offsetof(rv_record_header, name)

/* What must hold before the CRC can be computed; needs the fixed part only. */
static inline int rv_check_frame(const rv_record_header *h, rv_violation *violation) {
    RV_REQUIRE(memcmp(h->magic, "RVFRAG01", 8) == 0, RV_FIELD(magic), "magic is not RVFRAG01");
    RV_REQUIRE(h->format_version == RV_FORMAT_VERSION, RV_FIELD(format_version),
               "format version is not 1");
    RV_REQUIRE(h->header_bytes % RV_BLOCK == 0 && h->header_bytes >= RV_BLOCK &&
                   h->header_bytes <= RV_HEADROOM_BYTES,
               RV_FIELD(header_bytes), "header_bytes is not 1 to 5 blocks");
    return 0;
}

static inline uint32_t rv_header_crc32c(const uint8_t *region, uint32_t header_bytes) {
    static const uint8_t zero[4];
    uint32_t crc = rv_crc32c(0, region, RV_FIELD(header_crc32c));
    crc = rv_crc32c(crc, zero, 4);
    return rv_crc32c(crc, region + RV_RECORD_FIXED_BYTES, header_bytes - RV_RECORD_FIXED_BYTES);
}

static inline int rv_check_gap_fields(const rv_record_header *h, rv_violation *violation) {
    RV_REQUIRE(h->payload_bytes == 0, RV_FIELD(payload_bytes), "a gap has a payload");
    RV_REQUIRE(h->frame_count == 0, RV_FIELD(frame_count), "a gap has frames");
    RV_REQUIRE(h->codec != 0, RV_FIELD(codec), "a gap has no cause");
    RV_REQUIRE(h->codec_config_offset == RV_RECORD_FIXED_BYTES, RV_FIELD(codec_config_offset),
               "the detail text does not follow the fixed part");
    RV_REQUIRE(h->codec_config_bytes <= h->header_bytes - RV_RECORD_FIXED_BYTES,
               RV_FIELD(codec_config_bytes), "the detail text passes the header region");
    RV_REQUIRE(h->moof_offset == 0 && h->moof_bytes == 0, RV_FIELD(moof_offset), "a gap has a moof");
    return 0;
}

static inline int rv_check_fragment_fields(const rv_record_header *h, rv_violation *violation) {
    RV_REQUIRE(h->payload_bytes <= RV_PAYLOAD_BYTES_MAX, RV_FIELD(payload_bytes),
               "payload_bytes is more than an arena");
    RV_REQUIRE(h->frame_count >= 1 && h->frame_count <= RV_FRAMES_MAX, RV_FIELD(frame_count),
               "frame_count is not 1 to 128");
    RV_REQUIRE(h->codec == RV_CODEC_H264 || h->codec == RV_CODEC_H265, RV_FIELD(codec),
               "codec is neither H.264 nor H.265");
    RV_REQUIRE(h->clock_rate > 0, RV_FIELD(clock_rate), "clock_rate is zero");
    RV_REQUIRE(h->codec_config_offset ==
                   RV_RECORD_FIXED_BYTES + h->frame_count * RV_FRAME_ENTRY_BYTES,
               RV_FIELD(codec_config_offset),
               "the codec configuration does not follow the frame table");
    RV_REQUIRE(h->codec_config_bytes <= RV_CODEC_CONFIG_BYTES_MAX, RV_FIELD(codec_config_bytes),
               "codec_config_bytes is more than 4096");
    RV_REQUIRE(h->moof_bytes == rv_moof_bytes(h->frame_count), RV_FIELD(moof_bytes),
               "moof_bytes does not fit frame_count");
    RV_REQUIRE((uint64_t)h->moof_offset + h->moof_bytes + RV_MDAT_HEADER_BYTES == h->header_bytes,
               RV_FIELD(moof_offset), "the moof does not end the header region");
    RV_REQUIRE(h->codec_config_offset + h->codec_config_bytes <= h->moof_offset,
               RV_FIELD(codec_config_bytes), "the codec configuration overlaps the moof");
    return 0;
}

static inline int rv_check_frame_table(const rv_record_header *h, const rv_frame_entry *frames,
                                       rv_violation *violation) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < h->frame_count; i++) total += frames[i].size_bytes;
    RV_REQUIRE(total == h->payload_bytes, RV_RECORD_FIXED_BYTES,
               "frame sizes do not add up to payload_bytes");
    RV_REQUIRE(frames[0].pts_ticks == 0, RV_RECORD_FIXED_BYTES + 4,
               "the first frame is not at rtp_first");
    return 0;
}

static inline int rv_is_box(const uint8_t *at, uint32_t nbytes, const char *type) {
    return rv_get_be32(at) == nbytes && memcmp(at + 4, type, 4) == 0;
}

static inline int rv_check_moof_boxes(const rv_record_header *h, const uint8_t *moof,
                                      rv_violation *violation) {
    const uint8_t *mfhd = moof + 8, *tfhd = moof + 32, *tfdt = moof + 48, *trun = moof + 68;
    uint32_t bytes = h->moof_bytes;
    RV_REQUIRE(rv_is_box(moof, bytes, "moof") && rv_is_box(mfhd, 16, "mfhd") &&
                   rv_is_box(moof + 24, bytes - 24, "traf") && rv_is_box(tfhd, 16, "tfhd") &&
                   rv_is_box(tfdt, 20, "tfdt") && rv_is_box(trun, bytes - 68, "trun"),
               h->moof_offset, "the moof has other boxes");
    RV_REQUIRE(rv_get_be32(mfhd + 8) == 0 && rv_get_be32(tfhd + 8) == 0x020000 &&
                   rv_get_be32(tfhd + 12) == 1 && rv_get_be32(tfdt + 8) == 0x01000000 &&
                   rv_get_be32(trun + 8) == 0x01000f01,
               h->moof_offset, "the moof has other versions, flags or track");
    RV_REQUIRE(rv_get_be32(mfhd + 12) == (uint32_t)h->stream_sequence, h->moof_offset + 20,
               "mfhd is not stream_sequence");
    RV_REQUIRE(rv_get_be32(trun + 12) == h->frame_count && rv_get_be32(trun + 16) == bytes + 8,
               h->moof_offset + 80, "trun does not describe the payload");
    RV_REQUIRE(rv_is_box(moof + bytes, RV_MDAT_HEADER_BYTES + h->payload_bytes, "mdat"),
               h->header_bytes - RV_MDAT_HEADER_BYTES, "the mdat header does not fit the payload");
    return 0;
}

/* Follows the moof as a player would, and wants the frame table and end_ns out of it. */
static inline int rv_check_moof(const rv_record_header *h, const rv_frame_entry *frames,
                                const uint8_t *moof, rv_violation *violation) {
    const uint8_t *sample = moof + RV_MOOF_FIXED_BYTES;
    int32_t pts_min = frames[0].pts_ticks;
    if (rv_check_moof_boxes(h, moof, violation) < 0) return -1;
    for (uint32_t i = 1; i < h->frame_count; i++)
        if (frames[i].pts_ticks < pts_min) pts_min = frames[i].pts_ticks;
    __int128 first = (__int128)h->rtp_first + pts_min;
    uint64_t tfdt_ticks = (uint64_t)rv_get_be32(moof + 60) << 32 | rv_get_be32(moof + 64);
    RV_REQUIRE(tfdt_ticks == (first < 0 ? 0 : (uint64_t)first), h->moof_offset + 60,
               "tfdt is not the first decoding time");
    int64_t decode = pts_min, end = (int64_t)pts_min + rv_fragment_ticks(h);
    for (uint32_t i = 0; i < h->frame_count; i++, sample += RV_MOOF_SAMPLE_BYTES) {
        uint32_t duration = rv_get_be32(sample), shown = (uint32_t)decode + rv_get_be32(sample + 12);
        uint32_t flags = frames[i].flags & RV_FRAME_KEY ? 0x02000000 : 0x01010000;
        int ends = i + 1 < h->frame_count || duration == (end > decode ? end - decode : 0);
        RV_REQUIRE(rv_get_be32(sample + 4) == frames[i].size_bytes &&
                       shown == (uint32_t)frames[i].pts_ticks && rv_get_be32(sample + 8) == flags &&
                       ends,
                   (size_t)(sample - moof) + h->moof_offset, "trun differs from the frame table");
        decode += duration;
    }
    return 0;
}

/* The whole header region, `available` bytes of it at hand (at least RV_RECORD_FIXED_BYTES). */
static inline int rv_check_header(const uint8_t *region, size_t available,
                                  rv_violation *violation) {
    rv_record_header h;
    memcpy(&h, region, sizeof h);
    if (rv_check_frame(&h, violation) < 0) return -1;
    RV_REQUIRE(available >= h.header_bytes, available, "the header region is cut short");
    RV_REQUIRE(rv_header_crc32c(region, h.header_bytes) == h.header_crc32c,
               RV_FIELD(header_crc32c), "the header CRC does not match");
    RV_REQUIRE(h.kind == RV_KIND_FRAGMENT || h.kind == RV_KIND_GAP, RV_FIELD(kind),
               "kind is neither fragment nor gap");
    RV_REQUIRE(h.record_bytes == (uint64_t)h.header_bytes + rv_round_to_block(h.payload_bytes),
               RV_FIELD(record_bytes), "record_bytes is not header and padded payload");
    RV_REQUIRE(h.frame_table_offset == RV_RECORD_FIXED_BYTES, RV_FIELD(frame_table_offset),
               "the frame table does not follow the fixed part");
    RV_REQUIRE(h.end_ns >= h.start_ns, RV_FIELD(end_ns), "the record ends before its start");
    if (h.kind == RV_KIND_GAP) return rv_check_gap_fields(&h, violation);
    const rv_frame_entry *frames = (const void *)(region + RV_RECORD_FIXED_BYTES);
    if (rv_check_fragment_fields(&h, violation) < 0) return -1;
    if (rv_check_frame_table(&h, frames, violation) < 0) return -1;
    return rv_check_moof(&h, frames, region + h.moof_offset, violation);
}

static inline int rv_check_payload(const rv_record_header *h, const uint8_t *payload,
                                   rv_violation *violation) {
    RV_REQUIRE(rv_crc32c(0, payload, h->payload_bytes) == h->payload_crc32c,
               RV_FIELD(payload_crc32c), "the payload CRC does not match");
    return 0;
}

/* MTH over [descriptor, frame entry 0, ...]: 1 + frame_count leaves. For a gap `config` is the
 * detail text and there are no entries. */
static inline void rv_record_root(const rv_record_header *h, const rv_frame_entry *frames,
                                  const uint8_t *config, uint8_t root[32]) {
    uint8_t descriptor[1 + RV_DESCRIPTOR_BYTES + 32];
    uint8_t entries[RV_FRAMES_MAX][1 + RV_FRAME_ENTRY_BYTES];
    uint8_t hashes[(1 + RV_FRAMES_MAX) * 32];
    rv_sha256_message leaves[1 + RV_FRAMES_MAX];
    descriptor[0] = 0;
    memcpy(descriptor + 1, (const uint8_t *)h + RV_DESCRIPTOR_OFFSET, RV_DESCRIPTOR_BYTES);
    rv_sha256(config, h->codec_config_bytes, descriptor + 1 + RV_DESCRIPTOR_BYTES);
    leaves[0] = (rv_sha256_message){descriptor, sizeof descriptor, hashes, 0};
    for (uint32_t i = 0; i < h->frame_count; i++) {
        entries[i][0] = 0;
        memcpy(entries[i] + 1, &frames[i], RV_FRAME_ENTRY_BYTES);
        leaves[1 + i] =
            (rv_sha256_message){entries[i], 1 + RV_FRAME_ENTRY_BYTES, hashes + 32 * (1 + i), 0};
    }
    rv_sha256_many(leaves, 1u + h->frame_count);
    rv_merkle_root(hashes, 1u + h->frame_count, root);
}

/* After rv_check_header: description and frame table against the root. */
static inline int rv_check_root(const uint8_t *region, rv_violation *violation) {
    rv_record_header h;
    uint8_t root[32];
    memcpy(&h, region, sizeof h);
    rv_record_root(&h, (const void *)(region + RV_RECORD_FIXED_BYTES),
                   region + h.codec_config_offset, root);
    RV_REQUIRE(memcmp(root, h.fragment_root, 32) == 0, RV_FIELD(fragment_root),
               "fragment_root does not match");
    return 0;
}

/* After rv_check_header: every frame against its hash, and all of it against the root. */
static inline int rv_check_hashes(const uint8_t *region, const uint8_t *payload,
                                  rv_violation *violation) {
    rv_record_header h;
    uint8_t digests[RV_FRAMES_MAX][32];
    rv_sha256_message messages[RV_FRAMES_MAX] = {{0}};
    memcpy(&h, region, sizeof h);
    const rv_frame_entry *frames = (const void *)(region + RV_RECORD_FIXED_BYTES);
    size_t offset = 0;
    for (uint32_t i = 0; i < h.frame_count; i++) {
        messages[i] = (rv_sha256_message){payload + offset, frames[i].size_bytes, digests[i], 0};
        offset += frames[i].size_bytes;
    }
    rv_sha256_many(messages, h.frame_count);
    offset = h.header_bytes;
    for (uint32_t i = 0; i < h.frame_count; i++) {
        RV_REQUIRE(memcmp(digests[i], frames[i].sha256, 32) == 0, offset,
                   "the hash of a frame does not match");
        offset += frames[i].size_bytes;
    }
    return rv_check_root(region, violation);
}

#endif
