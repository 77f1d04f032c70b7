"""``python -m bench clip``: P7 and P8, getting footage out over HTTP.

P7: first byte of a ten-second clip, out of a city whose index holds a month of every camera. The
month is index only (`history`); the last half minute of every camera is real footage, and that is
what is asked for. Each request is another camera and another time on its own connection, so no
composed clip is reused; grant check and durable audit entry are part of it.

P8: one hour of one camera, against `cat` of the same bytes into a socket and against ffmpeg cutting
the same hour out of sixty one-minute files. Cold means that the page cache was dropped for the
files read (Ringvault reads past it anyway).
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.cut import CutFigures, cat_to_socket, ffmpeg_cut, forget_pages, split_minutes
from bench.fetch import Fetched, fetch
from bench.fill import Filler
from bench.footage import FRAMES_PER_SECOND, bench_footage
from bench.history import History
from bench.installation import Installation, fresh_installation
from bench.measure import tree_figures
from bench.report import Bar, percentile, progress
from bench.verify import check_mp4
from gateway.simulate.footage import Footage
from storage.base.timebase import format_rfc3339

_NS = 1_000_000_000
_NOWHERE = "rtsp://127.0.0.1:9/never"
_HOUR_CAMERA = 0
_CLIP_CHECKS = 5
_WARM_UP = 10


@dataclass(frozen=True, slots=True)
class _City:
    """What was recorded: real footage in [recent_ns, recent_ns + recent_s) for every camera."""

    names: list[str]
    recent_ns: int
    recent_s: int
    hour_ns: int
    hour_s: int
    with_history: int
    rows_per_camera: int


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Bar]]:
    """Build the archive, then measure. Raises CheckFailed when a clip holds wrong samples."""
    small = bench_footage(arguments.dir, arguments.recent_mbps)
    large = bench_footage(arguments.dir, arguments.mbps)
    footage_bytes = arguments.cameras * arguments.recent_seconds * arguments.recent_mbps * 125_000
    footage_bytes += arguments.hour_seconds * arguments.mbps * 125_000
    volume_bytes = int(footage_bytes * 1.3) + (2 << 30)
    with fresh_installation(arguments.dir, volume_bytes, keep=arguments.keep) as installation:
        city = _build(installation, small, large, arguments)
        installation.start()
        installation.wait_until_ready()
        address = str(installation.status()["http_address"])
        recent = _first_bytes(installation, address, city, small, arguments)
        hour, bars = _whole_hour(installation, address, city, large, arguments)
    results = {
        "cameras": len(city.names),
        "cameras_with_a_month_indexed": city.with_history,
        "rows_per_camera": city.rows_per_camera,
        "first_byte": recent,
        "hour": hour,
    }
    first = Bar("P7", "first byte over HTTP, p99", recent["first_byte_ms"]["p99"], 20.0, "ms")
    return results, [first, *bars]


def _build(
    installation: Installation, small: Footage, large: Footage, arguments: argparse.Namespace
) -> _City:
    names = [f"cam{n}" for n in range(arguments.cameras + 1)]
    uids = [bytes.fromhex(uid) for uid in installation.enrol([_NOWHERE] * len(names))]
    installation.retire(names)  # or serve would go on knocking at every one of them
    now_ns = time.time_ns()
    recent_ns = now_ns - (arguments.recent_seconds + 10) * _NS
    hour_ns = now_ns - (arguments.hour_seconds + 10) * _NS
    with installation.open_store(write=True) as store:
        (volume,) = store.volumes.values()
        written = int(footage_share(small, arguments) // volume.slot_size_bytes)
        history = History.make(
            arguments.days,
            recent_ns - _NS,
            fragment_s=arguments.fragment_seconds,
            slots_used=max(1, written),
            slot_bytes=volume.slot_size_bytes,
            volume_number=volume.number,
            cameras=arguments.cameras,
        )
        room = int(arguments.index_bytes_max // history.file_bytes)
        with_history = min(arguments.cameras, room)
        progress(f"a month of index for {with_history} of {arguments.cameras} cameras")
        paths = installation.load().paths
        for uid, name in list(zip(uids, names, strict=True))[1 : with_history + 1]:
            history.write(paths.index, uid, name, store.installation_uuid)
        progress("recording the footage that is asked for")
        with Filler(store, large) as filler:
            filler.cameras(uids[:1], names[:1], hour_ns, arguments.hour_seconds)
        with Filler(store, small) as filler:
            filler.cameras(uids[1:], names[1:], recent_ns, arguments.recent_seconds)
    return _City(
        names,
        recent_ns,
        arguments.recent_seconds,
        hour_ns,
        arguments.hour_seconds,
        with_history,
        len(history.rows),
    )


def footage_share(footage: Footage, arguments: argparse.Namespace) -> float:
    """Payload bytes of the recent footage of all cameras: slots that are surely in use."""
    seconds = float(arguments.cameras * arguments.recent_seconds)
    return seconds * footage.bits_per_second / 8


def _first_bytes(
    installation: Installation,
    address: str,
    city: _City,
    footage: Footage,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    chooser = random.Random(3)
    names = city.names[1 : city.with_history + 1]
    end_ns = city.recent_ns + city.recent_s * _NS
    token = installation.grant(names, city.recent_ns, end_ns)
    length_ns = int(arguments.clip_seconds * _NS)
    firsts: list[float] = []
    totals: list[float] = []
    for number in range(arguments.requests + _WARM_UP):
        name = chooser.choice(names)
        start_ns = chooser.randrange(city.recent_ns, end_ns - length_ns)
        wanted = fetch(
            address, _path(name, start_ns, start_ns + length_ns), token, keep=number < _CLIP_CHECKS
        )
        if number < _CLIP_CHECKS:
            frames = int(arguments.clip_seconds * FRAMES_PER_SECOND)
            check_mp4(wanted.body, footage, frames)
        if number >= _WARM_UP:
            firsts.append(wanted.first_byte_s * 1000)
            totals.append(wanted.total_s * 1000)
    return {
        "requests": len(firsts),
        "clip_seconds": arguments.clip_seconds,
        "first_byte_ms": _spread(firsts),
        "whole_clip_ms": _spread(totals),
    }


def _whole_hour(
    installation: Installation,
    address: str,
    city: _City,
    footage: Footage,
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], list[Bar]]:
    name = city.names[_HOUR_CAMERA]
    end_ns = city.hour_ns + city.hour_s * _NS
    token = installation.grant([name], city.hour_ns, end_ns)
    file = installation.root / "hour.mp4"
    first = fetch(address, _path(name, city.hour_ns, end_ns), token, to_file=file)
    check_mp4(file, footage, city.hour_s * FRAMES_PER_SECOND)
    before = tree_figures(installation.pid)
    runs = [
        fetch(address, _path(name, city.hour_ns, end_ns - n * _NS // FRAMES_PER_SECOND), token)
        for n in range(1, arguments.repeats + 1)
    ]
    after = tree_figures(installation.pid)
    cpu_s = sum(after[pid].cpu_s - before[pid].cpu_s for pid in after) / len(runs)
    best = min(runs, key=lambda run: run.total_s)
    forget_pages(file)
    cat_cold = cat_to_socket(file)
    cat_warm = min((cat_to_socket(file) for _ in range(arguments.repeats)), key=_seconds)
    minutes = split_minutes(file, installation.root / "minutes")
    for minute in minutes:
        forget_pages(minute)
    cut_cold = ffmpeg_cut(minutes, 1, city.hour_s - 2)
    cut_warm = ffmpeg_cut(minutes, 1, city.hour_s - 2)
    result = {
        "bytes": first.size,
        "api": _figures(best, cpu_s),
        "cat_cold": cat_cold.as_dict(),
        "cat_warm": cat_warm.as_dict(),
        "ffmpeg_cold": cut_cold.as_dict(),
        "ffmpeg_warm": cut_warm.as_dict(),
    }
    wall = best.total_s
    bars = [
        Bar("P8", "one hour through the API against cat, cold", wall / cat_cold.seconds, 2.0, "x"),
        Bar("P8", "one hour against ffmpeg's cut, cold", wall / cut_cold.seconds, 0.25, "x"),
    ]
    return result, bars


def _seconds(figures: CutFigures) -> float:
    return figures.seconds


def _figures(run: Fetched, cpu_s: float) -> dict[str, float]:
    return {
        "seconds": round(run.total_s, 4),
        "gb_per_s": round(run.size / run.total_s / 1e9, 3),
        "cpu_s_per_gb": round(cpu_s / run.size * 1e9, 3),
        "first_byte_ms": round(run.first_byte_s * 1000, 2),
    }


def _path(name: str, start_ns: int, end_ns: int) -> str:
    span = f"from={format_rfc3339(start_ns)}&to={format_rfc3339(end_ns)}"
    return f"/v1/clips/{name}.mp4?{span}"


def _spread(values: Sequence[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(values, share), 3) for name, share in shares.items()}
