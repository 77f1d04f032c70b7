"""Damage, expiry, codec changes, byte ranges, grants: C5-C7 and C12-C19 of docs/design/clip.md."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cext.segment_writer import AlignedBuffer
from storage.audit.events import AuditEvent, ClipOpened, ClipRefused, DamageFound, encode_event
from storage.audit.log import AuditLog
from storage.base.gap import Gap, GapCause
from storage.base.timebase import TimeRange
from storage.clip import mp4
from storage.clip import source as source_module
from storage.clip.assembly import ClipTooLong
from storage.clip.config import SampleConfig, merge_configs
from storage.clip.reader import Clip, ClipLimits
from storage.clip.virtual import CHUNK_BYTES_MIN, VIEW_BYTES_MIN
from storage.errors import DamagedFragment, FootageGone, GrantRejected
from storage.volume.damage import DamageList
from tests.storage.rig import ALL_TIME

from .mp4_oracle import parse_movie
from .studio import CAMERA, SECOND, UID, Footage, Studio, load_footage, synthetic, whole

FRAME_NS = 40_000_000
STREAMING = ClipLimits(verify_ahead_bytes_max=0)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(tmp_path)
    yield studio
    studio.close()


def rows_of(studio: Studio) -> list[tuple[int, int, int]]:
    """(slot, offset_blocks, record_bytes) of the camera's records."""
    index = studio.store.index(UID)
    rows = index.find(ALL_TIME).rows
    index.close()
    return list(zip(*(rows[c].tolist() for c in ("slot", "offset_blocks", "record_bytes"))))  # noqa: B905


def flip(studio: Studio, record: int, offset: int) -> None:
    """Change one byte of a record, behind the software's back."""
    slot, block, size = rows_of(studio)[record]
    assert 0 <= offset < size
    at = slot * studio.rig.slot_bytes + block * 4096 + offset
    fd = os.open(studio.rig.path() / "slots", os.O_RDWR)
    byte = os.pread(fd, 1, at)
    os.pwrite(fd, bytes([byte[0] ^ 0x40]), at)
    os.fsync(fd)
    os.close(fd)


def record_two_seconds(studio: Studio, size: int = 600) -> Footage:
    footage = synthetic(50, gop=10, size=size)
    studio.record(footage, studio.start_ns, per_fragment=10)
    return footage


def opened(studio: Studio, limits: ClipLimits | None = None) -> Clip:
    return studio.open(studio.start_ns, studio.start_ns + 2 * SECOND, limits=limits)


# ---- damage ------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "reason"),
    [(0, "magic"), (90, "CRC"), (300, "CRC"), (4096 + 17, "payload")],
    ids=["magic", "header", "frame table", "payload"],
)
def test_a_damaged_fragment_is_a_gap_and_the_clip_is_delivered(
    studio: Studio, offset: int, reason: str
) -> None:
    footage = record_two_seconds(studio)
    before = opened(studio)
    flip(studio, 2, offset)
    clip = opened(studio)
    low, high = studio.start_ns + 20 * FRAME_NS, studio.start_ns + 30 * FRAME_NS
    assert [(g.start_ns, g.end_ns, g.cause) for g in clip.gaps] == [(low, high, GapCause.DAMAGED)]
    assert reason.lower() in clip.gaps[0].detail.lower()
    assert clip.etag != before.etag
    movie = parse_movie(whole(clip))
    kept = footage.frames[:20] + footage.frames[30:]
    assert [s.data for s in movie.samples] == [f.sample for f in kept]
    assert [s.cts - movie.edit_start for s in movie.samples] == [f.pts for f in kept]
    listed = DamageList(studio.store.paths.damage).load()
    assert [(one.start_ns, one.end_ns) for one in listed] == [(low, high)]
    found = [e for e in studio.audited if isinstance(e, DamageFound)]
    assert len(found) == 1 and found[0].camera_id == CAMERA
    again = opened(studio)
    assert again.etag == clip.etag
    assert len([e for e in studio.audited if isinstance(e, DamageFound)]) == 1


