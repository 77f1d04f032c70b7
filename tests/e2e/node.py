"""An installation under test: commands as a person gives them, processes as they really run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from gateway.cli import run

START_MAX_S = 60.0
STOP_MAX_S = 15.0
FoundT = TypeVar("FoundT")


def moment(offset_s: float = 0.0) -> datetime:
    """Now, or so many seconds later; UTC, to the millisecond."""
    at = datetime.now(UTC) + timedelta(seconds=offset_s)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def wait_for(what: str, ask: Callable[[], FoundT | None], limit_s: float = START_MAX_S) -> FoundT:
    """The first answer that is true; a test that waits in vain says for what."""
    deadline = time.monotonic() + limit_s
    while True:
        if found := ask():
            return found
        assert time.monotonic() < deadline, f"waited {limit_s:.0f} s in vain for {what}"
        time.sleep(0.1)


def here(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end in this process: the same code without the start of a Python."""
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    given = io.TextIOWrapper(io.BytesIO((stdin or "").encode()), "utf-8")
    before, sys.stdin = sys.stdin, given
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(words)
    finally:
        sys.stdin = before
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def ringvault(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def succeed(*arguments: object, stdin: str | None = None) -> str:
    """Run one command that must succeed; what it printed."""
    done = here(*arguments, stdin=stdin)
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Process:
    """A command that runs until it is stopped; its words are in a file."""

    def __init__(self, log: Path, *arguments: object, stdout: int | None = None) -> None:
        self.log = log
        with open(log, "ab") as words:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=words if stdout is None else stdout,
                stderr=words,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def words(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Signal it; the seconds it took to end."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(STOP_MAX_S)
        return time.monotonic() - started

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Simulator(Process):
    """``ringvault simulate``: cameras at ``urls``."""

    def __init__(self, log: Path, cameras: int, *arguments: object) -> None:
        options = ("--cameras", cameras, "--port", 0, "--json")
        super().__init__(log, "simulate", *arguments, *options, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        text = b""
        with self.process.stdout as pipe:  # it says one thing and is silent then
            while not text.rstrip().endswith(b"}"):
                line = pipe.readline()
                assert line, self.words()
                text += line
        self.urls: list[str] = json.loads(text)["urls"]


class Node:
    """A trial installation in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "ringvault.toml"
        self.serving: Process | None = None
        volume = f"{root / 'volume'}:1GiB"
        succeed("init", root, "--volume", volume, "--trial", "--http-port", 0)

    def add(self, camera_id: str, url: str) -> None:
        place = ("--place-category", 8, "--place-type", "road")
        succeed("camera", "add", camera_id, "--url", url, *place, "--config", self.config)

    def serve(self, *arguments: object) -> Process:
        """Start ``serve`` and wait until it answers."""
        log = self.root.with_name(self.root.name + ".log")
        self.serving = Process(log, "serve", "--config", self.config, *arguments)
        wait_for("serve", lambda: self.ended() or self.status()["serving"])
        return self.serving

    def ended(self) -> None:
        assert self.serving is not None
        assert self.serving.process.poll() is None, self.serving.words()

    def status(self) -> dict[str, Any]:
        done = here("status", "--json", "--config", self.config)
        assert done.returncode in (0, 3), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def camera(self, camera_id: str) -> dict[str, Any]:
        return next(c for c in self.status()["cameras"] if c["id"] == camera_id)

    def until_recording(self, *camera_ids: str) -> None:
        """All of them have footage from after this call."""
        since = rfc3339(moment())

        def recording() -> bool:
            found = {c["id"]: c for c in self.status()["cameras"]}
            return all(
                found[name]["state"] == "playing" and (found[name]["newest"] or "") > since
                for name in camera_ids
            )

        wait_for(f"{camera_ids} to record", recording)

    def grant(self, start: datetime, end: datetime, *camera_ids: str, action: str = "copy") -> str:
        cameras = [word for name in camera_ids for word in ("--camera", name)]
        times = ("--from", rfc3339(start), "--to", rfc3339(end), "--action", action)
        people = ("--official", "Li Lei:C-1", "--official", "Han Meimei:C-2")
        paper = ("--document", "2026-17", "--config", self.config)
        token = succeed("grant", "create", *cameras, *times, *people, *paper)
        assert token.count("\n") == 1, "the grant stands alone on standard output"
        return token.strip()

    @property
    def address(self) -> str:
        found: str = self.status()["http_address"]
        return found

    def children(self) -> dict[str, int]:
        """Process ids of the workers and the API, by name, as the system knows them."""
        assert self.serving is not None
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it ended meanwhile
            if int(stat[1]) == self.serving.pid and stat[0] != "Z" and b"-m" in words:
                # `python -m gateway.ingest.child MODULE ...`
                module = words[words.index(b"-m") + 2].decode().removesuffix(".__main__")
                number = next((w.decode() for w in words if w.startswith(b"--worker=")), "")
                found[module.rsplit(".", 1)[-1] + number.removeprefix("--worker=")] = int(
                    entry.name
                )
        return found

    def audit(self) -> list[dict[str, Any]]:
        """All entries of the audit log, verified."""
        from storage.audit.log import AuditLog

        with AuditLog.open(self.root / "audit") as log:
            log.verify()
            return [json.loads(entry.data) for entry in log.entries()]

    def stop(self) -> None:
        if self.serving is not None and self.serving.process.poll() is None:
            self.serving.stop()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"
