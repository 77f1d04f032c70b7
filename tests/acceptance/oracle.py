"""What a stream must come out as, told without any code of the product.

Owns the reading of footage files and of clips for comparison: an Annex B splitter (ITU-T H.264 and
H.265, Annex B), the parameter sets of ``avcC``/``hvcC`` (ISO/IEC 14496-15), and the samples of an
MP4 through PyAV's demuxer. Never imports gateway, storage or cext: what is compared must not share
a mistake with what is measured.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import av

H264 = "h264"
HEVC = "hevc"
_ELEMENTARY = {".264": H264, ".h264": H264, ".jsv": H264, ".265": HEVC, ".h265": HEVC}


@dataclass(frozen=True, slots=True)
class Sample:
    """One access unit of a container. Times in units of ``time_base`` of its stream."""

    nal_units: tuple[bytes, ...]
    pts: int
    dts: int
    key: bool


@dataclass(frozen=True, slots=True)
class Track:
    """The video of a container; ``sets`` are the parameter sets of its sample description."""

    codec: str
    samples: tuple[Sample, ...]
    sets: tuple[bytes, ...]
    ticks_per_second: float


def annexb(data: bytes) -> list[bytes]:
    """NAL units of a byte stream: B.1.1, ``zero_byte`` and ``trailing_zero_8bits`` left out."""
    out: list[bytes] = []
    begin = -1
    at = 0
    while (hit := data.find(b"\x00\x00\x01", at)) >= 0:
        if begin >= 0:
            out.append(_without_trailing_zeros(data, begin, hit))
        begin = at = hit + 3
    if begin >= 0:
        out.append(_without_trailing_zeros(data, begin, len(data)))
    return [nal for nal in out if nal]


def _without_trailing_zeros(data: bytes, begin: int, end: int) -> bytes:
    while end > begin and data[end - 1] == 0:
        end -= 1
    return data[begin:end]


def codec_of(path: Path) -> str:
    """``h264`` or ``hevc``."""
    if path.suffix in _ELEMENTARY:
        return _ELEMENTARY[path.suffix]
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.name


def is_set(codec: str, nal: bytes) -> bool:
    """VPS, SPS or PPS."""
    return nal[0] & 0x1F in (7, 8) if codec == H264 else nal[0] >> 1 & 0x3F in (32, 33, 34)


def is_random_access(codec: str, nal: bytes) -> bool:
    """IDR slice, or a slice of an IRAP picture."""
    return nal[0] & 0x1F == 5 if codec == H264 else 16 <= nal[0] >> 1 & 0x3F <= 23


def is_slice(codec: str, nal: bytes) -> bool:
    """Coded picture data."""
    return 1 <= nal[0] & 0x1F <= 5 if codec == H264 else nal[0] >> 1 & 0x3F < 32


def read_track(path: Path) -> Track:
    """All samples of the first video track, in decoding order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.name
        length_bytes, sets = _description(codec, stream.codec_context.extradata or b"")
        assert stream.time_base is not None
        samples = []
        for packet in container.demux(stream):
            if packet.size == 0:
                continue  # the flush packet at the end
            assert packet.pts is not None and packet.dts is not None
            nal_units = _by_length(bytes(packet), length_bytes)
            samples.append(Sample(nal_units, packet.pts, packet.dts, packet.is_keyframe))
        return Track(codec, tuple(samples), sets, float(1 / stream.time_base))


def sent_nal_units(path: Path) -> list[bytes]:
    """What a camera that plays this file sends, in order.

    An elementary stream: its NAL units. A container keeps parameter sets aside; a camera puts them
    in front of every picture that can be joined at, unless it sends them there anyway.
    """
    if path.suffix in _ELEMENTARY:
        return annexb(path.read_bytes())
    track = read_track(path)
    out: list[bytes] = []
    for sample in track.samples:
        nal_units = list(sample.nal_units)
        joins = any(is_random_access(track.codec, nal) for nal in nal_units)
        if joins and not any(is_set(track.codec, nal) for nal in nal_units):
            delimiter = (
                nal_units[0][0] & 0x1F == 9
                if track.codec == H264
                else nal_units[0][0] >> 1 & 0x3F == 35
            )
            out += nal_units[:1] if delimiter else []
            out += track.sets
            out += nal_units[1:] if delimiter else nal_units
        else:
            out += nal_units
    return out


def _by_length(sample: bytes, length_bytes: int) -> tuple[bytes, ...]:
    out = []
    at = 0
    while at < len(sample):
        size = int.from_bytes(sample[at : at + length_bytes], "big")
        assert at + length_bytes + size <= len(sample), "a NAL unit reaches beyond its sample"
        out.append(sample[at + length_bytes : at + length_bytes + size])
        at += length_bytes + size
    return tuple(out)


def _description(codec: str, extradata: bytes) -> tuple[int, tuple[bytes, ...]]:
    """Size of the length fields and the parameter sets of ``avcC`` or ``hvcC``, in order."""
    sets: list[bytes] = []
    if codec == H264:
        at, length_bytes = 5, (extradata[4] & 3) + 1
        for mask in (0x1F, 0xFF):
            count = extradata[at] & mask
            at = _take(extradata, at + 1, count, sets)
    else:
        at, length_bytes = 23, (extradata[21] & 3) + 1
        for _ in range(extradata[22]):
            count = int.from_bytes(extradata[at + 1 : at + 3], "big")
            at = _take(extradata, at + 3, count, sets)
    return length_bytes, tuple(nal for nal in sets if is_set(codec, nal))


def _take(data: bytes, at: int, count: int, out: list[bytes]) -> int:
    for _ in range(count):
        size = int.from_bytes(data[at : at + 2], "big")
        out.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return at


def write_annexb(nal_units: list[bytes], path: Path) -> Path:
    """A byte stream that a decoder takes."""
    path.write_bytes(b"".join(b"\0\0\0\1" + nal for nal in nal_units))
    return path


def decoded_frames(path: Path) -> tuple[list[str], bool]:
    """(a checksum of every decoded picture in output order, whether the decoder was content).

    By the ffmpeg program, not the library the product is built on.
    """
    command = f"ffmpeg -nostdin -v error -threads 1 -i {shlex.quote(str(path))}"
    done = subprocess.run(
        shlex.split(f"{command} -map 0:v:0 -fps_mode passthrough -f framemd5 -"),
        capture_output=True,
        check=False,
        timeout=100,
    )
    lines = done.stdout.decode().splitlines()
    sums = [line.split(",")[-1].strip() for line in lines if line and not line.startswith("#")]
    return sums, done.returncode == 0 and not done.stderr


def probe_complaints(path: Path) -> str:
    """What ffprobe has to say against a file; empty when it reads every packet without one."""
    done = subprocess.run(
        ["ffprobe", "-v", "error", "-count_packets", "-show_streams", str(path)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.stderr.decode() + ("" if done.returncode == 0 else f"exit {done.returncode}")
