"""H.265 parameter sets: what a recording needs to know of them (ITU-T H.265 section 7.3.2).

Owns the SPS down to the VUI's timing, the ids of VPS, SPS and PPS, and the ``hvcC`` body
(ISO/IEC 14496-15 section 8.3.3). Never judges a stream: a set that does not parse is a
BitstreamError for the caller to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from gateway.errors import BitstreamError
from gateway.limits import DIMENSION_MAX
from gateway.media.bits import BitReader, unescape
from gateway.media.codec import H265_PPS, H265_SPS, H265_VPS

_EXTENDED_SAR = 255
_NAL_HEADER_BITS = 16
_PROFILE_BITS = 88  # general_profile_space to general_reserved_zero, and general_level_idc apart


@dataclass(frozen=True, slots=True)
class H265Sps:
    """Sizes in pixels after the conformance window; ``fps`` from the VUI's timing, or None.

    ``profile`` is the eleven bytes from general_profile_space to the last constraint flag.
    """

    id: int
    profile: bytes
    level_idc: int
    sub_layers: int
    temporal_id_nested: bool
    chroma_format_idc: int
    bit_depth_luma: int
    bit_depth_chroma: int
    width: int
    height: int
    fps: Fraction | None
    reorder_frames: int


def parse_sps(nal: bytes) -> H265Sps:
    """A sequence parameter set NAL unit, header included. Raises BitstreamError."""
    r = BitReader(unescape(nal), _NAL_HEADER_BITS)
    r.skip(4)  # sps_video_parameter_set_id
    sub_layers_minus1 = r.bits(3)
    if sub_layers_minus1 > 6:
        raise BitstreamError(r.position, "sps_max_sub_layers_minus1 is 7")
    nested = r.flag()
    profile, level_idc = _profile_tier_level(r, sub_layers_minus1)
    sps_id = r.ue(15, "sps_seq_parameter_set_id")
    chroma = r.ue(3, "chroma_format_idc")
    separate = chroma == 3 and r.flag()
    width = r.ue(DIMENSION_MAX, "pic_width_in_luma_samples")
    height = r.ue(DIMENSION_MAX, "pic_height_in_luma_samples")
    if r.flag():
        unit_x = 2 if chroma in (1, 2) and not separate else 1
        unit_y = 2 if chroma == 1 and not separate else 1
        width -= unit_x * (_window(r) + _window(r))
        height -= unit_y * (_window(r) + _window(r))
    if width <= 0 or height <= 0:
        raise BitstreamError(r.position, f"picture of {width} x {height} pixels")
    depth_luma = 8 + r.ue(8, "bit_depth_luma_minus8")
    depth_chroma = 8 + r.ue(8, "bit_depth_chroma_minus8")
    lsb_bits = 4 + r.ue(12, "log2_max_pic_order_cnt_lsb_minus4")
    reorder = 0
    for _ in range(sub_layers_minus1 + 1 if r.flag() else 1):
        r.ue(15, "sps_max_dec_pic_buffering_minus1")
        reorder = r.ue(15, "sps_max_num_reorder_pics")
        r.ue(2**32 - 2, "sps_max_latency_increase_plus1")
    return H265Sps(
        sps_id,
        profile,
        level_idc,
        sub_layers_minus1 + 1,
        nested,
        chroma,
        depth_luma,
        depth_chroma,
        width,
        height,
        _frame_rate(r, lsb_bits, sub_layers_minus1),
        reorder,
    )


def _window(r: BitReader) -> int:
    return r.ue(DIMENSION_MAX, "conf_win_offset")


def _profile_tier_level(r: BitReader, sub_layers_minus1: int) -> tuple[bytes, int]:
    profile = r.bits(_PROFILE_BITS).to_bytes(11, "big")
    level_idc = r.bits(8)
    present = [(r.flag(), r.flag()) for _ in range(sub_layers_minus1)]
    if sub_layers_minus1:
        r.skip(2 * (8 - sub_layers_minus1))
    for has_profile, has_level in present:
        r.skip((_PROFILE_BITS if has_profile else 0) + (8 if has_level else 0))
    return profile, level_idc


def _frame_rate(r: BitReader, lsb_bits: int, sub_layers_minus1: int) -> Fraction | None:
    """From the VUI. What lies before it is of no use to us, but must be walked over."""
    try:
        _skip_coding_tools(r, lsb_bits)
        return _parse_vui(r) if r.flag() else None
    except BitstreamError:
        return None


def _skip_coding_tools(r: BitReader, lsb_bits: int) -> None:
    """From log2_min_luma_coding_block_size_minus3 to strong_intra_smoothing_enabled_flag."""
    for name in ("min_cb", "diff_cb", "min_tb", "diff_tb", "depth_inter", "depth_intra"):
        r.ue(31, name)
    if r.flag() and r.flag():
        _skip_scaling_list_data(r)
    r.skip(2)  # amp_enabled_flag, sample_adaptive_offset_enabled_flag
    if r.flag():  # pcm_enabled_flag
        r.skip(8)
        r.ue(31, "log2_min_pcm_luma_coding_block_size_minus3")
        r.ue(31, "log2_diff_max_min_pcm_luma_coding_block_size")
        r.skip(1)
    _skip_reference_sets(r)
    if r.flag():  # long_term_ref_pics_present_flag
        for _ in range(r.ue(32, "num_long_term_ref_pics_sps")):
            r.skip(lsb_bits + 1)
    r.skip(2)  # sps_temporal_mvp_enabled_flag, strong_intra_smoothing_enabled_flag


def _skip_scaling_list_data(r: BitReader) -> None:
    for size in range(4):
        for _ in range(0, 6, 3 if size == 3 else 1):
            if not r.flag():
                r.ue(2**32 - 2, "scaling_list_pred_matrix_id_delta")
                continue
            if size > 1:
                r.se("scaling_list_dc_coef_minus8")
            for _ in range(min(64, 1 << (4 + (size << 1)))):
                r.se("scaling_list_delta_coef")


def _skip_reference_sets(r: BitReader) -> None:
    """st_ref_pic_set() of section 7.3.7; only the number of pictures of each matters here."""
    pictures = 0
    for index in range(r.ue(64, "num_short_term_ref_pic_sets")):
        if index and r.flag():  # inter_ref_pic_set_prediction_flag
            r.skip(1)  # delta_rps_sign
            r.ue(2**15 - 1, "abs_delta_rps_minus1")
            kept = 0
            for _ in range(pictures + 1):
                if r.flag() or r.flag():  # used_by_curr_pic_flag, else use_delta_flag
                    kept += 1
            pictures = kept
            continue
        negative = r.ue(16, "num_negative_pics")
        positive = r.ue(16, "num_positive_pics")
        pictures = negative + positive
        for _ in range(pictures):
            r.ue(2**15 - 1, "delta_poc_minus1")
            r.skip(1)


def _parse_vui(r: BitReader) -> Fraction | None:
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
    r.skip(3)  # neutral_chroma_indication_flag, field_seq_flag, frame_field_info_present_flag
    if r.flag():  # default_display_window_flag
        for _ in range(4):
            r.ue(DIMENSION_MAX, "def_disp_win_offset")
    if not r.flag():  # vui_timing_info_present_flag
        return None
    units, scale = r.bits(32), r.bits(32)
    return Fraction(scale, units) if units and scale else None


def parse_ids(kind: int, nal: bytes) -> tuple[int, int]:
    """(own id, id of the set it refers to; 0 for a VPS) of a VPS, SPS or PPS NAL unit."""
    r = BitReader(unescape(nal), _NAL_HEADER_BITS)
    if kind == H265_VPS:
        return r.bits(4), 0
    if kind == H265_SPS:
        return parse_sps(nal).id, BitReader(nal, _NAL_HEADER_BITS).bits(4)
    assert kind == H265_PPS, "VPS, SPS or PPS"
    return r.ue(63, "pps_pic_parameter_set_id"), r.ue(15, "pps_seq_parameter_set_id")


def hevc_decoder_configuration(
    vps: Sequence[bytes], sps: Sequence[bytes], pps: Sequence[bytes], first: H265Sps | None
) -> bytes:
    """The ``hvcC`` body of these NAL units; b"" without an SPS that parses.

    array_completeness is 0: the samples are as received and carry parameter sets of their own.
    """
    if first is None:
        return b""
    out = bytearray((1,)) + first.profile
    out.append(first.level_idc)
    out += (0xF000).to_bytes(2, "big")  # min_spatial_segmentation_idc: not known
    out.append(0xFC)  # parallelismType: not known
    out.append(0xFC | first.chroma_format_idc)
    out.append(0xF8 | (first.bit_depth_luma - 8) & 7)
    out.append(0xF8 | (first.bit_depth_chroma - 8) & 7)
    out += b"\x00\x00"  # avgFrameRate: not known
    out.append(first.sub_layers << 3 | first.temporal_id_nested << 2 | 3)
    arrays = [(H265_VPS, vps), (H265_SPS, sps), (H265_PPS, pps)]
    present = [(kind, nals) for kind, nals in arrays if nals]
    out.append(len(present))
    for kind, nals in present:
        out.append(kind)
        out += len(nals).to_bytes(2, "big")
        for nal in nals:
            out += len(nal).to_bytes(2, "big") + nal
    return bytes(out)
