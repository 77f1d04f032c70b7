/* On-disk structures of docs/design/volume-format.md, version 1. Little-endian, packed. */
#ifndef RINGVAULT_RECORD_H
#define RINGVAULT_RECORD_H

#include <stdint.h>

#define RV_BLOCK 4096u
#define RV_FORMAT_VERSION 1
#define RV_RECORD_FIXED_BYTES 256u
#define RV_FRAME_ENTRY_BYTES 48u
#define RV_DESCRIPTOR_OFFSET 56u
#define RV_DESCRIPTOR_BYTES 96u

#define RV_KIND_FRAGMENT 1
#define RV_KIND_GAP 2

#define RV_RECORD_KEY 1u
#define RV_RECORD_LOSS 2u
#define RV_RECORD_DISCONTINUITY 4u
#define RV_RECORD_REORDERED 8u
#define RV_RECORD_TRIAL 16u
#define RV_RECORD_CLOCK_UNSYNCHRONISED 32u

#define RV_FRAME_KEY 1u
#define RV_FRAME_LOSS 2u
#define RV_FRAME_PARAMETER_SETS 4u
#define RV_FRAME_RECOVERY_POINT 8u

#define RV_CODEC_H264 1
#define RV_CODEC_H265 2

typedef struct __attribute__((packed)) {
    uint8_t magic[8]; /* RVFRAG01 */
    uint16_t format_version;
    uint16_t kind;
    uint32_t header_bytes;
    uint32_t payload_bytes;
    uint32_t record_bytes;
    uint8_t volume_uuid[16];
    uint32_t slot;
    uint32_t generation;
    uint32_t offset_blocks;
    uint32_t slot_sequence;
    uint8_t camera_uid[16];
    uint64_t stream_sequence;
    int64_t start_ns;
    int64_t end_ns;
    int64_t recv_first_ns;
    int64_t recv_last_ns;
    int64_t rtp_first;
    int64_t camera_ns;
    int64_t camera_offset_ns;
    uint32_t clock_rate;
    uint32_t run_id;
    uint16_t frame_count;
    uint16_t codec;
    uint16_t width;
    uint16_t height;
    uint32_t codec_config_offset;
    uint32_t codec_config_bytes;
    uint32_t frame_table_offset;
    uint32_t moof_offset;
    uint32_t moof_bytes;
    uint32_t flags;
    uint8_t fragment_root[32];
    uint32_t payload_crc32c;
    uint32_t codec_config_id;
    int64_t recv_quantum_ns;
    uint8_t encryption_key_id[16];
    uint8_t reserved[12];
    uint32_t header_crc32c;
} rv_record_header;

typedef struct __attribute__((packed)) {
    uint32_t size_bytes;
    int32_t pts_ticks;
    uint32_t recv_us;
    uint16_t flags;
    uint16_t nal_count;
    uint8_t sha256[32];
} rv_frame_entry;

_Static_assert(sizeof(rv_record_header) == RV_RECORD_FIXED_BYTES, "record header is 256 bytes");
_Static_assert(sizeof(rv_frame_entry) == RV_FRAME_ENTRY_BYTES, "frame entry is 48 bytes");
_Static_assert(__builtin_offsetof(rv_record_header, camera_uid) == RV_DESCRIPTOR_OFFSET, "descriptor");
_Static_assert(__builtin_offsetof(rv_record_header, codec_config_offset) ==
                   RV_DESCRIPTOR_OFFSET + RV_DESCRIPTOR_BYTES, "descriptor");
_Static_assert(__builtin_offsetof(rv_record_header, header_crc32c) == 252, "header crc");

#endif
