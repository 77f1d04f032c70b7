"""Goal: a volume is created whole or not at all, opened only if it is the right one, and its slots
change state only as the Procedures say."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from storage.base.clock import SimulatedClock, TrustedMark
from storage.base.disk import RealDisk
from storage.base.retention import R30, TRIAL
from storage.base.timebase import DAY_NS
from storage.errors import (
    CapacityError,
    DiskError,
    RetentionMismatch,
    StorageError,
    VolumeBusy,
    VolumeCorrupt,
    VolumeForeign,
    VolumeFull,
    VolumeMissing,
    VolumeNotEmpty,
)
from storage.volume.create import create_volume
from storage.volume.format import SLOT_SEALED, TABLE_HELD
from storage.volume.slot import OpenSlot, SlotRecord
from storage.volume.table import TableEntry
from storage.volume.volume import Volume
from tests.storage.fault_disk import FaultDisk, io_error, no_space
from tests.storage.rig import INSTALLATION, Rig

SLOT = 1 << 20


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, slots=5, trial=False).create()


def open_volume(rig: Rig, **kwargs: bool) -> Volume:
    kwargs.setdefault("write", True)
    return Volume.open(
        rig.path(), number=1, installation_uuid=INSTALLATION, disk=rig.disk, **kwargs
    )


def allocate(volume: Volume, clock: SimulatedClock) -> OpenSlot:
    return volume.allocate(
        R30, worker=0, lane=0, trusted_ns=clock.trusted_ns(), opened_ns=clock.utc_ns()
    )


def fill(volume: Volume, slot: OpenSlot, start_ns: int, end_ns: int) -> None:
    """One record's worth of bookkeeping, without its bytes."""
    record = SlotRecord(
        slot.next_block, 4096, 2, 0x0202, 1, start_ns, end_ns, b"c" * 16, 1, b"r" * 32, 1, 2
    )
    slot.append(record)
    slot.mark_durable()
    volume.note_durable(slot)


def seal_all(volume: Volume, clock: SimulatedClock) -> None:
    for _ in range(volume.slot_count):
        slot = allocate(volume, clock)
        fill(volume, slot, clock.utc_ns(), clock.utc_ns() + 10**9)
        clock.advance(10**9)
        volume.seal(slot, clock.utc_ns())


# ---- create -----------------------------------------------------------------------------------


def create(path: Path, size_bytes: int = 5 * SLOT, **kwargs: object) -> None:
    create_volume(
        path,
        number=1,
        installation_uuid=INSTALLATION,
        size_bytes=size_bytes,
        slot_size_bytes=SLOT,
        created_ns=1,
        **kwargs,  # type: ignore[arg-type]
    )


def test_all_space_is_allocated_and_progress_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    create(tmp_path / "v", 6 * SLOT, progress=lambda done, total: told.append((done, total)))
    status = (tmp_path / "v" / "slots").stat()
    assert status.st_size == 5 * SLOT
    assert status.st_blocks * 512 >= 5 * SLOT
    assert told[-1] == (5 * SLOT, 5 * SLOT)


def test_allocation_goes_in_steps_of_a_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, at, size: steps.append((at, size)))
    told: list[int] = []
    size = (5 << 30) // 2
    RealDisk().create(tmp_path / "big", size, lambda done, total: told.append(done))
    assert steps == [(0, 1 << 30), (1 << 30, 1 << 30), (2 << 30, 1 << 29)]
    assert told == [1 << 30, 2 << 30, size]


def test_a_directory_with_something_in_it_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "holiday.jpg").write_text("x")
    with pytest.raises(VolumeNotEmpty, match=r"1 entries \(holiday.jpg\)"):
        create(tmp_path / "v")
    assert sorted(os.listdir(tmp_path / "v")) == ["holiday.jpg"]


def test_a_fresh_file_system_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "v" / "lost+found").mkdir(parents=True)
    create(tmp_path / "v")


def test_too_little_space_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RealDisk, "free_bytes", lambda self, path: 3 * SLOT)
    with pytest.raises(CapacityError) as caught:
        create(tmp_path / "v", 10 * SLOT)
    assert caught.value.available == 3 * SLOT
    assert caught.value.needed > 9 * SLOT
    assert str(3 * SLOT) in str(caught.value)
    assert not (tmp_path / "v").exists()


def test_too_few_slots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="at least 4 slots"):
        create(tmp_path / "v", 3 * SLOT)


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(VolumeMissing, match="parent directory"):
        create(tmp_path / "nowhere" / "v")


@pytest.mark.parametrize("operation", ["create", "write", "datasync"])
def test_a_failure_half_way_leaves_nothing(tmp_path: Path, operation: str) -> None:
    disk = FaultDisk()
    disk.fail = no_space(operation)
    with pytest.raises(DiskError) as caught:
        create(tmp_path / "v", disk=disk)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "v").exists()


