/* Arenas: page-aligned memory in power-of-two size classes, handed out and taken back from any
 * thread, with a bound on what is in use and a bound on what is kept spare.
 *
 * A pool lives until its owner closed it and the last arena came back, so a fragment may outlive
 * the object that made it. Spare arenas are poisoned under AddressSanitizer: a use after release
 * is found although the memory stays mapped.
 *
 * Python is never touched here: all of it may be called without the GIL.
 */
#ifndef RINGVAULT_ARENA_H
#define RINGVAULT_ARENA_H

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fragment.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define RV_POISON(address, nbytes) __asan_poison_memory_region(address, nbytes)
#define RV_UNPOISON(address, nbytes) __asan_unpoison_memory_region(address, nbytes)
#else
#define RV_POISON(address, nbytes) ((void)(address), (void)(nbytes))
#define RV_UNPOISON(address, nbytes) ((void)(address), (void)(nbytes))
#endif

#define RV_ARENA_SHIFT_MIN 17 /* 128 KiB: one second at 0.8 Mbit/s */
#define RV_ARENA_SHIFT_MAX 25 /* 32 MiB: one access unit of 16 MiB and its headroom */
#define RV_ARENA_CLASSES (RV_ARENA_SHIFT_MAX - RV_ARENA_SHIFT_MIN + 1)
#define RV_ARENA_BYTES_MIN ((uint64_t)1 << RV_ARENA_SHIFT_MIN)
#define RV_ARENA_BYTES_MAX ((uint64_t)1 << RV_ARENA_SHIFT_MAX)
#define RV_PAYLOAD_BYTES_MAX (RV_ARENA_BYTES_MAX - RV_HEADROOM_BYTES)

typedef struct rv_pool {
    pthread_mutex_t mutex;
    uint64_t references; /* the owner, and every arena in use */
    uint64_t bytes_max;
    uint64_t spare_bytes_max;
    uint64_t bytes_in_use;
    uint64_t bytes_spare;
    uint64_t exhausted_count;
    uint8_t *spare[RV_ARENA_CLASSES]; /* linked through the first payload bytes */
    uint64_t spare_count[RV_ARENA_CLASSES];
} rv_pool;

/* The link lies where the payload begins: a page that was in use anyway. */
static inline uint8_t **rv_arena_link(uint8_t *arena) {
    return (uint8_t **)(void *)(arena + RV_HEADROOM_BYTES);
}

static inline int rv_arena_class(uint64_t nbytes) {
    int shift = RV_ARENA_SHIFT_MIN;
    while (((uint64_t)1 << shift) < nbytes) shift++;
    return shift - RV_ARENA_SHIFT_MIN;
}

static inline uint64_t rv_arena_class_bytes(int index) { return RV_ARENA_BYTES_MIN << index; }

static inline uint8_t *rv_arena_map(uint64_t nbytes) {
    void *memory = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    /* A huge page would make a half-filled arena resident in full. */
    (void)madvise(memory, nbytes, MADV_NOHUGEPAGE);
    return memory;
}

static inline void rv_arena_unmap(uint8_t *arena, uint64_t nbytes) {
    RV_UNPOISON(arena, nbytes);
    (void)munmap(arena, nbytes);
}

/* mutex held */
static inline uint8_t *rv_pool_pop(rv_pool *pool, int index) {
    uint8_t *arena = pool->spare[index];
    RV_UNPOISON(arena, rv_arena_class_bytes(index));
    pool->spare[index] = *rv_arena_link(arena);
    pool->spare_count[index]--;
    pool->bytes_spare -= rv_arena_class_bytes(index);
    return arena;
}

/* mutex held */
static inline void rv_pool_push(rv_pool *pool, int index, uint8_t *arena) {
    *rv_arena_link(arena) = pool->spare[index];
    pool->spare[index] = arena;
    pool->spare_count[index]++;
    pool->bytes_spare += rv_arena_class_bytes(index);
    RV_POISON(arena, rv_arena_class_bytes(index));
}

static inline rv_pool *rv_pool_new(uint64_t bytes_max, uint64_t spare_bytes_max) {
    rv_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) return NULL;
    if (pthread_mutex_init(&pool->mutex, NULL) != 0) {
        free(pool);
        return NULL;
    }
    pool->references = 1;
    pool->bytes_max = bytes_max;
    pool->spare_bytes_max = spare_bytes_max;
    return pool;
}

