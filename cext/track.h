/* One RTP video stream, from packets to closed fragments.
 *
 * Ties together the sequence (reorder.h), whose stream it is (SSRC), the timestamps and the
 * assembler (access_unit.h). One thread at a time; no lock, no clock, no Python.
 *
 * A packet of another SSRC is never recorded: with some servers the packets of a dead session
 * arrive on a new connection, and another camera's frames in the evidence would be the worst
 * fault there is. It is counted, and reported when only such packets come.
 */
#ifndef RINGVAULT_TRACK_H
#define RINGVAULT_TRACK_H

#include "access_unit.h"
#include "depacketize_h264.h"
#include "depacketize_h265.h"
#include "reorder.h"

/* Bits of what consume(), receive(), tick() and flush() return. */
enum {
    RV_EVENT_TEXT = 1,
    RV_EVENT_FRAGMENT = 2,
    RV_EVENT_CONFIG = 4,
    RV_EVENT_SENDER_REPORT = 8,
    RV_EVENT_SSRC_CHANGED = 16,
    RV_EVENT_BYE = 32,
    RV_EVENT_BROKEN = 64, /* of drain(): the connection broke a rule; consume() raises which */
    RV_EVENT_NO_MEMORY = 1 << 30, /* never leaves the native modules: MemoryError is raised */
};

typedef struct {
    uint64_t packets;
    uint64_t bytes;
    uint64_t lost_packets;
    uint64_t wrong_payload_type;
    uint64_t wrong_ssrc;
    uint64_t ssrc_changes;
    uint64_t malformed_packets;
    uint64_t timestamp_jumps;
} rv_track_counters;

typedef struct rv_track {
    rv_sequence sequence;
    rv_assembler assembler;
    rv_track_counters counters;

    uint8_t payload_type;
    uint8_t ssrc_known;
    uint8_t rtp_started;
    uint8_t report_valid;    /* `report` is of this stream */
    uint8_t report_extended; /* and report_rtp is in extended time */
    uint32_t ssrc;

    uint32_t foreign_ssrc;
    uint32_t foreign_packets;  /* since the last of ours */
    int64_t foreign_since_ns;

    int64_t rtp; /* extended timestamp of the last packet in order */
    int64_t recv_ns; /* when that packet came */
    uint8_t marks;   /* this camera marks the last packet of an access unit */
    rv_sender_report report;
    int64_t report_rtp;
    int64_t report_recv_ns;

    int64_t transit_recv_ns; /* RFC 3550, A.8: of the last access unit's first packet */
    uint32_t transit_rtp;
    uint32_t jitter_x16;
} rv_track;

static inline int rv_track_events(rv_track *t) {
    rv_assembler *a = &t->assembler;
    int events = 0;
    if (a->fragment_done) events |= RV_EVENT_FRAGMENT;
    if (a->config_changed) events |= RV_EVENT_CONFIG;
    if (a->no_memory) events |= RV_EVENT_NO_MEMORY;
    a->fragment_done = a->config_changed = a->no_memory = 0;
    return events;
}

static inline void rv_track_jitter(rv_track *t, uint32_t timestamp, int64_t recv_ns) {
    int64_t since_us = (recv_ns - t->transit_recv_ns) / 1000;
    int64_t limit_us = (int64_t)RV_TIMESTAMP_JUMP_SECONDS * 1000000;
    if (t->rtp_started && since_us >= 0 && since_us <= limit_us) {
        int64_t recv_ticks = since_us * t->assembler.clock_rate / 1000000;
        int64_t d = recv_ticks - (int32_t)(timestamp - t->transit_rtp);
        if (d < 0) d = -d;
        if (d <= (int64_t)RV_TIMESTAMP_JUMP_SECONDS * t->assembler.clock_rate) {
            int64_t jitter = t->jitter_x16;
            jitter += d - ((jitter + 8) >> 4);
            t->jitter_x16 = (uint32_t)(jitter > UINT32_MAX ? UINT32_MAX : jitter);
        }
    }
    t->transit_recv_ns = recv_ns;
    t->transit_rtp = timestamp;
}

static inline void rv_track_extend_report(rv_track *t) {
    if (!t->report_valid || t->report_extended || !t->rtp_started) return;
    if (t->report.ssrc != t->ssrc) {
        t->report_valid = 0;
        return;
    }
    t->report_rtp = t->rtp + (int32_t)(t->report.rtp - (uint32_t)t->rtp);
    t->report_extended = 1;
}

/* Losses that came before a break in the timestamps are told where the stream goes on. */
static inline void rv_track_move_losses(rv_track *t, int64_t rtp) {
    rv_losses *pending = &t->assembler.pending;
    if (!pending->any) return;
    pending->from_rtp = rtp;
    pending->to_rtp = rtp + rv_frame_ticks(&t->assembler);
}

static inline int rv_track_is_jump(const rv_track *t, int64_t step) {
    if (step < 0) step = -step;
    return step > (int64_t)RV_TIMESTAMP_JUMP_SECONDS * t->assembler.clock_rate;
}

