"""Real streams in, clips out: the same samples, the right times, and what a decoder says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import pytest

from storage.base.timebase import TimeRange

from .mp4_oracle import parse_movie
from .studio import SECOND, Footage, Studio, load_footage, whole

FILES = [
    "h264/BA_MW_D.264",
    "h264/BA1_FT_C.264",
    "h264/SVA_Base_B.264",
    "h264/BASQP1_Sony_C.jsv",
    "h264/NL1_Sony_D.jsv",
    "h264/MPS_MW_A.264",
    "h264/Error_I_P.264",
    "h264/Cisco_Men_whisper_640x320_CABAC_Bframe_9.264",
    "h264/VID_1280x720_cabac_temporal_direct.264",
    "h264/test_scalinglist_jm.264",
    "h264/bbb_480x270_aud_bframes.h264",
    "h264/mbaff_iframe_128x96.h264",
    "h265/multi_slice_sao_deblock_256x256.h265",
    "h265/bframes3_128x128.h265",
    "h265/motion_320x240.h265",
    "h265/10bit_128x128.h265",
    "h265/akiyo.x265.qp_30.265",
    "h265/hevc.265",
    "rtp/wilson_expected.h265",
]


def footage_of(media_dir: Path, name: str) -> Footage:
    return load_footage(media_dir / name, 1 if name.startswith("h264") else 2)


def complaints(path: Path, *options: str) -> str:
    """What ffmpeg says at level error when it decodes all of a file."""
    done = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", *options, "-i", path, "-f", "null", "-"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stderr


def test_every_stream_of_the_media_folder_is_tested(media_dir: Path) -> None:
    streams = {
        f"{folder}/{path.name}"
        for folder in ("h264", "h265")
        for path in (media_dir / folder).iterdir()
    }
    assert streams <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_stream_comes_back_sample_by_sample(media_dir: Path, tmp_path: Path, name: str) -> None:
    footage = footage_of(media_dir, name)
    studio = Studio(tmp_path, slot_bytes=4 << 20)
    end_ns = studio.record(footage, studio.start_ns, per_fragment=16)
    clip = studio.open(studio.start_ns, end_ns)
    data = whole(clip)
    movie = parse_movie(data)

    assert clip.frame_count == clip.presented_count == len(footage.frames)
    assert clip.delivered == TimeRange(studio.start_ns, end_ns)
    assert [s.data for s in movie.samples] == [f.sample for f in footage.frames]
    assert [s.cts - movie.edit_start for s in movie.samples] == [f.pts for f in footage.frames]
    assert [s.key for s in movie.samples] == [f.key for f in footage.frames]
    assert movie.edit_duration == len(footage.frames) * footage.interval

    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base == pytest.approx(1 / 90_000)
        packets = [(p.pts, bytes(p)) for p in container.demux(stream) if p.size]
    assert [data for _, data in packets] == [f.sample for f in footage.frames]
    assert [pts for pts, _ in packets] == [f.pts for f in footage.frames]

    format_name = "h264" if footage.codec == 1 else "hevc"
    if not complaints(media_dir / name, "-f", format_name):
        assert complaints(path) == ""
    studio.close()


@pytest.mark.parametrize(
    "name", ["h264/bbb_480x270_aud_bframes.h264", "h265/akiyo.x265.qp_30.265", "h265/hevc.265"]
)
def test_a_cut_anywhere_decodes_to_the_pictures_of_the_whole(
    media_dir: Path, tmp_path: Path, name: str
) -> None:
    """Decoded pictures between two arbitrary instants equal those of the undivided stream."""
    footage = footage_of(media_dir, name)
    studio = Studio(tmp_path, slot_bytes=4 << 20)
    end_ns = studio.record(footage, studio.start_ns, per_fragment=20)
    path = tmp_path / "clip.mp4"

    def pictures(start_ns: int, stop_ns: int) -> list[tuple[int, bytes]]:
        """(ticks from the first picture, picture): ffmpeg begins at 0 with the first one shown."""
        clip = studio.open(start_ns, stop_ns)
        path.write_bytes(whole(clip))
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            shown = []
            for frame in container.decode(video=0):
                assert frame.pts is not None
                shown.append((frame.pts, frame.to_ndarray().tobytes()))
        return shown

    everything = dict(pictures(studio.start_ns, end_ns))
    assert len(everything) == len(footage.frames)
    length = end_ns - studio.start_ns
    for low, high in ((0.31, 0.57), (0.5, 0.83), (0.9, 1.0), (0.05, 0.06)):
        start_ns = studio.start_ns + int(length * low) + 12_345
        stop_ns = studio.start_ns + int(length * high) + 777
        part = pictures(start_ns, stop_ns)
        wanted = sorted(
            f.pts
            for f in footage.frames
            if start_ns <= footage.time_ns(f, studio.start_ns) < stop_ns
        )
        assert [pts + wanted[0] for pts, _ in part] == pytest.approx(wanted, abs=1)
        assert [picture for _, picture in part] == [everything[pts] for pts in wanted]
    studio.close()


def test_ffprobe_reads_the_head(media_dir: Path, tmp_path: Path) -> None:
    footage = footage_of(media_dir, "h264/bbb_480x270_aud_bframes.h264")
    studio = Studio(tmp_path, slot_bytes=4 << 20)
    studio.record(footage, studio.start_ns)
    path = tmp_path / "clip.mp4"
    path.write_bytes(
        whole(studio.open(studio.start_ns + SECOND // 3, studio.start_ns + 9 * SECOND))
    )
    said = subprocess.run(
        ["ffprobe", "-v", "warning", "-show_entries", "format=duration:format_tags:stream=width,"
         "height,codec_tag_string,avg_frame_rate,nb_frames", "-of", "json", path],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert said.stderr == ""
    assert '"codec_tag_string": "avc1"' in said.stdout
    assert '"width": 480' in said.stdout and '"height": 270' in said.stdout
    assert '"duration": "8.666667"' in said.stdout
    assert '"comment": "TRIAL"' in said.stdout
    studio.close()
