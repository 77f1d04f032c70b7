"""One feed against cameras that behave, and against every way they do not. Real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cext.interleaved import ReceiveArea
from cext.track import VideoTrack
from gateway.ingest.life import FeedLife
from gateway.ingest.model import FeedEventKind, FeedState
from gateway.rtsp.auth import Challenge, digest_response
from gateway.rtsp.messages import Credentials, Request
from storage.base.gap import GapCause
from storage.volume.format import RECORD_DISCONTINUITY

from .scripted import (
    FAST,
    FRAME_S,
    SSRC,
    TICKS,
    Connection,
    Footage,
    MemorySink,
    Script,
    ScriptedCamera,
    avcc,
    feed,
)


@pytest.fixture(scope="module")
def footage(media_dir: Path) -> Footage:
    return Footage(media_dir / "h264" / "BA_MW_D.264")


def play_frames(count: int, *, first: int = 0) -> Script:
    """Play ``count`` frames, then answer requests until the client leaves."""

    async def script(camera: Connection) -> None:
        await camera.play(camera.camera.footage.sdp())
        await camera.stream(count, first=first)
        await camera.serve()

    return script


async def test_every_frame_reaches_the_sink_as_it_was_sent(footage: Footage) -> None:
    async with ScriptedCamera(footage, play_frames(60)) as camera, feed(camera.url) as running:
        await running.until(lambda: running.sink.frames >= 55)
        status = running.session.status()
        assert status.state is FeedState.PLAYING
        assert (status.codec, status.width, status.height) == ("H.264", 176, 144)
        assert status.counters["packets"] >= 55
        await running.stop()
        assert [r.method for r in camera.requests][-1] == "TEARDOWN"
    assert running.sink.payload == avcc(nal for unit in footage.units[:60] for nal in unit)
    assert not running.sink.gaps
    first, *rest = running.sink.fragments
    assert first.meta.flags & RECORD_DISCONTINUITY and first.meta.config_change
    assert not any(f.meta.flags & RECORD_DISCONTINUITY or f.meta.config_change for f in rest)
    assert len({f.meta.codec_config_id for f in running.sink.fragments}) == 1
    assert 20 < status.fps < 200 and status.bitrate_bps > 10_000


async def test_packets_before_the_play_answer_are_recorded(footage: Footage) -> None:
    async def script(camera: Connection) -> None:
        play = await camera.until_play(footage.sdp())
        await camera.stream(3)
        camera.answer(play, Session="ABC")
        await camera.stream(12, first=3)
        await camera.serve()

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: running.sink.frames >= 14)
    assert running.sink.payload.startswith(avcc(footage.units[0]))


# authentication


def digest_guard(realm: str, password: str, algorithm: str, *, qop: str) -> Script:
    """A camera that plays only for admin with ``password``."""
    challenge = Challenge(
        "digest",
        (("realm", realm), ("nonce", "n1"), ("algorithm", algorithm), ("qop", qop)),
    )
    header = f'Digest realm="{realm}", nonce="n1", algorithm={algorithm}, qop="{qop}"'

    def allowed(request: Request) -> bool:
        given = request.headers.get("Authorization")
        fields = dict(
            part.split("=", 1) for part in given.removeprefix("Digest ").split(", ") if part
        )
        expected = digest_response(
            challenge,
            Credentials("admin", password),
            request.method,
            request.uri,
            nc=int(fields.get("nc", "0"), 16),
            cnonce=fields.get("cnonce", "").strip('"'),
        )
        return fields.get("response") == f'"{expected}"' and fields["uri"] == f'"{request.uri}"'

    async def script(camera: Connection) -> None:
        sdp = camera.camera.footage.sdp()
        while True:
            request = await camera.request()
            if not allowed(request):
                camera.answer(request, 401, WWW_Authenticate=header)
            elif request.method == "DESCRIBE":
                camera.answer(request, body=sdp, Content_Type="application/sdp")
            elif request.method == "SETUP":
                transport = "RTP/AVP/TCP;unicast;interleaved=0-1"
                camera.answer(request, Session="S", Transport=transport)
            else:
                camera.answer(request, Session="S")
            if request.method == "PLAY" and allowed(request):
                await camera.stream(30)

    return script


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "MD5-sess", "SHA-256-sess"])
async def test_right_password_by_digest(footage: Footage, algorithm: str) -> None:
    script = digest_guard("cam", "p@ss:word", algorithm, qop="auth")
    async with (
        ScriptedCamera(footage, script) as camera,
        feed(camera.with_user("admin", "p%40ss%3Aword")) as running,
    ):
        await running.until(lambda: running.sink.frames > 10)
    assert not any("admin" in r.uri or "p%40ss" in r.uri for r in camera.requests)


@pytest.mark.parametrize(
    "script",
    [
        digest_guard("cam", "secret", "MD5", qop=""),
        digest_guard("cam", "secret", "SHA-256", qop="auth"),
    ],
)
async def test_wrong_password_is_one_failed_login_a_connection(
    footage: Footage, script: Script
) -> None:
    async with (
        ScriptedCamera(footage, script) as camera,
        feed(camera.with_user("admin", "guess")) as running,
    ):
        await running.until(lambda: len(running.causes()) >= 2)
    assert set(running.causes()) == {GapCause.AUTH_FAILED}
    for connection in camera.connections[:2]:
        assert sum("Authorization" in r.headers for r in connection.requests) == 1
    error = running.session.status().last_error
    assert error is not None and error.code == "AUTH_FAILED"
    assert "guess" not in error.text and "guess" not in str(running.events)


async def test_wrong_password_by_basic(footage: Footage) -> None:
    async def script(camera: Connection) -> None:
        while True:
            camera.answer(await camera.request(), 401, WWW_Authenticate='Basic realm="x"')

    async with (
        ScriptedCamera(footage, script) as camera,
        feed(camera.with_user("admin", "guess")) as running,
    ):
        await running.until(lambda: bool(running.causes()))
        assert running.causes() == [GapCause.AUTH_FAILED]
        # Slower than after any other failure: 0.3 s x (0.5 .. 1), not 0.02 s.
        await asyncio.sleep(0.1)
        assert len(camera.connections) == 1


async def test_a_stale_nonce_in_mid_session_does_not_end_it(footage: Footage) -> None:
    """The keep-alive is challenged anew, and answered; recording goes on."""
    answered = asyncio.Event()

    async def script(camera: Connection) -> None:
        nonces = iter(("n1", "n2"))
        nonce = next(nonces)
        header = 'Digest realm="r", nonce="{}"{}'
        first = await camera.request("OPTIONS")
        camera.answer(first, 401, WWW_Authenticate=header.format(nonce, ""))
        await camera.play(footage.sdp(), session="ABC;timeout=2")
        streaming = asyncio.create_task(camera.stream(300))
        keepalive = await camera.request("OPTIONS")
        assert 'nonce="n1"' in keepalive.headers.get("Authorization")
        stale = header.format(next(nonces), ", stale=true")
        camera.answer(keepalive, 401, WWW_Authenticate=stale)
        again = await camera.request("OPTIONS")
        assert 'nonce="n2"' in again.headers.get("Authorization")
        camera.answer(again, Session="ABC")
        answered.set()
        await streaming
        await camera.serve()

    async with (
        ScriptedCamera(footage, script) as camera,
        feed(camera.with_user("u", "p")) as running,
    ):
        await running.until(answered.is_set)
        frames = running.sink.frames
        await running.until(lambda: running.sink.frames > frames + 10)
        assert not running.causes()


# no connection, no handshake


async def test_refused_connection(footage: Footage) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    async with feed(f"rtsp://127.0.0.1:{port}/") as running:
        await running.until(lambda: len(running.causes()) >= 3)
        assert set(running.causes()) == {GapCause.CAMERA_OFFLINE}
        assert set(running.codes()) == {"CONNECT_FAILED"}


async def test_unknown_host() -> None:
    async with feed("rtsp://no-such-host.invalid/") as running:
        await running.until(lambda: bool(running.causes()))
        error = running.session.status().last_error
        assert error is not None and "no-such-host.invalid" in error.text


async def test_a_host_that_accepts_and_says_nothing(footage: Footage) -> None:
    async def silent(camera: Connection) -> None:
        await camera.reader.read()

    settings = replace(FAST, handshake_timeout_s=0.15)
    async with ScriptedCamera(footage, silent) as camera, feed(camera.url, settings) as running:
        await running.until(lambda: bool(running.causes()))
        assert running.codes()[0] == "DEADLINE"
        assert running.causes()[0] is GapCause.CAMERA_OFFLINE


async def test_a_host_that_drops_every_packet() -> None:
    """A full backlog: the kernel answers no SYN, as a firewall that drops does."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        settings = replace(FAST, connect_timeout_s=0.15)
        async with feed(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/", settings) as running:
            await running.until(lambda: bool(running.causes()))
            assert running.codes()[0] == "DEADLINE"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "RTSP_SYNTAX"),
        (b"\x16\x03\x01\x02\x00garbage" * 20, "RTSP_SYNTAX"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "RTSP_SYNTAX"),
        (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 999999999\r\n\r\n", "RTSP_LIMIT"),
        (b"RTSP/1.0 200 OK\r\nX: " + b"a" * 100_000, "RTSP_LIMIT"),
    ],
)
async def test_garbage_instead_of_rtsp(footage: Footage, answer: bytes, code: str) -> None:
    async def script(camera: Connection) -> None:
        await camera.request()
        camera.writer.write(answer)
        await camera.reader.read()

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: bool(running.causes()))
        assert running.codes()[0] == code
        assert running.causes()[0] is GapCause.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("sdp", "code"),
    [
        (b"", "SDP"),
        (b"\x00\xff\xfe" * 100, "SDP"),
        (b"v=0\r\ns=x\r\n", "SDP"),
        (b"v=0\r\n" + b"m=video 0 RTP/AVP 96\r\n" * 500, "RTSP_LIMIT"),
        (b"v=0\r\nm=audio 0 RTP/AVP 0\r\n", "UNSUPPORTED_MEDIA"),
        (b"v=0\r\nm=video 0 RTP/AVP 26\r\n", "UNSUPPORTED_MEDIA"),
        (b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 AV1/90000\r\n", "UNSUPPORTED_MEDIA"),
        (
            b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:rtsp://[\r\n",
            "RTSP_SYNTAX",
        ),
    ],
)
async def test_absurd_sdp(footage: Footage, sdp: bytes, code: str) -> None:
    async def script(camera: Connection) -> None:
        camera.answer(await camera.request("OPTIONS"))
        camera.answer(await camera.request("DESCRIBE"), body=sdp, Content_Type="application/sdp")
        await camera.reader.read()

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: bool(running.causes()))
        assert running.codes()[0] == code
        assert running.causes()[0] is GapCause.PROTOCOL_ERROR


