"""The moof of a fragment: equal to the oracle's; FFmpeg reads exact times and bytes from it."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import av
import pytest
from hypothesis import given, settings

from cext.arena import ArenaPool, Fragment
from cext.fmp4 import build_moof
from tests.cext.fragments import CAMERA, MIB, START_NS, Spec, fill, make, specs
from tests.oracle import fmp4 as oracle

FFPROBE = shutil.which("ffprobe")


@given(specs())
@settings(max_examples=80, deadline=None)
def test_equal_to_the_oracle(spec: Spec) -> None:
    fragment = make(ArenaPool(64 * MIB), spec)
    samples = [
        oracle.Sample(len(data), pts, bool(flags & 1))
        for data, (_, pts, flags) in zip(spec.samples, spec.frames, strict=True)
    ]
    moof = oracle.moof(
        spec.stream_sequence, spec.rtp_first, spec.duration_ns, spec.clock_rate, samples
    )
    mdat = (8 + fragment.payload_bytes).to_bytes(4) + b"mdat"
    assert build_moof(fragment) == moof + mdat


def test_without_reordering_all_offsets_are_zero() -> None:
    spec = Spec(((9, 0, 1), (9, 3600, 0), (9, 7200, 0)), duration_ns=120_000_000)
    moof = build_moof(make(ArenaPool(MIB), spec))
    rows = [moof[88 + 16 * i : 104 + 16 * i] for i in range(3)]
    assert [int.from_bytes(row[12:]) for row in rows] == [0, 0, 0]
    assert [int.from_bytes(row[:4]) for row in rows] == [3600, 3600, 3600]
    assert [row[8:12].hex() for row in rows] == ["02000000", "01010000", "01010000"]


def test_a_b_frame_is_shown_before_its_turn() -> None:
    """Decoding order I P B: P waits, B goes ahead of its decoding time."""
    spec = Spec(((9, 0, 1), (9, 7200, 0), (9, 3600, 0)), duration_ns=120_000_000)
    moof = build_moof(make(ArenaPool(MIB), spec))
    offsets = [int.from_bytes(moof[100 + 16 * i : 104 + 16 * i], signed=True) for i in range(3)]
    assert offsets == [0, 3600, -3600]


def test_needs_a_description() -> None:
    with pytest.raises(ValueError, match="describe"):
        build_moof(fill(ArenaPool(MIB), Spec(((9, 0, 1),))))


@dataclass(frozen=True, slots=True)
class Clip:
    """One video track, as a camera would send it: samples with 90 kHz presentation times."""

    entry: str
    config: bytes
    width: int
    height: int
    samples: list[tuple[bytes, int, bool]]  # data, pts, key


def load(path: Path) -> Clip:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        ticks = 90_000 * stream.time_base
        samples = [
            (bytes(packet), round(packet.pts * ticks), packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.pts is not None
        ]
        context = stream.codec_context
        entry = {"h264": "avc1", "hevc": "hvc1"}[context.name]
        return Clip(entry, context.extradata or b"", context.width, context.height, samples)


def cut(clip: Clip, frames_max: int) -> list[list[tuple[bytes, int, bool]]]:
    """Fragments that close before a key frame or when full, as the recorder does."""
    groups: list[list[tuple[bytes, int, bool]]] = []
    for sample in clip.samples:
        if not groups or sample[2] or len(groups[-1]) == frames_max:
            groups.append([])
        groups[-1].append(sample)
    return groups


def record(clip: Clip, frames_max: int, rtp_base: int) -> bytes:
    """Init segment and the CMAF fragments that the records of the clip would hold."""
    pool = ArenaPool(64 * MIB)
    data = oracle.init_segment(clip.entry, clip.config, clip.width, clip.height, 90_000)
    groups = cut(clip, frames_max)
    starts = [min(pts for _, pts, _ in group) for group in groups]
    last = max((pts for _, pts, _ in clip.samples), default=0) + 3600
    for number, (group, end) in enumerate(zip(groups, [*starts[1:], last], strict=False), 1):
        rows = [(sample, rtp_base + pts, START_NS, int(key)) for sample, pts, key in group]
        codec = 1 if clip.entry == "avc1" else 2
        fragment = Fragment.from_samples(pool, codec, 90_000, rows)
        start_ns = START_NS + starts[number - 1] * 100_000 // 9
        fragment.describe(
            camera_uid=CAMERA, stream_sequence=number, start_ns=start_ns,
            end_ns=max(START_NS + end * 100_000 // 9, start_ns), camera_ns=0, camera_offset_ns=0,
            run_id=1, width=clip.width, height=clip.height, flags=0, codec_config=clip.config,
            codec_config_id=1, recv_quantum_ns=0,
        )  # fmt: skip
        data += build_moof(fragment) + bytes(fragment.payload())
    return data


CLIPS = [
    "mp4/mp4ff_bbb_prog_10s.mp4",  # H.264 with B-frames
    "mp4/mp4ff_prog_8s.mp4",  # H.264, 8 GOPs with B-frames
    "mp4/media3_sample_no_bframes.mp4",
    "camera/car-detection.mp4",
    "mp4/media3_h265_bframes.mp4",
    "mp4/mediamtx_offline_h265.mp4",
]
RTP_BASE = (1 << 33) + 12_345  # past what 32 bits hold


def play(data: bytes) -> list[av.Packet]:
    """What FFmpeg reads. It moves all presentation times by one constant, the largest negative
    composition offset, so that none comes before its decoding time: compare differences."""
    with av.open(io.BytesIO(data), format="mp4") as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def relative(times: list[int]) -> list[int]:
    return [time - min(times) for time in times]


@pytest.mark.parametrize("name", CLIPS)
def test_pyav_gets_every_sample_and_time_back(media_dir: Path, name: str) -> None:
    clip = load(media_dir / name)
    pts = [pts for _, pts, _ in clip.samples]
    packets = play(record(clip, 128, RTP_BASE))
    assert [bytes(packet) for packet in packets] == [data for data, _, _ in clip.samples]
    assert relative([packet.pts for packet in packets]) == relative(pts)
    assert [packet.is_keyframe for packet in packets] == [key for *_, key in clip.samples]
    assert [packet.dts for packet in packets] == [RTP_BASE + time for time in sorted(pts)]


@pytest.mark.parametrize("name", CLIPS)
def test_pyav_decodes_every_picture_in_order(media_dir: Path, name: str) -> None:
    clip = load(media_dir / name)
    with av.open(io.BytesIO(record(clip, 128, RTP_BASE)), format="mp4") as container:
        times = [frame.pts for frame in container.decode(video=0)]
    assert relative(times) == relative(sorted(pts for _, pts, _ in clip.samples))


def test_fragments_cut_inside_a_group_of_pictures(media_dir: Path) -> None:
    """The recorder may close anywhere: each fragment alone has exact data and spacing."""
    clip = load(media_dir / CLIPS[0])
    init = record(Clip(clip.entry, clip.config, clip.width, clip.height, []), 7, 0)
    data = record(clip, 7, RTP_BASE)
    parts = list(oracle.boxes(data))[2:]
    groups = cut(clip, 7)
    assert len(parts) == 2 * len(groups) and len(groups) > 30
    for group, moof, mdat in zip(groups, parts[::2], parts[1::2], strict=True):
        packets = play(init + oracle.box("moof", moof.body) + oracle.box("mdat", mdat.body))
        pts = [pts for _, pts, _ in group]
        assert [bytes(packet) for packet in packets] == [data for data, _, _ in group]
        assert relative([packet.pts for packet in packets]) == relative(pts)
        assert [packet.dts for packet in packets] == [RTP_BASE + time for time in sorted(pts)]


@pytest.mark.skipif(FFPROBE is None, reason="ffprobe is not installed; PyAV covers the same")
@pytest.mark.parametrize("name", CLIPS)
def test_ffprobe_has_no_complaint(media_dir: Path, tmp_path: Path, name: str) -> None:
    clip = load(media_dir / name)
    path = tmp_path / "clip.mp4"
    path.write_bytes(record(clip, 128, RTP_BASE))
    assert FFPROBE is not None
    command = [FFPROBE, "-v", "warning", "-count_frames", "-select_streams", "v"]
    command += ["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert int(done.stdout.strip().strip(",")) == len(clip.samples)
