"""ffmpeg as a recorder: one process a camera, copying into fragmented MP4 segments."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import av

from bench.measure import figures
from bench.report import CheckFailed
from bench.sender import Sender

_SETTLE_S = 2.0
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """CPU of all processes over the window, against the bytes sent in it."""

    cameras: int
    seconds: float
    gigabytes: float
    cpu_s_per_gb: float
    frames_sent: int
    frames_stored: int
    version: str


def measure_ffmpeg(directory: Path, cameras: int, mbps: float, seconds: float) -> PeerFigures:
    """Record feeds with ffmpeg into ``directory``. Raises CheckFailed when it cannot be run."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise CheckFailed("--peer ffmpeg: there is no ffmpeg on this machine")
    version = subprocess.run([program, "-version"], capture_output=True, text=True).stdout
    out = directory / f"ffmpeg-{os.getpid()}"
    out.mkdir()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with Sender(directory, cameras, mbps) as sender:
            for number, url in enumerate(sender.urls()):
                processes.append(_start(program, url, out, number))
            deadline = time.monotonic() + _START_TIMEOUT_S
            while len(sender.played()) < cameras:
                if time.monotonic() > deadline:
                    raise CheckFailed("ffmpeg did not open every feed in a minute")
                time.sleep(0.2)
            time.sleep(_SETTLE_S)
            before = (time.monotonic(), sender.bytes_sent(), _cpu_s(processes))
            time.sleep(seconds)
            after = (time.monotonic(), sender.bytes_sent(), _cpu_s(processes))
            played = sender.finish()
            for process in processes:
                process.wait(_STOP_TIMEOUT_S)
        gigabytes = (after[1] - before[1]) / 1e9
        return PeerFigures(
            cameras=cameras,
            seconds=after[0] - before[0],
            gigabytes=gigabytes,
            cpu_s_per_gb=(after[2] - before[2]) / gigabytes,
            frames_sent=sum(play.frames_sent for play in played),
            frames_stored=_count_frames(out),
            version=version.split("\n")[0].removeprefix("ffmpeg version ").split(" ")[0],
        )
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(out)


def _start(program: str, url: str, out: Path, number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            program, "-nostdin", "-v", "error", "-rtsp_transport", "tcp", "-i", url, "-c", "copy",
            "-f", "segment", "-segment_time", "60", "-segment_format", "mp4",
            "-segment_format_options", "movflags=+frag_keyframe+empty_moov+default_base_moof",
            "-reset_timestamps", "1", str(out / f"cam{number}-%03d.mp4"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _cpu_s(processes: list[subprocess.Popen[bytes]]) -> float:
    return sum(figures(process.pid).cpu_s for process in processes)


def _count_frames(out: Path) -> int:
    total = 0
    for file in sorted(out.iterdir()):
        with av.open(str(file)) as container:
            total += sum(1 for packet in container.demux(video=0) if packet.size)
    return total
