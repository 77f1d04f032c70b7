"""One worker's recording machinery in this process: store, recorder, cameras fed from footage.

Owns making volumes, submitting real access units as fragments, and reading back what became
visible. For tests that break disks; those that break cameras use sessions over TCP instead.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cext.arena import ArenaPool, Fragment
from gateway.legal.grants import sign
from gateway.media.codec import Codec
from gateway.media.parameter_sets import codec_config
from gateway.simulate.footage import CLOCK_RATE, Footage, load_footage
from gateway.simulate.shipped import CAR_PARK_H264
from storage.audit.events import AuditEvent
from storage.base.clock import SystemClock
from storage.base.disk import Disk
from storage.base.gap import Gap, GapCause
from storage.base.grant import ExtractionGrant, Official
from storage.base.retention import TRIAL, RetentionClass
from storage.base.timebase import HOUR_NS, MINUTE_NS, SECOND_NS, TimeRange
from storage.clip.reader import Clip, ClipReader
from storage.index.format import FLAG_GAP, gap_causes, row_ends_ns
from storage.layout import InstallationPaths
from storage.recorder import CameraWriter, FragmentMeta, Recorder, RecorderEvent, RecorderSettings
from storage.store import Store, VolumeConfig, recover
from storage.volume.create import create_volume
from tests.acceptance.watch import FAR_NS, Seen, check, hashes_of, visible_entries

MIB = 1 << 20
FRAMES_A_FRAGMENT = 10
FRAME_NS = 2 * SECOND_NS // 25  # the footage that ships has 12.5 frames a second
COMMIT_INTERVAL_NS = SECOND_NS // 5
POOL = ArenaPool(256 * MIB)


@dataclass(slots=True)
class Ground:
    """An installation's directory with volumes ``1..n``; nothing runs on it."""

    root: Path
    installation_uuid: bytes = field(default_factory=lambda: uuid.uuid4().bytes)
    volumes: list[VolumeConfig] = field(default_factory=list)

    @property
    def paths(self) -> InstallationPaths:
        return InstallationPaths(self.root)

    def add_volume(
        self,
        *,
        path: Path | None = None,
        slots: int = 8,
        slot_bytes: int = MIB,
        trial: bool = True,
        disk: Disk | None = None,
    ) -> VolumeConfig:
        """One more volume of exactly ``slots`` slots."""
        number = len(self.volumes) + 1
        made = VolumeConfig(number, path or self.root / f"volume{number}")
        self.root.mkdir(parents=True, exist_ok=True)
        self.paths.index.mkdir(exist_ok=True)
        create_volume(
            made.path,
            number=number,
            installation_uuid=self.installation_uuid,
            size_bytes=slots * (slot_bytes + 64) + 16 * 4096,
            created_ns=time.time_ns(),
            slot_size_bytes=slot_bytes,
            trial=trial,
            disk=disk,
        )
        self.volumes.append(made)
        return made

    def image(self, root: Path) -> Ground:
        """What a crash would leave behind now: a copy of every file. Volumes must lie inside."""
        shutil.copytree(self.root, root, symlinks=True)
        moved = [VolumeConfig(v.number, root / v.path.relative_to(self.root)) for v in self.volumes]
        return Ground(root, self.installation_uuid, moved)

    def open(self, *, write: bool = False, disk: Disk | None = None) -> Store:
        """Its store. Raises what Store.open raises."""
        return Store.open(self.paths, self.installation_uuid, self.volumes, write=write, disk=disk)


class Camera:
    """Footage that is submitted piece by piece, at the times it would have been received."""

    def __init__(self, writer: CameraWriter, footage: Footage, start_ns: int) -> None:
        self.writer = writer
        self.footage = footage
        self._start_ns = start_ns
        self._at = 0
        self._sets = footage.parameter_sets
        config = codec_config(Codec(int(footage.codec)), self._sets)
        self._config = (config.width, config.height, config.config_bytes)

    @property
    def uid(self) -> bytes:
        return self.writer.stream.uid

    @property
    def frames_submitted(self) -> int:
        return self._at

    def feed(self, fragments: int) -> int:
        """Submit the next fragments; how many were taken. The others are lost, as queue_full."""
        return sum(self._feed_one() for _ in range(fragments))

    def _feed_one(self) -> bool:
        units = self.footage.access_units
        ticks = self.footage.loop_ticks
        rows = []
        for number in range(self._at, self._at + FRAMES_A_FRAGMENT):
            turn, place = divmod(number, len(units))
            rtp = units[place].presentation_ticks + turn * ticks
            recv_ns = self._start_ns + rtp * SECOND_NS // CLOCK_RATE
            rows.append((units[place].sample, rtp, recv_ns, int(units[place].key)))
        start_ns, end_ns = rows[0][2], rows[-1][2] + FRAME_NS
        fragment = Fragment.from_samples(
            POOL, int(self.footage.codec), CLOCK_RATE, rows, parameter_sets=self._sets
        )
        self._at += FRAMES_A_FRAGMENT
        width, height, config_bytes = self._config
        meta = FragmentMeta(
            start_ns=start_ns,
            end_ns=end_ns,
            camera_ns=0,
            camera_offset_ns=0,
            run_id=1,
            width=width,
            height=height,
            flags=0,
            codec_config=config_bytes,
            codec_config_id=1,
            recv_quantum_ns=0,
        )
        taken = self.writer.submit(fragment, meta)
        if not taken:
            fragment.release()
            self.writer.submit_gap(Gap(start_ns, end_ns, GapCause.QUEUE_FULL))
        return taken


