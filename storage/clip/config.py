"""Codec configurations of a clip: which sample entries it needs.

Owns reading the parameter sets out of `avcC` (ISO/IEC 14496-15, 5.3.3) and `hvcC` (8.3.3) and
deciding when one configuration serves for another (C6). Never changes a stored configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

CODEC_H264: Final = 1
CODEC_H265: Final = 2
_AVCC_FIXED_BYTES: Final = 6
_HVCC_FIXED_BYTES: Final = 23


class SampleConfig(msgspec.Struct, frozen=True):
    """What one sample entry says. ``body``: the content of the avcC or hvcC box."""

    codec: int
    width: int
    height: int
    body: bytes


def merge_configs(configs: Sequence[SampleConfig]) -> tuple[tuple[SampleConfig, ...], list[int]]:
    """(sample entries in order of first use, entry number of each of ``configs``).

    One contained in another is described by the larger one. Equal ones are one.
    """
    distinct = list(dict.fromkeys(configs))
    parts = {config: _parts(config) for config in distinct}
    stands_for = {
        config: next(
            (
                other
                for other in sorted(distinct, key=lambda c: -len(parts[c][1]))
                if other != config and _contains(other, config, parts)
            ),
            config,
        )
        for config in distinct
    }
    # The largest of a chain is contained in nothing, so one step reaches it (sorted by size).
    entries = tuple(dict.fromkeys(stands_for[config] for config in distinct))
    number = {config: entries.index(stands_for[config]) for config in distinct}
    return entries, [number[config] for config in configs]


def _contains(
    large: SampleConfig,
    small: SampleConfig,
    parts: dict[SampleConfig, tuple[bytes, frozenset[bytes]]],
) -> bool:
    same_shape = (large.codec, large.width, large.height) == (
        small.codec,
        small.width,
        small.height,
    )
    fixed, sets = parts[large]
    small_fixed, small_sets = parts[small]
    return same_shape and fixed == small_fixed and bool(small_sets) and small_sets < sets


def _parts(config: SampleConfig) -> tuple[bytes, frozenset[bytes]]:
    """(profile, level and other fixed fields; the parameter sets). An unreadable body has no sets
    and so is contained in nothing."""
    try:
        if config.codec == CODEC_H264:
            return _avcc_parts(config.body)
        return _hvcc_parts(config.body)
    except IndexError:
        return config.body, frozenset()


def _avcc_parts(body: bytes) -> tuple[bytes, frozenset[bytes]]:
    sets: list[bytes] = []
    at = 5
    for mask in (0x1F, 0xFF):
        count = body[at] & mask
        at += 1
        for _ in range(count):
            at = _take(body, at, sets)
    # What follows for High profiles (chroma format, bit depth) is fixed by the SPS.
    return body[: _AVCC_FIXED_BYTES - 1] + body[at:], frozenset(sets)


def _hvcc_parts(body: bytes) -> tuple[bytes, frozenset[bytes]]:
    sets: list[bytes] = []
    at = _HVCC_FIXED_BYTES
    for _ in range(body[at - 1]):
        count = body[at + 1] << 8 | body[at + 2]
        at += 3
        for _ in range(count):
            at = _take(body, at, sets)
    return body[: _HVCC_FIXED_BYTES - 1], frozenset(sets)


def _take(body: bytes, at: int, sets: list[bytes]) -> int:
    end = at + 2 + (body[at] << 8 | body[at + 1])
    if end > len(body):
        raise IndexError("parameter set is cut short")
    sets.append(body[at + 2 : end])
    return end
