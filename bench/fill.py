"""Footage written straight through the recorder, as fast as the disk takes it.

For benches that need an archive before they can measure: the same code writes it that records
feeds, only the camera, the network and the wall clock are left out.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from bench.report import CheckFailed
from cext.arena import ArenaPool, Fragment
from gateway.media.parameter_sets import codec_config
from gateway.simulate.footage import CLOCK_RATE, Footage
from storage.base.clock import SystemClock
from storage.base.retention import TRIAL
from storage.recorder import (
    CameraWriter,
    FragmentMeta,
    Recorder,
    RecorderEvent,
    RecorderSettings,
)
from storage.store import Store
from storage.volume.events import BufferedWrites, CommitLag, SlotSealed

_NS = 1_000_000_000
_ARENA_BYTES_MAX = 1 << 30
_QUEUE_BYTES_MAX = 64 << 20
_FRAMES_PER_FRAGMENT = 25
_WAIT_S = 0.002
_STOP_TIMEOUT_S = 60.0


# Filling is faster than the disk by intent, so commits lag.
_HARMLESS = (SlotSealed, CommitLag, BufferedWrites)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Access units of one fragment, cut from the footage: samples with ticks from its start."""

    samples: tuple[tuple[bytes, int, int], ...]
    sample_bytes: int
    start_ticks: int


class Filler:
    """``with Filler(store, footage) as fill: fill.camera(...)``; leaving it makes all durable."""

    def __init__(self, store: Store, footage: Footage, *, worker: int = 0) -> None:
        self._footage = footage
        self._pool = ArenaPool(_ARENA_BYTES_MAX)
        self._pieces = _cut(footage)
        sets = footage.parameter_sets
        config = codec_config(footage.codec, sets)
        self._width, self._height = config.width, config.height
        self._config_bytes = config.config_bytes
        self._faults: list[RecorderEvent] = []
        settings = RecorderSettings(queue_bytes_max=_QUEUE_BYTES_MAX)
        self._recorder = Recorder(store, worker, SystemClock(), settings, self._on_event)

    def __enter__(self) -> Self:
        self._recorder.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        drained = self._recorder.stop(_STOP_TIMEOUT_S)
        if kind is None and (not drained or self._faults):
            raise CheckFailed(f"filling the archive failed: {self._faults or 'disk too slow'}")

    def _on_event(self, event: RecorderEvent) -> None:
        if not isinstance(event, _HARMLESS):
            self._faults.append(event)

    def cameras(
        self,
        uids: Sequence[bytes],
        names: Sequence[str],
        start_ns: int,
        seconds: int,
        *,
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> int:
        """Write ``seconds`` of footage for all cameras side by side; payload bytes written.

        Every camera's first fragment begins at ``start_ns``.
        """
        writers = [
            self._recorder.open_camera(uid, name, TRIAL)
            for uid, name in zip(uids, names, strict=True)
        ]
        written = 0
        position = 0
        per_round = len(self._pieces)
        loop_ticks = self._footage.loop_ticks
        while True:
            piece = self._pieces[position % per_round]
            begin = position // per_round * loop_ticks + piece.start_ticks
            if begin >= seconds * CLOCK_RATE:
                break
            following = self._pieces[(position + 1) % per_round].start_ticks
            end = (position + 1) // per_round * loop_ticks + following
            for writer in writers:
                self._submit(writer, piece, begin, end, start_ns)
                written += piece.sample_bytes
            position += 1
            on_progress(begin / CLOCK_RATE / seconds)
        for writer in writers:
            writer.close()
        return written

    def _submit(
        self, writer: CameraWriter, piece: _Piece, begin: int, end: int, start_ns: int
    ) -> None:
        begin_ns = start_ns + begin * _NS // CLOCK_RATE
        samples = [
            (sample, begin + ticks, begin_ns + ticks * _NS // CLOCK_RATE, key)
            for sample, ticks, key in piece.samples
        ]
        fragment = Fragment.from_samples(
            self._pool,
            int(self._footage.codec),
            CLOCK_RATE,
            samples,
            parameter_sets=self._footage.parameter_sets,
            next_rtp=end,
        )
        meta = FragmentMeta(
            start_ns=begin_ns,
            end_ns=start_ns + end * _NS // CLOCK_RATE,
            camera_ns=0,
            camera_offset_ns=0,
            run_id=1,
            width=self._width,
            height=self._height,
            flags=0,
            codec_config=self._config_bytes,
            codec_config_id=1,
            recv_quantum_ns=0,
            config_change=begin == 0,
        )
        while not writer.submit(fragment, meta):
            if self._faults:
                raise CheckFailed(f"filling the archive failed: {self._faults[0]}")
            time.sleep(_WAIT_S)


def _cut(footage: Footage) -> list[_Piece]:
    """About a second of access units each; the footage must show pictures as it decodes them."""
    units = footage.access_units
    if any(unit.decode_ticks != unit.presentation_ticks for unit in units):
        raise ValueError("filling needs footage without reordering")
    pieces = []
    for first in range(0, len(units), _FRAMES_PER_FRAGMENT):
        group = units[first : first + _FRAMES_PER_FRAGMENT]
        start = group[0].decode_ticks
        samples = tuple((unit.sample, unit.decode_ticks - start, int(unit.key)) for unit in group)
        pieces.append(_Piece(samples, sum(len(sample) for sample, _, _ in samples), start))
    return pieces


def new_uids(count: int) -> list[bytes]:
    """Fresh camera uids."""
    return [uuid.uuid4().bytes for _ in range(count)]
