"""Goal: what a camera sends over RTSP comes back out of a clip, NAL unit by NAL unit.

Every H.264 and H.265 stream of the media folder is played once over real TCP, all at the same time,
recorded by real sessions onto one volume, and cut as a clip against a signed grant. The expected
NAL units come from `oracle`, which shares no code with the product. `wilson.pcap` (H.265 from a
WebRTC sender) is in tests/cext/test_depacketize_h265.py, the answers of real cameras are in
tests/gateway/rtsp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import uvloop

from gateway.simulate.camera import CameraSettings, SimulatedCameras
from gateway.simulate.footage import CLOCK_RATE, Footage, load_footage
from storage.base.gap import GapCause
from storage.base.timebase import SECOND_NS, TimeRange
from storage.clip.reader import Clip
from tests.acceptance import oracle
from tests.acceptance.feeds import SETTINGS, feeding
from tests.acceptance.rig import MIB, Ground, cut, working

# Streams that carry no times, and the one of 30 s, are played at this rate to save time.
FAST = Fraction(100)
# A fragment may be placed this far from where its RTP time alone would put it (T3: the anchor
# moves by 500 ppm at most; the longest stream lasts 10 s).
PLACING_TICKS_MAX = CLOCK_RATE * 10 * 500 // 1_000_000

# In the media folder.
STREAMS = (
    "h264/BA1_FT_C.264",
    "h264/BASQP1_Sony_C.jsv",
    "h264/BA_MW_D.264",
    "h264/Cisco_Men_whisper_640x320_CABAC_Bframe_9.264",
    "h264/Error_I_P.264",
    "h264/MPS_MW_A.264",
    "h264/NL1_Sony_D.jsv",
    "h264/SVA_Base_B.264",
    "h264/VID_1280x720_cabac_temporal_direct.264",
    "h264/bbb_480x270_aud_bframes.h264",
    "h264/mbaff_iframe_128x96.h264",
    "h264/test_scalinglist_jm.264",
    "h265/10bit_128x128.h265",
    "h265/akiyo.x265.qp_30.265",
    "h265/bframes3_128x128.h265",
    "h265/hevc.265",
    "h265/motion_320x240.h265",
    "h265/multi_slice_sao_deblock_256x256.h265",
    "mp4/gomp4_sample.mp4",
    "mp4/gomp4_sample_fragmented.mp4",
    "mp4/media3_h265_bframes.mp4",
    "mp4/media3_sample_fragmented.mp4",
    "mp4/media3_sample_no_bframes.mp4",
    "mp4/media3_sample_simple.mp4",
    "mp4/mediamtx_offline_h264.mp4",
    "mp4/mediamtx_offline_h265.mp4",
    "mp4/mp4ff_bbb_prog_10s.mp4",
    "mp4/mp4ff_hevc.mp4",
    "mp4/mp4ff_prog_8s.mp4",
    "mp4/mp4ff_v300_multiple_segments.mp4",
    "camera/car-detection.mp4",
    "mp4/mp4ff_init_and_1.mp4",
    "mp4/mp4ff_hvc1_init_and_1.mp4",
)
# Segments are no files of their own: these are put together first.
JOINED = {
    "mp4/mp4ff_init_and_1.mp4": ("mp4/mp4ff_init.mp4", "mp4/mp4ff_1.m4s"),
    "mp4/mp4ff_hvc1_init_and_1.mp4": ("mp4/mp4ff_hvc1_init.mp4", "mp4/mp4ff_hvc1_seg_1.m4s"),
}
# Files of these folders that hold no picture of their own.
NO_PICTURES = {
    "mp4/mp4ff_init.mp4",
    "mp4/mp4ff_hvc1_init.mp4",
    "mp4/mp4ff_aac_init.mp4",
    "mp4/mp4ff_init_truncated.mp4",
}


@dataclass(frozen=True, slots=True)
class Back:
    """One stream: what was sent, and what came back."""

    source: Path
    footage: Footage
    clip: Clip
    file: Path

    @property
    def sent(self) -> list[bytes]:
        return _sent(self.source)

    @property
    def track(self) -> oracle.Track:
        return _track(self.file)


@cache
def _sent(source: Path) -> list[bytes]:
    return oracle.sent_nal_units(source)


@cache
def _track(file: Path) -> oracle.Track:
    return oracle.read_track(file)


@pytest.fixture(scope="module")
def back(media_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Back]:
    """Everything, played, recorded and cut once for all tests of this module."""
    folder = tmp_path_factory.mktemp("roundtrip")
    sources = [_source(media_dir, name, folder) for name in STREAMS]
    footage = [load_footage(path, frames_per_second=_rate(path)) for path in sources]
    ground = Ground(folder / "city")
    ground.add_volume(slots=48, slot_bytes=4 * MIB)
    uids = uvloop.run(_record(ground, footage))
    found: dict[str, Back] = {}
    with ground.open() as store:
        for number, name in enumerate(STREAMS):
            index = store.index(uids[number])
            first_ns, last_ns = index.oldest_ns, index.newest_ns
            index.close()
            assert first_ns is not None and last_ns is not None, f"{name}: nothing was recorded"
            wanted = TimeRange(first_ns - SECOND_NS // 2, last_ns + SECOND_NS)
            made = cut(store, f"cam{number}", uids[number], wanted)
            file = folder / f"{number}.mp4"
            file.write_bytes(made.data)
            found[name] = Back(sources[number], footage[number], made.clip, file)
    return found


def _source(media_dir: Path, name: str, folder: Path) -> Path:
    parts = JOINED.get(name)
    if parts is None:
        return media_dir / name
    joined = folder / Path(name).name
    joined.write_bytes(b"".join((media_dir / part).read_bytes() for part in parts))
    return joined


def _rate(path: Path) -> Fraction | None:
    timeless = path.suffix not in {".mp4"} or path.name == "car-detection.mp4"
    return FAST if timeless else None


async def _record(ground: Ground, footage: list[Footage]) -> list[bytes]:
    """Play all once and record all; the cameras' uids."""
    settings = CameraSettings(cameras=len(footage), once=True)
    # The commit interval of the product: how a stream is cut into fragments depends on it.
    usual = replace(SETTINGS, commit_interval_ns=SECOND_NS)
    with working(ground, lanes=2) as works:
        async with (
            SimulatedCameras(footage, settings) as sim,
            feeding(works.recorder, usual) as feeds,
        ):
            for number in range(len(footage)):
                feeds.add(f"cam{number}", sim.url(number))
            await sim.all_played()
            await feeds.until(
                "every feed to notice that its camera is gone",
                lambda: all(feeds.status(one).last_error is not None for one in feeds.uids),
            )
            for number, played in enumerate(footage):
                told = sim.played(number)
                assert [p.frames_sent for p in told] == [len(played.access_units)], told
                counters = feeds.status(f"cam{number}").counters
                assert counters["lost_packets"] == counters["malformed_packets"] == 0, counters
            return list(feeds.uids.values())


