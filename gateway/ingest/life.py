"""One connection of a feed, from its first byte to its last.

Owns the client machine, the socket and the track of one connection, and their watch: keep-alive,
stall, foreign packets. Never connects again: it ends once, with the first error, and the session
decides what then (docs/design/rtsp.md, "Session").
"""

from __future__ import annotations

import asyncio
from typing import Any, Never, Protocol

from cext.interleaved import ReceiveArea
from cext.track import EVENT_BYE, EVENT_FRAGMENT, EVENT_SSRC_CHANGED, VideoTrack
from cext.values import TrackCounters
from gateway.errors import ConnectionLost, FeedStalled, ForeignMedia, GatewayError
from gateway.ingest.model import FeedSettings
from gateway.limits import CHECK_INTERVAL_NS, FOREIGN_PACKETS_MIN, SECOND_NS
from gateway.net.tcp import FeedProtocol
from gateway.rtsp.client import Playing, Redirected, RtspClient, SessionEnded, TrackReady
from gateway.rtsp.states import State
from storage.base.clock import Clock

_CHECKS_PER_STALL = 4  # a stall is found at most a quarter of its timeout late


class LifeOwner(Protocol):
    """What a life asks of its session."""

    def new_track(self, ready: TrackReady) -> VideoTrack:
        """The native track of a SETUP that was answered."""

    def store(self, track: VideoTrack, recv_quantum_ns: int) -> None:
        """Take every fragment the track has closed."""

    def distrust_ssrc(self) -> None:
        """The camera announced an SSRC that it does not send (S8)."""


