"""Goal: kill -9 at any moment loses nothing that was ever visible, and recording just goes on.

A child records at full speed and names every entry a reader can see; it is killed at random times.
After each kill: recover, then every entry named so far whose slot was not reused since is found,
verifies in full, and holds the very bytes that camera and sequence stand for.
RINGVAULT_KILLS and RINGVAULT_SEED choose how many rounds and which.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.base.clock import SystemClock
from storage.check import Level, fsck
from storage.store import recover
from tests.crash.synthetic import samples
from tests.storage.rig import Rig, read_back, uid

KILLS = int(os.environ.get("RINGVAULT_KILLS", "30"))
SEED = int(os.environ.get("RINGVAULT_SEED", "20260504"))
CAMERAS = 4
REPOSITORY = Path(__file__).resolve().parents[2]

Place = tuple[int, int, int, int]


def run_and_kill(root: Path, seconds: float) -> list[tuple[int, Place, int]]:
    """What the child said was visible: (camera, place, start_ns). Fails if it says nothing."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.recorder_child", str(root), str(CAMERAS)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stderr is not None
    first = child.stdout.readline()
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    rest, errors = child.communicate(timeout=30)
    assert first, f"the child recorded nothing: {errors.decode()}"
    lines = (first + rest).decode().splitlines(keepends=True)
    told = []
    for line in lines:
        if line.endswith("\n"):  # the last one may be cut off by the kill
            camera, _, *place, start_ns = map(int, line.split())
            told.append((camera, (place[0], place[1], place[2], place[3]), start_ns))
    return told


@pytest.mark.timeout(120 + 12 * KILLS)
def test_kill_9_loses_nothing_visible(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    Rig(tmp_path, slots=24, slot_bytes=4 << 20, trial=True).create()
    visible: dict[tuple[int, Place], int] = {}
    reused = verified = 0
    for round_number in range(KILLS):
        told = run_and_kill(tmp_path, rng.uniform(0.0, 0.7))
        assert told, f"RINGVAULT_SEED={SEED} round {round_number}: nothing recorded"
        visible.update({(camera, place): start_ns for camera, place, start_ns in told})
        store = Rig(tmp_path, trial=True).open()
        recover(store, SystemClock(store.mark()))
        for camera in range(CAMERAS):
            entries = read_back(store, uid(camera))
            assert [one.start_ns for one in entries] == sorted(one.start_ns for one in entries)
            by_place = {one.place: one for one in entries}
            assert len({one.stream_sequence for one in entries}) == len(entries)
            for one in entries:
                if one.digest is not None:
                    expected = b"".join(samples(camera, one.stream_sequence))
                    assert one.digest == hashlib.sha256(expected).digest()
                    verified += 1
            for (owner, place), start_ns in list(visible.items()):
                if owner != camera:
                    continue
                if store.volumes[1].table.generation(place[1]) != place[2]:
                    del visible[(owner, place)]  # TRIAL: the ring turned
                    reused += 1
                    continue
                assert place in by_place, (
                    f"RINGVAULT_SEED={SEED} round {round_number}: camera {camera} lost {place}"
                )
                assert by_place[place].start_ns == start_ns
        report = fsck(store, Level.HEADERS)
        assert report.clean, report.findings
        store.close()
    assert verified > KILLS, "the child was too slow to show anything"
