"""What a simulated camera plays: access units with their times, from a file.

Owns demuxing (MP4 and other containers through PyAV, elementary streams by `annexb`), the times
that elementary streams lack, and padding to a bit rate. NAL units are never changed; the parameter
sets that a container keeps aside are put in front of key pictures, as cameras do.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import av.error

from gateway.errors import GatewayError
from gateway.media.codec import Codec, nal_type
from gateway.simulate.annexb import (
    is_key,
    is_parameter_set,
    is_slice,
    split_access_units,
    split_nal_units,
)

CLOCK_RATE = 90_000
_H264_SUFFIXES = frozenset((".264", ".h264", ".jsv", ".avc", ".26l"))
_H265_SUFFIXES = frozenset((".265", ".h265", ".hevc", ".bit"))
_FRAMES_PER_SECOND_DEFAULT = Fraction(25)
_FILLER = {Codec.H264: b"\x0c", Codec.H265: b"\x4c\x01"}
_FILLER_END = b"\x80"
_LENGTH_BYTES = 4


class FootageError(GatewayError):
    """A file that cannot be played as a camera; the message names it and says why."""

    code = "FOOTAGE"


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One coded picture, its NAL units without start codes, times in 90 kHz ticks."""

    nal_units: tuple[bytes, ...]
    decode_ticks: int
    presentation_ticks: int
    key: bool

    @property
    def sample(self) -> bytes:
        """The access unit as it is stored: each NAL unit behind its 32-bit big-endian length."""
        return b"".join(len(nal).to_bytes(_LENGTH_BYTES, "big") + nal for nal in self.nal_units)


@dataclass(frozen=True, slots=True)
class Footage:
    """A clip in decoding order.

    ``access_units[0].decode_ticks`` is 0 and the next round begins ``loop_ticks`` later; no two
    access units share a presentation time. ``parameter_sets`` are those a player needs from the
    start, for the session description.
    """

    name: str
    codec: Codec
    access_units: tuple[AccessUnit, ...]
    parameter_sets: tuple[bytes, ...]
    loop_ticks: int

    @property
    def sample_bytes(self) -> int:
        """Bytes of all samples of one round."""
        return sum(_sample_bytes(unit.nal_units) for unit in self.access_units)

    @property
    def bits_per_second(self) -> float:
        """Average rate of the samples."""
        return self.sample_bytes * 8 * CLOCK_RATE / self.loop_ticks

    @property
    def frames_per_second(self) -> float:
        """Average rate of access units."""
        return len(self.access_units) * CLOCK_RATE / self.loop_ticks


def _sample_bytes(nal_units: tuple[bytes, ...]) -> int:
    return sum(_LENGTH_BYTES + len(nal) for nal in nal_units)


def load_footage(path: Path, *, frames_per_second: Fraction | None = None) -> Footage:
    """Read a file. Raises FootageError when it is missing, no video, or of a codec not known.

    ``frames_per_second`` overrides the file's own rate. Elementary streams carry no times: they
    get the given rate, else 25, and presentation times from the order in which they decode.
    """
    if not path.is_file():
        raise FootageError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in _H264_SUFFIXES:
        footage = _load_elementary(path, Codec.H264, frames_per_second)
    elif suffix in _H265_SUFFIXES:
        footage = _load_elementary(path, Codec.H265, frames_per_second)
    else:
        footage = _load_container(path)
        if frames_per_second is not None:
            footage = _at_rate(footage, frames_per_second)
    times = [unit.presentation_ticks for unit in footage.access_units]
    if len(set(times)) != len(times):
        raise FootageError(f"{path}: two pictures have the same presentation time")
    return footage


def without_parameter_sets(footage: Footage) -> Footage:
    """The footage of a camera that sends VPS, SPS and PPS in the session description only.

    Raises FootageError when they change inside the footage: it could not be played then.
    """
    first = set(footage.parameter_sets)
    units = []
    for unit in footage.access_units:
        kept = tuple(nal for nal in unit.nal_units if not is_parameter_set(footage.codec, nal))
        removed = set(unit.nal_units) - set(kept)
        if not removed <= first:
            raise FootageError(f"{footage.name}: parameter sets change inside the stream")
        units.append(replace(unit, nal_units=kept))
    return replace(footage, access_units=tuple(units))


