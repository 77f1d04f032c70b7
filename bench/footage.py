"""The stream that every benched camera sends: 1080p25 H.264 at an exact rate, from real footage.

Made once from the shipped car park footage by PyAV and kept beside the bench's other files; the
rest up to the wanted rate is filler data, spread so that key pictures stay the largest.
"""

import os
from fractions import Fraction
from pathlib import Path

import av

from gateway.simulate.footage import Footage, load_footage, pad_footage
from gateway.simulate.shipped import CAR_PARK_H264

FRAMES_PER_SECOND = 25
_SECONDS = 10
_KEY_INTERVAL = 50
_WIDTH, _HEIGHT = 1920, 1080
_AIM = 0.96  # the encoder lands near its goal; filler makes up the difference
_VERSION = 1  # of the recipe: part of the file name


def bench_footage(directory: Path, megabits_per_second: float) -> Footage:
    """Ten seconds in a loop at exactly that rate, encoded on first use."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"bench-v{_VERSION}-{megabits_per_second:g}mbps.mp4"
    if not path.is_file():
        unfinished = path.with_suffix(f".{os.getpid()}.mp4")
        try:
            _encode(unfinished, int(megabits_per_second * 1e6 * _AIM))
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return pad_footage(load_footage(path), int(megabits_per_second * 1e6))


def _encode(path: Path, bits_per_second: int) -> None:
    with av.open(str(CAR_PARK_H264)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.bit_rate = bits_per_second
        stream.gop_size = _KEY_INTERVAL
        stream.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "profile": "high",
            "maxrate": str(bits_per_second),
            "bufsize": str(bits_per_second),
        }
        for number, picture in enumerate(source.decode(video=0)):
            if number == _SECONDS * FRAMES_PER_SECOND:
                break
            frame = picture.reformat(_WIDTH, _HEIGHT, "yuv420p")
            frame.pts = number
            frame.time_base = Fraction(1, FRAMES_PER_SECOND)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
