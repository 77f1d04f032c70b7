/* SHA-256 (FIPS 180-4) for many messages at once, and the Merkle tree hash of RFC 6962.
 *
 * On processors with the SHA extensions a single message leaves the SHA unit half idle: each
 * sha256rnds2 waits for the one before. So two messages are interleaved, block by block, in two
 * lanes; when one message ends the next one starts in its lane. The portable code is chosen at run
 * time where the extensions are missing, and gives the same bytes.
 *
 * Even then the integer side of the processor is idle, so a CRC-32C of the same bytes can ride along
 * almost for nothing, where a second pass over memory would cost a fifth of the hashing.
 */
#ifndef RINGVAULT_SHA256_H
#define RINGVAULT_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "crc32c.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define RV_SHA256_HARDWARE 1
#else
#define RV_SHA256_HARDWARE 0
#endif

#define RV_SHA256_BYTES 32u
#define RV_SHA256_BLOCK 64u

typedef struct {
    const uint8_t *data;
    size_t nbytes;
    uint8_t *digest; /* 32 bytes */
    uint32_t crc32c; /* set by rv_sha256_crc32c_many */
} rv_sha256_message;

/* One message on its way through a lane: its whole blocks first, then the padded end. */
typedef struct {
    uint32_t state[8];
    const uint8_t *at;
    size_t blocks;      /* left at `at` */
    size_t tail_blocks; /* left afterwards: 1 or 2; 0 while in the tail */
    uint64_t crc;       /* raw, of the whole blocks done */
    rv_sha256_message *message; /* NULL: the lane is idle */
    uint8_t tail[2 * RV_SHA256_BLOCK];
} rv_sha256_lane;

static const uint32_t rv_sha256_initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                              0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static const uint32_t rv_sha256_k[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rv_sha256_load(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint32_t rv_rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* FIPS 180-4 section 6.2.2 as it is written */
static inline void rv_sha256_portable(uint32_t state[8], const uint8_t *data, size_t blocks) {
    uint32_t w[64];
    for (; blocks > 0; blocks--, data += RV_SHA256_BLOCK) {
        for (int t = 0; t < 16; t++) w[t] = rv_sha256_load(data + 4 * t);
        for (int t = 16; t < 64; t++) {
            uint32_t x = w[t - 15], y = w[t - 2];
            w[t] = w[t - 16] + (rv_rotate(x, 7) ^ rv_rotate(x, 18) ^ x >> 3) + w[t - 7] +
                   (rv_rotate(y, 17) ^ rv_rotate(y, 19) ^ y >> 10);
        }
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        for (int t = 0; t < 64; t++) {
            uint32_t t1 = h + (rv_rotate(e, 6) ^ rv_rotate(e, 11) ^ rv_rotate(e, 25)) +
                          ((e & f) ^ (~e & g)) + rv_sha256_k[t] + w[t];
            uint32_t t2 = (rv_rotate(a, 2) ^ rv_rotate(a, 13) ^ rv_rotate(a, 22)) +
                          ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
        state[4] += e, state[5] += f, state[6] += g, state[7] += h;
    }
}

#if RV_SHA256_HARDWARE
#define RV_SHA256_TARGET __attribute__((target("sha,sse4.1")))
#define RV_SHA256_CRC_TARGET __attribute__((target("sha,sse4.2"), always_inline))

/* The instructions want the state as (A B E F) and (C D G H), high word first. */
RV_SHA256_TARGET static inline void rv_sha256_pack(const uint32_t state[8], __m128i *abef,
                                                   __m128i *cdgh) {
    __m128i dcba = _mm_loadu_si128((const __m128i *)(const void *)state);
    __m128i hgfe = _mm_loadu_si128((const __m128i *)(const void *)(state + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1);
    __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    *abef = _mm_alignr_epi8(cdab, efgh, 8);
    *cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
}

RV_SHA256_TARGET static inline void rv_sha256_unpack(uint32_t state[8], __m128i abef,
                                                     __m128i cdgh) {
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
    __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)(void *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* Four rounds with the four schedule words w. */
#define RV_SHA256_ROUNDS(abef, cdgh, w, t)                                                         \
    do {                                                                                           \
        __m128i wk = _mm_add_epi32(w, _mm_load_si128((const __m128i *)(const void *)(rv_sha256_k + (t)))); \
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);                                              \
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));                     \
    } while (0)

/* w0 becomes the four words that follow w3. */
#define RV_SHA256_SCHEDULE(w0, w1, w2, w3)                                                         \
    (w0 = _mm_sha256msg2_epu32(                                                                    \
         _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4)), w3))

