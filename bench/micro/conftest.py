"""One second of one camera at 4 Mbit/s, and a way to time it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cext.arena import ArenaPool, Fragment

CAMERA = bytes(range(16))
VOLUME = bytes(range(16, 32))
START_NS = 1_790_000_000_000_000_000
MIB = 1 << 20
KEY_BYTES = 120_000
OTHER_BYTES = 16_000
FRAMES = 25

T = TypeVar("T")


class Measure(Protocol):
    def __call__(
        self, nbytes: int, work: Callable[..., T], setup: Callable[[], Any] | None = None
    ) -> T: ...


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Measure:
    """Times ``work`` over ``nbytes`` of input and returns its last result, to be checked.

    ``setup`` runs untimed before each round and gives the arguments of that round.
    """

    def run(nbytes: int, work: Callable[..., T], setup: Callable[[], Any] | None = None) -> T:
        if setup is None:
            result: T = benchmark(work)
        else:
            result = benchmark.pedantic(
                work, setup=lambda: ((setup(),), {}), rounds=20, warmup_rounds=2
            )
        seconds = benchmark.stats.stats.min
        benchmark.extra_info["bytes"] = nbytes
        benchmark.extra_info["bytes_per_s"] = round(nbytes / seconds)
        return result

    return run


@pytest.fixture(scope="session")
def access_units() -> list[bytes]:
    """NAL units without length, one an access unit: an IDR slice, then P slices."""
    random = Random(1)
    sizes = [KEY_BYTES] + [OTHER_BYTES] * (FRAMES - 1)
    heads = [b"\x65\x88"] + [b"\x41\x9a"] * (FRAMES - 1)
    # 0xff bytes keep random data free of start codes
    return [
        head + random.randbytes(size - 2).replace(b"\0", b"\xff")
        for head, size in zip(heads, sizes, strict=True)
    ]


@pytest.fixture(scope="session")
def samples(access_units: list[bytes]) -> list[bytes]:
    return [len(nal).to_bytes(4) + nal for nal in access_units]


@pytest.fixture(scope="session")
def pool() -> ArenaPool:
    return ArenaPool(512 * MIB, 256 * MIB)


@pytest.fixture(scope="session")
def make_fragment(pool: ArenaPool, samples: list[bytes]) -> Callable[[int], Fragment]:
    """A described fragment, not sealed; the argument is its stream_sequence."""
    rows = [
        (sample, (1 << 32) + 3600 * i, START_NS + 40_000_000 * i, int(i == 0))
        for i, sample in enumerate(samples)
    ]

    def make(stream_sequence: int) -> Fragment:
        fragment = Fragment.from_samples(pool, 1, 90_000, rows)
        fragment.describe(
            camera_uid=CAMERA, stream_sequence=stream_sequence, start_ns=START_NS,
            end_ns=START_NS + 1_000_000_000, camera_ns=0, camera_offset_ns=0, run_id=1,
            width=1920, height=1080, flags=0, codec_config=bytes(40), codec_config_id=1,
            recv_quantum_ns=0,
        )  # fmt: skip
        return fragment

    return make
