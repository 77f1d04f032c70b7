"""A slow, obvious reader of progressive MP4, from ISO/IEC 14496-12, to hold clips against."""

from __future__ import annotations

import struct
from dataclasses import dataclass

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf"}


@dataclass(frozen=True)
class Sample:
    data: bytes
    dts: int
    cts: int
    duration: int
    key: bool
    entry: bytes


@dataclass(frozen=True)
class Movie:
    samples: list[Sample]
    edit_start: int
    edit_duration: int
    media_duration: int
    timescale: int
    movie_timescale: int
    entries: list[tuple[bytes, int, int, bytes]]
    boxes: dict[bytes, bytes]
    top: list[bytes]

    @property
    def shown(self) -> list[Sample]:
        """Samples a player shows, in output order."""
        end = self.edit_start + self.edit_duration
        return sorted(
            (s for s in self.samples if self.edit_start <= s.cts < end), key=lambda s: s.cts
        )


def parse_movie(data: bytes) -> Movie:
    boxes: dict[bytes, bytes] = {}
    top = [name for name, _, _ in walk(data, 0, len(data))]
    collect(data, 0, len(data), boxes)
    timescale, media_duration = duration_of(boxes[b"mdhd"])
    movie_timescale, movie_duration = duration_of(boxes[b"mvhd"])
    version = boxes[b"elst"][0]
    (count,) = struct.unpack_from(">I", boxes[b"elst"], 4)
    assert count == 1
    edit = struct.unpack_from(">Qq" if version else ">Ii", boxes[b"elst"], 8)
    assert movie_duration == edit[0]
    entries = sample_entries(boxes[b"stsd"])
    return Movie(
        samples=samples_of(data, boxes, entries),
        edit_start=edit[1],
        edit_duration=edit[0],
        media_duration=media_duration,
        timescale=timescale,
        movie_timescale=movie_timescale,
        entries=entries,
        boxes=boxes,
        top=top,
    )


def walk(data: bytes, at: int, end: int) -> list[tuple[bytes, int, int]]:
    """(name, content start, content end) of the boxes that fill [at, end) exactly."""
    found = []
    while at < end:
        size, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        assert size >= head and at + size <= end, (name, size, at, end)
        found.append((name, at + head, at + size))
        at += size
    assert at == end
    return found


def collect(data: bytes, at: int, end: int, boxes: dict[bytes, bytes]) -> None:
    for name, start, stop in walk(data, at, end):
        if name in CONTAINERS:
            boxes[name] = b""
            collect(data, start, stop, boxes)
        elif name != b"mdat":
            assert name not in boxes, name
            boxes[name] = data[start:stop]


def duration_of(box: bytes) -> tuple[int, int]:
    scale, duration = struct.unpack_from(">IQ" if box[0] else ">II", box, 20 if box[0] else 12)
    return scale, duration


def sample_entries(stsd: bytes) -> list[tuple[bytes, int, int, bytes]]:
    """(coding name, width, height, content of the configuration box)."""
    (count,) = struct.unpack_from(">I", stsd, 4)
    entries = []
    for name, start, stop in walk(stsd, 8, len(stsd)):
        width, height = struct.unpack_from(">HH", stsd, start + 24)
        ((config, low, high),) = walk(stsd, start + 78, stop)
        assert config == {b"avc1": b"avcC", b"hvc1": b"hvcC"}[name]
        entries.append((name, width, height, stsd[low:high]))
    assert len(entries) == count
    return entries


def runs(box: bytes) -> list[int]:
    (count,) = struct.unpack_from(">I", box, 4)
    assert len(box) == 8 + 8 * count
    values: list[int] = []
    for number in range(count):
        times, value = struct.unpack_from(">II", box, 8 + 8 * number)
        values += [value] * times
    return values


def samples_of(
    data: bytes, boxes: dict[bytes, bytes], entries: list[tuple[bytes, int, int, bytes]]
) -> list[Sample]:
    uniform, count = struct.unpack_from(">II", boxes[b"stsz"], 4)
    assert uniform == 0
    sizes = struct.unpack_from(f">{count}I", boxes[b"stsz"], 12)
    deltas = runs(boxes[b"stts"])
    offsets = runs(boxes[b"ctts"]) if b"ctts" in boxes else [0] * count
    assert len(deltas) == len(offsets) == count
    keys = set(range(1, count + 1))
    if b"stss" in boxes:
        (number,) = struct.unpack_from(">I", boxes[b"stss"], 4)
        keys = set(struct.unpack_from(f">{number}I", boxes[b"stss"], 8))
    name, width = (b"co64", "Q") if b"co64" in boxes else (b"stco", "I")
    (chunk_count,) = struct.unpack_from(">I", boxes[name], 4)
    chunks = struct.unpack_from(f">{chunk_count}{width}", boxes[name], 8)
    (run_count,) = struct.unpack_from(">I", boxes[b"stsc"], 4)
    stsc = [struct.unpack_from(">III", boxes[b"stsc"], 8 + 12 * n) for n in range(run_count)]
    samples: list[Sample] = []
    dts = 0
    for chunk, start in enumerate(chunks, 1):
        _, per_chunk, entry = max(row for row in stsc if row[0] <= chunk)
        at = start
        for _ in range(per_chunk):
            number = len(samples)
            samples.append(
                Sample(
                    data=data[at : at + sizes[number]],
                    dts=dts,
                    cts=dts + offsets[number],
                    duration=deltas[number],
                    key=number + 1 in keys,
                    entry=entries[entry - 1][3],
                )
            )
            at += sizes[number]
            dts += deltas[number]
    assert len(samples) == count
    return samples
