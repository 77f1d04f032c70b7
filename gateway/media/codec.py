"""The video codecs that are recorded, by the codes of the record header (volume-format.md)."""

from __future__ import annotations

from enum import IntEnum


class Codec(IntEnum):
    """The value is the ``codec`` of a record and of ``cext``."""

    H264 = 1
    H265 = 2

    @property
    def label(self) -> str:
        """As people write it."""
        return "H.264" if self is Codec.H264 else "H.265"


# NAL unit types of parameter sets: H.264 table 7-1, H.265 table 7-1.
H264_SPS, H264_PPS, H264_SPS_EXTENSION = 7, 8, 13
H265_VPS, H265_SPS, H265_PPS = 32, 33, 34


def nal_type(codec: Codec, nal: bytes) -> int:
    """The NAL unit type of a non-empty NAL unit."""
    return nal[0] & 0x1F if codec is Codec.H264 else (nal[0] >> 1) & 0x3F
