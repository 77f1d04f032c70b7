/* NAL unit pieces to access units, access units to fragments.
 *
 * Writes the payload of one fragment arena: complete access units, then the one in progress
 * (docs/design/volume-format.md, Record). Decides where an access unit ends and where a fragment
 * does. Never looks at sequence numbers, never reorders, never drops a complete NAL unit unless
 * the whole access unit is over the limit or there is no arena for it.
 *
 * - `open` holds only complete access units in [0, payload_bytes); the one in progress lies behind.
 * - An access unit in progress exists only between rv_unit_begin and rv_unit_end; while it is
 *   `dropped` nothing of it is stored, but its end is still watched for.
 * - Every loss ends up in the interval of exactly one fragment: `pending` until an access unit is
 *   committed.
 */
#ifndef RINGVAULT_ACCESS_UNIT_H
#define RINGVAULT_ACCESS_UNIT_H

#include "arena.h"
#include "parameter_sets.h"

/* A high bit rate may grow the arena of a track so far; one large access unit further. */
#define RV_GROWN_ARENA_BYTES_MAX ((uint64_t)8 << 20)

typedef struct rv_closed {
    rv_fragment *fragment;
    rv_parameter_snapshot *parameter_sets;
    struct rv_closed *next;
} rv_closed;

/* Losses not yet attributed to a fragment; [from, to) in extended RTP time. */
typedef struct {
    uint8_t any;
    uint32_t packets;
    uint32_t oversize;
    uint32_t exhausted;
    int64_t from_rtp;
    int64_t to_rtp;
} rv_losses;

typedef struct {
    uint8_t active;
    uint8_t dropped;
    uint8_t vcl; /* a slice was seen, complete or not */
    uint8_t after_loss; /* something before it is missing, as far as known nothing of it */
    uint8_t damaged;    /* something of it is missing, or may be */
    uint8_t placed;   /* its first NAL unit decided about the fragment in front of it */
    uint8_t nal_open; /* a fragmented NAL unit is not complete yet */
    uint8_t nal_type;
    uint16_t flags;
    uint32_t nal_count;
    uint32_t nbytes;
    uint32_t nal_start; /* of the open NAL unit's length field, from the access unit's start */
    int64_t rtp;
    int64_t recv_ns; /* of the last packet that brought something */
} rv_access_unit;

typedef struct {
    uint64_t access_units;
    uint64_t key_frames;
    uint64_t oversize_access_units;
    uint64_t exhausted_access_units;
    uint64_t incomplete_nals;
    uint64_t malformed_parameter_sets;
    int64_t last_access_unit_recv_ns;
    uint32_t key_interval_frames;
    uint32_t frames_since_key;
} rv_unit_counters;

typedef struct {
    rv_pool *pool;
    int codec;
    uint32_t clock_rate;
    uint32_t access_unit_bytes_max;
    int64_t fragment_age_max_ns;

    rv_access_unit unit;
    rv_fragment *open;
    rv_closed *open_node; /* allocated with `open`, so closing it cannot fail */
    rv_closed *closed_first;
    rv_closed *closed_last;
    rv_losses pending;
    rv_parameter_table parameters;

    uint8_t break_before;  /* the next access unit begins a fragment: its time does not follow */
    uint8_t committed;     /* the last frame of `open` is at committed_rtp and may be resumed */
    uint8_t fragment_done; /* one was closed */
    uint8_t config_changed;
    uint8_t no_memory;
    int64_t committed_rtp;
    int32_t frame_ticks; /* distance of the last two access units */
    int32_t usual_ticks; /* of the last fragment that had two frames */
    uint64_t arena_bytes;  /* what the next arena should have */
    uint32_t small_fragments;
    rv_unit_counters counters;
    rv_unit_counters before; /* the last commit, to take it back */
} rv_assembler;

static inline int32_t rv_frame_ticks(const rv_assembler *a) {
    if (a->frame_ticks > 0) return a->frame_ticks;
    return a->clock_rate >= 25 ? (int32_t)(a->clock_rate / 25) : 1;
}

static inline uint64_t rv_unit_used(const rv_assembler *a) {
    return a->open->payload_bytes + (uint64_t)a->unit.nbytes;
}

static inline uint8_t *rv_unit_bytes(const rv_assembler *a) {
    return rv_fragment_payload(a->open) + a->open->payload_bytes;
}