def test_damage_met_while_streaming_stops_before_its_bytes_and_the_next_open_shows_it(
    studio: Studio,
) -> None:
    footage = record_two_seconds(studio, size=70_000)
    clip = opened(studio, STREAMING)
    size, etag = clip.size_bytes, clip.etag
    flip(studio, 3, 4096 + 400_000)
    assert opened(studio, STREAMING).etag == etag, "not looked at when opened"
    got = b""
    with pytest.raises(DamagedFragment) as caught:
        for chunk in clip.read(0, size):
            got += chunk
    assert caught.value.offset_blocks == rows_of(studio)[3][1]
    media = b"".join(f.sample for f in footage.frames)
    head = size - len(media)
    whole_before = sum(len(f.sample) for f in footage.frames[:30])
    assert len(got) <= head + whole_before
    assert got[head:] == media[: len(got) - head]
    after = opened(studio, STREAMING)
    assert after.etag != etag
    assert [g.cause for g in after.gaps] == [GapCause.DAMAGED]
    assert len(parse_movie(whole(after)).samples) == 40
    assert sum(isinstance(event, DamageFound) for event in studio.audited) == 1
    # The part in front of the damage can still be had from the old clip.
    assert b"".join(clip.read(head, 100_000)) == media[:100_000]


def test_neighbouring_damage_is_one_gap_and_a_damaged_key_frame_falls_back(studio: Studio) -> None:
    footage = record_two_seconds(studio)
    flip(studio, 2, 5000)
    flip(studio, 3, 5000)
    clip = studio.open(studio.start_ns + 25 * FRAME_NS, studio.start_ns + 45 * FRAME_NS)
    (gap,) = clip.gaps
    assert (gap.start_ns, gap.end_ns) == (
        studio.start_ns + 25 * FRAME_NS,
        studio.start_ns + 40 * FRAME_NS,
    )
    assert clip.delivered == TimeRange(
        studio.start_ns + 40 * FRAME_NS, studio.start_ns + 45 * FRAME_NS
    )
    assert [s.data for s in parse_movie(whole(clip)).samples] == [
        f.sample for f in footage.frames[40:45]
    ]


def test_everything_damaged_is_still_an_answer(studio: Studio) -> None:
    record_two_seconds(studio)
    for number in range(5):
        flip(studio, number, 4096)
    clip = opened(studio)
    assert (clip.frame_count, clip.delivered) == (0, None)
    assert [(g.start_ns, g.end_ns, g.cause) for g in clip.gaps] == [
        (studio.start_ns, studio.start_ns + 2 * SECOND, GapCause.DAMAGED)
    ]
    whole(clip)


def test_a_record_of_another_camera_or_place_never_leaves(studio: Studio) -> None:
    """V4: a whole, valid record where another belongs."""
    record_two_seconds(studio)
    rows = rows_of(studio)
    size = rows[1][2]
    assert size == rows[2][2]
    base = rows[1][0] * studio.rig.slot_bytes
    fd = os.open(studio.rig.path() / "slots", os.O_RDWR)
    os.pwrite(fd, os.pread(fd, size, base + rows[1][1] * 4096), base + rows[2][1] * 4096)
    os.fsync(fd)
    os.close(fd)
    clip = opened(studio)
    assert [g.cause for g in clip.gaps] == [GapCause.DAMAGED]
    assert "another place" in clip.gaps[0].detail


# ---- expiry ------------------------------------------------------


def reuse(studio: Studio, slot: int) -> None:
    studio.store.volumes[1].table.entries["generation"][slot] += 1


def test_a_slot_reused_between_open_and_read_is_gone_not_wrong(studio: Studio) -> None:
    record_two_seconds(studio)
    clip = opened(studio)
    slot = rows_of(studio)[0][0]
    reuse(studio, slot)
    with pytest.raises(FootageGone):
        whole(clip)
    after = opened(studio)
    assert [(g.start_ns, g.end_ns, g.cause) for g in after.gaps] == [
        (studio.start_ns, studio.start_ns + 2 * SECOND, GapCause.EXPIRED)
    ]
    assert len(DamageList(studio.store.paths.damage).load()) == 0


