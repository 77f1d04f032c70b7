"""Every bound of the gateway in one place: unit in the name, a reason beside it.

Owns numbers only. A bound that a peer can reach ends in a typed error; one that our own code
breaks is a bug. Relations between bounds are asserted at import.
"""

from __future__ import annotations

KIB = 1024
MS_NS = 1_000_000
SECOND_NS = 1_000_000_000

# RTSP messages (docs/design/rtsp.md). The largest SDP seen from a camera has 4 KiB.
RTSP_HEAD_BYTES_MAX = 16 * KIB
RTSP_BODY_BYTES_MAX = 48 * KIB
RTSP_MESSAGE_BYTES_MAX = RTSP_HEAD_BYTES_MAX + RTSP_BODY_BYTES_MAX
RTSP_HEADERS_MAX = 128  # header lines in a message; cameras send ten
RTSP_URL_BYTES_MAX = 2 * KIB
SDP_LINES_MAX = 1024
SDP_MEDIA_MAX = 32  # multi-lens cameras list up to eight
SDP_FORMATS_MAX = 64  # payload types of one media
SPROP_SETS_MAX = 32  # parameter sets taken from one fmtp
SPROP_SET_BYTES_MAX = 4 * KIB  # = cext PARAMETER_SET_BYTES_MAX
AUTH_CHALLENGES_MAX = 16
AUTH_RETRIES_MAX = 2  # of one request: the first challenge, and one stale nonce
REDIRECTS_MAX = 5
KEEPALIVES_OUTSTANDING_MAX = 3  # some cameras never answer one
SESSION_TIMEOUT_DEFAULT_S = 60  # RFC 2326 section 12.37
SESSION_TIMEOUT_MIN_S = 2  # a keep-alive each second is the most a camera gets
SESSION_TIMEOUT_MAX_S = 600
PENDING_REQUESTS_MAX = 8

# Socket (docs/design/rtsp.md, "Shell").
RCVBUF_BYTES = 512 * KIB  # a second of 4 Mbit/s: rides out a slow disk or a late tick
RCVLOWAT_BYTES_MAX = 128 * KIB
DRAIN_READS_MAX = 4  # reads of one feed in one tick: a burst must not keep the others waiting
TCP_KEEPALIVE_IDLE_S = 10
TCP_KEEPALIVE_INTERVAL_S = 5
TCP_KEEPALIVE_PROBES = 3
ADDRESSES_TRIED_MAX = 4  # of one host name
SEND_BUFFER_BYTES_MAX = 64 * KIB  # requests a camera has not read; more means it is dead

# Timeline (docs/design/time.md).
SLEW_PPM_MAX = 500
ANCHOR_WINDOW_NS = 10 * SECOND_NS
ANCHOR_SAMPLES_MAX = 64  # minima kept of that window; one a fragment would be about 20
LATE_NS_MAX = 600 * MS_NS  # a new run leaves less than GAP_MIN_NS between two records
LATE_HOLD_NS = SECOND_NS  # so long it must last: a stalled network is no clock fault
EARLY_NS_MAX = 100 * MS_NS  # a frame cannot arrive before it was taken: no hold
JUMP_NS = 10 * SECOND_NS  # more than any network delays: the camera's clock jumped
CATCH_UP_NS_MAX = 5 * SECOND_NS  # a camera's pre-buffer; beyond, our clock was set back
GAP_MIN_NS = SECOND_NS  # less between two records is no gap
FRAME_DURATION_NS_MAX = SECOND_NS  # of an estimated last frame
SENDER_REPORT_AGE_NS_MAX = 600 * SECOND_NS