/* Frames in [from_rtp, to_rtp) are missing or damaged. */
static inline void rv_note_loss(rv_assembler *a, uint32_t packets, int64_t from_rtp,
                                int64_t to_rtp) {
    rv_losses *p = &a->pending;
    if (to_rtp <= from_rtp) to_rtp = from_rtp + rv_frame_ticks(a);
    if (!p->any || from_rtp < p->from_rtp) p->from_rtp = from_rtp;
    if (!p->any || to_rtp > p->to_rtp) p->to_rtp = to_rtp;
    p->any = 1;
    p->packets += packets;
}

static inline void rv_attribute_losses(rv_assembler *a, rv_fragment *f) {
    rv_losses *p = &a->pending;
    if (!p->any) return;
    int first = f->lost_to_rtp <= f->lost_from_rtp;
    if (first || p->from_rtp < f->lost_from_rtp) f->lost_from_rtp = p->from_rtp;
    if (first || p->to_rtp > f->lost_to_rtp) f->lost_to_rtp = p->to_rtp;
    f->lost_packets += p->packets;
    f->oversize_count += p->oversize;
    f->exhausted_count += p->exhausted;
    f->flags |= RV_RECORD_LOSS;
    memset(p, 0, sizeof *p);
}

/* ---- fragments ---- */

static inline int rv_open_fragment(rv_assembler *a, uint64_t payload_bytes) {
    uint64_t room = a->arena_bytes - RV_HEADROOM_BYTES;
    rv_closed *node = calloc(1, sizeof *node);
    if (node == NULL) return -1;
    rv_fragment *f = rv_fragment_open(a->pool, payload_bytes > room ? payload_bytes : room);
    if (f == NULL) {
        free(node);
        return -1;
    }
    f->codec = (uint16_t)a->codec;
    f->clock_rate = a->clock_rate;
    a->open = f;
    a->open_node = node;
    return 0;
}

/* Fragments that leave most of their arena empty get a smaller one after a while. */
static inline void rv_adapt_arena(rv_assembler *a, const rv_fragment *f) {
    uint64_t used = RV_HEADROOM_BYTES + (uint64_t)f->payload_bytes;
    if (used * 4 > f->capacity_bytes || a->arena_bytes <= RV_ARENA_BYTES_MIN) {
        a->small_fragments = 0;
    } else if (++a->small_fragments >= RV_SHRINK_FRAGMENTS_MIN) {
        a->arena_bytes /= 2;
        a->small_fragments = 0;
    }
}

/* `open` with its complete access units goes to the closed ones; `next` tells whether the access
 * unit in progress is known to follow it. There must be at least one frame. */
static inline void rv_close_fragment(rv_assembler *a, int next_known) {
    rv_fragment *f = a->open;
    rv_closed *node = a->open_node;
    int32_t usual = rv_fragment_usual_delta(f);
    if (usual > 0) a->usual_ticks = usual;
    f->last_delta_ticks = a->usual_ticks > 0 ? a->usual_ticks : rv_frame_ticks(a);
    f->next_rtp_known = next_known;
    f->next_rtp = next_known ? a->unit.rtp : 0;
    node->fragment = f;
    node->parameter_sets = a->parameters.snapshot;
    node->parameter_sets->references++;
    f->config_generation = node->parameter_sets->generation;
    if (a->closed_last != NULL)
        a->closed_last->next = node;
    else
        a->closed_first = node;
    a->closed_last = node;
    a->open = NULL;
    a->open_node = NULL;
    a->committed = 0;
    a->fragment_done = 1;
    rv_adapt_arena(a, f);
}

static inline void rv_discard_open(rv_assembler *a) {
    rv_fragment_free(a->open);
    free(a->open_node);
    a->open = NULL;
    a->open_node = NULL;
    a->committed = 0;
}

/* ---- the access unit in progress ---- */

static inline void rv_drop_unit(rv_assembler *a, int oversize) {
    rv_access_unit *u = &a->unit;
    if (u->dropped) return;
    u->dropped = 1;
    u->nbytes = 0;
    u->nal_count = 0;
    if (oversize) {
        a->counters.oversize_access_units++;
        a->pending.oversize++;
    } else {
        a->counters.exhausted_access_units++;
        a->pending.exhausted++;
    }
    rv_note_loss(a, 0, u->rtp, u->rtp + rv_frame_ticks(a));
    if (a->open != NULL && a->open->frame_count == 0) rv_discard_open(a);
}

