/* From fragments in memory to bytes in a slot: seal, finish headers, check them, write.
 *
 * All of it runs without the GIL. Memory, file offsets and lengths are multiples of a block, as
 * O_DIRECT wants. A short write is resumed at the last whole block, EINTR at once.
 */
#ifndef RINGVAULT_SEGMENT_WRITE_H
#define RINGVAULT_SEGMENT_WRITE_H

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "record_check.h"

#define RV_SEAL_FRAMES_MAX 1024u
#define RV_WRITE_BYTES_MAX (64u << 20)
#define RV_WRITE_STALLS_MAX 8 /* writes in a row that moved less than a block */

_Static_assert(RV_SEAL_FRAMES_MAX >= RV_FRAMES_MAX, "one fragment can always be sealed");

/* ---- seal ---- */

/* A frame to hash, and whose CRC takes part in the payload CRC at its turn. */
typedef struct {
    uint32_t nbytes;
    uint32_t frame; /* where in the group */
} rv_seal_order;

static int rv_longer_first(const void *a, const void *b) {
    uint32_t x = ((const rv_seal_order *)a)->nbytes, y = ((const rv_seal_order *)b)->nbytes;
    return (x < y) - (x > y);
}

/* Some fragments whose frames fit in one array. Each byte is read from memory once: the CRC rides
 * along with the hash, frame by frame, and is joined afterwards. */
static inline void rv_seal_group(rv_fragment *const *fragments, size_t count) {
    rv_sha256_message messages[RV_SEAL_FRAMES_MAX];
    rv_seal_order order[RV_SEAL_FRAMES_MAX];
    uint32_t crc32c[RV_SEAL_FRAMES_MAX];
    uint32_t total = 0;
    for (size_t n = 0; n < count; n++)
        for (uint32_t i = 0; i < fragments[n]->frame_count; i++, total++)
            order[total] = (rv_seal_order){fragments[n]->frames[i].size_bytes, total};
    /* So that at the end both lanes run dry at nearly the same time. */
    qsort(order, total, sizeof order[0], rv_longer_first);
    uint32_t rank[RV_SEAL_FRAMES_MAX];
    for (uint32_t i = 0; i < total; i++) rank[order[i].frame] = i;
    uint32_t frame = 0;
    for (size_t n = 0; n < count; n++) {
        rv_fragment *f = fragments[n];
        const uint8_t *at = rv_fragment_payload(f);
        for (uint32_t i = 0; i < f->frame_count; i++, frame++) {
            messages[rank[frame]] =
                (rv_sha256_message){at, f->frames[i].size_bytes, f->frames[i].sha256, 0};
            at += f->frames[i].size_bytes;
        }
    }
    rv_sha256_crc32c_many(messages, total);
    for (uint32_t i = 0; i < total; i++) crc32c[order[i].frame] = messages[i].crc32c;
    frame = 0;
    for (size_t n = 0; n < count; n++) {
        rv_fragment *f = fragments[n];
        f->payload_crc32c = 0;
        for (uint32_t i = 0; i < f->frame_count; i++, frame++)
            f->payload_crc32c =
                rv_crc32c_join(f->payload_crc32c, crc32c[frame], f->frames[i].size_bytes);
        rv_record_root(&f->header, f->frames, f->codec_config, f->fragment_root);
        f->sealed = 1;
    }
}

/* Fragments must be described and hold their arena. */
static inline void rv_seal(rv_fragment *const *fragments, size_t count) {
    for (size_t start = 0; start < count;) {
        size_t end = start, frames = 0;
        do {
            frames += fragments[end++]->frame_count;
        } while (end < count && frames + fragments[end]->frame_count <= RV_SEAL_FRAMES_MAX);
        rv_seal_group(fragments + start, end - start);
        start = end;
    }
}

/* ---- finish ---- */

/* Where a batch goes. */
typedef struct {
    uint8_t volume_uuid[16];
    uint32_t slot;
    uint32_t generation;
    uint32_t offset_blocks; /* of the first record */
    uint32_t slot_sequence; /* of the first record */
} rv_place;

/* One record of a batch: a fragment, or a gap block. */
typedef struct {
    rv_fragment *fragment; /* NULL for a gap */
    uint8_t *start;        /* first byte of the record */
    uint32_t record_bytes;
    uint32_t offset_blocks;
    uint32_t header_crc32c;
    uint32_t payload_crc32c;
    uint8_t fragment_root[32];
} rv_write_item;

