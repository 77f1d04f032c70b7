"""Records decoded and verified by the format page alone, in plain Python.

Shares nothing with the native modules: checksums bit by bit, hashes by hashlib, the moof built
again. ``FIELDS`` is compared with the tables of docs/design/volume-format.md by test_format.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from struct import calcsize, unpack_from

from tests.oracle import fmp4
from tests.oracle.crc32c import crc32c
from tests.oracle.merkle import merkle_root

BLOCK = 4096
FIXED_BYTES = 256
ENTRY_BYTES = 48

# name -> struct code, in order, without holes
FIELDS: dict[str, str] = {
    "magic": "8s", "format_version": "H", "kind": "H", "header_bytes": "I", "payload_bytes": "I",
    "record_bytes": "I", "volume_uuid": "16s", "slot": "I", "generation": "I",
    "offset_blocks": "I", "slot_sequence": "I", "camera_uid": "16s", "stream_sequence": "Q",
    "start_ns": "q", "end_ns": "q", "recv_first_ns": "q", "recv_last_ns": "q", "rtp_first": "q",
    "camera_ns": "q", "camera_offset_ns": "q", "clock_rate": "I", "run_id": "I",
    "frame_count": "H", "codec": "H", "width": "H", "height": "H", "codec_config_offset": "I",
    "codec_config_bytes": "I", "frame_table_offset": "I", "moof_offset": "I", "moof_bytes": "I",
    "flags": "I", "fragment_root": "32s", "payload_crc32c": "I", "codec_config_id": "I",
    "recv_quantum_ns": "q", "encryption_key_id": "16s", "reserved": "12s", "header_crc32c": "I",
}  # fmt: skip
ENTRY_FIELDS: dict[str, str] = {
    "size_bytes": "I", "pts_ticks": "i", "recv_us": "I", "flags": "H", "nal_count": "H",
    "sha256": "32s",
}  # fmt: skip

HEADER = "<" + "".join(FIELDS.values())
ENTRY = "<" + "".join(ENTRY_FIELDS.values())


def offset_of(field: str, fields: dict[str, str] = FIELDS) -> int:
    names = list(fields)
    return calcsize("<" + "".join(fields[name] for name in names[: names.index(field)]))


class Broken(Exception):
    """A record that does not keep the format page."""


@dataclass(frozen=True, slots=True)
class Frame:
    size_bytes: int
    pts_ticks: int
    recv_us: int
    flags: int
    nal_count: int
    sha256: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Record:
    fields: dict[str, int | bytes]
    frames: tuple[Frame, ...]
    config: bytes
    fragment: bytes  # moof, mdat header and payload: a CMAF fragment

    def __getitem__(self, name: str) -> int:
        value = self.fields[name]
        assert isinstance(value, int)
        return value


def need(condition: bool, rule: str) -> None:
    if not condition:
        raise Broken(rule)


def with_header_crc(region: bytes) -> bytes:
    """The header region with its checksum made right: to break one rule and no other."""
    crc = crc32c(region[:252] + bytes(4) + region[256:])
    return region[:252] + crc.to_bytes(4, "little") + region[256:]


def decode(data: bytes) -> Record:
    """The record at the start of ``data``, every rule of the page checked."""
    fields = dict(zip(FIELDS, unpack_from(HEADER, data), strict=True))
    header_bytes, payload_bytes = fields["header_bytes"], fields["payload_bytes"]
    region, payload = data[:header_bytes], data[header_bytes : header_bytes + payload_bytes]
    padding = data[header_bytes + payload_bytes : fields["record_bytes"]]
    need(fields["magic"] == b"RVFRAG01" and fields["format_version"] == 1, "magic, version")
    need(header_bytes % BLOCK == 0 and fields["record_bytes"] % BLOCK == 0, "whole blocks")
    need(len(region) == header_bytes and len(payload) == payload_bytes, "complete")
    need(0 <= len(padding) < BLOCK and not any(padding), "padding")
    need(with_header_crc(region) == region, "header CRC")
    need(crc32c(payload) == fields["payload_crc32c"], "payload CRC")
    need(not any(fields["reserved"]), "reserved is zero")
    need(fields["frame_table_offset"] == FIXED_BYTES, "frame table")

    frames = tuple(_frames(fields["frame_count"], region, payload))
    config_at = fields["codec_config_offset"]
    config_end = config_at + fields["codec_config_bytes"]
    need(config_at == FIXED_BYTES + ENTRY_BYTES * len(frames), "configuration offset")
    config = region[config_at:config_end]
    if fields["kind"] == 1:
        need(not any(region[config_end : fields["moof_offset"]]), "zeros before the moof")
        _check_moof(fields, frames, region)
    else:
        need(fields["kind"] == 2 and payload_bytes == 0 and not frames, "gap")
        need(fields["moof_offset"] == fields["moof_bytes"] == 0, "gap without moof")
        need(not any(region[config_end:]), "zeros behind the detail")
    descriptor = region[56:152] + hashlib.sha256(config).digest()
    entries = [region[at : at + ENTRY_BYTES] for at in range(FIXED_BYTES, config_at, ENTRY_BYTES)]
    need(merkle_root([descriptor, *entries]) == fields["fragment_root"], "fragment_root")
    return Record(fields, frames, config, region[fields["moof_offset"] :] + payload)


def _frames(count: int, region: bytes, payload: bytes) -> list[Frame]:
    frames: list[Frame] = []
    at = 0
    for i in range(count):
        entry = unpack_from(ENTRY, region, FIXED_BYTES + ENTRY_BYTES * i)
        data = payload[at : at + entry[0]]
        need(hashlib.sha256(data).digest() == entry[5], f"hash of frame {i}")
        frames.append(Frame(*entry, data))
        at += entry[0]
    need(at == len(payload), "frame sizes")
    return frames


def _check_moof(fields: dict[str, int], frames: tuple[Frame, ...], region: bytes) -> None:
    samples = [fmp4.Sample(f.size_bytes, f.pts_ticks, bool(f.flags & fmp4.KEY)) for f in frames]
    moof = fmp4.moof(
        fields["stream_sequence"],
        fields["rtp_first"],
        fields["end_ns"] - fields["start_ns"],
        fields["clock_rate"],
        samples,
    )
    mdat = (8 + fields["payload_bytes"]).to_bytes(4) + b"mdat"
    need(fields["moof_bytes"] == len(moof), "moof_bytes")
    need(region[fields["moof_offset"] :] == moof + mdat, "moof and mdat header")


def walk(data: bytes) -> list[Record]:
    """The records that lie one behind the other in ``data``, to its end."""
    found: list[Record] = []
    at = 0
    while at < len(data):
        record = decode(data[at:])
        found.append(record)
        at += record["record_bytes"]
    return found
