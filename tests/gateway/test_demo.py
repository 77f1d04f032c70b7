"""Goal: ``make run`` works on a fresh machine, and again; what it promises to show is right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.node import alive


def demo(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.demo", "--directory", str(directory), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], limit_s: float = 110) -> tuple[int, str]:
    out, err = process.communicate(timeout=limit_s)
    return process.returncode, out + err


def children_of(directory: Path) -> list[int]:
    """Processes whose command line names the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in words and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def test_it_records_fetches_and_counts_and_can_be_run_again(tmp_path: Path) -> None:
    directory = tmp_path / "var"
    status, words = ended(demo(directory, "--cameras", "2", "--check", "--seconds", "3"))
    assert status == 0, words
    assert "gate-1.mp4" in words and "H.264, no gap" in words and "H.265, no gap" in words
    assert children_of(directory) == []
    assert (directory / "grant.jwt").stat().st_mode & 0o777 == 0o600

    before = (directory / "grant.jwt").stat().st_mtime_ns
    again = demo(directory, "--cameras", "2")
    deadline = time.monotonic() + 60
    while (directory / "grant.jwt").stat().st_mtime_ns == before:
        assert again.poll() is None and time.monotonic() < deadline, ended(again)
        time.sleep(0.2)
    time.sleep(3)  # what it shows is made right after the grant
    again.send_signal(signal.SIGINT)
    status, words = ended(again, 30)
    assert status == 0, words
    assert "playing" in words and "clip --config" in words and "curl -H" in words
    assert children_of(directory) == [], "Ctrl-C stops everything"
