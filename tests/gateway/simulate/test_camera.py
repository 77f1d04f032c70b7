"""Simulated cameras over real sockets: what arrives is the footage, to the byte and in time."""

import asyncio
import struct
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.media.codec import Codec, nal_type
from gateway.rtsp.messages import Credentials
from gateway.rtsp.parser import InterleavedFrame, MessageParser
from gateway.simulate.camera import CameraSettings, SimulatedCameras
from gateway.simulate.footage import CLOCK_RATE, Footage, FootageError, load_footage
from tests.sim.viewer import AccessUnits, Viewer

FAST = Fraction(500)  # frames a second: real files in a fraction of their time
H264_FILES = ["h264/BA1_FT_C.264", "h264/bbb_480x270_aud_bframes.h264", "h264/SVA_Base_B.264"]
H265_FILES = ["h265/hevc.265", "h265/akiyo.x265.qp_30.265", "mp4/media3_h265_bframes.mp4"]


def short(media_dir: Path, name: str = "h264/BA_MW_D.264") -> Footage:
    return load_footage(media_dir / name, frames_per_second=FAST)


@pytest.mark.parametrize("name", H264_FILES + H265_FILES)
async def test_a_file_played_once_arrives_whole(media_dir: Path, name: str) -> None:
    footage = short(media_dir, name)
    async with SimulatedCameras(footage, CameraSettings(once=True)) as sim:
        async with Viewer(sim.url(0)) as viewer:
            await viewer.play()
            units = AccessUnits(footage.codec, await viewer.read_to_end())
        assert units.samples() == [unit.sample for unit in footage.access_units]
        first = footage.access_units[0].presentation_ticks
        assert units.elapsed_ticks() == [
            unit.presentation_ticks - first for unit in footage.access_units
        ]
        assert viewer.said_goodbye
        (played,) = sim.played(0)
        assert (played.frames_sent, played.first_frame, played.ended) == (len(units), 0, True)
        async with Viewer(sim.url(0)) as late:
            assert await late.request("DESCRIBE") == 404, "it played once"


async def test_rounds_follow_each_other_in_time(media_dir: Path) -> None:
    footage = short(media_dir, "h264/SVA_Base_B.264")
    async with SimulatedCameras(footage) as sim, Viewer(sim.url(0)) as viewer:
        await viewer.play()
        count = len(footage.access_units)
        units = AccessUnits(footage.codec, await viewer.read_packets_until(3 * count))
    step = CLOCK_RATE // FAST
    assert units.elapsed_ticks() == [step * n for n in range(3 * count)]
    samples = [unit.sample for unit in footage.access_units]
    assert units.samples() == samples * 3
    assert units.sequence_is_gapless()


async def test_frames_come_at_the_rate_of_the_file(media_dir: Path) -> None:
    footage = load_footage(media_dir / "h264/BA_MW_D.264", frames_per_second=Fraction(50))
    async with SimulatedCameras(footage) as sim, Viewer(sim.url(0)) as viewer:
        await viewer.play()
        await viewer.read_packets_until(1)
        begun = time.monotonic()
        await viewer.read_packets_until(26)
        took = time.monotonic() - begun
    assert 0.45 < took < 1.0, "25 intervals of 20 ms; a busy machine may be late, never early"


async def test_several_cameras_and_several_viewers_of_one(media_dir: Path) -> None:
    pieces = [short(media_dir, "h264/SVA_Base_B.264"), short(media_dir, "h265/motion_320x240.h265")]
    async with SimulatedCameras(pieces, CameraSettings(cameras=3, once=True)) as sim:
        cameras = [0, 1, 2, 2]
        viewers = [Viewer(sim.url(camera)) for camera in cameras]
        for viewer in viewers:
            await viewer.connect()
            await viewer.play()
        for camera, viewer in zip(cameras, viewers, strict=True):
            footage = pieces[camera % 2]
            assert sim.footage_of(camera).access_units == footage.access_units
            units = AccessUnits(footage.codec, await viewer.read_to_end())
            assert units.samples() == [unit.sample for unit in footage.access_units]
            await viewer.close()
        assert len({played.ssrc for played in sim.played()}) == 4
        assert await Viewer.status_of("DESCRIBE", sim.url(3)) == 404


