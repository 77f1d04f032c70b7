"""Plain values the native ingest modules return: frozen, and cheap to make.

They carry numbers and bytes and decide nothing. Nothing here is made per packet while recording.
"""

from typing import NamedTuple

import msgspec


class TrackCounters(msgspec.Struct, frozen=True, gc=False):
    """What a ``VideoTrack`` has seen since it was made. Counts only grow.

    ``key_interval_frames``: distance of the last two key frames, 0 unknown.
    ``jitter_ticks``: interarrival jitter of access units (RFC 3550, A.8) in RTP ticks.
    ``last_access_unit_recv_ns``: ns UTC, 0 when there was none.
    """

    packets: int
    bytes: int
    access_units: int
    key_frames: int
    lost_packets: int
    reordered_packets: int
    duplicate_packets: int
    late_packets: int
    sequence_restarts: int
    wrong_payload_type: int
    wrong_ssrc: int
    ssrc_changes: int
    malformed_packets: int
    malformed_parameter_sets: int
    oversize_access_units: int
    exhausted_access_units: int
    incomplete_nals: int
    timestamp_jumps: int
    last_access_unit_recv_ns: int
    key_interval_frames: int
    jitter_ticks: int


class SenderReport(msgspec.Struct, frozen=True, gc=False):
    """The last RTCP sender report: the camera's clock at an RTP time, and when it came here.

    ``ntp_ns_utc`` and ``recv_ns`` are ns UTC, ``rtp`` is an extended timestamp.
    """

    ntp_ns_utc: int
    rtp: int
    recv_ns: int


class RtpPacket(msgspec.Struct, frozen=True, gc=False):
    """One RTP packet without CSRC list, extension and padding (RFC 3550, 5.1)."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


class Delivery(NamedTuple):
    """A packet in its place: ``lost`` before it; ``restarted``: nobody knows how many."""

    sequence: int
    lost: int
    restarted: bool


class NalPiece(msgspec.Struct, frozen=True, gc=False):
    """A stretch of one NAL unit as one RTP payload carries it, rebuilt header included."""

    nal_type: int
    data: bytes
    begins: bool
    ends: bool


class NalPieces(msgspec.Struct, frozen=True, gc=False):
    """All of one payload. ``malformed``: some of it could not be read."""

    pieces: tuple[NalPiece, ...]
    malformed: bool
