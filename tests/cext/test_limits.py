"""The bounds agree with each other and with what the formats can say."""

from cext import limits


def test_an_unfinished_frame_or_message_fits_in_front_of_the_region() -> None:
    assert limits.INTERLEAVED_FRAME_BYTES_MAX == 4 + 0xFFFF
    assert limits.RECEIVE_HEADROOM_BYTES >= limits.INTERLEAVED_FRAME_BYTES_MAX
    assert limits.RECEIVE_HEADROOM_BYTES >= limits.RTSP_MESSAGE_BYTES_MAX
    assert limits.RECEIVE_HEADROOM_BYTES % 4096 == 0
    assert limits.RECEIVE_REGION_BYTES % 4096 == 0


def test_pending_messages_leave_room_for_more_than_one() -> None:
    assert limits.RTSP_PENDING_BYTES_MAX >= limits.RTSP_MESSAGE_BYTES_MAX * 2
    assert limits.RTSP_PENDING_BYTES_MAX >= limits.RECEIVE_REGION_BYTES


def test_counts_fit_their_fields_in_the_frame_table() -> None:
    assert limits.NALS_MAX <= 0xFFFF
    assert limits.ACCESS_UNIT_BYTES_MAX < 2**31
    assert limits.FRAMES_MAX == 128


def test_the_reorder_window_is_below_what_counts_as_misordered() -> None:
    assert limits.REORDER_PACKETS_MAX < limits.SEQUENCE_MISORDER_MAX
    assert limits.SEQUENCE_MISORDER_MAX < limits.SEQUENCE_DROPOUT_MAX < 0x8000
    assert 0x10000 % limits.REORDER_PACKETS_MAX == 0  # slots stay unique when numbers wrap


def test_every_bound_is_a_positive_integer() -> None:
    names = [name for name in dir(limits) if name.isupper()]
    assert len(names) >= 20
    assert all(isinstance(getattr(limits, name), int) for name in names)
    assert all(getattr(limits, name) > 0 for name in names)