@pytest.mark.parametrize("url_transport", [("rtsps://127.0.0.1/", "tcp"), ("rtsp://h/", "udp")])
async def test_what_is_not_built_yet_says_so(url_transport: tuple[str, str]) -> None:
    url, transport = url_transport
    async with feed(url, transport=transport) as running:
        await running.until(lambda: bool(running.causes()))
        assert running.codes()[0] == "NOT_SUPPORTED"


async def test_redirect_is_followed_at_once(footage: Footage) -> None:
    async with ScriptedCamera(footage, play_frames(40)) as target:

        async def script(camera: Connection) -> None:
            camera.answer(await camera.request("OPTIONS"))
            camera.answer(await camera.request("DESCRIBE"), 302, Location=target.url)

        async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
            await running.until(lambda: running.sink.frames > 20)
            assert not running.causes()


async def test_redirects_are_bounded(footage: Footage) -> None:
    async def script(camera: Connection) -> None:
        camera.answer(await camera.request(), 302, Location=camera.camera.url)

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: bool(running.causes()))
        assert running.codes()[0] == "REDIRECT_REFUSED"


# losses while playing


async def test_close_in_mid_gop_and_return(footage: Footage) -> None:
    """What came before the close is stored, the time between is a gap with its cause."""

    async def leaves(camera: Connection) -> None:
        await camera.play(footage.sdp())
        await camera.stream(7)

    async with (
        ScriptedCamera(footage, leaves, play_frames(30, first=7)) as camera,
        feed(camera.url) as running,
    ):
        await running.until(lambda: running.sink.frames >= 34)
        assert running.causes() == [GapCause.CAMERA_OFFLINE]
        assert FeedEventKind.RECOVERED in [e.kind for e in running.events]
        assert running.session.status().reconnects == 1
    sink = running.sink
    assert sink.payload == avcc(nal for unit in footage.units[:37] for nal in unit)
    (gap,) = sink.gaps
    before = sink.fragments[: sink.records.index(gap)]
    after = sink.fragments[len(before)]
    assert sum(f.frame_count for f in before) == 7
    assert (gap.start_ns, gap.end_ns) == (before[-1].meta.end_ns, after.meta.start_ns)
    assert gap.cause is GapCause.CAMERA_OFFLINE and "closed" in gap.detail
    assert after.meta.flags & RECORD_DISCONTINUITY


