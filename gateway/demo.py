"""``make run``: a small city on one machine, from nothing, in half a minute.

Owns the processes it starts (simulated cameras, ``serve``) and the directory it works in.
Everything else it does the way an operator would: init, camera add, grant create through the same
code as the command line, and the clip over HTTP.

- Ctrl-C stops everything; nothing outlives this process. Starting again goes on with the same
  directory.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gateway.app import App
from gateway.cli.download import clip_url, download, fetch
from gateway.cli.status import render
from gateway.cli.terminal import EXIT_FAILED, err, out, print_problem
from gateway.config import CONFIG_FILE_NAME
from gateway.enrol import CameraRequest
from gateway.errors import GatewayError
from gateway.ingest.children import bind_to_parent
from gateway.installation import NewVolume, create_installation
from gateway.legal.grants import IssuedGrant
from gateway.overview import Overview
from gateway.problem import explain
from storage.base.timebase import MINUTE_NS, SECOND_NS, format_rfc3339, format_size

VOLUME_BYTES = 2 << 30
VOLUME_BYTES_SMALL = 512 << 20
DISK_SPARE_BYTES = 1 << 30
PLACES = ("gate", "road", "square", "platform")
START_MAX_S = 60.0
STOP_MAX_S = 12.0
REFRESH_S = 2.0
GRANT_EARLY_NS = 8 * SECOND_NS
SETTLE_NS = 3 * SECOND_NS


class DemoFailed(GatewayError):
    """Something the demonstration started did not come up, or its clip is not right."""

    code = "DEMO"


@dataclass(frozen=True, slots=True)
class Simulator:
    """The camera simulator's process and the cameras it plays."""

    process: subprocess.Popen[bytes]
    urls: tuple[str, ...]