static inline void rv_put_place(rv_record_header *h, const rv_place *place, uint32_t offset_blocks,
                                uint32_t index) {
    memcpy(h->volume_uuid, place->volume_uuid, 16);
    h->slot = place->slot;
    h->generation = place->generation;
    h->offset_blocks = offset_blocks;
    h->slot_sequence = place->slot_sequence + index;
}

static inline void rv_put_header_crc32c(uint8_t *region, uint32_t header_bytes) {
    uint32_t crc = rv_header_crc32c(region, header_bytes);
    memcpy(region + RV_FIELD(header_crc32c), &crc, 4);
}

static inline uint8_t *rv_record_start(const rv_fragment *f) {
    return f->arena + RV_HEADROOM_BYTES - f->header.header_bytes;
}

/* Everything of the record in its arena but the payload itself. */
static inline void rv_finish_fragment(rv_fragment *f, const rv_place *place,
                                      uint32_t offset_blocks, uint32_t index) {
    rv_record_header h = f->header;
    uint8_t *region = rv_record_start(f), *at = region + RV_RECORD_FIXED_BYTES;
    uint32_t table_bytes = f->frame_count * RV_FRAME_ENTRY_BYTES;
    uint32_t padding = rv_round_to_block(f->payload_bytes) - f->payload_bytes;

    rv_put_place(&h, place, offset_blocks, index);
    memcpy(h.fragment_root, f->fragment_root, 32);
    h.payload_crc32c = f->payload_crc32c;
    h.header_crc32c = 0;
    memcpy(region, &h, sizeof h);
    memcpy(at, f->frames, table_bytes);
    at += table_bytes;
    memcpy(at, f->codec_config, f->codec_config_bytes);
    at += f->codec_config_bytes;
    memset(at, 0, (size_t)(region + h.moof_offset - at));
    rv_build_moof(&h, f->frames, f->frame_count, region + h.moof_offset);
    memset(rv_fragment_payload(f) + f->payload_bytes, 0, padding);
    rv_put_header_crc32c(region, h.header_bytes);
}

/* A gap block was filled when it was made; only the place is missing. */
static inline void rv_finish_gap(uint8_t *block, const rv_place *place, uint32_t offset_blocks,
                                 uint32_t index) {
    rv_record_header h;
    memcpy(&h, block, sizeof h);
    rv_put_place(&h, place, offset_blocks, index);
    h.header_crc32c = 0;
    memcpy(block, &h, sizeof h);
    rv_put_header_crc32c(block, h.header_bytes);
}

/* Pair assertion: read the record back out of memory as a reader will, and compare. */
static inline int rv_check_finished(rv_write_item *item, const rv_place *place, uint32_t index,
                                    rv_violation *violation) {
    rv_record_header h;
    if (rv_check_header(item->start, item->record_bytes, violation) < 0) return -1;
    if (rv_check_root(item->start, violation) < 0) return -1;
    memcpy(&h, item->start, sizeof h);
    RV_REQUIRE(h.record_bytes == item->record_bytes, RV_FIELD(record_bytes), "record_bytes");
    RV_REQUIRE(memcmp(h.volume_uuid, place->volume_uuid, 16) == 0 && h.slot == place->slot &&
                   h.generation == place->generation && h.offset_blocks == item->offset_blocks &&
                   h.slot_sequence == place->slot_sequence + index,
               RV_FIELD(volume_uuid), "the place is not where it goes");
    if (item->fragment != NULL) {
        RV_REQUIRE(h.payload_bytes == item->fragment->payload_bytes, RV_FIELD(payload_bytes),
                   "payload_bytes is not the fragment's");
        RV_REQUIRE(item->start + h.header_bytes == rv_fragment_payload(item->fragment),
                   RV_FIELD(header_bytes), "the header region does not meet the payload");
    }
    item->header_crc32c = h.header_crc32c;
    item->payload_crc32c = h.payload_crc32c;
    memcpy(item->fragment_root, h.fragment_root, 32);
    return 0;
}

