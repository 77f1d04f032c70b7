"""Goal: the registry keeps what it was told, all or nothing, and forgets no camera's uid."""

from __future__ import annotations

import multiprocessing
import os
import stat
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from gateway.ingest.registry import (
    Camera,
    CameraExists,
    CameraUnknown,
    RegistryError,
    SqliteRegistry,
)


def camera(number: int, **changes: object) -> Camera:
    made = Camera(
        id=f"cam-{number}",
        uid=number.to_bytes(16, "big"),
        url=f"rtsp://u:secret@h/{number}",
        place_category=8,
        place_type="road",
        basis_doc=None,
        retention="R30",
        transport="tcp",
        created_ns=number,
    )
    return replace(made, **changes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "db" / "ringvault.sqlite3"


def test_what_was_added_is_there_after_reopening(file: Path) -> None:
    with SqliteRegistry(file) as registry:
        registry.add([camera(2), camera(1)])
    with SqliteRegistry(file) as registry:
        assert registry.cameras() == [camera(1), camera(2)]
        assert registry.camera("cam-2") == camera(2)


def test_all_or_none(file: Path) -> None:
    with SqliteRegistry(file) as registry:
        registry.add([camera(2)])
        before = registry.revision()
        with pytest.raises(CameraExists, match="cam-2"):
            registry.add([camera(1), camera(2), camera(3)])
        assert registry.cameras() == [camera(2)]
        assert registry.revision() == before


def test_a_removed_camera_stays_known(file: Path) -> None:
    with SqliteRegistry(file) as registry:
        registry.add([camera(1)])
        removed = registry.remove("cam-1", 99)
        assert (removed.removed_ns, removed.active) == (99, False)
        assert registry.cameras() == []
        assert registry.cameras(removed=True) == [removed]
        assert registry.camera("cam-1") == removed
        with pytest.raises(CameraUnknown):
            registry.remove("cam-1", 100)


def test_an_id_used_again_keeps_its_uid(file: Path) -> None:
    """Its old footage must stay reachable under the id that grants name."""
    with SqliteRegistry(file) as registry:
        registry.add([camera(1)])
        registry.remove("cam-1", 99)
        again = camera(7, id="cam-1", url="rtsp://elsewhere/", place_type="gate")
        (stored,) = registry.add([again])
        assert stored.uid == camera(1).uid and stored.created_ns == 1
        assert (stored.url, stored.place_type) == ("rtsp://elsewhere/", "gate")
        assert stored.active


def test_unknown_camera(file: Path) -> None:
    with SqliteRegistry(file) as registry:
        with pytest.raises(CameraUnknown, match="nobody"):
            registry.camera("nobody")
        with pytest.raises(CameraUnknown, match="nobody"):
            registry.remove("nobody", 1)


def test_revision_moves_with_every_change_and_other_processes_see_it(file: Path) -> None:
    with SqliteRegistry(file) as one, SqliteRegistry(file) as other:
        first = one.revision()
        other.add([camera(1)])
        second = one.revision()
        other.remove("cam-1", 5)
        assert first < second < one.revision()


def test_only_the_owner_can_read_it(file: Path) -> None:
    before = os.umask(0)
    try:
        with SqliteRegistry(file) as registry:
            registry.add([camera(1)])
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in file.parent.iterdir()}
    finally:
        os.umask(before)
    assert len(modes) >= 2, "the journal is checked too"
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_every_change_is_durable(file: Path) -> None:
    with SqliteRegistry(file) as registry:
        assert registry._db.pragma("synchronous") == 2
        assert registry._db.pragma("journal_mode") == "wal"


def test_a_newer_schema_is_not_touched(file: Path) -> None:
    SqliteRegistry(file).close()
    db = apsw.Connection(str(file))
    db.pragma("user_version", 999)
    db.close()
    with pytest.raises(RegistryError, match="schema 999") as caught:
        SqliteRegistry(file)
    assert "newer program" in caught.value.remedy


def test_a_damaged_file_is_a_typed_error(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"this is no database" * 1000)
    with pytest.raises(RegistryError, match=r"ringvault\.sqlite3") as caught:
        SqliteRegistry(file)
    assert "backup" in caught.value.remedy


def _add_many(file: Path, first: int, count: int) -> None:
    with SqliteRegistry(file) as registry:
        for number in range(first, first + count):
            registry.add([camera(number)])


def test_two_processes_may_add_at_the_same_time(file: Path) -> None:
    SqliteRegistry(file).close()
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_add_many, args=(file, n, 10)) for n in (100, 200)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    with SqliteRegistry(file) as registry:
        assert len(registry.cameras()) == 20
        assert registry.revision() == 21
