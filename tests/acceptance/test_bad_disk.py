"""Goal: whatever a disk does, the error says what, where and what to do; nothing stored is lost,
nothing protected is overwritten, and a camera on a good disk does not notice.

Each row of docs/ref/errors.md about volumes names a test here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cext.arena import Fragment
from cext.segment_writer import GapRecord, RecordPlace
from gateway.problem import Problem, explain
from gateway.simulate.footage import load_footage
from gateway.simulate.shipped import CAR_PARK_H264
from storage.audit.events import ClipRefused
from storage.audit.log import AuditLog
from storage.base.disk import RealDisk
from storage.base.gap import GapCause
from storage.base.retention import R30
from storage.base.timebase import DAY_NS, SECOND_NS, TimeRange
from storage.check import Level, fsck
from storage.errors import (
    CapacityError,
    DiskError,
    StorageError,
    VolumeCorrupt,
    VolumeForeign,
    VolumeFull,
    VolumeMissing,
)
from storage.recorder import DiskFault, IntakeResumed, VolumeFullAlarm
from storage.volume.create import create_volume
from tests.acceptance import oracle
from tests.acceptance.rig import (
    FRAME_NS,
    FRAMES_A_FRAGMENT,
    MIB,
    Camera,
    Ground,
    Visible,
    causes,
    cut,
    look,
    working,
)
from tests.acceptance.watch import check, hashes_of

FRAGMENTS = 12
FRAMES = 10 * FRAGMENTS


def record(ground: Ground, camera_id: str = "cam", fragments: int = FRAGMENTS) -> bytes:
    """Some seconds of a camera, cleanly stopped; its uid."""
    with working(ground) as works:
        camera = works.camera(camera_id)
        assert camera.feed(fragments) == fragments
        works.settle(camera)
        return camera.uid


def refusal(ground: Ground, kind: type[StorageError]) -> Problem:
    """What the operator is told when this ground cannot be opened."""
    with pytest.raises(kind) as caught:
        ground.open(write=True)
    problem = explain(caught.value)
    assert problem is not None
    assert problem.remedy, "an error says what to do"
    return problem


def whole(seen: Visible, frames: int = FRAMES) -> None:
    assert (seen.frames, seen.gaps) == (frames, ())


def test_missing_volume(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "city")
    ground.add_volume()
    away = ground.add_volume()
    uid = record(ground)
    hidden = tmp_path / "unmounted"
    away.path.rename(hidden)

    problem = refusal(ground, VolumeMissing)

    assert problem.code == "VOLUME_MISSING"
    assert str(away.path) in problem.message and "volume 2" in problem.message
    assert "mount" in problem.remedy
    assert not away.path.exists(), "nothing was made in the place of the missing disk"
    hidden.rename(away.path)
    whole(look(ground, uid))


def test_empty_mount_point_is_a_missing_volume(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "city")
    away = ground.add_volume()
    uid = record(ground)
    hidden = tmp_path / "unmounted"
    away.path.rename(hidden)
    away.path.mkdir()

    problem = refusal(ground, VolumeMissing)

    assert "mounted" in problem.message
    assert list(away.path.iterdir()) == [], "nothing was written to the empty mount point"
    away.path.rmdir()
    hidden.rename(away.path)
    whole(look(ground, uid))


def test_volume_of_another_installation(tmp_path: Path) -> None:
    ours, theirs = Ground(tmp_path / "ours"), Ground(tmp_path / "theirs")
    ours.add_volume()
    theirs.add_volume()
    ours_uid, theirs_uid = record(ours), record(theirs)
    mine, other = ours.volumes[0].path, theirs.volumes[0].path
    before = _digest(other)
    mine.rename(tmp_path / "aside")
    other.rename(mine)

    problem = refusal(ours, VolumeForeign)

    assert problem.code == "VOLUME_FOREIGN"
    assert theirs.installation_uuid.hex() in problem.message
    assert ours.installation_uuid.hex() in problem.message
    assert _digest(mine) == before, "the foreign volume was not touched"
    mine.rename(other)
    (tmp_path / "aside").rename(mine)
    whole(look(ours, ours_uid))
    whole(look(theirs, theirs_uid))


def test_two_volumes_swapped(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "city")
    one, two = ground.add_volume(), ground.add_volume()
    uid = record(ground)
    _swap(one.path, two.path)

    problem = refusal(ground, VolumeForeign)

    assert problem.code == "VOLUME_FOREIGN" and "swapped" in problem.message
    _swap(one.path, two.path)
    whole(look(ground, uid))


def test_slots_file_cut_short(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "city")
    volume = ground.add_volume()
    uid = record(ground)
    slots = volume.path / "slots"
    full = slots.stat().st_size
    os.truncate(slots, full - MIB // 2)

    problem = refusal(ground, VolumeCorrupt)

    assert problem.code == "VOLUME_CORRUPT"
    assert str(full) in problem.message and str(full - MIB // 2) in problem.message
    # The remedy (restore the file's length) brings back all that was in front of the cut.
    os.truncate(slots, full)
    whole(look(ground, uid))


def test_write_cut_off_by_a_crash(tmp_path: Path) -> None:
    """A batch of which only the front reached the disk: every record before the cut is kept, and
    the torn one is no record.
    """
    ground = Ground(tmp_path / "city")
    ground.add_volume()
    with working(ground) as works:
        camera = works.camera("cam")
        camera.feed(FRAGMENTS)
        works.settle(camera)
        before = look(ground, camera.uid)
        crashed = ground.image(tmp_path / "crashed")
    # As if the last record had never been acknowledged: half of it there, nobody told of it.
    last = before.fragments[-1]
    with (crashed.volumes[0].path / "slots").open("r+b") as slots:
        slots.seek(last.slot * MIB + last.offset_blocks * 4096 + last.record_bytes // 2)
        slots.write(bytes(last.record_bytes // 2))
    for index in crashed.paths.index.glob("*.rvi"):
        index.unlink()
    with crashed.open(write=True) as store:
        table = store.volumes[1].table
        entry = table.get(last.slot)
        assert entry is not None and entry.open
        used_bytes = last.offset_blocks * 4096
        table.put(
            last.slot, entry.changed(used_bytes=used_bytes, record_count=entry.record_count - 1)
        )

    with working(crashed):
        pass

    assert look(crashed, camera.uid).fragments == before.fragments[:-1]
    whole(look(ground, camera.uid))


@pytest.mark.parametrize("where", ["fixed part", "frame table", "moof", "payload", "last byte"])
def test_flipped_bit_in_a_record(tmp_path: Path, where: str) -> None:
    """Its bytes never leave. The clip is delivered without it, the hole is a gap that says
    ``damaged``, everything else is what it was, and the audit log knows.
    """
    ground = Ground(tmp_path / "city")
    volume = ground.add_volume()
    uid = record(ground)
    before = look(ground, uid)
    hurt = before.fragments[5]
    start = hurt.slot * MIB + hurt.offset_blocks * 4096
    with ground.open() as store:
        header = check(store, hurt, hashes_of(load_footage(CAR_PARK_H264)))
        wanted = TimeRange(before.fragments[0].start_ns, before.fragments[-1].start_ns + SECOND_NS)
        healthy = cut(store, "cam", uid, wanted)
    at = {
        "fixed part": start + 80,
        "frame table": start + 256 + 48 + 20,
        "moof": start + header.moof_offset + 40,
        "payload": start + header.header_bytes + 1000,
        "last byte": start + header.header_bytes + header.payload_bytes - 1,
    }[where]
    _flip(volume.path / "slots", at)

    with ground.open() as store:
        hurting = cut(store, "cam", uid, wanted)
        report = fsck(store, Level.FULL)

    assert hurting.clip.frame_count == healthy.clip.frame_count - 10
    damaged = [gap for gap in hurting.clip.gaps if gap.cause is GapCause.DAMAGED]
    assert [gap.start_ns for gap in damaged] == [hurt.start_ns]
    assert damaged[0].end_ns == before.fragments[6].start_ns
    assert [event.kind for event in hurting.audited] == ["damage_found", "clip_opened"]
    left = _samples(hurting.data, tmp_path)
    whole_clip = _samples(healthy.data, tmp_path)
    assert left == whole_clip[:50] + whole_clip[60:]
    assert not report.clean
    found = {(one.volume, one.slot, one.offset_blocks) for one in report.findings}
    assert found == {(1, hurt.slot, hurt.offset_blocks)}


@pytest.mark.parametrize("copies", [(0,), (3,), (0, 1), (1, 3)])
def test_flipped_bits_in_superblock_copies(tmp_path: Path, copies: tuple[int, ...]) -> None:
    """Of four copies two may rot: the volume opens, and the next start writes all four anew."""
    ground = Ground(tmp_path / "city")
    volume = ground.add_volume()
    uid = record(ground)
    for copy in copies:
        _flip(volume.path / "superblock", copy * 4096 + 40)

    whole(look(ground, uid))

    with ground.open(write=True) as store:
        store.volumes[1].begin_serving()
    for copy in {0, 1, 2, 3} - set(copies[:2]) - {2}:
        _flip(volume.path / "superblock", copy * 4096 + 40)
    whole(look(ground, uid))


def test_three_superblock_copies_gone(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "city")
    volume = ground.add_volume()
    record(ground)
    for copy in range(3):
        _flip(volume.path / "superblock", copy * 4096 + 40)

    problem = refusal(ground, VolumeCorrupt)

    assert problem.code == "VOLUME_CORRUPT" and "superblock" in problem.message
    assert "do not" in problem.remedy, "the operator must not initialise the volume again"


def test_flipped_bit_in_the_slot_table(tmp_path: Path) -> None:
    """The table is a cache (V7): recovery derives the entry from the slot, nothing is lost."""
    ground = Ground(tmp_path / "city")
    volume = ground.add_volume()
    uid = record(ground)
    before = look(ground, uid)
    _flip(volume.path / "table", 4096 + 16)

    with working(ground):
        pass

    assert look(ground, uid) == before


def test_flipped_bit_in_the_index_header(tmp_path: Path) -> None:
    """An unusable index is named, and the footage is not affected: other cameras read on."""
    ground = Ground(tmp_path / "city")
    ground.add_volume(slots=16)
    uid, other = record(ground, "cam"), record(ground, "other")
    _flip(ground.paths.index / f"{uid.hex()}.rvi", 3)

    with pytest.raises(StorageError) as caught:
        look(ground, uid)

    problem = explain(caught.value)
    assert problem is not None and problem.code == "INDEX_CORRUPT"
    assert "index rebuild" in problem.message
    whole(look(ground, other))


# offset in the 32-byte row of storage.index.format.ROW
ROW_FIELDS = {"duration": 8, "generation": 12, "slot": 16, "offset": 20, "size": 24, "volume": 30}


@pytest.mark.parametrize("field", ROW_FIELDS)
def test_flipped_bit_in_an_index_row(tmp_path: Path, field: str) -> None:
    """Two rows that say something else show nothing wrong: what lies there is not the record (V4).
    The clip has a hole that is told, fsck finds the rows without reading footage, and what the
    rows pointed to is not taken for damaged: a rebuilt index has everything again.
    """
    ground = Ground(tmp_path / "city")
    ground.add_volume()
    uid = record(ground)
    before = look(ground, uid)
    wanted = TimeRange(before.fragments[0].start_ns, before.fragments[-1].start_ns + SECOND_NS)
    file = ground.paths.index / f"{uid.hex()}.rvi"
    with ground.open() as store:
        healthy = _samples(cut(store, "cam", uid, wanted).data, tmp_path)
    good = file.read_bytes()
    for row in (5, 6):
        _flip(file, 4096 + row * 32 + ROW_FIELDS[field])

    with ground.open() as store:
        hurting = cut(store, "cam", uid, wanted)
        report = fsck(store, Level.PRESENCE)

    left = _samples(hurting.data, tmp_path)
    if field == "duration":  # the record itself says how long it is
        assert left == healthy
    else:
        assert left == healthy[:50] + healthy[70:]
        starts = [before.fragments[n].start_ns for n in (5, 7)]
        told = [(gap.start_ns, gap.end_ns) for gap in hurting.clip.gaps]
        assert (min(told)[0], max(told)[1]) == (starts[0], starts[1]), hurting.clip.gaps
    assert not report.clean
    file.write_bytes(good)
    with ground.open() as store:
        assert _samples(cut(store, "cam", uid, wanted).data, tmp_path) == healthy


def test_index_row_that_points_to_another_cameras_record(tmp_path: Path) -> None:
    """The other camera's footage neither leaves as this one's nor counts as damaged."""
    ground = Ground(tmp_path / "city")
    ground.add_volume()
    with working(ground) as works:
        mine, theirs = works.camera("mine"), works.camera("theirs")
        for _ in range(FRAGMENTS):
            mine.feed(1)
            theirs.feed(1)
        works.settle(mine)
        works.settle(theirs)
    rows = (look(ground, mine.uid).fragments, look(ground, theirs.uid).fragments)
    wanted = TimeRange(rows[0][0].start_ns, rows[0][-1].start_ns + SECOND_NS)
    target = rows[1][5]
    with (ground.paths.index / f"{mine.uid.hex()}.rvi").open("r+b") as file:
        file.seek(4096 + 5 * 32 + 16)
        file.write(struct.pack("<III", target.slot, target.offset_blocks, target.record_bytes))

    with ground.open() as store:
        clip = cut(store, "mine", mine.uid, wanted).clip
        assert clip.frame_count == FRAMES - 10
        other = cut(store, "theirs", theirs.uid, wanted).clip
        assert other.frame_count == FRAMES
        assert not [gap for gap in other.gaps if gap.cause is GapCause.DAMAGED]


class FailingDisk(RealDisk):
    """While ``broken``, everything written to one volume's files fails with ``number``: ENOSPC as a
    thin-provisioned disk that ran out, EIO as one that dies.
    """

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._number = number
        self._fds: set[int] = set()
        self.broken = False

    def open(self, path: Path, *, write: bool, direct: bool) -> int:
        fd = super().open(path, write=write, direct=direct)
        if path.parent == self._path:
            self._fds.add(fd)
        return fd

    def _may(self, fd: int) -> None:
        if self.broken and fd in self._fds:
            raise OSError(self._number, os.strerror(self._number))

    def write_records(
        self,
        fd: int,
        slot_offset_bytes: int,
        first_block: int,
        first_sequence: int,
        volume_uuid: bytes,
        slot: int,
        generation: int,
        records: Sequence[Fragment | GapRecord],
    ) -> list[RecordPlace]:
        self._may(fd)
        return super().write_records(
            fd,
            slot_offset_bytes,
            first_block,
            first_sequence,
            volume_uuid,
            slot,
            generation,
            records,
        )

    def write(self, fd: int, offset_bytes: int, data: bytes) -> None:
        self._may(fd)
        super().write(fd, offset_bytes, data)

    def datasync(self, fd: int) -> None:
        self._may(fd)
        super().datasync(fd)


def test_disk_that_refuses_writes(tmp_path: Path) -> None:
    """A fault is told, the time it lasts is a gap with its cause, and recording resumes."""
    ground = Ground(tmp_path / "city")
    volume = ground.add_volume(slots=16)
    disk = FailingDisk(volume.path, errno.ENOSPC)
    with working(ground, disk=disk) as works:
        camera = works.camera("cam")
        camera.feed(4)
        works.settle(camera)
        disk.broken = True
        camera.feed(4)
        _wait(lambda: bool(works.events_of(DiskFault)), "the fault to be reported")
        _feed_until(camera, lambda: len(works.events_of(DiskFault)) > 1, "the lane to be blocked")
        disk.broken = False
        _feed_until(camera, lambda: bool(works.events_of(IntakeResumed)), "recording to go on")
        works.settle(camera)
        fault = works.events_of(DiskFault)[0]
        assert isinstance(fault, DiskFault)
        assert fault.errno == errno.ENOSPC and fault.volume_number == 1
    seen = look(ground, camera.uid)
    assert set(causes(seen)) == {GapCause.DISK_ERROR}
    _every_moment_accounted_for(seen)


def test_failing_disk_moves_its_cameras(tmp_path: Path) -> None:
    """With a second volume nothing is lost at all, and its own camera is not disturbed."""
    ground = Ground(tmp_path / "city")
    ground.add_volume(slots=16)
    ground.add_volume(slots=16)
    disk = FailingDisk(ground.volumes[0].path, errno.EIO)
    with working(ground, disk=disk) as works:
        first, second = works.camera("first"), works.camera("second")
        for camera in (first, second):
            camera.feed(3)
            works.settle(camera)
        disk.broken = True
        for _ in range(4):
            first.feed(2)
            second.feed(2)
            time.sleep(0.3)
        works.settle(first)
        works.settle(second)
    for camera in (first, second):
        whole(look(ground, camera.uid), camera.frames_submitted)


def test_every_slot_protected(tmp_path: Path) -> None:
    """A full production volume stops taking in, with the numbers, and overwrites nothing; another
    volume is all it takes to go on.
    """
    ground = Ground(tmp_path / "city")
    ground.add_volume(slots=4, trial=False)
    with working(ground) as works:
        camera = works.camera("cam", R30)
        full = ("R30: volume_full (every slot is protected)",)
        _feed_until(camera, lambda: works.recorder.stats().volumes[0].blocked == full, "the end")
        stored = look(ground, camera.uid).fragments
        camera.feed(4)
        time.sleep(0.5)
        alarm = works.events_of(VolumeFullAlarm)[0]
        assert isinstance(alarm, VolumeFullAlarm)
    problem = explain(alarm.facts)
    assert problem is not None and problem.code == "VOLUME_FULL"
    assert "of 4 slots" in problem.message and "Add a volume" in problem.message
    assert look(ground, camera.uid).fragments == stored, "nothing was overwritten"
    newest_ns = stored[-1].start_ns
    with ground.open(write=True) as store, pytest.raises(VolumeFull):
        store.volumes[1].allocate(
            R30, worker=0, lane=0, trusted_ns=newest_ns + 30 * DAY_NS, opened_ns=newest_ns
        )

    ground.add_volume(slots=4, trial=False)
    with working(ground) as works:
        camera = works.camera("cam", R30)
        camera.feed(4)
        works.settle(camera)
    after = look(ground, camera.uid).fragments
    assert after[: len(stored)] == stored
    assert [seen.volume for seen in after[len(stored) :]] == [2, 2, 2, 2]


def test_too_small_disk_is_refused_with_numbers(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    asked = free + (1 << 40)

    with pytest.raises(CapacityError) as caught:
        create_volume(
            tmp_path / "volume",
            number=1,
            installation_uuid=bytes(16),
            size_bytes=asked,
            created_ns=time.time_ns(),
        )

    problem = explain(caught.value)
    assert problem is not None and problem.code == "CAPACITY"
    assert "are free" in problem.message and "are needed" in problem.message
    assert not (tmp_path / "volume").exists(), "a refused volume leaves nothing behind"


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB of its own (tmpfs). Mounting needs to be root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root; the injected ENOSPC tests run for all")
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_full_file_system_at_creation(small_filesystem: Path) -> None:
    """The kernel's own ENOSPC: refused by number before a byte is written."""
    with pytest.raises(CapacityError):
        create_volume(
            small_filesystem / "volume",
            number=1,
            installation_uuid=bytes(16),
            size_bytes=64 * MIB,
            created_ns=time.time_ns(),
            slot_size_bytes=MIB,
        )
    assert list(small_filesystem.iterdir()) == []


