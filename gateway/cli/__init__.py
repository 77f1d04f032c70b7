"""``ringvault``: the command line.

Owns the list of commands and the one place where an error becomes text and an exit status: a
problem is printed with code, cause, article and remedy; a traceback only with ``--debug`` or for
a mistake of ours. docs/ref/cli.md describes every command.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway.cli import camera, clip, grant, init, repair, serve, simulate, status
from gateway.cli.terminal import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    err,
    print_problem,
)
from gateway.problem import explain

app = typer.Typer(
    name="ringvault",
    help="Records a city's public-security cameras, keeps every frame for its legal period, and "
    "hands out exact clips to those who may have them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of every command."""
    del debug  # main() looks for it itself: an error may come before the options are parsed


app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("clip")(clip.clip)
app.command("fsck")(repair.fsck)
app.command("simulate")(simulate.simulate)
app.add_typer(camera.app, name="camera")
app.add_typer(grant.app, name="grant")
app.add_typer(repair.index_app, name="index")


def main() -> None:
    """Run the command of ``sys.argv`` and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; its exit status. Every error is printed here."""
    debug = "--debug" in arguments
    as_json = "--json" in arguments
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError:
        err().print("an argument is not valid UTF-8")
        return EXIT_USAGE
    try:
        typer.main.get_command(app).main(arguments, prog_name="ringvault")
    except SystemExit as stop:
        # Wrong usage and Ctrl-C were told and got their status by typer.
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except Exception as error:
        problem = explain(error)
        if problem is None:
            raise
        print_problem(problem, as_json=as_json)
        if debug:
            raise
        return EXIT_FAILED
    return EXIT_OK