def pad_footage(footage: Footage, bits_per_second: int) -> Footage:
    """Raise the average rate exactly by filler data NAL units (H.264 7.3.2.7, H.265 7.3.2.8).

    Each picture grows in proportion, so that key pictures stay the largest. Raises FootageError
    when the footage is above the rate already.
    """
    wanted = bits_per_second * footage.loop_ticks // (8 * CLOCK_RATE)
    present = footage.sample_bytes
    overhead = _LENGTH_BYTES + len(_FILLER[footage.codec]) + len(_FILLER_END)
    if wanted < present + overhead * len(footage.access_units):
        raise FootageError(
            f"{footage.name} needs {footage.bits_per_second / 1e6:.2f} Mbit/s and cannot be played"
            f" at {bits_per_second / 1e6:.2f} Mbit/s"
        )
    extra = wanted - present
    units = []
    seen = 0
    spent = 0
    for number, unit in enumerate(footage.access_units, 1):
        seen += _sample_bytes(unit.nal_units)
        left = overhead * (len(footage.access_units) - number)
        share = max(overhead, min(extra * seen // present, extra - left) - spent)
        spent += share
        filler = _FILLER[footage.codec] + b"\xff" * (share - overhead) + _FILLER_END
        units.append(replace(unit, nal_units=(*unit.nal_units, filler)))
    return replace(footage, access_units=tuple(units))


def _load_elementary(path: Path, codec: Codec, rate: Fraction | None) -> Footage:
    units = split_access_units(codec, split_nal_units(path.read_bytes()))
    if not units or not any(is_slice(codec, nal) for nal in units[0]):
        raise FootageError(f"{path}: no {codec.name} picture found")
    ranks = _presentation_ranks(codec, units)
    access_units = tuple(
        AccessUnit(nal_units, number, ranks[number], is_key(codec, nal_units))
        for number, nal_units in enumerate(units)
    )
    sets = _parameter_sets(codec, units[0])
    footage = Footage(path.name, codec, access_units, sets, len(access_units))
    return _at_rate(footage, rate or _FRAMES_PER_SECOND_DEFAULT)


def _parameter_sets(codec: Codec, nal_units: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(nal for nal in nal_units if is_parameter_set(codec, nal))


def _presentation_ranks(codec: Codec, units: list[tuple[bytes, ...]]) -> list[int]:
    """The place of each access unit in presentation order, found by decoding.

    A stream of which the decoder does not show every picture (damaged on purpose, or only one
    field of a pair) keeps its decoding order: it has no other.
    """
    decoder = av.CodecContext.create("h264" if codec is Codec.H264 else "hevc", "r")
    decoder.options = {"strict": "1"}  # reorder from the first picture on, as the level allows
    shown: list[int | None] = []
    try:
        for number, nal_units in enumerate(units):
            packet = av.Packet(b"".join(b"\0\0\0\1" + nal for nal in nal_units))
            packet.pts = packet.dts = number
            shown += [frame.pts for frame in decoder.decode(packet)]
        shown += [frame.pts for frame in decoder.decode(None)]
    except av.error.FFmpegError:
        shown = []
    ranks = {number: rank for rank, number in enumerate(shown)}
    if len(shown) != len(units) or set(ranks) != set(range(len(units))):
        return list(range(len(units)))
    return [ranks[number] for number in range(len(units))]


def _at_rate(footage: Footage, rate: Fraction) -> Footage:
    """The same pictures in the same two orders, evenly spaced."""
    if rate <= 0 or rate > CLOCK_RATE:
        raise FootageError(f"{footage.name}: {rate} frames a second cannot be played")
    in_order = sorted(unit.presentation_ticks for unit in footage.access_units)
    ranks = {ticks: rank for rank, ticks in enumerate(in_order)}
    if len(ranks) != len(in_order):
        raise FootageError(f"{footage.name}: two pictures have the same presentation time")
    delay = max(n - ranks[u.presentation_ticks] for n, u in enumerate(footage.access_units))
    interval = CLOCK_RATE / rate
    units = tuple(
        replace(
            unit,
            decode_ticks=int(number * interval),
            presentation_ticks=int((ranks[unit.presentation_ticks] + delay) * interval),
        )
        for number, unit in enumerate(footage.access_units)
    )
    return replace(footage, access_units=units, loop_ticks=int(len(units) * interval))


def _load_container(path: Path) -> Footage:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise FootageError(f"{path}: no video in it")
            stream = container.streams.video[0]
            codec_name = stream.codec_context.name
            if codec_name not in ("h264", "hevc"):
                raise FootageError(f"{path}: {codec_name} is neither H.264 nor H.265")
            codec = Codec.H264 if codec_name == "h264" else Codec.H265
            extradata = stream.codec_context.extradata or b""
            packets = [packet for packet in container.demux(stream) if packet.size]
            time_base = stream.time_base
    except av.error.FFmpegError as error:
        raise FootageError(f"{path}: cannot be read: {error}") from error
    if not packets or time_base is None:
        raise FootageError(f"{path}: no pictures in it")
    length_bytes, outside = _parse_configuration(path, codec, extradata)
    units = []
    first = packets[0].dts
    for packet in packets:
        if packet.dts is None or packet.pts is None or first is None:
            raise FootageError(f"{path}: a picture has no time")
        nal_units = _split_sample(path, bytes(packet), length_bytes)
        if is_key(codec, nal_units) and not _parameter_sets(codec, nal_units):
            nal_units = _with_parameter_sets(codec, nal_units, outside)
        units.append(
            AccessUnit(
                nal_units,
                int((packet.dts - first) * time_base * CLOCK_RATE),
                int((packet.pts - first) * time_base * CLOCK_RATE),
                is_key(codec, nal_units),
            )
        )
    last_ticks = int((packets[-1].duration or 0) * time_base * CLOCK_RATE)
    if last_ticks <= 0:
        last_ticks = units[-1].decode_ticks // max(1, len(units) - 1) or CLOCK_RATE // 25
    return Footage(
        path.name,
        codec,
        tuple(units),
        _parameter_sets(codec, units[0].nal_units) or outside,
        units[-1].decode_ticks + last_ticks,
    )


def _with_parameter_sets(
    codec: Codec, nal_units: tuple[bytes, ...], outside: tuple[bytes, ...]
) -> tuple[bytes, ...]:
    """In front, but behind an access unit delimiter, which must stay the first."""
    delimiter = 9 if codec is Codec.H264 else 35
    lead = 1 if nal_type(codec, nal_units[0]) == delimiter else 0
    return nal_units[:lead] + outside + nal_units[lead:]


def _split_sample(path: Path, sample: bytes, length_bytes: int) -> tuple[bytes, ...]:
    """NAL units of a sample, by their lengths (ISO/IEC 14496-15) or by start codes (0)."""
    if length_bytes == 0:
        return tuple(split_nal_units(sample))
    nal_units = []
    at = 0
    while at < len(sample):
        end = at + length_bytes + int.from_bytes(sample[at : at + length_bytes], "big")
        if end > len(sample):
            raise FootageError(f"{path}: a NAL unit reaches beyond its sample")
        nal_units.append(sample[at + length_bytes : end])
        at = end
    return tuple(nal for nal in nal_units if nal)


def _parse_configuration(
    path: Path, codec: Codec, extradata: bytes
) -> tuple[int, tuple[bytes, ...]]:
    """Length field size and parameter sets of an ``avcC`` or ``hvcC``; 0 when it is Annex B."""
    if extradata[:1] != b"\x01":
        return 0, tuple(split_nal_units(extradata))
    nal_units: list[bytes] = []
    try:
        if codec is Codec.H264:
            length_bytes = (extradata[4] & 3) + 1
            at = 5
            for mask in (31, 255):
                count = extradata[at] & mask
                at = _take_sets(extradata, at + 1, count, nal_units)
        else:
            length_bytes = (extradata[21] & 3) + 1
            at = 23
            for _ in range(extradata[22]):
                count = int.from_bytes(extradata[at + 1 : at + 3], "big")
                at = _take_sets(extradata, at + 3, count, nal_units)
    except IndexError:
        raise FootageError(f"{path}: its decoder configuration is cut short") from None
    return length_bytes, tuple(nal for nal in nal_units if is_parameter_set(codec, nal))


def _take_sets(data: bytes, at: int, count: int, out: list[bytes]) -> int:
    for _ in range(count):
        size = int.from_bytes(data[at : at + 2], "big")
        if at + 2 + size > len(data):
            raise IndexError
        out.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return at
