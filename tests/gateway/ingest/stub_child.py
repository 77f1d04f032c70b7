"""A child process for tests of ``gateway.ingest.children``: does what its first word says."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

from gateway.ingest.children import bind_to_parent, child_arguments
from gateway.ingest.control import Answer, Channel, Request, WorkerReady, open_fd


async def handle(channel: Channel, body: Request) -> Answer | None:
    del channel, body
    return None


async def stay(fd: int) -> None:
    """Say hello, then live until the supervisor is gone."""
    supervisor = await open_fd(fd, handle)
    await supervisor.notify(WorkerReady(0, os.getpid()))
    await supervisor.run()


def main(argv: Sequence[str]) -> None:
    deed, *rest = argv
    arguments = child_arguments(rest)
    bind_to_parent(int(arguments["parent-pid"]))
    fd = int(arguments["control-fd"])
    if deed == "--die=1":
        sys.exit(3)
    if deed == "--garbage=1":
        os.write(fd, b"\xff\xff\xff\xff")
        time.sleep(60)
    asyncio.run(stay(fd))
