/* RFC 7798: what an RTP payload of H.265 holds: single NAL unit (4.4.1), AP (4.4.2), FU (4.4.3),
 * all without DONL, which appears only when sprop-max-don-diff is above 0 and no camera sends.
 * PACI (4.4.4) and reserved types are malformed.
 */
#ifndef RINGVAULT_DEPACKETIZE_H265_H
#define RINGVAULT_DEPACKETIZE_H265_H

#include "nal_cursor.h"

enum { RV_H265_AP = 48, RV_H265_FU = 49 };

static inline void rv_h265_fragment(rv_nal_cursor *c, const uint8_t *payload, uint32_t nbytes) {
    if (nbytes < 3) {
        c->malformed = 1;
        return;
    }
    uint8_t type = payload[2] & 63;
    if (type >= RV_H265_AP) {
        c->malformed = 1;
        return;
    }
    rv_cursor_unit(c, payload + 3, payload + nbytes);
    c->begins = payload[2] >> 7;
    c->ends = payload[2] >> 6 & 1;
    c->type = type;
    c->scan = !rv_nal_is_vcl(RV_CODEC_H265, type);
    if (c->begins) {
        c->header[0] = (uint8_t)((payload[0] & 0x81) | type << 1);
        c->header[1] = payload[1];
        c->header_bytes = 2;
    }
}

static inline rv_nal_cursor rv_h265_open(const uint8_t *payload, uint32_t nbytes) {
    rv_nal_cursor c = {.codec = RV_CODEC_H265};
    if (nbytes == 0) return c;
    if (nbytes < 2) {
        c.malformed = 1;
        return c;
    }
    uint8_t type = payload[0] >> 1 & 63;
    if (type == RV_H265_AP) {
        c.aggregated = 1;
        c.next = payload + 2;
        c.end = payload + nbytes;
    } else if (type == RV_H265_FU) {
        rv_h265_fragment(&c, payload, nbytes);
    } else if (type > RV_H265_FU) {
        c.malformed = 1;
    } else {
        rv_cursor_unit(&c, payload, payload + nbytes);
    }
    return c;
}

#endif
