"""The CMAF moof of a fragment.

Owns: nothing; a pure function of what ``describe()`` fixed. Never does: init segments or moov
boxes, those are computed per clip by storage.

- Within a fragment the decoding times are the presentation times in rising order; composition
  offsets are signed (trun version 1).
- The box is followed by the mdat header, so that moof, header and payload are one CMAF fragment.

ISO/IEC 14496-12 clause 8.8; docs/design/volume-format.md, "Record".
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from cext.arena cimport Fragment


def build_moof(fragment: Fragment) -> bytes:
    """moof box and mdat box header. Raises ``ValueError`` before ``describe()``."""
    if not fragment.f.described:
        raise ValueError(f"{fragment!r} needs describe() first")
    cdef uint32_t count = fragment.f.frame_count
    cdef bytes box = PyBytes_FromStringAndSize(NULL, rv_moof_bytes(count) + RV_MDAT_HEADER_BYTES)
    rv_build_moof(
        &fragment.f.header, fragment.f.frames, count, <uint8_t *>PyBytes_AS_STRING(box)
    )
    return box
