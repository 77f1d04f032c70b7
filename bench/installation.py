"""A fresh trial installation for one bench, driven by the command line as an operator would."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import descendants
from bench.report import CheckFailed
from gateway.installation import Installation as Loaded
from storage.base.timebase import format_rfc3339
from storage.store import Store, VolumeConfig

_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 60
_POLL_S = 0.1
_EXIT_NOT_WELL = 3


class Installation:
    """``root`` holds everything; ``volume_bytes`` are allocated in it."""

    def __init__(self, root: Path, volume_bytes: int, *, workers: int = 1) -> None:
        self.root = root
        self.config = root / "node" / "ringvault.toml"
        self.log = root / "serve.log"
        self._serve: subprocess.Popen[bytes] | None = None
        volume = f"{root / 'volume'}:{volume_bytes}B"
        self.ringvault(
            "init", str(self.config.parent), "--volume", volume, "--trial",
            "--http-port", "0", "--workers", str(workers), config=False,
        )  # fmt: skip

    def ringvault(
        self, *arguments: str, config: bool = True, allowed: tuple[int, ...] = (0,)
    ) -> str:
        """Run one command; its stdout. Raises CheckFailed with what it said on stderr."""
        command = [sys.executable, "-m", "gateway", *arguments]
        if config:
            command += ["--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in allowed:
            said = done.stderr.strip() or done.stdout.strip()
            raise CheckFailed(f"ringvault {' '.join(arguments)} failed:\n{said}")
        return done.stdout

    def load(self) -> Loaded:
        """Its configuration and paths."""
        return Loaded.load(self.config)

    def open_store(self, *, write: bool = False) -> Store:
        """The store, for reading or for a `Filler`."""
        loaded = self.load()
        volumes = [VolumeConfig(volume.number, volume.path) for volume in loaded.config.volume]
        return Store.open(loaded.paths, loaded.uuid, volumes, write=write)

    def retire(self, names: Sequence[str]) -> None:
        """Stop recording cameras while serve is down; their footage stays."""
        with self.load().registry() as registry:
            for name in names:
                registry.remove(name, time.time_ns())

    def grant(self, names: Sequence[str], start_ns: int, end_ns: int) -> str:
        """A grant to copy footage of these cameras."""
        return self.ringvault(
            "grant", "create", *(part for name in names for part in ("--camera", name)),
            "--from", format_rfc3339(start_ns), "--to", format_rfc3339(end_ns),
            "--action", "copy", "--document", "BENCH-1",
            "--official", "First Officer:0001", "--official", "Second Officer:0002",
        ).strip()  # fmt: skip

    def enrol(self, urls: Sequence[str]) -> list[str]:
        """Import cameras ``cam0`` ... and return their uids as hex, in order."""
        lines = [
            {"id": f"cam{n}", "url": url, "place_category": 1, "place_type": "street"}
            for n, url in enumerate(urls)
        ]
        file = self.root / "cameras.json"
        file.write_text(json.dumps(lines))
        cameras = json.loads(self.ringvault("camera", "import", str(file), "--json"))
        uids = {camera["id"]: camera["uid"] for camera in cameras}
        return [uids[line["id"]] for line in lines]

    def start(self) -> int:
        """Start ``ringvault serve``; returns at once with its pid."""
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self._serve = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self._serve.pid

    @property
    def pid(self) -> int:
        assert self._serve is not None, "serve was not started"
        return self._serve.pid

    def check_alive(self) -> None:
        """Raises CheckFailed when serve has ended."""
        if self._serve is not None and self._serve.poll() is not None:
            raise CheckFailed(
                f"serve ended with status {self._serve.returncode}; its log ends:\n{self.log_end()}"
            )

    def status(self) -> dict[str, Any]:
        """``ringvault status --json``; also when something is not well."""
        text = self.ringvault("status", "--json", allowed=(0, _EXIT_NOT_WELL))
        report: dict[str, Any] = json.loads(text)
        return report

    def wait_until_ready(self) -> None:
        """Until the supervisor answers. Raises CheckFailed after two minutes."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        socket_file = self.config.parent / "run" / "control.sock"
        while not socket_file.exists():
            self.check_alive()
            if time.monotonic() > deadline:
                raise CheckFailed(f"serve did not come up; its log ends:\n{self.log_end()}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """SIGTERM and wait. Raises CheckFailed when serve fails or hangs."""
        if self._serve is None:
            return
        serve, self._serve = self._serve, None
        serve.terminate()
        try:
            status = serve.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill(serve)
            raise CheckFailed(f"serve did not stop; its log ends:\n{self.log_end()}") from None
        if status:
            raise CheckFailed(f"serve ended with status {status}:\n{self.log_end()}")

    def kill(self) -> None:
        """SIGKILL to every process of serve, all at once as far as that goes."""
        if self._serve is not None:
            serve, self._serve = self._serve, None
            self._kill(serve)

    def _kill(self, serve: subprocess.Popen[bytes]) -> None:
        for pid in descendants(serve.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # ended by itself
        serve.wait()

    def log_end(self) -> str:
        """The last lines serve wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


@contextmanager
def fresh_installation(
    directory: Path, volume_bytes: int, *, workers: int = 1, keep: bool = False
) -> Iterator[Installation]:
    """An installation in a new directory that is removed afterwards unless ``keep``."""
    root = directory / f"trial-{os.getpid()}-{time.time_ns()}"
    root.mkdir(parents=True)
    installation = None
    try:
        free = shutil.disk_usage(root).free
        if free < volume_bytes * 1.02:
            raise CheckFailed(f"{root} has {free} bytes free, the bench needs {volume_bytes}")
        installation = Installation(root, volume_bytes, workers=workers)
        yield installation
        installation.stop()
    finally:
        if installation is not None:
            installation.kill()
        if not keep:
            shutil.rmtree(root)
