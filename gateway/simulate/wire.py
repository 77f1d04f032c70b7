"""What a simulated camera says about its stream: session description and RTCP.

Owns the SDP of one video track (RFC 8866, RFC 6184 section 8.2.1, RFC 7798 section 7.2.1) and the
RTCP packets a sender needs (RFC 3550 section 6). Pure functions of their arguments.
"""

import struct
from base64 import b64encode

from gateway.media.codec import Codec, nal_type
from gateway.simulate.footage import CLOCK_RATE, Footage

PAYLOAD_TYPE = 96
TRACK_CONTROL = "trackID=0"
_NTP_UNIX_SECONDS = 2_208_988_800  # 1900 to 1970
_NS = 1_000_000_000


def session_description(footage: Footage, session_number: int) -> bytes:
    """The answer to DESCRIBE: one video track at ``TRACK_CONTROL``, its parameter sets in fmtp."""
    name = footage.codec.name
    lines = [
        "v=0",
        f"o=- {session_number} 1 IN IP4 127.0.0.1",
        "s=Ringvault simulated camera",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"b=AS:{round(footage.bits_per_second / 1000) or 1}",
        f"a=rtpmap:{PAYLOAD_TYPE} {name}/{CLOCK_RATE}",
        f"a=fmtp:{PAYLOAD_TYPE} {_format_parameters(footage)}",
        f"a=control:{TRACK_CONTROL}",
    ]
    return "".join(line + "\r\n" for line in lines).encode()


def _format_parameters(footage: Footage) -> str:
    codec = footage.codec
    if codec is Codec.H265:
        kinds = ((32, "vps"), (33, "sps"), (34, "pps"))
        groups = [(name, _encoded(footage, kind)) for kind, name in kinds]
        return ";".join(f"sprop-{name}={','.join(sets)}" for name, sets in groups if sets)
    parameters = ["packetization-mode=1"]
    for nal in footage.parameter_sets:
        if nal_type(codec, nal) == 7:
            parameters.append(f"profile-level-id={nal[1:4].hex().upper()}")
            break
    sets = _encoded(footage, 7) + _encoded(footage, 8)
    if sets:
        parameters.append(f"sprop-parameter-sets={','.join(sets)}")
    return ";".join(parameters)


def _encoded(footage: Footage, kind: int) -> list[str]:
    distinct = dict.fromkeys(footage.parameter_sets)
    return [b64encode(nal).decode() for nal in distinct if nal_type(footage.codec, nal) == kind]


def sender_report(
    ssrc: int, utc_ns: int, rtp_timestamp: int, packet_count: int, octet_count: int
) -> bytes:
    """SR and SDES CNAME: the camera's clock read ``utc_ns`` when RTP time was ``rtp_timestamp``."""
    seconds, rest = divmod(utc_ns, _NS)
    report = struct.pack(
        "!BBHIIIIII",
        0x80,
        200,
        6,
        ssrc,
        (seconds + _NTP_UNIX_SECONDS) & 0xFFFFFFFF,
        (rest << 32) // _NS,
        rtp_timestamp,
        packet_count & 0xFFFFFFFF,
        octet_count & 0xFFFFFFFF,
    )
    name = b"camera-%08x" % ssrc
    chunk = struct.pack("!IBB", ssrc, 1, len(name)) + name
    chunk += bytes(4 - len(chunk) % 4)  # at least one zero ends the list of items
    return report + struct.pack("!BBH", 0x81, 202, len(chunk) // 4) + chunk


def goodbye(ssrc: int) -> bytes:
    """BYE: the stream has ended (RFC 3550 section 6.6)."""
    return struct.pack("!BBHI", 0x81, 203, 1, ssrc)


def interleaved(channel: int, packet: bytes) -> bytes:
    """A packet as it goes inside the RTSP connection (RFC 2326 section 10.12)."""
    return struct.pack("!cBH", b"$", channel, len(packet)) + packet