async def test_stall_ends_the_session_in_good_order(footage: Footage) -> None:
    async with ScriptedCamera(footage, play_frames(5)) as camera, feed(camera.url) as running:
        await running.until(lambda: bool(running.causes()))
        assert running.causes()[0] is GapCause.STALL
        await running.until(lambda: len(camera.connections) >= 2)
        assert camera.connections[0].requests[-1].method == "TEARDOWN"
        await running.until(lambda: bool(running.sink.gaps))
        assert running.sink.gaps[0].cause is GapCause.STALL
    assert running.sink.payload.startswith(avcc(n for u in footage.units[:5] for n in u))


async def test_unknown_payload_type_is_no_silence(footage: Footage) -> None:
    async def script(camera: Connection) -> None:
        await camera.play(footage.sdp())
        for index in range(80):
            camera.send_frame(index, payload_type=50)
        await camera.serve()

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: bool(running.causes()))
        assert running.codes()[0] == "FOREIGN_MEDIA"
        assert running.causes()[0] is GapCause.PROTOCOL_ERROR
        error = running.session.status().last_error
        assert error is not None and "payload type 96" in error.text
    assert not running.sink.fragments


async def test_a_foreign_stream_is_not_recorded_as_this_cameras(footage: Footage) -> None:
    """Old live555: the packets of an abandoned session arrive in somebody else's connection."""

    async def script(camera: Connection) -> None:
        transport = f"RTP/AVP/TCP;unicast;interleaved=0-1;ssrc={SSRC:08X}"
        await camera.play(footage.sdp(), transport=transport)
        for index in range(40):
            camera.send_frame(index + 50, ssrc=0xDEADBEEF)
            camera.sequence, camera.rtp = index * 20 + 1, index * TICKS
            camera.send_frame(index)
            await asyncio.sleep(FRAME_S)
        await camera.serve()

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: running.sink.frames >= 38)
        assert running.session.status().counters["wrong_ssrc"] >= 40
    stored = running.sink.payload
    assert avcc(footage.units[3]) in stored
    assert not any(avcc(unit) in stored for unit in footage.units[50:90])


