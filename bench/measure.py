"""CPU time and memory of processes. Linux only."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One process at one moment; ``cpu_s`` is user and system time of all its threads."""

    pid: int
    name: str
    cpu_s: float
    rss_bytes: int


def figures(pid: int) -> ProcessFigures:
    """Raises ProcessLookupError when there is no such process."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        cpu_s = time.clock_gettime(_cpu_clock(pid))
    except OSError:
        raise ProcessLookupError(f"process {pid} has ended") from None
    return ProcessFigures(pid, command, cpu_s, resident * _PAGE_BYTES)


def _cpu_clock(pid: int) -> int:
    """clock_getcpuclockid(3) of Linux: exact, where /proc/PID/stat counts hundredths."""
    return ~pid << 3 | 2


def descendants(pid: int) -> list[int]:
    """The process and everything it started, itself first."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def tree_figures(pid: int) -> dict[int, ProcessFigures]:
    """Figures of a whole process tree."""
    result = {}
    for member in descendants(pid):
        try:
            result[member] = figures(member)
        except ProcessLookupError:
            continue  # ended while we looked
    return result