/* A new timestamp: ends the access unit before it, if that one holds a slice. Parameter sets and
 * SEI that some cameras send under a timestamp of their own go with the slice that follows. */
static inline void rv_track_next_timestamp(rv_track *t, int64_t rtp) {
    rv_assembler *a = &t->assembler;
    rv_access_unit *u = &a->unit;
    int jump = rv_track_is_jump(t, rtp - t->rtp);
    if (u->active && (u->vcl || u->dropped)) rv_unit_end(a);
    if (u->active) {
        rv_nal_abort(a);
        u->rtp = rtp;
    }
    if (!jump) return;
    t->counters.timestamp_jumps++;
    rv_track_move_losses(t, rtp);
    t->report_valid = 0; /* it tied the old timestamps to a wall clock */
    a->break_before = 1;
    if (u->active && u->placed) {
        rv_split_before_unit(a, 0);
        a->break_before = 0;
    }
}

static inline void rv_track_note_loss(rv_track *t, uint32_t lost, int64_t before_rtp, int64_t rtp,
                                      int unit_was_open) {
    rv_assembler *a = &t->assembler;
    int64_t ticks = rv_frame_ticks(a);
    int64_t from = rv_track_is_jump(t, rtp - before_rtp) ? rtp : before_rtp;
    if (!unit_was_open && from + ticks <= rtp) from += ticks; /* the frame before it was whole */
    int64_t low = from < rtp ? from : rtp, high = from < rtp ? rtp : from;
    t->counters.lost_packets += lost;
    rv_note_loss(a, lost, low, high + ticks);
    if (a->unit.active) a->unit.damaged = 1;
}

/* A packet in its place in the sequence. `lost` before it; `restarted`: nobody knows how many. */
static inline void rv_track_deliver(rv_track *t, const rv_rtp_packet *packet, int64_t recv_ns,
                                    uint32_t lost, int restarted) {
    rv_assembler *a = &t->assembler;
    rv_access_unit *u = &a->unit;
    int missing = lost > 0 || restarted;
    int unit_was_open = u->active;
    int64_t before_rtp = t->rtp;
    t->recv_ns = recv_ns;
    if (missing) rv_nal_abort(a);
    if (packet->payload_type != t->payload_type || packet->payload_bytes == 0) {
        /* in our sequence, but nothing of the video: a loss before it is still a loss */
        if (packet->payload_type != t->payload_type) t->counters.wrong_payload_type++;
        if (missing) rv_track_note_loss(t, lost, before_rtp, before_rtp, unit_was_open);
        return;
    }
    if (!t->rtp_started) {
        t->rtp = before_rtp = packet->timestamp;
        rv_track_jitter(t, packet->timestamp, recv_ns);
        t->rtp_started = 1;
        rv_track_move_losses(t, t->rtp);
        rv_track_extend_report(t);
    }
    int64_t rtp = t->rtp + (int32_t)(packet->timestamp - (uint32_t)t->rtp);
    if (missing && unit_was_open) u->damaged = 1;
    if (rtp != t->rtp) {
        rv_track_jitter(t, packet->timestamp, recv_ns);
        rv_track_next_timestamp(t, rtp);
        t->rtp = rtp;
    }
    if (missing) rv_track_note_loss(t, lost, before_rtp, rtp, unit_was_open);
    if (!u->active) rv_unit_begin(a, rtp, recv_ns);

    rv_nal_cursor cursor = a->codec == RV_CODEC_H264
                               ? rv_h264_open(packet->payload, packet->payload_bytes)
                               : rv_h265_open(packet->payload, packet->payload_bytes);
    rv_nal_piece piece = {0};
    int status;
    while ((status = rv_cursor_next(&cursor, &piece)) == RV_PIECE)
        rv_unit_piece(a, &piece, recv_ns);
    if (status == RV_PIECE_MALFORMED) {
        t->counters.malformed_packets++;
        rv_nal_abort(a);
        u->damaged = 1;
    }
    if (packet->marker && u->vcl && !u->nal_open) {
        t->marks = 1;
        rv_unit_end(a);
    }
}

/* Delivers the held packet that is due, by force the first one held. 0: there is none. */
static inline int rv_track_deliver_held(rv_track *t, int force) {
    uint32_t lost;
    int restarted;
    const rv_held_packet *held = rv_sequence_pop(&t->sequence, force, &lost, &restarted);
    if (held == NULL) return 0;
    /* an access unit was not there before the packet it waited for */
    int64_t recv_ns = held->recv_ns > t->recv_ns ? held->recv_ns : t->recv_ns;
    rv_track_deliver(t, &held->packet, recv_ns, lost, restarted);
    return 1;
}

static inline void rv_track_drain(rv_track *t, int force) {
    while (rv_track_deliver_held(t, force)) continue;
}

/* Gives up the first gap. */
static inline void rv_track_give_up(rv_track *t) {
    (void)rv_track_deliver_held(t, 1);
    rv_track_drain(t, 0);
}

