"""A reader believes nothing: each broken rule of a record is a FrameError that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.arena import ArenaPool
from cext.errors import FrameError
from cext.record import (
    RecordHeader,
    codec_config,
    frame_table,
    parse_header,
    region_bytes,
    verify_hashes,
    verify_payload,
    verify_record,
)
from cext.segment_writer import GapRecord, seal, write_records
from tests.cext.fragments import CAMERA, MIB, START_NS, VOLUME, Spec, make, plain
from tests.oracle import record as oracle
from tests.oracle.crc32c import crc32c

DETAIL = "connection reset by peer: 摄像机"
SPEC = plain(12, 900)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A fragment and, behind it, a gap, as they lie in a slot."""
    path: Path = tmp_path_factory.mktemp("records") / "slots"
    fragment = make(ArenaPool(64 * MIB), SPEC)
    seal([fragment])
    gap = GapRecord(CAMERA, 8, START_NS, START_NS + 5, 2, 17, DETAIL)
    with path.open("wb") as file:
        write_records(file.fileno(), 0, 0, 4, VOLUME, 3, 6, [fragment, gap])
    return path.read_bytes()


def with_field(data: bytes, name: str, value: int | bytes) -> bytes:
    """One field changed, the header CRC right again: nothing but the rule itself can object."""
    at, code = oracle.offset_of(name), oracle.FIELDS[name]
    size = oracle.calcsize(f"<{code}")
    raw = value if isinstance(value, bytes) else value.to_bytes(size, "little", signed=value < 0)
    header_bytes = int.from_bytes(data[12:16], "little")
    region = oracle.with_header_crc(data[:at] + raw + data[at + size : header_bytes])
    return region + data[header_bytes:]


def test_every_attribute_is_the_field(written: bytes) -> None:
    for data in (written, written[parse_header(written).record_bytes :]):
        header, record = parse_header(data), oracle.decode(data)
        for name, value in record.fields.items():
            if name not in {"magic", "format_version", "reserved"}:
                assert getattr(header, name) == value, name


def test_what_belongs_to_a_fragment(written: bytes) -> None:
    header, record = parse_header(written), oracle.decode(written)
    assert not header.is_gap
    table = np.frombuffer(frame_table(written, header), dtype="<u4, <i4, <u4, <u2, <u2, S32")
    assert table["f0"].tolist() == [frame.size_bytes for frame in record.frames]
    assert table["f1"].tolist() == [frame.pts_ticks for frame in record.frames]
    assert codec_config(written, header) == SPEC.codec_config
    assert b"".join(frame.data for frame in record.frames) == b"".join(SPEC.samples)


def test_what_belongs_to_a_gap(written: bytes) -> None:
    data = written[parse_header(written).record_bytes :]
    header = verify_record(data, full=True)
    assert header.is_gap
    assert (header.cause, header.packets, header.payload_bytes) == (2, 17, 0)
    assert codec_config(data, header).decode() == DETAIL
    assert len(frame_table(data, header)) == 0


def test_headers_are_values(written: bytes) -> None:
    one, same = parse_header(written), parse_header(bytearray(written))
    other = parse_header(with_field(written, "slot", 4))
    assert one == same and hash(one) == hash(same) and one != other and one != 3
    assert "#7 at slot 3.6 block 0" in repr(one)
    with pytest.raises(AttributeError):
        one.slot = 5  # type: ignore[misc]
    assert isinstance(one, RecordHeader)


def test_full_verification_takes_what_the_oracle_takes(written: bytes) -> None:
    header = verify_record(written, full=True)
    assert header.fragment_root == oracle.decode(written).fields["fragment_root"]
    payload = written[header.header_bytes :]
    verify_payload(header, payload)
    assert verify_hashes(written[: header.header_bytes], payload) == header


