"""Goal: fsck finds each damage at the level that promises it, and nothing on a good store."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.base.timebase import SECOND_NS
from storage.check import Finding, Level, Severity, fsck
from storage.recorder import Recorder
from storage.store import Store, recover
from storage.volume.damage import DamagedPlace, DamageList
from tests.storage.rig import Rig, read_back, uid

LEVELS = list(Level)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Two cameras, some sealed slots, nothing recording."""
    rig = Rig(tmp_path, slots=12, trial=True).create()
    store = rig.open()
    recorder = record(rig, store, 20)
    assert recorder.stop(10.0)
    store.close()
    return rig


def record(rig: Rig, store: Store, rounds: int) -> Recorder:
    recorder = rig.recorder(store)
    rng = random.Random(9)
    cameras = [recorder.open_camera(uid(n), f"c{n}", rig.retention) for n in range(2)]
    for _ in range(rounds):
        rig.clock.advance(SECOND_NS)
        for camera in cameras:
            assert rig.submit(camera, rig.fragment(rng, frame_bytes=60_000))
        recorder.writers[0].tick()
    return recorder


def check(rig: Rig, level: Level) -> tuple[Finding, ...]:
    with rig.open(write=False) as store:
        return fsck(store, level).findings


def poke(rig: Rig, offset: int, data: bytes, name: str = "slots") -> None:
    with open(rig.path() / name, "r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("level", LEVELS)
def test_a_good_store_is_clean(rig: Rig, level: Level) -> None:
    with rig.open(write=False) as store:
        steps: list[tuple[int, int]] = []
        report = fsck(store, level, progress=lambda done, total: steps.append((done, total)))
    assert report.clean
    assert report.findings == ()
    assert (report.volumes, report.cameras) == (1, 2)
    assert report.records_checked == (0 if level is Level.PRESENCE else 40)
    assert report.slots_checked >= 4
    assert steps[-1] == (12, 12)


def superblock_copy(rig: Rig) -> None:
    poke(rig, 4096, bytes(4096), "superblock")


def table_entry(rig: Rig) -> None:
    poke(rig, 4096 + 30, b"\xff", "table")


def slot_header(rig: Rig) -> None:
    poke(rig, 100, b"\xff")


def footer(rig: Rig) -> None:
    poke(rig, rig.slot_bytes - 4096, b"\xff")


def header_bit(rig: Rig) -> None:
    poke(rig, 4096 + 300, b"\xff")


def payload_bit(rig: Rig) -> None:
    poke(rig, 2 * 4096 + 50, b"\xff\xff")


def index_gone(rig: Rig) -> None:
    (rig.root / "home" / "index" / f"{uid(0).hex()}.rvi").unlink()


def index_garbage(rig: Rig) -> None:
    (rig.root / "home" / "index" / f"{uid(0).hex()}.rvi").write_bytes(os.urandom(8192))


def index_row(rig: Rig) -> None:
    """A row that points one block further than the record."""
    path = rig.root / "home" / "index" / f"{uid(0).hex()}.rvi"
    with open(path, "r+b") as file:
        file.seek(4096 + 20)
        block = int.from_bytes(file.read(4), "little")
        file.seek(4096 + 20)
        file.write((block + 1).to_bytes(4, "little"))


CASES: list[tuple[Callable[[Rig], None], set[str], Level, Severity]] = [
    (superblock_copy, {"superblock_copy"}, Level.PRESENCE, Severity.FAULT),
    (table_entry, {"table_entry"}, Level.PRESENCE, Severity.FAULT),
    (slot_header, {"slot_header"}, Level.PRESENCE, Severity.FAULT),
    (footer, {"footer"}, Level.PRESENCE, Severity.DAMAGE),
    (index_gone, {"index_missing"}, Level.PRESENCE, Severity.FAULT),
    (index_garbage, {"index"}, Level.PRESENCE, Severity.FAULT),
    (index_row, {"index_lacks", "index_dangling"}, Level.PRESENCE, Severity.FAULT),
    (header_bit, {"damaged_record"}, Level.HEADERS, Severity.DAMAGE),
    (payload_bit, {"damaged_record"}, Level.FULL, Severity.DAMAGE),
]


@pytest.mark.parametrize(("damage", "kinds", "level", "severity"), CASES, ids=lambda v: str(v)[:24])
def test_each_damage_is_found_at_its_level_and_above(
    rig: Rig, damage: Callable[[Rig], None], kinds: set[str], level: Level, severity: Severity
) -> None:
    damage(rig)
    for tried in LEVELS:
        found = check(rig, tried)
        if LEVELS.index(tried) < LEVELS.index(level):
            assert found == ()
            continue
        assert {one.kind for one in found} == kinds
        assert {one.severity for one in found} == {severity}
        assert all(one.volume is not None or one.camera_uid is not None for one in found)


def test_a_misdirected_write_is_found(rig: Rig) -> None:
    """A whole valid record, copied over another one of the same slot (V4)."""
    with rig.open(write=False) as store:
        places = [one.place for one in read_back(store, uid(0)) if one.place[1] == 0]
        record = store.volumes[1].read(0, places[0][3] * 4096, 40 * 4096)
        poke(rig, places[1][3] * 4096, bytes(record[:4096]))
        found = fsck(store, Level.HEADERS).findings
    assert [one.detail for one in found] == ["written for another place (V4)"]
    assert found[0].offset_blocks == places[1][3]


def test_damage_is_remembered_when_asked(rig: Rig) -> None:
    payload_bit(rig)
    damage = DamageList(rig.root / "home" / "index" / "damage.jsonl")
    with rig.open(write=False) as store:
        assert fsck(store, Level.FULL, found_ns=77, damage=damage).findings
        fsck(store, Level.FULL, found_ns=78, damage=damage)
    (place,) = DamageList(rig.root / "home" / "index" / "damage.jsonl").load()
    assert (place.key, place.found_ns) == ((1, 0, 1, 1), 77)
    assert place.camera in (uid(0).hex(), uid(1).hex())
    assert damage.contains(1, 0, 1, 1)
    assert not damage.contains(1, 0, 2, 1)


def test_it_works_beside_a_recorder_and_ignores_slots_that_move_on(rig: Rig) -> None:
    with rig.open() as store:
        recover(store, rig.clock)
        recorder = record(rig, store, 3)
        volume = store.volumes[1]
        turned: list[int] = []

        def turn(done: int, total: int) -> None:
            if not turned:  # reuse, while fsck runs, a slot it has still to look at
                slot = volume.allocate(
                    rig.retention,
                    worker=5,
                    lane=0,
                    trusted_ns=rig.clock.trusted_ns(),
                    opened_ns=rig.clock.utc_ns(),
                )
                turned.append(slot.slot)

        report = fsck(store, Level.FULL, progress=turn)
        assert report.clean, report.findings
        assert report.slots_open >= 2
        assert recorder.stop(10.0)


def test_the_damage_list_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "damage.jsonl"
    path.write_bytes(b'{"volume": 1, "slot": 2, "gener')
    place = DamagedPlace(1, 2, 3, 4, "ab", 5, 6, 7, "payload CRC")
    one, two = DamageList(path), DamageList(path)
    assert one.append([place, place]) == 1
    assert two.append([place]) == 0
    assert two.load() == (place,)
    assert path.read_bytes().count(b"payload CRC") == 1
    path.unlink()
    assert not two.contains(1, 2, 3, 4)
