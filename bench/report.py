"""What a bench says: one JSON object on stdout, and the bars of the performance design in it."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: ``value`` must be at most ``limit``. Both in ``unit``; "x" is a ratio."""

    name: str
    what: str
    value: float
    limit: float
    unit: str

    def as_dict(self) -> dict[str, Any]:
        """With the verdict."""
        return asdict(self) | {"value": round(self.value, 4), "met": self.value <= self.limit}


class CheckFailed(Exception):
    """The output of what was measured is wrong: its speed means nothing."""


def host() -> dict[str, Any]:
    """The machine, as far as it explains a figure."""
    model = ""
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        model = model or (value.strip() if key.strip() == "model name" else "")
        flags = flags or (set(value.split()) if key.strip() == "flags" else set())
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "sha_extensions": "sha_ni" in flags,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": list(os.getloadavg()),
    }


def emit(
    bench: str,
    arguments: Mapping[str, Any],
    machine: Mapping[str, Any],
    results: Mapping[str, Any],
    bars: Sequence[Bar],
) -> None:
    """Write the object."""
    document = {
        "bench": bench,
        "arguments": {key: str(v) if isinstance(v, Path) else v for key, v in arguments.items()},
        "host": machine,
        "results": results,
        "bars": [bar.as_dict() for bar in bars],
    }
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def progress(text: str) -> None:
    """A line for the person who waits, on stderr: stdout carries the JSON alone."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]