def test_any_flipped_bit_of_the_header_region_is_found(written: bytes) -> None:
    region = bytearray(written[:4096])
    for at in range(4096):
        region[at] ^= 1 << at % 8
        with pytest.raises(FrameError):
            parse_header(region)
        region[at] ^= 1 << at % 8
    assert parse_header(region) == parse_header(written)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_of_the_payload_is_found(written: bytes, data: st.DataObject) -> None:
    header = parse_header(written)
    at = data.draw(st.integers(0, header.payload_bytes - 1))
    damaged = bytearray(written)
    damaged[header.header_bytes + at] ^= 1 << data.draw(st.integers(0, 7))
    assert verify_record(damaged, full=False) == header
    with pytest.raises(FrameError, match="payload CRC") as caught:
        verify_record(damaged, full=True)
    assert caught.value.offset == oracle.offset_of("payload_crc32c")
    with pytest.raises(FrameError, match="payload CRC"):
        verify_payload(header, memoryview(damaged)[header.header_bytes :])
    with pytest.raises(FrameError, match="hash of a frame") as caught:
        verify_hashes(damaged, memoryview(damaged)[header.header_bytes :])
    ends = np.cumsum([len(sample) for sample in SPEC.samples])
    frame = int(np.searchsorted(ends, at, side="right"))
    assert caught.value.offset == header.header_bytes + int(ends[frame]) - len(SPEC.samples[frame])


def test_a_forged_payload_with_a_right_crc_fails_its_hash(written: bytes) -> None:
    """Who can write the disk can make checksums right; the hash and the root still tell."""
    header = parse_header(written)
    payload = bytearray(written[header.header_bytes :][: header.payload_bytes])
    payload[100] ^= 1
    forged = with_field(written, "payload_crc32c", crc32c(bytes(payload)))
    forged = forged[: header.header_bytes] + bytes(payload)
    with pytest.raises(FrameError, match="hash of a frame"):
        verify_record(forged, full=True)


@pytest.mark.parametrize("field", ["camera_uid", "stream_sequence", "start_ns", "codec", "run_id"])
def test_the_root_covers_the_description(written: bytes, field: str) -> None:
    """A changed description needs a right CRC and moof to get so far; the root still objects."""
    at, code = oracle.offset_of(field), oracle.FIELDS[field]
    raw = bytearray(written[at : at + oracle.calcsize(f"<{code}")])
    raw[0] ^= 3 if field == "codec" else 1
    forged = with_field(written, field, bytes(raw))
    if field == "stream_sequence":
        moof = parse_header(written).moof_offset
        region = bytearray(forged[:4096])
        region[moof + 23] ^= 1
        forged = oracle.with_header_crc(bytes(region)) + forged[4096:]
    with pytest.raises(FrameError, match="fragment_root"):
        verify_record(forged, full=True)


def test_the_root_does_not_depend_on_the_place(written: bytes) -> None:
    """V8: a record may be copied elsewhere and keeps its proof."""
    moved = written
    place = {"slot": 99, "generation": 7, "offset_blocks": 1, "slot_sequence": 0}
    for field, value in place.items():
        moved = with_field(moved, field, value)
    moved = with_field(moved, "volume_uuid", bytes(16))
    header = verify_record(moved, full=True)
    assert header.fragment_root == parse_header(written).fragment_root


FRAGMENT_RULES = [
    ("magic", b"RVFRAG02", "magic"),
    ("format_version", 2, "format version"),
    ("kind", 3, "kind"),
    ("kind", 2, "a gap has a payload"),
    ("record_bytes", 4096, "record_bytes"),
    ("payload_bytes", 5, "record_bytes"),
    ("payload_bytes", 0xFFFFFFFF, "record_bytes"),
    ("end_ns", 0, "before its start"),
    ("frame_count", 0, "frame_count"),
    ("frame_count", 129, "frame_count"),
    ("frame_count", 13, "does not follow the frame table"),
    ("codec", 3, "codec"),
    ("clock_rate", 0, "clock_rate"),
    ("frame_table_offset", 304, "frame table"),
    ("codec_config_offset", 0, "does not follow the frame table"),
    ("codec_config_bytes", 4097, "4096"),
    ("codec_config_bytes", 4000, "overlaps the moof"),
    ("moof_bytes", 0, "moof_bytes"),
    ("moof_offset", 0, "moof does not end"),
    ("stream_sequence", 6, "mfhd"),
    ("rtp_first", 5, "tfdt"),
]


@pytest.mark.parametrize(("field", "value", "rule"), FRAGMENT_RULES)
def test_each_rule_of_a_fragment(written: bytes, field: str, value: int | bytes, rule: str) -> None:
    with pytest.raises(FrameError, match=rule) as caught:
        parse_header(with_field(written, field, value))
    assert 0 <= caught.value.offset < 4096


