"""``ringvault status``: what is recorded, how well, how far back."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.app import App
from gateway.cli.terminal import (
    DEFAULT_CONFIG,
    EXIT_NOT_WELL,
    ConfigOption,
    JsonOption,
    out,
    print_json,
)
from gateway.overview import CameraOverview, Overview, VolumeOverview
from storage.base.timebase import format_size

_STATE_STYLE = {"playing": "green", "connecting": "yellow", "handshake": "yellow"}


def status(
    config: ConfigOption = DEFAULT_CONFIG,
    only_camera: Annotated[
        str | None, typer.Option("--camera", metavar="ID", help="Only this camera.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show cameras, volumes and health. Exit status 3 when something is not well."""
    found = App.load(config).overview(only_camera)
    if as_json:
        print_json(found)
    else:
        out().print(render(found))
    if not found.health.ok or found.health.warnings:
        raise typer.Exit(EXIT_NOT_WELL)


def render(found: Overview) -> RenderableType:
    """The tables of ``status``; ``gateway.demo`` shows the same."""
    head = Text()
    head.append(found.name, style="bold")
    if found.trial:
        head.append("  TRIAL", style="bold yellow")
    head.append(f"  {found.time}")
    if found.serving:
        head.append(f"  {found.http_address}")
    parts: list[RenderableType] = [head]
    parts += [Text(f"not well: {reason}", style="bold red") for reason in found.health.reasons]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in found.health.warnings]
    if found.cameras:
        parts.append(_cameras(found.cameras))
    else:
        parts.append(Text("no cameras; add one with `ringvault camera add`"))
    parts.append(_volumes(found.volumes))
    return Group(*parts)


def _cameras(cameras: tuple[CameraOverview, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("camera", "state", "codec", "size"):
        table.add_column(title, no_wrap=True)
    for title in ("fps", "Mbit/s"):
        table.add_column(title, justify="right")
    table.add_column("last frame", no_wrap=True)
    for title in ("gaps today", "kept"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("oldest", "newest"):
        table.add_column(title, no_wrap=True)
    for camera in cameras:
        shown = [Text(camera.state, style=_STATE_STYLE.get(camera.state, "red"))]
        if camera.last_error is not None and camera.state != "playing":
            error = camera.last_error
            shown.append(Text(f"{error.code}: {error.message}", "red"))
            if error.remedy:
                shown.append(Text(error.remedy, "dim"))
        gaps = f"{camera.gaps_today} ({camera.gap_seconds_today:.1f} s)"
        table.add_row(
            camera.id,
            Group(*shown),
            camera.codec,
            f"{camera.width}x{camera.height}" if camera.width else "",
            f"{camera.fps:.1f}",
            f"{camera.bitrate_bps / 1e6:.2f}",
            _clock(camera.last_frame),
            gaps if camera.gaps_today else "0",
            ("" if camera.bytes_exact else "~") + format_size(camera.bytes_kept),
            _moment(camera.oldest),
            _moment(camera.newest),
        )
    return table


def _volumes(volumes: tuple[VolumeOverview, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("volume", "path"):
        table.add_column(title)
    for title in ("size", "free slots", "waiting", "durable p99", "errors"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("oldest")
    for volume in volumes:
        table.add_row(
            str(volume.number),
            volume.path,
            format_size(volume.capacity_bytes),
            f"{volume.slots_free}/{volume.slots}",
            format_size(volume.queue_bytes),
            f"{volume.loss_window_p99_ms:.0f} ms" if volume.loss_window_p99_ms else "",
            str(volume.errors),
            _moment(volume.oldest),
        )
        for text in volume.blocked:
            table.add_row("", Text(f"blocked: {text}", style="bold red"))
    return table


def _moment(text: str | None) -> str:
    """RFC 3339 without what a table has no room for."""
    return "" if text is None else text[:19] + "Z"


def _clock(text: str | None) -> str:
    return "" if text is None else text[11:21]