/* Closes the fragment in front of the access unit in progress, which moves to a new arena with
 * room for `payload_bytes`. -1: there is none, the access unit is dropped. */
static inline int rv_split_before_unit(rv_assembler *a, uint64_t payload_bytes) {
    rv_fragment *old = a->open;
    rv_access_unit *u = &a->unit;
    if (old == NULL || old->frame_count == 0) return 0;
    int known = u->active && !u->dropped && !a->break_before;
    if (u->nbytes == 0) {
        rv_close_fragment(a, known);
        return 0;
    }
    const uint8_t *from = rv_unit_bytes(a);
    rv_closed *old_node = a->open_node;
    int failed = rv_open_fragment(a, payload_bytes > u->nbytes ? payload_bytes : u->nbytes);
    rv_fragment *new = a->open;
    rv_closed *new_node = a->open_node;
    if (!failed) memcpy(rv_fragment_payload(new), from, u->nbytes);
    a->open = old;
    a->open_node = old_node;
    rv_close_fragment(a, known);
    if (failed) {
        rv_drop_unit(a, 0);
        return -1;
    }
    a->open = new;
    a->open_node = new_node;
    return 0;
}

/* The arena is full: 0 when there is room now or no fragment is open, -1 when the access unit was
 * dropped. */
static inline int rv_grow_for_unit(rv_assembler *a, uint64_t needed) {
    uint64_t capacity = a->open->capacity_bytes;
    if (a->open->frame_count > 0) {
        /* the arena filled before the fragment was old enough: the rate wants a larger one */
        if (capacity < RV_GROWN_ARENA_BYTES_MAX && a->arena_bytes <= capacity)
            a->arena_bytes = capacity * 2;
        a->small_fragments = 0;
        return rv_split_before_unit(a, needed);
    }
    uint64_t doubled = capacity * 2 - RV_HEADROOM_BYTES;
    uint64_t wanted = needed > doubled ? needed : doubled;
    if (wanted > RV_PAYLOAD_BYTES_MAX) wanted = RV_PAYLOAD_BYTES_MAX;
    if (rv_fragment_reserve(a->open, a->unit.nbytes, wanted) == 0) {
        if (a->open->capacity_bytes <= RV_GROWN_ARENA_BYTES_MAX &&
            a->arena_bytes < a->open->capacity_bytes)
            a->arena_bytes = a->open->capacity_bytes;
        return 0;
    }
    rv_drop_unit(a, 0);
    return -1;
}

/* Room for nbytes more of the access unit in progress. -1: it was dropped. */
static inline int rv_unit_room(rv_assembler *a, uint32_t nbytes) {
    uint64_t needed = (uint64_t)a->unit.nbytes + nbytes;
    if (needed > a->access_unit_bytes_max) {
        rv_drop_unit(a, 1);
        return -1;
    }
    if (a->open != NULL && rv_unit_used(a) + nbytes > rv_fragment_room(a->open) &&
        rv_grow_for_unit(a, needed) < 0)
        return -1;
    if (a->open == NULL && rv_open_fragment(a, needed) < 0) {
        rv_drop_unit(a, 0);
        return -1;
    }
    return 0;
}

static inline void rv_unit_begin(rv_assembler *a, int64_t rtp, int64_t recv_ns) {
    memset(&a->unit, 0, sizeof a->unit);
    a->unit.active = 1;
    a->unit.rtp = rtp;
    a->unit.recv_ns = recv_ns;
    a->unit.after_loss = a->pending.any;
}

/* More slices of the frame that was committed last: a camera that marks every packet. */
static inline void rv_unit_resume(rv_assembler *a) {
    rv_access_unit *u = &a->unit;
    rv_fragment *f = a->open;
    const rv_frame_entry *frame = &f->frames[--f->frame_count];
    f->payload_bytes -= frame->size_bytes;
    u->nbytes = frame->size_bytes;
    u->nal_count = frame->nal_count;
    u->flags = frame->flags;
    u->after_loss |= (frame->flags & RV_FRAME_LOSS) != 0;
    u->vcl = 1;
    a->counters.access_units = a->before.access_units;
    a->counters.key_frames = a->before.key_frames;
    a->counters.key_interval_frames = a->before.key_interval_frames;
    a->counters.frames_since_key = a->before.frames_since_key;
    a->committed = 0;
}