async def test_a_camera_that_lies_about_its_ssrc_is_recorded_next_time(footage: Footage) -> None:
    async def script(camera: Connection) -> None:
        transport = "RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=00000001"
        await camera.play(footage.sdp(), transport=transport)
        await camera.stream(300)
        await camera.serve()

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: running.sink.frames >= 30)
        assert running.codes() == ["FOREIGN_MEDIA"]
        assert running.session.status().counters["quirk_wrong_ssrc"] == 1


async def test_keepalive_comes_at_half_the_timeout_and_454_makes_a_new_session(
    footage: Footage,
) -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def forgets(camera: Connection) -> None:
        await camera.play(footage.sdp(), session="ABC;timeout=2")
        times.append(loop.time())
        streaming = asyncio.create_task(camera.stream(400))
        keepalive = await camera.request("OPTIONS")
        times.append(loop.time())
        assert keepalive.headers.get("Session") == "ABC"
        camera.answer(keepalive, 454)
        await streaming

    async with (
        ScriptedCamera(footage, forgets, play_frames(20)) as camera,
        feed(camera.url) as running,
    ):
        await running.until(lambda: len(running.causes()) == 1)
        assert running.codes() == ["SESSION_LOST"]
        await running.until(lambda: len(camera.connections) == 2)
    assert 0.8 < times[1] - times[0] < 1.6


async def test_a_lost_packet_is_a_gap_record(footage: Footage) -> None:
    async def script(camera: Connection) -> None:
        await camera.play(footage.sdp())
        await camera.stream(10)
        camera.sequence += 3
        camera.rtp += 2 * TICKS
        await camera.stream(30, first=12)
        await camera.serve()

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: running.sink.frames >= 38)
        assert running.session.status().counters["lost_packets"] == 3
    (gap,) = running.sink.gaps
    assert (gap.cause, gap.packets) == (GapCause.PACKET_LOSS, 3)
    assert 20 <= gap.duration_ns / 1e6 <= 40


async def test_a_full_queue_becomes_a_gap_of_exactly_what_was_refused(footage: Footage) -> None:
    async with ScriptedCamera(footage, play_frames(200)) as camera, feed(camera.url) as running:
        sink = running.sink
        await running.until(lambda: sink.frames >= 10)
        sink.full = True
        counters = running.session.status().counters
        refused = counters["fragments_refused"]
        await running.until(
            lambda: running.session.status().counters["fragments_refused"] >= refused + 3
        )
        sink.full = False
        await running.until(lambda: bool(sink.gaps))
        await running.until(lambda: not isinstance(sink.records[-1], type(sink.gaps[0])))
    (gap,) = sink.gaps
    where = sink.records.index(gap)
    before, after = sink.records[where - 1], sink.records[where + 1]
    assert gap.cause is GapCause.QUEUE_FULL
    assert abs(gap.start_ns - before.meta.end_ns) < 2_000_000  # type: ignore[union-attr]
    assert abs(gap.end_ns - after.meta.start_ns) < 2_000_000  # type: ignore[union-attr]


