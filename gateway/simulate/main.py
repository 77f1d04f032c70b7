"""``ringvault simulate``: cameras until Ctrl-C. The command line parses, this runs.

Owns the event loop of the process and its signals.
"""

import asyncio
import resource
import signal
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import uvloop

from gateway.simulate.camera import CameraSettings, SimulatedCameras
from gateway.simulate.footage import Footage, load_footage, pad_footage
from gateway.simulate.shipped import CAR_PARK_H264, CAR_PARK_H265

_FILES_PER_CAMERA = 4  # several clients may watch one
_FILES_BESIDE = 64


def run(
    files: Sequence[Path],
    settings: CameraSettings,
    *,
    megabits_per_second: float | None = None,
    frames_per_second: Fraction | None = None,
    on_ready: Callable[[SimulatedCameras], None],
) -> None:
    """Serve until SIGINT or SIGTERM, or with ``settings.once`` until every camera has played.

    Camera N plays file N modulo their count; without files, the footage that ships, H.264 and
    H.265 in turn. ``on_ready`` is called once the port is open, to show the URLs. Raises
    FootageError for a file that cannot be played so, and OSError when the port is taken.
    """
    footages = load_footages(
        files, megabits_per_second=megabits_per_second, frames_per_second=frames_per_second
    )
    _raise_file_limit(settings.cameras * _FILES_PER_CAMERA + _FILES_BESIDE)
    uvloop.run(_serve(footages, settings, on_ready))


def load_footages(
    files: Sequence[Path],
    *,
    megabits_per_second: float | None = None,
    frames_per_second: Fraction | None = None,
) -> list[Footage]:
    """What to play, padded to a rate if one is given. Raises FootageError as run() does."""
    footages = [
        load_footage(file, frames_per_second=frames_per_second)
        for file in files or (CAR_PARK_H264, CAR_PARK_H265)
    ]
    if megabits_per_second is None:
        return footages
    return [pad_footage(footage, round(megabits_per_second * 1e6)) for footage in footages]


async def _serve(
    footages: Sequence[Footage],
    settings: CameraSettings,
    on_ready: Callable[[SimulatedCameras], None],
) -> None:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)
    async with SimulatedCameras(footages, settings) as sim:
        on_ready(sim)
        async with asyncio.TaskGroup() as tasks:
            waits = [tasks.create_task(told_to_stop.wait()), tasks.create_task(sim.all_played())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()


def _raise_file_limit(wanted: int) -> None:
    """A socket is a file; the soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
