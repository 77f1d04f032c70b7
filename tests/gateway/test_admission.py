"""Goal: a camera is admitted exactly while the ring holds everybody's legal period."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.admission import capacity_plan
from gateway.config import Config
from gateway.ingest.registry import Camera
from storage.capacity import require_admitted
from storage.errors import CapacityError

SLOT = 256 << 20
DAY_BYTES = 4_096_000 // 8 * 86_400  # of one camera as assumed


def config() -> Config:
    installation = {"uuid": str(uuid.uuid4()), "name": "x", "trial": False}
    return Config(installation=installation, volume=[{"number": 1, "path": Path("v")}])


def store(days_of_one_camera: float) -> SimpleNamespace:
    slots = int(days_of_one_camera * DAY_BYTES / SLOT)
    volume = SimpleNamespace(slot_count=slots, slot_size_bytes=SLOT)
    return SimpleNamespace(volumes={1: volume}, has_index=lambda uid: False)


def camera(number: int, retention: str = "R30") -> Camera:
    return Camera(f"c{number}", bytes(16), "rtsp://h/", 8, "road", None, retention, "tcp", 0)


def admitted(days: float, enrolled: list[Camera], wanted: list[str]) -> bool:
    found = capacity_plan(config(), store(days), enrolled, wanted, None)
    if found.admitted:
        require_admitted(found)
        return True
    with pytest.raises(CapacityError) as caught:
        require_admitted(found)
    assert caught.value.unit == "days" and "days" in str(caught.value)
    return False


def test_thirty_days_and_the_margin_decide() -> None:
    assert admitted(36, [], ["R30"])
    assert not admitted(31, [], ["R30"])


def test_those_already_enrolled_count() -> None:
    enrolled = [camera(n) for n in range(9)]
    assert admitted(360, enrolled, ["R30"])
    assert not admitted(360, enrolled, ["R30"] * 5)


def test_a_longer_period_needs_more() -> None:
    assert admitted(72, [camera(1)], ["R30"])
    assert not admitted(72, [camera(1)], ["R90-AT"])
    assert not admitted(72, [replace(camera(1), retention="R90-AT")], ["R30"])


def test_what_arrives_now_counts_when_it_is_more_than_assumed() -> None:
    feed = SimpleNamespace(camera_id="c1", bitrate_bps=40_960_000.0)
    view = SimpleNamespace(snapshot=SimpleNamespace(feeds=[feed]))
    report = SimpleNamespace(workers=[view])
    quiet = capacity_plan(config(), store(80), [camera(1)], ["R30"], None)
    busy = capacity_plan(config(), store(80), [camera(1)], ["R30"], report)
    assert quiet.admitted and not busy.admitted
