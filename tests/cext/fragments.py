"""Fragments for tests: strategies and builders, no test in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import strategies as st

from cext.arena import ArenaPool, Fragment

CAMERA = bytes(range(16))
VOLUME = bytes(range(16, 32))
START_NS = 1_790_000_000_000_000_000
MIB = 1 << 20


def sample(*nals: bytes) -> bytes:
    return b"".join(len(nal).to_bytes(4) + nal for nal in nals)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a test fragment is made of: (size, pts_ticks, flags) of each access unit, and more."""

    frames: tuple[tuple[int, int, int], ...]
    codec_config: bytes = b"configuration"
    rtp_first: int = 1 << 32
    clock_rate: int = 90_000
    duration_ns: int = 1_000_000_000
    stream_sequence: int = 7
    seed: int = 0
    nals: int = 2
    samples: list[bytes] = field(default_factory=list, init=False, hash=False, compare=False)

    def __post_init__(self) -> None:
        random = Random(self.seed)
        for size, _, _ in self.frames:
            self.samples.append(sample(*(random.randbytes(size) for _ in range(self.nals))))


def plain(count: int = 25, size: int = 3000, seed: int = 0, **more: int) -> Spec:
    """One key frame and P frames, 25 a second."""
    frames = tuple((size * 5 if i == 0 else size, 3600 * i, int(i == 0)) for i in range(count))
    return Spec(frames, seed=seed, duration_ns=count * 40_000_000, **more)


@st.composite
def specs(draw: st.DrawFn, frames_max: int = 128, bytes_max: int = 3000) -> Spec:
    count = draw(st.integers(1, frames_max))
    times = draw(st.lists(st.integers(-90_000, 900_000), min_size=count - 1, max_size=count - 1))
    sizes = draw(st.lists(st.integers(0, bytes_max), min_size=count, max_size=count))
    flags = draw(st.lists(st.integers(0, 15), min_size=count, max_size=count))
    return Spec(
        tuple(zip(sizes, [0, *times], flags, strict=True)),
        codec_config=draw(st.binary(max_size=4096)),
        rtp_first=draw(st.integers(-(1 << 33), 1 << 62)),
        clock_rate=draw(st.sampled_from([90_000, 1, 12_800, (1 << 32) - 1])),
        duration_ns=draw(st.integers(0, 100_000_000_000)),
        stream_sequence=draw(st.integers(0, (1 << 64) - 1)),
        seed=draw(st.integers(0, 1000)),
        nals=draw(st.integers(1, 3)),
    )


def fill(pool: ArenaPool, spec: Spec) -> Fragment:
    rows = [
        (data, spec.rtp_first + pts, START_NS + 40_000_000 * i, flags)
        for i, (data, (_, pts, flags)) in enumerate(zip(spec.samples, spec.frames, strict=True))
    ]
    return Fragment.from_samples(pool, 1, spec.clock_rate, rows)


def describe(fragment: Fragment, spec: Spec) -> Fragment:
    fragment.describe(
        camera_uid=CAMERA,
        stream_sequence=spec.stream_sequence,
        start_ns=START_NS,
        end_ns=START_NS + spec.duration_ns,
        camera_ns=START_NS + 5,
        camera_offset_ns=-6,
        run_id=3,
        width=1920,
        height=1080,
        flags=16,
        codec_config=spec.codec_config,
        codec_config_id=2,
        recv_quantum_ns=125_000_000,
    )
    return fragment


def make(pool: ArenaPool, spec: Spec) -> Fragment:
    return describe(fill(pool, spec), spec)