def test_a_slot_reused_while_the_clip_is_opened_is_a_gap_expired(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_two_seconds(studio)
    slot, block, _ = rows_of(studio)[2]
    real = source_module.read_aligned

    def read_aligned(fd: int, offset: int, buffer: AlignedBuffer, length: int) -> int:
        got = real(fd, offset, buffer, length)
        if offset == slot * studio.rig.slot_bytes + block * 4096:
            reuse(studio, slot)  # and its new owner has written already: other bytes
            memoryview(buffer)[:64] = bytes(64)
        return got

    monkeypatch.setattr(source_module, "read_aligned", read_aligned)
    clip = opened(studio)
    causes = {g.cause for g in clip.gaps}
    assert causes == {GapCause.EXPIRED}
    assert len(DamageList(studio.store.paths.damage).load()) == 0


# ---- codec configurations ----------------------------------------


def test_a_codec_change_inside_the_clip_has_two_sample_entries(
    media_dir: Path, tmp_path: Path
) -> None:
    studio = Studio(tmp_path, slot_bytes=4 << 20)
    parts = [
        load_footage(media_dir / "h264/BA_MW_D.264", 1),
        load_footage(media_dir / "h265/motion_320x240.h265", 2),
        load_footage(media_dir / "h264/BA_MW_D.264", 1),
    ]
    at_ns = studio.start_ns
    for part in parts:
        at_ns = studio.record(part, at_ns)
    clip = studio.open(studio.start_ns, at_ns)
    movie = parse_movie(whole(clip))
    assert [(name, w, h) for name, w, h, _ in movie.entries] == [
        (b"avc1", 176, 144),
        (b"hvc1", 320, 240),
    ]
    assert [s.data for s in movie.samples] == [f.sample for part in parts for f in part.frames]
    bodies = [body for _, _, _, body in movie.entries]
    counts = [len(part.frames) for part in parts]
    assert [s.entry for s in movie.samples] == (
        [bodies[0]] * counts[0] + [bodies[1]] * counts[1] + [bodies[0]] * counts[2]
    )
    assert [c["codec"] for c in clip.sidecar()["codecs"]] == ["h264", "h265"]
    studio.close()


def avcc(*sets: bytes, profile: int = 66) -> bytes:
    sps = [s for s in sets if s[0] & 31 == 7]
    pps = [s for s in sets if s[0] & 31 == 8]
    body = bytes([1, profile, 0, 30, 0xFF, 0xE0 | len(sps)])
    body += b"".join(len(s).to_bytes(2, "big") + s for s in sps) + bytes([len(pps)])
    return body + b"".join(len(s).to_bytes(2, "big") + s for s in pps)


def hvcc(*arrays: tuple[int, list[bytes]]) -> bytes:
    body = bytes([1] + [0] * 21 + [len(arrays)])
    for kind, sets in arrays:
        body += bytes([kind]) + len(sets).to_bytes(2, "big")
        body += b"".join(len(s).to_bytes(2, "big") + s for s in sets)
    return body


def test_a_configuration_contained_in_another_is_described_by_it() -> None:
    small = SampleConfig(1, 64, 48, avcc(b"\x67a", b"\x68a"))
    large = SampleConfig(1, 64, 48, avcc(b"\x67a", b"\x68a", b"\x68b"))
    largest = SampleConfig(1, 64, 48, avcc(b"\x67a", b"\x68a", b"\x68b", b"\x68c"))
    other_pps = SampleConfig(1, 64, 48, avcc(b"\x67a", b"\x68x"))
    other_profile = SampleConfig(1, 64, 48, avcc(b"\x67a", b"\x68a", profile=100))
    other_size = SampleConfig(1, 128, 48, small.body)
    broken = SampleConfig(1, 64, 48, b"\1\2\3")
    assert merge_configs([small, large, small]) == ((large,), [0, 0, 0])
    assert merge_configs([small, largest, large]) == ((largest,), [0, 0, 0])
    assert merge_configs([large, other_pps]) == ((large, other_pps), [0, 1])
    assert merge_configs([other_profile, large]) == ((other_profile, large), [0, 1])
    assert merge_configs([other_size, large]) == ((other_size, large), [0, 1])
    assert merge_configs([broken, large, broken]) == ((broken, large), [0, 1, 0])
    h_small = SampleConfig(2, 64, 48, hvcc((32, [b"v"]), (33, [b"s"]), (34, [b"p"])))
    h_large = SampleConfig(2, 64, 48, hvcc((32, [b"v"]), (33, [b"s"]), (34, [b"p", b"q"])))
    assert merge_configs([h_small, h_large]) == ((h_large,), [0, 0])
    assert merge_configs([]) == ((), [])


# ---- reading -----------------------------------------------------


@pytest.mark.parametrize("per_fragment", [3, 50])
def test_any_byte_range_is_that_of_the_whole(tmp_path: Path, per_fragment: int) -> None:
    studio = Studio(tmp_path, slots=12, slot_bytes=4 << 20)
    studio.record(
        synthetic(200, size=30_000, reorder=True), studio.start_ns, per_fragment=per_fragment
    )
    clip = studio.open(studio.start_ns + SECOND, studio.start_ns + 7 * SECOND)
    data = whole(clip)
    assert len(data) == clip.size_bytes > 3 << 20
    rng = random.Random(5)
    head = data.index(b"mdat") + 4
    offsets = [0, 1, head - 1, head, head + 1, len(data) - 1, len(data), len(data) + 5]
    offsets += [rng.randrange(len(data)) for _ in range(40)]
    for offset in offsets:
        for length in (0, 1, 2, 4096, rng.randrange(1, 2 << 20), len(data)):
            got = b"".join(clip.read(offset, length))
            assert got == data[offset : offset + length], (offset, length)
    with pytest.raises(ValueError):
        clip.read(-1, 5)
    studio.close()


def test_small_parts_are_joined_and_large_ones_are_not_copied(tmp_path: Path) -> None:
    studio = Studio(tmp_path, slots=40)
    studio.record(synthetic(400, size=5_000), studio.start_ns, per_fragment=10)
    clip = studio.open(studio.start_ns, studio.start_ns + 16 * SECOND)
    chunks = list(clip.read(0, clip.size_bytes))
    assert all(CHUNK_BYTES_MIN <= len(c) < CHUNK_BYTES_MIN + VIEW_BYTES_MIN for c in chunks[:-1])
    assert sum(map(len, chunks)) == clip.size_bytes
    studio.close()
    (tmp_path / "large").mkdir()
    studio = Studio(tmp_path / "large", slots=40)
    studio.record(synthetic(40, size=20_000), studio.start_ns, per_fragment=10)
    clip = studio.open(studio.start_ns, studio.start_ns + 2 * SECOND)
    head, *views = clip.read(0, clip.size_bytes)
    assert isinstance(head, bytes) and len(views) == 4
    assert all(isinstance(view, memoryview) and view.readonly for view in views)
    studio.close()


def test_what_an_open_verified_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_module.KEPT.clear()
    studio = Studio(tmp_path, slots=40)
    studio.record(synthetic(200, size=20_000), studio.start_ns, per_fragment=10)
    clip = studio.open(studio.start_ns, studio.start_ns + 8 * SECOND)
    reads: list[int] = []
    real = source_module.read_aligned

    def read(fd: int, offset: int, buffer: AlignedBuffer, length: int) -> int:
        reads.append(length)
        return real(fd, offset, buffer, length)

    monkeypatch.setattr(source_module, "read_aligned", read)
    first = b"".join(clip.read(0, clip.size_bytes))
    assert reads == []
    assert b"".join(clip.read(0, clip.size_bytes)) == first
    assert len(reads) == 20, "kept for one read only"
    studio.close()


def test_what_is_kept_is_bounded_for_one_clip_and_for_all(tmp_path: Path) -> None:
    source_module.KEPT.clear()
    studio = Studio(tmp_path, slots=60)
    studio.record(synthetic(1200, size=20_000), studio.start_ns, per_fragment=10)
    for number in range(4):
        start_ns = studio.start_ns + number * 10 * SECOND
        studio.open(start_ns, start_ns + 12 * SECOND)
        held = sum(p.buffer.nbytes for p in source_module.KEPT._payloads.values())
        assert held == source_module.KEPT._bytes
        assert 0 < held <= source_module.KEPT_BYTES_PROCESS_MAX
    source_module.KEPT.clear()
    studio.open(studio.start_ns, studio.start_ns + 48 * SECOND)
    assert source_module.KEPT._bytes <= source_module.KEPT_BYTES_MAX + (1 << 20)
    studio.close()


def test_a_buffer_returns_when_the_last_view_of_it_is_gone() -> None:
    buffer = source_module.BUFFERS.take(1 << 16)
    memoryview(buffer)[:8] = b"abcdefgh"
    view = source_module.Payload(buffer, 2, 6).lend(1, 5)
    part = memoryview(view)[1:]
    size = buffer.nbytes
    del view
    assert not any(spare is buffer for spare in source_module.BUFFERS._spare[size])
    assert bytes(part) == b"efg"
    del part
    assert any(spare is buffer for spare in source_module.BUFFERS._spare[size])


def test_a_reader_that_stops_early_gives_its_buffers_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[AlignedBuffer] = []
    given: list[AlignedBuffer] = []
    pool = source_module.BUFFERS
    real_take, real_give = type(pool).take, type(pool).give

    def take(self: source_module.BufferPool, nbytes: int) -> AlignedBuffer:
        taken.append(real_take(self, nbytes))
        return taken[-1]

    def give(self: source_module.BufferPool, buffer: AlignedBuffer) -> None:
        given.append(buffer)
        real_give(self, buffer)

    studio = Studio(tmp_path, slots=40)
    studio.record(synthetic(400, size=20_000), studio.start_ns, per_fragment=10)
    clip = studio.open(studio.start_ns, studio.start_ns + 16 * SECOND)
    monkeypatch.setattr(source_module.BufferPool, "take", take)
    monkeypatch.setattr(source_module.BufferPool, "give", give)
    stream = clip.read(0, clip.size_bytes)
    next(stream)
    held = sum(buffer.nbytes for buffer in taken) - sum(buffer.nbytes for buffer in given)
    assert held <= 8 << 20
    stream.close()  # type: ignore[attr-defined]
    source_module.read_threads().submit(lambda: None).result()
    while len(given) < len(taken):
        pass
    assert len(taken) < 60, "reading ahead is bounded"
    studio.close()


def test_a_fragment_too_large_to_hold_is_verified_before_its_bytes_leave(tmp_path: Path) -> None:
    studio = Studio(tmp_path, slot_bytes=16 << 20, slots=6)
    footage = synthetic(14, size=700_000)
    studio.record(footage, studio.start_ns, per_fragment=14)
    clip = studio.open(studio.start_ns, studio.start_ns + SECOND)
    data = whole(clip)
    movie = parse_movie(data)
    assert [s.data for s in movie.samples] == [f.sample for f in footage.frames]
    rng = random.Random(1)
    for _ in range(12):
        offset, length = rng.randrange(len(data)), rng.randrange(3 << 20)
        assert b"".join(clip.read(offset, length)) == data[offset : offset + length]
    flip(studio, 0, rows_of(studio)[0][2] - 5000)
    streaming = studio.open(studio.start_ns, studio.start_ns + SECOND, limits=STREAMING)
    media_start = data.index(b"mdat") + 4
    with pytest.raises(DamagedFragment):
        list(streaming.read(media_start, 10))
    assert opened(studio).frame_count == 0
    studio.close()


def test_the_head_alone_needs_no_footage(studio: Studio) -> None:
    record_two_seconds(studio)
    clip = opened(studio)
    reuse(studio, rows_of(studio)[0][0])
    assert b"".join(clip.read(0, 100))[4:8] == b"ftyp"


def test_etags_are_equal_only_for_equal_bytes(studio: Studio) -> None:
    record_two_seconds(studio)
    tags: dict[str, bytes] = {}
    for shift in (0, 1, FRAME_NS, FRAME_NS + 1, 2 * FRAME_NS):
        for end in (SECOND, SECOND + 1, SECOND + FRAME_NS):
            clip = studio.open(studio.start_ns + shift, studio.start_ns + end)
            data = whole(clip)
            assert tags.setdefault(clip.etag, data) == data
            assert clip.etag.startswith('"') and clip.etag.endswith('"')
    assert len(tags) == len(set(tags.values()))


def test_large_offsets_take_64_bit_boxes() -> None:
    count = 5
    samples = mp4.SampleTable(
        sizes=np.full(count, 1 << 30, np.int64),
        decode_ticks=np.arange(count) * (1 << 31),
        offset_ticks=np.zeros(count, np.int64),
        keys=np.ones(count, np.bool_),
        last_ticks=3600,
        chunk_samples=np.ones(count, np.int64),
        chunk_entries=np.zeros(count, np.int64),
        configs=(SampleConfig(1, 64, 48, avcc(b"\x67a", b"\x68a")),),
    )
    head = mp4.head(samples, mp4.Presentation(0, 5 << 31, 0, False))
    assert head[-16:] == struct.pack(">I4sQ", 1, b"mdat", 16 + (5 << 30))
    at = head.index(b"co64") + 8
    count, first, second = struct.unpack_from(">IQQ", head, at)
    assert (count, first, second) == (5, len(head), len(head) + (1 << 30))
    assert head[head.index(b"mdhd") + 4] == 1
    assert head[head.index(b"elst") + 4] == 1
    small = mp4.head(
        dataclasses.replace(samples, sizes=np.full(5, 9)), mp4.Presentation(0, 5, 0, False)
    )
    assert b"stco" in small and b"co64" not in small


# ---- gaps and sidecar --------------------------------------------


def test_gap_records_are_reported_to_the_nanosecond_with_packets_and_detail(studio: Studio) -> None:
    start_ns = studio.start_ns
    loss = Gap(start_ns + 1_700_000_123, start_ns + 1_900_000_457, GapCause.PACKET_LOSS, 7)
    offline = Gap(
        start_ns + 2 * SECOND, start_ns + 100 * 86_400 * SECOND, GapCause.STALL, 0, "拥塞"
    )
    studio.record(synthetic(50), start_ns, gaps=[loss, offline])
    clip = studio.open(start_ns, start_ns + 5 * SECOND)
    assert clip.gaps == (loss, dataclasses.replace(offline, end_ns=start_ns + 5 * SECOND))
    sidecar = json.loads(json.dumps(clip.sidecar()))
    assert sidecar["gaps"][0]["packets"] == 7
    assert sidecar["gaps"][1]["cause"] == "stall"
    assert sidecar["gaps"][1]["detail"] == "拥塞"
    assert sidecar["requested"]["start"] == "2027-01-15T07:00:00.000Z"
    assert sidecar["trial"] is True
    assert sidecar["etag"] == clip.etag
    assert clip.filename.startswith("TRIAL-gate-1_20270115T070000.000Z_")


# ---- law ---------------------------------------------------------


def test_every_opening_is_audited_before_it_returns(studio: Studio) -> None:
    record_two_seconds(studio)
    clip = opened(studio)
    (event,) = studio.audited
    assert isinstance(event, ClipOpened)
    assert (event.grant_id, event.camera_id, event.camera_uid) == ("g-1", CAMERA, UID)
    assert (event.etag, event.size_bytes, event.frames) == (clip.etag, clip.size_bytes, 50)
    assert [o.name for o in event.officials] == ["A", "B"]
    assert event.requested_end_ns == studio.start_ns + 2 * SECOND
    encode_event(event)


def test_no_clip_without_an_audit_entry(studio: Studio) -> None:
    record_two_seconds(studio)

    def failing(event: AuditEvent) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        studio.open(studio.start_ns, studio.start_ns + SECOND, audit=failing)


@pytest.mark.parametrize(
    ("code", "grant", "call"),
    [
        ("OUT_OF_SCOPE", {"cameras": ("gate-2",)}, {}),
        ("OUT_OF_SCOPE", {"action": "view"}, {}),
        ("OUT_OF_SCOPE", {"trial": False}, {}),
        ("OUT_OF_SCOPE", {"start_ns": 1_799_996_400 * SECOND + 1}, {}),
        ("OUT_OF_SCOPE", {"end_ns": 1_799_996_402 * SECOND - 1}, {}),
        ("OUT_OF_SCOPE", {}, {"camera_id": "gate-3"}),
        ("EXPIRED", {"expires_ns": 1_800_000_000 * SECOND}, {}),
        ("WRONG_INSTALLATION", {"installation_uuid": bytes(16)}, {}),
        ("MALFORMED", {}, {"token": "nonsense"}),
        ("BAD_SIGNATURE", {}, {"token": "eyJhbGciOiJub25lIn0.e30."}),
    ],
)
def test_refusals_are_audited_and_read_nothing(
    studio: Studio,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    grant: dict[str, object],
    call: dict[str, str],
) -> None:
    record_two_seconds(studio)
    monkeypatch.setattr(source_module, "read_aligned", None)
    monkeypatch.setattr(studio.store, "index", None)
    arguments = {"token": studio.token(**grant), **call}
    with pytest.raises(GrantRejected) as caught:
        studio.open(studio.start_ns, studio.start_ns + 2 * SECOND, **arguments)  # type: ignore[arg-type]
    assert caught.value.code == code
    (event,) = studio.audited
    assert isinstance(event, ClipRefused)
    assert event.code == code
    assert event.requested_start_ns == studio.start_ns
    assert (event.grant_id == "g-1") == (code == "OUT_OF_SCOPE")
    encode_event(event)


def test_a_clip_too_long_is_refused_with_the_numbers_and_audited(studio: Studio) -> None:
    record_two_seconds(studio)
    assert opened(studio, ClipLimits(records_max=5)).frame_count == 50
    with pytest.raises(ClipTooLong, match="holds 5 records, one clip at most 4"):
        opened(studio, ClipLimits(records_max=4))
    event = studio.audited[-1]
    assert isinstance(event, ClipRefused)
    assert (event.code, event.grant_id) == ("TOO_LONG", "g-1")


def test_scope_to_the_nanosecond_and_the_whole_range_by_default(studio: Studio) -> None:
    record_two_seconds(studio)
    bounds = {"start_ns": studio.start_ns + 5, "end_ns": studio.start_ns + SECOND + 7}
    token = studio.token(**bounds)
    clip = studio.open(bounds["start_ns"], bounds["end_ns"], token=token)
    assert clip.delivered == TimeRange(bounds["start_ns"], bounds["end_ns"])
    assert studio.open(0, 0, token=token, requested=None).delivered == clip.delivered
    view = studio.token(**bounds, action="view")
    assert studio.open(bounds["start_ns"], bounds["end_ns"], token=view, action="view")


def test_with_the_real_log_the_entry_is_in_the_tree(studio: Studio, tmp_path: Path) -> None:
    record_two_seconds(studio)
    with AuditLog.open(tmp_path / "audit") as log:
        clip = studio.open(studio.start_ns, studio.start_ns + SECOND, audit=log.append)
        (entry,) = log.entries()
        event = entry.event
        assert isinstance(event, ClipOpened)
        assert event.etag == clip.etag
        assert log.verify().size == 1