# ---- open -------------------------------------------------------------------------------------


def test_open_says_what_it_is(rig: Rig) -> None:
    volume = open_volume(rig)
    assert (volume.number, volume.slot_count, volume.trial) == (1, 5, False)
    assert volume.generations.tolist() == [0] * 5
    volume.close()
    volume.close()


def test_missing_directory_and_missing_files(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(VolumeMissing, match="no such directory"):
        Volume.open(tmp_path / "gone", number=1, installation_uuid=INSTALLATION)
    (tmp_path / "mountpoint").mkdir()
    with pytest.raises(VolumeMissing, match="Is the disk mounted"):
        Volume.open(tmp_path / "mountpoint", number=1, installation_uuid=INSTALLATION)
    (rig.path() / "slots").rename(rig.path() / "elsewhere")
    with pytest.raises(VolumeMissing, match="slots missing"):
        open_volume(rig)


def test_another_installation_and_a_swapped_path(rig: Rig) -> None:
    with pytest.raises(VolumeForeign, match="belongs to installation"):
        Volume.open(rig.path(), number=1, installation_uuid=b"x" * 16)
    with pytest.raises(VolumeForeign, match="it is volume 1"):
        Volume.open(rig.path(), number=2, installation_uuid=INSTALLATION)


def test_truncated_slots(rig: Rig) -> None:
    os.truncate(rig.path() / "slots", 4 * SLOT)
    with pytest.raises(
        VolumeCorrupt, match=f"has {4 * SLOT} bytes, the superblock says {5 * SLOT}"
    ):
        open_volume(rig)


def test_no_quorum(rig: Rig) -> None:
    with open(rig.path() / "superblock", "r+b") as file:
        file.write(bytes(3 * 4096))
    with pytest.raises(VolumeCorrupt, match="no two superblock copies agree"):
        open_volume(rig)


@pytest.mark.parametrize("damage", ["missing", "short", "garbage"])
def test_a_lost_table_is_refused_and_can_be_repaired(rig: Rig, damage: str) -> None:
    table = rig.path() / "table"
    if damage == "missing":
        table.unlink()
    elif damage == "short":
        os.truncate(table, 4096)
    else:
        table.write_bytes(os.urandom(table.stat().st_size))
    with pytest.raises(VolumeCorrupt, match="ringvault index rebuild"):
        open_volume(rig)
    volume = open_volume(rig, exclusive=True, repair=True)
    assert volume.table.header_fault(volume.uuid) is None
    volume.close()
    open_volume(rig).close()


def test_owner_lock(rig: Rig) -> None:
    one, two = open_volume(rig), open_volume(rig, write=False)
    with pytest.raises(VolumeBusy, match="stop `ringvault serve`"):
        open_volume(rig, exclusive=True)
    one.close()
    two.close()
    repair = open_volume(rig, exclusive=True)
    with pytest.raises(VolumeBusy, match="offline repair"):
        open_volume(rig)
    repair.close()
    open_volume(rig).close()


def test_refused_opens_leak_no_descriptor(rig: Rig) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in (2, 3):
        with pytest.raises(StorageError):
            Volume.open(rig.path(), number=number, installation_uuid=INSTALLATION)
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_o_direct_it_falls_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: RealDisk, path: Path, *, write: bool, direct: bool) -> int:
        if direct:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        return os.open(path, os.O_RDWR)

    monkeypatch.setattr(RealDisk, "open", refuse)
    volume = open_volume(rig)
    assert not volume.direct
    volume.close()


# ---- superblock -------------------------------------------------------------------------------


def test_trusted_time_is_persisted_and_never_goes_back(rig: Rig) -> None:
    volume = open_volume(rig)
    start = volume.superblock.trusted_ns
    volume.persist_trusted(TrustedMark(start + 60, start + 100))
    volume.persist_trusted(TrustedMark(start + 30, start + 110))
    assert volume.begin_serving() == 1
    volume.close()
    volume = open_volume(rig)
    assert volume.superblock.mark == TrustedMark(start + 60, start + 110)
    assert volume.begin_serving() == 2
    volume.close()


# ---- slots ------------------------------------------------------------------------------------


