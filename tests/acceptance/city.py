"""A whole installation in a temporary directory, served by real processes, for acceptance tests.

Owns making it, starting and killing its processes, asking it over its own control socket and HTTP,
and the cameras it records. Reaches into nothing that a person with a shell could not.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import uvloop

from gateway.errors import GatewayError
from gateway.ingest.control import StatusQuery, StatusReport, call
from gateway.ingest.registry import Camera
from gateway.installation import Installation, NewVolume, create_installation
from gateway.legal.grants import sign
from gateway.simulate.camera import CameraSettings, SimulatedCameras
from gateway.simulate.footage import Footage
from storage.base.grant import Action, ExtractionGrant, Official
from storage.base.timebase import HOUR_NS
from storage.volume.create import create_volume

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
POLL_S = 0.05


def wait_for(what: str, ready: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Return as soon as ``ready``; fail with ``what`` when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(POLL_S)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def make_installation(
    root: Path,
    *,
    volume_bytes: int,
    slot_bytes: int,
    settings: dict[str, object] | None = None,
    workers: int = 1,
) -> Installation:
    """A trial installation with one volume of small slots; ``settings`` replace values of its
    configuration, whose keys must be there already.
    """
    volume = root / "volume"
    made = create_installation(
        root,
        [NewVolume(volume, max(volume_bytes, 80 * MIB))],
        trial=True,
        name="acceptance",
        now_ns=time.time_ns(),
        http_port=free_port(),
        workers=workers,
    )
    shutil.rmtree(volume)
    create_volume(
        volume,
        number=1,
        installation_uuid=made.uuid,
        size_bytes=volume_bytes,
        created_ns=time.time_ns(),
        slot_size_bytes=slot_bytes,
        trial=True,
    )
    lines = made.paths.config.read_text().splitlines()
    for key, value in (settings or {}).items():
        places = [n for n, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert len(places) == 1, f"{key} occurs {len(places)} times in the configuration"
        lines[places[0]] = f"{key} = {value}"
    made.paths.config.write_text("\n".join(lines) + "\n")
    return Installation.load(made.paths.config)


def enrol(installation: Installation, cameras: dict[str, str]) -> dict[str, bytes]:
    """Enter cameras (id to URL) in the registry before ``serve`` runs; returns their uids."""
    rows = [
        Camera(
            id=camera_id,
            uid=uuid.uuid4().bytes,
            url=url,
            place_category=1,
            place_type="road",
            basis_doc=None,
            retention="TRIAL",
            transport="tcp",
            created_ns=time.time_ns(),
        )
        for camera_id, url in cameras.items()
    ]
    with installation.registry() as registry:
        return {camera.id: camera.uid for camera in registry.add(rows)}


def grant_token(
    installation: Installation,
    cameras: tuple[str, ...],
    start_ns: int,
    end_ns: int,
    action: Action = "copy",
) -> str:
    """A signed grant. Making one lawfully is tested elsewhere; here the signature is enough."""
    now_ns = time.time_ns()
    grant = ExtractionGrant(
        grant_id=str(uuid.uuid4()),
        installation_uuid=installation.uuid,
        cameras=cameras,
        start_ns=start_ns,
        end_ns=end_ns,
        action=action,
        document_no="TEST-1",
        officials=(Official("Ann", "1001"), Official("Ben", "1002")),
        issued_ns=now_ns,
        expires_ns=now_ns + HOUR_NS,
        trial=installation.trial,
    )
    return sign(grant, installation.signing_key())


class Cameras:
    """Simulated cameras on a thread and loop of their own."""

    def __init__(self, footage: list[Footage], settings: CameraSettings) -> None:
        self._footage = footage
        self._settings = settings
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)
        self._up = threading.Event()
        self._sim: SimulatedCameras | None = None

    def __enter__(self) -> SimulatedCameras:
        self._thread.start()
        assert self._up.wait(10), "the simulated cameras did not start"
        assert self._sim is not None
        return self._sim

    def __exit__(self, *exc_info: object) -> None:
        sim = self._sim
        assert sim is not None
        asyncio.run_coroutine_threadsafe(sim.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        self._sim = SimulatedCameras(self._footage, self._settings)
        self._loop.call_soon(self._start)
        self._loop.run_forever()

    def _start(self) -> None:
        assert self._sim is not None
        self._sim.start()
        self._up.set()


@dataclass(frozen=True, slots=True)
class Pids:
    """The processes of one run of ``serve``."""

    supervisor: int
    workers: tuple[int, ...]
    api: int

    def all(self) -> tuple[int, ...]:
        return (self.supervisor, *self.workers, self.api)


class City:
    """``ringvault serve`` on an installation, as often as it takes."""

    def __init__(self, installation: Installation, log_file: Path) -> None:
        self.installation = installation
        self.log_file = log_file
        self.starts = 0
        self._serve: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> None:
        """One more ``ringvault serve``; returns at once."""
        self.starts += 1
        self._close_log()
        self._log = self.log_file.open("ab")
        self._serve = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gateway",
                "serve",
                f"--config={self.installation.paths.config}",
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def pid(self) -> int:
        assert self._serve is not None
        return self._serve.pid

    def running(self) -> bool:
        return self._serve is not None and self._serve.poll() is None

    def wait_gone(self) -> int:
        """Reap the supervisor; its exit status."""
        assert self._serve is not None
        return self._serve.wait(20)

    def stop(self) -> int:
        """SIGINT and wait, as Ctrl-C does; the exit status. Kills what does not go."""
        assert self._serve is not None
        if self._serve.poll() is None:
            self._serve.send_signal(signal.SIGINT)
        try:
            return self._serve.wait(20)
        except subprocess.TimeoutExpired:
            for pid in self.pids_by_tree().all():
                if pid:
                    _kill(pid)
            self._serve.wait(10)
            raise
        finally:
            self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def status(self) -> StatusReport | None:
        """What the supervisor says, None while none answers."""
        try:
            answer = call(self.installation.control_socket, StatusQuery(), timeout_s=5)
        except GatewayError:
            return None  # it was killed while we asked
        assert answer is None or isinstance(answer, StatusReport)
        return answer

    def pids_by_tree(self) -> Pids:
        """By /proc: right also when the supervisor does not answer. 0 for what does not run."""
        workers: list[int] = []
        api = 0
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            listing = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            for pid in map(int, listing.split()):
                command = _command_of(pid)
                if "gateway.ingest.worker" in command:
                    workers.append(pid)
                elif "gateway.api" in command:
                    api = pid
        return Pids(self.pid if self.running() else 0, tuple(workers), api)

    def log_tail(self, nbytes: int = 6000) -> str:
        data = self.log_file.read_bytes() if self.log_file.exists() else b""
        return data[-nbytes:].decode("utf-8", "replace")

    def get(
        self,
        path: str,
        token: str = "",
        headers: dict[str, str] | None = None,
        timeout_s: float = 20,
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTP request to the API: status, headers in lower case, body."""
        server = self.installation.config.server
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=timeout_s)
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        with contextlib.closing(connection):
            connection.request("GET", path, headers=sent)
            answer = connection.getresponse()
            body = answer.read()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill(pids: tuple[int, ...]) -> None:
    """SIGKILL, all of them in one go."""
    for pid in pids:
        if pid:
            _kill(pid)


@contextlib.contextmanager
def serving(city: City) -> Iterator[City]:
    """Start it and stop it again, also when the test fails; the log's end is then shown."""
    city.start()
    try:
        yield city
    except BaseException:
        sys.stderr.write(f"\n---- end of the log of serve ----\n{city.log_tail()}\n")
        raise
    finally:
        if city.running():
            city.stop()


def car_park(cameras: int) -> CameraSettings:
    """Well-behaved cameras, each beginning at another key picture."""
    return replace(CameraSettings(), cameras=cameras, spread_start=True)