#define RV_SHA256_LOAD(at, i)                                                                      \
    _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)((at) + 16 * (i))), swap)

RV_SHA256_TARGET static inline void rv_sha256_ni(uint32_t state[8], const uint8_t *data,
                                                 size_t blocks) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i abef, cdgh;
    rv_sha256_pack(state, &abef, &cdgh);
    for (; blocks > 0; blocks--, data += RV_SHA256_BLOCK) {
        const __m128i abef0 = abef, cdgh0 = cdgh;
        __m128i w0 = RV_SHA256_LOAD(data, 0), w1 = RV_SHA256_LOAD(data, 1);
        __m128i w2 = RV_SHA256_LOAD(data, 2), w3 = RV_SHA256_LOAD(data, 3);
        RV_SHA256_ROUNDS(abef, cdgh, w0, 0);
        RV_SHA256_ROUNDS(abef, cdgh, w1, 4);
        RV_SHA256_ROUNDS(abef, cdgh, w2, 8);
        RV_SHA256_ROUNDS(abef, cdgh, w3, 12);
#pragma GCC unroll 3
        for (int t = 16; t < 64; t += 16) {
            RV_SHA256_SCHEDULE(w0, w1, w2, w3);
            RV_SHA256_ROUNDS(abef, cdgh, w0, t);
            RV_SHA256_SCHEDULE(w1, w2, w3, w0);
            RV_SHA256_ROUNDS(abef, cdgh, w1, t + 4);
            RV_SHA256_SCHEDULE(w2, w3, w0, w1);
            RV_SHA256_ROUNDS(abef, cdgh, w2, t + 8);
            RV_SHA256_SCHEDULE(w3, w0, w1, w2);
            RV_SHA256_ROUNDS(abef, cdgh, w3, t + 12);
        }
        abef = _mm_add_epi32(abef, abef0);
        cdgh = _mm_add_epi32(cdgh, cdgh0);
    }
    rv_sha256_unpack(state, abef, cdgh);
}

#define RV_SHA256_PAIR_ROUNDS(wa, wb, t)                                                           \
    do {                                                                                           \
        RV_SHA256_ROUNDS(abef_a, cdgh_a, wa, t);                                                   \
        RV_SHA256_ROUNDS(abef_b, cdgh_b, wb, t);                                                   \
    } while (0)

