/* RTSP over TCP: "$" frames (RFC 2326, 10.12) and text messages out of one contiguous run of bytes.
 *
 * Hands every RTP and RTCP frame to its track without copying it; stops at every complete text
 * message, which it does not interpret beyond Content-Length. Keeps nothing but what is unfinished
 * at the end of a read, at most one frame or one message.
 *
 * - Whatever the split into reads, the same frames and messages come out in the same order.
 * - Bytes that are neither are an error with their offset in the connection: no guessing where the
 *   next frame begins, because a wrong guess would record garbage.
 */
#ifndef RINGVAULT_INTERLEAVED_H
#define RINGVAULT_INTERLEAVED_H

#include <stdlib.h>
#include <sys/socket.h>

#include "bounds.h"
#include "byteio.h"

struct rv_track;

typedef struct rv_binding {
    struct rv_track *track;
    uint8_t rtp_channel;
    uint8_t rtcp_channel;
} rv_binding;

typedef int (*rv_receive)(struct rv_track *, const uint8_t *, size_t, int64_t);
typedef int (*rv_tick)(struct rv_track *, int64_t);

typedef struct {
    rv_receive receive; /* track.h runs in one module only: its functions come by pointer */
    rv_receive receive_rtcp;
    rv_tick tick;
    int fd; /* our own descriptor of the socket, for drain(); -1: the event loop reads */
    uint8_t channels[256]; /* 0: nobody's; else 2 * binding + 1, + 1 for RTCP */
    rv_binding bindings[RV_BINDINGS_MAX];
    uint32_t binding_count;

    uint8_t *carry; /* the unfinished frame or message */
    uint32_t carry_bytes;
    uint32_t carry_capacity;
    uint32_t needed_bytes; /* nothing can be finished before carry has so many */
    uint32_t head_scanned; /* bytes of an unfinished message known not to end its head */

    uint64_t bytes_received;
    uint64_t frames;
    uint64_t unassigned_packets;
    uint64_t unassigned_bytes;
} rv_demuxer;

/* Why rv_demux stopped. The errors' order is that of RULES in interleaved.pyx. */
enum {
    RV_DEMUX_DONE = 0,
    RV_DEMUX_TEXT = 1,
    RV_DEMUX_NO_FRAME = -1,
    RV_DEMUX_CONTROL_BYTE = -2,
    RV_DEMUX_LENGTH_NUMBER = -3,
    RV_DEMUX_LENGTH_TWICE = -4,
    RV_DEMUX_TOO_LONG = -5,
    RV_DEMUX_NO_MEMORY = -6,
};

typedef struct {
    const uint8_t *at; /* in: where to go on; out: behind the message, or where it went wrong */
    const uint8_t *end;
    const uint8_t *text;
    uint64_t text_bytes; /* also the length that was too long */
    int events;
} rv_demux_run;

static inline int rv_is_letter(uint8_t c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }

/* The length of the head with its empty line, 0 when that is not there yet, or an error with *at
 * the bad byte's offset. Lines may end in CRLF or LF. Scanning goes on at *scanned. */
static inline int64_t rv_head_bytes(const uint8_t *text, uint32_t nbytes, uint32_t *scanned) {
    for (uint32_t i = *scanned; i < nbytes; i++) {
        uint8_t c = text[i];
        *scanned = i;
        if (c == '\n') {
            uint32_t next = i + 1;
            if (next < nbytes && text[next] == '\r') next++;
            if (next >= nbytes) return 0; /* look at this line end again */
            if (text[next] == '\n') return next + 1;
        } else if ((c < 0x20 && c != '\r' && c != '\t') || c == 0x7f) {
            return RV_DEMUX_CONTROL_BYTE;
        }
    }
    *scanned = nbytes;
    return 0;
}

