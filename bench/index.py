"""``python -m bench index``: P9, opening the index of a city and finding footage in it.

Every camera has a file of its own name. Where the disk is too small for as many distinct files,
several names are hard links to one (``distinct_files`` in the result): what a lookup touches is the
same, only the page cache is kinder, which is why lookups are measured cold as well.
"""

import argparse
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.fill import new_uids
from bench.history import History
from bench.report import Bar, CheckFailed, percentile, progress
from storage.base.timebase import TimeRange
from storage.index.format import ROW_BYTES
from storage.index.index import CameraIndex
from storage.index.mapping import index_path
from storage.volume.format import TABLE_ENTRY

_NS = 1_000_000_000
_SLOT_BYTES = 256 << 20
_FREE_BYTES_KEPT = 10 << 30
_INSTALLATION = bytes(16)


class _Tables:
    """The slot table of one volume, strided as the mapped one is."""

    def __init__(self, slots: int) -> None:
        self._entries = np.zeros(slots, TABLE_ENTRY)
        self._entries["generation"] = 1

    def generations(self, volume_number: int) -> npt.NDArray[np.uint32] | None:
        """One view, whatever the volume."""
        view: npt.NDArray[np.uint32] = self._entries["generation"]
        return view


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Bar]]:
    """Make the files, then measure. Raises CheckFailed when a lookup gives wrong entries."""
    directory: Path = arguments.dir / f"index-{os.getpid()}"
    per_slot = _SLOT_BYTES // 524_288 - 1
    rows = int(arguments.days * 86_400 / arguments.fragment_seconds)
    slots = rows * arguments.cameras // per_slot + 1
    history = History.make(
        arguments.days,
        time.time_ns(),
        fragment_s=arguments.fragment_seconds,
        slots_used=slots,
        slot_bytes=_SLOT_BYTES,
        volume_number=1,
        cameras=arguments.cameras,
    )
    try:
        paths, distinct = _make_files(directory, history, arguments)
        progress(f"{distinct} files of {history.file_bytes >> 20} MiB, measuring")
        indexes, results = _measure_opening(paths, _Tables(slots))
        results |= _measure_lookups(indexes, history, arguments)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    results |= {
        "cameras": arguments.cameras,
        "rows_per_camera": len(history.rows),
        "bytes_per_row": ROW_BYTES,
        "distinct_files": distinct,
        "distinct_bytes": distinct * history.file_bytes,
        "slots": slots,
    }
    bars = [
        Bar("P9", "lookup p99, index in memory", results["lookup_warm_us"]["p99"], 50, "us"),
        Bar("P9", "bytes an entry", ROW_BYTES, 32, "bytes"),
        Bar("P9", "open all cameras", results["open_s"], 3.0, "s"),
    ]
    return results, bars


def _make_files(
    directory: Path, history: History, arguments: argparse.Namespace
) -> tuple[list[Path], int]:
    free = shutil.disk_usage(directory.parent).free - _FREE_BYTES_KEPT
    room = min(free, arguments.index_bytes_max) // history.file_bytes
    distinct = min(arguments.cameras, room)
    if distinct < 1:
        raise CheckFailed(f"{directory.parent} has no room for one index file")
    paths: list[Path] = []
    for number, uid in enumerate(new_uids(arguments.cameras)):
        if number < distinct:
            paths.append(history.write(directory, uid, f"cam{number}", _INSTALLATION))
            continue
        link = index_path(directory, uid)
        os.link(paths[number % distinct], link)
        paths.append(link)
    return paths, distinct


def _measure_opening(
    paths: list[Path], tables: _Tables
) -> tuple[list[CameraIndex], dict[str, Any]]:
    for path in paths:
        _forget_pages(path)
    begun = time.perf_counter()
    indexes = [CameraIndex(path, tables) for path in paths]
    newest = [index.last_end_ns for index in indexes]
    took = time.perf_counter() - begun
    if not all(newest):
        raise CheckFailed("an index does not know its newest entry")
    return indexes, {"open_s": round(took, 4), "open_us_per_camera": round(took * 1e6 / len(paths))}


def _measure_lookups(
    indexes: list[CameraIndex], history: History, arguments: argparse.Namespace
) -> dict[str, Any]:
    chooser = random.Random(7)
    length_ns = int(arguments.clip_seconds * _NS)
    first_ns = int(history.rows["start_ns"][0])
    wanted = []
    for _ in range(arguments.lookups):
        start_ns = chooser.randrange(first_ns, history.end_ns - length_ns)
        wanted.append((chooser.choice(indexes), TimeRange(start_ns, start_ns + length_ns)))
    cold = [_timed(index, span, history) for index, span in wanted]
    warm = [_timed(index, span, history) for index, span in wanted]
    return {"lookup_cold_us": _spread(cold), "lookup_warm_us": _spread(warm)}


def _timed(index: CameraIndex, wanted: TimeRange, history: History) -> float:
    begun = time.perf_counter_ns()
    found = index.find(wanted)
    took_us = (time.perf_counter_ns() - begun) / 1000
    starts = history.rows["start_ns"]
    high = int(np.searchsorted(starts, wanted.end_ns))
    low = int(np.searchsorted(starts, wanted.start_ns))
    if low and starts[low - 1] + int(history.rows["duration"][low - 1]) * 1000 > wanted.start_ns:
        low -= 1
    if found.numbers.tolist() != list(range(low, high)):
        raise CheckFailed(f"lookup found entries {found.numbers.tolist()}, not [{low}, {high})")
    return took_us


def _spread(values: list[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(values, share), 2) for name, share in shares.items()}


def _forget_pages(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