class Works:
    """A recorder at work on a ground."""

    def __init__(self, store: Store, recorder: Recorder, events: list[RecorderEvent]) -> None:
        self.store = store
        self.recorder = recorder
        self.events = events
        self._footage = load_footage(CAR_PARK_H264)

    def camera(self, camera_id: str, retention: RetentionClass = TRIAL) -> Camera:
        """A camera of its own, recorded from now on."""
        uid = uuid.uuid5(uuid.NAMESPACE_DNS, camera_id).bytes
        writer = self.recorder.open_camera(uid, camera_id, retention)
        # The footage is submitted faster than it plays: nothing of it may lie in the future.
        start_ns = max(time.time_ns() - 10 * MINUTE_NS, writer.last_end_ns)
        return Camera(writer, self._footage, start_ns)

    def settle(self, camera: Camera, timeout_s: float = 10.0) -> None:
        """Wait until all that was submitted is visible, or recorded as lost."""
        deadline = time.monotonic() + timeout_s
        while not camera.writer.stream.idle:
            assert time.monotonic() < deadline, f"{camera.writer.stream.camera_id} does not settle"
            time.sleep(0.01)

    def events_of(self, kind: type[RecorderEvent]) -> list[RecorderEvent]:
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.contextmanager
def working(
    ground: Ground,
    *,
    disk: Disk | None = None,
    lanes: int = 1,
    queue_bytes_max: int = 64 * MIB,
) -> Iterator[Works]:
    """Recover, then record; a clean stop at the end, also when the test failed."""
    events: list[RecorderEvent] = []
    with ground.open(write=True, disk=disk) as store:
        clock = SystemClock(store.mark())
        recover(store, clock)
        settings = RecorderSettings(
            commit_interval_ns=COMMIT_INTERVAL_NS, queue_bytes_max=queue_bytes_max, lanes=lanes
        )
        recorder = Recorder(store, 0, clock, settings, events.append)
        recorder.start()
        try:
            yield Works(store, recorder, events)
        finally:
            stopped = recorder.stop(10)
        assert stopped, "the recorder did not stop in time"


@dataclass(frozen=True, slots=True)
class Visible:
    """What a reader finds of a camera: entries whose record verifies, and its gaps."""

    fragments: tuple[Seen, ...]
    gaps: tuple[tuple[GapCause, int, int], ...]
    frames: int


def look(ground: Ground, uid: bytes, footage: Footage | None = None) -> Visible:
    """Open the store as a reader would; every visible fragment must verify."""
    known = hashes_of(footage or load_footage(CAR_PARK_H264))
    with ground.open() as store:
        entries = visible_entries(store, uid, -FAR_NS)
        frames = 0
        for seen in entries:
            header = check(store, seen, known)
            frames += header.frame_count if not seen.gap else 0
        return Visible(tuple(s for s in entries if not s.gap), _gaps(store, uid), frames)


@dataclass(frozen=True, slots=True)
class Cut:
    """A clip with its bytes, and what was written to the audit log for it."""

    clip: Clip
    data: bytes
    audited: tuple[AuditEvent, ...]


def cut(store: Store, camera_id: str, uid: bytes, wanted: TimeRange) -> Cut:
    """A whole clip against a grant signed here. Raises what ClipReader raises."""
    key = Ed25519PrivateKey.generate()
    now_ns = time.time_ns()
    grant = ExtractionGrant(
        grant_id=str(uuid.uuid4()),
        installation_uuid=store.installation_uuid,
        cameras=(camera_id,),
        start_ns=wanted.start_ns,
        end_ns=wanted.end_ns,
        action="copy",
        document_no="TEST-1",
        officials=(Official("Ann", "1001"), Official("Ben", "1002")),
        issued_ns=now_ns,
        expires_ns=now_ns + HOUR_NS,
        trial=store.volumes[1].trial,
    )
    audited: list[AuditEvent] = []

    def audit(event: AuditEvent) -> int:
        audited.append(event)
        return len(audited) - 1

    clip = ClipReader.open(
        sign(grant, key),
        camera_id,
        uid,
        store=store,
        verify_key=key.public_key(),
        installation_uuid=store.installation_uuid,
        clock=SystemClock(),
        audit=audit,
    )
    data = b"".join(clip.read(0, clip.size_bytes))
    assert len(data) == clip.size_bytes
    return Cut(clip, data, tuple(audited))


def _gaps(store: Store, uid: bytes) -> tuple[tuple[GapCause, int, int], ...]:
    index = store.index(uid)
    try:
        rows = index.find(TimeRange(-FAR_NS, FAR_NS)).rows
    finally:
        index.close()
    gap_rows = rows[(rows["flags"] & FLAG_GAP) != 0]
    return tuple(
        (GapCause(cause), int(start), int(end))
        for cause, start, end in zip(
            gap_causes(gap_rows).tolist(), gap_rows["start_ns"], row_ends_ns(gap_rows), strict=True
        )
    )


def causes(visible: Visible) -> Mapping[GapCause, int]:
    """How long each cause kept us from recording, ns."""
    out: dict[GapCause, int] = {}
    for cause, start_ns, end_ns in visible.gaps:
        out[cause] = out.get(cause, 0) + end_ns - start_ns
    return out
