"""``python -m bench record``: P1, P2, P3, P5 and P6 of the performance design.

One sender process plays N cameras; the recorder, the naive floor and the peer take the same bytes
one after the other. CPU is user and system time from /proc over the same window in which the
sender counted the bytes. Afterwards every record is read back and compared with what was sent.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.installation import Installation, fresh_installation
from bench.measure import ProcessFigures, figures, tree_figures
from bench.peer import PeerFigures, measure_ffmpeg
from bench.report import Bar, CheckFailed, progress
from bench.sender import Sender
from bench.verify import read_back
from gateway.simulate.connection import Played

_DRAIN_S = 2.0
_START_TIMEOUT_S = 120
_FLOOR_FILE_BYTES = 2 << 30
_POLL_S = 0.2


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Bar]]:
    """Measure what was asked for. Raises CheckFailed when a frame is missing or wrong."""
    results: dict[str, Any] = {}
    bars: list[Bar] = []
    recorded = measure_recorder(arguments)
    results["ringvault"] = recorded
    cost = recorded["cpu_s_per_gb"]["all"]
    if arguments.floor:
        progress("the naive floor takes the same feeds")
        floor = measure_floor(arguments)
        results["floor"] = floor
        ratio = cost / floor["cpu_s_per_gb"]
        bars.append(Bar("P1", "CPU a byte against the naive floor", ratio, 1.6, "x"))
    if arguments.peer == "ffmpeg":
        progress(f"ffmpeg records {arguments.peer_cameras} feeds")
        peer: PeerFigures = measure_ffmpeg(
            arguments.dir, arguments.peer_cameras, arguments.mbps, arguments.peer_seconds
        )
        results["ffmpeg"] = asdict(peer)
        bars.append(Bar("P2", "CPU a byte against ffmpeg", cost / peer.cpu_s_per_gb, 1 / 8, "x"))
    loss_window_ms = max(volume["loss_window_p99_ms"] for volume in recorded["volumes"])
    bars.append(Bar("P6", "loss window, p99", loss_window_ms, 1000, "ms"))
    bars.append(Bar("P3", "access units lost", recorded["frames_lost"], 0, "access units"))
    bars.append(Bar("P5", "memory a feed", recorded["rss_mib_per_feed"]["all"], 2.0, "MiB"))
    return results, bars


def measure_recorder(arguments: argparse.Namespace) -> dict[str, Any]:
    """Record the feeds with Ringvault, then read everything back."""
    directory: Path = arguments.dir
    bytes_expected = arguments.cameras * arguments.mbps * 125_000 * (arguments.seconds + 60)
    volume_bytes = int(bytes_expected * 1.2) + (2 << 30)
    with (
        Sender(directory, arguments.cameras, arguments.mbps) as sender,
        fresh_installation(
            directory, volume_bytes, workers=arguments.workers, keep=arguments.keep
        ) as installation,
    ):
        uids = installation.enrol(sender.urls())
        installation.start()
        wait_until_all_play(sender, installation)
        progress(f"{arguments.cameras} feeds play, measuring {arguments.seconds} s")
        time.sleep(arguments.settle_seconds)
        window = _measure(sender, installation, arguments.seconds)
        status = installation.status()
        played = sender.finish()
        time.sleep(_DRAIN_S)
        installation.stop()
        log_end = installation.log_end()
        progress("reading everything back")
        begun = time.monotonic()
        with installation.open_store() as store:
            stored = read_back(store, sender.footage, [bytes.fromhex(uid) for uid in uids], played)
    again = len(played) - arguments.cameras
    if again:
        empty = sum(1 for play in played if not play.frames_sent)
        raise CheckFailed(
            f"{again} times a feed was lost and opened again ({empty} times before its first"
            f" frame); the log of serve ends:\n{log_end}"
        )
    sent = sum(play.frames_sent for play in played)
    return window | {
        "frames_sent": sent,
        "frames_readable": stored.frames,
        "frames_lost": sent - stored.frames,
        "read_back": asdict(stored) | {"seconds": round(time.monotonic() - begun, 1)},
        "sender": _sender_side(played),
        "volumes": _commit_figures(status),
    }


def wait_until_all_play(sender: Sender, installation: Installation) -> None:
    """Until every camera has a client. Raises CheckFailed after two minutes."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while len({play.camera for play in sender.played()}) < sender.cameras:
        installation.check_alive()
        if time.monotonic() > deadline:
            count = len({play.camera for play in sender.played()})
            raise CheckFailed(f"only {count} of {sender.cameras} feeds were opened")
        time.sleep(_POLL_S)


