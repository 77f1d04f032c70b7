"""Arenas stay bounded and aligned from any thread; fragments keep the facts and their memory."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.arena import ArenaPool, Fragment
from cext.errors import LimitExceeded
from cext.segment_writer import seal
from tests.cext.fragments import (
    CAMERA,
    MIB,
    START_NS,
    Spec,
    describe,
    fill,
    make,
    plain,
    sample,
    specs,
)

HEADROOM = 20_480
KIB = 1024


@pytest.fixture
def pool() -> ArenaPool:
    return ArenaPool(256 * MIB)


def one(pool: ArenaPool, nbytes: int) -> Fragment:
    return Fragment.from_samples(pool, 1, 90_000, [(sample(bytes(nbytes - 4)), 0, START_NS, 1)])


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


@pytest.mark.parametrize(
    ("payload_bytes", "class_bytes"),
    [
        (5, 128 * KIB),
        (128 * KIB - HEADROOM, 128 * KIB),
        (128 * KIB - HEADROOM + 1, 256 * KIB),
        (500_000, 512 * KIB),
        (16 * MIB, 32 * MIB),
        (32 * MIB - HEADROOM, 32 * MIB),
    ],
)
def test_size_classes_are_powers_of_two(
    pool: ArenaPool, payload_bytes: int, class_bytes: int
) -> None:
    fragment = one(pool, payload_bytes)
    assert fragment.payload_bytes == payload_bytes
    assert pool.bytes_in_use == class_bytes
    fragment.release()
    assert (pool.bytes_in_use, pool.bytes_spare) == (0, class_bytes)


def test_payload_begins_on_a_page(pool: ArenaPool) -> None:
    fragments = [one(pool, 10 ** (i % 6 + 1)) for i in range(12)]
    assert all(address(f.payload()) % 4096 == 0 for f in fragments)


def test_more_than_the_largest_class_is_refused(pool: ArenaPool) -> None:
    with pytest.raises(LimitExceeded) as caught:
        one(pool, 32 * MIB - HEADROOM + 1)
    assert caught.value.value == 32 * MIB - HEADROOM + 1
    assert (pool.exhausted_count, pool.bytes_in_use) == (1, 0)


def test_a_full_pool_refuses_and_recovers() -> None:
    pool = ArenaPool(512 * KIB)
    held = [one(pool, 1000) for _ in range(4)]
    with pytest.raises(LimitExceeded) as caught:
        one(pool, 1000)
    assert (caught.value.limit, caught.value.maximum) == ("arena_pool_bytes", 512 * KIB)
    assert pool.exhausted_count == 1
    held.pop().release()
    assert one(pool, 1000).payload_bytes == 1000


def test_spares_are_reused_and_bounded() -> None:
    pool = ArenaPool(64 * MIB, spare_bytes_max=256 * KIB)
    fragments = [one(pool, 1000) for _ in range(5)]
    addresses = {address(f.payload()) for f in fragments}
    for fragment in fragments:
        fragment.release()
    assert (pool.bytes_in_use, pool.bytes_spare) == (0, 256 * KIB)
    assert address(one(pool, 1000).payload()) in addresses


def test_spares_follow_the_sizes_in_demand() -> None:
    """When cameras change to a higher bitrate, the small arenas do not block the list for ever."""
    pool = ArenaPool(64 * MIB, spare_bytes_max=1 * MIB)
    small = [one(pool, 1000) for _ in range(8)]
    for fragment in small:
        fragment.release()
    assert pool.bytes_spare == 1 * MIB
    for _ in range(12):
        held = [one(pool, 200_000), one(pool, 200_000)]
        for fragment in held:
            fragment.release()
    assert pool.bytes_spare <= 1 * MIB
    first = one(pool, 200_000)
    assert pool.bytes_spare <= 1 * MIB - 256 * KIB
    assert first.payload_bytes == 200_000


def test_nothing_is_kept_spare_when_told_so() -> None:
    pool = ArenaPool(64 * MIB, spare_bytes_max=0)
    one(pool, 1000).release()
    assert (pool.bytes_in_use, pool.bytes_spare) == (0, 0)


@pytest.mark.parametrize("arguments", [(0,), (128 * KIB - 1,), (MIB, -1)])
def test_senseless_bounds_are_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        ArenaPool(*arguments)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096


def test_resident_memory_stays_flat(pool: ArenaPool) -> None:
    spec = plain(25, 8000)
    for _ in range(50):
        fill(pool, spec).release()
    before = resident_bytes()
    for _ in range(3000):
        make(pool, spec).release()
    # Lost arenas would be 750 MiB; AddressSanitizer keeps some freed objects back by itself.
    assert resident_bytes() - before < 64 * MIB


def test_any_thread_may_take_and_release() -> None:
    """Four fillers hand their fragments to each other; no arena is ever in two hands."""
    pool = ArenaPool(64 * MIB, spare_bytes_max=2 * MIB)
    shared: list[tuple[Fragment, bytes]] = []
    failures: list[str] = []

    def work(number: int) -> None:
        for i in range(400):
            data = sample(bytes([number]) * (1000 + 997 * (i % 200)))
            fragment = Fragment.from_samples(pool, 1, 90_000, [(data, i, START_NS, 1)])
            shared.append((fragment, data))
            other, expected = shared.pop(0)
            if bytes(other.payload()) != expected:
                failures.append(f"thread {number}, turn {i}")
            other.release()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert pool.bytes_in_use == 0
    assert 0 < pool.bytes_spare <= 2 * MIB


def test_release_is_idempotent_and_facts_stay(pool: ArenaPool) -> None:
    fragment = fill(pool, plain(3))
    fragment.release()
    fragment.release()
    assert pool.bytes_in_use == 0
    assert (fragment.frame_count, len(fragment.frames())) == (3, 3)
    with pytest.raises(ValueError, match="released"):
        fragment.payload()
    with pytest.raises(ValueError, match="released"):
        describe(fragment, plain(3))
    with pytest.raises(BufferError, match="released"):
        memoryview(fragment)


def test_a_view_keeps_the_arena_until_it_goes(pool: ArenaPool) -> None:
    spec = plain(3)
    fragment = fill(pool, spec)
    first, second = fragment.payload(), fragment.payload()
    fragment.release()
    assert pool.bytes_in_use > 0
    first.release()
    assert bytes(second) == b"".join(spec.samples)
    second.release()
    assert pool.bytes_in_use == 0


def test_deallocation_gives_the_arena_back(pool: ArenaPool) -> None:
    fragment = fill(pool, plain(3))
    view = fragment.payload()
    del fragment
    assert pool.bytes_in_use > 0
    del view
    assert pool.bytes_in_use == 0


def test_fragments_outlive_their_pool() -> None:
    spec = plain(3)
    fragment = fill(ArenaPool(MIB), spec)
    assert bytes(fragment.payload()) == b"".join(spec.samples)
    fragment.release()


def test_the_payload_cannot_be_written(pool: ArenaPool) -> None:
    with pytest.raises(TypeError):
        fill(pool, plain(1)).payload()[0] = 1


def test_a_bare_fragment_is_empty_and_harmless() -> None:
    fragment = Fragment()
    assert (fragment.frame_count, fragment.frames(), fragment.parameter_sets) == (0, [], ())
    fragment.release()
    with pytest.raises(ValueError, match="released"):
        fragment.payload()
    with pytest.raises(ValueError):
        seal([fragment])


@given(specs())
@settings(max_examples=60, deadline=None)
def test_facts_of_the_access_units(spec: Spec) -> None:
    fragment = fill(ArenaPool(64 * MIB), spec)
    pts = [frame[1] for frame in spec.frames]
    flags = [frame[2] for frame in spec.frames]
    received = [START_NS + 40_000_000 * i for i in range(len(pts))]
    assert bytes(fragment.payload()) == b"".join(spec.samples)
    assert fragment.frames() == [
        (len(data), time, 40_000 * i, flag, spec.nals)
        for i, (data, time, flag) in enumerate(zip(spec.samples, pts, flags, strict=True))
    ]
    assert fragment.rtp_first == spec.rtp_first
    assert (fragment.pts_min_ticks, fragment.pts_max_ticks) == (min(pts), max(pts))
    assert (fragment.recv_first_ns, fragment.recv_last_ns) == (received[0], received[-1])
    highest = [max(pts[: i + 1]) for i in range(len(pts))]
    reordered = any(time < high for time, high in zip(pts, highest, strict=True))
    assert fragment.flags == (
        (1 if any(flag & 1 for flag in flags) else 0)
        | (2 if any(flag & 2 for flag in flags) else 0)
        | (8 if reordered else 0)
    )
    exact = [ns - time * 10**9 / spec.clock_rate for ns, time in zip(received, pts, strict=True)]
    assert abs(fragment.earliest_recv_minus_rtp_ns - min(exact)) <= 256  # float rounding
    ordered = sorted(pts)
    deltas = sorted(b - a for a, b in pairwise(ordered))
    assert fragment.last_delta_ticks == (deltas[len(deltas) // 2] if deltas else 0)


def test_what_the_caller_knows_besides(pool: ArenaPool) -> None:
    sets = (b"\x67sps", b"\x68pps")
    rows = [(sample(b"\x65"), 500, START_NS, 1)]
    fragment = Fragment.from_samples(
        pool, 2, 90_000, rows, parameter_sets=sets, next_rtp=4100, config_generation=9
    )
    assert fragment.parameter_sets is sets
    assert (fragment.next_rtp, fragment.config_generation, fragment.codec) == (4100, 9, 2)
    assert Fragment.from_samples(pool, 1, 90_000, rows).next_rtp is None
    assert (fragment.lost_packets, fragment.oversize_count, fragment.exhausted_count) == (0, 0, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "0 samples"),
        ([(sample(b"x"), 0, 0, 0)] * 129, "129 samples"),
        ([(b"", 0, 0, 0)], "empty sample"),
        ([(b"\0\0\0", 0, 0, 0)], "inside a NAL length"),
        ([(b"\0\0\0\5abcd", 0, 0, 0)], "passes the sample's end"),
        ([(b"\xff\xff\xff\xffabcd", 0, 0, 0)], "passes the sample's end"),
        ([(sample(b"x"), 0, 0, 0), (sample(b"x"), 1 << 31, 0, 0)], "too far"),
    ],
)
def test_bad_samples_are_refused(pool: ArenaPool, rows: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fragment.from_samples(pool, 1, 90_000, rows)
    assert pool.bytes_in_use == 0


@given(st.integers(1, 128), st.integers(0, 4096), st.integers(1, 9000))
@settings(max_examples=60, deadline=None)
def test_record_layout(count: int, config_bytes: int, size: int) -> None:
    spec = Spec(((size, 0, 1),) + ((1, 1, 0),) * (count - 1), codec_config=bytes(config_bytes))
    fragment = fill(ArenaPool(64 * MIB), spec)
    assert (fragment.header_bytes, fragment.record_bytes) == (0, 0)
    describe(fragment, spec)
    used = 256 + 48 * count + config_bytes + 88 + 16 * count + 8
    assert fragment.header_bytes == -(-used // 4096) * 4096 <= HEADROOM
    padded = -(-fragment.payload_bytes // 4096) * 4096
    assert fragment.record_bytes == fragment.header_bytes + padded


def arguments(**changed: object) -> dict[str, object]:
    values = dict.fromkeys(
        ("stream_sequence", "start_ns", "end_ns", "camera_ns", "camera_offset_ns", "run_id",
         "width", "height", "flags", "codec_config_id", "recv_quantum_ns"), 0,
    )  # fmt: skip
    return values | {"camera_uid": CAMERA, "codec_config": b""} | changed


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"camera_uid": b"short"}, ValueError),
        ({"end_ns": -1}, ValueError),
        ({"codec_config": bytes(4097)}, LimitExceeded),
        ({"width": 1 << 16}, OverflowError),
        ({"stream_sequence": -1}, OverflowError),
        ({"start_ns": 1 << 63, "end_ns": 1 << 63}, OverflowError),
        ({"codec_config": None}, TypeError),
    ],
)
def test_describe_refuses_nonsense(pool: ArenaPool, changed: dict, error: type) -> None:
    fragment = fill(pool, plain(2))
    with pytest.raises(error):
        fragment.describe(**arguments(**changed))
    assert not fragment.described
    fragment.describe(**arguments())
    assert fragment.described


def test_a_sealed_fragment_says_nothing_new(pool: ArenaPool) -> None:
    fragment = make(pool, plain(2))
    with pytest.raises(ValueError, match="not sealed"):
        _ = fragment.fragment_root
    describe(fragment, plain(2))
    seal([fragment])
    assert fragment.sealed and len(fragment.fragment_root) == 32
    with pytest.raises(ValueError, match="sealed"):
        describe(fragment, plain(2))
