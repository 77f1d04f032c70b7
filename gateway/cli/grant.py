"""``ringvault grant``: leave to have footage."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from gateway.app import App
from gateway.cli.terminal import DEFAULT_CONFIG, ConfigOption, JsonOption, err, print_json
from gateway.limits import GRANT_HOURS_DEFAULT, GRANT_HOURS_MAX
from storage.base.grant import Action
from storage.base.timebase import (
    DAY_NS,
    HOUR_NS,
    MINUTE_NS,
    SECOND_NS,
    format_rfc3339,
    parse_rfc3339,
)

app = typer.Typer(
    help="Grants: signed leave to view or copy footage.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": SECOND_NS, "m": MINUTE_NS, "h": HOUR_NS, "d": DAY_NS}


def _expiry(text: str, now_ns: int) -> int:
    if match := _DURATION.fullmatch(text.strip()):
        return now_ns + int(match[1]) * _UNITS[match[2]]
    return parse_rfc3339(text)


@app.command("create")
def create(
    camera: Annotated[
        list[str], typer.Option(metavar="ID", help="The camera; repeat for more of them.")
    ],
    from_: Annotated[str, typer.Option("--from", metavar="T", help="Start, RFC 3339 with zone.")],
    to: Annotated[str, typer.Option(metavar="T", help="End (not included), RFC 3339 with zone.")],
    action: Annotated[str, typer.Option(metavar="copy|view", help="copy: a file leaves.")],
    document: Annotated[
        str, typer.Option(metavar="NO", help="Number of the document that was presented.")
    ] = "",
    official: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:CARD", help="An official who came, as on the card. Twice."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help=f"Until when: RFC 3339, or a time from now such as 90m, 12h. Default "
            f"{GRANT_HOURS_DEFAULT}h, at most {GRANT_HOURS_MAX}h.",
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Check the request, enter it into the audit log, print the signed grant alone on stdout.

    Refused without a document or without two different officials. The grant is a credential:
    whoever has it gets the footage it names, until it expires.
    """
    if action not in ("copy", "view"):
        raise typer.BadParameter(f"--action {action!r}: copy or view")
    granted: Action = "copy" if action == "copy" else "view"
    application = App.load(config)
    now_ns = application.now_ns()
    issued = application.grant(
        cameras=tuple(camera),
        start_ns=parse_rfc3339(from_),
        end_ns=parse_rfc3339(to),
        action=granted,
        document_no=document,
        officials=tuple(official or ()),
        expires_ns=None if expires is None else _expiry(expires, now_ns),
    )
    if as_json:
        print_json({"token": issued.token, "audit_index": issued.audit_index,
                    "grant": issued.grant.to_payload()})  # fmt: skip
        return
    sys.stdout.write(issued.token + "\n")
    until = format_rfc3339(issued.grant.expires_ns)
    err().print(f"granted until {until}, audit entry {issued.audit_index}", markup=False)
