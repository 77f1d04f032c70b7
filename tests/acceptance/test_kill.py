"""Goal: kill -9 of any process, again and again, loses nothing that was ever visible.

A small installation records simulated cameras with two workers while the test kills a worker, the
API process, the supervisor, or all at once, at random moments. A watcher outside reads the indexes
all the time (`watch`). After each kill the recording must go on by itself: the supervisor restarts
its children, and when it was the supervisor, `ringvault serve` is started again and nothing else is
done. Then every entry that was ever visible must be visible and verify, and a clip over HTTP must
hold access units that the camera sent, and none else.

``RINGVAULT_KILLS`` (default 12) says how often, ``RINGVAULT_SEED`` which moments and victims; both
are printed with a failure.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.installation import open_store
from gateway.simulate.camera import SimulatedCameras
from gateway.simulate.footage import load_footage
from gateway.simulate.shipped import CAR_PARK_H264, CAR_PARK_H265
from storage.audit.events import SlotSealed
from storage.audit.log import AuditLog
from storage.base.gap import GapCause
from storage.base.timebase import SECOND_NS, TimeRange
from storage.index.coverage import coverage
from storage.store import Store
from tests.acceptance import oracle
from tests.acceptance.city import (
    MIB,
    Cameras,
    City,
    car_park,
    enrol,
    grant_token,
    kill,
    make_installation,
    serving,
    wait_for,
)
from tests.acceptance.watch import Watcher, hashes_of

KILLS = int(os.environ.get("RINGVAULT_KILLS", "12"))
SEED = int(os.environ.get("RINGVAULT_SEED", "20261124"))
CAMERAS = 4
WORKERS = 2
SLOT_BYTES = 2 * MIB
# Each kill may leave a nearly empty slot a worker and lane; nothing may be overwritten here, so
# that everything remembered can be asked for again at the end.
VOLUME_BYTES = 256 * MIB + KILLS * 8 * SLOT_BYTES
VICTIMS = ("worker", "worker", "api", "supervisor", "everything")
CLIP_NS = 4 * SECOND_NS
RESUME_S = 30.0


@dataclass(slots=True)
class Tally:
    """What the run amounted to; printed at the end."""

    kills: dict[str, int]
    verified: int = 0
    clips: int = 0
    clip_frames: int = 0
    resume_worst_s: float = 0.0


class Drill:
    """One city under fire."""

    def __init__(
        self, city: City, sim: SimulatedCameras, uids: dict[str, bytes], watcher: Watcher
    ) -> None:
        self.city = city
        self.sim = sim
        self.uids = uids
        self.watcher = watcher
        self.random = random.Random(SEED)
        self.tally = Tally(dict.fromkeys(sorted(set(VICTIMS)), 0))

    def strike(self) -> None:
        """One kill and all that must hold after it."""
        time.sleep(self.random.uniform(0.0, 1.0))
        victim = self.random.choice(VICTIMS)
        self.tally.kills[victim] += 1
        killed_ns = self._kill(victim)
        began = time.monotonic()
        self.wait_recording(victim, killed_ns)
        self.tally.resume_worst_s = max(self.tally.resume_worst_s, time.monotonic() - began)
        assert not self.watcher.faults, "\n".join(self.watcher.faults[:5])
        self.tally.verified += self.watcher.check_all()
        self.fetch_clip(self.random.choice(sorted(self.uids)))

    def _kill(self, victim: str) -> int:
        pids = self.city.pids_by_tree()
        assert pids.supervisor and pids.api and len(pids.workers) == WORKERS, pids
        chosen = {
            "worker": (self.random.choice(pids.workers),),
            "api": (pids.api,),
            "supervisor": (pids.supervisor,),
            "everything": pids.all(),
        }[victim]
        kill(chosen)
        killed_ns = time.time_ns()
        if pids.supervisor in chosen:
            self.city.wait_gone()
            self.city.start()
        else:
            wait_for(f"{victim} to be gone", lambda: not _alive(chosen[0]))
        return killed_ns

    def wait_recording(self, victim: str, killed_ns: int) -> None:
        """Every process runs, and of every camera something newer than the kill is visible."""

        def recording() -> bool:
            pids = self.city.pids_by_tree()
            return len(pids.workers) == WORKERS and all(
                self.watcher.newest_fragment_ns(uid) > killed_ns for uid in self.uids.values()
            )

        wait_for(f"recording to go on after {victim} was killed", recording, RESUME_S)
        wait_for("the API to answer", self._api_answers, RESUME_S)

    def _api_answers(self) -> bool:
        if not self.city.pids_by_tree().api:
            return False
        try:
            return self.city.get("/healthz", timeout_s=5)[0] in (200, 503)
        except OSError:
            return False

    def fetch_clip(self, camera_id: str) -> None:
        """A window that ends with the newest footage, over HTTP: only what the camera sent.

        The newest may be all there is in it: the time before it is then the kill.
        """
        newest_ns = self.watcher.newest_fragment_ns(self.uids[camera_id])
        window = (newest_ns - CLIP_NS, newest_ns + SECOND_NS)
        token = grant_token(self.city.installation, (camera_id,), *window)
        status, headers, body = self.city.get(f"/v1/clips/{camera_id}.mp4", token)
        assert status == 200, (status, body[:500])
        assert len(body) == int(headers["content-length"])
        clip = self.city.installation.paths.root / "clip.mp4"
        clip.write_bytes(body)
        known = hashes_of(self.sim.footage_of(int(camera_id.removeprefix("cam"))))
        samples = oracle.read_track(clip).samples
        assert samples, "a clip of footage that is visible has frames"
        for sample in samples:
            data = b"".join(len(nal).to_bytes(4, "big") + nal for nal in sample.nal_units)
            assert hashlib.sha256(data).digest() in known, "a clip holds a torn access unit"
        self.tally.clips += 1
        self.tally.clip_frames += len(samples)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.timeout(120 + 20 * KILLS)
def test_kill_of_any_process_loses_nothing_that_was_visible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    footage = [load_footage(CAR_PARK_H264), load_footage(CAR_PARK_H265)]
    settings = replace(car_park(CAMERAS), session_timeout_s=5)
    installation = make_installation(
        tmp_path / "city",
        volume_bytes=VOLUME_BYTES,
        slot_bytes=SLOT_BYTES,
        workers=WORKERS,
        settings={"commit_interval_ms": 400, "retry_first_s": 0.2, "retry_max_s": 1, "lanes": 1},
    )
    with Cameras(footage, settings) as sim:
        ids = [f"cam{number}" for number in range(CAMERAS)]
        uids = enrol(installation, {name: sim.url(n) for n, name in enumerate(ids)})
        known = {uids[name]: hashes_of(sim.footage_of(n)) for n, name in enumerate(ids)}
        city = City(installation, tmp_path / "serve.log")
        began_ns = time.time_ns()
        with serving(city), Watcher(installation, known) as watcher:
            drill = Drill(city, sim, uids, watcher)
            drill.wait_recording("nobody", began_ns)
            for number in range(KILLS):
                try:
                    drill.strike()
                except BaseException as error:
                    error.add_note(f"seed {SEED}, kill {number + 1} of {KILLS}, {drill.tally}")
                    raise
            assert city.stop() == 0, "after all that, a clean stop"
            final = watcher.check_all()
        assert not watcher.faults, "\n".join(watcher.faults[:5])
    _check_what_is_left(city, uids, began_ns)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{KILLS} kills, {final} entries remembered, {city.starts} starts, {drill.tally}\n"
        )


def _check_what_is_left(city: City, uids: dict[str, bytes], began_ns: int) -> None:
    """Stopped: no time without footage is unexplained, and the audit log proves itself and holds
    the seal of every slot once.
    """
    installation = city.installation
    with open_store(installation) as store:
        sealed = _sealed_slots(store)
        for camera_id, uid in uids.items():
            index = store.index(uid)
            first_ns, last_ns = index.oldest_ns, index.newest_ns
            assert first_ns is not None and last_ns is not None and first_ns < began_ns + 30 * 10**9
            told = coverage(index, TimeRange(first_ns, last_ns), last_ns)
            unexplained = [gap for gap in told.gaps if gap.cause is GapCause.UNKNOWN]
            assert not unexplained, f"{camera_id}: {unexplained[:3]}"
            index.close()
    with AuditLog.open(installation.paths.audit) as log:
        log.verify()
        entered = Counter(
            (event.slot, event.generation)
            for entry in log.entries()
            if isinstance(event := entry.event, SlotSealed)
        )
    assert entered == Counter(sealed)


def _sealed_slots(store: Store) -> list[tuple[int, int]]:
    """(slot, generation) of every slot that holds records; none may be open any more."""
    volume = store.volumes[1]
    entries = [(slot, volume.table.get(slot)) for slot in range(volume.slot_count)]
    assert not [slot for slot, entry in entries if entry is not None and entry.open]
    return [(slot, entry.generation) for slot, entry in entries if entry and entry.sealed]
