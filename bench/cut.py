"""The peers of P8: `cat` of a file into a TCP socket, and ffmpeg cutting minute files."""

import os
import resource
import shutil
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.report import CheckFailed

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CutFigures:
    """Wall and CPU of the sending process until the last byte was received."""

    seconds: float
    cpu_s: float
    size: int

    def as_dict(self) -> dict[str, Any]:
        """With rates."""
        return {name: round(value, 4) for name, value in asdict(self).items()} | {
            "gb_per_s": round(self.size / self.seconds / 1e9, 3),
            "cpu_s_per_gb": round(self.cpu_s / self.size * 1e9, 3),
        }


def cat_to_socket(file: Path) -> CutFigures:
    """``cat FILE`` with a TCP socket as its standard output."""
    figures = _run_into_socket(["cat", str(file)])
    if figures.size != file.stat().st_size:
        raise CheckFailed("cat did not deliver the file")
    return figures


def split_minutes(file: Path, directory: Path) -> list[Path]:
    """The same footage as a recorder with one-minute segments keeps it: fragmented MP4."""
    directory.mkdir()
    _ffmpeg(
        "-i", str(file), "-c", "copy", "-f", "segment", "-segment_time", "60",
        "-segment_format", "mp4",
        "-segment_format_options", "movflags=+frag_keyframe+empty_moov+default_base_moof",
        "-reset_timestamps", "1", str(directory / "%03d.mp4"),
    )  # fmt: skip
    return sorted(directory.iterdir())


def ffmpeg_cut(minutes: list[Path], start_s: float, length_s: float) -> CutFigures:
    """``ffmpeg -ss -t -c copy`` over the minute files, fragmented MP4 into a TCP socket."""
    playlist = minutes[0].with_name("list.txt")
    playlist.write_text("".join(f"file '{minute}'\n" for minute in minutes))
    return _run_into_socket(
        [
            _program(), "-nostdin", "-v", "error", "-f", "concat", "-safe", "0",
            "-ss", str(start_s), "-t", str(length_s), "-i", str(playlist), "-c", "copy",
            "-f", "mp4", "-movflags", "frag_keyframe+empty_moov", "pipe:1",
        ]
    )  # fmt: skip


def forget_pages(file: Path) -> None:
    """Write the file out and drop it from the page cache."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _run_into_socket(command: list[str]) -> CutFigures:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    with receiver:
        with sender:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sender.fileno())
        buffer = bytearray(_READ_BYTES)
        size = 0
        while count := receiver.recv_into(buffer):
            size += count
        seconds = time.perf_counter() - begun
    if process.wait():
        raise CheckFailed(f"{command[0]} failed with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return CutFigures(seconds, cpu_s, size)


def _program() -> str:
    program = shutil.which("ffmpeg")
    if program is None:
        raise CheckFailed("P8 compares with ffmpeg, and there is none on this machine")
    return program


def _ffmpeg(*arguments: str) -> None:
    subprocess.run([_program(), "-nostdin", "-v", "error", *arguments], check=True)
