"""``ringvault simulate``: cameras without cameras."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.terminal import JsonOption, out, print_json
from gateway.errors import GatewayError


class PortTaken(GatewayError):
    """The simulator cannot listen there."""

    code = "PORT"


def simulate(
    file: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="Footage to play again and again. None: the footage that ships."
        ),
    ] = None,
    cameras: Annotated[int, typer.Option(min=1, help="How many cameras.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="RTSP port; 0: a free one.")] = 8554,
    mbps: Annotated[
        float | None, typer.Option(min=0.01, help="Pad each camera to this many Mbit/s.")
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(metavar="N[/D]", help="Frame rate of elementary streams, which have none."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Play once, then end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve FILE over RTSP on 127.0.0.1 as if from cameras, until Ctrl-C. Prints their URLs.

    With several files camera N plays number N modulo their count.
    """
    from gateway.simulate.camera import CameraSettings, SimulatedCameras
    from gateway.simulate.main import run

    try:
        rate = Fraction(fps) if fps is not None else None
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"--fps {fps!r}: write it as 25 or 30000/1001") from error

    def on_ready(simulated: SimulatedCameras) -> None:
        urls = [simulated.url(number) for number in range(cameras)]
        if as_json:
            print_json({"port": simulated.port, "urls": urls})
        else:
            for url in urls:
                out().print(url, markup=False)

    settings = CameraSettings(cameras=cameras, port=port, once=once, spread_start=cameras > 1)
    try:
        run(
            file or [],
            settings,
            megabits_per_second=mbps,
            frames_per_second=rate,
            on_ready=on_ready,
        )
    except OSError as error:
        raise PortTaken(
            f"port {port} on 127.0.0.1: {error.strerror or error}",
            remedy="choose another with --port; 0 takes a free one",
        ) from error