async def test_a_new_picture_size_is_a_new_configuration_without_a_lost_frame(
    footage: Footage, media_dir: Path
) -> None:
    other = Footage(media_dir / "h264" / "MPS_MW_A.264")

    async def script(camera: Connection) -> None:
        await camera.play(footage.sdp())
        await camera.stream(10)
        camera.camera.footage = other
        await camera.stream(20)
        camera.camera.footage = footage
        await camera.serve()

    async with ScriptedCamera(footage, script) as camera, feed(camera.url) as running:
        await running.until(lambda: running.sink.frames >= 29)
    sink = running.sink
    units = [*footage.units[:10], *other.units[:20]]
    assert sink.payload == avcc(nal for unit in units for nal in unit)
    ids = [f.meta.codec_config_id for f in sink.fragments]
    assert ids == sorted(ids) and len(set(ids)) == 2
    changes = [f.meta.config_change for f in sink.fragments]
    assert sum(changes) == 2 and changes[0] and changes[ids.index(ids[-1])]
    assert not sink.gaps


# restart, stop, bugs


async def test_the_time_our_process_was_down_is_a_gap(footage: Footage) -> None:
    async with ScriptedCamera(footage, play_frames(20)) as camera:
        async with feed(camera.url) as running:
            await running.until(lambda: running.sink.frames >= 15)
        end_ns = running.sink.last_end_ns
        await asyncio.sleep(0.2)
        sink = MemorySink(last_end_ns=end_ns)
        async with feed(camera.url, sink=sink) as running:
            await running.until(lambda: sink.frames >= 15)
    assert sink.gaps[0].start_ns == end_ns
    assert sink.gaps[0].cause is GapCause.RECORDER_RESTART
    assert sink.gaps[0].end_ns == sink.fragments[0].meta.start_ns


async def test_stopping_while_away_writes_the_outage(footage: Footage) -> None:
    sink = MemorySink(last_end_ns=1_000_000_000)
    async with feed("rtsp://127.0.0.1:1/", sink=sink) as running:
        await running.until(lambda: len(running.causes()) >= 2)
    assert [g.cause for g in sink.gaps] == [GapCause.RECORDER_RESTART, GapCause.CAMERA_OFFLINE]
    assert sink.gaps[0].start_ns == 1_000_000_000
    assert sink.gaps[0].end_ns == sink.gaps[1].start_ns


async def test_a_bug_restarts_its_own_feed_only(footage: Footage) -> None:
    area = ReceiveArea()
    async with (
        ScriptedCamera(footage, play_frames(100)) as camera,
        feed(camera.url, area=area, camera_id="good") as good,
        feed(camera.url, area=area, camera_id="bad") as bad,
    ):
        bad.sink.broken = RuntimeError("a bug")
        await bad.until(lambda: len(bad.causes()) >= 2)
        reports = [e for e in bad.events if e.kind is FeedEventKind.INTERNAL_ERROR]
        assert reports and "RuntimeError: a bug" in reports[0].text and "submit" in reports[0].text
        bad.sink.broken = None
        await bad.until(lambda: bad.sink.frames > 10)
        await good.until(lambda: good.sink.frames > 80)
        assert not good.causes()
    assert not good.sink.gaps


async def test_cancelled_in_every_phase_it_leaves_nothing_behind(footage: Footage) -> None:
    async with ScriptedCamera(footage, play_frames(50)) as camera:
        for delay_s in (0, 0.001, 0.003, 0.01, 0.03, 0.1):
            async with feed(camera.url) as running:
                await asyncio.sleep(delay_s)
            assert running.session.status().state is FeedState.STOPPED


async def test_a_life_that_ended_is_freed_without_the_collector(footage: Footage) -> None:
    """A worker runs with the collector all but off: a camera that flaps must not leak."""

    async def leaves(camera: Connection) -> None:
        await camera.play(footage.sdp())
        await camera.stream(3)

    gc.collect()
    gc.disable()
    try:
        async with ScriptedCamera(footage, leaves) as camera, feed(camera.url) as running:
            await running.until(lambda: len(running.causes()) >= 8)
            alive = sum(isinstance(o, FeedLife | VideoTrack) for o in gc.get_objects())
            assert alive <= 4, "the present one, and one that is leaving"
    finally:
        gc.enable()