/* 0, or -1 with the item that failed: nothing may be written then. */
static inline int rv_finish_records(rv_write_item *items, size_t count, const rv_place *place,
                                    size_t *failed, rv_violation *violation) {
    uint32_t offset_blocks = place->offset_blocks;
    for (size_t i = 0; i < count; i++) {
        rv_write_item *item = &items[i];
        item->offset_blocks = offset_blocks;
        if (item->fragment != NULL) {
            item->start = rv_record_start(item->fragment);
            rv_finish_fragment(item->fragment, place, offset_blocks, (uint32_t)i);
        } else {
            rv_finish_gap(item->start, place, offset_blocks, (uint32_t)i);
        }
        if (rv_check_finished(item, place, (uint32_t)i, violation) < 0) {
            *failed = i;
            return -1;
        }
        offset_blocks += item->record_bytes / RV_BLOCK;
    }
    return 0;
}

/* Fixed part and detail text of a gap record; `block` is one zeroed block. The caller has set the
 * identity fields of *h. */
static inline void rv_build_gap(uint8_t *block, rv_record_header *h, const uint8_t *detail,
                                uint32_t detail_bytes) {
    memcpy(h->magic, "RVFRAG01", 8);
    h->format_version = RV_FORMAT_VERSION;
    h->kind = RV_KIND_GAP;
    h->header_bytes = h->record_bytes = RV_BLOCK;
    h->codec_config_offset = h->frame_table_offset = RV_RECORD_FIXED_BYTES;
    h->codec_config_bytes = detail_bytes;
    rv_record_root(h, NULL, detail, h->fragment_root);
    memcpy(block, h, sizeof *h);
    memcpy(block + RV_RECORD_FIXED_BYTES, detail, detail_bytes);
}

/* ---- write ---- */

/* Writes iov[0..count) at offset; count <= IOV_MAX. The vector is used up. Returns 0 or errno;
 * *offset ends behind the last byte known to be written. */
static inline int rv_write_vector(int fd, struct iovec *iov, int count, int64_t *offset) {
    int stalls = 0;
    while (count > 0) {
        ssize_t done = pwritev(fd, iov, count, *offset);
        if (done < 0) {
            if (errno == EINTR) continue;
            return errno;
        }
        size_t left = (size_t)done & ~(size_t)(RV_BLOCK - 1); /* a torn block goes again */
        if (left == 0 && ++stalls > RV_WRITE_STALLS_MAX) return EIO;
        if (left > 0) stalls = 0;
        *offset += (int64_t)left;
        while (count > 0 && left >= iov->iov_len) {
            left -= iov->iov_len;
            iov++, count--;
        }
        if (left > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + left;
            iov->iov_len -= left;
        }
    }
    return 0;
}

static inline int rv_write_items(int fd, const rv_write_item *items, size_t count,
                                 int64_t *offset) {
    struct iovec iov[IOV_MAX];
    for (size_t next = 0; next < count;) {
        int n = 0;
        size_t nbytes = 0;
        do {
            iov[n].iov_base = items[next].start;
            iov[n].iov_len = items[next].record_bytes;
            nbytes += items[next].record_bytes;
            n++, next++;
        } while (next < count && n < IOV_MAX &&
                 nbytes + items[next].record_bytes <= RV_WRITE_BYTES_MAX);
        int error = rv_write_vector(fd, iov, n, offset);
        if (error != 0) return error;
    }
    return 0;
}

static inline int rv_write_run(int fd, void *data, size_t nbytes, int64_t *offset) {
    struct iovec iov = {data, nbytes};
    return rv_write_vector(fd, &iov, 1, offset);
}

/* Bytes read (short only at the end of the file), or -1 with errno. Reads begin at whole blocks,
 * so after a short read the torn block is read again: if that brings nothing, the file ends. */
static inline ssize_t rv_read_run(int fd, uint8_t *data, size_t nbytes, int64_t offset) {
    size_t done = 0;
    while (done < nbytes) {
        size_t whole = done & ~(size_t)(RV_BLOCK - 1);
        ssize_t n = pread(fd, data + whole, nbytes - whole, offset + (int64_t)whole);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (whole + (size_t)n <= done) break;
        done = whole + (size_t)n;
    }
    return (ssize_t)done;
}

/* 0 or errno. Not repeated after an error: the kernel may have dropped the dirty pages. */
static inline int rv_datasync(int fd) {
    int result;
    do {
        result = fdatasync(fd);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

#endif
