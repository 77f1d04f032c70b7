"""``ringvault clip``: footage against a grant, into a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.app import App
from gateway.cli.download import DownloadRefused, clip_url, download, fetch
from gateway.cli.terminal import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    byte_progress,
    err,
    out,
    print_json,
)
from gateway.errors import GatewayError
from gateway.footage import unverified_claims
from storage.base.timebase import format_size


class ClipUnwritable(GatewayError):
    """The file cannot be written there, or the grant cannot be read."""

    code = "CLIP_FILE"


def clip(
    grant: Annotated[
        str,
        typer.Option(metavar="FILE", help="The grant as `grant create` printed it; - is stdin."),
    ],
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="The MP4 to write.")],
    camera: Annotated[
        str | None, typer.Option(metavar="ID", help="Which camera, if the grant names several.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="http://HOST:PORT",
            help="Fetch over HTTP, from anywhere; resumes what an earlier try left. Without it "
            "the installation of --config is read directly.",
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="With --url: new tries after one without progress.")
    ] = 5,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Write the granted footage as MP4, and beside it FILE.json: ranges and gaps.

    Gaps are reported and no error: the clip holds what was recorded. A grant to view is refused:
    no file may leave under it.
    """
    token = _read_grant(grant)
    named, action = unverified_claims(token)
    if not named:
        raise DownloadRefused(
            "MALFORMED", "this is no grant", "", "use it as it was printed, on one line"
        )
    if action != "copy":
        raise DownloadRefused(
            "OUT_OF_SCOPE", "the grant allows viewing, not a copy", "measure art. 24", ""
        )
    if camera is None and len(named) != 1:
        raise typer.BadParameter(f"the grant names {len(named)} cameras: choose one with --camera")
    camera_id = camera if camera is not None else named[0]
    if out_file.exists() and not force:
        raise ClipUnwritable(f"{out_file} exists", remedy="name another file, or give --force")
    try:
        if url is not None:
            sidecar = _over_http(url, camera_id, token, out_file, retries)
        else:
            sidecar = _from_store(App.load(config), camera_id, token, out_file)
        out_file.with_name(out_file.name + ".json").write_bytes(
            msgspec.json.format(msgspec.json.encode(sidecar)) + b"\n"
        )
    except OSError as error:
        raise ClipUnwritable(
            f"{error.filename or out_file}: {error.strerror}", remedy="check the path and the space"
        ) from error
    size = out_file.stat().st_size
    if as_json:
        print_json({"file": str(out_file), "size_bytes": size, **sidecar})
        return
    gaps = sidecar.get("gaps")
    count = len(gaps) if isinstance(gaps, list) else 0
    out().print(f"{out_file}  {format_size(size)}", markup=False)
    if count:
        err().print(f"{count} gaps, listed in {out_file}.json", markup=False)


def _read_grant(name: str) -> str:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("ascii")
    except OSError as error:
        raise ClipUnwritable(f"{name}: {error.strerror}", remedy="name the grant's file") from error
    except UnicodeDecodeError as error:
        raise ClipUnwritable(f"{name}: no grant", remedy="name the grant's file") from error
    return text.strip()


def _over_http(
    url: str, camera_id: str, token: str, target: Path, retries: int
) -> dict[str, object]:
    with byte_progress(camera_id) as bar:
        task = bar.add_task(camera_id, total=None)
        download(
            clip_url(url, camera_id, ".mp4"),
            token,
            target,
            retries=retries,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    sidecar = fetch(clip_url(url, camera_id, ".json"), token)
    return msgspec.json.decode(sidecar, type=dict[str, object])


def _from_store(application: App, camera_id: str, token: str, target: Path) -> dict[str, object]:
    part = target.with_name(target.name + ".part")
    with application.clip(token, camera_id) as opened, byte_progress(camera_id) as bar:
        found = opened.clip
        task = bar.add_task(camera_id, total=found.size_bytes)
        with open(part, "wb") as out_part:
            for chunk in found.read(0, found.size_bytes):
                out_part.write(chunk)
                bar.advance(task, len(chunk))
            out_part.flush()
            os.fsync(out_part.fileno())
        os.replace(part, target)
        return found.sidecar()