/* The number behind the colon; -1: none, or not a number. More than 32 bits stay more. */
static inline int64_t rv_header_number(const uint8_t *at, const uint8_t *end) {
    while (at < end && (*at == ' ' || *at == '\t')) at++;
    if (at == end || *at < '0' || *at > '9') return -1;
    int64_t value = 0;
    for (; at < end && *at >= '0' && *at <= '9'; at++)
        if (value <= UINT32_MAX) value = value * 10 + (*at - '0');
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r')) at++;
    return at == end ? value : -1;
}

/* Whether the line is the named header (lower case): where its value begins, else NULL. */
static inline const uint8_t *rv_header_value(const uint8_t *line, const uint8_t *end,
                                             const char *name) {
    for (; *name; name++, line++) {
        if (line == end) return NULL;
        uint8_t c = *line >= 'A' && *line <= 'Z' ? (uint8_t)(*line | 0x20) : *line;
        if (c != (uint8_t)*name) return NULL;
    }
    while (line < end && (*line == ' ' || *line == '\t')) line++;
    return line < end && *line == ':' ? line + 1 : NULL;
}

/* The body's length by Content-Length (RFC 2326, 12.14), or an error. */
static inline int64_t rv_content_length(const uint8_t *head, const uint8_t *end) {
    int64_t length = -1;
    while (head < end) {
        const uint8_t *line_end = memchr(head, '\n', (size_t)(end - head));
        if (line_end == NULL) line_end = end;
        const uint8_t *value = rv_header_value(head, line_end, "content-length");
        if (value != NULL) {
            int64_t number = rv_header_number(value, line_end);
            if (number < 0) return RV_DEMUX_LENGTH_NUMBER;
            if (length >= 0 && number != length) return RV_DEMUX_LENGTH_TWICE;
            length = number;
        }
        head = line_end + 1;
    }
    return length < 0 ? 0 : length;
}

/* A text message at run->at: TEXT, DONE when it is unfinished, or an error. */
static inline int rv_demux_text(rv_demuxer *d, rv_demux_run *run) {
    const uint8_t *text = run->at;
    size_t available = (size_t)(run->end - text);
    uint32_t nbytes = available < RV_RTSP_MESSAGE_BYTES_MAX ? (uint32_t)available
                                                            : RV_RTSP_MESSAGE_BYTES_MAX;
    int64_t head = rv_head_bytes(text, nbytes, &d->head_scanned);
    if (head < 0) {
        run->at += d->head_scanned;
        return (int)head;
    }
    if (head == 0) {
        d->needed_bytes = nbytes + 1;
        if (nbytes < RV_RTSP_MESSAGE_BYTES_MAX) return RV_DEMUX_DONE;
        run->text_bytes = (uint64_t)nbytes + 1;
        return RV_DEMUX_TOO_LONG;
    }
    int64_t body = rv_content_length(text, text + head);
    if (body < 0) return (int)body;
    if (head + body > RV_RTSP_MESSAGE_BYTES_MAX) {
        run->text_bytes = (uint64_t)(head + body);
        return RV_DEMUX_TOO_LONG;
    }
    if ((uint64_t)(head + body) > available) {
        d->needed_bytes = (uint32_t)(head + body);
        return RV_DEMUX_DONE;
    }
    d->head_scanned = 0;
    run->text = text;
    run->text_bytes = (uint64_t)(head + body);
    run->at = text + head + body;
    return RV_DEMUX_TEXT;
}

static inline void rv_demux_frame(rv_demuxer *d, const uint8_t *frame, uint32_t length,
                                  int64_t recv_ns, int *events) {
    uint8_t owner = d->channels[frame[1]];
    d->frames++;
    if (owner == 0) {
        d->unassigned_packets++;
        d->unassigned_bytes += length;
        return;
    }
    struct rv_track *track = d->bindings[(owner - 1) / 2].track;
    *events |= (owner - 1) % 2 == 0 ? d->receive(track, frame + 4, length, recv_ns)
                                    : d->receive_rtcp(track, frame + 4, length, recv_ns);
}

