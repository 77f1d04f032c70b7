"""One feed: connect, set up, watch, give up, come back; until it is cancelled.

Owns the life of one camera's connection and the decision when it has ended (docs/design/rtsp.md,
"Session", S1 to S9). Never lets a failure, or a bug of its own, out of ``run()``; never waits
without a deadline; never touches another feed. Everything happens on one event loop.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import traceback
from collections.abc import Callable

from cext.arena import ArenaPool
from cext.errors import CextError
from cext.interleaved import ReceiveArea
from cext.track import VideoTrack
from gateway.errors import DeadlineExceeded, GatewayError, NotSupported
from gateway.ingest.backoff import Backoff
from gateway.ingest.health import FeedHealth, describe_failure
from gateway.ingest.life import FeedLife
from gateway.ingest.model import (
    CameraSpec,
    FeedEvent,
    FeedEventKind,
    FeedSettings,
    FeedState,
    FeedStatus,
)
from gateway.ingest.recording import FeedRecording
from gateway.limits import STABLE_NS
from gateway.media.sink import Sink
from gateway.net.tcp import FeedProtocol, connect
from gateway.rtsp.client import Redirected, RtspClient, TrackReady
from gateway.rtsp.messages import RtspUrl
from gateway.rtsp.quirks import Quirk, QuirkNotes
from storage.base.clock import Clock
from storage.base.gap import GapCause
from storage.volume.pending import FragmentMeta

_CNONCE_BYTES = 8


class FeedSession:
    """One camera's feed. Make one, run ``run()`` as a task, ``drain`` its ``protocol``, the
    connection there is, every tick interval and call ``check`` several times a second.

    ``area`` is shared by all feeds of the loop, ``pool`` by all of the process. ``report`` is told
    what is worth a line in the log; it must not block. ``resume_cause``: why nothing was recorded
    since the camera's last record (DISABLED if it was switched off). ``random`` is for jitter.
    """

    def __init__(
        self,
        camera: CameraSpec,
        *,
        area: ReceiveArea,
        pool: ArenaPool,
        sink: Sink[FragmentMeta],
        clock: Clock,
        settings: FeedSettings,
        report: Callable[[FeedEvent], None],
        resume_cause: GapCause = GapCause.RECORDER_RESTART,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.camera = camera
        self._area = area
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._report_event = report
        self._recording = FeedRecording(sink, clock, self._report, resume_cause)
        self._health = FeedHealth(camera.id, clock.utc_ns())
        self._backoff = Backoff(settings, random)
        self._notes = QuirkNotes()
        self.protocol: FeedProtocol | None = None
        self._life: FeedLife | None = None
        self._live = False
        self._trust_ssrc = True
        self._stable_from_ns = 0

    async def run(self) -> None:
        """Record for ever. Returns never; ends by cancellation only, everything written (S1)."""
        try:
            while True:
                failure = describe_failure(await self._live_once(), self._clock.utc_ns())
                self._health.failed(failure)
                self._recording.lost(failure.cause, failure.text)
                self._report(FeedEventKind.LOST, failure.cause, failure.text, failure.code)
                self._health.enter(FeedState.WAITING, self._clock.utc_ns())
                await asyncio.sleep(self._backoff.next_delay_s(failure.cause))
        finally:
            now_ns = self._clock.utc_ns()
            self._recording.close(now_ns)
            self._health.enter(FeedState.STOPPED, now_ns)

    def check(self, now_ns: int) -> None:
        """Several times a second, with our clock's time: watch the connection (cheap)."""
        life = self._life
        if life is None:
            self._recording.checkpoint(now_ns)
        else:
            life.check(now_ns)

    def set_live(self, live: bool) -> None:
        """Someone watches (or no one any more): bytes are handed on at once."""
        self._live = live
        if self._life is not None:
            self._life.protocol.set_live(live)

    def status(self) -> FeedStatus:
        """How the feed is doing now; a copy."""
        recording = self._recording
        counts = self._health.counts
        counts["fragments"] = recording.fragments_written
        counts["fragments_refused"] = recording.fragments_refused
        counts["gaps"] = recording.gaps_written
        counts["malformed_configs"] = recording.malformed_configs
        track = self._life.counters() if self._life is not None else None
        return self._health.status(self._clock.utc_ns(), recording.config, track, self._notes)

    # one life of a connection

    async def _live_once(self) -> BaseException:
        """From connecting to the end; the error that ended it. Redirects are followed inside."""
        try:
            url = RtspUrl.parse(self.camera.url)
            _refuse_unsupported(self.camera, url)
            client = self._client(url)
            while True:
                redirected = await self._connection(client)
                client = self._client(redirected.url, home=url, redirects=redirected.redirects)
        except Exception as error:
            if not isinstance(error, (GatewayError, OSError, CextError)):
                self._report_bug(error)
            return error

    def _client(self, url: RtspUrl, home: RtspUrl | None = None, redirects: int = 0) -> RtspClient:
        return RtspClient(
            url,
            user_agent=self._settings.user_agent,
            make_cnonce=lambda: secrets.token_hex(_CNONCE_BYTES),
            credentials=home.credentials if home else None,
            notes=self._notes,
            redirects=redirects,
            home=home.host if home else None,
        )

    async def _connection(self, client: RtspClient) -> Redirected:
        """One connection to its end: raises what ended it, or returns where to go instead."""
        settings = self._settings
        self._health.enter(FeedState.CONNECTING, self._clock.utc_ns())
        life = FeedLife(client, self, area=self._area, clock=self._clock, settings=settings)
        await connect(client.address, life.protocol, settings.connect_timeout_s)
        self._life = life
        self.protocol = life.protocol
        self._health.connections += 1
        self._health.rate.clear()
        try:
            self._health.enter(FeedState.HANDSHAKE, self._clock.utc_ns())
            life.start()
            try:
                async with asyncio.timeout(settings.handshake_timeout_s):
                    redirected = await life.handshake()
            except TimeoutError:
                raise DeadlineExceeded(
                    f"no answer to {client.state.value.upper()} within "
                    f"{settings.handshake_timeout_s:g} s",
                    remedy="check that the URL is that of an RTSP service",
                ) from None
            if redirected is not None:
                return redirected
            self._started_playing(life)
            await life.until_ended()
        finally:
            await self._end(life)

    def _started_playing(self, life: FeedLife) -> None:
        now_ns = self._clock.utc_ns()
        self._health.enter(FeedState.PLAYING, now_ns)
        life.protocol.set_recording()
        life.protocol.set_live(self._live)
        self._stable_from_ns = self._clock.monotonic_ns() + STABLE_NS
        self._report(FeedEventKind.PLAYING, None, "")

    async def _end(self, life: FeedLife) -> None:
        """Store what is complete, leave in good order, let go (S4, S7); also when cancelled."""
        try:
            await life.leave(self._settings.teardown_timeout_s)
        except Exception as error:  # what ended the life matters more, and is raised after us
            self._report_bug(error)
        finally:
            self._life = None
            self.protocol = None
            counters = life.release()
            if counters is not None:
                self._health.absorb(counters)

    # what a life calls

    def new_track(self, ready: TrackReady) -> VideoTrack:
        """The native track of a SETUP that was answered."""
        plan = ready.plan
        self._recording.new_connection(plan.codec, plan.clock_rate)
        return VideoTrack(
            int(plan.codec),
            plan.payload_type,
            plan.clock_rate,
            self._pool,
            fragment_age_max_ns=self._settings.fragment_age_max_ns,
            ssrc=ready.ssrc if self._trust_ssrc else None,
            parameter_sets=plan.parameter_sets,
            reorder_packets=0,
        )

    def store(self, track: VideoTrack, recv_quantum_ns: int) -> None:
        """Every fragment the track has closed goes to the sink, or after a failure to the pool."""
        fragments = track.take_fragments()
        report = track.sender_report()
        away = self._recording.away
        try:
            while fragments:
                fragment = fragments.pop(0)
                recv_ns = fragment.recv_last_ns
                frames, nbytes = fragment.frame_count, fragment.payload_bytes
                self._recording.store(fragment, report, recv_quantum_ns)
                self._health.last_frame_ns = recv_ns
                self._health.rate.add(recv_ns, frames, nbytes)
        finally:
            for fragment in fragments:
                fragment.release()
        if away and not self._recording.away and self._health.last_error is not None:
            self._report(FeedEventKind.RECOVERED, None, "")
        if self._stable_from_ns and self._clock.monotonic_ns() >= self._stable_from_ns:
            self._stable_from_ns = 0
            self._backoff.succeeded()

    def distrust_ssrc(self) -> None:
        """The camera announced an SSRC it does not send (S8): the next connection ignores it."""
        self._trust_ssrc = False
        self._notes.note(Quirk.WRONG_SSRC)

    def _report_bug(self, error: Exception) -> None:
        trace = "".join(traceback.format_exception(error))
        self._report(FeedEventKind.INTERNAL_ERROR, GapCause.PROTOCOL_ERROR, trace)

    def _report(
        self, kind: FeedEventKind, cause: GapCause | None, text: str, code: str = ""
    ) -> None:
        self._report_event(FeedEvent(self.camera.id, kind, cause, code, text))


def _refuse_unsupported(camera: CameraSpec, url: RtspUrl) -> None:
    if camera.transport != "tcp":
        raise NotSupported(
            f"transport {camera.transport!r} is not supported yet",
            remedy="use transport tcp for this camera",
        )
    if url.scheme != "rtsp":
        raise NotSupported(
            f"{url.scheme} is not supported yet", remedy="use an rtsp:// URL for this camera"
        )
