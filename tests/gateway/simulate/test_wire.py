"""What a camera says is understood by our own readers, written from the other side of the RFCs."""

import struct
from pathlib import Path

import pytest

from gateway.rtsp.quirks import QuirkNotes
from gateway.rtsp.sdp import parse_sdp
from gateway.rtsp.tracks import select_video
from gateway.simulate.footage import load_footage
from gateway.simulate.shipped import CAR_PARK_H264, CAR_PARK_H265
from gateway.simulate.wire import goodbye, interleaved, sender_report, session_description


@pytest.mark.parametrize("path", [CAR_PARK_H264, CAR_PARK_H265])
def test_a_description_carries_codec_and_parameter_sets(path: Path) -> None:
    footage = load_footage(path)
    notes = QuirkNotes()
    description = parse_sdp(session_description(footage, 5), notes)
    (plan,) = select_video(description, "rtsp://h/cam/4/", notes)
    assert (plan.codec, plan.payload_type, plan.clock_rate) == (footage.codec, 96, 90_000)
    assert plan.control_url == "rtsp://h/cam/4/trackID=0"
    assert plan.parameter_sets == footage.parameter_sets


def test_several_pps_and_the_profile(media_dir: Path) -> None:
    footage = load_footage(media_dir / "h264/test_scalinglist_jm.264")
    text = session_description(footage, 1).decode()
    sps = footage.parameter_sets[0]
    assert f"profile-level-id={sps[1:4].hex().upper()};" in text
    (plan,) = select_video(parse_sdp(text.encode(), QuirkNotes()), "rtsp://h/", QuirkNotes())
    assert set(plan.parameter_sets) == set(footage.parameter_sets)


def test_a_sender_report_is_rfc_3550_section_6_4_1() -> None:
    packet = sender_report(0xDEADBEEF, 1_700_000_000_500_000_000, 90_001, 1 << 32, 7)
    fields = struct.unpack("!BBHIIIIII", packet[:28])
    assert fields == (0x80, 200, 6, 0xDEADBEEF, 3_908_988_800, 1 << 31, 90_001, 0, 7)
    head, kind, words, ssrc, item, length = struct.unpack("!BBHIBB", packet[28:38])
    assert (head, kind, ssrc, item) == (0x81, 202, 0xDEADBEEF, 1)
    assert packet[38 : 38 + length] == b"camera-deadbeef"
    assert len(packet) == 28 + 4 * (words + 1) and packet[-1] == 0


def test_goodbye_and_framing() -> None:
    assert goodbye(1) == b"\x81\xcb\x00\x01\x00\x00\x00\x01"
    assert interleaved(3, b"abc") == b"$\x03\x00\x03abc"
