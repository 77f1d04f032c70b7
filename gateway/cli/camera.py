"""``ringvault camera``: who is recorded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from gateway.app import App
from gateway.cli.terminal import DEFAULT_CONFIG, ConfigOption, JsonOption, out, print_json
from gateway.enrol import CameraRequest, EnrolmentError
from gateway.ingest.registry import Camera
from gateway.legal.places import CATEGORIES, PERMITTED
from gateway.telemetry.log import redact
from storage.base.timebase import format_rfc3339

app = typer.Typer(
    help="Enrol, list and remove cameras; also while serve runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_CATEGORY_HELP = "Item of art. 7: " + "; ".join(f"{n} {text}" for n, text in CATEGORIES.items())
_TYPE_HELP = "What kind of spot it films: " + ", ".join(PERMITTED) + "."


class CameraView(msgspec.Struct, frozen=True):
    """A camera as it is shown: its URL without credentials."""

    id: str
    uid: str
    url: str
    place_category: int
    place_type: str
    basis_doc: str | None
    retention: str
    transport: str
    created: str
    removed: str | None

    @classmethod
    def of(cls, camera: Camera) -> CameraView:
        removed_ns = camera.removed_ns
        return cls(
            id=camera.id,
            uid=camera.uid.hex(),
            url=redact(camera.url),
            place_category=camera.place_category,
            place_type=camera.place_type,
            basis_doc=camera.basis_doc,
            retention=camera.retention,
            transport=camera.transport,
            created=format_rfc3339(camera.created_ns),
            removed=None if removed_ns is None else format_rfc3339(removed_ns),
        )


@app.command("add")
def add(
    camera_id: Annotated[
        str, typer.Argument(metavar="ID", help="Letters, digits, dot, dash, underscore; up to 64.")
    ],
    url: Annotated[str, typer.Option(help="rtsp://user:password@host:port/path")],
    place_category: Annotated[int, typer.Option(metavar="N", help=_CATEGORY_HELP)],
    place_type: Annotated[str, typer.Option(metavar="T", help=_TYPE_HELP)],
    retention: Annotated[
        str | None, typer.Option(metavar="CLASS", help="R30, R90-AT. Default: retention.default.")
    ] = None,
    transport: Annotated[
        str, typer.Option(metavar="tcp|udp", help="How RTP comes; tcp is what this version has.")
    ] = "tcp",
    basis_doc: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Category 13: law or decision demanding it.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Enrol one camera. A private place is refused, and the attempt is recorded."""
    request = CameraRequest(
        camera_id, url, place_category, place_type, retention, transport, basis_doc
    )
    (camera,) = App.load(config).enrol([request])
    _show([camera], as_json=as_json, one=True)


@app.command("import")
def import_(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON list or CSV with a header; - is stdin.")
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Enrol all cameras of FILE or none; every bad line is named.

    Fields: id, url, place_category, place_type, and if wanted retention, transport, basis_doc.
    """
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise EnrolmentError(f"{file}: {error.strerror}", remedy="name a readable file") from error
    cameras = App.load(config).enrol_file(file, data)
    if as_json:
        _show(cameras, as_json=True)
    else:
        out().print(f"{len(cameras)} cameras enrolled", markup=False)


@app.command("list")
def list_(
    removed: Annotated[
        bool, typer.Option("--removed", help="Also those removed, whose footage is still kept.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """List the cameras."""
    _show(App.load(config).cameras(removed=removed), as_json=as_json)


@app.command("show")
def show(
    camera_id: Annotated[str, typer.Argument(metavar="ID")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show one camera, removed or not."""
    _show([App.load(config).camera(camera_id)], as_json=as_json, one=True)


@app.command("remove")
def remove(
    camera_id: Annotated[str, typer.Argument(metavar="ID")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Stop recording a camera. Its footage stays to the end of its legal period."""
    _show([App.load(config).remove(camera_id)], as_json=as_json, one=True)


def _show(cameras: list[Camera], *, as_json: bool, one: bool = False) -> None:
    views = [CameraView.of(camera) for camera in cameras]
    if as_json:
        print_json(views[0] if one else views)
        return
    if one:
        table = Table.grid(padding=(0, 2))
        for name, value in msgspec.structs.asdict(views[0]).items():
            if value is not None:
                table.add_row(name, str(value))
    else:
        table = Table("id", "url", "category", "place", "retention", "since", box=None)
        for view in views:
            state = f"{view.created}" if view.removed is None else f"removed {view.removed}"
            table.add_row(
                view.id, view.url, str(view.place_category), view.place_type, view.retention, state
            )
    out().print(table)