GAP_RULES = [
    ("frame_count", 1, "a gap has frames"),
    ("codec", 0, "no cause"),
    ("codec_config_offset", 300, "detail text"),
    ("codec_config_bytes", 3841, "detail text"),
    ("moof_bytes", 8, "a gap has a moof"),
    ("moof_offset", 256, "a gap has a moof"),
]


@pytest.mark.parametrize(("field", "value", "rule"), GAP_RULES)
def test_each_rule_of_a_gap(written: bytes, field: str, value: int, rule: str) -> None:
    gap = written[parse_header(written).record_bytes :]
    with pytest.raises(FrameError, match=rule):
        parse_header(with_field(gap, field, value))


@pytest.mark.parametrize(
    ("at", "rule"),
    [
        (256, "do not add up"),  # size of the first frame
        (260, "not at rtp_first"),  # its pts
        (256 + 48 + 4, "differs from the frame table"),  # pts of the second
        (256 + 48 + 12, "differs from the frame table"),  # its KEY flag
    ],
)
def test_each_rule_of_the_frame_table(written: bytes, at: int, rule: str) -> None:
    region = bytearray(written[:4096])
    region[at] ^= 1
    with pytest.raises(FrameError, match=rule):
        parse_header(oracle.with_header_crc(bytes(region)))


def test_each_byte_of_the_moof_counts(written: bytes) -> None:
    """The moof follows from header and frame table: a box that says anything else is refused."""
    header = parse_header(written)
    for at in range(header.moof_offset, header.header_bytes):
        region = bytearray(written[:4096])
        region[at] ^= 0x40
        with pytest.raises(FrameError):
            parse_header(oracle.with_header_crc(bytes(region)))


def test_cut_short(written: bytes) -> None:
    header = parse_header(written)
    for length in (0, 1, 255):
        with pytest.raises(FrameError, match="fixed part") as caught:
            parse_header(written[:length])
        assert caught.value.offset == length
    with pytest.raises(FrameError, match="header region is cut short"):
        parse_header(written[:4095])
    assert region_bytes(written[:256]) == 4096
    with pytest.raises(FrameError, match="payload is cut short"):
        verify_record(written[: header.header_bytes + header.payload_bytes - 1], full=True)
    with pytest.raises(FrameError, match="payload is cut short"):
        verify_payload(header, b"")
    with pytest.raises(FrameError, match="frame table is cut short"):
        frame_table(written[:300], header)
    with pytest.raises(FrameError, match="configuration is cut short"):
        codec_config(written[:300], header)


def test_a_region_of_several_blocks(tmp_path: Path) -> None:
    """128 frames and a 4 KiB configuration: region_bytes says what a one-block read lacks."""
    frames = ((40, 0, 1), *((40, 3600 * i, 0) for i in range(1, 128)))
    spec = Spec(frames, codec_config=bytes(range(256)) * 16)
    fragment = make(ArenaPool(64 * MIB), spec)
    seal([fragment])
    with (tmp_path / "slots").open("wb") as file:
        write_records(file.fileno(), 0, 0, 0, VOLUME, 0, 1, [fragment])
    data = (tmp_path / "slots").read_bytes()
    assert region_bytes(data[:4096]) == fragment.header_bytes == 16_384
    with pytest.raises(FrameError, match="header region is cut short") as caught:
        parse_header(data[:4096])
    assert caught.value.offset == 4096
    assert codec_config(data, verify_record(data, full=True)) == spec.codec_config
    assert oracle.decode(data).config == spec.codec_config


@given(st.binary(max_size=5000))
@settings(deadline=None)
def test_garbage_is_a_frame_error(data: bytes) -> None:
    for function in (region_bytes, parse_header):
        with pytest.raises(FrameError):
            function(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_forged_header_never_does_more_than_raise(written: bytes, data: st.DataObject) -> None:
    """Random fields with a right CRC: parsed or FrameError, never a read out of bounds."""
    forged = written
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from([n for n in oracle.FIELDS if n != "header_bytes"]))
        size = oracle.calcsize(f"<{oracle.FIELDS[name]}")
        forged = with_field(forged, name, data.draw(st.binary(min_size=size, max_size=size)))
    try:
        header = verify_record(forged, full=True)
    except FrameError:
        return
    assert header.payload_bytes == parse_header(written).payload_bytes