static inline int rv_track_foreign(rv_track *t, uint32_t ssrc, int64_t recv_ns) {
    t->counters.wrong_ssrc++;
    if (t->foreign_packets++ == 0) t->foreign_since_ns = recv_ns;
    t->foreign_ssrc = ssrc;
    if (t->foreign_packets < RV_FOREIGN_PACKETS_MIN ||
        recv_ns - t->foreign_since_ns < (int64_t)RV_FOREIGN_SILENCE_MS * 1000000)
        return 0;
    t->foreign_packets = 0; /* and says it again if it goes on */
    t->counters.ssrc_changes++;
    return RV_EVENT_SSRC_CHANGED;
}

static inline int rv_track_receive_rtcp(rv_track *t, const uint8_t *data, size_t nbytes,
                                        int64_t recv_ns) {
    rv_sender_report report;
    int found = rv_rtcp_parse(data, nbytes, !t->ssrc_known, t->ssrc, &report);
    if (found < 0) {
        t->counters.malformed_packets++;
        return 0;
    }
    int events = found & RV_RTCP_BYE ? RV_EVENT_BYE : 0;
    if (found & RV_RTCP_SENDER_REPORT) {
        t->report = report;
        t->report_recv_ns = recv_ns;
        t->report_valid = 1;
        t->report_extended = 0;
        rv_track_extend_report(t);
        events |= RV_EVENT_SENDER_REPORT;
    }
    return events;
}

/* One RTP packet as it came. Events; never fails: what is wrong is counted. */
static inline int rv_track_receive(rv_track *t, const uint8_t *data, size_t nbytes,
                                   int64_t recv_ns) {
    rv_rtp_packet packet;
    t->counters.packets++;
    t->counters.bytes += nbytes;
    if (rv_is_rtcp(data, nbytes)) return rv_track_receive_rtcp(t, data, nbytes, recv_ns);
    if (rv_rtp_parse(data, nbytes, &packet) != RV_RTP_OK) {
        t->counters.malformed_packets++;
        return 0;
    }
    if (!t->ssrc_known) {
        if (packet.payload_type != t->payload_type) {
            t->counters.wrong_payload_type++;
            return 0;
        }
        t->ssrc = packet.ssrc;
        t->ssrc_known = 1;
    } else if (packet.ssrc != t->ssrc) {
        return rv_track_foreign(t, packet.ssrc, recv_ns);
    }
    t->foreign_packets = 0;

    for (;;) {
        uint32_t lost;
        int verdict = rv_sequence_offer(&t->sequence, &packet, recv_ns, &lost);
        if (verdict == RV_DELIVER) {
            rv_track_deliver(t, &packet, recv_ns, lost, 0);
            if (t->sequence.held_count) rv_track_drain(t, 0);
        } else if (verdict == RV_FULL) {
            rv_track_give_up(t);
            continue;
        } else if (verdict == RV_RESTART) {
            rv_track_drain(t, 1);
            rv_sequence_restart(&t->sequence);
            rv_track_drain(t, 0);
            continue;
        }
        return rv_track_events(t);
    }
}

/* Gives up gaps that waited too long, then closes a fragment that is old enough. */
static inline int rv_track_tick(rv_track *t, int64_t now_ns) {
    int64_t patience_ns = (int64_t)RV_REORDER_WAIT_MS * 1000000;
    while (t->sequence.held_count &&
           now_ns - rv_sequence_waits_since_ns(&t->sequence) >= patience_ns)
        rv_track_give_up(t);
    rv_assembler_tick(&t->assembler, now_ns);
    return rv_track_events(t);
}

/* Closes what is complete. At the end of the stream gaps are given up, and the access unit in
 * progress is kept when it holds a slice: as damaged, if the camera would have marked its end. */
static inline int rv_track_flush(rv_track *t, int end_of_stream) {
    rv_assembler *a = &t->assembler;
    if (end_of_stream) {
        rv_track_drain(t, 1);
        if (a->unit.active && !a->unit.vcl) rv_unit_discard(a);
        if (t->marks) a->unit.damaged = 1;
        rv_unit_end(a);
        if (a->open != NULL) rv_attribute_losses(a, a->open);
    }
    if (a->open != NULL && a->open->frame_count > 0) rv_split_before_unit(a, 0);
    return rv_track_events(t);
}

/* The session decided whose packets to believe from now on (ssrc_known 0: the next to come). */
static inline int rv_track_accept_ssrc(rv_track *t, int ssrc_known, uint32_t ssrc) {
    int events = rv_track_flush(t, 1);
    rv_sequence_clear(&t->sequence);
    t->ssrc_known = (uint8_t)ssrc_known;
    t->ssrc = ssrc;
    t->rtp_started = 0;
    t->report_valid = 0;
    t->foreign_packets = 0;
    t->assembler.break_before = 1;
    return events;
}

static inline void rv_track_clear(rv_track *t) {
    rv_sequence_clear(&t->sequence);
    rv_assembler_clear(&t->assembler);
}

#endif
