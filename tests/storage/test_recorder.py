"""Goal: the recorder as gateway uses it: threads, clean stop, checkpoints, order, cameras."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.base.clock import SystemClock
from storage.base.gap import Gap, GapCause
from storage.base.retention import R30
from storage.base.timebase import SECOND_NS
from storage.errors import RecorderStopped, RetentionMismatch
from storage.index.files import IndexBusy
from storage.recorder import BufferedWrites, Recorder, SlotSealed
from storage.store import Store, recover
from tests.storage.rig import Rig, meta, read_back, uid


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, slots=24, trial=True).create()


def started(rig: Rig, **settings: int) -> tuple[Store, Recorder]:
    store = rig.open()
    rig.clock = SystemClock(store.mark())  # type: ignore[assignment]
    recover(store, rig.clock)
    recorder = rig.recorder(
        store,
        commit_interval_ns=SECOND_NS // 20,
        checkpoint_interval_ns=SECOND_NS // 20,
        **settings,
    )
    recorder.start()
    return store, recorder


def test_eight_cameras_at_once_then_a_clean_stop(rig: Rig) -> None:
    store, recorder = started(rig)

    def feed(number: int) -> None:
        rng = random.Random(number)
        camera = recorder.open_camera(uid(number), f"c{number}", rig.retention)
        for _ in range(40):
            while not rig.submit(camera, fragment := rig.fragment(rng)):
                fragment.release()
                time.sleep(0.001)

    threads = [threading.Thread(target=feed, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: recorder.stats().volumes[0].records_written == 320)
    eventually(lambda: recorder.stats().checkpoints >= 3)
    stats = recorder.stats().volumes[0]
    assert stats.commit.count == 320
    assert 0 < stats.commit.p50_ns <= stats.commit.p99_ns <= stats.commit.max_ns
    assert stats.loss_window.max_ns >= stats.commit.p50_ns
    assert recorder.stop(20.0)
    assert rig.pool.bytes_in_use == 0
    for n in range(8):
        found = read_back(store, uid(n))
        assert [one.stream_sequence for one in found] == list(range(1, 41))
    entries = [store.volumes[1].table.get(slot) for slot in range(24)]
    assert all(entry is not None and not entry.open for entry in entries)
    assert all(entry.indexed for entry in entries if entry is not None and entry.sealed)
    sealed = [event for event in rig.events if isinstance(event, SlotSealed)]
    assert sum(event.record_count for event in sealed) == 320
    assert all(
        store.volumes[1].read_footer(event.slot, event.generation).seal == event.seal
        for event in sealed
    )
    store.close()
    store = rig.open()
    report = recover(store, rig.clock)
    assert report.slots == 0, "after a clean stop there is nothing to scan"
    store.close()


def test_visible_within_the_commit_interval_without_a_stop(rig: Rig) -> None:
    store, recorder = started(rig)
    camera = recorder.open_camera(uid(1), "one", rig.retention)
    assert rig.submit(camera, rig.fragment(random.Random(1)))
    eventually(lambda: len(read_back(store, uid(1))) == 1)
    assert recorder.stop(10.0)
    store.close()


def test_submit_refuses_what_goes_back_in_time_and_what_readers_only_report(rig: Rig) -> None:
    store, recorder = started(rig)
    camera = recorder.open_camera(uid(1), "one", rig.retention)
    now_ns = rig.clock.utc_ns()
    rng = random.Random(1)
    assert camera.submit(rig.fragment(rng), meta(now_ns))
    with pytest.raises(ValueError, match="begins before its predecessor"):
        camera.submit(rig.fragment(rng), meta(now_ns - 1))
    with pytest.raises(ValueError, match="never written"):
        camera.submit_gap(Gap(now_ns, now_ns + 1, GapCause.EXPIRED))
    assert camera.next_sequence == 2
    assert recorder.stop(10.0)
    store.close()


def test_after_a_restart_numbers_and_time_go_on(rig: Rig) -> None:
    store, recorder = started(rig)
    camera = recorder.open_camera(uid(1), "one", rig.retention)
    assert rig.submit(camera, rig.fragment(random.Random(1)))
    end_ns = camera.last_end_ns
    assert recorder.stop(10.0)
    store.close()
    store, recorder = started(rig)
    camera = recorder.open_camera(uid(1), "one", rig.retention)
    assert (camera.last_end_ns, camera.next_sequence) == (end_ns, 2)
    with pytest.raises(ValueError, match="predecessor"):
        camera.submit(rig.fragment(random.Random(1)), meta(end_ns - 1))
    assert recorder.stop(10.0)
    store.close()


def test_closing_and_opening_a_camera_again(rig: Rig) -> None:
    store, recorder = started(rig)
    camera = recorder.open_camera(uid(1), "one", rig.retention)
    with pytest.raises(ValueError, match="is open already"):
        recorder.open_camera(uid(1), "one", rig.retention)
    assert rig.submit(camera, rig.fragment(random.Random(1)))
    camera.close()
    with pytest.raises(RecorderStopped):
        rig.submit(camera, rig.fragment(random.Random(1)))
    again = recorder.open_camera(uid(1), "one", rig.retention)
    assert rig.submit(again, rig.fragment(random.Random(2)))
    again.close()
    eventually(lambda: recorder.stats().cameras == 0)
    assert len(read_back(store, uid(1))) == 2
    store.index_writer(uid(1), "one", days=1).abandon()  # its index was let go
    fresh = recorder.open_camera(uid(1), "one", rig.retention)
    assert fresh.next_sequence == 3
    assert recorder.stop(10.0)
    with pytest.raises(RecorderStopped):
        recorder.open_camera(uid(2), "two", rig.retention)
    store.close()


def test_one_camera_has_one_writer(rig: Rig) -> None:
    store, recorder = started(rig)
    recorder.open_camera(uid(1), "one", rig.retention)
    other = rig.recorder(store, worker=1)
    with pytest.raises(IndexBusy):
        other.open_camera(uid(1), "one", rig.retention)
    with pytest.raises(RetentionMismatch):
        recorder.open_camera(uid(2), "two", R30)
    recorder.open_camera(uid(2), "two", rig.retention)  # the refusal left nothing behind
    assert recorder.stop(10.0)
    store.close()


def test_slots_left_by_a_crash_become_indexed_while_recording(rig: Rig) -> None:
    store = rig.open()
    crashed = rig.recorder(store)
    cameras = [crashed.open_camera(uid(n), f"c{n}", rig.retention) for n in range(2)]
    for camera in cameras:
        assert rig.submit(camera, rig.fragment(random.Random(1)))
    crashed.writers[0].tick()
    for camera in cameras:
        camera._index.abandon()
    store.close()
    store, recorder = started(rig)
    recorder.open_camera(uid(0), "c0", rig.retention)  # the other one stays closed
    eventually(lambda: recorder.stats().slots_unindexed == 0)
    entries = [store.volumes[1].table.get(slot) for slot in range(24)]
    assert [entry.indexed for entry in entries if entry is not None and entry.sealed] == [True] * 2
    assert recorder.stop(10.0)
    store.close()


def test_buffered_writes_are_told_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.volume.volume.Volume.direct", False)
    store, recorder = started(rig)
    assert recorder.stop(10.0)
    assert [event for event in rig.events if isinstance(event, BufferedWrites)] == [
        BufferedWrites(1, str(rig.path()))
    ]
    store.close()


def test_cameras_spread_over_volumes_and_move_when_one_carries_too_much(tmp_path: Path) -> None:
    rig = Rig(tmp_path, volumes=2, slots=24, trial=True).create()
    store = rig.open()
    recorder = rig.recorder(store)
    cameras = [recorder.open_camera(uid(n), f"c{n}", rig.retention) for n in range(6)]
    assert sorted(recorder.stats().volumes[n].cameras for n in range(2)) == [3, 3]
    # Three of them, all on one volume, send almost everything.
    heavy = recorder.writers[0]
    rng = random.Random(1)
    moved = []
    for _ in range(8):
        recorder._pool.rebalance(rig.clock.monotonic_ns())
        rig.clock.advance(60 * SECOND_NS)
        for camera in cameras:
            busy = camera.stream.writer is heavy or camera in moved
            for _ in range(8 if busy else 1):
                assert rig.submit(camera, rig.fragment(rng))
            if camera.stream.wanted is not None:
                moved.append(camera)
        for writer in recorder.writers:
            writer.tick()
    assert len(moved) >= 1
    assert {camera.stream.writer for camera in moved} != {heavy}
    for n, camera in enumerate(cameras):
        found = read_back(store, uid(n))
        assert [one.stream_sequence for one in found] == list(range(1, camera.next_sequence))
        assert all(one.cause == 0 for one in found)
    both = {one.place[0] for camera in moved for one in read_back(store, camera.stream.uid)}
    assert both == {1, 2}
    for camera in cameras:
        camera._index.abandon()
    store.close()
