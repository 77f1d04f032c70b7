"""Footage that ships with Ringvault, so that a fresh machine has something to show.

Licences and attribution: ``data/NOTICE``.
"""

from pathlib import Path

_DATA = Path(__file__).with_name("data")

CAR_PARK_H264 = _DATA / "car-detection.mp4"
CAR_PARK_H265 = _DATA / "car-detection-h265.mp4"
