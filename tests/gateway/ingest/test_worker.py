"""Goal: a worker runs exactly what it is told, disturbs nothing else, and leaves nothing open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.ingest.control import (
    Answer,
    Assign,
    AuditAppend,
    AuditAppended,
    Channel,
    Request,
    StopWorker,
    WorkerReady,
    WorkerSnapshot,
    open_fd,
)
from gateway.ingest.model import CameraSpec, FeedState, FeedStatus
from gateway.ingest.worker import Worker, feed_settings
from gateway.installation import Installation, NewVolume, create_installation, open_store
from gateway.simulate.camera import CameraSettings, SimulatedCameras
from gateway.simulate.footage import load_footage
from gateway.simulate.shipped import CAR_PARK_H264


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    root = tmp_path / "city"
    volume = NewVolume(root / "volume", 256 << 20)
    thresholds = gc.get_threshold()
    yield create_installation(root, [volume], trial=True, name="x", now_ns=1)
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture
async def cameras() -> AsyncIterator[SimulatedCameras]:
    async with SimulatedCameras(load_footage(CAR_PARK_H264), CameraSettings(cameras=3)) as made:
        yield made


def spec(simulated: SimulatedCameras, number: int) -> CameraSpec:
    uid = bytes([number + 1]) * 16
    return CameraSpec(f"c{number}", uid, simulated.url(number), "tcp", "TRIAL")


class Chief:
    """The supervisor's end of the worker's connection."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.snapshot: WorkerSnapshot | None = None
        self.seals: list[bytes] = []
        self.channel: Channel

    async def handle(self, channel: Channel, body: Request) -> Answer | None:
        del channel
        match body:
            case WorkerReady():
                self.ready.set()
            case WorkerSnapshot():
                self.snapshot = body
            case AuditAppend():
                self.seals.append(bytes(body.event))
                return AuditAppended(len(self.seals))
        return None

    async def until_playing(self, *ids: str) -> dict[str, FeedStatus]:
        """The feeds once exactly these play and have stored something since now."""
        async with asyncio.timeout(30):
            self.snapshot = None
            while True:
                await asyncio.sleep(0.1)
                feeds = {f.camera_id: f for f in self.snapshot.feeds} if self.snapshot else {}
                if set(feeds) == set(ids) and all(
                    f.state is FeedState.PLAYING and f.counters["fragments"] for f in feeds.values()
                ):
                    return feeds


@contextlib.asynccontextmanager
async def working(installation: Installation) -> AsyncIterator[tuple[Chief, asyncio.Task[int]]]:
    ours, theirs = socket.socketpair()
    chief = Chief()
    worker = asyncio.ensure_future(Worker(installation, 0, 1, theirs.detach()).run())
    chief.channel = await open_fd(ours.detach(), chief.handle)
    serving = asyncio.ensure_future(chief.channel.run())
    await asyncio.wait_for(chief.ready.wait(), 10)
    try:
        yield chief, worker
    finally:
        chief.channel.close()
        await asyncio.wait_for(worker, 15)
        await serving


async def test_it_runs_what_it_is_told_and_touches_nothing_else(
    installation: Installation, cameras: SimulatedCameras
) -> None:
    async with working(installation) as (chief, worker):
        first, second, third = (spec(cameras, n) for n in range(3))
        await chief.channel.notify(Assign(1, [first, second]))
        before = await chief.until_playing("c0", "c1")
        await chief.channel.notify(Assign(2, [first, third]))
        after = await chief.until_playing("c0", "c2")
        assert after["c0"].since_ns == before["c0"].since_ns, "the same connection"
        assert after["c0"].reconnects == 0
        await chief.channel.notify(Assign(3, [third, first]))
        again = await chief.until_playing("c0", "c2")
        assert again["c2"].since_ns == after["c2"].since_ns, "told twice, done once"
        await chief.channel.notify(Assign(4, [first, second, third]))
        back = await chief.until_playing("c0", "c1", "c2")
        assert back["c1"].since_ns > before["c1"].since_ns
        assert chief.snapshot is not None
        assert chief.snapshot.state.recorder.volumes[0].records_lost == 0
        await chief.channel.notify(StopWorker())
        assert await asyncio.wait_for(worker, 15) == 0
        assert len(chief.seals) >= 1, "what it sealed at the end was told"
    with open_store(installation) as store:
        states = store.volumes[1].table.entries["state"]
        assert not (states == 1).any(), "no slot is left open"
        assert {uid for uid in (first.uid, second.uid, third.uid) if store.has_index(uid)} == {
            first.uid, second.uid, third.uid,
        }  # fmt: skip


async def test_a_changed_url_restarts_that_feed_alone(
    installation: Installation, cameras: SimulatedCameras
) -> None:
    async with working(installation) as (chief, _):
        first, second = spec(cameras, 0), spec(cameras, 1)
        await chief.channel.notify(Assign(1, [first, second]))
        before = await chief.until_playing("c0", "c1")
        moved = CameraSpec("c1", second.uid, cameras.url(2), "tcp", "TRIAL")
        await chief.channel.notify(Assign(2, [first, moved]))
        await asyncio.sleep(0.5)
        after = await chief.until_playing("c0", "c1")
        assert after["c0"].since_ns == before["c0"].since_ns
        assert after["c1"].since_ns > before["c1"].since_ns


async def test_without_its_supervisor_it_stops_cleanly(
    installation: Installation, cameras: SimulatedCameras
) -> None:
    async with working(installation) as (chief, worker):
        await chief.channel.notify(Assign(1, [spec(cameras, 0)]))
        await chief.until_playing("c0")
        chief.channel.close()
        assert await asyncio.wait_for(worker, 15) == 0
    with open_store(installation) as store:
        assert not (store.volumes[1].table.entries["state"] == 1).any()


def test_settings_come_from_the_configuration(installation: Installation) -> None:
    settings = feed_settings(installation.config)
    ingest = installation.config.ingest
    assert settings.commit_interval_ns == 1_000_000_000
    assert settings.stall_timeout_s == ingest.stall_timeout_s
    assert settings.rcvlowat_bytes_max == ingest.rcvlowat_bytes_max
    assert settings.user_agent == ingest.user_agent
