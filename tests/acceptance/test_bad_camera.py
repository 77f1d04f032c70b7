"""Goal: whatever a camera does, its own feed says what is wrong in a typed error, the time is a gap
with that cause, and a healthy feed beside it on the same loop loses nothing.

All of them misbehave at the same time, beside one healthy camera, into one recorder; each test then
looks at one. The rows about cameras in docs/ref/errors.md name a test here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
import uvloop

from gateway.ingest.model import FeedEvent, FeedEventKind, FeedStatus
from gateway.rtsp.messages import Credentials
from gateway.simulate.camera import CameraSettings, SimulatedCameras
from gateway.simulate.footage import load_footage
from gateway.simulate.shipped import CAR_PARK_H264
from storage.base.gap import Gap, GapCause
from storage.base.timebase import SECOND_NS, TimeRange
from tests.acceptance import hostile, oracle
from tests.acceptance.feeds import Feeds, feeding
from tests.acceptance.rig import MIB, Ground, cut, working

HUGE_NAL_BYTES = 100_000_000
HUGE_AT = 25
TICKS = 3600  # 25 pictures a second
PASSWORD = "correct horse"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one feed."""

    status: FeedStatus
    lost: tuple[FeedEvent, ...]
    nal_units: tuple[bytes, ...]
    gaps: tuple[Gap, ...]

    def first_loss(self) -> FeedEvent:
        assert self.lost, "the feed was never lost"
        return self.lost[0]

    def causes(self) -> set[GapCause]:
        return {gap.cause for gap in self.gaps}


def pictures() -> list[tuple[bytes, ...]]:
    """The first pictures of the footage that ships, parameter sets in front."""
    units = load_footage(CAR_PARK_H264).access_units
    return [unit.nal_units for unit in units[:50]]


PICTURES = pictures()
SETS = [nal for nal in PICTURES[0] if oracle.is_set(oracle.H264, nal)]


async def nothing(writer: asyncio.StreamWriter) -> None:
    """Plays, and sends not a packet."""


async def foreign(writer: asyncio.StreamWriter) -> None:
    """RTP of a payload type that nobody announced, for ever."""
    rtp = hostile.Rtp(payload_type=33)
    for number in range(10_000):
        writer.write(rtp.picture([b"\x47" + bytes(187)], number * TICKS))
        await writer.drain()
        await asyncio.sleep(0.01)


async def huge(writer: asyncio.StreamWriter) -> None:
    """Pictures for ever, in the place of one of them a NAL unit of 100 MB."""
    rtp = hostile.Rtp()
    for number in itertools.count():
        if number == HUGE_AT:
            for packet in rtp.fu_a(0x65, HUGE_NAL_BYTES, number * TICKS, last=True):
                writer.write(packet)
                await writer.drain()
            continue
        writer.write(rtp.picture(PICTURES[number % len(PICTURES)], number * TICKS))
        await writer.drain()
        await asyncio.sleep(0.02)


async def breaks_off(writer: asyncio.StreamWriter) -> None:
    """Ten pictures, and half of the next packet; then the cable is cut."""
    rtp = hostile.Rtp()
    for number, nal_units in enumerate(PICTURES[:10]):
        writer.write(rtp.picture(nal_units, number * TICKS))
        await writer.drain()
        await asyncio.sleep(0.04)
    writer.write(rtp.picture(PICTURES[10], 10 * TICKS)[:100])
    await writer.drain()
    writer.close()


async def derails(writer: asyncio.StreamWriter) -> None:
    """Ten pictures, then bytes that are neither RTP nor RTSP."""
    rtp = hostile.Rtp()
    for number, nal_units in enumerate(PICTURES[:10]):
        writer.write(rtp.picture(nal_units, number * TICKS))
        await writer.drain()
        await asyncio.sleep(0.04)
    writer.write(random.Random(5).randbytes(20_000).replace(b"$", b"#"))
    await writer.drain()
    await asyncio.sleep(60)


def absurd_sdp() -> str:
    """Everything in it is out of bounds."""
    return (
        "v=0\r\no=- 1 1 IN IP4 999.999.999.999\r\ns=\r\nt=0 0\r\n"
        "m=video 99999999 RTP/AVP 300 -7 x\r\n"
        "a=rtpmap:300 H264/0\r\na=rtpmap:-7 H264/99999999999999999999\r\n"
        "a=fmtp:300 sprop-parameter-sets=%%%%,====,\r\na=control:\r\n"
    )