def test_full_file_system_under_the_index(small_filesystem: Path, tmp_path: Path) -> None:
    """The volume has its space, the index has none left: footage goes on to be stored, and shows
    as soon as there is room again. A store into a hole of a mapped file would be a SIGBUS here.
    """
    ground = Ground(tmp_path / "city")
    ground.add_volume(slots=32)
    ground.paths.index.rmdir()
    (small_filesystem / "index").mkdir()
    ground.paths.index.symlink_to(small_filesystem / "index")
    with working(ground) as works:
        early = works.camera("early")
        early.feed(2)
        works.settle(early)
        with _filled(small_filesystem):
            with pytest.raises(DiskError) as caught:
                works.camera("late")
            early.feed(3)
            works.settle(early)
        late = works.camera("late")
        late.feed(3)
        works.settle(late)
    problem = explain(caught.value)
    assert problem is not None and problem.code == "DISK_ERROR"
    assert "No space left" in problem.message and str(ground.paths.index) in problem.message
    whole(look(ground, early.uid), 50)
    whole(look(ground, late.uid), 30)


def test_full_file_system_under_the_audit_log(small_filesystem: Path) -> None:
    """What cannot be audited is refused, and the log is whole when there is room again."""
    directory = small_filesystem / "audit"
    event = ClipRefused(
        time_ns=1,
        code="EXPIRED",
        message="x" * 2000,
        grant_id="",
        token_sha256=bytes(32),
        camera_id="cam",
        requested_start_ns=None,
        requested_end_ns=None,
        client="",
    )
    with AuditLog.open(directory) as log:
        first = log.append(event)
        with _filled(small_filesystem), pytest.raises(DiskError) as caught:
            for _ in range(64):  # what is left of the last block is used up first
                log.append(event)
    problem = explain(caught.value)
    assert problem is not None and problem.code == "DISK_ERROR"
    assert "No space left" in problem.message
    with AuditLog.open(directory) as log:
        again = log.append(event)
        log.verify()
        assert again > first
        assert len(log) == again + 1


