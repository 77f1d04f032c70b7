/* CRC-32C (Castagnoli; RFC 3720 appendix B.4): two implementations, chosen once at load time.
 *
 * Hardware: the SSE4.2 crc32 instruction takes three cycles and starts one a cycle, so long inputs
 * are read as three streams side by side. Their CRCs are joined by multiplying with a power of x,
 * by carry-less multiplication (PCLMULQDQ). Table: slicing by eight. RINGVAULT_PORTABLE=1 in the
 * environment, here and in sha256.h, chooses what runs on a processor without the instructions.
 *
 * Polynomials over GF(2) are bit-reflected throughout: bit 31 of a CRC is the coefficient of x^0.
 */
#ifndef RINGVAULT_CRC32C_H
#define RINGVAULT_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <nmmintrin.h>
#include <wmmintrin.h>
#define RV_CRC32C_HARDWARE 1
#else
#define RV_CRC32C_HARDWARE 0
#endif

#define RV_CRC32C_POLYNOMIAL 0x82f63b78u
#define RV_CRC32C_LONG 2048u /* bytes of each of three streams */
#define RV_CRC32C_SHORT 256u

static inline int rv_portable_wanted(void) {
    const char *value = getenv("RINGVAULT_PORTABLE");
    return value != NULL && strcmp(value, "1") == 0;
}

static struct {
    uint32_t table[8][256];
    /* x^(8n - 33) mod P: multiplying by it moves a CRC n bytes on (the -33 is what the product
     * and the final reduction by the crc32 instruction add) */
    uint32_t long_once, long_twice, short_once, short_twice;
    uint32_t power[32];  /* x^(8 * 2^k) mod P: over 2^k bytes */
    uint32_t factor[32]; /* the same times x^-33, for rv_crc32c_shift */
    int hardware;
} rv_crc32c_state;

static inline uint32_t rv_crc32c_table(uint32_t crc, const void *data, size_t nbytes) {
    const uint32_t(*table)[256] = rv_crc32c_state.table;
    const uint8_t *at = data;
    crc = ~crc;
    for (; nbytes >= 8; nbytes -= 8, at += 8) {
        crc ^= (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        crc = table[7][crc & 255] ^ table[6][crc >> 8 & 255] ^ table[5][crc >> 16 & 255] ^
              table[4][crc >> 24] ^ table[3][at[4]] ^ table[2][at[5]] ^ table[1][at[6]] ^
              table[0][at[7]];
    }
    while (nbytes-- > 0) crc = crc >> 8 ^ table[0][(crc ^ *at++) & 255];
    return ~crc;
}

/* x^n mod P */
static inline uint32_t rv_crc32c_power(uint32_t n) {
    uint32_t value = 0x80000000u;
    while (n-- > 0) value = value >> 1 ^ (value & 1 ? RV_CRC32C_POLYNOMIAL : 0);
    return value;
}

#if RV_CRC32C_HARDWARE
static inline uint64_t rv_load64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

/* The CRC after as many zero bytes as the factor stands for. */
__attribute__((target("sse4.2,pclmul"))) static inline uint64_t
rv_crc32c_shift(uint64_t crc, uint32_t factor) {
    __m128i product =
        _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), _mm_cvtsi32_si128((int)factor), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* Three streams of `stride` bytes each, one behind the other. */
__attribute__((target("sse4.2,pclmul"))) static inline uint64_t
rv_crc32c_three(uint64_t crc, const uint8_t *at, size_t stride, uint32_t once, uint32_t twice) {
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < stride; i += 8) {
        a = _mm_crc32_u64(a, rv_load64(at + i));
        b = _mm_crc32_u64(b, rv_load64(at + stride + i));
        c = _mm_crc32_u64(c, rv_load64(at + 2 * stride + i));
    }
    return rv_crc32c_shift(a, twice) ^ rv_crc32c_shift(b, once) ^ c;
}

