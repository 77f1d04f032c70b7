"""Where a clip begins and ends, to the nanosecond: C1 to C4, C8 to C11 of docs/design/clip.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.base.gap import Gap, GapCause
from storage.base.timebase import HOUR_NS, TimeRange
from storage.clip.reader import ClipLimits
from storage.clip.selection import FRAME_TICKS_MAX

from .mp4_oracle import Movie, parse_movie
from .studio import SECOND, TICK, UID, Footage, Frame, Studio, synthetic, whole

FRAMES = 130
FRAME_NS = 40_000_000


@pytest.fixture(scope="module")
def reordered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """130 frames with B pictures at 25/s, key frames every 12, seven frames a fragment."""
    studio = Studio(tmp_path_factory.mktemp("edges"))
    footage = synthetic(FRAMES, reorder=True)
    assert [f.pts for f in footage.frames] != sorted(f.pts for f in footage.frames)
    studio.record(footage, studio.start_ns, per_fragment=7)
    studio.footage = footage
    yield studio
    studio.close()


def shown_pts(studio: Studio, footage: Footage, start_ns: int, end_ns: int) -> list[int]:
    """Times of the frames a player of the clip shows, found by their bytes."""
    clip = studio.open(start_ns, end_ns)
    if clip.delivered is None:
        return []
    pts = {frame.sample: frame.pts for frame in footage.frames}
    return [pts[sample.data] for sample in parse_movie(whole(clip)).shown]


def in_range(studio: Studio, footage: Footage, start_ns: int, end_ns: int) -> list[int]:
    return sorted(
        f.pts for f in footage.frames if start_ns <= footage.time_ns(f, studio.start_ns) < end_ns
    )


cuts = st.one_of(
    st.integers(-SECOND, FRAMES * FRAME_NS + SECOND),
    st.builds(
        lambda frame, off: frame * FRAME_NS + off, st.integers(0, FRAMES), st.integers(-2, 2)
    ),
    st.builds(  # less than a tick from a frame
        lambda frame, off: frame * FRAME_NS + off,
        st.integers(0, FRAMES),
        st.integers(-12_000, 12_000),
    ),
)


@settings(max_examples=120, deadline=None)
@given(points=st.lists(cuts, min_size=3, max_size=3, unique=True).map(sorted))
def test_adjacent_clips_present_each_frame_exactly_once(
    reordered: Studio, points: list[int]
) -> None:
    studio, footage = reordered, reordered.footage
    a, b, c = (studio.start_ns + point for point in points)
    left, right = (shown_pts(studio, footage, *cut) for cut in ((a, b), (b, c)))
    wanted = in_range(studio, footage, a, c)
    covered = {f.pts: footage.time_ns(f, studio.start_ns) for f in footage.frames}
    assert left + right == wanted
    assert all(a <= covered[p] < b for p in left)


@settings(max_examples=120, deadline=None)
@given(points=st.lists(cuts, min_size=2, max_size=2, unique=True).map(sorted))
def test_times_and_the_edit_are_exact(reordered: Studio, points: list[int]) -> None:
    studio, footage = reordered, reordered.footage
    start_ns, end_ns = (studio.start_ns + point for point in points)
    clip = studio.open(start_ns, end_ns)
    if clip.delivered is None:
        assert not in_range(studio, footage, start_ns, end_ns)
        return
    movie = parse_movie(whole(clip))
    assert movie.timescale == movie.movie_timescale == 90_000
    by_sample = {f.sample: f for f in footage.frames}
    frames = [by_sample[s.data] for s in movie.samples]
    first = footage.frames.index(frames[0])
    assert frames == footage.frames[first : first + len(frames)], (
        "C2: nothing in between is missing"
    )
    assert frames[0].key
    for sample, frame in zip(movie.samples, frames, strict=True):
        exact = (footage.time_ns(frame, studio.start_ns) - clip.delivered.start_ns) * 9 / 100_000
        assert sample.cts - movie.edit_start == pytest.approx(exact, abs=1)
        assert sample.key == frame.key
        assert sample.cts >= sample.dts
    dts = [sample.dts for sample in movie.samples]
    assert dts == sorted(dts)
    assert min(s.cts - s.dts for s in movie.samples) == 0, "the shift is the smallest there is"
    assert movie.edit_duration == pytest.approx(clip.delivered.duration_ns * 9 / 100_000, abs=2)
    key_times = [footage.time_ns(f, studio.start_ns) for f in footage.frames if f.key]
    latest = [t for t in key_times if t <= clip.delivered.start_ns]
    assert footage.time_ns(frames[0], studio.start_ns) == latest[-1], "C1"
    inside = in_range(studio, footage, start_ns, end_ns)
    assert clip.presented_count == max(len(inside), 1)


def test_a_range_within_one_frame_shows_that_frame(reordered: Studio) -> None:
    studio = reordered
    start_ns = studio.start_ns + 5 * FRAME_NS + 1_000_000
    clip = studio.open(start_ns, start_ns + 2_000_000)
    assert clip.delivered == TimeRange(start_ns, start_ns + 2_000_000)
    assert clip.presented_count == 1
    movie = parse_movie(whole(clip))
    on_show = max(s.cts for s in movie.samples if s.cts <= movie.edit_start)
    assert movie.edit_start - on_show == 90
    assert movie.edit_duration == 180


def test_delivered_says_where_footage_really_begins_and_ends(
    reordered: Studio,
) -> None:
    studio = reordered
    end_ns = studio.start_ns + FRAMES * FRAME_NS
    clip = studio.open(studio.start_ns - 5 * SECOND, end_ns + 5 * SECOND)
    assert clip.delivered == TimeRange(studio.start_ns, end_ns)
    assert [(g.start_ns, g.end_ns, g.cause) for g in clip.gaps] == [
        (studio.start_ns - 5 * SECOND, studio.start_ns, GapCause.UNKNOWN),
        (end_ns, end_ns + 5 * SECOND, GapCause.UNKNOWN),
    ]


def test_the_future_is_no_gap(reordered: Studio) -> None:
    studio = reordered
    now_ns = studio.rig.clock.utc_ns()
    clip = studio.open(now_ns, now_ns + 100 * SECOND, token=studio.token(end_ns=now_ns + HOUR_NS))
    assert clip.gaps == ()
    assert clip.delivered is None


def test_without_a_key_frame_before_the_clip_begins_at_the_next(tmp_path: Path) -> None:
    """The key frame is further back than it is looked for: the frames passed over are a gap."""
    studio = Studio(tmp_path)
    studio.record(synthetic(250, gop=100), studio.start_ns)
    limits = ClipLimits(key_search_ns=SECOND)
    start_ns = studio.start_ns + 60 * FRAME_NS
    clip = studio.open(start_ns, studio.start_ns + 120 * FRAME_NS, limits=limits)
    key_ns = studio.start_ns + 100 * FRAME_NS
    assert clip.delivered == TimeRange(key_ns, studio.start_ns + 120 * FRAME_NS)
    assert clip.gaps == (
        Gap(start_ns, key_ns, GapCause.UNKNOWN, detail="no key frame before it: not decodable"),
    )
    assert clip.frame_count == 20
    clip = studio.open(start_ns, studio.start_ns + 90 * FRAME_NS, limits=limits)
    assert clip.frame_count == 40, "no key frame at all: from the first fragment on, undecodable"
    clip = studio.open(start_ns, studio.start_ns + 90 * FRAME_NS)
    assert clip.frame_count == 90
    assert clip.sidecar()["frames"] == {"stored": 90, "presented": 30, "preroll": 60}
    studio.close()


def gap_movie(tmp_path: Path, gap_ns: int) -> tuple[Studio, Movie]:
    studio = Studio(tmp_path)
    first_end_ns = studio.record(
        synthetic(50),
        studio.start_ns,
        gaps=[
            Gap(
                studio.start_ns + 50 * FRAME_NS,
                studio.start_ns + 50 * FRAME_NS + gap_ns,
                GapCause.CAMERA_OFFLINE,
                detail="refused",
            )
        ],
    )
    second_ns = first_end_ns + gap_ns
    end_ns = studio.record(synthetic(50, seed=1), second_ns)
    studio.rig.clock.advance(2 * gap_ns)
    clip = studio.open(studio.start_ns, end_ns, token=studio.token(end_ns=end_ns + SECOND))
    assert clip.gaps == (Gap(first_end_ns, second_ns, GapCause.CAMERA_OFFLINE, detail="refused"),)
    assert clip.delivered == TimeRange(studio.start_ns, end_ns)
    return studio, parse_movie(whole(clip))


def test_a_gap_inside_the_clip_keeps_real_time(tmp_path: Path) -> None:
    studio, movie = gap_movie(tmp_path, 17 * SECOND)
    assert movie.samples[49].duration == 18 * 90_000 - 24 * TICK - 90_000 + 25 * TICK
    assert movie.samples[50].cts - movie.samples[49].cts == 17 * 90_000 + TICK
    assert movie.edit_duration == 100 * TICK + 17 * 90_000
    studio.close()


def test_a_frame_lasts_twelve_hours_at_most(tmp_path: Path) -> None:
    studio, movie = gap_movie(tmp_path, 40 * HOUR_NS)
    assert movie.samples[49].duration == FRAME_TICKS_MAX == 12 * 3600 * 90_000
    assert [s.cts - movie.samples[50].cts for s in movie.samples[50:]] == [
        TICK * n for n in range(50)
    ]
    assert movie.edit_duration == 49 * TICK + FRAME_TICKS_MAX + 50 * TICK
    studio.close()


def test_an_hour_of_even_frames_has_one_run_of_durations(tmp_path: Path) -> None:
    """C8: rounding to nanoseconds and back leaves no jitter, at 30/s and an odd start."""
    studio = Studio(tmp_path, slots=24)
    footage = synthetic(3_000, size=40, gop=30, interval=3_000)
    studio.record(footage, studio.start_ns + 7, per_fragment=3_000 // 24)
    clip = studio.open(studio.start_ns + 7, studio.start_ns + 200 * SECOND)
    movie = parse_movie(whole(clip))
    assert movie.boxes[b"stts"][4:8] == (1).to_bytes(4, "big")
    assert b"ctts" not in movie.boxes
    assert {s.duration for s in movie.samples} == {3_000}
    studio.close()


def test_runs_that_overlap_in_time_still_decode_in_order(tmp_path: Path) -> None:
    """A new run may begin before the last frames of the one before are over."""
    studio = Studio(tmp_path)
    first, second = synthetic(40, reorder=True), synthetic(40, reorder=True, seed=1)
    late = [dataclasses.replace(f, pts=f.pts + 38 * TICK - 1) for f in second.frames]
    end_ns = studio.record(Footage(1, first.frames + late, TICK), studio.start_ns, per_fragment=10)
    movie = parse_movie(whole(studio.open(studio.start_ns, end_ns)))
    dts = [sample.dts for sample in movie.samples]
    assert dts == sorted(dts)
    assert all(sample.cts >= sample.dts for sample in movie.samples)
    assert [s.data for s in movie.samples] == [f.sample for f in first.frames + late]
    assert [s.cts - movie.edit_start for s in movie.samples] == [f.pts for f in first.frames + late]
    studio.close()


def test_frames_at_the_same_instant_are_all_kept(tmp_path: Path) -> None:
    studio = Studio(tmp_path)
    frames = [Frame(b"\0\0\0\2\x65" + bytes([n]), TICK * (n // 2), n == 0, ()) for n in range(20)]
    studio.record(Footage(1, frames, TICK), studio.start_ns)
    movie = parse_movie(whole(studio.open(studio.start_ns, studio.start_ns + SECOND)))
    assert [s.data for s in movie.samples] == [f.sample for f in frames]
    steps = np.diff([s.cts for s in movie.samples])
    assert set(steps.tolist()) == {0, TICK}
    studio.close()


def test_a_camera_that_never_recorded_gives_a_valid_empty_file(tmp_path: Path) -> None:
    studio = Studio(tmp_path)
    clip = studio.open(studio.start_ns, studio.start_ns + SECOND)
    assert not studio.store.has_index(UID)
    assert (clip.frame_count, clip.delivered) == (0, None)
    assert clip.gaps == (Gap(studio.start_ns, studio.start_ns + SECOND, GapCause.UNKNOWN),)
    data = whole(clip)
    assert data[4:8] == b"ftyp" and b"moov" in data and b"TRIAL" in data
    studio.close()