@contextlib.contextmanager
def _filled(mount: Path) -> Iterator[None]:
    """Not a byte is left on the file system, until the end."""
    ballast = mount / "ballast"
    with ballast.open("wb", buffering=0) as out:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    out.write(bytes(size))
    try:
        yield
    finally:
        ballast.unlink()


def _every_moment_accounted_for(seen: Visible) -> None:
    """From the first record to the last, no time is without footage or a gap that says why."""
    spans = [(s.start_ns, s.start_ns + FRAMES_A_FRAGMENT * FRAME_NS) for s in seen.fragments]
    spans += [(start_ns, end_ns) for _, start_ns, end_ns in seen.gaps]
    reached = min(spans)[0]
    for start_ns, end_ns in sorted(spans):
        assert start_ns <= reached + SECOND_NS // 10, f"nothing says why {reached} to {start_ns}"
        reached = max(reached, end_ns)


def _wait(ready: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)


def _feed_until(camera: Camera, ready: Callable[[], bool], what: str) -> None:
    """Two fragments at a time, until ``ready``."""

    def fed() -> bool:
        camera.feed(2)
        time.sleep(0.1)
        return ready()

    _wait(fed, what)


def _samples(data: bytes, folder: Path) -> list[tuple[bytes, ...]]:
    file = folder / "clip.mp4"
    file.write_bytes(data)
    return [sample.nal_units for sample in oracle.read_track(file).samples]


def _swap(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes((byte[0] ^ 0x10,)))


def _digest(directory: Path) -> dict[str, bytes]:
    return {p.name: hashlib.sha256(p.read_bytes()).digest() for p in directory.iterdir()}
