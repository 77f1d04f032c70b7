"""arena, fmp4, segment_writer and record: one second of one camera from memory to disk and back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.micro.conftest import MIB, VOLUME, Measure
from cext.arena import ArenaPool, Fragment
from cext.fmp4 import build_moof
from cext.record import parse_header, verify_payload, verify_record
from cext.segment_writer import AlignedBuffer, datasync, read_aligned, seal, write_records

Make = Callable[[int], Fragment]
BATCH = 32


@pytest.mark.benchmark(group="arena")
def test_arena_take_and_release(measure: Measure, pool: ArenaPool) -> None:
    row = [(b"\0\0\0\1\x65", 0, 0, 1)]

    def cycle() -> int:
        fragment = Fragment.from_samples(pool, 1, 90_000, row)
        fragment.release()
        return fragment.payload_bytes

    assert measure(5, cycle) == 5


@pytest.mark.benchmark(group="fmp4")
def test_build_moof(measure: Measure, make_fragment: Make) -> None:
    fragment = make_fragment(1)
    moof = measure(fragment.payload_bytes, lambda: build_moof(fragment))
    assert moof[4:8] == b"moof" and moof[-4:] == b"mdat"
    assert len(moof) == 88 + 16 * fragment.frame_count + 8


@pytest.mark.benchmark(group="seal")
@pytest.mark.parametrize("count", [1, BATCH])
def test_seal(measure: Measure, make_fragment: Make, count: int) -> None:
    """SHA-256 of each access unit, fragment root, payload CRC."""
    kept: list[list[Fragment]] = []

    def setup() -> list[Fragment]:
        kept[:] = [[make_fragment(i) for i in range(count)]]
        return kept[0]

    nbytes = count * make_fragment(0).payload_bytes
    measure(nbytes, seal, setup)
    assert all(fragment.sealed for fragment in kept[0])
    assert len({fragment.fragment_root for fragment in kept[0]}) == count


@pytest.fixture
def direct(tmp_path: Path):
    """A preallocated file, opened with O_DIRECT, whose blocks were written once."""
    fd = os.open(tmp_path / "slots", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    buffer = AlignedBuffer(MIB)
    for at in range(0, 64 * MIB, MIB):
        os.pwrite(fd, buffer, at)
    datasync(fd)
    yield fd
    os.close(fd)


@pytest.mark.benchmark(group="write_records")
def test_write_records_direct(measure: Measure, make_fragment: Make, direct: int) -> None:
    """Headers, pair assertion and pwritev of 32 fragments; no flush. The disk sets the pace."""
    batch = [make_fragment(i) for i in range(BATCH)]
    seal(batch)
    nbytes = sum(fragment.record_bytes for fragment in batch)
    places = measure(nbytes, lambda: write_records(direct, 0, 1, 0, VOLUME, 3, 6, list(batch)))
    buffer = AlignedBuffer(MIB)
    for fragment, place in zip(batch, places, strict=True):
        read_aligned(direct, place.offset_blocks * 4096, buffer, place.record_bytes)
        assert verify_record(buffer, full=True).fragment_root == fragment.fragment_root


@pytest.mark.benchmark(group="write_records")
def test_write_records_to_memory(measure: Measure, make_fragment: Make) -> None:
    """The same into a memory file: what the code costs, with one copy by the kernel."""
    batch = [make_fragment(i) for i in range(BATCH)]
    seal(batch)
    fd = os.memfd_create("slots")
    nbytes = sum(fragment.record_bytes for fragment in batch)
    places = measure(nbytes, lambda: write_records(fd, 0, 0, 0, VOLUME, 3, 6, list(batch)))
    for place in places:
        data = os.pread(fd, place.record_bytes, place.offset_blocks * 4096)
        assert verify_record(data, full=True).header_crc32c == place.header_crc32c
    os.close(fd)


@pytest.fixture
def record(make_fragment: Make) -> bytes:
    fragment = make_fragment(9)
    seal([fragment])
    fd = os.memfd_create("slots")
    write_records(fd, 0, 0, 0, VOLUME, 3, 6, [fragment])
    data = os.pread(fd, fragment.record_bytes, 0)
    os.close(fd)
    return data


@pytest.mark.benchmark(group="record")
def test_parse_header(measure: Measure, record: bytes) -> None:
    region = record[:4096]
    assert measure(4096, lambda: parse_header(region)).stream_sequence == 9


@pytest.mark.benchmark(group="record")
def test_verify_payload(measure: Measure, record: bytes) -> None:
    """What each fragment of a clip goes through before its bytes leave."""
    header = parse_header(record)
    payload = memoryview(record)[header.header_bytes :]
    measure(header.payload_bytes, lambda: verify_payload(header, payload))
    damaged = bytearray(payload)
    damaged[7] ^= 1
    with pytest.raises(Exception, match="payload CRC"):
        verify_payload(header, damaged)


@pytest.mark.benchmark(group="record")
def test_verify_record_full(measure: Measure, record: bytes) -> None:
    assert measure(len(record), lambda: verify_record(record, full=True)).stream_sequence == 9
