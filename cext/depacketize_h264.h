/* RFC 6184: what an RTP payload of H.264 holds. Packetization modes 0 and 1: single NAL unit
 * (5.6), STAP-A (5.7.1), FU-A (5.8). Everything else is malformed: STAP-B, MTAP and FU-B need the
 * interleaved mode, which no receiver of a live camera negotiates.
 */
#ifndef RINGVAULT_DEPACKETIZE_H264_H
#define RINGVAULT_DEPACKETIZE_H264_H

#include "nal_cursor.h"

enum { RV_H264_STAP_A = 24, RV_H264_FU_A = 28 };

static inline void rv_h264_fragment(rv_nal_cursor *c, const uint8_t *payload, uint32_t nbytes) {
    if (nbytes < 2) {
        c->malformed = 1;
        return;
    }
    uint8_t type = payload[1] & 31;
    if (type == 0 || type >= RV_H264_STAP_A) {
        c->malformed = 1;
        return;
    }
    rv_cursor_unit(c, payload + 2, payload + nbytes);
    c->begins = payload[1] >> 7;
    c->ends = payload[1] >> 6 & 1;
    c->type = type;
    c->scan = !rv_nal_is_vcl(RV_CODEC_H264, type);
    if (c->begins) {
        c->header[0] = (payload[0] & 0xe0) | type;
        c->header_bytes = 1;
    }
}

static inline rv_nal_cursor rv_h264_open(const uint8_t *payload, uint32_t nbytes) {
    rv_nal_cursor c = {.codec = RV_CODEC_H264};
    if (nbytes == 0) return c;
    uint8_t type = payload[0] & 31;
    if (type == RV_H264_STAP_A) {
        c.aggregated = 1;
        c.next = payload + 1;
        c.end = payload + nbytes;
    } else if (type == RV_H264_FU_A) {
        rv_h264_fragment(&c, payload, nbytes);
    } else if (type > RV_H264_STAP_A) {
        c.malformed = 1;
    } else {
        rv_cursor_unit(&c, payload, payload + nbytes);
    }
    return c;
}

#endif
