"""``ringvault fsck`` and ``ringvault index rebuild``: are the disks as they should be, and
mending.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gateway.app import App
from gateway.cli.terminal import (
    DEFAULT_CONFIG,
    EXIT_NOT_WELL,
    ConfigOption,
    JsonOption,
    err,
    out,
    print_json,
)
from storage.base.timebase import format_size
from storage.check import FsckReport, Level

index_app = typer.Typer(
    help="The index: a cache that can be made anew from the volumes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _slot_progress(what: str) -> Progress:
    console = err()
    return Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("slots"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def fsck(
    level: Annotated[
        Level,
        typer.Option(
            help="presence: tables, footers, index; headers: every record's header; full: every "
            "byte and every hash."
        ),
    ] = Level.PRESENCE,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Check volumes and index; also while serve runs. Changes nothing but the list of damage.

    Exit status 3 when something is not as it should be.
    """
    with _slot_progress(f"fsck {level.value}") as bar:
        task = bar.add_task("fsck", total=None)
        report = App.load(config).fsck(
            level, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if as_json:
        print_json({"clean": report.clean, "report": report})
    else:
        _print(report)
    if not report.clean:
        raise typer.Exit(EXIT_NOT_WELL)


def _print(report: FsckReport) -> None:
    console = out()
    if report.findings:
        table = Table("severity", "kind", "volume", "slot", "detail", box=None)
        for finding in report.findings:
            table.add_row(
                finding.severity.value,
                finding.kind,
                "" if finding.volume is None else str(finding.volume),
                "" if finding.slot is None else str(finding.slot),
                finding.detail,
            )
        console.print(table)
    console.print(
        f"{'clean' if report.clean else 'NOT CLEAN'}: {report.slots_checked} slots, "
        f"{report.records_checked} records, {format_size(report.bytes_read)} read, "
        f"{report.cameras} cameras, {report.duration_ns / 1e9:.1f} s",
        markup=False,
    )


@index_app.command("rebuild")
def rebuild(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Make slot tables and the index of every camera anew from the volumes. serve must not run.

    Exit status 3 when something on the volumes could not be read.
    """
    with _slot_progress("reading") as bar:
        task = bar.add_task("rebuild", total=None)
        report = App.load(config).rebuild_index(
            lambda done, total: bar.update(task, completed=done, total=total)
        )
    if as_json:
        print_json(report)
    else:
        for fault in report.faults:
            err().print(fault, markup=False)
        out().print(
            f"{report.entries} entries of {report.cameras} cameras from {report.slots} slots, "
            f"{report.duration_ns / 1e9:.1f} s",
            markup=False,
        )
    if report.faults:
        raise typer.Exit(EXIT_NOT_WELL)
