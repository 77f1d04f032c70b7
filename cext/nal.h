/* What a NAL unit says about itself: kind, random access, parameter set id, first slice.
 *
 * ITU-T H.264 (7.3, 7.4) and H.265 (7.3, 7.4). Reads headers only, never decodes.
 */
#ifndef RINGVAULT_NAL_H
#define RINGVAULT_NAL_H

#include "byteio.h"
#include "record.h"

/* A stretch of one NAL unit as one RTP packet carries it. */
typedef struct {
    const uint8_t *data;
    uint32_t nbytes;
    uint8_t header[2]; /* rebuilt from a fragmentation unit, goes in front of data */
    uint8_t header_bytes;
    uint8_t type;
    uint8_t begins;
    uint8_t ends;
} rv_nal_piece;

static inline uint32_t rv_nal_header_bytes(int codec) { return codec == RV_CODEC_H264 ? 1 : 2; }

static inline uint8_t rv_nal_type(int codec, const uint8_t *nal) {
    return codec == RV_CODEC_H264 ? nal[0] & 31 : nal[0] >> 1 & 63;
}

static inline int rv_nal_is_vcl(int codec, uint8_t type) {
    return codec == RV_CODEC_H264 ? type >= 1 && type <= 5 : type < 32;
}

/* IDR of H.264; BLA, IDR, CRA of H.265 (and the reserved IRAP types 22, 23 are not used). */
static inline int rv_nal_is_key(int codec, uint8_t type) {
    return codec == RV_CODEC_H264 ? type == 5 : type >= 16 && type <= 21;
}

static inline int rv_nal_is_parameter_set(int codec, uint8_t type) {
    return codec == RV_CODEC_H264 ? type == 7 || type == 8 : type >= 32 && type <= 34;
}

static inline int rv_nal_is_sei(int codec, uint8_t type) {
    return codec == RV_CODEC_H264 ? type == 6 : type == 39;
}

/* Belongs behind the picture: end of sequence, end of stream, filler data, suffix SEI. */
static inline int rv_nal_is_suffix(int codec, uint8_t type) {
    if (codec == RV_CODEC_H264) return type >= 10 && type <= 12;
    return (type >= 36 && type <= 38) || type == 40;
}

/* A byte that can begin a NAL unit: what must follow a start code before it is believed. */
static inline int rv_nal_is_plausible(int codec, const uint8_t *nal, size_t nbytes) {
    if (nbytes < rv_nal_header_bytes(codec) || nal[0] & 0x80) return 0;
    uint8_t type = rv_nal_type(codec, nal);
    if (codec == RV_CODEC_H264) return type >= 1 && type <= 23;
    return type < 48 && !(nal[0] & 1) && nal[1] >> 3 == 0 && (nal[1] & 7) != 0;
}

/* first_mb_in_slice != 0 / first_slice_segment_in_pic_flag == 0: not the first slice. */
static inline int rv_nal_continues_picture(int codec, const rv_nal_piece *piece) {
    if (!rv_nal_is_vcl(codec, piece->type)) return rv_nal_is_suffix(codec, piece->type);
    uint32_t at = rv_nal_header_bytes(codec) - piece->header_bytes;
    return piece->nbytes > at && !(piece->data[at] & 0x80);
}

static inline int rv_h265_sps_id(rv_bits *b) {
    rv_bits_u(b, 4); /* sps_video_parameter_set_id */
    uint32_t sub_layers = rv_bits_u(b, 3);
    rv_bits_u(b, 1);
    if (sub_layers > 6) return -1;
    for (int i = 0; i < 12; i++) rv_bits_u(b, 8); /* general part of profile_tier_level, 7.3.3 */
    uint32_t present[6] = {0};
    for (uint32_t i = 0; i < sub_layers; i++) present[i] = rv_bits_u(b, 2);
    for (uint32_t i = sub_layers; sub_layers && i < 8; i++) rv_bits_u(b, 2);
    for (uint32_t i = 0; i < sub_layers; i++) {
        if (present[i] & 2)
            for (int k = 0; k < 11; k++) rv_bits_u(b, 8);
        if (present[i] & 1) rv_bits_u(b, 8);
    }
    uint32_t id = rv_bits_ue(b);
    return b->failed || id > 15 ? -1 : (int)id;
}

/* The id by which a parameter set is replaced, or -1: it cannot be read or is out of range. */
static inline int rv_parameter_set_id(int codec, const uint8_t *nal, size_t nbytes) {
    uint32_t header = rv_nal_header_bytes(codec);
    if (nbytes <= header) return -1;
    uint8_t type = rv_nal_type(codec, nal);
    rv_bits b = rv_bits_of(nal + header, nbytes - header);
    uint32_t id, maximum;
    if (codec == RV_CODEC_H264) {
        if (type == 7) rv_bits_u(&b, 24); /* profile_idc, constraints, level_idc */
        id = rv_bits_ue(&b);
        maximum = type == 7 ? 31 : 255;
    } else if (type == 32) {
        id = rv_bits_u(&b, 4);
        maximum = 15;
    } else if (type == 33) {
        return rv_h265_sps_id(&b);
    } else {
        id = rv_bits_ue(&b);
        maximum = 63;
    }
    return b.failed || id > maximum ? -1 : (int)id;
}

/* Whether an SEI NAL unit holds a recovery point message (payload type 6 in both codecs). Gives up
 * after eight messages: a recovery point comes early, vendors' metadata does not matter. */
static inline int rv_sei_has_recovery_point(int codec, const uint8_t *nal, size_t nbytes) {
    uint32_t header = rv_nal_header_bytes(codec);
    if (nbytes <= header) return 0;
    rv_bits b = rv_bits_of(nal + header, nbytes - header);
    for (int message = 0; message < 8; message++) {
        uint32_t type = 0, size = 0, byte;
        do type += byte = rv_bits_u(&b, 8);
        while (byte == 255 && !b.failed);
        do size += byte = rv_bits_u(&b, 8);
        while (byte == 255 && !b.failed);
        if (b.failed) return 0;
        if (type == 6) return size > 0;
        if (size > (size_t)(b.end - b.next)) return 0;
        rv_bits_skip_bytes(&b, size);
    }
    return 0;
}

#endif
