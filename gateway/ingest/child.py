"""Where every child of the supervisor begins: ``python -m gateway.ingest.child MODULE ...``.

Owns the gate: the child's modules are loaded first, which takes most of a start, and its ``main``
runs only when the supervisor lets it go. Before the gate nothing is opened, read or written but
code (G3). docs/design/processes.md, "Start".
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence

from gateway.ingest.children import bind_to_parent, child_arguments, wait_at_gate


def main(argv: Sequence[str]) -> int:
    """Load the module named first, wait, run its ``main``; the exit status."""
    module_name, *rest = argv
    arguments = child_arguments(rest)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bind_to_parent(int(arguments["parent-pid"]))
    module = importlib.import_module(module_name)
    if not wait_at_gate(int(arguments["control-fd"])):
        return 0
    status: int | None = module.main(rest)
    return status or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
