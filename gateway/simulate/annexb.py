"""Elementary streams to access units: ITU-T H.264 Annex B and section 7.4.1.2.3, H.265 Annex B
and section 7.4.2.4.4.

Owns the cutting of a byte stream at start codes and of a sequence of NAL units at picture
boundaries. It never changes a NAL unit and parses no parameter set, so a picture whose first slice
is missing is joined to the one before it.
"""

import re
from collections.abc import Iterable

from gateway.media.codec import Codec, nal_type

_START_CODE = re.compile(rb"\x00\x00\x01")
# What opens the next picture when it comes after a slice, apart from a first slice.
_OPENERS = {
    Codec.H264: frozenset((6, 7, 8, 9, *range(14, 19))),
    Codec.H265: frozenset((32, 33, 34, 35, 39, *range(41, 45), *range(48, 56))),
}
_PARAMETER_SETS = {Codec.H264: frozenset((7, 8)), Codec.H265: frozenset((32, 33, 34))}
_KEY_SLICES = {Codec.H264: frozenset((5,)), Codec.H265: frozenset(range(16, 24))}
_SLICES = {Codec.H264: frozenset(range(1, 6)), Codec.H265: frozenset(range(32))}


def is_parameter_set(codec: Codec, nal: bytes) -> bool:
    """VPS, SPS or PPS."""
    return nal_type(codec, nal) in _PARAMETER_SETS[codec]


def is_slice(codec: Codec, nal: bytes) -> bool:
    """A NAL unit that holds coded picture data (VCL)."""
    return nal_type(codec, nal) in _SLICES[codec]


def is_key(codec: Codec, nal_units: Iterable[bytes]) -> bool:
    """An IDR picture (H.264) or a random access point (H.265, IRAP)."""
    return any(nal_type(codec, nal) in _KEY_SLICES[codec] for nal in nal_units)


def is_first_slice(codec: Codec, nal: bytes) -> bool:
    """``first_mb_in_slice`` is 0 (H.264) or ``first_slice_segment_in_pic_flag`` is 1 (H.265)."""
    header_bytes = 1 if codec is Codec.H264 else 2
    return len(nal) > header_bytes and nal[header_bytes] & 0x80 != 0


def split_nal_units(data: bytes) -> list[bytes]:
    """The NAL units between start codes, zero bytes around them removed (Annex B.1)."""
    starts = [match.end() for match in _START_CODE.finditer(data)]
    if not starts:
        return []
    ends = [start - 3 for start in starts[1:]] + [len(data)]
    nal_units = [data[a:b].rstrip(b"\0") for a, b in zip(starts, ends, strict=True)]
    return [nal for nal in nal_units if nal]


def split_access_units(codec: Codec, nal_units: Iterable[bytes]) -> list[tuple[bytes, ...]]:
    """Group NAL units, in order, into access units; every NAL unit lands in exactly one."""
    units: list[tuple[bytes, ...]] = []
    current: list[bytes] = []
    has_slice = False
    for nal in nal_units:
        slice_here = is_slice(codec, nal)
        opener = nal_type(codec, nal) in _OPENERS[codec]
        if has_slice and (is_first_slice(codec, nal) if slice_here else opener):
            units.append(tuple(current))
            current = []
            has_slice = False
        current.append(nal)
        has_slice = has_slice or slice_here
    if current and not has_slice and units:
        units[-1] += tuple(current)  # an end of sequence or end of stream NAL unit
    elif current:
        units.append(tuple(current))
    return units
