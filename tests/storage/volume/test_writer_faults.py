"""Goal: what a disk refuses moves to another volume or becomes a gap; nothing stops, nothing is
lost silently, and the disk that works again is used again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from storage.base.gap import GapCause
from storage.base.timebase import DAY_NS, SECOND_NS, TimeRange
from storage.recorder import (
    CameraMoved,
    CameraWriter,
    CommitLag,
    DiskFault,
    IntakeResumed,
    Recorder,
    SlotSealed,
    VolumeFullAlarm,
)
from storage.store import Store
from tests.storage.fault_disk import FaultDisk, io_error, no_space
from tests.storage.rig import Rig, Stored, meta, read_back, uid

NOTHING_FAILS = lambda operation, path: None  # noqa: E731


class Bench:
    """A recorder driven tick by tick."""

    def __init__(self, rig: Rig, disk: FaultDisk) -> None:
        self.rig, self.disk = rig, disk
        self.store: Store = rig.open()
        self.recorder: Recorder = rig.recorder(self.store)
        self.rng = random.Random(4)
        self.camera: CameraWriter = self.recorder.open_camera(uid(1), "one", rig.retention)

    def feed(self, count: int = 1, frame_bytes: int = 9000) -> None:
        for _ in range(count):
            self.rig.clock.advance(SECOND_NS // 10)
            fragment = self.rig.fragment(self.rng, frame_bytes=frame_bytes)
            assert self.rig.submit(self.camera, fragment)

    def tick(self, advance_ns: int = SECOND_NS) -> None:
        for writer in self.recorder.writers:
            writer.tick()
        self.rig.clock.advance(advance_ns)

    def stored(self) -> list[Stored]:
        return read_back(self.store, uid(1))

    def events(self, kind: type) -> list[object]:
        return [event for event in self.rig.events if isinstance(event, kind)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    disk = FaultDisk()
    return Bench(Rig(tmp_path, slots=12, trial=True, disk=disk).create(), disk)


@pytest.mark.parametrize("operation", ["write_records", "datasync"])
@pytest.mark.parametrize("fault", [io_error, no_space])
def test_failed_writes_become_one_growing_gap_then_recording_goes_on(
    bench: Bench, operation: str, fault: Callable[[str], Callable[[str, Path], None]]
) -> None:
    bench.feed(2)
    bench.tick()
    bench.disk.fail = fault(operation)
    for _ in range(6):
        bench.feed(2)
        bench.tick()
    assert len(bench.stored()) == 2
    assert bench.events(DiskFault)
    bench.disk.fail = NOTHING_FAILS
    for _ in range(70):
        bench.tick()
    bench.feed(3)
    bench.tick()
    found = bench.stored()
    assert [one.cause for one in found] == [0, 0, GapCause.DISK_ERROR, 0, 0, 0]
    sequences = [one.stream_sequence for one in found]
    assert sequences == [1, 2, 3, 15, 16, 17]
    assert bench.events(IntakeResumed)
    assert bench.rig.pool.bytes_in_use == 0


def test_the_gap_covers_exactly_what_was_lost(bench: Bench) -> None:
    bench.feed(1)
    bench.tick()
    lost_from = max(bench.rig.clock.utc_ns() + SECOND_NS // 10, bench.camera.last_end_ns)
    bench.disk.fail = io_error("write_records", "write", "datasync")
    bench.feed(3)
    lost_to = bench.camera.last_end_ns
    bench.tick()
    bench.disk.fail = NOTHING_FAILS
    for _ in range(70):
        bench.tick()
    index = bench.store.index(uid(1))
    span = index.find(TimeRange(lost_from, lost_to))
    index.close()
    gap = span.rows[span.is_gap]
    assert int(gap["start_ns"][0]) == lost_from
    assert 0 <= int(span.end_ns[span.is_gap][0]) - lost_to < 1_000_000  # rounded up to 1 ms


def test_a_single_bad_place_loses_nothing(bench: Bench) -> None:
    """The batch is still in memory: it is written again, on another slot."""
    failures = iter([True])

    def fail(operation: str, path: Path) -> None:
        if operation == "write_records" and next(failures, False):
            raise OSError(5, "bad sector")

    bench.feed(2)
    bench.tick()
    bench.disk.fail = fail
    bench.feed(4)
    bench.tick()
    found = bench.stored()
    assert [one.cause for one in found] == [0] * 6
    assert {one.place[1] for one in found} == {0, 1}
    bench.tick()
    sealed = bench.events(SlotSealed)
    assert len(sealed) == 1
    assert sealed[0].record_count == 2  # type: ignore[attr-defined]


def test_a_dying_disk_does_not_eat_the_ring(bench: Bench) -> None:
    bench.disk.fail = io_error("write_records")
    for _ in range(300):
        bench.feed(1)
        bench.tick(SECOND_NS // 8)
    used = sum(bench.store.volumes[1].generations.tolist())
    assert used <= 20, f"{used} slots were opened in 37 s of failing writes"


def test_with_another_volume_no_footage_is_lost(tmp_path: Path) -> None:
    disk = FaultDisk()
    bench = Bench(Rig(tmp_path, volumes=2, slots=12, trial=True, disk=disk).create(), disk)
    bench.feed(2)
    bench.tick()
    first = bench.stored()[0].place[0]

    def fail(operation: str, path: Path) -> None:
        if operation in ("write_records", "write", "datasync") and f"volume{first}" in str(path):
            raise OSError(5, "unplugged")

    disk.fail = fail
    for _ in range(4):
        bench.feed(2)
        bench.tick()
    bench.tick()
    found = bench.stored()
    assert [one.cause for one in found] == [0] * 10
    assert [one.stream_sequence for one in found] == list(range(1, 11))
    assert {one.place[0] for one in found[2:]} == {3 - first}
    moved = bench.events(CameraMoved)
    assert len(moved) == 1
    assert bench.rig.pool.bytes_in_use == 0
    failed = next(one for one in bench.recorder.writers if one.volume.number == first)
    assert not failed.healthy
    disk.fail = NOTHING_FAILS
    for _ in range(70):
        bench.tick()
    assert failed.healthy, "a disk that works again may be used again, though nobody is on it"


def test_a_full_volume_stops_intake_alarms_and_overwrites_nothing(tmp_path: Path) -> None:
    disk = FaultDisk()
    bench = Bench(Rig(tmp_path, slots=5, trial=False, disk=disk).create(), disk)
    while not bench.events(VolumeFullAlarm):
        bench.feed(8, frame_bytes=60_000)
        bench.tick()
    for _ in range(130):
        bench.feed(1)
        bench.tick()
    kept = bench.stored()
    assert all(one.cause == 0 for one in kept)
    alarms = bench.events(VolumeFullAlarm)
    assert 2 <= len(alarms) <= 5, "once at the beginning, then once a minute"
    assert alarms[0].facts.protected_slots >= 4  # type: ignore[attr-defined]
    assert bench.store.volumes[1].generations.tolist() == [1] * 5
    # Days later the oldest slot may go: one gap says what was not taken in, and intake resumes.
    bench.rig.clock.advance(32 * DAY_NS)
    bench.feed(2)
    bench.tick()
    found = bench.stored()
    assert [one.cause for one in found if one.cause] == [GapCause.VOLUME_FULL]
    assert [one.cause for one in found[-3:]] == [GapCause.VOLUME_FULL, 0, 0]
    assert bench.events(IntakeResumed)


def test_a_fragment_without_a_record_is_a_gap_in_its_place(bench: Bench) -> None:
    bench.feed(1)
    fragment = bench.rig.fragment(bench.rng)
    start_ns = max(bench.rig.clock.utc_ns(), bench.camera.last_end_ns)
    too_much = msgspec.structs.replace(meta(start_ns), codec_config=b"x" * 5000)
    assert bench.camera.submit(fragment, too_much)
    bench.feed(1)
    bench.tick()
    assert [one.cause for one in bench.stored()] == [0, GapCause.PROTOCOL_ERROR, 0]
    assert bench.rig.pool.bytes_in_use == 0


def test_a_fragment_larger_than_a_slot_is_a_gap_in_its_place(bench: Bench) -> None:
    bench.feed(1)
    bench.feed(1, frame_bytes=900_000)
    bench.feed(1)
    bench.tick()
    assert [one.cause for one in bench.stored()] == [0, GapCause.OVERSIZE, 0]


def test_the_queue_is_bounded_and_says_no(tmp_path: Path) -> None:
    disk = FaultDisk()
    rig = Rig(tmp_path, slots=12, trial=True, disk=disk).create()
    store = rig.open()
    recorder = rig.recorder(store, queue_bytes_max=100_000)
    camera = recorder.open_camera(uid(1), "one", rig.retention)
    rng = random.Random(1)
    taken = 0
    while rig.submit(camera, fragment := rig.fragment(rng)):
        taken += 1
    assert fragment.payload_bytes, "a refused fragment is still the caller's"
    assert taken >= 3
    assert camera.next_sequence == taken + 1, "a refused fragment uses no number"
    assert recorder.stats().volumes[0].queue_bytes <= 100_000
    recorder.writers[0].tick()
    assert recorder.stats().volumes[0].queue_bytes == 0
    assert rig.submit(camera, fragment)


def test_a_slow_disk_is_reported_but_not_for_every_batch(bench: Bench) -> None:
    bench.feed(1)
    bench.tick()

    def slow(operation: str, path: Path) -> None:
        if operation == "datasync" and path.name == "slots":
            bench.rig.clock.advance(3 * SECOND_NS)

    bench.disk.fail = slow
    for _ in range(5):
        bench.feed(1)
        bench.tick(0)
    lags = bench.events(CommitLag)
    assert len(lags) == 2, "one, and again after ten seconds"
    assert lags[0].worst_ns >= 3 * SECOND_NS  # type: ignore[attr-defined]
    stats = bench.recorder.stats().volumes[0]
    assert stats.commit.max_ns >= 3 * SECOND_NS
    assert stats.loss_window.max_ns >= 3 * SECOND_NS


def test_durable_before_visible(bench: Bench) -> None:
    """V1, seen from the disk: no index row and no used_bytes before the batch's fdatasync."""
    bench.feed(3)
    seen: list[tuple[str, int, int]] = []

    def watch(operation: str, path: Path) -> None:
        if path.name == "slots":
            entry = bench.store.volumes[1].table.get(0)
            assert entry is not None
            seen.append((operation, bench.camera.durable_head, entry.used_bytes))

    bench.disk.fail = watch
    bench.tick()
    written = next(n for n, one in enumerate(seen) if one[0] == "write_records")
    synced = next(n for n, one in enumerate(seen) if one[0] == "datasync" and n > written)
    assert all(one[1:] == (0, 0) for one in seen[: synced + 1])
    assert bench.camera.durable_head == 3