# Session (docs/design/rtsp.md, "Session").
CHECK_INTERVAL_NS = SECOND_NS  # stall, keep-alive and rates are looked at this often
FOREIGN_PACKETS_MIN = 50  # so many foreign packets and none of ours: not a stray
OUTAGE_CHECKPOINT_NS = 300 * SECOND_NS
OUTAGE_MARGIN_NS = 10 * SECOND_NS  # a returning camera may send what it buffered
OUTAGE_CAUSES_MAX = 16  # of one outage; further changes extend the last
PENDING_GAPS_MAX = 32  # gaps the sink refused; further ones are merged
STABLE_NS = 10 * SECOND_NS  # recorded for so long: the back-off starts anew
RATE_WINDOW_NS = 10 * SECOND_NS  # fps and bitrate are measured over this
ERROR_TEXT_CHARS_MAX = 300

# Parameter sets.
CODEC_CONFIG_BYTES_MAX = 4 * KIB  # what a record's header region holds
DIMENSION_MAX = 16_384  # pixels; H.265 level 6.2 ends at 8,912

# Processes (docs/design/processes.md).
CONTROL_FRAME_BYTES_MAX = 16 * KIB * KIB  # the state of 10,000 cameras in one message
CONTROL_REQUESTS_MAX = 64  # in flight on one connection; each may be waiting for an fsync
CONTROL_TIMEOUT_S = 10.0
STOP_TIME_MAX_S = 10.0  # from the signal to the end of the last process
STOP_RESPONSES_S = 2.0  # for HTTP responses under way, within the above
RESTART_FIRST_S = 1.0  # after a child died the second time in a row
RESTART_MAX_S = 30.0
RESTART_STABLE_S = 60.0  # ran so long: the next death counts as the first
SNAPSHOT_INTERVAL_S = 1.0
SNAPSHOT_FEEDS_MAX = 100  # more of them: a snapshot every second would cost more than it tells
SNAPSHOT_INTERVAL_LONG_S = 2.0
SNAPSHOT_AGE_MAX_S = 5.0  # older: that worker counts as not recording
REOPEN_INTERVAL_S = 5.0  # between attempts to open a camera's index
SEALS_WAITING_MAX = 4096  # not yet in the audit log; beyond, the next start enters them
TICK_SLICES = 4  # feeds are ticked in so many groups, so that one tick never holds the loop long
CHECK_TICKS = 2  # a feed is looked after every so many ticks: stall, keep-alive, SO_RCVLOWAT
ARENA_OPEN_BYTES_MAX = 2 * KIB * KIB * KIB  # open fragments of all feeds of a worker
TRUSTED_INTERVAL_S = 60.0  # between two writes of trusted time
REGISTRY_POLL_S = 2.0  # a change whose notice was lost is seen this late
FAULTS_KEPT_MAX = 64  # last faults shown in a status

# Clips over HTTP.
CLIP_READS_MAX = 16  # threads, and clips being sent at once
CLIP_CHUNK_BYTES = 2 * KIB * KIB  # read in one go while as much is being sent
CLIP_CACHE_MAX = 32  # composed clips kept; an hour of 25 frames/s takes about 6 MB
CLIP_CACHE_AGE_MAX_S = 60.0
GAPS_HEADER_BYTES_MAX = 4 * KIB  # common proxies take 8 KiB of headers in all

# Grants.
GRANT_HOURS_DEFAULT = 24
GRANT_HOURS_MAX = 7 * 24
GRANT_FIELD_CHARS_MAX = 200  # a name, a card or a document number

assert STOP_RESPONSES_S < STOP_TIME_MAX_S
assert SNAPSHOT_AGE_MAX_S > 2 * SNAPSHOT_INTERVAL_LONG_S, "one late snapshot is no fault"
assert RTSP_MESSAGE_BYTES_MAX <= 64 * KIB, "cext hands over messages up to 64 KiB"
assert RCVLOWAT_BYTES_MAX * 2 <= RCVBUF_BYTES, "or the mark could never be reached"
assert LATE_NS_MAX < GAP_MIN_NS, "or every new run of a slow camera clock would read as a gap"
assert SESSION_TIMEOUT_MIN_S <= SESSION_TIMEOUT_DEFAULT_S <= SESSION_TIMEOUT_MAX_S
