"""From one camera's fragments to the records of its sink, gaps included (S2, S3, S5, S9).

Owns the camera's timeline, its codec configuration, its outage and the gaps the sink could not take
yet. Synchronous: the session calls it from the event loop, tests call it without one. Never drops a
range in silence: what is not stored has a gap record, or owes one.

- R1 Records are submitted in order of start_ns; what the sink refused goes first, later.
- R2 A fragment is released exactly once: by the sink that took it, or here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from cext.arena import Fragment
from cext.values import SenderReport
from gateway.ingest.model import FeedEventKind
from gateway.ingest.outage import Outage
from gateway.limits import (
    GAP_MIN_NS,
    OUTAGE_CHECKPOINT_NS,
    OUTAGE_MARGIN_NS,
    PENDING_GAPS_MAX,
    SECOND_NS,
)
from gateway.media import timeline as time
from gateway.media.codec import Codec
from gateway.media.parameter_sets import CodecConfig, codec_config
from gateway.media.sink import Sink
from gateway.media.timeline import FragmentFacts, Placement, Timeline
from storage.base.clock import Clock
from storage.base.gap import Gap, GapCause
from storage.volume.format import RECORD_CLOCK_UNSYNCHRONISED, RECORD_DISCONTINUITY
from storage.volume.pending import FragmentMeta

_U32 = 2**32
_CLOCK_RATE_USUAL = 90_000

Report = Callable[[FeedEventKind, GapCause | None, str], None]


class FeedRecording:
    """One camera's way into storage, over all its connections.

    ``resume_cause``: why nothing was recorded between the camera's last record and now.
    ``report`` is told what is worth a line: a new configuration, an unreadable one, a full queue.
    """

    def __init__(
        self,
        sink: Sink[FragmentMeta],
        clock: Clock,
        report: Report,
        resume_cause: GapCause = GapCause.RECORDER_RESTART,
    ) -> None:
        self.config: CodecConfig | None = None
        self.gaps_written = 0
        self.fragments_written = 0
        self.fragments_refused = 0
        self.malformed_configs = 0
        self._sink = sink
        self._clock = clock
        self._report = report
        self._timeline = Timeline(_CLOCK_RATE_USUAL, sink.last_end_ns)
        self._codec = Codec.H264
        self._parameter_sets: tuple[bytes, ...] | None = None
        self._config_id = 0
        self._config_changed = False
        self._last_start_ns = 0  # of the last record offered
        self._owed: deque[Gap] = deque()  # refused by the sink
        self._held: list[Gap] = []  # of the last fragment, at most a few
        self._outage: Outage | None
        if sink.last_end_ns:
            self._outage = Outage(sink.last_end_ns, resume_cause)
        else:
            self._outage = Outage(clock.utc_ns(), None)

    @property
    def away(self) -> bool:
        """No frame has come since the feed was lost, or since the start."""
        return self._outage is not None

    def new_connection(self, codec: Codec, clock_rate: int) -> None:
        """A track was set up: RTP time begins anew."""
        self._codec = codec
        self._parameter_sets = None
        self._timeline.new_connection(clock_rate)

    def lost(self, cause: GapCause, detail: str) -> None:
        """The feed is away from its last frame on; or it still is, and this is why now."""
        if self._outage is None:
            self._outage = Outage(self._timeline.last_end_ns, cause, detail)
        else:
            self._outage.blame(self._clock.utc_ns(), cause, detail)

    def checkpoint(self, now_ns: int) -> None:
        """Write down a long outage so far. Call now and then while away; usually does nothing.

        A margin is left: a camera that returns may send what it buffered meanwhile.
        """
        outage = self._outage
        end_ns = now_ns - OUTAGE_MARGIN_NS
        if outage is not None and end_ns - outage.start_ns >= OUTAGE_CHECKPOINT_NS:
            self._write_outage(outage, end_ns)

    def close(self, now_ns: int) -> None:
        """Nothing will come any more: what is owed and an outage up to now are written."""
        if self._outage is not None:
            self._write_outage(self._outage, now_ns)
            self._outage = None
        self._write_held()
        self.settle()

    def settle(self) -> bool:
        """Offer owed gaps again; True if none is owed now."""
        owed = self._owed
        while owed and self._sink.submit_gap(owed[0]):
            owed.popleft()
            self.gaps_written += 1
        return not owed

    def store(self, fragment: Fragment, report: SenderReport | None, recv_quantum_ns: int) -> None:
        """Place a fragment and give it to the sink, with the gaps that belong before and in it."""
        submitted = False
        try:
            if fragment.parameter_sets is not self._parameter_sets:
                self._update_config(fragment)
            placement = self._timeline.place(_facts(fragment, report))
            losses = self._losses(fragment)
            away = self._outage is not None or placement.gap_before_ns > GAP_MIN_NS
            if losses or self._held or away:
                self._write_gaps_before(placement, losses)
            self._last_start_ns = placement.start_ns
            meta = self._meta(placement, recv_quantum_ns)
            submitted = self.settle() and self._sink.submit(fragment, meta)
        finally:
            if not submitted:
                fragment.release()
        if submitted:
            self.fragments_written += 1
            self._config_changed = False
        else:
            self._refused(placement)

    # codec configuration

    def _update_config(self, fragment: Fragment) -> None:
        sets, known = fragment.parameter_sets, self._parameter_sets
        self._parameter_sets = sets
        if sets == known:
            return
        config = codec_config(self._codec, sets)
        before = self.config
        self.config = config
        if before is not None and _same_bytes(before, config):
            return
        self._config_changed = True
        # Larger than any before, over restarts too (S9): records never begin before its second.
        now_s = max(self._timeline.last_end_ns, fragment.recv_first_ns) // SECOND_NS
        self._config_id = max(self._config_id + 1, now_s) % _U32
        size = f"{config.codec.label} {config.width}x{config.height}"
        self._report(FeedEventKind.CONFIG_CHANGED, None, size)
        if config.problems:
            self.malformed_configs += 1
            self._report(FeedEventKind.CONFIG_UNREADABLE, None, "; ".join(config.problems))

    def _meta(self, placement: Placement, recv_quantum_ns: int) -> FragmentMeta:
        config = self.config
        assert config is not None, "a fragment has a configuration, if an empty one"
        flags = RECORD_DISCONTINUITY if placement.reason is not None else 0
        if placement.clock_unsynchronised or not self._clock.synchronised:
            flags |= RECORD_CLOCK_UNSYNCHRONISED
        return FragmentMeta(
            placement.start_ns,
            placement.end_ns,
            placement.camera_ns,
            placement.camera_offset_ns,
            placement.run_id,
            config.width,
            config.height,
            flags,
            config.config_bytes,
            self._config_id,
            recv_quantum_ns,
            self._config_changed,
        )

    # gaps

    def _write_outage(self, outage: Outage, end_ns: int) -> None:
        self._write_held()
        for gap in outage.gaps_until(end_ns):
            self._write_gap(gap)
            self._timeline.note_gap(gap.end_ns)

    def _write_gaps_before(self, placement: Placement, losses: list[Gap]) -> None:
        """Losses and silence that begin before this fragment, in order.

        A loss inside the fragment waits for the next one, which may begin earlier than the loss
        did where B-frames straddle the two (R1).
        """
        gaps = [*self._held, *losses, *self._silence_before(placement)]
        gaps.sort(key=lambda gap: gap.start_ns)
        self._held = [gap for gap in gaps if gap.start_ns > placement.start_ns]
        for gap in gaps[: len(gaps) - len(self._held)]:
            self._write_gap(gap)

    def _silence_before(self, placement: Placement) -> list[Gap]:
        """What lies between the last record and this fragment, without the losses in it."""
        outage, self._outage = self._outage, None
        if outage is not None:
            return outage.gaps_until(placement.start_ns)
        if placement.gap_before_ns > GAP_MIN_NS:
            start_ns = placement.start_ns - placement.gap_before_ns
            detail = "the camera sent nothing"
            if placement.reason is time.RunReason.JUMP:
                detail = "RTP time or our clock jumped"
            return [Gap(start_ns, placement.start_ns, GapCause.STALL, 0, detail)]
        return []

    def _write_held(self) -> None:
        held, self._held = self._held, []
        for gap in held:
            self._write_gap(gap)

    def _losses(self, fragment: Fragment) -> list[Gap]:
        """The fragment's loss interval as a gap. It may begin before the fragment."""
        if fragment.lost_packets:
            cause = GapCause.PACKET_LOSS
        elif fragment.oversize_count:
            cause = GapCause.OVERSIZE
        elif fragment.exhausted_count:
            cause = GapCause.QUEUE_FULL
        else:
            return []
        parts = (
            (fragment.lost_packets, "packets lost"),
            (fragment.oversize_count, "access units too large"),
            (fragment.exhausted_count, "access units without memory"),
        )
        detail = ", ".join(f"{count} {what}" for count, what in parts if count)
        start_ns = self._timeline.time_of_rtp_ns(fragment.lost_from_rtp)
        start_ns = max(start_ns, self._last_start_ns)  # in order, also where a run just began
        end_ns = max(self._timeline.time_of_rtp_ns(fragment.lost_to_rtp), start_ns + 1)
        return [Gap(start_ns, end_ns, cause, fragment.lost_packets, detail)]

    def _refused(self, placement: Placement) -> None:
        """The sink is full: the fragment's range is owed as a gap, grown into the last one."""
        self.fragments_refused += 1
        self._report(FeedEventKind.QUEUE_FULL, GapCause.QUEUE_FULL, "the disk queue is full")
        self._owe(Gap(placement.start_ns, placement.end_ns, GapCause.QUEUE_FULL))

    def _write_gap(self, gap: Gap) -> None:
        self._last_start_ns = gap.start_ns
        if self.settle() and self._sink.submit_gap(gap):
            self.gaps_written += 1
        else:
            self._owe(gap)

    def _owe(self, gap: Gap) -> None:
        """Remember a gap for later, in order; one of the same cause that follows joins the last."""
        last = self._owed[-1] if self._owed else None
        if last is not None:
            joins = last.cause is gap.cause and gap.start_ns - last.end_ns <= GAP_MIN_NS
            if joins or len(self._owed) >= PENDING_GAPS_MAX:
                end_ns = max(last.end_ns, gap.end_ns)
                packets = last.packets + gap.packets
                self._owed[-1] = replace(last, end_ns=end_ns, packets=packets)
                return
        self._owed.append(gap)


def _same_bytes(one: CodecConfig, other: CodecConfig) -> bool:
    return one.codec is other.codec and one.config_bytes == other.config_bytes


def _facts(fragment: Fragment, report: SenderReport | None) -> FragmentFacts:
    return FragmentFacts(
        fragment.rtp_first,
        fragment.pts_min_ticks,
        fragment.pts_max_ticks,
        fragment.last_delta_ticks,
        fragment.next_rtp,
        fragment.recv_first_ns,
        fragment.recv_last_ns,
        fragment.earliest_recv_minus_rtp_ns,
        time.SenderReport(report.ntp_ns_utc, report.rtp) if report is not None else None,
    )
