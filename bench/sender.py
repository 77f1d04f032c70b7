"""The camera side of the record bench, a process of its own.

As a program (``python -m bench.sender``) it reads JSON lines on stdin and answers each with one on
stdout. `Sender` is the handle that the bench holds.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import uvloop

from bench.footage import bench_footage
from gateway.simulate.camera import CameraSettings, SimulatedCameras
from gateway.simulate.connection import Played
from gateway.simulate.footage import Footage

_STOP_TIMEOUT_S = 15


class Sender:
    """N cameras in a child process. ``played`` and ``hold`` may be asked at any time."""

    def __init__(self, directory: Path, cameras: int, megabits_per_second: float) -> None:
        self.cameras = cameras
        self.footage: Footage = bench_footage(directory, megabits_per_second)
        command = [sys.executable, "-m", "bench.sender", "--dir", str(directory)]
        command += ["--cameras", str(cameras), "--mbps", str(megabits_per_second)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port: int = self._read()["port"]
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection by FIN and the process."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def urls(self) -> list[str]:
        """One RTSP URL a camera."""
        return [f"rtsp://127.0.0.1:{self.port}/cam/{n}" for n in range(self.cameras)]

    def played(self) -> list[Played]:
        """What every PLAY since the start has sent so far."""
        return [Played(**fields) for fields in self._ask("played")["played"]]

    def bytes_sent(self) -> int:
        """Bytes that the sockets of all cameras have taken so far."""
        total: int = self._ask("bytes")["bytes"]
        return total

    def hold(self) -> None:
        """No camera begins another access unit from now on."""
        self._ask("hold")

    def finish(self) -> list[Played]:
        """Hold, end every connection by FIN, and say what was sent in all."""
        return [Played(**fields) for fields in self._ask("finish")["played"]]

    def _ask(self, order: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": order}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the sender ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


async def serve(footage: Footage, cameras: int) -> None:
    """Play until stdin ends."""
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    settings = CameraSettings(cameras=cameras, spread_start=True)
    async with SimulatedCameras(footage, settings) as sim:
        _say({"port": sim.port})
        while line := await orders.readline():
            match json.loads(line)["order"]:
                case "bytes":
                    _say({"bytes": sum(played.bytes_sent for played in sim.played())})
                case "played":
                    _say({"played": [dataclasses.asdict(played) for played in sim.played()]})
                case "hold":
                    sim.hold()
                    _say({})
                case "finish":
                    sim.hold()
                    await sim.stop(_STOP_TIMEOUT_S)
                    _say({"played": [dataclasses.asdict(played) for played in sim.played()]})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Parse the arguments that `Sender` gives and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--cameras", type=int, required=True)
    parser.add_argument("--mbps", type=float, required=True)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    os.setpgid(0, 0)  # Ctrl-C reaches the bench, which then ends its sender in order
    uvloop.run(serve(bench_footage(arguments.dir, arguments.mbps), arguments.cameras))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