async def test_a_viewer_that_does_not_read_loses_nothing(media_dir: Path) -> None:
    footage = short(media_dir, "h264/VID_1280x720_cabac_temporal_direct.264")
    settings = CameraSettings(cameras=2, once=True, send_buffer_bytes=65_536)
    async with SimulatedCameras(footage, settings) as sim:
        async with Viewer(sim.url(0), receive_buffer=8192) as slow, Viewer(sim.url(1)) as quick:
            await slow.play()
            await quick.play()
            wanted = [unit.sample for unit in footage.access_units]
            assert AccessUnits(Codec.H264, await quick.read_to_end()).samples() == wanted
            (stalled,) = sim.played(0)
            assert stalled.stall_count > 0 and stalled.frames_sent < len(wanted)
            assert AccessUnits(Codec.H264, await slow.read_to_end()).samples() == wanted
        (stalled,) = sim.played(0)
        assert stalled.frames_sent == len(wanted)
        assert sim.played(1)[0].stall_count == 0


async def test_parameter_sets_in_the_description_only(media_dir: Path) -> None:
    footage = short(media_dir)
    settings = CameraSettings(once=True, parameter_sets_in_sdp_only=True)
    async with SimulatedCameras(footage, settings) as sim, Viewer(sim.url(0)) as viewer:
        await viewer.play()
        units = AccessUnits(Codec.H264, await viewer.read_to_end())
        assert b"sprop-parameter-sets=" in viewer.description
        assert units.samples() == [unit.sample for unit in sim.footage_of(0).access_units]
    kinds = {nal_type(Codec.H264, nal) for unit in units.units for nal in unit}
    assert kinds == {1, 5}


async def test_a_lossy_network(media_dir: Path) -> None:
    footage = short(media_dir, "h264/BA1_FT_C.264")
    settings = CameraSettings(once=True, drop_every=10)
    async with SimulatedCameras(footage, settings) as sim, Viewer(sim.url(0)) as viewer:
        await viewer.play()
        packets = await viewer.read_to_end()
        (played,) = sim.played(0)
    assert len(packets) == played.packets_sent
    numbers = [struct.unpack_from("!H", packet, 2)[0] for packet in packets]
    lost = sum((b - a - 1) & 0xFFFF for a, b in pairwise(numbers))
    total = played.packets_sent + played.packets_dropped
    assert played.packets_dropped == total // 10
    assert lost in (played.packets_dropped, played.packets_dropped - 1)  # the last may be lost too


