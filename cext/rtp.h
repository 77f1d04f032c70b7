/* RTP and RTCP on the wire (RFC 3550): the fixed header, sequence numbers, sender reports.
 *
 * Reads packets, keeps no copy of them, knows no payload format. The reorder window, which does
 * keep copies, is reorder.h.
 */
#ifndef RINGVAULT_RTP_H
#define RINGVAULT_RTP_H

#include "bounds.h"
#include "byteio.h"

typedef struct {
    const uint8_t *payload;
    uint32_t payload_bytes; /* may be 0: such a packet only counts in the sequence */
    uint32_t timestamp;
    uint32_t ssrc;
    uint16_t sequence;
    uint8_t payload_type;
    uint8_t marker;
} rv_rtp_packet;

/* What can be wrong with a packet. The order is that of RULES in rtp.pyx. */
enum {
    RV_RTP_OK = 0,
    RV_RTP_SHORT = -1,
    RV_RTP_VERSION = -2,
    RV_RTP_CSRC = -3,
    RV_RTP_EXTENSION = -4,
    RV_RTP_PADDING = -5,
};

/* RFC 3550, 5.1 and 5.3.1: header, CSRC list and extension are skipped, padding is cut off. */
static inline int rv_rtp_parse(const uint8_t *data, size_t nbytes, rv_rtp_packet *packet) {
    if (nbytes < 12) return RV_RTP_SHORT;
    if (data[0] >> 6 != 2) return RV_RTP_VERSION;
    size_t at = 12 + 4 * (size_t)(data[0] & 15);
    if (at > nbytes) return RV_RTP_CSRC;
    if (data[0] & 0x10) {
        if (nbytes - at < 4) return RV_RTP_EXTENSION;
        size_t extension = 4 + 4 * (size_t)rv_load_be16(data + at + 2);
        if (extension > nbytes - at) return RV_RTP_EXTENSION;
        at += extension;
    }
    size_t end = nbytes;
    if (data[0] & 0x20) {
        uint8_t padding = data[nbytes - 1];
        if (padding == 0 || padding > nbytes - at) return RV_RTP_PADDING;
        end -= padding;
    }
    packet->payload = data + at;
    packet->payload_bytes = (uint32_t)(end - at);
    packet->marker = data[1] >> 7;
    packet->payload_type = data[1] & 0x7f;
    packet->sequence = rv_load_be16(data + 2);
    packet->timestamp = rv_load_be32(data + 4);
    packet->ssrc = rv_load_be32(data + 8);
    return RV_RTP_OK;
}

/* RFC 5761, 4: RTCP that came where RTP was expected. */
static inline int rv_is_rtcp(const uint8_t *data, size_t nbytes) {
    return nbytes >= 8 && data[0] >> 6 == 2 && data[1] >= 192 && data[1] <= 223;
}

/* Seconds from the NTP era 0 (1900) to 1970. */
#define RV_NTP_TO_UNIX_SECONDS 2208988800u

typedef struct {
    uint32_t ssrc;
    uint32_t rtp;
    int64_t ntp_ns_utc; /* since 1970 */
} rv_sender_report;

/* NTP time to ns since 1970. Seconds below 2^31 belong to the next era (RFC 4330, 3), so the
 * range is 1968 to 2104. */
static inline int64_t rv_ntp_to_ns(uint64_t ntp) {
    int64_t seconds = (int64_t)(ntp >> 32) - (int64_t)RV_NTP_TO_UNIX_SECONDS;
    if (!(ntp >> 63)) seconds += (int64_t)1 << 32;
    return seconds * 1000000000 + (int64_t)(((ntp & 0xffffffffu) * 1000000000u) >> 32);
}

enum { RV_RTCP_NOTHING = 0, RV_RTCP_SENDER_REPORT = 1, RV_RTCP_BYE = 2, RV_RTCP_MALFORMED = -1 };

/* Walks a compound packet (RFC 3550, 6.4.1, 6.6) for the sender report of `ssrc`, of anybody when
 * any_ssrc is set. Bits of the enum above; a report in front of malformed bytes still counts. */
static inline int rv_rtcp_parse(const uint8_t *data, size_t nbytes, int any_ssrc, uint32_t ssrc,
                                rv_sender_report *report) {
    int found = RV_RTCP_NOTHING;
    memset(report, 0, sizeof *report);
    while (nbytes >= 4) {
        size_t size = 4 + 4 * (size_t)rv_load_be16(data + 2);
        if (data[0] >> 6 != 2 || size > nbytes) return found ? found : RV_RTCP_MALFORMED;
        if (data[1] == 200 && size >= 28) {
            uint32_t sender = rv_load_be32(data + 4);
            uint64_t ntp = rv_load_be64(data + 8);
            /* all zero: the sender has no wall clock (6.4.1) */
            if ((any_ssrc || sender == ssrc) && ntp != 0) {
                report->ssrc = sender;
                report->ntp_ns_utc = rv_ntp_to_ns(ntp);
                report->rtp = rv_load_be32(data + 16);
                found |= RV_RTCP_SENDER_REPORT;
            }
        } else if (data[1] == 203) {
            for (uint32_t i = 0; i < (data[0] & 31u) && 8 + 4 * (size_t)i <= size; i++)
                if (any_ssrc || rv_load_be32(data + 4 + 4 * i) == ssrc) found |= RV_RTCP_BYE;
        }
        data += size;
        nbytes -= size;
    }
    return nbytes && !found ? RV_RTCP_MALFORMED : found;
}

#endif
