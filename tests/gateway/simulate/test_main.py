"""``ringvault simulate`` as a process: it serves, says where, and Ctrl-C ends it cleanly."""

import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from gateway.simulate.footage import FootageError
from gateway.simulate.main import load_footages
from tests.sim.viewer import Viewer

PROGRAM = """
import sys
from fractions import Fraction
from pathlib import Path
from gateway.simulate.camera import CameraSettings
from gateway.simulate.main import run
run(
    [Path(name) for name in sys.argv[2:]],
    CameraSettings(cameras=2, once=sys.argv[1] == "once"),
    frames_per_second=Fraction(500),
    on_ready=lambda sim: print(sim.url(1), flush=True),
)
"""


def start(mode: str, *files: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode, *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    return errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    process, url = start("loop")
    async with Viewer(url) as viewer:
        await viewer.play()
        await viewer.read_packets_until(5)
        process.send_signal(number)
        await viewer.read_to_end()
    assert end(process) == ""


async def test_it_ends_by_itself_when_all_have_played(media_dir: Path) -> None:
    process, url = start("once", media_dir / "h264" / "SVA_Base_B.264")
    for camera in (0, 1):
        async with Viewer(url[:-1] + str(camera)) as viewer:
            await viewer.play()
            await viewer.read_to_end()
    assert end(process) == ""


def test_shipped_footage_shows_both_codecs() -> None:
    assert [footage.codec.name for footage in load_footages([])] == ["H264", "H265"]


def test_a_rate_pads_every_file() -> None:
    for footage in load_footages([], megabits_per_second=2.5, frames_per_second=Fraction(25)):
        assert footage.bits_per_second == pytest.approx(2_500_000, abs=10)
        assert footage.frames_per_second == pytest.approx(25)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FootageError, match=r"nothing\.mp4: no such file"):
        load_footages([tmp_path / "nothing.mp4"])
