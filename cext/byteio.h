/* Reading bytes: big-endian loads, the bits of a NAL unit, Annex B start codes.
 *
 * Nothing here reads outside [data, data + nbytes). A bit reader that ran out says so once, at the
 * end, in `failed`: callers check it before they believe a value.
 */
#ifndef RINGVAULT_BYTEIO_H
#define RINGVAULT_BYTEIO_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t rv_load_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t rv_load_be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t rv_load_be64(const uint8_t *p) {
    return (uint64_t)rv_load_be32(p) << 32 | rv_load_be32(p + 4);
}

static inline void rv_store_be32(uint8_t *p, uint32_t value) {
    p[0] = (uint8_t)(value >> 24);
    p[1] = (uint8_t)(value >> 16);
    p[2] = (uint8_t)(value >> 8);
    p[3] = (uint8_t)value;
}

/* The RBSP bits of a NAL unit: emulation prevention bytes (00 00 03) are skipped
 * (ITU-T H.264 and H.265, 7.3.1.1). */
typedef struct {
    const uint8_t *next;
    const uint8_t *end;
    uint32_t zeros; /* zero bytes just seen */
    uint8_t byte;
    uint8_t bits_left;
    uint8_t failed;
} rv_bits;

static inline rv_bits rv_bits_of(const uint8_t *data, size_t nbytes) {
    rv_bits bits = {.next = data, .end = data + nbytes};
    return bits;
}

static inline uint32_t rv_bits_bit(rv_bits *b) {
    if (b->bits_left == 0) {
        if (b->zeros >= 2 && b->next < b->end && *b->next == 3) {
            b->next++;
            b->zeros = 0;
        }
        if (b->next == b->end) {
            b->failed = 1;
            return 0;
        }
        b->byte = *b->next++;
        b->zeros = b->byte == 0 ? b->zeros + 1 : 0;
        b->bits_left = 8;
    }
    return (b->byte >> --b->bits_left) & 1;
}

static inline uint32_t rv_bits_u(rv_bits *b, unsigned count) {
    uint32_t value = 0;
    for (unsigned i = 0; i < count; i++) value = value << 1 | rv_bits_bit(b);
    return value;
}

/* Whole bytes, when the reader stands on a byte boundary. */
static inline void rv_bits_skip_bytes(rv_bits *b, uint32_t count) {
    while (count-- > 0 && !b->failed) {
        b->bits_left = 0;
        rv_bits_bit(b);
    }
    b->bits_left = 0;
}

/* ue(v), 9.1 of H.264 and 9.2 of H.265. More than 31 leading zeros fail. */
static inline uint32_t rv_bits_ue(rv_bits *b) {
    unsigned zeros = 0;
    while (rv_bits_bit(b) == 0) {
        if (b->failed || ++zeros > 31) {
            b->failed = 1;
            return 0;
        }
    }
    return ((uint32_t)1 << zeros) - 1 + rv_bits_u(b, zeros);
}

/* Where the next 00 00 01 begins at or after `from`; `end` when there is none. The search runs on
 * the byte 01, which is about sixteen times rarer than 00 in coded video, by memchr. */
static inline const uint8_t *rv_find_start_code(const uint8_t *from, const uint8_t *end) {
    if (end - from < 3) return end;
    const uint8_t *at = from + 2;
    while (at < end) {
        at = memchr(at, 1, (size_t)(end - at));
        if (at == NULL) break;
        if (at[-1] == 0 && at[-2] == 0) return at - 2;
        at++;
    }
    return end;
}

#endif
