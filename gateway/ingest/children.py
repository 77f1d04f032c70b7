"""One child process of the supervisor: started, served, watched, started again.

Owns the process, its end of the control socket pair and the back-off of its restarts. Never
decides what a child is for, nor when to stop: the supervisor does.

- A child gets the read end of nothing but its control socket and keeps ``serve.lock`` open, so
  that the lock is free only when the last process is gone (G1).
- A child may be spawned before it may work: it loads its modules and waits at a gate, before which
  it opens nothing (``gateway.ingest.child``). So loading costs no time after a crash: the
  supervisor recovers meanwhile, and G3 holds all the same.
- A child is its own process group: Ctrl-C in a terminal reaches the supervisor alone, which stops
  the rest in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gateway.ingest.control import Channel, ControlError, Handler
from gateway.limits import RESTART_FIRST_S, RESTART_MAX_S, RESTART_STABLE_S
from gateway.telemetry.log import get_logger

log = get_logger(__name__)

_PR_SET_PDEATHSIG = 1
_RUNNER = "gateway.ingest.child"
_GO = b"G"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run.

    ``module`` has a ``main(argv)`` that gives an exit status; ``fds`` are inherited beside the
    control socket.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    fds: tuple[int, ...]


class Spawned:
    """A process that waits at its gate. ``let_go`` or ``abandon`` follows."""

    def __init__(self, spec: ChildSpec) -> None:
        """Start it; returns at once. Raises OSError."""
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    _RUNNER,
                    spec.module,
                    *spec.arguments,
                    f"--control-fd={theirs.fileno()}",
                    f"--parent-pid={os.getpid()}",
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *spec.fds),
                start_new_session=True,
            )
        self.control.setblocking(False)
        self._pid_fd = os.pidfd_open(self.process.pid)
        log.info("process_started", child=spec.name, pid=self.process.pid)

    def let_go(self) -> None:
        """Open the gate."""
        # Also when it has died meanwhile: whoever serves the connection sees the end of file.
        with contextlib.suppress(BrokenPipeError):
            self.control.send(_GO)

    def abandon(self) -> None:
        """End it at once: behind its gate it has touched nothing."""
        self.control.close()
        os.close(self._pid_fd)
        self.process.kill()
        self.process.wait()

    async def ended(self) -> int:
        """Its exit status, minus the signal's number if one ended it."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pid_fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pid_fd)
            os.close(self._pid_fd)
        return self.process.wait()


class Child:
    """Keeps one process alive until told to stop.

    ``first`` was spawned before and waits at its gate; without it the first one is spawned, too,
    when ``keep`` begins. ``handler`` serves its requests. ``between`` runs after a death and
    before the next start, while no such process runs (G3); False: not yet, ask again later.
    """

    def __init__(
        self,
        spec: ChildSpec,
        handler: Handler,
        between: Callable[[], Awaitable[bool]],
        first: Spawned | None = None,
    ) -> None:
        self.spec = spec
        self.restarts = 0
        self._handler = handler
        self._between = between
        self._waiting = first
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    @property
    def channel(self) -> Channel | None:
        """The connection to it while it runs."""
        return self._channel

    async def keep(self) -> None:
        """Run it, again and again, until :meth:`stop`. Its last exit ends this."""
        loop = asyncio.get_running_loop()
        delay_s = 0.0
        while not self._stopping.is_set():
            started_s = loop.time()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            if loop.time() - started_s >= RESTART_STABLE_S:
                delay_s = 0.0
            log.error(
                "process_died", child=self.spec.name, status=_describe(status), restart_in_s=delay_s
            )
            self.restarts += 1
            while not await self._between():
                if await self._stopped_within(RESTART_MAX_S):
                    return
            if not await self._stopped_within(delay_s):
                delay_s = min(RESTART_MAX_S, max(RESTART_FIRST_S, 2 * delay_s))

    async def _stopped_within(self, wait_s: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), timeout=wait_s)
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Do not start it again; the caller tells the running one to end."""
        self._stopping.set()

    def terminate(self) -> None:
        """SIGTERM, if it runs."""
        if self.pid and self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, if it runs: recovery will do the rest."""
        if self.pid and self._process is not None:
            log.error("process_killed", child=self.spec.name, reason="did not stop in time")
            self._process.kill()

    async def _run_once(self) -> int:
        running, self._waiting = self._waiting or Spawned(self.spec), None
        self._process = running.process
        running.let_go()
        reader, writer = await asyncio.open_connection(sock=running.control)
        self._channel = Channel(reader, writer, self._handler)
        try:
            await self._channel.run()
        except ControlError as error:
            log.error("control_broken", child=self.spec.name, error=str(error))
            self.kill()
        finally:
            self._channel = None
        return await running.ended()


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def bind_to_parent(parent_pid: int) -> None:
    """In a child, first of all: end when the supervisor does (G4).

    SIGTERM comes from the kernel when the parent's thread that started us ends; a parent that
    ended before this call shows in our parent's id.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent_pid:
        raise SystemExit(f"the supervisor {parent_pid} is gone already")


def wait_at_gate(control_fd: int) -> bool:
    """In a child: until the supervisor lets it go. False: it never will."""
    with socket.socket(fileno=os.dup(control_fd)) as control:
        control.setblocking(True)
        return control.recv(len(_GO)) == _GO


def child_arguments(argv: Sequence[str]) -> dict[str, str]:
    """``--name=value`` arguments as the supervisor gives them; anything else is our own mistake."""
    found: dict[str, str] = {}
    for argument in argv:
        name, separator, value = argument.removeprefix("--").partition("=")
        assert argument.startswith("--") and separator, argument
        found[name] = value
    return found
