"""ISO base media boxes of a clip (ISO/IEC 14496-12, 14496-15): bytes from arrays.

Owns box layout and the run-length coding of sample tables. Never reads a record and knows no time
but ticks of 1/90000 s. Pure functions; work is numpy over all samples at once.

docs/design/clip.md, C5-C11, C17.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage.clip.config import CODEC_H264, SampleConfig

TIMESCALE: Final = 90_000
MAC_EPOCH_S: Final = 2_082_844_800  # 1904-01-01 to 1970-01-01
_UINT32_MAX: Final = 0xFFFFFFFF
_INT32_MAX: Final = 0x7FFFFFFF
_MATRIX: Final = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """All samples of a clip in decoding order; arrays of equal length, one entry a sample.

    ``sizes`` bytes; ``decode_ticks`` from 0, never decreasing; ``offset_ticks`` composition minus
    decoding time, never negative; ``keys`` random access points. ``last_ticks``: duration of the
    last sample. ``chunk_samples``: samples of each chunk, in file order; ``chunk_entries``: its
    sample entry, an index into ``configs``.
    """

    sizes: Ints
    decode_ticks: Ints
    offset_ticks: Ints
    keys: NDArray[np.bool_]
    last_ticks: int
    chunk_samples: Ints
    chunk_entries: Ints
    configs: tuple[SampleConfig, ...]


@dataclass(frozen=True, slots=True)
class Presentation:
    """The edit: what is shown. ``start_ticks`` in composition time of the track."""

    start_ticks: int
    duration_ticks: int
    created_s: int
    trial: bool


EMPTY_TABLE: Final = SampleTable(
    sizes=np.zeros(0, np.int64),
    decode_ticks=np.zeros(0, np.int64),
    offset_ticks=np.zeros(0, np.int64),
    keys=np.zeros(0, np.bool_),
    last_ticks=0,
    chunk_samples=np.zeros(0, np.int64),
    chunk_entries=np.zeros(0, np.int64),
    configs=(),
)


def head(samples: SampleTable, shown: Presentation) -> bytes:
    """ftyp, moov and the header of mdat; the media data follow directly behind.

    An empty table gives a movie without a track and no mdat.
    """
    brands = [b"isom", b"iso2", b"mp41"]
    brands += sorted({_coding_name(config) for config in samples.configs})
    ftyp = box(b"ftyp", b"isom", struct.pack(">I", 0x200), *brands)
    media_bytes = int(samples.sizes.sum())
    if len(samples.sizes) == 0:
        return ftyp + _moov(samples, shown, np.zeros(0, np.int64), wide=False)
    if 8 + media_bytes <= _UINT32_MAX:
        mdat = struct.pack(">I4s", 8 + media_bytes, b"mdat")
    else:
        mdat = struct.pack(">I4sQ", 1, b"mdat", 16 + media_bytes)
    firsts = np.concatenate(([0], np.cumsum(samples.chunk_samples)[:-1]))
    sample_offsets = np.cumsum(samples.sizes) - samples.sizes
    within = sample_offsets[firsts]
    # The moov's length does not depend on the offsets in it, only on their width.
    moov = _moov(samples, shown, within, wide=False)
    wide = len(ftyp) + len(moov) + len(mdat) + media_bytes > _UINT32_MAX
    if wide:
        moov = _moov(samples, shown, within, wide=True)
    offsets = _offsets(within + len(ftyp) + len(moov) + len(mdat), wide=wide)
    # They are the end of the only track; behind it there is nothing but the comment.
    end = len(moov) - (len(_TRIAL) if shown.trial else 0)
    return b"".join((ftyp, moov[: end - len(offsets)], offsets, moov[end:], mdat))


def box(name: bytes, *content: bytes) -> bytes:
    size = 8 + sum(map(len, content))
    if size > _UINT32_MAX:
        raise ValueError(f"box {name.decode()} of {size} bytes")
    return b"".join((struct.pack(">I4s", size, name), *content))


def full_box(name: bytes, version: int, flags: int, *content: bytes) -> bytes:
    return box(name, struct.pack(">I", version << 24 | flags), *content)


def _moov(samples: SampleTable, shown: Presentation, offsets: Ints, *, wide: bool) -> bytes:
    created = shown.created_s + MAC_EPOCH_S
    version = _version(shown.duration_ticks, created)
    mvhd = full_box(
        b"mvhd",
        version,
        0,
        _times(created, shown.duration_ticks, version, struct.pack(">I", TIMESCALE)),
        struct.pack(">IHHII", 0x10000, 0x100, 0, 0, 0),  # rate 1.0, volume 1.0
        _MATRIX,
        bytes(24),
        struct.pack(">I", 2),  # next_track_ID
    )
    parts = [mvhd]
    if len(samples.sizes):
        parts.append(_trak(samples, shown, offsets, created, wide=wide))
    if shown.trial:
        parts.append(_TRIAL)
    return box(b"moov", *parts)


def _trak(
    samples: SampleTable, shown: Presentation, offsets: Ints, created: int, *, wide: bool
) -> bytes:
    first = samples.configs[0]
    version = _version(shown.duration_ticks, created)
    tkhd = full_box(
        b"tkhd",
        version,
        3,  # enabled, in movie
        _times(created, shown.duration_ticks, version, struct.pack(">II", 1, 0)),
        struct.pack(">IIHHHH", 0, 0, 0, 0, 0, 0),
        _MATRIX,
        struct.pack(">II", first.width << 16, first.height << 16),
    )
    # media_time is signed; the duration could use one bit more, but never needs it.
    version = _version(shown.start_ticks, shown.duration_ticks, maximum=_INT32_MAX)
    edit = struct.pack(
        ">Iqqhh" if version else ">IIihh", 1, shown.duration_ticks, shown.start_ticks, 1, 0
    )
    edts = box(b"edts", full_box(b"elst", version, 0, edit))
    media_ticks = int(samples.decode_ticks[-1]) + samples.last_ticks
    version = _version(media_ticks, created)
    mdhd = full_box(
        b"mdhd",
        version,
        0,
        _times(created, media_ticks, version, struct.pack(">I", TIMESCALE)),
        struct.pack(">HH", 0x55C4, 0),  # "und"
    )
    hdlr = full_box(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide"), b"Ringvault\0")
    vmhd = full_box(b"vmhd", 0, 1, bytes(8))
    dinf = box(b"dinf", full_box(b"dref", 0, 0, struct.pack(">I", 1), full_box(b"url ", 0, 1)))
    minf = box(b"minf", vmhd, dinf, _stbl(samples, offsets, wide=wide))
    return box(b"trak", tkhd, edts, box(b"mdia", mdhd, hdlr, minf))


def _stbl(samples: SampleTable, offsets: Ints, *, wide: bool) -> bytes:
    entries = b"".join(map(_sample_entry, samples.configs))
    deltas = np.append(np.diff(samples.decode_ticks), samples.last_ticks)
    parts = [
        full_box(b"stsd", 0, 0, struct.pack(">I", len(samples.configs)), entries),
        full_box(b"stts", 0, 0, _run_lengths(deltas)),
    ]
    if samples.offset_ticks.any():
        parts.append(full_box(b"ctts", 0, 0, _run_lengths(samples.offset_ticks)))
    if not samples.keys.all():
        numbers = np.flatnonzero(samples.keys) + 1
        parts.append(full_box(b"stss", 0, 0, struct.pack(">I", len(numbers)), _be32(numbers)))
    parts.append(full_box(b"stsc", 0, 0, _chunk_runs(samples)))
    count = struct.pack(">II", 0, len(samples.sizes))
    parts.append(full_box(b"stsz", 0, 0, count, _be32(samples.sizes)))
    count = struct.pack(">I", len(offsets))
    # Last of all: head() puts the offsets there once it knows where the media data begin.
    parts.append(full_box(b"co64" if wide else b"stco", 0, 0, count, _offsets(offsets, wide=wide)))
    return box(b"stbl", *parts)


def _sample_entry(config: SampleConfig) -> bytes:
    configuration = b"avcC" if config.codec == CODEC_H264 else b"hvcC"
    return box(
        _coding_name(config),
        struct.pack(">6xH16xHH", 1, config.width, config.height),
        struct.pack(">IIIH", 0x480000, 0x480000, 0, 1),  # 72 dpi, one frame a sample
        bytes(32),
        struct.pack(">Hh", 24, -1),
        box(configuration, config.body),
    )


def _coding_name(config: SampleConfig) -> bytes:
    return b"avc1" if config.codec == CODEC_H264 else b"hvc1"


def _run_lengths(values: Ints) -> bytes:
    """Entry count, then (sample count, value) pairs, as stts and ctts have them."""
    starts = _run_starts(values)
    pairs = np.empty((len(starts), 2), ">u4")
    pairs[:, 0] = np.diff(np.append(starts, len(values)))
    pairs[:, 1] = values[starts]
    return struct.pack(">I", len(starts)) + pairs.tobytes()


def _chunk_runs(samples: SampleTable) -> bytes:
    """stsc: (first chunk from 1, samples a chunk, sample entry from 1) where either changes."""
    both = samples.chunk_samples * len(samples.configs) + samples.chunk_entries
    starts = _run_starts(both)
    rows = np.empty((len(starts), 3), ">u4")
    rows[:, 0] = starts + 1
    rows[:, 1] = samples.chunk_samples[starts]
    rows[:, 2] = samples.chunk_entries[starts] + 1
    return struct.pack(">I", len(starts)) + rows.tobytes()


def _run_starts(values: Ints) -> Ints:
    return np.concatenate(([0], np.flatnonzero(np.diff(values)) + 1)).astype(np.int64)


def _offsets(values: Ints, *, wide: bool) -> bytes:
    return values.astype(">u8").tobytes() if wide else _be32(values)


def _be32(values: Ints) -> bytes:
    return values.astype(">u4").tobytes()


def _version(*values: int, maximum: int = _UINT32_MAX) -> int:
    """Version 0 of a box where its 32-bit fields hold all values, else 1."""
    return int(max(values) > maximum)


def _times(created: int, duration: int, version: int, between: bytes) -> bytes:
    """creation and modification time, ``between``, duration: mvhd, tkhd, mdhd."""
    if version:
        return struct.pack(">QQ", created, created) + between + struct.pack(">Q", duration)
    return struct.pack(">II", created, created) + between + struct.pack(">I", duration)


def _comment(text: str) -> bytes:
    """udta/meta/ilst comment, as iTunes writes it and players show it."""
    hdlr = full_box(b"hdlr", 0, 0, struct.pack(">I4s4s8x", 0, b"mdir", b"appl"), b"\0")
    data = box(b"data", struct.pack(">II", 1, 0), text.encode())
    meta = full_box(b"meta", 0, 0, hdlr, box(b"ilst", box(b"\xa9cmt", data)))
    return box(b"udta", meta)


_TRIAL: Final = _comment("TRIAL")