def test_every_stream_of_the_media_folder_is_here(media_dir: Path) -> None:
    named = {*STREAMS, *NO_PICTURES}
    present = {
        str(path.relative_to(media_dir))
        for pattern in ("h264/*", "h265/*", "mp4/*.mp4", "camera/*")
        for path in media_dir.glob(pattern)
    }
    assert present <= named, "a stream that nobody plays"


@pytest.mark.parametrize("name", STREAMS)
def test_nal_units_come_back_in_order(back: dict[str, Back], name: str) -> None:
    one = back[name]
    got = [nal for sample in one.track.samples for nal in sample.nal_units]
    assert len(got) == len(one.sent)
    wrong = [n for n, (a, b) in enumerate(zip(got, one.sent, strict=True)) if a != b]
    assert not wrong, f"NAL units {wrong[:10]} differ"


@pytest.mark.parametrize("name", STREAMS)
def test_frames_and_times_come_back(back: dict[str, Back], name: str) -> None:
    """As many frames as were sent, decoding times that never stand still, and every frame shown
    when the camera meant it to be.
    """
    one = back[name]
    samples, units = one.track.samples, one.footage.access_units
    assert len(samples) == len(units) == one.clip.frame_count == one.clip.presented_count
    times = [sample.dts for sample in samples]
    assert all(a < b for a, b in pairwise(times)), "decoding times"
    assert all(sample.pts >= sample.dts for sample in samples)
    assert one.track.ticks_per_second == CLOCK_RATE
    shown = [sample.pts - samples[0].pts for sample in samples]
    meant = [unit.presentation_ticks - units[0].presentation_ticks for unit in units]
    worst = max(abs(a - b) for a, b in zip(shown, meant, strict=True))
    assert worst <= PLACING_TICKS_MAX, f"a frame is shown {worst} ticks away from its time"


@pytest.mark.parametrize("name", STREAMS)
def test_nothing_inside_is_reported_missing(back: dict[str, Back], name: str) -> None:
    """The only gaps are before the first frame and after the camera had gone."""
    clip = back[name].clip
    assert clip.delivered is not None
    inside = [
        gap
        for gap in clip.gaps
        if gap.end_ns > clip.delivered.start_ns and gap.start_ns < clip.delivered.end_ns
    ]
    assert not inside
    assert {gap.cause for gap in clip.gaps} <= {GapCause.UNKNOWN, GapCause.CAMERA_OFFLINE}


@pytest.mark.parametrize("name", STREAMS)
def test_ffmpeg_accepts_and_decodes_it_alike(
    back: dict[str, Back], name: str, tmp_path: Path
) -> None:
    """ffprobe has no complaint; ffmpeg decodes the clip to the very pictures of the source."""
    one = back[name]
    assert oracle.probe_complaints(one.file) == ""
    raw = oracle.write_annexb(one.sent, tmp_path / f"source.{one.track.codec}")
    expected, content = oracle.decoded_frames(raw)
    got, also_content = oracle.decoded_frames(one.file)
    assert got == expected
    assert content == also_content
