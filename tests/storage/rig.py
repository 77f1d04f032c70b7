"""A small installation in a temporary directory, and fragments to fill it with."""

from __future__ import annotations

import hashlib
import random
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from cext.arena import ArenaPool, Fragment
from cext.record import verify_record
from storage.base.clock import SimulatedClock
from storage.base.disk import Disk
from storage.base.retention import R30, TRIAL, RetentionClass
from storage.base.timebase import TimeRange
from storage.index.format import FLAG_GAP
from storage.layout import InstallationPaths
from storage.recorder import CameraWriter, FragmentMeta, Recorder, RecorderEvent, RecorderSettings
from storage.store import Store, VolumeConfig
from storage.volume.create import create_volume

INSTALLATION = uuid.UUID(int=0x52494E47).bytes
ALL_TIME = TimeRange(-(1 << 62), 1 << 62)
SLOT_BYTES = 1 << 20


@dataclass
class Rig:
    """Volumes 1..n under ``root``; open() and recorder() may be called again after a crash."""

    root: Path
    volumes: int = 1
    slots: int = 12
    slot_bytes: int = SLOT_BYTES
    trial: bool = True
    disk: Disk | None = None
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    events: list[RecorderEvent] = field(default_factory=list)
    pool: ArenaPool = field(default_factory=lambda: ArenaPool(256 << 20))

    def create(self) -> Rig:
        for number in range(1, self.volumes + 1):
            create_volume(
                self.path(number),
                number=number,
                installation_uuid=INSTALLATION,
                size_bytes=self.slots * (self.slot_bytes + 64) + (1 << 16),
                slot_size_bytes=self.slot_bytes,
                trial=self.trial,
                created_ns=self.clock.utc_ns(),
                disk=self.disk,
            )
        (self.root / "home").mkdir()
        return self

    def path(self, number: int = 1) -> Path:
        return self.root / f"volume{number}"

    @property
    def retention(self) -> RetentionClass:
        return TRIAL if self.trial else R30

    def open(self, *, write: bool = True, exclusive: bool = False) -> Store:
        return Store.open(
            InstallationPaths(self.root / "home"),
            INSTALLATION,
            [VolumeConfig(n, self.path(n)) for n in range(1, self.volumes + 1)],
            write=write,
            exclusive=exclusive,
            disk=self.disk,
        )

    def recorder(self, store: Store, *, worker: int = 0, **settings: int) -> Recorder:
        return Recorder(store, worker, self.clock, RecorderSettings(**settings), self.events.append)

    def fragment(self, rng: random.Random, *, frames: int = 3, frame_bytes: int = 9000) -> Fragment:
        now_ns = self.clock.utc_ns()
        samples = []
        for n in range(frames):
            size = rng.randrange(frame_bytes // 2, frame_bytes)
            nal = bytes([0x65 if n == 0 else 0x41]) + noise(rng, size)
            sample = len(nal).to_bytes(4, "big") + nal
            samples.append((sample, n * 3600, now_ns + n * 40_000_000, 1 if n == 0 else 0))
        return Fragment.from_samples(self.pool, 1, 90_000, samples)

    def submit(self, camera: CameraWriter, fragment: Fragment, *, config_id: int = 1) -> bool:
        start_ns = max(self.clock.utc_ns(), camera.last_end_ns)
        return camera.submit(fragment, meta(start_ns, config_id=config_id))


def noise(rng: random.Random, size: int) -> bytes:
    """Bytes nobody else has; quick to make."""
    return (rng.randbytes(509) * (size // 509 + 1))[:size]


def meta(start_ns: int, *, duration_ns: int = 120_000_000, config_id: int = 1) -> FragmentMeta:
    return FragmentMeta(
        start_ns=start_ns,
        end_ns=start_ns + duration_ns,
        camera_ns=0,
        camera_offset_ns=0,
        run_id=1,
        width=1920,
        height=1080,
        flags=0,
        codec_config=b"\x01avcC" * 3,
        codec_config_id=config_id,
        recv_quantum_ns=0,
    )


def uid(n: int) -> bytes:
    return uuid.UUID(int=0xCA0000 + n).bytes


@dataclass(frozen=True)
class Stored:
    """One entry as a reader finds it; ``digest`` of the payload, None for a gap."""

    start_ns: int
    place: tuple[int, int, int, int]
    stream_sequence: int
    digest: bytes | None
    cause: int


def read_back(store: Store, camera_uid: bytes) -> list[Stored]:
    """Everything the index lists of a camera, every record verified in full (or it raises)."""
    index = store.index(camera_uid)
    try:
        rows = index.find(ALL_TIME).rows
    finally:
        index.close()
    found = []
    for row in rows:
        volume = store.volumes[int(row["volume_number"])]
        slot, block = int(row["slot"]), int(row["offset_blocks"])
        data = volume.read(slot, block * 4096, int(row["record_bytes"]))
        header = verify_record(data, full=True)
        place = (volume.number, slot, int(row["generation"]), block)
        assert (header.volume_uuid, header.slot, header.generation) == (volume.uuid, *place[1:3])
        assert (header.offset_blocks, header.camera_uid) == (block, camera_uid)
        gap = bool(int(row["flags"]) & FLAG_GAP)
        assert gap == header.is_gap
        payload = data[header.header_bytes : header.header_bytes + header.payload_bytes]
        digest = None if gap else hashlib.sha256(payload).digest()
        cause = int(row["flags"]) >> 8
        found.append(Stored(int(row["start_ns"]), place, header.stream_sequence, digest, cause))
    return found
