"""ISO BMFF in Python: a box reader, the moof a record must carry, and an init segment for players.

The moof is built from the format page alone: sorted presentation times are decoding times, the
last sample ends at end_ns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack, unpack_from

KEY = 1
FLAGS_KEY = 0x02000000
FLAGS_OTHER = 0x01010000


@dataclass(frozen=True, slots=True)
class Box:
    kind: str
    body: bytes

    def children(self) -> list[Box]:
        return list(boxes(self.body))


def boxes(data: bytes) -> Iterator[Box]:
    at = 0
    while at < len(data):
        size, kind = unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            raise ValueError(f"box of {size} bytes at {at} of {len(data)}")
        yield Box(kind.decode("ascii"), data[at + 8 : at + size])
        at += size


def box(kind: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return pack(">I4s", 8 + len(body), kind.encode()) + body


def full(kind: str, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, pack(">I", version << 24 | flags), *parts)


@dataclass(frozen=True, slots=True)
class Sample:
    size_bytes: int
    pts_ticks: int
    key: bool


def moof(
    sequence: int, rtp_first: int, span_ns: int, clock_rate: int, samples: list[Sample]
) -> bytes:
    """The moof box of a record; payload and mdat header come behind it."""
    decode = sorted(sample.pts_ticks for sample in samples)
    span_ticks = min((span_ns * clock_rate + 500_000_000) // 1_000_000_000, 2**31 - 1)
    ends = [*decode[1:], decode[0] + span_ticks]
    rows = b"".join(
        pack(
            ">IIIi",
            max(end - start, 0),
            sample.size_bytes,
            FLAGS_KEY if sample.key else FLAGS_OTHER,
            sample.pts_ticks - start,
        )
        for sample, start, end in zip(samples, decode, ends, strict=True)
    )
    moof_bytes = 88 + 16 * len(samples)
    return box(
        "moof",
        full("mfhd", 0, 0, pack(">I", sequence & 0xFFFFFFFF)),
        box(
            "traf",
            full("tfhd", 0, 0x020000, pack(">I", 1)),
            full("tfdt", 1, 0, pack(">Q", max(rtp_first + decode[0], 0))),
            full("trun", 1, 0xF01, pack(">Ii", len(samples), moof_bytes + 8), rows),
        ),
    )


MATRIX = pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def init_segment(entry: str, config: bytes, width: int, height: int, clock_rate: int) -> bytes:
    """ftyp and moov of one fragmented video track; ``entry`` is avc1 or hvc1."""
    config_box = box({"avc1": "avcC", "hvc1": "hvcC"}[entry], config)
    sample_entry = box(
        entry,
        bytes(6) + pack(">H", 1) + bytes(16) + pack(">HH", width, height),
        pack(">IIIH32sHh", 0x480000, 0x480000, 0, 1, b"", 24, -1),
        config_box,
    )
    empty = [full(kind, 0, 0, pack(">I", 0)) for kind in ("stts", "stsc", "stco")]
    table = box(
        "stbl",
        full("stsd", 0, 0, pack(">I", 1), sample_entry),
        *empty,
        full("stsz", 0, 0, pack(">II", 0, 0)),
    )
    media = box(
        "mdia",
        full("mdhd", 0, 0, pack(">IIIIHH", 0, 0, clock_rate, 0, 0x55C4, 0)),
        full("hdlr", 0, 0, pack(">I4s12sx", 0, b"vide", b"")),
        box(
            "minf",
            full("vmhd", 0, 1, bytes(8)),
            box("dinf", full("dref", 0, 0, pack(">I", 1), full("url ", 0, 1))),
            table,
        ),
    )
    track_header = pack(">IIIII8xhhhH", 0, 0, 1, 0, 0, 0, 0, 0, 0) + MATRIX
    track_header += pack(">II", width << 16, height << 16)
    movie_header = pack(">IIIIIH10x", 0, 0, clock_rate, 0, 0x10000, 0x100) + MATRIX
    movie_header += bytes(24) + pack(">I", 2)
    return box("ftyp", b"iso6", pack(">I", 0), b"iso6cmfc") + box(
        "moov",
        full("mvhd", 0, 0, movie_header),
        box("trak", full("tkhd", 0, 7, track_header), media),
        box("mvex", full("trex", 0, 0, pack(">IIIII", 1, 1, 0, 0, 0))),
    )
