"""H.264 parameter sets: what a recording needs to know of them (ITU-T H.264 section 7.3.2).

Owns the SPS down to the VUI's bitstream restriction, the ids of a PPS, and the ``avcC`` body
(ISO/IEC 14496-15 section 5.3.3). Never judges a stream: a set that does not parse is a
BitstreamError for the caller to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from gateway.errors import BitstreamError
from gateway.limits import DIMENSION_MAX
from gateway.media.bits import BitReader, unescape

_CHROMA_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_EXTENDED_SAR = 255
_ID_MAX = 255
_MACROBLOCK = 16


@dataclass(frozen=True, slots=True)
class H264Sps:
    """Sizes in pixels after cropping; ``fps`` from the VUI's timing, or None.

    ``reorder_frames`` is None if the stream does not say.
    """

    id: int
    profile_idc: int
    constraints: int
    level_idc: int
    chroma_format_idc: int
    bit_depth_luma: int
    bit_depth_chroma: int
    width: int
    height: int
    fps: Fraction | None
    reorder_frames: int | None

    @property
    def has_chroma_extension(self) -> bool:
        """``avcC`` carries chroma format and bit depths for these profiles."""
        return self.profile_idc in _CHROMA_PROFILES


def parse_sps(nal: bytes) -> H264Sps:
    """A sequence parameter set NAL unit, header included. Raises BitstreamError."""
    r = BitReader(unescape(nal), 8)
    profile_idc, constraints, level_idc = r.bits(8), r.bits(8), r.bits(8)
    sps_id = r.ue(31, "seq_parameter_set_id")
    chroma, depth_luma, depth_chroma, separate = 1, 8, 8, False
    if profile_idc in _CHROMA_PROFILES:
        chroma = r.ue(3, "chroma_format_idc")
        separate = chroma == 3 and r.flag()
        depth_luma = 8 + r.ue(6, "bit_depth_luma_minus8")
        depth_chroma = 8 + r.ue(6, "bit_depth_chroma_minus8")
        r.skip(1)  # qpprime_y_zero_transform_bypass_flag
        if r.flag():
            _skip_scaling_lists(r, 8 if chroma != 3 else 12)
    r.ue(12, "log2_max_frame_num_minus4")
    _skip_order_count(r)
    r.ue(16, "max_num_ref_frames")
    r.skip(1)  # gaps_in_frame_num_value_allowed_flag
    width = _MACROBLOCK * (1 + r.ue(DIMENSION_MAX // _MACROBLOCK - 1, "pic_width_in_mbs_minus1"))
    units = 1 + r.ue(DIMENSION_MAX // _MACROBLOCK - 1, "pic_height_in_map_units_minus1")
    frame_mbs_only = r.flag()
    height = _MACROBLOCK * units * (1 if frame_mbs_only else 2)
    if not frame_mbs_only:
        r.skip(1)  # mb_adaptive_frame_field_flag
    r.skip(1)  # direct_8x8_inference_flag
    if r.flag():
        unit_x, unit_y = _crop_units(0 if separate else chroma, frame_mbs_only)
        width -= unit_x * (_crop(r) + _crop(r))
        height -= unit_y * (_crop(r) + _crop(r))
    if width <= 0 or height <= 0 or height > DIMENSION_MAX:
        raise BitstreamError(r.position, f"picture of {width} x {height} pixels")
    fps, reorder = _vui(r) if r.flag() else (None, None)
    return H264Sps(
        sps_id,
        profile_idc,
        constraints,
        level_idc,
        chroma,
        depth_luma,
        depth_chroma,
        width,
        height,
        fps,
        reorder,
    )


def _crop(r: BitReader) -> int:
    return r.ue(DIMENSION_MAX, "frame_crop_offset")


def _crop_units(chroma_array_type: int, frame_mbs_only: bool) -> tuple[int, int]:
    """CropUnitX and CropUnitY, equations 7-19 to 7-22."""
    width = 2 if chroma_array_type in (1, 2) else 1
    height = 2 if chroma_array_type == 1 else 1
    return width, height * (1 if frame_mbs_only else 2)


def _skip_order_count(r: BitReader) -> None:
    kind = r.ue(2, "pic_order_cnt_type")
    if kind == 0:
        r.ue(12, "log2_max_pic_order_cnt_lsb_minus4")
    elif kind == 1:
        r.skip(1)  # delta_pic_order_always_zero_flag
        r.se("offset_for_non_ref_pic")
        r.se("offset_for_top_to_bottom_field")
        for _ in range(r.ue(255, "num_ref_frames_in_pic_order_cnt_cycle")):
            r.se("offset_for_ref_frame")


def _skip_scaling_lists(r: BitReader, count: int) -> None:
    for index in range(count):
        if not r.flag():
            continue
        last, next_ = 8, 8
        for _ in range(16 if index < 6 else 64):
            if next_:
                next_ = (last + r.se("delta_scale")) % 256
            last = next_ or last


def _vui(r: BitReader) -> tuple[Fraction | None, int | None]:
    """Frame rate and reorder depth. A VUI cut short says nothing, and harms nothing before it."""
    try:
        return _parse_vui(r)
    except BitstreamError:
        return None, None


def _parse_vui(r: BitReader) -> tuple[Fraction | None, int | None]:
    if r.flag() and r.bits(8) == _EXTENDED_SAR:
        r.skip(32)
    if r.flag():
        r.skip(1)  # overscan_appropriate_flag
    if r.flag():
        r.skip(4)  # video_format, video_full_range_flag
        if r.flag():
            r.skip(24)  # colour description
    if r.flag():
        r.ue(5, "chroma_sample_loc_type_top_field")
        r.ue(5, "chroma_sample_loc_type_bottom_field")
    fps = None
    if r.flag():
        units, scale = r.bits(32), r.bits(32)
        r.skip(1)  # fixed_frame_rate_flag
        if units and scale:
            fps = Fraction(scale, 2 * units)
    hrd = False
    for _ in ("nal", "vcl"):
        if r.flag():
            hrd = True
            _skip_hrd(r)
    if hrd:
        r.skip(1)  # low_delay_hrd_flag
    r.skip(1)  # pic_struct_present_flag
    reorder = None
    if r.flag():
        r.skip(1)  # motion_vectors_over_pic_boundaries_flag
        for name in ("bytes", "bits", "horizontal", "vertical"):
            r.ue(2**32 - 2, f"max_{name}")
        reorder = r.ue(16, "max_num_reorder_frames")
    return fps, reorder


def _skip_hrd(r: BitReader) -> None:
    count = 1 + r.ue(31, "cpb_cnt_minus1")
    r.skip(8)
    for _ in range(count):
        r.ue(2**32 - 2, "bit_rate_value_minus1")
        r.ue(2**32 - 2, "cpb_size_value_minus1")
        r.skip(1)
    r.skip(20)


def parse_pps_ids(nal: bytes) -> tuple[int, int]:
    """The id of a picture parameter set, and of the SPS it refers to. Raises BitstreamError."""
    r = BitReader(unescape(nal), 8)
    return r.ue(_ID_MAX, "pic_parameter_set_id"), r.ue(31, "seq_parameter_set_id")


def avc_decoder_configuration(
    sps: Sequence[bytes], pps: Sequence[bytes], extensions: Sequence[bytes], first: H264Sps | None
) -> bytes:
    """The ``avcC`` body of these NAL units; b"" without an SPS to take profile and level from.

    ``first`` is the parsed ``sps[0]``, None if it does not parse: then the chroma fields, which
    readers treat as optional, are left out.
    """
    if not sps or len(sps[0]) < 4:
        return b""
    out = bytearray((1, sps[0][1], sps[0][2], sps[0][3], 0xFF))
    out.append(0xE0 | len(sps))
    for nal in sps:
        out += len(nal).to_bytes(2, "big") + nal
    out.append(len(pps))
    for nal in pps:
        out += len(nal).to_bytes(2, "big") + nal
    if first is not None and first.has_chroma_extension:
        out.append(0xFC | first.chroma_format_idc)
        out.append(0xF8 | (first.bit_depth_luma - 8))
        out.append(0xF8 | (first.bit_depth_chroma - 8))
        out.append(len(extensions))
        for nal in extensions:
            out += len(nal).to_bytes(2, "big") + nal
    return bytes(out)
