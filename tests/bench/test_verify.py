"""The checks that stand behind the figures: each of them must be able to fail."""

import dataclasses
import io
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from bench.fill import Filler, new_uids
from bench.report import Bar, CheckFailed, percentile
from bench.verify import check_mp4, read_back
from gateway.simulate.connection import Played
from gateway.simulate.footage import Footage, load_footage
from gateway.simulate.shipped import CAR_PARK_H264
from storage.layout import InstallationPaths
from storage.store import Store, VolumeConfig
from storage.volume.create import create_volume

NS = 1_000_000_000
INSTALLATION = b"i" * 16
SECONDS = 4


@pytest.fixture(scope="module")
def footage() -> Footage:
    return load_footage(CAR_PARK_H264, frames_per_second=Fraction(25))


@pytest.fixture
def archive(tmp_path: Path, footage: Footage) -> Iterator[tuple[Store, list[bytes], int]]:
    """Two cameras with four seconds each; the store, their uids, access units a camera."""
    create_volume(
        tmp_path / "volume",
        number=1,
        installation_uuid=INSTALLATION,
        size_bytes=64 << 20,
        created_ns=time.time_ns(),
        slot_size_bytes=8 << 20,
        trial=True,
    )
    paths = InstallationPaths(tmp_path)
    paths.index.mkdir()
    configs = [VolumeConfig(1, tmp_path / "volume")]
    uids = new_uids(2)
    with Store.open(paths, INSTALLATION, configs, write=True) as store:
        with Filler(store, footage) as filler:
            filler.cameras(uids, ["a", "b"], time.time_ns() - 60 * NS, SECONDS)
        yield store, uids, SECONDS * 25


def play(camera: int, frames: int, first: int = 0) -> Played:
    return Played(camera, first, frames, 0, 0, 0, 0, 0, 0, 0, True)


def test_what_was_filled_reads_back(
    archive: tuple[Store, list[bytes], int], footage: Footage
) -> None:
    store, uids, frames = archive
    found = read_back(store, footage, uids, [play(0, frames), play(1, frames)])
    assert (found.cameras, found.frames, found.gaps) == (2, 2 * frames, {})
    size = sum(len(unit.sample) for unit in footage.access_units[:frames])
    assert found.payload_bytes == 2 * size
    halves = [play(0, 30), play(0, frames - 30, first=30), play(1, frames)]
    assert read_back(store, footage, uids, halves).frames == 2 * frames


@pytest.mark.parametrize(
    ("frames", "first", "message"),
    [
        (1, 0, "access units sent, 100 stored"),
        (-1, 0, "more stored than the 99 sent"),
        (0, 1, "access unit 0 is not the one that was sent"),
    ],
)
def test_a_frame_more_or_less_or_another_fails(
    archive: tuple[Store, list[bytes], int],
    footage: Footage,
    frames: int,
    first: int,
    message: str,
) -> None:
    store, uids, count = archive
    with pytest.raises(CheckFailed, match=message):
        read_back(store, footage, uids, [play(0, count), play(1, count + frames, first)])


def test_a_changed_byte_fails(archive: tuple[Store, list[bytes], int], footage: Footage) -> None:
    store, uids, count = archive
    unit = footage.access_units[50]
    changed = unit.nal_units[-1][:-1] + bytes((unit.nal_units[-1][-1] ^ 1,))
    units = list(footage.access_units)
    units[50] = dataclasses.replace(unit, nal_units=(*unit.nal_units[:-1], changed))
    other = dataclasses.replace(footage, access_units=tuple(units))
    with pytest.raises(CheckFailed, match="access unit 50 is not the one"):
        read_back(store, other, uids, [play(0, count), play(1, count)])


def mux(footage: Footage, first: int, count: int) -> bytes:
    out = io.BytesIO()
    with av.open(str(CAR_PARK_H264)) as source, av.open(out, "w", format="mp4") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number in range(count):
            unit = footage.access_units[first + number]
            packet = av.Packet(unit.sample)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = unit.key
            container.mux(packet)
    return out.getvalue()


def test_clips_are_compared_sample_by_sample(footage: Footage) -> None:
    check_mp4(mux(footage, 0, 100), footage, 100)
    check_mp4(mux(footage, 60, 50), footage, 30)
    with pytest.raises(CheckFailed, match="100 access units, 101 were asked for"):
        check_mp4(mux(footage, 0, 100), footage, 101)
    with pytest.raises(CheckFailed, match="does not begin with a key picture"):
        check_mp4(mux(footage, 1, 50), footage, 50)
    with pytest.raises(CheckFailed, match="100 access units, 39 were asked for"):
        check_mp4(mux(footage, 0, 100), footage, 39)


def test_bars_and_percentiles() -> None:
    assert Bar("P1", "x", 1.6, 1.6, "x").as_dict()["met"]
    assert not Bar("P1", "x", 1.61, 1.6, "x").as_dict()["met"]
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.99) == 7
