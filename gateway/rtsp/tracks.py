"""Which track of a description is recorded, how it is set up, and what its SDP says of it.

Owns the choice of the video track, the URLs of SETUP and PLAY, and parameter sets from fmtp. The
SDP is never believed over the bitstream: its parameter sets stand in until the stream brings its
own.

Audio is not chosen: the system records images (docs/design/rtsp.md). ONVIF metadata is ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import RtspLimitError, RtspSyntaxError, UnsupportedMedia
from gateway.limits import SPROP_SET_BYTES_MAX, SPROP_SETS_MAX
from gateway.media.codec import (
    H264_PPS,
    H264_SPS,
    H265_PPS,
    H265_SPS,
    H265_VPS,
    Codec,
    nal_type,
)
from gateway.rtsp.messages import Headers, RtspUrl
from gateway.rtsp.quirks import Quirk, QuirkNotes, mend_base, mend_parameter_set
from gateway.rtsp.sdp import CLOCK_RATE_VIDEO, Format, MediaDescription, SessionDescription

_CODECS = {"H264": Codec.H264, "H265": Codec.H265, "HEVC": Codec.H265}
_NEEDED = {
    Codec.H264: {H264_SPS, H264_PPS},
    Codec.H265: {H265_VPS, H265_SPS, H265_PPS},
}
_SPROPS = {
    Codec.H264: ("sprop-parameter-sets",),
    Codec.H265: ("sprop-vps", "sprop-sps", "sprop-pps"),
}
_ABSOLUTE = re.compile(r"(?i)rtsps?://")


@dataclass(frozen=True, slots=True)
class TrackPlan:
    """A track to set up. ``clock_rate`` in Hz; ``parameter_sets`` are NAL units, or none."""

    codec: Codec
    payload_type: int
    clock_rate: int
    control_url: str
    parameter_sets: tuple[bytes, ...] = ()


def select_video(
    description: SessionDescription, base_url: str, notes: QuirkNotes
) -> tuple[TrackPlan, ...]:
    """The first video track in a codec that we record. Raises UnsupportedMedia."""
    for media in description.media:
        if media.kind != "video":
            continue
        for format_ in media.formats:
            codec = _codec(format_, notes)
            if codec is not None:
                return (_plan(description, media, format_, codec, base_url, notes),)
    raise UnsupportedMedia(_offered(description))


def _plan(
    description: SessionDescription,
    media: MediaDescription,
    format_: Format,
    codec: Codec,
    base_url: str,
    notes: QuirkNotes,
) -> TrackPlan:
    clock_rate = format_.clock_rate
    if not clock_rate:
        notes.note(Quirk.NO_CLOCK_RATE)
        clock_rate = CLOCK_RATE_VIDEO
    if media.control is None:
        # RFC 2326 C.1.1 allows this for one media; then the session's URL is the track's.
        notes.note(Quirk.NO_CONTROL)
    control_url = join_control(base_url, media.control or "*")
    sets = parameter_sets(codec, format_, notes)
    return TrackPlan(codec, format_.payload_type, clock_rate, control_url, sets)


def _codec(format_: Format, notes: QuirkNotes) -> Codec | None:
    if format_.encoding:
        return _CODECS.get(format_.encoding)
    # No rtpmap: the format parameters of H.264 and H.265 have names of their own.
    for codec, names in ((Codec.H265, ("sprop-vps", "sprop-sps")), (Codec.H264, _H264_ONLY)):
        if any(format_.get(name) for name in names):
            notes.note(Quirk.NO_RTPMAP)
            return codec
    return None


_H264_ONLY = ("sprop-parameter-sets", "packetization-mode")


def _offered(description: SessionDescription) -> tuple[str, ...]:
    return tuple(
        f"{media.kind or 'unknown'} {format_.encoding or f'payload type {format_.payload_type}'}"
        for media in description.media
        for format_ in media.formats or (Format(0, "of no format"),)
    )


def parameter_sets(codec: Codec, format_: Format, notes: QuirkNotes) -> tuple[bytes, ...]:
    """The NAL units of the sprop parameters; none unless every kind that is needed is there."""
    found: list[bytes] = []
    for name in _SPROPS[codec]:
        for item in format_.get(name).split(","):
            if item.strip():
                found.extend(mend_parameter_set(item.strip(), notes))
    needed = _NEEDED[codec]
    kept = [nal for nal in found if nal_type(codec, nal) in needed]
    kinds = {nal_type(codec, nal) for nal in kept}
    usable = (
        kinds == needed
        and len(kept) <= SPROP_SETS_MAX
        and all(len(nal) <= SPROP_SET_BYTES_MAX for nal in kept)
    )
    if usable:
        return tuple(kept)
    if found:
        notes.note(Quirk.SPROP_UNUSABLE)
    return ()


def base_url(url: RtspUrl, headers: Headers, notes: QuirkNotes) -> str:
    """What control attributes are relative to: Content-Base, Content-Location, or the request.

    Host and port of it are the camera's business: it may name an address behind a NAT, and expects
    its own words back. We never connect to it. A base that is no URL even when mended is ignored.
    """
    root = f"{url.scheme}://{url.authority}"
    for name in ("Content-Base", "Content-Location"):
        value = headers.get(name)
        if not value.strip():
            continue
        try:
            return str(RtspUrl.parse(mend_base(value, notes, root)))
        except (RtspSyntaxError, RtspLimitError):
            notes.note(Quirk.BASE_UNUSABLE)
    return str(url)


def aggregate_url(description: SessionDescription, base: str) -> str:
    """The URL of PLAY, TEARDOWN and keep-alives: the session's control, or the base."""
    return join_control(base, description.control or "*")


def join_control(base: str, control: str) -> str:
    """A control attribute on its base, as cameras mean it and as VLC, FFmpeg and live555 do it.

    Not RFC 3986: a relative control is appended, behind a query string too (Dahua), with one slash
    between unless it is a query itself. Credentials in an absolute one are dropped.
    """
    control = control.strip()
    if control in ("", "*"):
        return base
    if _ABSOLUTE.match(control):
        try:
            return str(RtspUrl.parse(control))
        except RtspLimitError:
            raise
        except RtspSyntaxError:
            raise RtspSyntaxError(0, "control attribute is no usable URL") from None
    if re.search(r"[\x00-\x20\x7f]", control):
        raise RtspSyntaxError(0, "control attribute holds a blank or a control character")
    if control.startswith("?"):
        return base + control
    return base.rstrip("/") + "/" + control.lstrip("/")
