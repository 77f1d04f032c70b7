"""What one RTP payload of H.265 holds (RFC 7798), for Python.

The recording path runs the same C (depacketize_h265.h) inside ``cext.track`` and makes none of these
objects. Keeps no state: putting pieces together, and loss, are the track's business.

- Single NAL units, AP and FU, without DONL; everything else is malformed.
- What could be read in front of a malformed part is still returned.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize

from cext.arena cimport RV_CODEC_H265
from cext.limits cimport RTP_PACKET_BYTES_MAX

from cext.errors import LimitExceeded
from cext.values import NalPiece, NalPieces


cdef extern from "depacketize_h265.h":
    enum:
        RV_PIECE
        RV_PIECE_MALFORMED

    int rv_parameter_set_id(int codec, const uint8_t *nal, size_t nbytes) noexcept nogil
    int rv_nal_is_parameter_set(int codec, uint8_t type) noexcept nogil
    uint8_t rv_nal_type(int codec, const uint8_t *nal) noexcept nogil
    int rv_sei_has_recovery_point(int codec, const uint8_t *nal, size_t nbytes) noexcept nogil


cdef inline const uint8_t *start_of(const uint8_t[::1] data) noexcept:
    if data.shape[0] == 0:
        return NULL  # never read: the parsers look at the length first
    return &data[0]


def nal_pieces(const uint8_t[::1] payload not None) -> NalPieces:
    """The NAL units, and parts of one, in a payload. Raises ``LimitExceeded`` over 65535 bytes."""
    cdef rv_nal_cursor cursor
    cdef rv_nal_piece piece
    cdef int status
    if payload.shape[0] > <Py_ssize_t>RTP_PACKET_BYTES_MAX:
        raise LimitExceeded("RTP_PACKET_BYTES_MAX", payload.shape[0], RTP_PACKET_BYTES_MAX)
    cursor = rv_h265_open(start_of(payload), <uint32_t>payload.shape[0])
    pieces = []
    status = rv_cursor_next(&cursor, &piece)
    while status == RV_PIECE:
        header = PyBytes_FromStringAndSize(<const char *>piece.header, piece.header_bytes)
        data = PyBytes_FromStringAndSize(<const char *>piece.data, piece.nbytes)
        pieces.append(NalPiece(piece.type, header + data, bool(piece.begins), bool(piece.ends)))
        status = rv_cursor_next(&cursor, &piece)
    return NalPieces(tuple(pieces), status == RV_PIECE_MALFORMED)


def parameter_set_id(const uint8_t[::1] nal not None) -> int | None:
    """The id of a parameter set NAL unit; None: it is none, or has no readable id in range."""
    cdef int found
    if nal.shape[0] == 0 or not rv_nal_is_parameter_set(
        RV_CODEC_H265, rv_nal_type(RV_CODEC_H265, start_of(nal))
    ):
        return None
    found = rv_parameter_set_id(RV_CODEC_H265, start_of(nal), <size_t>nal.shape[0])
    return None if found < 0 else found


def has_recovery_point(const uint8_t[::1] nal not None) -> bool:
    """Whether an SEI NAL unit holds a recovery point message (payload type 6)."""
    return bool(
        rv_sei_has_recovery_point(RV_CODEC_H265, start_of(nal), <size_t>nal.shape[0])
    )
