"""``ringvault serve``: run the installation."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.terminal import DEFAULT_CONFIG, ConfigOption


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Ingest processes. Default: server.workers."),
    ] = None,
) -> None:
    """Record and answer until SIGINT or SIGTERM: supervisor, ingest workers, API.

    A start after a crash recovers by itself. Cameras may be added and removed meanwhile.
    """
    from gateway.serving import serve_installation

    serve_installation(config, workers)
