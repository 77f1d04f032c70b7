"""``ringvault``: the command line.

Owns the list of commands and the one place where an error becomes text and an exit status: a
problem is printed with code, cause, article and remedy; a traceback only with ``--debug`` or for
a mistake of ours. docs/ref/cli.md describes every command.

Only the command that runs is loaded: ``serve`` must record again soon after a crash, and what all
the others need takes a second to load.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from gateway.cli.terminal import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    err,
    print_problem,
)
from gateway.problem import explain

# Each command and where it is: a function, or the Typer of a group.
_COMMANDS = {
    "init": "init:init",
    "serve": "serve:serve",
    "status": "status:status",
    "clip": "clip:clip",
    "fsck": "repair:fsck",
    "simulate": "simulate:simulate",
    "camera": "camera:app",
    "grant": "grant:app",
    "index": "repair:index_app",
}


def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of every command."""
    del debug  # main() looks for it itself: an error may come before the options are parsed


def _app(arguments: Sequence[str]) -> typer.Typer:
    """The command line with the command asked for; for help and wrong usage with all of them."""
    app = typer.Typer(
        name="ringvault",
        help="Records a city's public-security cameras, keeps every frame for its legal period, "
        "and hands out exact clips to those who may have them.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(root)
    asked = next((word for word in arguments if not word.startswith("-")), "")
    for name in [asked] if asked in _COMMANDS else _COMMANDS:
        module, _, attribute = _COMMANDS[name].partition(":")
        found = getattr(import_module(f"{__name__}.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


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
        typer.main.get_command(_app(arguments)).main(arguments, prog_name="ringvault")
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
