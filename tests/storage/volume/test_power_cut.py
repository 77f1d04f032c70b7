"""Goal: after a power cut at any operation, nothing that was visible is lost or torn (V1, V2, I5).

Each round records on a disk model, cuts the power at a random operation, applies a random
outcome of the unsynced writes, recovers, and compares with what had been published.
RINGVAULT_CUTS and RINGVAULT_SEED choose how many and which.
"""

import hashlib
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.base.gap import Gap, GapCause
from storage.base.timebase import DAY_NS, HOUR_NS
from storage.check import Level, fsck
from storage.recorder import CameraWriter, Recorder
from storage.store import Store, recover
from storage.volume.pending import DurableRecord
from tests.storage.fault_disk import FaultDisk, PowerCut, cut_at
from tests.storage.rig import Rig, read_back, uid

CUTS = int(os.environ.get("RINGVAULT_CUTS", "204"))
CUTS_PER_VOLUME = 12
CAMERAS = 3


class Witness:
    """What was published, by camera and sequence: place, end, digest of the payload."""

    def __init__(self) -> None:
        self.digests: dict[tuple[bytes, int], bytes] = {}
        self.published: dict[tuple[bytes, int], tuple[tuple[int, int, int, int], int, bool]] = {}

    def watch(self, camera: CameraWriter) -> None:
        publish = camera.publish

        def publish_and_note(records: Sequence[DurableRecord]) -> None:
            publish(records)
            for one in records:
                record = one.record
                key = (record.camera_uid, record.stream_sequence)
                place = (one.volume_number, one.slot, one.generation, record.offset_blocks)
                self.published[key] = (place, record.end_ns, record.kind == 2)

        camera.publish = publish_and_note  # type: ignore[method-assign]

    def check(self, store: Store, trusted_ns: int) -> int:
        """Every published record is there unless its slot was lawfully reused. How many are."""
        found = {
            (camera_uid, one.stream_sequence): one
            for camera_uid in {key[0] for key in self.published}
            for one in read_back(store, camera_uid)
        }
        kept = 0
        for key, (place, end_ns, gap) in self.published.items():
            generation = store.volumes[place[0]].table.generation(place[1])
            if generation != place[2]:
                assert end_ns + 30 * DAY_NS < trusted_ns, f"floor broken for {key}"
                continue
            assert key in found, f"{key} was visible at {place} and is gone"
            one = found[key]
            assert one.place == place
            if not gap:
                assert one.digest == self.digests[key]
            kept += 1
        return kept


def record_until_cut(
    rig: Rig, disk: FaultDisk, store: Store, recorder: Recorder, witness: Witness, seed: int
) -> None:
    rng = random.Random(seed)
    cameras = []
    for n in range(CAMERAS):
        camera = recorder.open_camera(uid(n), f"camera-{n}", rig.retention)
        witness.watch(camera)
        cameras.append(camera)
    # The first rounds of a volume fill it; later ones turn the ring, by days that pass.
    for step in range(400):
        full = bool(recorder.stats().volumes[0].blocked)
        rig.clock.advance(5 * DAY_NS if full else rng.randrange(1, 5) * HOUR_NS)
        for camera in cameras:
            for _ in range(rng.randrange(3)):
                if rng.random() < 0.1:
                    start_ns = max(camera.last_end_ns, rig.clock.utc_ns())
                    assert camera.submit_gap(Gap(start_ns, start_ns + 5, GapCause.STALL))
                    continue
                sequence = camera.next_sequence
                fragment = rig.fragment(rng, frames=2, frame_bytes=90_000)
                witness.digests[(camera.stream.uid, sequence)] = hashlib.sha256(
                    fragment.payload()
                ).digest()
                assert rig.submit(camera, fragment)
        recorder.writers[0].tick()
        if step % 9 == 5:
            recorder.checkpoint()
        if rng.random() < 0.02:
            store.persist_trusted(store.mark())


@pytest.mark.parametrize("volume", range(-(-CUTS // CUTS_PER_VOLUME)))
def test_power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, volume: int) -> None:
    seed = int(os.environ.get("RINGVAULT_SEED", "20260504")) + volume
    sys.stdout.write(f"RINGVAULT_SEED={seed - volume} volume={volume}\n")
    rng = random.Random(seed)
    disk = FaultDisk()
    rig = Rig(tmp_path, slots=10, trial=False, disk=disk).create()
    disk.watch_index(monkeypatch)
    # Small rings, so that they wrap and grow within a test.
    monkeypatch.setattr("storage.store.capacity_for", lambda days: 64)
    witness = Witness()
    kept = 0
    for _ in range(CUTS_PER_VOLUME):
        disk.fail = lambda operation, path: None
        store = rig.open()
        report = recover(store, rig.clock)
        assert not report.findings or all(one.kind == "table_entry" for one in report.findings)
        # A superblock copy may be torn; the next start of serve writes all four (V9).
        found = fsck(store, Level.HEADERS).findings
        assert {one.kind for one in found} <= {"superblock_copy"}, found
        kept = witness.check(store, rig.clock.trusted_ns())
        for camera_uid in (uid(n) for n in range(CAMERAS)):
            if store.has_index(camera_uid):
                entries = read_back(store, camera_uid)  # verifies every one: none is torn
                starts = [one.start_ns for one in entries]
                assert starts == sorted(starts)
                assert len({one.stream_sequence for one in entries}) == len(entries)
        recorder = rig.recorder(store)
        recorder._adopted.find()
        cut_at(disk, rng.randrange(1, 120))
        with pytest.raises(PowerCut):
            record_until_cut(rig, disk, store, recorder, witness, rng.randrange(1 << 30))
        disk.fail = lambda operation, path: None
        for camera in recorder._cameras.values():
            camera._index.abandon()
        store.close()
        disk.cut(rng)
    assert kept > 0, "no record outlived a cut: the test shows nothing"
