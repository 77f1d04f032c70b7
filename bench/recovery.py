"""``python -m bench recovery``: P11, from kill -9 to the first frame recorded again.

Two full archives of different sizes; the time must not depend on the size. Afterwards everything
is read back: what was visible before the kill is still there, and no more than the loss window
is missing from the end of the feeds that were cut off.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from bench.fill import Filler, new_uids
from bench.footage import FRAMES_PER_SECOND
from bench.installation import Installation, fresh_installation
from bench.record import wait_until_all_play
from bench.report import Bar, CheckFailed, progress
from bench.sender import Sender
from bench.verify import Verifier
from gateway.simulate.connection import Played
from storage.base.timebase import TimeRange
from storage.index.index import CameraIndex
from storage.store import Store

_NS = 1_000_000_000
_FILL_CAMERAS = 8
_FOREVER_NS = 1 << 62
_POLL_S = 0.005
_TIMEOUT_S = 120.0
_LOSS_WINDOW_S = 1.0


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Bar]]:
    """One archive after the other. Raises CheckFailed when visible footage was lost."""
    archives = [_measure(arguments, size) for size in arguments.sizes]
    times = [archive["first_frame_s"] for archive in archives]
    sizes = [archive["archive_bytes"] for archive in archives]
    bars = [Bar("P11", "kill -9 to the first recorded frame, full archive", max(times), 5.0, "s")]
    if len(times) > 1:
        largest, smallest = sizes.index(max(sizes)), sizes.index(min(sizes))
        what = "largest archive against the smallest"
        bars.append(Bar("P11", what, times[largest] / times[smallest], 1.5, "x"))
    return {"archives": archives}, bars


def _measure(arguments: argparse.Namespace, size_bytes: int) -> dict[str, Any]:
    with (
        Sender(arguments.dir, arguments.cameras, arguments.mbps) as sender,
        fresh_installation(arguments.dir, size_bytes, keep=arguments.keep) as installation,
    ):
        progress(f"filling {size_bytes >> 20} MiB")
        filled = _fill(installation, sender, size_bytes)
        uids = [bytes.fromhex(uid) for uid in installation.enrol(sender.urls())]
        installation.start()
        wait_until_all_play(sender, installation)
        time.sleep(arguments.record_seconds)
        visible = _visible_frames(installation, uids)
        installation.kill()
        killed_ns = time.time_ns()
        time.sleep(0.5)
        first_s, all_s = _restart(installation, uids, killed_ns)
        time.sleep(arguments.record_seconds)
        played = sender.finish()
        time.sleep(2.0)
        installation.stop()
        with installation.open_store() as store:
            lost = _check(store, sender, uids, visible, played)
    return {
        "archive_bytes": size_bytes,
        "filled_bytes": filled,
        "first_frame_s": round(first_s, 3),
        "every_camera_s": round(all_s, 3),
        "frames_lost_at_kill_max": lost,
    }


def _fill(installation: Installation, sender: Sender, size_bytes: int) -> int:
    """Write until every slot has been used once."""
    rate = sender.footage.bits_per_second / 8 * _FILL_CAMERAS
    seconds = int(size_bytes / rate) + 10
    start_ns = time.time_ns() - (seconds + 60) * _NS
    names = [f"old{n}" for n in range(_FILL_CAMERAS)]
    with installation.open_store(write=True) as store:
        with Filler(store, sender.footage) as filler:
            filled = filler.cameras(new_uids(_FILL_CAMERAS), names, start_ns, seconds)
        (volume,) = store.volumes.values()
        if int(volume.generations.min()) < 1:
            raise CheckFailed("the archive is not full")
    return filled


def _visible_frames(installation: Installation, uids: Sequence[bytes]) -> list[int]:
    """Entries of each camera that a reader saw just before the kill."""
    with installation.open_store() as store:
        return [store.index(uid).entry_count for uid in uids]


def _restart(
    installation: Installation, uids: Sequence[bytes], killed_ns: int
) -> tuple[float, float]:
    """Start serve; seconds until the first and until every camera has a new fragment visible."""
    begun = time.monotonic()
    installation.start()
    first_s = 0.0
    with installation.open_store() as store:
        waiting: list[CameraIndex] = [store.index(uid) for uid in uids]
        while waiting:
            installation.check_alive()
            waiting = [index for index in waiting if not _records_again(index, killed_ns)]
            took = time.monotonic() - begun
            if len(waiting) < len(uids) and not first_s:
                first_s = took
            if took > _TIMEOUT_S:
                raise CheckFailed(f"{len(waiting)} cameras do not record again")
            time.sleep(_POLL_S)
    return first_s, time.monotonic() - begun


def _records_again(index: CameraIndex, since_ns: int) -> bool:
    found = index.find(TimeRange(since_ns + _NS // 10, _FOREVER_NS))
    return bool((~found.is_gap).any())


def _check(
    store: Store,
    sender: Sender,
    uids: Sequence[bytes],
    visible: Sequence[int],
    played: Sequence[Played],
) -> int:
    """Compare everything; the most access units that one camera lost at the kill."""
    verifier = Verifier(store, sender.footage)
    worst = 0
    for camera, uid in enumerate(uids):
        plays = [play for play in played if play.camera == camera]
        if len(plays) != 2:
            raise CheckFailed(f"camera {camera} was opened {len(plays)} times, not twice")
        if store.index(uid).entry_count < visible[camera]:
            raise CheckFailed(f"camera {camera}: entries that were visible are gone")
        lost = verifier.check_cut_camera(uid, plays[0], plays[1])
        worst = max(worst, lost)
    if worst > _LOSS_WINDOW_S * FRAMES_PER_SECOND:
        raise CheckFailed(f"{worst} access units were lost: more than the loss window")
    return worst