AUDIO_SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=radio\r\nt=0 0\r\n"
    "m=audio 0 RTP/AVP 0\r\na=control:trackID=1\r\n"
)
NOISE = random.Random(11).randbytes(4096).replace(b"$", b"%")
GOOD_SDP = hostile.sdp_of(SETS)
SCRIPTS: dict[str, hostile.Script] = {
    "silent": hostile.silent,
    "noise": hostile.garbage(NOISE),
    "web server": hostile.garbage(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "endless header": hostile.garbage(b"RTSP/1.0 200 OK\r\nX: " + b"x" * 100_000),
    "absurd sdp": hostile.camera(absurd_sdp()),
    "huge sdp": hostile.camera(GOOD_SDP + "a=x:" + "y" * 60_000 + "\r\n"),
    "binary sdp": hostile.camera(random.Random(3).randbytes(3000)),
    "audio only": hostile.camera(AUDIO_SDP),
    "never plays": hostile.camera(GOOD_SDP, nothing),
    "foreign media": hostile.camera(GOOD_SDP, foreign),
    "huge nal": hostile.camera(GOOD_SDP, huge),
    "breaks off": hostile.camera(GOOD_SDP, breaks_off),
    "derails": hostile.camera(GOOD_SDP, derails),
}


@contextlib.asynccontextmanager
async def street() -> AsyncIterator[dict[str, str]]:
    """Every bad camera listening; their URLs by name."""
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for name, script in SCRIPTS.items():
            urls[name] = await stack.enter_async_context(hostile.listening(script))
        locked = SimulatedCameras(
            load_footage(CAR_PARK_H264),
            CameraSettings(credentials=Credentials("admin", PASSWORD)),
        )
        sim = await stack.enter_async_context(locked)
        urls["wrong password"] = sim.url(0).replace("correct%20horse", "wrong")
        urls["no password"] = sim.url(0, with_credentials=False)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        urls["refused"] = f"rtsp://127.0.0.1:{port}/stream"
        urls["unknown name"] = "rtsp://camera.invalid/stream"
        yield urls


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The whole street, recorded once."""
    folder = tmp_path_factory.mktemp("street")
    ground = Ground(folder / "city")
    ground.add_volume(slots=16, slot_bytes=4 * MIB)
    return uvloop.run(_record(ground, folder))


async def _record(ground: Ground, folder: Path) -> dict[str, Outcome]:
    healthy = load_footage(CAR_PARK_H264, frames_per_second=Fraction(60))
    with working(ground) as works:
        async with (
            street() as urls,
            SimulatedCameras(healthy, CameraSettings(once=True)) as sim,
            feeding(works.recorder) as feeds,
        ):
            assert f":{PASSWORD}@" not in urls["wrong password"]
            feeds.add("healthy", sim.url(0))
            for name, url in urls.items():
                feeds.add(name.replace(" ", "-"), url)
            await sim.all_played()
            for name in urls.keys() - {"huge nal"}:
                await feeds.until(f"{name} to fail", lambda n=name: _failed(feeds, n))
            statuses = {name: feeds.status(name.replace(" ", "-")) for name in urls}
            statuses["healthy"] = feeds.status("healthy")
        uids = feeds.uids
        events = feeds.events
    with ground.open() as store:
        found = {}
        for name, status in statuses.items():
            camera_id = name.replace(" ", "-")
            lost = [e for e in events if e.camera_id == camera_id and e.kind is FeedEventKind.LOST]
            now_ns = status.since_ns
            wanted = TimeRange(now_ns - 60 * SECOND_NS, now_ns + 60 * SECOND_NS)
            made = cut(store, camera_id, uids[camera_id], wanted)
            file = folder / "clip.mp4"
            file.write_bytes(made.data)
            nal_units: list[bytes] = []
            if made.clip.frame_count:
                nal_units = [n for s in oracle.read_track(file).samples for n in s.nal_units]
            found[name] = Outcome(status, tuple(lost), tuple(nal_units), made.clip.gaps)
        return found


def _failed(feeds: Feeds, name: str) -> bool:
    return feeds.status(name.replace(" ", "-")).last_error is not None


def test_the_healthy_feed_lost_nothing(outcomes: dict[str, Outcome]) -> None:
    healthy = outcomes["healthy"]
    units = load_footage(CAR_PARK_H264).access_units
    assert list(healthy.nal_units) == [nal for unit in units for nal in unit.nal_units]
    assert healthy.status.counters["lost_packets"] == 0
    assert healthy.causes() <= {GapCause.UNKNOWN, GapCause.CAMERA_OFFLINE}


# name -> (code, gap cause, what the text must say)
EXPECTED: dict[str, tuple[str, GapCause, str]] = {
    "wrong password": ("AUTH_FAILED", GapCause.AUTH_FAILED, "refuse"),
    "no password": ("AUTH_FAILED", GapCause.AUTH_FAILED, "credentials"),
    "refused": ("CONNECT_FAILED", GapCause.CAMERA_OFFLINE, "refused"),
    "unknown name": ("CONNECT_FAILED", GapCause.CAMERA_OFFLINE, "camera.invalid"),
    "silent": ("DEADLINE", GapCause.CAMERA_OFFLINE, "no answer to OPTIONS within 1 s"),
    "noise": ("RTSP_SYNTAX", GapCause.PROTOCOL_ERROR, "at byte"),
    "web server": ("RTSP_SYNTAX", GapCause.PROTOCOL_ERROR, "at byte"),
    "endless header": ("RTSP_LIMIT", GapCause.PROTOCOL_ERROR, "is more than"),
    "absurd sdp": ("UNSUPPORTED_MEDIA", GapCause.PROTOCOL_ERROR, "video of no format"),
    "huge sdp": ("RTSP_LIMIT", GapCause.PROTOCOL_ERROR, "is more than"),
    "binary sdp": ("SDP", GapCause.PROTOCOL_ERROR, "SDP line"),
    "audio only": ("UNSUPPORTED_MEDIA", GapCause.PROTOCOL_ERROR, "no H.264 or H.265 video track"),
    "never plays": ("STALL", GapCause.STALL, "no access unit for 1 s"),
    "foreign media": ("FOREIGN_MEDIA", GapCause.PROTOCOL_ERROR, "none of payload type 96"),
    "breaks off": ("CONNECTION_LOST", GapCause.CAMERA_OFFLINE, "closed"),
    "derails": ("RTSP_SYNTAX", GapCause.PROTOCOL_ERROR, "at byte"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_bad_camera_is_a_typed_error_and_a_gap(outcomes: dict[str, Outcome], name: str) -> None:
    """The feed's status and log line carry code and text, its archive the cause."""
    code, cause, text = EXPECTED[name]
    outcome = outcomes[name]
    loss = outcome.first_loss()
    assert (loss.code, loss.cause) == (code, cause), loss
    assert text in loss.text, loss
    assert PASSWORD not in str(outcome) and "wrong@" not in str(outcome)
    error = outcome.status.last_error
    assert error is not None and error.remedy, "an error says what to do"
    assert cause in outcome.causes()


def test_a_wrong_password_costs_one_login_a_connection(outcomes: dict[str, Outcome]) -> None:
    """Cameras lock accounts: after a refusal the feed waits, and tries no other scheme (C3)."""
    outcome = outcomes["wrong password"]
    assert 1 <= len(outcome.lost) <= 12, "a retry each auth_retry, not each retry"


def test_a_nal_unit_of_100_mb_costs_one_picture(outcomes: dict[str, Outcome]) -> None:
    """It is dropped as oversize, the feed stays connected, and everything else is there."""
    outcome = outcomes["huge nal"]
    assert outcome.lost == () and outcome.status.reconnects == 0
    assert outcome.status.counters["oversize_access_units"] == 1
    sent = [nal for n in range(500) if n != HUGE_AT for nal in PICTURES[n % len(PICTURES)]]
    got = list(outcome.nal_units)
    assert len(got) > 2 * len(PICTURES) and got == sent[: len(got)]
    assert GapCause.OVERSIZE in outcome.causes()


@pytest.mark.parametrize("name", ["breaks off", "derails"])
def test_what_came_before_the_end_is_stored(outcomes: dict[str, Outcome], name: str) -> None:
    """Each connection brought ten whole pictures, the last one perhaps fewer: all are there."""
    one = [nal for picture in PICTURES[:10] for nal in picture]
    got = list(outcomes[name].nal_units)
    assert len(got) >= len(one)
    assert got == (one * 100)[: len(got)]
