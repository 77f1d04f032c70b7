"""The client machine's states and transitions as data (docs/design/rtsp.md, "Client machine").

Owns the table, nothing else. A pair that is missing cannot occur; the machine asserts it. A test
compares the table with the one on the design page.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Of the machine; the value is the name of the request being waited for, where there is one."""

    IDLE = "idle"
    OPTIONS = "options"
    DESCRIBE = "describe"
    SETUP = "setup"
    PLAY = "play"
    PLAYING = "playing"
    TEARDOWN = "teardown"
    CLOSED = "closed"


class Input(Enum):
    """What moves the machine."""

    START = "start"
    OK = "ok"
    MORE = "more"
    REFUSED = "refused"
    CHALLENGED = "challenged"
    REDIRECTED = "redirected"
    STOP = "stop"
    FAIL = "fail"


def _row(state: State, **moves: State) -> dict[tuple[State, Input], State]:
    return {(state, Input(name)): target for name, target in moves.items()}


_S = State
TRANSITIONS: dict[tuple[State, Input], State] = {
    **_row(_S.IDLE, start=_S.OPTIONS, stop=_S.CLOSED, fail=_S.CLOSED),
    **_row(
        _S.OPTIONS,
        ok=_S.DESCRIBE,
        refused=_S.DESCRIBE,
        challenged=_S.OPTIONS,
        redirected=_S.CLOSED,
        stop=_S.CLOSED,
        fail=_S.CLOSED,
    ),
    **_row(
        _S.DESCRIBE,
        ok=_S.SETUP,
        challenged=_S.DESCRIBE,
        redirected=_S.CLOSED,
        stop=_S.CLOSED,
        fail=_S.CLOSED,
    ),
    **_row(
        _S.SETUP,
        ok=_S.PLAY,
        more=_S.SETUP,
        challenged=_S.SETUP,
        redirected=_S.CLOSED,
        stop=_S.TEARDOWN,
        fail=_S.CLOSED,
    ),
    **_row(
        _S.PLAY,
        ok=_S.PLAYING,
        refused=_S.PLAY,
        challenged=_S.PLAY,
        redirected=_S.CLOSED,
        stop=_S.TEARDOWN,
        fail=_S.CLOSED,
    ),
    **_row(
        _S.PLAYING,
        ok=_S.PLAYING,
        refused=_S.PLAYING,
        challenged=_S.PLAYING,
        redirected=_S.CLOSED,
        stop=_S.TEARDOWN,
        fail=_S.CLOSED,
    ),
    **_row(
        _S.TEARDOWN,
        ok=_S.CLOSED,
        refused=_S.CLOSED,
        challenged=_S.TEARDOWN,
        redirected=_S.CLOSED,
        stop=_S.TEARDOWN,
        fail=_S.CLOSED,
    ),
    **_row(_S.CLOSED, stop=_S.CLOSED, fail=_S.CLOSED),
}
