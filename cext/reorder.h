/* RTP sequence numbers put in order: gaps, duplicates, late packets, restarts (RFC 3550, A.1).
 *
 * Owns copies of packets only while one before them is missing, at most RV_REORDER_PACKETS_MAX.
 * Never looks at a payload and knows no time but the one it is told.
 *
 * The owner offers each packet and then pops what became deliverable:
 *
 *     DELIVER   the offered packet is next: deliver it, then pop
 *     FULL      pop by force (a gap is given up), then offer the same packet again
 *     RESTART   pop everything by force, call rv_sequence_restart, pop, then offer again
 *     HELD      copied, nothing to do
 *     DROPPED   duplicate, late, or waiting for a second packet that confirms a restart
 */
#ifndef RINGVAULT_REORDER_H
#define RINGVAULT_REORDER_H

#include <stdlib.h>

#include "rtp.h"

typedef struct {
    uint8_t *copy; /* of the payload; NULL: the slot is empty */
    rv_rtp_packet packet;
    int64_t recv_ns;
} rv_held_packet;

typedef struct {
    uint32_t window; /* 0: a gap is lost at once */
    uint32_t held_count;
    uint16_t next; /* the sequence number that is due */
    uint8_t started;
    uint8_t probing;  /* a packet far away is kept in `probation` */
    uint8_t restarted; /* the next packet popped is the first of a new run */
    uint64_t seen;    /* bit i: packet next - 1 - i was delivered */
    uint8_t *popped;  /* the copy given out last, freed by the next call */
    rv_held_packet probation;
    rv_held_packet held[RV_REORDER_PACKETS_MAX]; /* by sequence number modulo the size */
    uint64_t reordered_packets;
    uint64_t duplicate_packets;
    uint64_t late_packets;
    uint64_t restarts;
} rv_sequence;

enum { RV_DELIVER, RV_FULL, RV_RESTART, RV_HELD, RV_DROPPED };

static inline rv_held_packet *rv_held_slot(rv_sequence *s, uint16_t sequence) {
    return &s->held[sequence % RV_REORDER_PACKETS_MAX];
}

static inline int rv_hold(rv_held_packet *slot, const rv_rtp_packet *packet, int64_t recv_ns) {
    slot->copy = malloc(packet->payload_bytes ? packet->payload_bytes : 1);
    if (slot->copy == NULL) return -1;
    if (packet->payload_bytes) memcpy(slot->copy, packet->payload, packet->payload_bytes);
    slot->packet = *packet;
    slot->packet.payload = slot->copy;
    slot->recv_ns = recv_ns;
    return 0;
}

static inline void rv_let_go(rv_held_packet *slot) {
    free(slot->copy);
    slot->copy = NULL;
}

/* `ahead` packets from the one that was due is delivered now. */
static inline void rv_sequence_advance(rv_sequence *s, uint32_t ahead) {
    s->seen = ahead + 1 < 64 ? s->seen << (ahead + 1) | 1 : 1;
    s->next = (uint16_t)(s->next + ahead + 1);
}

static inline void rv_sequence_drop_probation(rv_sequence *s) {
    if (!s->probing) return;
    rv_let_go(&s->probation);
    s->probing = 0;
    s->late_packets++;
}

/* Far from what is due: believed only when the packet after it comes next. */
static inline int rv_sequence_probe(rv_sequence *s, const rv_rtp_packet *packet, int64_t recv_ns) {
    if (s->probing) {
        if (packet->sequence == (uint16_t)(s->probation.packet.sequence + 1)) return RV_RESTART;
        if (packet->sequence == s->probation.packet.sequence) {
            s->duplicate_packets++;
            return RV_DROPPED;
        }
        rv_sequence_drop_probation(s);
    }
    if (rv_hold(&s->probation, packet, recv_ns) == 0)
        s->probing = 1;
    else
        s->late_packets++;
    return RV_DROPPED;
}

/* Behind what is due, and near: it was either delivered already or given up. */
static inline int rv_sequence_behind(rv_sequence *s, int32_t behind) {
    if (behind <= 64 && (s->seen >> (behind - 1) & 1))
        s->duplicate_packets++;
    else
        s->late_packets++;
    return RV_DROPPED;
}

