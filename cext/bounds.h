/* Every byte and packet bound of the ingest path, one source for C and for Python
 * (cext/limits.pyx). Unit in the name; why the number is what it is beside it.
 */
#ifndef RINGVAULT_BOUNDS_H
#define RINGVAULT_BOUNDS_H

enum {
    /* one read: large enough for SO_RCVLOWAT batches, small enough to stay in the L2 cache */
    RV_RECEIVE_REGION_BYTES = 262144,
    /* in front of the region: one whole unfinished frame or message, in blocks */
    RV_RECEIVE_HEADROOM_BYTES = 69632,
    /* "$", channel, 16-bit length, and the most that length can say (RFC 2326, 10.12) */
    RV_INTERLEAVED_FRAME_BYTES_MAX = 65539,
    /* head and body of one RTSP message: an SDP of a few kilobytes with much room */
    RV_RTSP_MESSAGE_BYTES_MAX = 65536,
    /* messages the owner of a Demuxer has not taken yet */
    RV_RTSP_PENDING_BYTES_MAX = 524288,
    /* tracks of one RTSP session */
    RV_BINDINGS_MAX = 8,
    /* below this a read is parsed faster than the GIL changes hands */
    RV_GIL_RELEASE_BYTES_MIN = 16384,

    RV_RTP_PACKET_BYTES_MAX = 65535,
    /* copies of packets that wait for one that is missing */
    RV_REORDER_PACKETS_MAX = 32,
    RV_REORDER_WAIT_MS = 200,
    /* RFC 3550 A.1: further than this ahead or behind is a restart, if the next packet agrees */
    RV_SEQUENCE_DROPOUT_MAX = 3000,
    RV_SEQUENCE_MISORDER_MAX = 100,
    /* packets of somebody else, with none of ours for so long, before the session is told */
    RV_FOREIGN_PACKETS_MIN = 50,
    RV_FOREIGN_SILENCE_MS = 2000,
    /* a timestamp that moves further than this is a break, not a pause */
    RV_TIMESTAMP_JUMP_SECONDS = 10,

    RV_ACCESS_UNIT_BYTES_MAX = 16777216,
    RV_NALS_MAX = 65535, /* of one access unit: nal_count has 16 bits */
    RV_PARAMETER_SETS_MAX = 32,
    RV_PARAMETER_SET_BYTES_MAX = 4096,
    /* fragments that filled less than a quarter of their arena before the next arena is smaller */
    RV_SHRINK_FRAGMENTS_MIN = 16,
};

_Static_assert(RV_RECEIVE_HEADROOM_BYTES >= RV_INTERLEAVED_FRAME_BYTES_MAX, "carry fits");
_Static_assert(RV_RECEIVE_HEADROOM_BYTES >= RV_RTSP_MESSAGE_BYTES_MAX, "carry fits");
_Static_assert(RV_RECEIVE_HEADROOM_BYTES % 4096 == 0, "the region begins on a page");

#endif