/* Goes through [run->at, run->end) until a text message is complete or nothing more is. */
static inline int rv_demux(rv_demuxer *d, rv_demux_run *run, int64_t recv_ns) {
    d->needed_bytes = 0;
    while (run->at < run->end) {
        const uint8_t *at = run->at;
        if (*at == '$') {
            if (run->end - at < 4) {
                d->needed_bytes = 4;
                return RV_DEMUX_DONE;
            }
            uint32_t length = rv_load_be16(at + 2);
            if ((size_t)(run->end - at) < 4 + (size_t)length) {
                d->needed_bytes = 4 + length;
                return RV_DEMUX_DONE;
            }
            rv_demux_frame(d, at, length, recv_ns, &run->events);
            run->at = at + 4 + length;
        } else if (*at == '\r' || *at == '\n') {
            run->at++; /* empty lines between messages: some send them as keep-alive */
        } else if (rv_is_letter(*at)) {
            return rv_demux_text(d, run);
        } else {
            return RV_DEMUX_NO_FRAME;
        }
    }
    return RV_DEMUX_DONE;
}

/* Keeps what is unfinished. 0, or RV_DEMUX_NO_MEMORY. */
static inline int rv_demux_keep(rv_demuxer *d, const uint8_t *from, uint32_t nbytes, int append) {
    uint32_t total = nbytes + (append ? d->carry_bytes : 0);
    uint32_t capacity = 2048;
    while (capacity < total) capacity *= 2;
    if (capacity > d->carry_capacity || capacity * 4 <= d->carry_capacity) {
        uint8_t *grown = realloc(d->carry, capacity);
        if (grown == NULL) return RV_DEMUX_NO_MEMORY;
        d->carry = grown;
        d->carry_capacity = capacity;
    }
    if (nbytes) memcpy(d->carry + total - nbytes, from, nbytes);
    d->carry_bytes = total;
    return 0;
}

/* Reads the socket until it has no more or ``reads`` are used up, parsing as it goes. DONE: all is
 * parsed, and what is unfinished kept. TEXT or an error: as rv_demux, the run says where. An end
 * of the stream, or an error of the socket, is left to the event loop, which sees it too. */
static inline int rv_demux_read(rv_demuxer *d, uint8_t *region, size_t region_bytes, int reads,
                                int64_t recv_ns, rv_demux_run *run) {
    run->events = 0;
    run->at = run->end = region;
    while (reads-- > 0) {
        ssize_t nbytes = recv(d->fd, region, region_bytes, MSG_DONTWAIT);
        if (nbytes <= 0) return RV_DEMUX_DONE;
        d->bytes_received += (uint64_t)nbytes;
        run->end = region + nbytes;
        if (d->carry_bytes && d->carry_bytes + (uint64_t)nbytes < d->needed_bytes) {
            run->at = run->end;
            if (rv_demux_keep(d, region, (uint32_t)nbytes, 1) < 0) return RV_DEMUX_NO_MEMORY;
        } else {
            run->at = region - d->carry_bytes;
            if (d->carry_bytes) memcpy(region - d->carry_bytes, d->carry, d->carry_bytes);
            int status = rv_demux(d, run, recv_ns);
            if (status != RV_DEMUX_DONE) return status;
            uint32_t rest = (uint32_t)(run->end - run->at);
            if ((rest || d->carry_capacity) && rv_demux_keep(d, run->at, rest, 0) < 0)
                return RV_DEMUX_NO_MEMORY;
        }
        if ((size_t)nbytes < region_bytes) return RV_DEMUX_DONE;
    }
    return RV_DEMUX_DONE;
}

/* Lets time pass for the tracks of a connection. Events. */
static inline int rv_demux_tick(rv_demuxer *d, int64_t now_ns) {
    int events = 0;
    for (uint32_t i = 0; i < d->binding_count; i++) events |= d->tick(d->bindings[i].track, now_ns);
    return events;
}

#endif