/* Ahead of what is due, inside the window. */
static inline int rv_sequence_ahead(rv_sequence *s, const rv_rtp_packet *packet, int64_t recv_ns) {
    rv_held_packet *slot = rv_held_slot(s, packet->sequence);
    if (slot->copy != NULL) {
        s->duplicate_packets++;
        return RV_DROPPED;
    }
    for (uint32_t i = 0; i < RV_REORDER_PACKETS_MAX; i++) {
        if (s->held[i].copy == NULL) continue;
        if ((int16_t)(s->held[i].packet.sequence - packet->sequence) > 0) {
            s->reordered_packets++;
            break;
        }
    }
    if (rv_hold(slot, packet, recv_ns) < 0) {
        s->late_packets++; /* no memory: it will be missed as any lost packet */
        return RV_DROPPED;
    }
    s->held_count++;
    return RV_HELD;
}

/* One of the five above. For RV_DELIVER `lost` is how many packets before it are given up. */
static inline int rv_sequence_offer(rv_sequence *s, const rv_rtp_packet *packet, int64_t recv_ns,
                                    uint32_t *lost) {
    *lost = 0;
    if (!s->started) {
        s->started = 1;
        s->next = packet->sequence;
        s->seen = 0;
    }
    int32_t ahead = (int16_t)(packet->sequence - s->next);
    if (ahead == 0) {
        if (s->held_count) s->reordered_packets++;
    } else if (ahead > RV_SEQUENCE_DROPOUT_MAX || -ahead > RV_SEQUENCE_MISORDER_MAX) {
        return rv_sequence_probe(s, packet, recv_ns);
    } else if (ahead < 0) {
        return rv_sequence_behind(s, -ahead);
    } else if ((uint32_t)ahead < s->window) {
        return rv_sequence_ahead(s, packet, recv_ns);
    } else if (s->held_count) {
        return RV_FULL;
    }
    *lost = (uint32_t)ahead;
    rv_sequence_drop_probation(s);
    rv_sequence_advance(s, (uint32_t)ahead);
    return RV_DELIVER;
}

/* After RV_RESTART and when nothing is held: the packet on probation becomes the next one. */
static inline void rv_sequence_restart(rv_sequence *s) {
    s->next = s->probation.packet.sequence;
    s->seen = 0;
    *rv_held_slot(s, s->next) = s->probation;
    s->probation.copy = NULL;
    s->probing = 0;
    s->held_count = 1;
    s->restarted = 1;
    s->restarts++;
}

static inline void rv_sequence_free_popped(rv_sequence *s) {
    free(s->popped);
    s->popped = NULL;
}

/* The held packet that is due; by force the first one held, giving up the `lost` before it. NULL:
 * none. The packet is valid until the next call. */
static inline const rv_held_packet *rv_sequence_pop(rv_sequence *s, int force, uint32_t *lost,
                                                    int *restarted) {
    rv_sequence_free_popped(s);
    *lost = 0;
    *restarted = 0;
    if (s->held_count == 0) return NULL;
    uint32_t limit = force ? RV_REORDER_PACKETS_MAX : 1;
    for (uint32_t ahead = 0; ahead < limit; ahead++) {
        rv_held_packet *slot = rv_held_slot(s, (uint16_t)(s->next + ahead));
        if (slot->copy == NULL) continue;
        *lost = ahead;
        *restarted = s->restarted;
        s->restarted = 0;
        rv_sequence_advance(s, ahead);
        s->popped = slot->copy;
        slot->copy = NULL;
        s->held_count--;
        return slot;
    }
    return NULL;
}

/* When the packet held longest arrived; INT64_MAX: nothing is held. */
static inline int64_t rv_sequence_waits_since_ns(const rv_sequence *s) {
    int64_t oldest = INT64_MAX;
    for (uint32_t i = 0; s->held_count && i < RV_REORDER_PACKETS_MAX; i++)
        if (s->held[i].copy != NULL && s->held[i].recv_ns < oldest) oldest = s->held[i].recv_ns;
    return oldest;
}

/* Forgets the run and everything held; counters stay. */
static inline void rv_sequence_clear(rv_sequence *s) {
    rv_sequence_free_popped(s);
    rv_let_go(&s->probation);
    for (uint32_t i = 0; i < RV_REORDER_PACKETS_MAX; i++) rv_let_go(&s->held[i]);
    s->held_count = 0;
    s->started = s->probing = s->restarted = 0;
}

#endif