def test_v3_protects_and_v2_forgets_before_reuse(rig: Rig) -> None:
    volume = open_volume(rig)
    seal_all(volume, rig.clock)
    assert volume.generations.tolist() == [1] * 5
    with pytest.raises(VolumeFull) as caught:
        allocate(volume, rig.clock)
    full = caught.value
    assert (full.slots, full.protected_slots, full.open_slots) == (5, 5, 0)
    oldest_end = min(int(value) for value in volume.table.entries["newest_ns"])
    assert full.next_free_ns == oldest_end + 31 * DAY_NS
    rig.clock.advance(full.next_free_ns - rig.clock.trusted_ns() - 1)
    with pytest.raises(VolumeFull):
        allocate(volume, rig.clock)
    rig.clock.advance(1)
    slot = allocate(volume, rig.clock)
    assert (slot.slot, slot.generation) == (0, 2)
    assert volume.generations.tolist() == [2, 1, 1, 1, 1]
    volume.close()


def test_a_clock_set_forward_frees_nothing(rig: Rig) -> None:
    volume = open_volume(rig)
    seal_all(volume, rig.clock)
    rig.clock.step(40 * DAY_NS)
    with pytest.raises(VolumeFull):
        allocate(volume, rig.clock)
    volume.close()


def test_held_slots_are_never_reused(rig: Rig) -> None:
    volume = open_volume(rig)
    seal_all(volume, rig.clock)
    assert volume.set_flags(0, 1, TABLE_HELD)
    assert not volume.set_flags(0, 9, TABLE_HELD)
    rig.clock.advance(400 * DAY_NS)
    assert [allocate(volume, rig.clock).slot for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(VolumeFull) as caught:
        allocate(volume, rig.clock)
    assert caught.value.next_free_ns is None
    volume.close()


@pytest.mark.parametrize("lie", ["zeroed", "garbage", "older", "min_days"])
def test_the_floor_does_not_rest_on_the_table_alone(rig: Rig, lie: str) -> None:
    """V7: the table is a cache. One that says `free` or `old` is put right from the slot."""
    volume = open_volume(rig)
    seal_all(volume, rig.clock)
    truth = volume.table.get(2)
    assert truth is not None
    if lie == "zeroed":
        volume.table._map[4096 + 128 : 4096 + 192] = bytes(64)
    elif lie == "garbage":
        volume.table._map[4096 + 128 : 4096 + 192] = b"\0" * 4 + b"\xee" * 60
    elif lie == "older":
        volume.table.put(2, truth.changed(newest_ns=truth.newest_ns - 90 * DAY_NS))
    else:
        volume.table.put(2, truth.changed(min_days=0))
    rig.clock.advance(5 * DAY_NS)
    with pytest.raises(VolumeFull):
        allocate(volume, rig.clock)
    assert volume.table.get(2) == truth or lie == "garbage"
    volume.close()


def test_an_unreadable_slot_without_an_entry_is_never_taken(rig: Rig) -> None:
    volume = open_volume(rig)
    seal_all(volume, rig.clock)
    with open(rig.path() / "slots", "r+b") as file:
        file.seek(SLOT)
        file.write(b"\xff" * 4096)
    volume.table._map[4096 + 64 : 4096 + 128] = bytes(64)
    rig.clock.advance(400 * DAY_NS)
    assert sorted(allocate(volume, rig.clock).slot for _ in range(4)) == [0, 2, 3, 4]
    with pytest.raises(VolumeFull):
        allocate(volume, rig.clock)
    volume.close()


def test_trial_and_production_do_not_mix(tmp_path: Path, rig: Rig) -> None:
    volume = open_volume(rig)
    with pytest.raises(RetentionMismatch, match="production"):
        volume.allocate(TRIAL, worker=0, lane=0, trusted_ns=0, opened_ns=0)
    volume.close()


def test_a_slot_whose_header_cannot_be_written_is_not_tried_again(tmp_path: Path) -> None:
    disk = FaultDisk()
    rig = Rig(tmp_path, slots=5, trial=False, disk=disk).create()
    volume = open_volume(rig)
    disk.fail = io_error("write")
    with pytest.raises(DiskError):
        allocate(volume, rig.clock)
    disk.fail = lambda operation, path: None
    slot = allocate(volume, rig.clock)
    assert slot.slot == 1
    volume.close()


def test_seal_and_footer(rig: Rig) -> None:
    volume = open_volume(rig)
    slot = allocate(volume, rig.clock)
    fill(volume, slot, 100, 200)
    fill(volume, slot, 150, 180)
    footer = volume.seal(slot, 999)
    again = volume.read_footer(slot.slot, slot.generation)
    assert again.entries.tobytes() == footer.entries.tobytes()
    assert (again.first_ns, again.newest_ns, again.sealed_ns) == (100, 200, 999)
    assert again.seal == footer.seal == again.computed_seal()
    entry = volume.table.get(slot.slot)
    assert entry == TableEntry(
        generation=1,
        state=SLOT_SEALED,
        first_ns=100,
        newest_ns=200,
        used_bytes=3 * 4096,
        record_count=2,
        min_days=30,
        class_id="R30",
        alloc_sequence=1,
    )
    volume.close()