def main() -> None:
    """Run the command line of the demonstration."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(run)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except Exception as error:
        problem = explain(error)
        if problem is None:
            raise
        print_problem(problem, as_json=False)
        sys.exit(EXIT_FAILED)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def run(
    directory: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("var"),
    cameras: Annotated[int, typer.Option(min=1, max=64, help="How many cameras.")] = 4,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Stop by itself after this long.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fetch a clip over HTTP, decode it, count it, and end.")
    ] = False,
) -> None:
    """Simulated cameras, a recorder, and a clip of the last minute. Ctrl-C stops all of it."""
    root = directory.absolute()
    console = err()
    with contextlib.ExitStack() as running:
        application = _installation(root, console)
        simulator = running.enter_context(_simulator(root, cameras))
        _enrol(application, simulator.urls)
        running.enter_context(_serve(application, root))
        _until_recording(application, cameras)
        if check:
            _check(application, root, 10.0 if seconds is None else seconds)
            return
        try:
            _show(application, root, seconds)
        except KeyboardInterrupt:
            console.print("stopping ...")


# ---- what it takes ------------------------------------------------------------------------------


def _installation(root: Path, console: Console) -> App:
    config = root / CONFIG_FILE_NAME
    if not config.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root.parent).free
        size = VOLUME_BYTES if free > VOLUME_BYTES + DISK_SPARE_BYTES else VOLUME_BYTES_SMALL
        console.print(f"making a trial installation in {root} ({format_size(size)})", markup=False)
        create_installation(
            root,
            [NewVolume(root / "volume", size)],
            trial=True,
            name="demo city",
            now_ns=time.time_ns(),
            http_port=_free_port(),
        )
    application = App.load(config)
    _free_http_port(application, config)
    return App.load(config)


def _free_http_port(application: App, config: Path) -> None:
    """The port of last time may be somebody else's now: then the file gets another."""
    port = application.installation.config.server.http_port
    with contextlib.suppress(OSError):
        socket.create_server(("127.0.0.1", port)).close()
        return
    text = config.read_text("utf-8")
    config.write_text(text.replace(f"http_port = {port}", f"http_port = {_free_port()}"), "utf-8")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _child(arguments: Sequence[str], log_file: Path, stdout: int) -> subprocess.Popen[bytes]:
    """One of our own commands, its words in a file; it ends when we do, however we end."""
    me = os.getpid()
    with open(log_file, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: bind_to_parent(me),
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_MAX_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _simulator(root: Path, cameras: int) -> Iterator[Simulator]:
    """Cameras that play the footage that ships, half of them H.264, half H.265."""
    log_file = root / "simulator.log"
    command = ["simulate", "--cameras", str(cameras), "--port", "0", "--json"]
    process = _child(command, log_file, subprocess.PIPE)
    assert process.stdout is not None
    try:
        with process.stdout as pipe:
            # Its answer is one document; it stays silent afterwards.
            text = b""
            while not text.rstrip().endswith(b"}"):
                line = pipe.readline()
                if not line:
                    raise _did_not_start("the camera simulator", process, log_file)
                text += line
        said = msgspec.json.decode(text, type=dict[str, list[str] | int])
        urls = said["urls"]
        assert isinstance(urls, list)
        yield Simulator(process, tuple(urls))
    finally:
        _stop(process)


def _enrol(application: App, urls: tuple[str, ...]) -> None:
    """Cameras of the last run moved to this run's port: same ids, so the same footage."""
    wanted = {f"{PLACES[n % len(PLACES)]}-{n + 1}": (url, n) for n, url in enumerate(urls)}
    for camera in application.cameras():
        application.remove(camera.id)
    application.enrol(
        [
            CameraRequest(camera_id, url, 8, PLACES[n % len(PLACES)])
            for camera_id, (url, n) in wanted.items()
        ]
    )


@contextlib.contextmanager
def _serve(application: App, root: Path) -> Iterator[None]:
    log_file = root / "serve.log"
    config = str(application.installation.paths.config)
    process = _child(["serve", "--config", config], log_file, subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_MAX_S
        while not application.overview().serving:
            if process.poll() is not None or time.monotonic() > deadline:
                raise _did_not_start("`ringvault serve`", process, log_file)
            time.sleep(0.2)
        yield
    finally:
        _stop(process)


def _did_not_start(what: str, process: subprocess.Popen[bytes], log_file: Path) -> DemoFailed:
    lines = log_file.read_text("utf-8", "replace").splitlines()[-5:]
    ended = process.poll()
    state = "does not answer" if ended is None else f"ended with status {ended}"
    return DemoFailed(f"{what} {state}\n" + "\n".join(lines), remedy=f"see {log_file}")


def _until_recording(application: App, cameras: int) -> None:
    deadline = time.monotonic() + START_MAX_S
    while True:
        found = application.overview()
        recording = [c for c in found.cameras if c.state == "playing" and c.newest is not None]
        if len(recording) == cameras:
            return
        if time.monotonic() > deadline:
            states = ", ".join(f"{c.id} {c.state}" for c in found.cameras)
            raise DemoFailed(f"not recording after {START_MAX_S:.0f} s: {states}", remedy="")
        time.sleep(0.2)


# ---- what it shows ------------------------------------------------------------------------------


def _grant(application: App, root: Path, start_ns: int, end_ns: int) -> IssuedGrant:
    """Leave to copy all cameras; the token goes to ``grant.jwt``, for the owner's eyes only."""
    issued = application.grant(
        cameras=tuple(camera.id for camera in application.cameras()),
        start_ns=start_ns,
        end_ns=end_ns,
        action="copy",
        document_no="DEMO-1",
        officials=("Li Lei:D-001", "Han Meimei:D-002"),
        expires_ns=None,
    )
    file = root / "grant.jwt"
    fresh = file.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as out_file:
        out_file.write(issued.token + "\n")
    os.replace(fresh, file)
    return issued


def _commands(application: App, root: Path, issued: IssuedGrant) -> Text:
    camera = application.cameras()[0].id
    grant = issued.grant
    config = shlex.quote(_shown(application.installation.paths.config))
    token, clip = (shlex.quote(_shown(root / name)) for name in ("grant.jwt", f"{camera}.mp4"))
    ringvault = shlex.quote(_shown(Path(sys.executable).with_name("ringvault")))
    address = application.overview().http_address
    make = (
        f"{ringvault} grant create --config {config} --camera {camera} --action copy \\\n"
        f"    --from {format_rfc3339(grant.start_ns)} --to {format_rfc3339(grant.end_ns)} \\\n"
        f"    --document DEMO-1 --official 'Li Lei:D-001' --official 'Han Meimei:D-002' > {token}"
    )
    fetch_here = f"{ringvault} clip --config {config} --grant {token} --camera {camera}"
    text = Text("\n")
    text.append(f"# made already, and made anew again and again: {token}\n{make}\n", style="dim")
    text.append("# the last minute, from the disk\n", style="dim")
    text.append(f"{fetch_here} --force --out {clip}\n", style="bold")
    text.append("# or over HTTP\n", style="dim")
    text.append(f'curl -H "Authorization: Bearer $(cat {token})" -o {clip} ', style="bold")
    text.append(f"{clip_url(address, camera, '.mp4')}\n", style="bold")
    text.append("# Ctrl-C stops everything\n", style="dim")
    return text


def _shown(path: Path) -> str:
    """Relative to where the person is, when that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _show(application: App, root: Path, seconds: float | None) -> None:
    console = out()
    ends = None if seconds is None else time.monotonic() + seconds
    begun_ns = granted_ns = application.now_ns()
    commands = Text("\nrecording; how to fetch a clip stands here in a few seconds\n", style="dim")
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while ends is None or time.monotonic() < ends:
            now_ns = application.now_ns()
            # Often at first, so that the last minute is not mostly the time before we ran.
            young = now_ns - begun_ns < MINUTE_NS + GRANT_EARLY_NS
            if now_ns - granted_ns >= (GRANT_EARLY_NS if young else MINUTE_NS):
                granted_ns = now_ns
                end_ns = (now_ns - SETTLE_NS) // SECOND_NS * SECOND_NS
                commands = _commands(
                    application, root, _grant(application, root, end_ns - MINUTE_NS, end_ns)
                )
            found = application.overview()
            live.update(Group(render(found), commands), refresh=True)
            _refuse_dead(found)
            time.sleep(REFRESH_S)


def _refuse_dead(found: Overview) -> None:
    if not found.serving:
        raise DemoFailed("`ringvault serve` ended", remedy="see serve.log")


# ---- --check ------------------------------------------------------------------------------------


def _check(application: App, root: Path, seconds: float) -> None:
    """Record a while, fetch each camera's clip over HTTP, decode it, compare the counts."""
    start_ns = application.now_ns()
    time.sleep(seconds + SETTLE_NS / SECOND_NS)
    end_ns = start_ns + int(seconds * SECOND_NS)
    issued = _grant(application, root, start_ns, end_ns)
    address = application.overview().http_address
    for camera in application.overview().cameras:
        target = root / f"{camera.id}.mp4"
        download(clip_url(address, camera.id, ".mp4"), issued.token, target, retries=2)
        sidecar = msgspec.json.decode(
            fetch(clip_url(address, camera.id, ".json"), issued.token), type=_Sidecar
        )
        decoded = count_frames(target)
        expected = camera.fps * seconds
        if decoded != sidecar.frames["presented"] or sidecar.gaps:
            raise DemoFailed(
                f"{target}: {decoded} frames decoded, {sidecar.frames['presented']} promised, "
                f"{len(sidecar.gaps)} gaps",
                remedy="see serve.log",
            )
        if not 0.9 * expected - 1 <= decoded <= 1.1 * expected + 1:
            raise DemoFailed(
                f"{target}: {decoded} frames, {expected:.0f} expected", remedy="see serve.log"
            )
        out().print(f"{target.name}: {decoded} frames, {camera.codec}, no gap", markup=False)


class _Sidecar(msgspec.Struct):
    frames: dict[str, int]
    gaps: list[dict[str, str | int]]


def count_frames(file: Path) -> int:
    """Pictures a player shows of an MP4: decoded, the edit list applied."""
    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(video=0))


if __name__ == "__main__":
    main()
