/* Walks the NAL units of one RTP payload, piece by piece; the part both codecs share.
 *
 * A payload is a run of units (one, or those of an aggregation packet). Cameras that put an
 * Annex B stream into one unit are tolerated: at a start code followed by a plausible NAL header
 * the unit is cut, and zero bytes in front of the cut are not part of a NAL unit (B.1 of H.264 and
 * H.265). Nothing else is ever removed. No state is kept from one payload to the next.
 */
#ifndef RINGVAULT_NAL_CURSOR_H
#define RINGVAULT_NAL_CURSOR_H

#include "nal.h"

enum { RV_PIECE_NONE = 0, RV_PIECE = 1, RV_PIECE_MALFORMED = -1 };

typedef struct {
    const uint8_t *next; /* of an aggregation packet: the units not looked at yet */
    const uint8_t *end;
    const uint8_t *unit; /* what is left of the unit at hand; NULL: none */
    const uint8_t *unit_end;
    int codec;
    uint8_t aggregated;
    uint8_t malformed; /* say so after the pieces that could be read */
    uint8_t scan;      /* look for start codes in this unit */
    uint8_t split;     /* this unit was cut before */
    uint8_t begins;    /* the unit's first byte begins a NAL unit */
    uint8_t ends;      /* the unit's last byte ends one */
    uint8_t type;      /* of a fragmentation unit */
    uint8_t header[2];
    uint8_t header_bytes;
} rv_nal_cursor;

static inline void rv_cursor_unit(rv_nal_cursor *c, const uint8_t *unit, const uint8_t *end) {
    c->unit = unit;
    c->unit_end = end;
    c->begins = c->ends = c->scan = 1;
    c->split = 0;
    c->header_bytes = 0;
}

/* The next 16-bit sized unit of a STAP-A or AP. */
static inline int rv_cursor_aggregated(rv_nal_cursor *c) {
    if (c->next == c->end) return RV_PIECE_NONE;
    if (c->end - c->next < 2) return RV_PIECE_MALFORMED;
    uint32_t size = rv_load_be16(c->next);
    c->next += 2;
    if (size > (size_t)(c->end - c->next)) return RV_PIECE_MALFORMED;
    rv_cursor_unit(c, c->next, c->next + size);
    c->next += size;
    return RV_PIECE;
}

/* Cuts the unit at its next believable start code; unit_end when there is none. */
static inline const uint8_t *rv_cursor_cut(rv_nal_cursor *c, const uint8_t **after) {
    const uint8_t *from = c->unit;
    *after = NULL;
    while (c->scan) {
        const uint8_t *code = rv_find_start_code(from, c->unit_end);
        if (code == c->unit_end) break;
        if (rv_nal_is_plausible(c->codec, code + 3, (size_t)(c->unit_end - code - 3))) {
            *after = code + 3;
            c->split = 1;
            return code;
        }
        from = code + 3;
    }
    return c->unit_end;
}

/* Types a NAL unit inside a packet may have: the others are packet kinds (or 0 in H.264). */
static inline int rv_cursor_type_fits(int codec, uint8_t type) {
    return codec == RV_CODEC_H264 ? type >= 1 && type < 24 : type < 48;
}

/* The next piece. RV_PIECE_MALFORMED comes once, last, and stands for what could not be read. */
static inline int rv_cursor_next(rv_nal_cursor *c, rv_nal_piece *piece) {
    for (;;) {
        if (c->unit == NULL) {
            int status = c->aggregated ? rv_cursor_aggregated(c) : RV_PIECE_NONE;
            if (status == RV_PIECE_MALFORMED) c->aggregated = 0;
            if (status == RV_PIECE_NONE && c->malformed) {
                c->malformed = 0;
                return RV_PIECE_MALFORMED;
            }
            if (status != RV_PIECE) return status;
        }
        const uint8_t *after, *start = c->unit, *stop = rv_cursor_cut(c, &after);
        int cut = after != NULL;
        /* only where the NAL unit ends in this packet: else the zeros are inside it */
        while (c->split && (cut || c->ends) && stop > start && stop[-1] == 0) stop--;
        piece->data = start;
        piece->nbytes = (uint32_t)(stop - start);
        piece->begins = c->begins;
        piece->ends = cut || c->ends;
        piece->header_bytes = c->header_bytes;
        piece->header[0] = c->header[0];
        piece->header[1] = c->header[1];
        c->unit = after;
        c->begins = 1;
        c->header_bytes = 0;
        uint32_t header = piece->header_bytes ? 0 : rv_nal_header_bytes(c->codec);
        if (piece->begins && piece->nbytes < header) {
            if (piece->nbytes == 0 && cut) continue; /* the unit began with a start code */
            c->malformed = 1;                        /* empty, or shorter than its header */
            continue;
        }
        piece->type = piece->begins && header ? rv_nal_type(c->codec, start) : c->type;
        if (!rv_cursor_type_fits(c->codec, piece->type)) {
            c->malformed = 1;
            continue;
        }
        return RV_PIECE;
    }
}

#endif