async def test_sender_reports_tie_both_clocks(media_dir: Path) -> None:
    footage = load_footage(media_dir / "h264/BA_MW_D.264", frames_per_second=Fraction(50))
    ahead_ns = 3_600 * 10**9
    settings = CameraSettings(sender_report_interval_s=0.1, camera_clock_offset_ns=ahead_ns)
    async with SimulatedCameras(footage, settings) as sim, Viewer(sim.url(0)) as viewer:
        await viewer.play()
        packets = await viewer.read_packets_until(30)
        now_ns = time.time_ns()
    assert len(viewer.reports) >= 4
    (_, _, _, ssrc, *_), *_ = [
        struct.unpack("!BBHIIIIII", report[:28]) for report in viewer.reports
    ]
    assert ssrc == struct.unpack_from("!I", packets[0], 8)[0]
    anchors = []
    for report in viewer.reports:
        _, _, _, _, seconds, fraction, rtp, count, octets = struct.unpack("!BBHIIIIII", report[:28])
        utc_ns = (seconds - 2_208_988_800) * 10**9 + (fraction * 10**9 >> 32)
        anchors.append(utc_ns - rtp * 10**9 // CLOCK_RATE)
        assert abs(utc_ns - ahead_ns - now_ns) < 5 * 10**9
        assert octets >= count
    assert max(anchors) - min(anchors) < 20_000_000, "one straight line through all reports"


async def test_a_password(media_dir: Path) -> None:
    settings = CameraSettings(credentials=Credentials("admin", "p@ss:w/rd"))
    async with SimulatedCameras(short(media_dir), settings) as sim:
        assert sim.url(0).startswith("rtsp://admin:p%40ss%3Aw%2Frd@127.0.0.1:")
        assert await Viewer.status_of("DESCRIBE", sim.url(0, with_credentials=False)) == 401
        assert await Viewer.status_of("OPTIONS", sim.url(0, with_credentials=False)) == 200


async def test_hold_ends_between_access_units(media_dir: Path) -> None:
    footage = short(media_dir)
    async with SimulatedCameras(footage) as sim:
        async with Viewer(sim.url(0)) as viewer:
            await viewer.play()
            packets = await viewer.read_packets_until(10)
            sim.hold()
            (held,) = sim.played(0)
            async with asyncio.TaskGroup() as tasks:
                rest = tasks.create_task(viewer.read_to_end())
                tasks.create_task(sim.stop())
            units = AccessUnits(Codec.H264, packets + rest.result())
        assert len(units) == held.frames_sent == sim.played(0)[0].frames_sent
        wanted = [unit.sample for unit in footage.access_units] * 2
        assert units.samples() == wanted[: len(units)]


async def test_a_camera_can_fail_and_come_back(media_dir: Path) -> None:
    async with SimulatedCameras(short(media_dir), CameraSettings(cameras=2)) as sim:
        viewer, other = Viewer(sim.url(0)), Viewer(sim.url(1))
        async with viewer, other:
            await viewer.play()
            await other.play()
            sim.switch_off(0)
            await viewer.read_to_end()
            assert await Viewer.status_of("DESCRIBE", sim.url(0)) == 404
            assert len(await other.read_packets_until(20)) >= 20
            sim.switch_on(0)
            assert await Viewer.status_of("DESCRIBE", sim.url(0)) == 200


async def test_teardown_and_silence_end_a_session(media_dir: Path) -> None:
    settings = CameraSettings(session_timeout_s=0, sender_report_interval_s=0.05)
    async with SimulatedCameras(short(media_dir), settings) as sim, Viewer(sim.url(0)) as silent:
        await silent.play()
        await asyncio.wait_for(silent.read_to_end(), 5)
    async with SimulatedCameras(short(media_dir)) as sim:
        async with Viewer(sim.url(0)) as viewer:
            await viewer.play()
            await viewer.send("TEARDOWN")
            await asyncio.wait_for(viewer.read_to_end(), 5)
            assert viewer.statuses[-1] == 200
        (played,) = sim.played(0)
        assert played.ended


async def test_garbage_from_a_client_ends_that_client_only(media_dir: Path) -> None:
    async with SimulatedCameras(short(media_dir)) as sim, Viewer(sim.url(0)) as viewer:
        await viewer.play()
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(b"\x16\x03\x01 a TLS client hello")
        assert b"RTSP/1.0 400" in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await viewer.read_packets_until(10)


async def test_the_first_media_packet_follows_the_answer_to_play(media_dir: Path) -> None:
    """On the raw bytes: a client may bind its channels when PLAY is answered, not before."""
    async with SimulatedCameras(short(media_dir)) as sim, Viewer(sim.url(0)) as viewer:
        await viewer.set_up()
        await viewer.send("PLAY")
        data = b""
        while data.count(b"$") < 3:
            data += await viewer.read_raw()
    items = list(MessageParser().feed(data))
    assert not isinstance(items[0], InterleavedFrame)
    assert all(isinstance(item, InterleavedFrame) for item in items[1:])


async def test_footage_that_does_not_suit_the_settings_is_refused(media_dir: Path) -> None:
    footage = load_footage(media_dir / "h264/Error_I_P.264")
    with pytest.raises(FootageError, match="change inside"):
        SimulatedCameras(footage, CameraSettings(parameter_sets_in_sdp_only=True))


async def test_a_taken_port_is_an_error(media_dir: Path) -> None:
    async with SimulatedCameras(short(media_dir)) as sim:
        second = SimulatedCameras(short(media_dir), CameraSettings(port=sim.port))
        with pytest.raises(OSError):
            second.start()


async def test_spread_starts_begin_at_different_key_pictures(media_dir: Path) -> None:
    footage = short(media_dir, "h264/bbb_480x270_aud_bframes.h264")
    settings = CameraSettings(cameras=3, spread_start=True)
    async with SimulatedCameras(footage, settings) as sim:
        starts = []
        for camera in range(3):
            async with Viewer(sim.url(camera)) as viewer:
                await viewer.play()
                packets = await viewer.read_packets_until(8)
            units = AccessUnits(Codec.H264, packets)
            first = sim.played(camera)[0].first_frame
            wanted = [unit.sample for unit in footage.access_units[first : first + len(units)]]
            assert units.samples() == wanted and footage.access_units[first].key
            starts.append(first)
    assert len(set(starts)) == 3