static inline void rv_pool_free(rv_pool *pool) {
    for (int index = 0; index < RV_ARENA_CLASSES; index++)
        while (pool->spare[index] != NULL)
            rv_arena_unmap(rv_pool_pop(pool, index), rv_arena_class_bytes(index));
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* The owner lets go. Arenas in use keep the pool alive until they come back. */
static inline void rv_pool_close(rv_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    uint64_t left = --pool->references;
    pthread_mutex_unlock(&pool->mutex);
    if (left == 0) rv_pool_free(pool);
}

/* At least nbytes, page-aligned, contents undefined; NULL (counted) when the pool is exhausted,
 * the kernel gives no memory, or nbytes is more than RV_ARENA_BYTES_MAX. */
static inline uint8_t *rv_pool_take(rv_pool *pool, uint64_t nbytes, uint64_t *capacity_bytes) {
    uint8_t *arena = NULL;
    if (nbytes > RV_ARENA_BYTES_MAX) {
        pthread_mutex_lock(&pool->mutex);
        pool->exhausted_count++;
        pthread_mutex_unlock(&pool->mutex);
        return NULL;
    }
    int index = rv_arena_class(nbytes);
    uint64_t class_bytes = rv_arena_class_bytes(index);
    pthread_mutex_lock(&pool->mutex);
    if (pool->bytes_in_use + class_bytes > pool->bytes_max) {
        pool->exhausted_count++;
        pthread_mutex_unlock(&pool->mutex);
        return NULL;
    }
    pool->bytes_in_use += class_bytes;
    pool->references++;
    if (pool->spare[index] != NULL) arena = rv_pool_pop(pool, index);
    pthread_mutex_unlock(&pool->mutex);
    if (arena == NULL) arena = rv_arena_map(class_bytes);
    if (arena == NULL) {
        /* The caller holds the pool, so this reference is not the last one. */
        pthread_mutex_lock(&pool->mutex);
        pool->bytes_in_use -= class_bytes;
        pool->references--;
        pool->exhausted_count++;
        pthread_mutex_unlock(&pool->mutex);
        return NULL;
    }
    *capacity_bytes = class_bytes;
    return arena;
}

/* Which class to shrink so that one more arena of `index` may be kept spare: the one that holds
 * most, so that the spare list follows the sizes in demand; -1: this arena itself is the excess. */
static inline int rv_pool_victim(const rv_pool *pool, int index) {
    int victim = -1;
    uint64_t most = pool->spare_count[index] * rv_arena_class_bytes(index);
    for (int other = 0; other < RV_ARENA_CLASSES; other++) {
        uint64_t held = pool->spare_count[other] * rv_arena_class_bytes(other);
        if (other != index && held > most) {
            most = held;
            victim = other;
        }
    }
    return victim;
}

/* Back to the pool. Afterwards the pool may be gone, when its owner is. */
static inline void rv_pool_give(rv_pool *pool, uint8_t *arena, uint64_t capacity_bytes) {
    int index = rv_arena_class(capacity_bytes);
    uint8_t *evicted = NULL;
    uint64_t evicted_bytes = 0;
    pthread_mutex_lock(&pool->mutex);
    pool->bytes_in_use -= capacity_bytes;
    if (pool->bytes_spare + capacity_bytes > pool->spare_bytes_max) {
        int victim = rv_pool_victim(pool, index);
        if (victim >= 0) {
            evicted = rv_pool_pop(pool, victim);
            evicted_bytes = rv_arena_class_bytes(victim);
        }
    }
    int kept = pool->bytes_spare + capacity_bytes <= pool->spare_bytes_max;
    if (kept) rv_pool_push(pool, index, arena);
    uint64_t left = --pool->references;
    pthread_mutex_unlock(&pool->mutex);
    if (evicted != NULL) rv_arena_unmap(evicted, evicted_bytes);
    if (!kept) rv_arena_unmap(arena, capacity_bytes);
    if (left == 0) rv_pool_free(pool);
}

typedef struct {
    uint64_t bytes_in_use;
    uint64_t bytes_spare;
    uint64_t exhausted_count;
} rv_pool_use;

static inline rv_pool_use rv_pool_read(rv_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    rv_pool_use use = {pool->bytes_in_use, pool->bytes_spare, pool->exhausted_count};
    pthread_mutex_unlock(&pool->mutex);
    return use;
}

/* A new, empty fragment with room for payload_bytes; NULL when there is no memory. The caller
 * sets codec, clock_rate and config_generation. */
static inline rv_fragment *rv_fragment_open(rv_pool *pool, uint64_t payload_bytes) {
    rv_fragment *f = malloc(sizeof *f);
    if (f == NULL) return NULL;
    memset(f, 0, offsetof(rv_fragment, header));
    f->arena = rv_pool_take(pool, RV_HEADROOM_BYTES + payload_bytes, &f->capacity_bytes);
    if (f->arena == NULL) {
        free(f);
        return NULL;
    }
    f->pool = pool;
    return f;
}

/* Gives the arena back; the facts stay readable. */
static inline void rv_fragment_release(rv_fragment *f) {
    if (f->arena == NULL) return;
    rv_pool_give(f->pool, f->arena, f->capacity_bytes);
    f->arena = NULL;
    f->pool = NULL;
    f->capacity_bytes = 0;
}

static inline void rv_fragment_free(rv_fragment *f) {
    if (f == NULL) return;
    rv_fragment_release(f);
    free(f);
}

static inline uint8_t *rv_fragment_payload(const rv_fragment *f) {
    return f->arena + RV_HEADROOM_BYTES;
}

/* Payload bytes that fit without growing. The capacity is whole blocks, so padding always fits. */
static inline uint64_t rv_fragment_room(const rv_fragment *f) {
    return f->capacity_bytes - RV_HEADROOM_BYTES;
}

/* Makes room for payload_bytes in all, keeping the first used_bytes (complete access units and
 * the one in progress). 0, or -1 when there is no memory: the fragment is then as before. */
static inline int rv_fragment_reserve(rv_fragment *f, uint64_t used_bytes, uint64_t payload_bytes) {
    if (payload_bytes <= rv_fragment_room(f)) return 0;
    uint64_t capacity_bytes;
    uint8_t *arena = rv_pool_take(f->pool, RV_HEADROOM_BYTES + payload_bytes, &capacity_bytes);
    if (arena == NULL) return -1;
    memcpy(arena + RV_HEADROOM_BYTES, rv_fragment_payload(f), used_bytes);
    rv_pool_give(f->pool, f->arena, f->capacity_bytes);
    f->arena = arena;
    f->capacity_bytes = capacity_bytes;
    return 0;
}

/* Takes the next size_bytes of the payload, which the caller has written, as one access unit.
 * flags are RV_FRAME_*. -1 when the fragment is full or the timestamp is too far from the first. */
static inline int rv_fragment_add(rv_fragment *f, uint32_t size_bytes, int64_t rtp, int64_t recv_ns,
                                  uint16_t flags, uint16_t nal_count) {
    if (f->frame_count >= RV_FRAMES_MAX || f->clock_rate == 0) return -1;
    if (f->payload_bytes + (uint64_t)size_bytes > rv_fragment_room(f)) return -1;
    int first = f->frame_count == 0;
    if (first) {
        f->rtp_first = rtp;
        f->recv_first_ns = f->recv_last_ns = recv_ns;
        f->pts_min_ticks = f->pts_max_ticks = 0;
    }
    int64_t pts = rtp - f->rtp_first;
    if (pts < INT32_MIN || pts > INT32_MAX) return -1;
    int64_t since_first_us = (recv_ns - f->recv_first_ns) / 1000;
    if (since_first_us < 0) since_first_us = 0;
    if (since_first_us > UINT32_MAX) since_first_us = UINT32_MAX;

    rv_frame_entry *entry = &f->frames[f->frame_count++];
    entry->size_bytes = size_bytes;
    entry->pts_ticks = (int32_t)pts;
    entry->recv_us = (uint32_t)since_first_us;
    entry->flags = flags;
    entry->nal_count = nal_count;
    memset(entry->sha256, 0, sizeof entry->sha256);
    f->payload_bytes += size_bytes;

    if (flags & RV_FRAME_KEY) f->flags |= RV_RECORD_KEY;
    if (flags & RV_FRAME_LOSS) f->flags |= RV_RECORD_LOSS;
    if (!first && pts < f->pts_max_ticks) f->flags |= RV_RECORD_REORDERED;
    if (pts < f->pts_min_ticks) f->pts_min_ticks = (int32_t)pts;
    if (pts > f->pts_max_ticks) f->pts_max_ticks = (int32_t)pts;
    if (recv_ns > f->recv_last_ns) f->recv_last_ns = recv_ns;
    /* |pts| < 2^31 and 10^9 < 2^30: no overflow */
    int64_t offset_ns = recv_ns - pts * 1000000000 / (int64_t)f->clock_rate;
    if (first || offset_ns < f->earliest_recv_minus_rtp_ns)
        f->earliest_recv_minus_rtp_ns = offset_ns;
    return 0;
}

/* The presentation times in rising order: they are also the decoding times of the fragment. */
static inline void rv_sorted_pts(const rv_frame_entry *frames, uint32_t count, int32_t *sorted) {
    for (uint32_t i = 0; i < count; i++) { /* nearly sorted already: insertion */
        int32_t pts = frames[i].pts_ticks;
        uint32_t at = i;
        for (; at > 0 && sorted[at - 1] > pts; at--) sorted[at] = sorted[at - 1];
        sorted[at] = pts;
    }
}

/* The median distance of neighbouring frames in presentation order; 0 for a single frame. */
static inline int32_t rv_fragment_usual_delta(const rv_fragment *f) {
    int32_t sorted[RV_FRAMES_MAX], deltas[RV_FRAMES_MAX];
    if (f->frame_count < 2) return 0;
    rv_sorted_pts(f->frames, f->frame_count, sorted);
    uint32_t count = f->frame_count - 1u;
    for (uint32_t i = 0; i < count; i++) {
        int64_t wide = (int64_t)sorted[i + 1] - sorted[i];
        int32_t delta = wide > INT32_MAX ? INT32_MAX : (int32_t)wide;
        uint32_t at = i;
        for (; at > 0 && deltas[at - 1] > delta; at--) deltas[at] = deltas[at - 1];
        deltas[at] = delta;
    }
    return deltas[count / 2];
}

#endif
