"""The API process: ``gateway.ingest.child gateway.api.__main__``, started by the supervisor alone.

Owns the process: signals, the inherited sockets, uvicorn. SIGTERM stops it: no new connections,
responses under way get STOP_RESPONSES_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
import uvloop

from gateway.api.resources import create_app
from gateway.api.services import Services
from gateway.ingest.children import bind_to_parent, child_arguments
from gateway.ingest.control import Answer, Channel, ControlError, Request, open_fd
from gateway.installation import Installation
from gateway.limits import STOP_RESPONSES_S
from gateway.telemetry.log import configure_logging, get_logger

log = get_logger(__name__)

KEEP_ALIVE_S = 30


def main(argv: Sequence[str]) -> None:
    """Run until the supervisor says stop, or is gone."""
    arguments = child_arguments(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bind_to_parent(int(arguments["parent-pid"]))
    installation = Installation.load(Path(arguments["config"]))
    configure_logging(arguments["log-level"], installation.config.log.format, "api")
    uvloop.run(
        _serve(installation, int(arguments["control-fd"]), int(arguments["http-fd"])),
    )


async def _serve(installation: Installation, control_fd: int, http_fd: int) -> None:
    supervisor = await open_fd(control_fd, _refuse)
    services = Services(installation, supervisor)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(services),
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(STOP_RESPONSES_S),
        )
    )
    gc.collect()
    gc.freeze()
    with contextlib.closing(services), socket.socket(fileno=http_fd) as listener:
        async with asyncio.TaskGroup() as group:
            link = group.create_task(_until_supervisor_ends(supervisor, server))
            await server.serve(sockets=[listener])
            link.cancel()


async def _until_supervisor_ends(supervisor: Channel, server: uvicorn.Server) -> None:
    try:
        await supervisor.run()
    except ControlError as error:
        log.error("control_broken", error=str(error))
    server.should_exit = True


async def _refuse(channel: Channel, body: Request) -> Answer | None:
    del channel
    log.warning("unexpected_message", message=type(body).__name__)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