/* The first NAL unit decides whether the access unit resumes the last frame or may need a new
 * fragment in front of it. */
static inline void rv_unit_place(rv_assembler *a, const rv_nal_piece *piece) {
    rv_access_unit *u = &a->unit;
    u->placed = 1;
    if (a->committed && !a->break_before && u->rtp == a->committed_rtp &&
        rv_nal_continues_picture(a->codec, piece)) {
        rv_unit_resume(a);
        return;
    }
    rv_fragment *f = a->open;
    if (f != NULL && f->frame_count > 0 &&
        (a->break_before || f->frame_count >= RV_FRAMES_MAX ||
         u->recv_ns - f->recv_first_ns >= a->fragment_age_max_ns))
        rv_split_before_unit(a, 0);
    a->break_before = 0;
}

/* ---- NAL units ---- */

static inline void rv_nal_abort(rv_assembler *a) {
    rv_access_unit *u = &a->unit;
    if (!u->nal_open) return;
    u->nal_open = 0;
    u->damaged = 1;
    a->counters.incomplete_nals++;
    if (!u->dropped) u->nbytes = u->nal_start;
}

static inline void rv_nal_parameter_set(rv_assembler *a, uint32_t nal_bytes) {
    rv_access_unit *u = &a->unit;
    uint8_t copy[RV_PARAMETER_SET_BYTES_MAX];
    const uint8_t *nal = rv_unit_bytes(a) + u->nal_start + 4;
    u->flags |= RV_FRAME_PARAMETER_SETS;
    int verdict = rv_parameter_table_compare(&a->parameters, a->codec, nal, nal_bytes, 1);
    if (verdict == RV_PARAMETERS_REFUSED) a->counters.malformed_parameter_sets++;
    if (verdict != RV_PARAMETERS_CHANGED) return;
    memcpy(copy, nal, nal_bytes);
    (void)rv_split_before_unit(a, 0); /* without an arena the set still counts */
    if (rv_parameter_table_take(&a->parameters, a->codec, copy, nal_bytes, 1) < 0)
        a->no_memory = 1;
    a->config_changed = 1;
}

static inline void rv_nal_end(rv_assembler *a) {
    rv_access_unit *u = &a->unit;
    u->nal_open = 0;
    if (u->dropped) return;
    if (u->nal_count >= RV_NALS_MAX) {
        rv_drop_unit(a, 1);
        return;
    }
    uint8_t *length = rv_unit_bytes(a) + u->nal_start;
    uint32_t nal_bytes = u->nbytes - u->nal_start - 4;
    rv_store_be32(length, nal_bytes);
    u->nal_count++;
    if (rv_nal_is_key(a->codec, u->nal_type))
        u->flags |= RV_FRAME_KEY;
    else if (rv_nal_is_parameter_set(a->codec, u->nal_type))
        rv_nal_parameter_set(a, nal_bytes);
    else if (rv_nal_is_sei(a->codec, u->nal_type) &&
             rv_sei_has_recovery_point(a->codec, length + 4, nal_bytes))
        u->flags |= RV_FRAME_RECOVERY_POINT;
}

static inline void rv_nal_begin(rv_assembler *a, const rv_nal_piece *piece) {
    rv_access_unit *u = &a->unit;
    rv_nal_abort(a);
    if (!u->placed) rv_unit_place(a, piece);
    u->nal_open = 1;
    u->nal_type = piece->type;
    if (u->dropped) return;
    const rv_fragment *f = a->open;
    if (rv_nal_is_key(a->codec, piece->type) && !(u->flags & RV_FRAME_KEY) && f != NULL &&
        f->frame_count > 0 && u->recv_ns - f->recv_first_ns >= a->fragment_age_max_ns / 4 * 3 &&
        rv_split_before_unit(a, 0) < 0)
        return;
    u->nal_start = u->nbytes;
    if (rv_unit_room(a, 4 + (uint32_t)piece->header_bytes + piece->nbytes) < 0) return;
    uint8_t *at = rv_unit_bytes(a) + u->nbytes + 4;
    for (uint32_t i = 0; i < piece->header_bytes; i++) at[i] = piece->header[i];
    u->nbytes += 4 + (uint32_t)piece->header_bytes;
}

