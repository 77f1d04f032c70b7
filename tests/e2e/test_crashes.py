"""Goal: whatever process dies, what was visible stays, recording goes on, no step by hand is
needed.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.node import Node, Simulator, alive, here, moment, ringvault, succeed

NAMES = ("a", "b")


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory, simulator: Simulator) -> Iterator[Node]:
    """A node of its own, with one worker, that these tests kill and start again."""
    made = Node(tmp_path_factory.mktemp("frail") / "city")
    for name, url in zip(NAMES, simulator.urls, strict=False):
        made.add(name, url)
    made.serve()
    try:
        made.until_recording(*NAMES)
        yield made
    finally:
        made.stop()


def sidecar(node: Node, start: datetime, end: datetime, name: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {node.grant(start, end, name)}"}
    answer = httpx.get(f"{node.address}/v1/clips/{name}.json", headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def settled(node: Node) -> tuple[datetime, datetime, dict[str, str]]:
    """A range that is recorded and visible, and each camera's clip of it by entity tag."""
    start = moment()
    time.sleep(3.0)
    end = start + timedelta(seconds=1)
    return start, end, {name: sidecar(node, start, end, name)["etag"] for name in NAMES}


def unharmed(node: Node, before: tuple[datetime, datetime, dict[str, str]]) -> None:
    start, end, tags = before
    for name in NAMES:
        found = sidecar(node, start, end, name)
        assert found["etag"] == tags[name] and found["gaps"] == []


def test_a_killed_worker_comes_back_and_the_outage_is_on_record(frail: Node) -> None:
    before = settled(frail)
    killed = moment()
    os.kill(frail.children()["worker0"], signal.SIGKILL)
    frail.until_recording(*NAMES)
    unharmed(frail, before)
    time.sleep(2.0)
    found = sidecar(frail, killed - timedelta(seconds=2), moment(-2.0), "a")
    causes = {gap["cause"] for gap in found["gaps"]}
    assert causes == {"recorder_restart"}
    assert frail.status()["health"]["ok"]
    assert any(e["type"] == "recovered" and "worker 0" in e["detail"] for e in frail.audit())


def test_a_killed_api_comes_back_and_recording_does_not_notice(frail: Node) -> None:
    before = settled(frail)
    gaps = {name: frail.camera(name)["gaps_today"] for name in NAMES}
    address, old = frail.address, frail.children()["api"]
    os.kill(old, signal.SIGKILL)
    # The listening socket is the supervisor's: a client that comes now waits, and is answered.
    assert httpx.get(f"{address}/healthz", timeout=30).status_code == 200
    assert frail.children()["api"] != old
    unharmed(frail, before)
    assert {name: frail.camera(name)["gaps_today"] for name in NAMES} == gaps


def test_after_a_killed_supervisor_nothing_is_left_and_the_next_one_goes_on(frail: Node) -> None:
    before = settled(frail)
    children = frail.children()
    assert set(children) == {"worker0", "api"} and frail.serving is not None
    frail.serving.kill()
    started = time.monotonic()
    # At once: it has to wait for the orphans by itself.
    frail.serve()
    assert not any(alive(pid) for pid in children.values())
    frail.until_recording(*NAMES)
    assert time.monotonic() - started < 30
    unharmed(frail, before)


def test_everything_killed_at_once_is_recovered_without_help(frail: Node) -> None:
    before = settled(frail)
    assert frail.serving is not None
    victims = [frail.serving.pid, *frail.children().values()]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    frail.serving.process.wait()
    assert (frail.root / "run" / "control.sock").exists(), "a stale socket is in the way"
    frail.serve()
    frail.until_recording(*NAMES)
    unharmed(frail, before)
    sealed = [e for e in frail.audit() if e["type"] == "slot_sealed"]
    keys = {(e["volume_uuid"], e["slot"], e["generation"]) for e in sealed}
    assert len(keys) == len(sealed) > 0, "each seal is entered once"


def test_a_clean_stop_is_quick_and_leaves_nothing_to_recover(frail: Node) -> None:
    before = settled(frail)
    assert frail.serving is not None
    children = frail.children()
    assert frail.serving.stop(signal.SIGINT) < 10
    assert frail.serving.process.returncode == 0
    assert not any(alive(pid) for pid in children.values())
    assert not (frail.root / "run" / "control.sock").exists()
    frail.serve()
    assert frail.status()["recovery"].startswith("0 slots read")
    frail.until_recording(*NAMES)
    unharmed(frail, before)


def test_at_the_end_the_disks_hold_what_they_should(frail: Node, tmp_path: Path) -> None:
    start = moment()
    frail.until_recording(*NAMES)
    assert frail.serving is not None and frail.serving.stop(signal.SIGTERM) < 10
    assert frail.serving.process.returncode == 0
    done = here("fsck", "--level", "full", "--json", "--config", frail.config)
    assert done.returncode == 0, done.stdout
    succeed("index", "rebuild", "--config", frail.config)
    (tmp_path / "g").write_text(frail.grant(start - timedelta(seconds=5), start, "a"))
    target = tmp_path / "clip.mp4"
    succeed("clip", "--grant", tmp_path / "g", "--out", target, "--config", frail.config)
    assert target.stat().st_size > 10_000
    assert here("fsck", "--json", "--config", frail.config).returncode == 0


def test_a_port_in_use_is_told_before_anything_is_touched(frail: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = frail.config.read_text()
        frail.config.write_text(text.replace("http_port = 0", f"http_port = {port}"))
        done = ringvault("serve", "--config", frail.config)
        frail.config.write_text(text)
    assert done.returncode == 1
    assert any(line.startswith("HTTP_ADDRESS: ") for line in done.stderr.splitlines())