#define RV_SHA256_PAIR_STEP(i, j, k, l, t)                                                         \
    do {                                                                                           \
        RV_SHA256_SCHEDULE(a##i, a##j, a##k, a##l);                                                \
        RV_SHA256_SCHEDULE(b##i, b##j, b##k, b##l);                                                \
        RV_SHA256_PAIR_ROUNDS(a##i, b##i, t);                                                      \
    } while (0)

RV_SHA256_CRC_TARGET static inline uint64_t rv_sha256_crc_block(uint64_t crc, const uint8_t *data) {
    for (int i = 0; i < 64; i += 8) crc = _mm_crc32_u64(crc, rv_load64(data + i));
    return crc;
}

/* The same number of blocks of two messages; with_crc is a constant at both call sites. */
RV_SHA256_CRC_TARGET static inline void
rv_sha256_ni_pair_template(rv_sha256_lane *a, rv_sha256_lane *b, size_t blocks, int with_crc) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    const uint8_t *data_a = a->at, *data_b = b->at;
    uint64_t crc_a = a->crc, crc_b = b->crc;
    __m128i abef_a, cdgh_a, abef_b, cdgh_b;
    rv_sha256_pack(a->state, &abef_a, &cdgh_a);
    rv_sha256_pack(b->state, &abef_b, &cdgh_b);
    for (; blocks > 0; blocks--, data_a += RV_SHA256_BLOCK, data_b += RV_SHA256_BLOCK) {
        const __m128i abef_a0 = abef_a, cdgh_a0 = cdgh_a, abef_b0 = abef_b, cdgh_b0 = cdgh_b;
        __m128i a0 = RV_SHA256_LOAD(data_a, 0), b0 = RV_SHA256_LOAD(data_b, 0);
        RV_SHA256_PAIR_ROUNDS(a0, b0, 0);
        __m128i a1 = RV_SHA256_LOAD(data_a, 1), b1 = RV_SHA256_LOAD(data_b, 1);
        RV_SHA256_PAIR_ROUNDS(a1, b1, 4);
        __m128i a2 = RV_SHA256_LOAD(data_a, 2), b2 = RV_SHA256_LOAD(data_b, 2);
        RV_SHA256_PAIR_ROUNDS(a2, b2, 8);
        __m128i a3 = RV_SHA256_LOAD(data_a, 3), b3 = RV_SHA256_LOAD(data_b, 3);
        RV_SHA256_PAIR_ROUNDS(a3, b3, 12);
        if (with_crc) {
            crc_a = rv_sha256_crc_block(crc_a, data_a);
            crc_b = rv_sha256_crc_block(crc_b, data_b);
        }
#pragma GCC unroll 3
        for (int t = 16; t < 64; t += 16) {
            RV_SHA256_PAIR_STEP(0, 1, 2, 3, t);
            RV_SHA256_PAIR_STEP(1, 2, 3, 0, t + 4);
            RV_SHA256_PAIR_STEP(2, 3, 0, 1, t + 8);
            RV_SHA256_PAIR_STEP(3, 0, 1, 2, t + 12);
        }
        abef_a = _mm_add_epi32(abef_a, abef_a0);
        cdgh_a = _mm_add_epi32(cdgh_a, cdgh_a0);
        abef_b = _mm_add_epi32(abef_b, abef_b0);
        cdgh_b = _mm_add_epi32(cdgh_b, cdgh_b0);
    }
    rv_sha256_unpack(a->state, abef_a, cdgh_a);
    rv_sha256_unpack(b->state, abef_b, cdgh_b);
    a->crc = crc_a;
    b->crc = crc_b;
}

__attribute__((target("sha,sse4.2"), noinline)) static void
rv_sha256_ni_pair(rv_sha256_lane *a, rv_sha256_lane *b, size_t blocks) {
    rv_sha256_ni_pair_template(a, b, blocks, 0);
}

__attribute__((target("sha,sse4.2"), noinline)) static void
rv_sha256_ni_pair_crc32c(rv_sha256_lane *a, rv_sha256_lane *b, size_t blocks) {
    rv_sha256_ni_pair_template(a, b, blocks, 1);
}
#endif

static int rv_sha256_use_ni;

__attribute__((constructor)) static void rv_sha256_prepare(void) {
#if RV_SHA256_HARDWARE
    unsigned int eax, ebx, ecx, edx;
    if (rv_portable_wanted() || !__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return;
    int sse42 = (ecx & bit_SSE4_2) && (ecx & bit_SSE4_1) && (ecx & bit_SSSE3);
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
    rv_sha256_use_ni = sse42 && (ebx & bit_SHA);
#endif
}

static inline void rv_sha256_blocks(uint32_t state[8], const uint8_t *data, size_t blocks) {
#if RV_SHA256_HARDWARE
    if (rv_sha256_use_ni) {
        rv_sha256_ni(state, data, blocks);
        return;
    }
#endif
    rv_sha256_portable(state, data, blocks);
}

static inline void rv_sha256_start(rv_sha256_lane *lane, rv_sha256_message *message) {
    size_t rest = message->nbytes % RV_SHA256_BLOCK;
    uint64_t bits = __builtin_bswap64((uint64_t)message->nbytes * 8);
    memcpy(lane->state, rv_sha256_initial, sizeof lane->state);
    lane->at = message->data;
    lane->blocks = message->nbytes / RV_SHA256_BLOCK;
    lane->tail_blocks = rest + 9 > RV_SHA256_BLOCK ? 2 : 1;
    lane->message = message;
    lane->crc = 0xffffffffu;
    memset(lane->tail, 0, sizeof lane->tail);
    if (rest > 0) memcpy(lane->tail, message->data + message->nbytes - rest, rest);
    lane->tail[rest] = 0x80;
    memcpy(lane->tail + lane->tail_blocks * RV_SHA256_BLOCK - 8, &bits, 8);
}

/* When `at` is used up: on to the tail, or to the digest. 0 when the lane became idle. */
static inline int rv_sha256_turn(rv_sha256_lane *lane) {
    rv_sha256_message *message = lane->message;
    if (lane->tail_blocks > 0) {
        message->crc32c = rv_crc32c(~(uint32_t)lane->crc, lane->tail, message->nbytes % RV_SHA256_BLOCK);
        lane->at = lane->tail;
        lane->blocks = lane->tail_blocks;
        lane->tail_blocks = 0;
        return 1;
    }
    for (int i = 0; i < 8; i++) {
        uint32_t word = __builtin_bswap32(lane->state[i]);
        memcpy(message->digest + 4 * i, &word, 4);
    }
    lane->message = NULL;
    return 0;
}

/* Until the lane has blocks to do, or is idle with no message left to start. */
static inline void rv_sha256_refill(rv_sha256_lane *lane, rv_sha256_message **next,
                                    const rv_sha256_message *end) {
    while (lane->blocks == 0) {
        if (lane->message != NULL && rv_sha256_turn(lane)) continue;
        if (*next == end) return;
        rv_sha256_start(lane, (*next)++);
    }
}

static inline void rv_sha256_step(rv_sha256_lane *lane, size_t blocks) {
    lane->at += blocks * RV_SHA256_BLOCK;
    lane->blocks -= blocks;
}

static inline void rv_sha256_alone(rv_sha256_lane *lane, int with_crc) {
    size_t nbytes = lane->blocks * RV_SHA256_BLOCK;
    if (with_crc && lane->tail_blocks > 0) /* else it is padding */
        lane->crc = (uint32_t)~rv_crc32c(~(uint32_t)lane->crc, lane->at, nbytes);
    rv_sha256_blocks(lane->state, lane->at, lane->blocks);
    rv_sha256_step(lane, lane->blocks);
}

static inline void rv_sha256_run(rv_sha256_message *messages, size_t count, int with_crc) {
    rv_sha256_message *next = messages, *end = messages + count;
    rv_sha256_lane a = {.message = NULL, .blocks = 0}, b = {.message = NULL, .blocks = 0};
    for (;;) {
        rv_sha256_refill(&a, &next, end);
        rv_sha256_refill(&b, &next, end);
        if (a.blocks == 0 && b.blocks == 0) return;
#if RV_SHA256_HARDWARE
        if (a.blocks > 0 && b.blocks > 0 && rv_sha256_use_ni) {
            size_t blocks = a.blocks < b.blocks ? a.blocks : b.blocks;
            (with_crc ? rv_sha256_ni_pair_crc32c : rv_sha256_ni_pair)(&a, &b, blocks);
            rv_sha256_step(&a, blocks);
            rv_sha256_step(&b, blocks);
            continue;
        }
#endif
        rv_sha256_alone(a.blocks > 0 ? &a : &b, with_crc);
    }
}

/* Both lanes stay busy until fewer than two messages are unfinished: give long messages first. */
static inline void rv_sha256_many(rv_sha256_message *messages, size_t count) {
    rv_sha256_run(messages, count, 0);
}

/* The same, and the CRC-32C of each message. */
static inline void rv_sha256_crc32c_many(rv_sha256_message *messages, size_t count) {
    rv_sha256_run(messages, count, 1);
}

static inline void rv_sha256(const void *data, size_t nbytes, uint8_t digest[32]) {
    rv_sha256_message message = {data, nbytes, digest, 0};
    rv_sha256_many(&message, 1);
}

static inline void rv_sha256_by_portable(const void *data, size_t nbytes, uint8_t digest[32]) {
    rv_sha256_message message = {data, nbytes, digest, 0};
    rv_sha256_lane lane;
    rv_sha256_start(&lane, &message);
    do {
        rv_sha256_portable(lane.state, lane.at, lane.blocks);
    } while (rv_sha256_turn(&lane));
}

#define RV_MERKLE_BATCH 128u

/* Replaces n hashes by the hashes of their neighbouring pairs; an odd last one goes up as it is.
 * Level by level this gives the tree of RFC 6962 section 2.1, which splits at the largest power of
 * two below n: every left subtree is full. Returns the new n. */
static inline size_t rv_merkle_level(uint8_t *hashes, size_t count) {
    uint8_t nodes[RV_MERKLE_BATCH][65], digests[RV_MERKLE_BATCH][32];
    rv_sha256_message messages[RV_MERKLE_BATCH];
    size_t pairs = count / 2;
    for (size_t done = 0; done < pairs;) {
        size_t batch = pairs - done < RV_MERKLE_BATCH ? pairs - done : RV_MERKLE_BATCH;
        for (size_t i = 0; i < batch; i++) {
            nodes[i][0] = 1;
            memcpy(nodes[i] + 1, hashes + 64 * (done + i), 64);
            messages[i] = (rv_sha256_message){nodes[i], 65, digests[i], 0};
        }
        rv_sha256_many(messages, batch);
        memcpy(hashes + 32 * done, digests, 32 * batch);
        done += batch;
    }
    if (count % 2) memmove(hashes + 32 * pairs, hashes + 32 * (count - 1), 32);
    return pairs + count % 2;
}

/* MTH over leaf hashes (not leaves), which are overwritten; MTH of none is SHA-256 of nothing. */
static inline void rv_merkle_root(uint8_t *hashes, size_t count, uint8_t root[32]) {
    if (count == 0) {
        rv_sha256("", 0, root);
        return;
    }
    while (count > 1) count = rv_merkle_level(hashes, count);
    memcpy(root, hashes, 32);
}

#endif
