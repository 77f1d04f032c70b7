"""Goal: whatever a crash left, recover() finds every durable record, reports, and seals."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from storage.base.gap import Gap, GapCause
from storage.base.timebase import SECOND_NS
from storage.errors import VolumeForeign
from storage.layout import InstallationPaths
from storage.recorder import CameraWriter, Recorder
from storage.store import RecoveryReport, Store, VolumeConfig, recover
from storage.volume.format import INDEX_CONFIG_CHANGE
from storage.volume.recovery import rebuild_table
from storage.volume.scan import Hole
from storage.volume.slot import slot_records
from tests.storage.rig import INSTALLATION, Rig, read_back, uid


class Crashed:
    """A recorder that published some records and then is simply gone (kill -9)."""

    def __init__(self, rig: Rig, *, worker: int = 0, cameras: int = 2) -> None:
        self.rig = rig
        self.store: Store = rig.open()
        self.recorder: Recorder = rig.recorder(self.store, worker=worker)
        self.rng = random.Random(worker)
        self.cameras: list[CameraWriter] = [
            self.recorder.open_camera(uid(10 * worker + n), f"c{worker}{n}", rig.retention)
            for n in range(cameras)
        ]

    def record(self, rounds: int, *, config_id: int = 1) -> None:
        for _ in range(rounds):
            self.rig.clock.advance(SECOND_NS)
            for camera in self.cameras:
                assert self.rig.submit(camera, self.rig.fragment(self.rng), config_id=config_id)
            self.recorder.writers[0].tick()

    def crash(self) -> None:
        for camera in self.cameras:
            camera._index.abandon()
        self.store.close()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, slots=12, trial=True).create()


def recovered(rig: Rig, worker: int | None = None) -> tuple[Store, RecoveryReport]:
    store = rig.open()
    return store, recover(store, rig.clock, worker=worker)


def test_nothing_to_do_on_a_new_installation(rig: Rig) -> None:
    store, report = recovered(rig)
    assert (report.slots, report.records, report.findings) == (0, 0, ())
    store.close()


def test_open_slots_are_sealed_and_found_whole(rig: Rig) -> None:
    crashed = Crashed(rig)
    crashed.record(5)
    before = [read_back(crashed.store, uid(n)) for n in range(2)]
    crashed.crash()
    store, report = recovered(rig)
    assert (report.slots, report.slots_sealed, report.records, report.cameras) == (2, 2, 10, 2)
    assert report.holes == ()
    assert [read_back(store, uid(n)) for n in range(2)] == before
    entry = store.volumes[1].table.get(0)
    assert entry is not None and entry.sealed and not entry.indexed
    footer = store.volumes[1].read_footer(0, 1)
    assert footer.seal == footer.computed_seal()
    store.close()
    again, report = recovered(rig)
    assert (report.slots, report.slots_sealed, report.restored) == (2, 0, 10)
    assert [read_back(again, uid(n)) for n in range(2)] == before
    again.close()


def test_a_lost_index_comes_back_from_the_slots(rig: Rig) -> None:
    crashed = Crashed(rig)
    crashed.record(4)
    before = read_back(crashed.store, uid(0))
    crashed.crash()
    for path in (rig.root / "home" / "index").glob("*.rvi"):
        path.unlink()
    store, report = recovered(rig)
    assert report.restored == 8
    assert read_back(store, uid(0)) == before
    writer = store.index_writer(uid(0), "c00", days=1)
    assert writer.last_stream_sequence == 4
    writer.abandon()
    store.close()


def test_only_the_dead_workers_slots_are_touched(rig: Rig) -> None:
    alive, dead = Crashed(rig, worker=1), Crashed(rig, worker=2)
    alive.record(2)
    dead.record(3)
    dead.crash()
    report = recover(alive.store, rig.clock, worker=2)
    assert (report.slots_sealed, report.records) == (2, 6)
    alive.record(2)  # its slots are still open and its own
    assert len(read_back(alive.store, uid(10))) == 4
    assert len(read_back(alive.store, uid(20))) == 3
    alive.crash()


def test_a_hole_is_reported_and_what_lies_behind_it_kept(rig: Rig) -> None:
    crashed = Crashed(rig, cameras=1)
    crashed.record(5)
    places = [one.place for one in read_back(crashed.store, uid(0))]
    crashed.crash()
    broken = places[2][3]
    with open(rig.path() / "slots", "r+b") as file:
        file.seek(broken * 4096)
        file.write(os.urandom(4096))
    store, report = recovered(rig)
    assert report.records == 4
    assert report.holes == (Hole(1, 0, 1, broken, places[3][3]),)
    assert [one.stream_sequence for one in read_back(store, uid(0))] == [1, 2, 4, 5]
    store.close()


def test_a_torn_payload_above_used_bytes_is_no_record(rig: Rig) -> None:
    """The last batch never got its fdatasync: header on the disk, payload not."""
    crashed = Crashed(rig, cameras=1)
    crashed.record(3)
    last = read_back(crashed.store, uid(0))[-1].place[3]
    entry = crashed.store.volumes[1].table.get(0)
    assert entry is not None
    crashed.store.volumes[1].table.put(0, entry.changed(used_bytes=last * 4096))
    crashed.crash()
    with open(rig.path() / "slots", "r+b") as file:
        file.seek((last + 1) * 4096 + 100)
        file.write(os.urandom(512))
    (rig.root / "home" / "index" / f"{uid(0).hex()}.rvi").unlink()
    store, report = recovered(rig)
    assert report.records == 2
    assert [one.stream_sequence for one in read_back(store, uid(0))] == [1, 2]
    store.close()


def test_records_of_the_generation_before_are_not_found(rig: Rig) -> None:
    crashed = Crashed(rig, cameras=1)
    crashed.record(6)
    crashed.crash()
    store, _ = recovered(rig)
    volume = store.volumes[1]
    rig.clock.advance(SECOND_NS)
    for _ in range(12):  # once round the ring, back to slot 0
        slot = volume.allocate(
            rig.retention, worker=0, lane=0, trusted_ns=rig.clock.trusted_ns(), opened_ns=1
        )
        if slot.slot == 0:
            break
    assert (slot.slot, slot.generation) == (0, 2)
    store.close()
    store, report = recovered(rig)
    assert (report.records, report.holes) == (0, ())
    assert volume.number == 1 and store.volumes[1].table.generation(0) == 2
    assert read_back(store, uid(0)) == []
    store.close()


def test_config_changes_are_marked_again(rig: Rig) -> None:
    crashed = Crashed(rig, cameras=1)
    crashed.record(2, config_id=1)
    crashed.record(2, config_id=2)
    crashed.crash()
    store, _ = recovered(rig)
    records = slot_records(store.volumes[1].read_footer(0, 1).entries)
    assert [bool(one.index_flags & INDEX_CONFIG_CHANGE) for one in records] == [
        True,  # nothing before it is known
        False,
        True,
        False,
    ]
    store.close()


def test_gaps_survive_with_cause_and_packets(rig: Rig) -> None:
    crashed = Crashed(rig, cameras=1)
    camera = crashed.cameras[0]
    start_ns = rig.clock.utc_ns()
    assert camera.submit_gap(Gap(start_ns, start_ns + 60 * SECOND_NS, GapCause.STALL, 7, "dark"))
    crashed.recorder.writers[0].tick()
    crashed.crash()
    (rig.root / "home" / "index" / f"{uid(0).hex()}.rvi").unlink()
    store, report = recovered(rig)
    assert report.records == 1
    (found,) = read_back(store, uid(0))
    assert (found.cause, found.start_ns) == (GapCause.STALL, start_ns)
    store.close()


def test_a_damaged_table_entry_is_derived_and_reported(rig: Rig) -> None:
    crashed = Crashed(rig)
    crashed.record(3)
    before = read_back(crashed.store, uid(0))
    crashed.store.volumes[1].table._map[4096:4160] = b"\x5a" * 64
    crashed.crash()
    store, report = recovered(rig)
    assert [one.kind for one in report.findings] == ["table_entry"]
    assert read_back(store, uid(0)) == before
    store.close()


def test_the_table_can_be_rebuilt_from_nothing(rig: Rig) -> None:
    crashed = Crashed(rig)
    crashed.record(3)
    crashed.crash()
    store, _ = recovered(rig)
    before = [store.volumes[1].table.get(slot) for slot in range(12)]
    entries = read_back(store, uid(1))
    store.close()
    (rig.path() / "table").unlink()
    store = Store.open(
        InstallationPaths(rig.root / "home"),
        INSTALLATION,
        [VolumeConfig(1, rig.path())],
        exclusive=True,
        repair=True,
    )
    assert rebuild_table(store.volumes[1]).faults == []
    assert [store.volumes[1].table.get(slot) for slot in range(12)] == before
    assert read_back(store, uid(1)) == entries
    store.close()


def test_a_busy_or_corrupt_index_is_a_finding_not_a_failure(rig: Rig) -> None:
    crashed = Crashed(rig)
    crashed.record(3)
    crashed.crash()
    path = rig.root / "home" / "index" / f"{uid(0).hex()}.rvi"
    path.write_bytes(b"garbage" * 1000)
    store, report = recovered(rig)
    assert [(one.kind, one.camera_uid) for one in report.findings] == [("index", uid(0))]
    assert len(read_back(store, uid(1))) == 3
    store.close()


def test_open_is_all_or_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, volumes=2, trial=True).create()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VolumeForeign):
        Store.open(
            InstallationPaths(tmp_path / "home"),
            INSTALLATION,
            [VolumeConfig(1, rig.path(1)), VolumeConfig(2, rig.path(1))],
        )
    assert len(os.listdir("/proc/self/fd")) == before
    with rig.open(exclusive=True) as store:
        assert sorted(store.volumes) == [1, 2]
        assert store.generations(9) is None


def test_trusted_time_is_the_newest_any_volume_knows(tmp_path: Path) -> None:
    rig = Rig(tmp_path, volumes=2, trial=True).create()
    with rig.open() as store:
        mark = store.mark()
        later = type(mark)(mark.trusted_ns + 5, mark.wall_ns + 9)
        store.volumes[2].persist_trusted(later)
        assert store.mark() == later
        store.persist_trusted(type(mark)(mark.trusted_ns + 7, mark.wall_ns + 11))
    with rig.open() as store:
        assert {volume.superblock.trusted_ns for volume in store.volumes.values()} == {
            mark.trusted_ns + 7
        }
