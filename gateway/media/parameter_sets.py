"""From the parameter sets in force to the codec configuration of a record.

Owns CodecConfig: size, frame rate, reorder depth, ``avcC``/``hvcC`` body and RFC 6381 string.
Raises nothing: what does not parse is named in ``problems`` and counted by the session, and the
footage is stored all the same (S9 of docs/design/rtsp.md). Width and height are then 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from gateway.errors import BitstreamError
from gateway.limits import CODEC_CONFIG_BYTES_MAX
from gateway.media import h264, h265
from gateway.media.codec import (
    H264_PPS,
    H264_SPS,
    H264_SPS_EXTENSION,
    H265_PPS,
    H265_SPS,
    H265_VPS,
    Codec,
    nal_type,
)

_Sps = TypeVar("_Sps")
_AVCC_SPS_MAX = 31
_AVCC_PPS_MAX = 255
_HVCC_OVERHEAD_BYTES = 64  # fixed fields and array heads of either box, with room


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """``config_bytes`` is the box's body without its header; b"" if no SPS is usable.

    ``reorder_frames`` is the most frames that precede another in decoding and follow it in output,
    0 if the stream does not say. ``rfc6381`` is what a ``codecs=`` parameter takes, or "".
    """

    codec: Codec
    width: int
    height: int
    fps: Fraction | None
    config_bytes: bytes
    reorder_frames: int
    rfc6381: str
    problems: tuple[str, ...] = ()


def codec_config(codec: Codec, parameter_sets: Sequence[bytes]) -> CodecConfig:
    """The configuration these NAL units (no start codes) make. Size is that of the first SPS."""
    problems: list[str] = []
    nals = _within_bounds([nal for nal in parameter_sets if nal], problems)
    if codec is Codec.H264:
        return _h264(nals, problems)
    return _h265(nals, problems)


def _of(codec: Codec, nals: Sequence[bytes], kind: int) -> list[bytes]:
    return [nal for nal in nals if nal_type(codec, nal) == kind]


def _within_bounds(nals: list[bytes], problems: list[str]) -> list[bytes]:
    """As many as a record's header region holds, in order; the stream keeps the others itself."""
    room = CODEC_CONFIG_BYTES_MAX - _HVCC_OVERHEAD_BYTES
    kept: list[bytes] = []
    for nal in nals:
        room -= 2 + len(nal)
        if room < 0:
            problems.append(f"parameter sets exceed {CODEC_CONFIG_BYTES_MAX} bytes")
            break
        kept.append(nal)
    return kept


def _first_usable(
    nals: Sequence[bytes], parse: Callable[[bytes], _Sps], problems: list[str]
) -> tuple[int, _Sps] | None:
    """Index and content of the first SPS that parses."""
    found: tuple[int, _Sps] | None = None
    for index, nal in enumerate(nals):
        try:
            parsed = parse(nal)
        except BitstreamError as error:
            problems.append(f"SPS {index}: {error}")
            continue
        found = found or (index, parsed)
    if not nals:
        problems.append("no SPS")
    return found


def _h264(nals: Sequence[bytes], problems: list[str]) -> CodecConfig:
    codec = Codec.H264
    sps = _of(codec, nals, H264_SPS)[:_AVCC_SPS_MAX]
    pps = _of(codec, nals, H264_PPS)[:_AVCC_PPS_MAX]
    extensions = _of(codec, nals, H264_SPS_EXTENSION)
    found = _first_usable(sps, h264.parse_sps, problems)
    first = None
    if found:
        index, first = found
        sps.insert(0, sps.pop(index))  # profile and level are taken from one that is sound
    body = h264.avc_decoder_configuration(sps, pps, extensions, first)
    name = f"avc1.{sps[0][1:4].hex().upper()}" if body else ""
    if first is None:
        return CodecConfig(codec, 0, 0, None, body, 0, name, tuple(problems))
    return CodecConfig(
        codec,
        first.width,
        first.height,
        first.fps,
        body,
        first.reorder_frames or 0,
        name,
        tuple(problems),
    )


def _h265(nals: Sequence[bytes], problems: list[str]) -> CodecConfig:
    codec = Codec.H265
    vps, sps, pps = (_of(codec, nals, kind) for kind in (H265_VPS, H265_SPS, H265_PPS))
    found = _first_usable(sps, h265.parse_sps, problems)
    if not found:
        return CodecConfig(codec, 0, 0, None, b"", 0, "", tuple(problems))
    first = found[1]
    return CodecConfig(
        codec,
        first.width,
        first.height,
        first.fps,
        h265.hevc_decoder_configuration(vps, sps, pps, first),
        first.reorder_frames,
        _hevc_name(first),
        tuple(problems),
    )


def _hevc_name(sps: h265.H265Sps) -> str:
    """ISO/IEC 14496-15 annex E.3: ``hvc1.1.6.L93.B0``."""
    head = sps.profile[0]
    space = ("", "A", "B", "C")[head >> 6]
    compatibility = int.from_bytes(sps.profile[1:5], "big")
    reversed_bits = int(f"{compatibility:032b}"[::-1], 2)
    tier = "H" if head & 0x20 else "L"
    constraints = sps.profile[5:].rstrip(b"\x00")
    parts = [f"hvc1.{space}{head & 0x1F}", f"{reversed_bits:X}", f"{tier}{sps.level_idc}"]
    parts += [f"{byte:X}" for byte in constraints]
    return ".".join(parts)