class FeedLife:
    """One connection from its first byte to its last: machine, socket, track and their watch.

    Ends once, with the first error. Callbacks of the socket catch everything: what goes wrong in
    them ends this life, not the loop.
    """

    def __init__(
        self,
        client: RtspClient,
        owner: LifeOwner,
        *,
        area: ReceiveArea,
        clock: Clock,
        settings: FeedSettings,
    ) -> None:
        self._client = client
        self._owner = owner
        self._clock = clock
        self.protocol = FeedProtocol(
            area,
            clock,
            self,
            quantum_ns=settings.tick_interval_ns,
            lowat_bytes_max=settings.rcvlowat_bytes_max,
        )
        self._stall_ns = int(settings.stall_timeout_s * SECOND_NS)
        self._check_ns = min(CHECK_INTERVAL_NS, self._stall_ns // _CHECKS_PER_STALL)
        self._next_check_ns = 0
        self._track: VideoTrack | None = None
        self._announced_ssrc: int | None = None
        self._access_units = 0
        self._progress_ns = 0
        self._keepalive_ns = 0
        loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[Redirected | None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._left: asyncio.Future[None] = loop.create_future()

    def start(self) -> None:
        """Send the first request."""
        self._client.start()
        self.protocol.send(self._client.data_to_send())

    async def handshake(self) -> Redirected | None:
        """Until PLAY is answered (None) or the camera sends us elsewhere."""
        awaited: set[asyncio.Future[Any]] = {self._answered, self._ended}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if self._answered.done():
            return self._answered.result()
        self._ended.result()
        raise AssertionError("a life ends with an error")

    async def until_ended(self) -> Never:
        """Raises what ended the life."""
        await asyncio.wait({self._ended})
        self._ended.result()
        raise AssertionError("a life ends with an error")

    async def leave(self, timeout_s: float) -> None:
        """Flush, then TEARDOWN if the camera still listens, and wait for its answer a while."""
        self._flush(end_of_stream=self.protocol.closed)
        if self.protocol.closed:
            return
        self.protocol.set_live(True)  # or a short answer would wait for the next tick
        self._client.stop()
        self.protocol.send(self._client.data_to_send())
        if self._client.state is State.TEARDOWN:
            await asyncio.wait({self._left}, timeout=timeout_s)
            self._flush(end_of_stream=self._left.done())

    def release(self) -> TrackCounters | None:
        """Close the socket and give memory back; what the track counted, if there was one.

        An access unit still in progress is let go: nobody knows whether it was complete. The
        arena, and this life itself, must not wait for the garbage collector.
        """
        self.protocol.close()
        self._ended = self._left  # the error's traceback leads back to us: no cycle
        track = self._track
        if track is None:
            return None
        track.flush(True)
        for fragment in track.take_fragments():
            fragment.release()
        return track.counters()

    def counters(self) -> TrackCounters | None:
        """Of the track, if there is one."""
        return self._track.counters() if self._track is not None else None

    def check(self, now_ns: int) -> None:
        """Now and then, several times a second: what needs no tick."""
        try:
            self.protocol.adapt(now_ns)
            mono_ns = self._clock.monotonic_ns()
            if mono_ns >= self._next_check_ns:
                self._next_check_ns = mono_ns + self._check_ns
                self._check(mono_ns)
        except Exception as error:
            self._fail(error)

    # FeedHandler

    def on_text(self, messages: list[bytes]) -> None:
        """Feed the machine, act on its events, send what it wants sent."""
        try:
            for message in messages:
                self._client.receive_message(message)
                for event in self._client.events():
                    self._on_event(event)
                self.protocol.send(self._client.data_to_send())
        except Exception as error:
            self._fail(error)

    def on_media(self, events: int) -> None:
        """Fragments were closed, or the stream says something about itself."""
        track = self._track
        try:
            if track is not None and events & EVENT_FRAGMENT:
                self._owner.store(track, self.protocol.recv_quantum_ns)
            if events & EVENT_SSRC_CHANGED:
                self._foreign_ssrc()
            if events & EVENT_BYE:
                self._fail(ConnectionLost("the camera ended the stream (RTCP BYE)"))
        except Exception as error:
            self._fail(error)

    def on_closed(self, error: GatewayError) -> None:
        """The connection is gone."""
        self._fail(error)
        if not self._left.done():
            self._left.set_result(None)

    # the rest

    def _on_event(self, event: TrackReady | Playing | Redirected | SessionEnded) -> None:
        if isinstance(event, TrackReady):
            track = self._owner.new_track(event)
            self.protocol.bind(event.rtp_channel, track, event.rtcp_channel)
            self._track = track
            self._announced_ssrc = track.ssrc
        elif isinstance(event, Playing):
            mono_ns = self._clock.monotonic_ns()
            self._progress_ns = mono_ns
            self._plan_keepalive(mono_ns)
            if not self._answered.done():
                self._answered.set_result(None)
        elif isinstance(event, Redirected):
            if self._answered.done():
                self._fail(ConnectionLost(f"the camera moved the stream to {event.url}"))
            else:
                self._answered.set_result(event)
        elif not self._left.done():
            self._left.set_result(None)
            if event.by_camera:
                self._fail(ConnectionLost("the camera ended the session (TEARDOWN)"))

    def _check(self, mono_ns: int) -> None:
        """Once a second: is it alive, and does the camera know that we are?"""
        if self._client.state is not State.PLAYING or self._track is None:
            return
        access_units = self._track.access_units
        if access_units != self._access_units:
            self._access_units = access_units
            self._progress_ns = mono_ns
        elif mono_ns - self._progress_ns >= self._stall_ns:
            self._fail(self._stall(self._track.counters()))
            return
        if mono_ns >= self._keepalive_ns:
            self._plan_keepalive(mono_ns)
            self._client.keepalive()
            self.protocol.send(self._client.data_to_send())

    def _plan_keepalive(self, mono_ns: int) -> None:
        self._keepalive_ns = mono_ns + int(self._client.keepalive_due_in_s * SECOND_NS)

    def _stall(self, counters: TrackCounters) -> GatewayError:
        """Why no access unit came: silence, or packets that are not what was announced."""
        seconds = self._stall_ns / SECOND_NS
        track = self._track
        assert track is not None, "only a track can stall"
        if counters.wrong_payload_type >= FOREIGN_PACKETS_MIN and not counters.access_units:
            return ForeignMedia(
                f"{counters.wrong_payload_type} packets, none of payload type "
                f"{track.payload_type} that the camera announced",
                remedy="set the camera's stream to H.264 or H.265 and restart it",
            )
        if counters.wrong_ssrc and not counters.access_units:
            return self._foreign_ssrc_error()
        unbound = self.protocol.demuxer.unassigned_packets
        if unbound >= FOREIGN_PACKETS_MIN and not counters.packets:
            return ForeignMedia(f"{unbound} packets, all on channels the camera did not announce")
        return FeedStalled(
            f"no access unit for {seconds:g} s ({counters.packets} packets received in all)",
            remedy="check the camera's encoder and the network between",
        )

    def _foreign_ssrc(self) -> None:
        self._fail(self._foreign_ssrc_error())

    def _foreign_ssrc_error(self) -> GatewayError:
        track = self._track
        assert track is not None, "an SSRC belongs to a track"
        if self._announced_ssrc is not None and not track.access_units:
            self._owner.distrust_ssrc()
        pair = (track.ssrc, track.foreign_ssrc)
        ours, foreign = ("none" if ssrc is None else f"{ssrc:08X}" for ssrc in pair)
        return ForeignMedia(f"packets of SSRC {foreign} come instead of {ours}")

    def _flush(self, *, end_of_stream: bool) -> None:
        track = self._track
        if track is not None:
            # Whatever it says: a fragment closed by a tick after the socket's end waits there too.
            track.flush(end_of_stream)
            self._owner.store(track, self.protocol.recv_quantum_ns)

    def _fail(self, error: BaseException) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            # Where nobody waits any more the error is not lost: the first one was reported.
            self._ended.exception()
