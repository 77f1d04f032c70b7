"""Feeds of one worker in this process: real sessions over real TCP into a real recorder.

Owns what a worker does for its cameras (sessions, ticks) and the report of what happened to each.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from cext.arena import ArenaPool
from cext.interleaved import ReceiveArea
from gateway.ingest.model import CameraSpec, FeedEvent, FeedEventKind, FeedSettings, FeedStatus
from gateway.ingest.session import FeedSession
from gateway.net.tcp import drain
from storage.base.clock import SystemClock
from storage.base.retention import TRIAL
from storage.recorder import Recorder
from tests.acceptance.rig import COMMIT_INTERVAL_NS, MIB

# Short times, so that a test sees a feed give up and come back.
SETTINGS = FeedSettings(
    connect_timeout_s=1.0,
    handshake_timeout_s=1.0,
    stall_timeout_s=1.0,
    retry_first_s=0.1,
    retry_max_s=0.5,
    auth_retry_s=0.5,
    auth_retry_max_s=1.0,
    commit_interval_ns=COMMIT_INTERVAL_NS,
)


class Feeds:
    """Cameras by id; ``add`` starts one, ``status`` tells how it is doing."""

    def __init__(self, recorder: Recorder, settings: FeedSettings) -> None:
        self.events: list[FeedEvent] = []
        self.sessions: dict[str, FeedSession] = {}
        self.uids: dict[str, bytes] = {}
        self._recorder = recorder
        self._settings = settings
        self._area = ReceiveArea()
        self._pool = ArenaPool(512 * MIB)
        self._clock = SystemClock()
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, camera_id: str, url: str) -> FeedSession:
        """Record a camera from now on."""
        uid = camera_id.encode().ljust(16, b"\0")
        writer = self._recorder.open_camera(uid, camera_id, TRIAL)
        session = FeedSession(
            CameraSpec(camera_id, uid, url),
            area=self._area,
            pool=self._pool,
            sink=writer,
            clock=self._clock,
            settings=self._settings,
            report=self.events.append,
        )
        self.sessions[camera_id] = session
        self.uids[camera_id] = uid
        self._tasks.append(asyncio.ensure_future(session.run()))
        return session

    def status(self, camera_id: str) -> FeedStatus:
        return self.sessions[camera_id].status()

    def bugs(self) -> list[FeedEvent]:
        """What sessions report of themselves as mistakes of ours: must always be empty."""
        return [event for event in self.events if event.kind is FeedEventKind.INTERNAL_ERROR]

    async def until(self, what: str, ready: Callable[[], bool], timeout_s: float = 15.0) -> None:
        """Wait for something about a feed; fail with ``what`` and the statuses when it is late."""
        try:
            async with asyncio.timeout(timeout_s):
                while not ready():  # noqa: ASYNC110 - a status is asked for, it does not call
                    await asyncio.sleep(0.02)
        except TimeoutError:
            told = "\n".join(str(session.status()) for session in self.sessions.values())
            raise AssertionError(f"{what}: not within {timeout_s:g} s\n{told}") from None

    async def tick_for_ever(self) -> None:
        """What the worker's loop does eight times a commit interval."""
        while True:
            for session in self.sessions.values():
                if session.protocol is not None:
                    drain([session.protocol], self._clock.utc_ns())
                session.check(self._clock.utc_ns())
            await asyncio.sleep(self._settings.tick_interval_ns / 1e9)

    async def stop(self) -> None:
        """Cancel every session and wait for its end: all it had is with the recorder then."""
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in ends:
            if not isinstance(end, asyncio.CancelledError):
                raise AssertionError("a session ended by itself") from end


@contextlib.asynccontextmanager
async def feeding(recorder: Recorder, settings: FeedSettings = SETTINGS) -> AsyncIterator[Feeds]:
    """Sessions that run until the end of the block; no bug of theirs goes unnoticed."""
    feeds = Feeds(recorder, settings)
    ticker = asyncio.ensure_future(feeds.tick_for_ever())
    try:
        yield feeds
    finally:
        await feeds.stop()
        ticker.cancel()
        await asyncio.gather(ticker, return_exceptions=True)
    assert not feeds.bugs(), feeds.bugs()[0].text
    error = ticker.exception() if not ticker.cancelled() else None
    assert error is None, error