def _measure(sender: Sender, installation: Installation, seconds: float) -> dict[str, Any]:
    before = tree_figures(installation.pid)
    sender_before = figures(sender.pid)
    bytes_before = sender.bytes_sent()
    begun = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begun
    received = sender.bytes_sent() - bytes_before
    after = tree_figures(installation.pid)
    sender_after = figures(sender.pid)
    if set(before) != set(after):
        raise CheckFailed("a process of serve died while it was measured")
    gigabytes = received / 1e9
    feeds = sender.cameras
    cpu = {
        role: sum(after[pid].cpu_s - before[pid].cpu_s for pid in pids)
        for role, pids in _roles(after).items()
    }
    rss = {role: sum(after[pid].rss_bytes for pid in pids) for role, pids in _roles(after).items()}
    return {
        "seconds": round(took, 3),
        "gigabytes": round(gigabytes, 4),
        "mbit_per_feed": round(received * 8e-6 / took / feeds, 3),
        "cpu_s_per_gb": {role: round(value / gigabytes, 4) for role, value in cpu.items()},
        "cores_used": {role: round(value / took, 4) for role, value in cpu.items()},
        "rss_mib_per_feed": {role: round(value / feeds / 2**20, 3) for role, value in rss.items()},
        "sender_cpu_s_per_gb": round((sender_after.cpu_s - sender_before.cpu_s) / gigabytes, 4),
    }


def _roles(processes: dict[int, ProcessFigures]) -> dict[str, list[int]]:
    roles: dict[str, list[int]] = {
        "all": list(processes),
        "workers": [],
        "api": [],
        "supervisor": [],
    }
    for pid, process in processes.items():
        if "gateway.ingest.worker" in process.name:
            roles["workers"].append(pid)
        elif "gateway.api" in process.name:
            roles["api"].append(pid)
        else:
            roles["supervisor"].append(pid)
    return roles


def _sender_side(played: list[Played]) -> dict[str, Any]:
    return {
        "stalls": sum(play.stall_count for play in played),
        "lag_max_ms": round(max(play.lag_max_ns for play in played) / 1e6, 1),
    }


def _commit_figures(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each volume: how long a commit takes, and how long a frame waits to be durable."""
    wanted = ("number", "queue_bytes", "commit_p99_ms", "loss_window_p99_ms", "errors")
    return [{name: volume[name] for name in wanted} for volume in status["volumes"]]


def measure_floor(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same feeds into bench/floor.c. Raises CheckFailed when it lost a byte."""
    directory: Path = arguments.dir
    file = directory / "floor.bin"
    with Sender(directory, arguments.cameras, arguments.mbps) as sender:
        receiver = subprocess.Popen(
            [sys.executable, "-m", "bench.floor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert receiver.stdin is not None and receiver.stdout is not None
            order = {"urls": sender.urls(), "file": str(file), "file_bytes": _FLOOR_FILE_BYTES}
            receiver.stdin.write(json.dumps(order) + "\n")
            receiver.stdin.flush()
            if not receiver.stdout.readline():
                raise CheckFailed("the floor did not start")
            time.sleep(arguments.settle_seconds)
            before = (time.monotonic(), sender.bytes_sent(), figures(receiver.pid).cpu_s)
            time.sleep(arguments.seconds)
            after = (time.monotonic(), sender.bytes_sent(), figures(receiver.pid).cpu_s)
            played = sender.finish()
            received = json.loads(receiver.stdout.readline())["received"]
        finally:
            receiver.kill()
            receiver.wait()
            file.unlink(missing_ok=True)
    if received != [play.bytes_sent for play in played]:
        raise CheckFailed("the floor did not receive what was sent")
    gigabytes = (after[1] - before[1]) / 1e9
    return {
        "seconds": round(after[0] - before[0], 3),
        "gigabytes": round(gigabytes, 4),
        "cpu_s_per_gb": round((after[2] - before[2]) / gigabytes, 4),
        "sender": _sender_side(played),
    }
