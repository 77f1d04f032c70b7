"""Goal: a child that dies comes back, later each time, and only after its slots were recovered."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.ingest import children
from gateway.ingest.children import Child, ChildSpec, Spawned, child_arguments
from gateway.ingest.control import (
    Accepted,
    Answer,
    Applied,
    Assign,
    AuditAppend,
    AuditAppended,
    Channel,
    ControlError,
    RegistryChanged,
    Request,
    StatusQuery,
    StatusReport,
    StopServe,
    WorkerReady,
)
from gateway.ingest.registry import Camera
from gateway.ingest.supervisor import ServePlan, Supervisor, spec_of
from tests.gateway.ingest.test_control import EVENT

STUB = "tests.gateway.ingest.stub_child"


class Watch:
    """Hears what a child says and sees what happens between its lives."""

    def __init__(self) -> None:
        self.said: list[Request] = []
        self.happened: list[str] = []
        self.heard = asyncio.Event()
        self.failures = 0

    async def handle(self, channel: Channel, body: Request) -> Answer | None:
        del channel
        self.said.append(body)
        self.happened.append("ready")
        self.heard.set()
        return None

    async def between(self) -> bool:
        assert self.child.pid == 0, "nobody of that name runs while its slots are recovered"
        if self.failures:
            self.failures -= 1
            self.happened.append("not recovered")
            return False
        self.happened.append("recovered")
        self.heard.set()
        return True

    def start(self, deed: str, *fds: int) -> asyncio.Task[None]:
        self.child = Child(ChildSpec("stub", STUB, (deed,), fds), self.handle, self.between)
        return asyncio.ensure_future(self.child.keep())

    async def until(self, found: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not found():
                self.heard.clear()
                await self.heard.wait()


async def test_a_killed_child_is_recovered_and_started_again() -> None:
    watch = Watch()
    keeper = watch.start("--stay=1")
    await watch.until(lambda: len(watch.said) == 1)
    first = watch.child.pid
    os.kill(first, signal.SIGKILL)
    await watch.until(lambda: len(watch.said) == 2)
    assert watch.happened == ["ready", "recovered", "ready"]
    assert watch.child.pid not in (0, first) and watch.child.restarts == 1
    watch.child.stop()
    watch.child.terminate()
    await asyncio.wait_for(keeper, 10)
    assert watch.child.pid == 0 and watch.happened[-1] == "ready", "a stop is no death"


async def test_a_child_that_dies_at_once_is_tried_ever_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    async def wait_for(awaitable: Any, timeout: float) -> None:  # noqa: ASYNC109
        awaitable.close()
        waits.append(timeout)
        await asyncio.sleep(0)
        if len(waits) == 4:
            watch.child.stop()
        raise TimeoutError

    watch = Watch()
    monkeypatch.setattr(children.asyncio, "wait_for", wait_for)
    await watch.start("--die=1")
    assert waits == [0.0, 1.0, 2.0, 4.0]
    assert watch.happened == ["recovered"] * 4


async def test_a_child_whose_slots_cannot_be_recovered_is_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "RESTART_MAX_S", 0.01)
    watch = Watch()
    watch.failures = 3
    keeper = watch.start("--stay=1")
    await watch.until(lambda: len(watch.said) == 1)
    os.kill(watch.child.pid, signal.SIGKILL)
    await watch.until(lambda: len(watch.said) == 2)
    assert watch.happened == ["ready", *["not recovered"] * 3, "recovered", "ready"]
    watch.child.stop()
    watch.child.terminate()
    await asyncio.wait_for(keeper, 10)


async def test_a_child_that_breaks_the_protocol_is_killed() -> None:
    watch = Watch()
    keeper = watch.start("--garbage=1")
    await watch.until(lambda: watch.child.restarts >= 1)
    watch.child.stop()
    watch.child.kill()
    await asyncio.wait_for(keeper, 10)


async def test_a_child_keeps_what_it_inherits() -> None:
    """So ``serve.lock`` is held until the last process is gone (G1)."""
    ours, theirs = socket.socketpair()
    watch = Watch()
    keeper = watch.start("--stay=1", theirs.fileno())
    await watch.until(lambda: bool(watch.said))
    theirs.close()
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    watch.child.stop()
    watch.child.terminate()
    await asyncio.wait_for(keeper, 10)
    assert ours.recv(1) == b""
    ours.close()


async def test_a_child_does_nothing_before_it_is_let_go() -> None:
    """Recovery may take its time: what was spawned meanwhile waits at its gate (G3)."""
    watch = Watch()
    spec = ChildSpec("stub", STUB, ("--stay=1",), ())
    first = Spawned(spec)
    await asyncio.sleep(3)
    with pytest.raises(BlockingIOError):
        first.control.recv(1)
    assert first.process.poll() is None
    watch.child = Child(spec, watch.handle, watch.between, first)
    keeper = asyncio.ensure_future(watch.child.keep())
    await watch.until(lambda: len(watch.said) == 1)
    assert watch.child.pid == first.process.pid, "it is the one that was waiting"
    watch.child.stop()
    watch.child.terminate()
    await asyncio.wait_for(keeper, 10)


async def test_a_start_that_fails_leaves_no_child_behind() -> None:
    spec = ChildSpec("stub", STUB, ("--die=1",), ())
    abandoned, orphan = Spawned(spec), Spawned(spec)
    abandoned.abandon()
    assert abandoned.process.returncode == -signal.SIGKILL
    orphan.control.close()  # as when the supervisor is killed
    assert await asyncio.wait_for(orphan.ended(), 30) == 0, "it never ran"


def test_arguments_are_the_supervisors_own() -> None:
    assert child_arguments(["--a=1", "--b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(AssertionError):
        child_arguments(["surprise"])


# ---- the supervisor itself ----------------------------------------------------------------------


class Backend:
    """Storage and registry, as far as a supervisor sees them."""

    def __init__(self, count: int) -> None:
        self.cameras = [camera(n) for n in range(count)]
        self.events: list[bytes] = []

    def append_audit(self, event: bytes) -> int:
        self.events.append(event)
        return len(self.events) - 1

    def recover_worker(self, worker: int) -> str:
        return f"worker {worker}"

    def persist_trusted(self) -> None: ...

    def desired(self) -> tuple[int, list[Camera]]:
        return len(self.cameras), list(self.cameras)

    def revision(self) -> int:
        return len(self.cameras)

    def utc_ns(self) -> int:
        return 5

    def clock_synchronised(self) -> bool:
        return True


def camera(number: int) -> Camera:
    uid = number.to_bytes(16, "big")
    return Camera(f"c{number}", uid, "rtsp://h/", 8, "road", None, "R30", "tcp", 0)


class Ears:
    """A worker's connection that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Request] = []

    async def notify(self, body: Request) -> None:
        self.told.append(body)


