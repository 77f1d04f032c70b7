"""``ringvault init``: make an installation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from gateway.cli.terminal import JsonOption, byte_progress, out, print_json
from gateway.installation import NewVolume, create_installation
from storage.base.timebase import format_size, parse_size


def _volume(text: str) -> NewVolume:
    path, colon, size = text.rpartition(":")
    if not colon or not path:
        raise typer.BadParameter(f"{text!r}: write it as PATH:SIZE, such as /srv/disk1:8TB")
    return NewVolume(Path(path).absolute(), parse_size(size))


def init(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A new or empty directory: configuration and keys."),
    ],
    volume: Annotated[
        list[str],
        typer.Option(
            metavar="PATH:SIZE",
            help="A volume to make, all of its space allocated now; 500GiB, 8TB. Repeat for more "
            "disks, one volume each.",
        ),
    ],
    trial: Annotated[
        bool,
        typer.Option(
            "--trial",
            help="For demonstrations: no legal minimum of days, stamped on everything, never "
            "convertible into a production node.",
        ),
    ] = False,
    name: Annotated[str, typer.Option(help="A name for people. Default: that of DIR.")] = "",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Ingest processes.")] = 1,
    http_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the API, on 127.0.0.1.")
    ] = 8080,
    as_json: JsonOption = False,
) -> None:
    """Make an installation in DIR: its configuration, keys and volumes.

    Refuses a directory with anything in it and a disk with too little room, before writing a byte.
    """
    volumes = [_volume(text) for text in volume]
    with byte_progress("{task.description}") as bar:
        tasks = [
            bar.add_task(f"allocating {v.path}", total=v.size_bytes, start=False) for v in volumes
        ]

        def progress(index: int, done: int, total: int) -> None:
            bar.start_task(tasks[index])
            bar.update(tasks[index], completed=done, total=total)

        made = create_installation(
            directory,
            volumes,
            trial=trial,
            name=name or directory.absolute().name or "ringvault",
            now_ns=time.time_ns(),
            http_port=http_port,
            workers=workers,
            progress=progress,
        )
    config = made.config
    if as_json:
        print_json(
            {
                "config": str(made.paths.config),
                "installation_uuid": str(config.installation.uuid),
                "trial": made.trial,
                "volumes": [{"number": v.number, "path": str(v.path)} for v in config.volume],
            }
        )
        return
    console = out()
    console.print(f"Installation {config.installation.uuid} in {made.paths.root}")
    for made_volume, asked in zip(config.volume, volumes, strict=True):
        size = format_size(asked.size_bytes)
        console.print(f"  volume {made_volume.number}  {made_volume.path}  {size}", markup=False)
    if made.trial:
        console.print(Text("  TRIAL: keeps nothing for a legal period", style="bold yellow"))
    console.print(f"Next: ringvault serve --config {made.paths.config}", markup=False)