__attribute__((target("sse4.2,pclmul"))) static inline uint32_t
rv_crc32c_sse42(uint32_t value, const void *data, size_t nbytes) {
    const uint8_t *at = data;
    uint64_t crc = ~value;
    for (; nbytes >= 3 * RV_CRC32C_LONG; nbytes -= 3 * RV_CRC32C_LONG, at += 3 * RV_CRC32C_LONG)
        crc = rv_crc32c_three(crc, at, RV_CRC32C_LONG, rv_crc32c_state.long_once,
                              rv_crc32c_state.long_twice);
    for (; nbytes >= 3 * RV_CRC32C_SHORT; nbytes -= 3 * RV_CRC32C_SHORT, at += 3 * RV_CRC32C_SHORT)
        crc = rv_crc32c_three(crc, at, RV_CRC32C_SHORT, rv_crc32c_state.short_once,
                              rv_crc32c_state.short_twice);
    for (; nbytes >= 8; nbytes -= 8, at += 8) crc = _mm_crc32_u64(crc, rv_load64(at));
    uint32_t crc32 = (uint32_t)crc;
    while (nbytes-- > 0) crc32 = _mm_crc32_u8(crc32, *at++);
    return ~crc32;
}
#endif

static inline int rv_crc32c_hardware(void) { return rv_crc32c_state.hardware; }

/* CRC-32C of data, going on from `crc` (0 to begin). */
static inline uint32_t rv_crc32c(uint32_t crc, const void *data, size_t nbytes) {
#if RV_CRC32C_HARDWARE
    if (rv_crc32c_state.hardware) return rv_crc32c_sse42(crc, data, nbytes);
#endif
    return rv_crc32c_table(crc, data, nbytes);
}

/* a * b mod P */
static inline uint32_t rv_crc32c_multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        if (a & bit) product ^= b;
        b = b >> 1 ^ (b & 1 ? RV_CRC32C_POLYNOMIAL : 0);
    }
    return product;
}

#if RV_CRC32C_HARDWARE
__attribute__((target("sse4.2,pclmul"))) static inline uint32_t
rv_crc32c_move_sse42(uint32_t crc, uint32_t nbytes) {
    uint64_t moved = crc;
    for (; nbytes != 0; nbytes &= nbytes - 1)
        moved = rv_crc32c_shift(moved, rv_crc32c_state.factor[__builtin_ctz(nbytes)]);
    return (uint32_t)moved;
}
#endif

/* The CRC of A || B out of the CRCs of A and of B, which is nbytes long. */
static inline uint32_t rv_crc32c_join(uint32_t crc_a, uint32_t crc_b, uint32_t nbytes) {
#if RV_CRC32C_HARDWARE
    if (rv_crc32c_state.hardware) return rv_crc32c_move_sse42(crc_a, nbytes) ^ crc_b;
#endif
    for (; nbytes != 0; nbytes &= nbytes - 1)
        crc_a = rv_crc32c_multiply(crc_a, rv_crc32c_state.power[__builtin_ctz(nbytes)]);
    return crc_a ^ crc_b;
}

/* Runs once, when the module that includes this is loaded: no lock is needed later. */
__attribute__((constructor)) static void rv_crc32c_prepare(void) {
    uint32_t(*table)[256] = rv_crc32c_state.table;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? RV_CRC32C_POLYNOMIAL : 0);
        table[0][i] = crc;
    }
    for (int slice = 1; slice < 8; slice++)
        for (uint32_t i = 0; i < 256; i++)
            table[slice][i] = table[slice - 1][i] >> 8 ^ table[0][table[slice - 1][i] & 255];
    rv_crc32c_state.power[0] = rv_crc32c_power(8);
    uint32_t back = 0x80000000u; /* x^-33: thirty-three steps of rv_crc32c_power undone */
    for (int i = 0; i < 33; i++)
        back = back >> 31 ? (back ^ RV_CRC32C_POLYNOMIAL) << 1 | 1 : back << 1;
    for (int k = 0; k < 32; k++) {
        uint32_t *power = &rv_crc32c_state.power[k];
        if (k > 0) *power = rv_crc32c_multiply(power[-1], power[-1]);
        rv_crc32c_state.factor[k] = rv_crc32c_multiply(*power, back);
    }
#if RV_CRC32C_HARDWARE
    unsigned int eax, ebx, ecx, edx;
    rv_crc32c_state.long_once = rv_crc32c_power(8 * RV_CRC32C_LONG - 33);
    rv_crc32c_state.long_twice = rv_crc32c_power(16 * RV_CRC32C_LONG - 33);
    rv_crc32c_state.short_once = rv_crc32c_power(8 * RV_CRC32C_SHORT - 33);
    rv_crc32c_state.short_twice = rv_crc32c_power(16 * RV_CRC32C_SHORT - 33);
    if (!rv_portable_wanted() && __get_cpuid(1, &eax, &ebx, &ecx, &edx))
        rv_crc32c_state.hardware = (ecx & bit_SSE4_2) && (ecx & bit_PCLMUL);
#endif
}

#endif