def supervisor(tmp_path: Path, backend: Backend, workers: int) -> tuple[Supervisor, list[Ears]]:
    plan = ServePlan(
        config_file=tmp_path / "x.toml", workers=workers, control_socket=tmp_path / "s",
        lock_fd=0, http_fd=0, http_address="http://h", recovery="nothing", log_level="info",
    )  # fmt: skip
    made = Supervisor(plan, backend)
    ears = [Ears() for _ in range(workers)]
    for child, ear in zip(made._workers, ears, strict=True):
        child._channel = ear  # type: ignore[assignment]
    return made, ears


async def test_each_worker_gets_its_part_and_hears_only_of_its_own_changes(tmp_path: Path) -> None:
    backend = Backend(20)
    made, ears = supervisor(tmp_path, backend, 3)
    await made._reconcile()
    assert not any(ear.told for ear in ears), "nobody is ready yet"
    for number, ear in enumerate(ears):
        await made._handle_worker(number, ear, WorkerReady(number, 1))  # type: ignore[arg-type]
    parts = [ear.told[-1] for ear in ears]
    assert all(isinstance(part, Assign) for part in parts)
    ids = [spec.id for part in parts for spec in part.cameras]  # type: ignore[union-attr]
    assert sorted(ids) == sorted(c.id for c in backend.cameras)
    added = camera(99)
    backend.cameras.append(added)
    answer = await made._handle(ears[0], RegistryChanged())  # type: ignore[arg-type]
    assert answer == Applied(21)
    changed = [ear for ear in ears if len(ear.told) == 2]
    assert len(changed) == 1 and spec_of(added) in changed[0].told[-1].cameras  # type: ignore[union-attr]
    await made._poll_registry()
    assert sum(len(ear.told) for ear in ears) == 4, "nothing changed, nothing is said"


async def test_requests_are_answered(tmp_path: Path) -> None:
    backend = Backend(2)
    made, ears = supervisor(tmp_path, backend, 1)
    channel: Any = ears[0]
    assert await made._handle(channel, AuditAppend(EVENT)) == AuditAppended(0)
    assert backend.events == [bytes(EVENT)]
    report = await made._handle(channel, StatusQuery())
    assert isinstance(report, StatusReport) and report.workers[0].pid == 0
    assert await made._handle(channel, StopServe()) == Accepted() and made._stop.is_set()
    with pytest.raises(ControlError, match="for workers"):
        await made._handle(channel, WorkerReady(0, 1))


async def test_housekeeping_that_fails_is_tried_again(tmp_path: Path) -> None:
    made, _ = supervisor(tmp_path, Backend(0), 1)
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise GatewayError("disk")

    task = asyncio.ensure_future(made._every(0.001, fail))
    await asyncio.sleep(0.1)
    task.cancel()
    assert calls > 3