/* One piece of the access unit in progress. */
static inline void rv_unit_piece(rv_assembler *a, const rv_nal_piece *piece, int64_t recv_ns) {
    rv_access_unit *u = &a->unit;
    if (recv_ns > u->recv_ns) u->recv_ns = recv_ns;
    if (rv_nal_is_vcl(a->codec, piece->type)) u->vcl = 1;
    if (piece->begins) {
        rv_nal_begin(a, piece);
    } else if (!u->nal_open) {
        u->damaged = 1; /* its beginning was lost */
        return;
    }
    if (!u->dropped) {
        if (rv_unit_room(a, piece->nbytes) == 0) {
            memcpy(rv_unit_bytes(a) + u->nbytes, piece->data, piece->nbytes);
            u->nbytes += piece->nbytes;
        }
    }
    if (piece->ends) rv_nal_end(a);
}

/* ---- the end of an access unit ---- */

static inline void rv_count_unit(rv_assembler *a) {
    const rv_access_unit *u = &a->unit;
    rv_unit_counters *c = &a->counters;
    a->before = *c;
    c->access_units++;
    if (u->flags & RV_FRAME_KEY) {
        if (c->key_frames++ > 0) c->key_interval_frames = c->frames_since_key;
        c->frames_since_key = 0;
    }
    c->frames_since_key++;
    c->last_access_unit_recv_ns = u->recv_ns;
    int64_t ticks = u->rtp - a->committed_rtp;
    if (c->access_units > 1 && ticks > 0 &&
        ticks <= (int64_t)RV_TIMESTAMP_JUMP_SECONDS * a->clock_rate && ticks <= INT32_MAX)
        a->frame_ticks = (int32_t)ticks;
    a->committed_rtp = u->rtp;
    a->committed = 1;
}

static inline int rv_commit_unit(rv_assembler *a) {
    rv_access_unit *u = &a->unit;
    uint16_t flags = u->flags | (u->after_loss || u->damaged ? RV_FRAME_LOSS : 0);
    for (int attempt = 0; attempt < 2; attempt++) {
        if (rv_fragment_add(a->open, u->nbytes, u->rtp, u->recv_ns, flags,
                            (uint16_t)u->nal_count) == 0) {
            u->nbytes = 0;
            return 0;
        }
        /* too far from the first frame for 32 bits */
        if (rv_split_before_unit(a, 0) < 0) return -1;
    }
    rv_drop_unit(a, 0);
    return -1;
}

/* Gives the access unit in progress up without a word: it holds no slice. */
static inline void rv_unit_discard(rv_assembler *a) {
    a->unit.active = 0;
    a->unit.nbytes = 0;
    if (a->open != NULL && a->open->frame_count == 0) rv_discard_open(a);
}

/* Ends the access unit in progress: commits it, unless nothing of it is whole. */
static inline void rv_unit_end(rv_assembler *a) {
    rv_access_unit *u = &a->unit;
    if (!u->active) return;
    rv_nal_abort(a);
    if (u->damaged) rv_note_loss(a, 0, u->rtp, u->rtp + rv_frame_ticks(a));
    if (!u->dropped && u->nal_count > 0 && rv_commit_unit(a) == 0) {
        rv_count_unit(a);
        rv_attribute_losses(a, a->open);
    }
    rv_unit_discard(a);
}

/* Closes the open fragment when its first access unit is older than fragment_age_max. */
static inline void rv_assembler_tick(rv_assembler *a, int64_t now_ns) {
    const rv_fragment *f = a->open;
    if (f != NULL && f->frame_count > 0 && now_ns - f->recv_first_ns >= a->fragment_age_max_ns)
        rv_split_before_unit(a, 0);
}

static inline void rv_closed_free(rv_closed *node) {
    rv_fragment_free(node->fragment);
    rv_snapshot_release(node->parameter_sets);
    free(node);
}

static inline rv_closed *rv_closed_pop(rv_assembler *a) {
    rv_closed *node = a->closed_first;
    if (node == NULL) return NULL;
    a->closed_first = node->next;
    if (a->closed_first == NULL) a->closed_last = NULL;
    return node;
}

static inline void rv_assembler_clear(rv_assembler *a) {
    rv_closed *node;
    while ((node = rv_closed_pop(a)) != NULL) rv_closed_free(node);
    rv_discard_open(a);
    rv_parameter_table_clear(&a->parameters);
}

#endif
