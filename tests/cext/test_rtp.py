"""RTP headers, sender reports and sequence order, against the slow twin."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.errors import FrameError
from cext.rtp import Sequencer, parse_packet, parse_sender_report
from tests.oracle import rtp as oracle

GOOD = oracle.build_packet(b"payload", sequence=7, timestamp=9, marker=True, payload_type=97)


@pytest.mark.parametrize(
    ("packet", "rule"),
    [
        (b"", "12 bytes"),
        (GOOD[:11], "12 bytes"),
        (b"\x40" + GOOD[1:], "version"),
        (b"\x8f" + GOOD[1:13], "CSRC"),
        (b"\x90" + GOOD[1:12] + b"\x00", "extension"),
        (b"\x90" + GOOD[1:12] + b"\x00\x00\x00\x02abcd", "extension"),
        (b"\xa0" + GOOD[1:12] + b"\x00", "padding"),
        (b"\xa0" + GOOD[1:12] + b"\x02", "padding"),
    ],
)
def test_a_broken_packet_names_the_rule(packet: bytes, rule: str) -> None:
    with pytest.raises(FrameError, match=rule) as caught:
        parse_packet(packet)
    assert caught.value.offset in (0, 12)


def test_csrc_extension_and_padding_are_not_payload() -> None:
    packet = (
        b"\xb2"
        + GOOD[1:12]
        + b"CSRCcsrc"
        + b"\xbe\xde\x00\x01"
        + b"exte"
        + b"data"
        + b"\x00\x00\x03"
    )
    assert parse_packet(packet).payload == b"data"


def test_a_packet_with_csrc_of_another_project(media_dir: Path) -> None:
    data = (media_dir / "webrtc/aiortc_rtp_with_csrc.bin").read_bytes()
    packet = parse_packet(data)
    assert (packet.payload_type, packet.sequence, packet.timestamp) == (0, 16082, 144)
    assert packet.payload == data[12 + 4 * (data[0] & 15) :]


@given(st.binary(max_size=80))
def test_any_bytes_parse_as_in_the_twin(data: bytes) -> None:
    check(data)


@given(
    st.integers(0, 255), st.integers(0, 255), st.binary(min_size=10, max_size=60), st.integers(0, 4)
)
def test_any_plausible_packet_parses_as_in_the_twin(
    flags: int, kind: int, rest: bytes, words: int
) -> None:
    check(bytes([flags & 0x3F | 0x80, kind]) + rest + b"\xbe\xde\x00" + bytes([words]) + bytes(12))


def check(data: bytes) -> None:
    expected = oracle.parse_packet(data)
    if expected is None:
        with pytest.raises(FrameError):
            parse_packet(data)
    else:
        got = parse_packet(data)
        assert expected == oracle.Packet(
            got.payload_type, got.marker, got.sequence, got.timestamp, got.ssrc, got.payload
        )


def test_a_sender_report_of_another_project(media_dir: Path) -> None:
    data = (media_dir / "webrtc/aiortc_rtcp_sr.bin").read_bytes()
    ntp = int.from_bytes(data[8:16], "big")
    seconds = (ntp >> 32) - 2208988800
    expected_ns = seconds * 10**9 + ((ntp & 0xFFFFFFFF) * 10**9 >> 32)
    assert parse_sender_report(data) == (
        int.from_bytes(data[4:8], "big"),
        int.from_bytes(data[16:20], "big"),
        expected_ns,
    )


@pytest.mark.parametrize(
    "name", ["aiortc_rtcp_rr.bin", "aiortc_rtcp_sdes.bin", "aiortc_rtcp_bye.bin"]
)
def test_other_rtcp_has_no_sender_report(media_dir: Path, name: str) -> None:
    assert parse_sender_report((media_dir / "webrtc" / name).read_bytes()) is None


def sender_report(ntp: int) -> bytes:
    return b"\x80\xc8\x00\x06" + b"ssrc" + ntp.to_bytes(8, "big") + b"\x00\x00\x00\x05" + bytes(8)


def test_a_sender_without_a_clock_is_no_report() -> None:
    assert parse_sender_report(sender_report(0)) is None


def test_ntp_time_goes_on_after_2036() -> None:
    """NTP seconds wrap on 2036-02-07; a small number is after it, not in 1900."""
    report = parse_sender_report(sender_report(100 << 32))
    assert report is not None
    assert report[2] == (2**32 + 100 - 2208988800) * 10**9


def test_a_torn_compound_keeps_the_report_in_front() -> None:
    whole = sender_report(3_900_000_000 << 32)
    assert parse_sender_report(whole + b"\x81\xca\xff\xff") == parse_sender_report(whole)
    with pytest.raises(FrameError):
        parse_sender_report(b"\x81\xca\xff\xff")


@given(st.binary(max_size=120))
def test_any_rtcp_is_a_report_nothing_or_a_frame_error(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        parse_sender_report(data)


# Mostly small steps forward, with gaps, repeats, steps back and jumps.
STEPS = st.lists(
    st.one_of(
        st.just(1),
        st.integers(-4, 6),
        st.integers(-140, 140),
        st.sampled_from([0, 3000, 3001, -100, -101, 20000, 32767, 32768]),
    ),
    max_size=60,
)


@settings(max_examples=400)
@given(
    st.integers(0, 0xFFFF), STEPS, st.sampled_from([0, 1, 2, 5, 32]), st.sets(st.integers(0, 60))
)
def test_any_order_comes_out_as_in_the_twin(
    first: int, steps: list[int], window: int, give_ups: set[int]
) -> None:
    native, twin = Sequencer(window), oracle.Sequencer(window)
    number = first
    for turn, step in enumerate(steps):
        number = (number + step) & 0xFFFF
        assert native.offer(number) == twin.offer(number)
        if turn in give_ups:
            assert native.give_up() == twin.give_up()
        assert native.held == len(twin.held) <= window
    assert native.reordered_packets == twin.reordered
    assert native.duplicate_packets == twin.duplicate
    assert native.late_packets == twin.late
    assert native.restarts == twin.restarts


def test_a_gap_that_closes_in_time_loses_nothing() -> None:
    sequencer = Sequencer(4)
    assert sequencer.offer(65534) == [(65534, 0, False)]
    assert sequencer.offer(0) == []
    assert sequencer.offer(1) == []
    assert sequencer.offer(65535) == [(65535, 0, False), (0, 0, False), (1, 0, False)]
    assert (sequencer.reordered_packets, sequencer.late_packets) == (1, 0)


def test_a_restart_needs_two_packets_in_a_row_and_keeps_both() -> None:
    sequencer = Sequencer(4)
    sequencer.offer(10)
    assert sequencer.offer(40000) == []
    assert sequencer.offer(40001) == [(40000, 0, True), (40001, 0, False)]
    assert sequencer.restarts == 1


def test_one_stray_packet_changes_nothing() -> None:
    sequencer = Sequencer(4)
    sequencer.offer(10)
    assert sequencer.offer(40000) == []
    assert sequencer.offer(11) == [(11, 0, False)]
    assert sequencer.offer(40001) == []
    assert sequencer.offer(12) == [(12, 0, False)]
    assert sequencer.restarts == 0


@pytest.mark.parametrize("window", [-1, 33])
def test_the_window_is_bounded(window: int) -> None:
    with pytest.raises(ValueError, match="window"):
        Sequencer(window)
