"""Names of things, parsed once at the edge.

A camera has two: the id an operator chose (text, unique in an installation) and a uid (16 random
bytes) that records carry, so that renaming a camera never touches footage.
"""

from __future__ import annotations

import re
import uuid
from typing import NewType

from storage.errors import ValueFormatError

CameraUid = NewType("CameraUid", bytes)
CameraId = NewType("CameraId", str)

CAMERA_UID_BYTES = 16
_CAMERA_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def new_camera_uid() -> CameraUid:
    return CameraUid(uuid.uuid4().bytes)


def camera_uid(value: bytes | str) -> CameraUid:
    """16 bytes, or their 32 hex digits (dashes allowed). Raises ValueFormatError."""
    if isinstance(value, str):
        try:
            value = uuid.UUID(value).bytes
        except ValueError as error:
            raise ValueFormatError(f"camera uid {value!r} is not 32 hex digits") from error
    if len(value) != CAMERA_UID_BYTES:
        raise ValueFormatError(f"camera uid has {len(value)} bytes, expected {CAMERA_UID_BYTES}")
    return CameraUid(value)


def parse_camera_id(text: str) -> CameraId:
    """1 to 64 of ``A-Z a-z 0-9 . _ -``; not ``.`` or ``..``, which are paths."""
    if not _CAMERA_ID.fullmatch(text) or not text.strip("."):
        raise ValueFormatError(
            f"camera id {text!r}: use 1 to 64 of letters, digits, dot, underscore and dash"
        )
    return CameraId(text)
