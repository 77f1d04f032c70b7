/* The parameter sets of one track, and snapshots of them that fragments carry.
 *
 * A set is known by (NAL type, id). What the stream sends outranks what the SDP said: it replaces
 * a set of the same id and comes first in a snapshot. Snapshots are immutable, counted, and made
 * only when something changed, so all fragments of one generation share one.
 */
#ifndef RINGVAULT_PARAMETER_SETS_H
#define RINGVAULT_PARAMETER_SETS_H

#include <stdlib.h>

#include "bounds.h"
#include "nal.h"

typedef struct {
    uint32_t references;
    uint32_t generation;
    uint32_t count;
    uint32_t sizes[RV_PARAMETER_SETS_MAX];
    uint8_t bytes[]; /* the NAL units one after the other */
} rv_parameter_snapshot;

typedef struct {
    uint8_t *nal; /* NULL: free */
    uint32_t nbytes;
    uint16_t id;
    uint8_t type;
    uint8_t in_band;
    uint64_t last_seen; /* the table's clock */
} rv_parameter_set;

typedef struct {
    rv_parameter_set sets[RV_PARAMETER_SETS_MAX];
    rv_parameter_snapshot *snapshot; /* in force; NULL only when memory ran out at construction */
    uint64_t clock;
    uint32_t generation;
} rv_parameter_table;

enum { RV_PARAMETERS_SAME = 0, RV_PARAMETERS_CHANGED = 1, RV_PARAMETERS_REFUSED = -1 };

static inline void rv_snapshot_release(rv_parameter_snapshot *snapshot) {
    if (snapshot != NULL && --snapshot->references == 0) free(snapshot);
}

/* Type first (VPS, SPS, PPS), then in-band before SDP, then id. */
static inline int rv_parameter_set_before(const rv_parameter_set *a, const rv_parameter_set *b) {
    if (a->type != b->type) return a->type < b->type;
    if (a->in_band != b->in_band) return a->in_band;
    return a->id < b->id;
}

/* Replaces the snapshot by one of what the table holds now. -1: no memory, the old one stays. */
static inline int rv_parameter_table_publish(rv_parameter_table *table) {
    const rv_parameter_set *sorted[RV_PARAMETER_SETS_MAX];
    uint32_t count = 0;
    size_t total = 0;
    for (uint32_t i = 0; i < RV_PARAMETER_SETS_MAX; i++) {
        const rv_parameter_set *set = &table->sets[i];
        if (set->nal == NULL) continue;
        uint32_t at = count++;
        for (; at > 0 && rv_parameter_set_before(set, sorted[at - 1]); at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = set;
        total += set->nbytes;
    }
    rv_parameter_snapshot *snapshot = malloc(sizeof *snapshot + total);
    if (snapshot == NULL) return -1;
    snapshot->references = 1;
    snapshot->generation = table->generation;
    snapshot->count = count;
    uint8_t *out = snapshot->bytes;
    for (uint32_t i = 0; i < count; i++) {
        snapshot->sizes[i] = sorted[i]->nbytes;
        memcpy(out, sorted[i]->nal, sorted[i]->nbytes);
        out += sorted[i]->nbytes;
    }
    rv_snapshot_release(table->snapshot);
    table->snapshot = snapshot;
    return 0;
}

static inline rv_parameter_set *rv_parameter_table_find(rv_parameter_table *table, uint8_t type,
                                                        int id) {
    for (uint32_t i = 0; i < RV_PARAMETER_SETS_MAX; i++) {
        rv_parameter_set *set = &table->sets[i];
        if (set->nal != NULL && set->type == type && set->id == id) return set;
    }
    return NULL;
}

/* A free place, else the one not seen for longest. */
static inline rv_parameter_set *rv_parameter_table_place(rv_parameter_table *table) {
    rv_parameter_set *oldest = &table->sets[0];
    for (uint32_t i = 0; i < RV_PARAMETER_SETS_MAX; i++) {
        rv_parameter_set *set = &table->sets[i];
        if (set->nal == NULL) return set;
        if (set->last_seen < oldest->last_seen) oldest = set;
    }
    return oldest;
}

/* Whether taking this NAL unit would change the table. REFUSED: too long, or no readable id. A set
 * that is confirmed by the stream moves up, which is no change of what the decoder needs. */
static inline int rv_parameter_table_compare(rv_parameter_table *table, int codec,
                                             const uint8_t *nal, uint32_t nbytes, int in_band) {
    if (nbytes > RV_PARAMETER_SET_BYTES_MAX) return RV_PARAMETERS_REFUSED;
    int id = rv_parameter_set_id(codec, nal, nbytes);
    if (id < 0) return RV_PARAMETERS_REFUSED;
    rv_parameter_set *set = rv_parameter_table_find(table, rv_nal_type(codec, nal), id);
    if (set == NULL || set->nbytes != nbytes || memcmp(set->nal, nal, nbytes) != 0)
        return RV_PARAMETERS_CHANGED;
    set->last_seen = ++table->clock;
    set->in_band |= (uint8_t)in_band;
    return RV_PARAMETERS_SAME;
}

/* Takes a NAL unit that compare() called CHANGED. -1: no memory, nothing taken. */
static inline int rv_parameter_table_take(rv_parameter_table *table, int codec, const uint8_t *nal,
                                          uint32_t nbytes, int in_band) {
    int id = rv_parameter_set_id(codec, nal, nbytes);
    uint8_t type = rv_nal_type(codec, nal);
    uint8_t *copy = malloc(nbytes);
    if (copy == NULL) return -1;
    memcpy(copy, nal, nbytes);
    rv_parameter_set *set = rv_parameter_table_find(table, type, id);
    if (set == NULL) set = rv_parameter_table_place(table);
    free(set->nal);
    set->nal = copy;
    set->nbytes = nbytes;
    set->id = (uint16_t)id;
    set->type = type;
    set->in_band = (uint8_t)in_band;
    set->last_seen = ++table->clock;
    table->generation++;
    return rv_parameter_table_publish(table);
}

static inline void rv_parameter_table_clear(rv_parameter_table *table) {
    for (uint32_t i = 0; i < RV_PARAMETER_SETS_MAX; i++) free(table->sets[i].nal);
    rv_snapshot_release(table->snapshot);
    memset(table, 0, sizeof *table);
}

#endif
