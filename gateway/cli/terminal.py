"""What every command shares with the terminal: consoles, JSON output, problems, options.

Owns standard output (results only) and standard error (progress, problems). Exit status: 0 all is
well, 1 refused or failed, 2 wrong usage, 3 done but not all is well, 130 interrupted.
docs/ref/cli.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from gateway.config import CONFIG_FILE_NAME
from gateway.problem import Problem

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_WELL = 3
EXIT_INTERRUPTED = 130

# A pipe has no width: tables then get this one instead of being cut at 80.
_PIPE_COLUMNS = 200

ConfigOption = Annotated[
    Path,
    typer.Option("--config", metavar="FILE", help="The installation's configuration."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DEFAULT_CONFIG = Path(CONFIG_FILE_NAME)


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else _PIPE_COLUMNS
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


def out() -> Console:
    """Results. Made anew each time, so that a redirected ``sys.stdout`` is honoured."""
    return _console(sys.stdout)


def err() -> Console:
    """Everything that is not a result."""
    return _console(sys.stderr)


def print_json(value: Any) -> None:
    """One JSON document and a newline on standard output. Dataclasses and Structs allowed."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(text.decode() + "\n")
    sys.stdout.flush()


def print_problem(problem: Problem, *, as_json: bool) -> None:
    """The one clear answer to "what went wrong", on standard error."""
    if as_json:
        shown = {name: getattr(problem, name) for name in ("code", "message", "article", "remedy")}
        sys.stderr.write(msgspec.json.encode(shown).decode() + "\n")
        return
    line = Text()
    line.append(f"{problem.code}: ", style="bold red")
    line.append(problem.message)
    if problem.article:
        line.append(f" [{problem.article}]", style="yellow")
    console = err()
    console.print(line)
    if problem.remedy:
        console.print(Text(f"  {problem.remedy}", style="dim"))


def byte_progress(description: str) -> Progress:
    """A progress bar over bytes, on standard error; silent where that is no terminal."""
    console = err()
    return Progress(
        TextColumn(description),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
