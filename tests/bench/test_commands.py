"""Every bench command at a tiny size: it runs, checks its own output and says so in JSON.

Speed is not looked at: no bar is asserted by a test.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 300  # a second of footage is quick, but eight processes start one after the other
pytestmark = pytest.mark.timeout(TIMEOUT_S)

SMALL = ["--cameras", "2", "--mbps", "2"]


def bench(directory: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", *arguments, "--dir", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S - 10)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["bench"] == arguments[0]
    assert document["host"]["cores"] >= 1
    for bar in document["bars"]:
        assert bar["met"] == (bar["value"] <= bar["limit"])
    left = {path.suffix for path in directory.iterdir()}
    assert left <= {".mp4", ".so"}, "nothing but what the next run can use again stays behind"
    return document


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that the footage is encoded once."""
    return tmp_path_factory.mktemp("bench")


def test_record_with_floor_and_peer(directory: Path) -> None:
    peer = ["--floor", "--peer", "ffmpeg", "--peer-cameras", "2", "--peer-seconds", "2"]
    found = bench(directory, "record", *SMALL, "--seconds", "2", "--settle-seconds", "1", *peer)
    recorded = found["results"]["ringvault"]
    assert recorded["frames_lost"] == 0
    assert recorded["frames_sent"] == recorded["frames_readable"] >= 2 * 2 * 25
    assert recorded["mbit_per_feed"] == pytest.approx(2, rel=0.2)
    for what in ("floor", "ffmpeg"):
        assert found["results"][what]["cpu_s_per_gb"] > 0
    assert {bar["name"] for bar in found["bars"]} == {"P1", "P2", "P3", "P5", "P6"}


def test_index(directory: Path) -> None:
    sizes = ["--cameras", "8", "--days", "1", "--lookups", "100", "--index-bytes-max", "25MB"]
    results = bench(directory, "index", *sizes)["results"]
    assert results["cameras"] == 8
    assert 1 <= results["distinct_files"] < 8, "the rest are links, and the JSON says so"
    assert results["rows_per_camera"] == 144_000


def test_clip(directory: Path) -> None:
    sizes = ["--cameras", "3", "--days", "1", "--requests", "10", "--clip-seconds", "2"]
    sizes += [
        "--recent-seconds",
        "10",
        "--recent-mbps",
        "2",
        "--hour-seconds",
        "130",
        "--mbps",
        "2",
        "--repeats",
        "1",
    ]
    found = bench(directory, "clip", *sizes)
    assert found["results"]["cameras_with_a_month_indexed"] == 3
    assert found["results"]["hour"]["bytes"] > 130 * 250_000
    assert [bar["name"] for bar in found["bars"]] == ["P7", "P8", "P8"]


def test_recovery(directory: Path) -> None:
    sizes = ["--sizes", "400MB", "--record-seconds", "2"]
    (archive,) = bench(directory, "recovery", *SMALL, *sizes)["results"]["archives"]
    assert archive["filled_bytes"] >= 400_000_000
    assert 0 < archive["first_frame_s"] <= archive["every_camera_s"]
    assert archive["frames_lost_at_kill_max"] <= 25
