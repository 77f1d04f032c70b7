"""``python -m bench record|clip|index|recovery``: one JSON object on stdout.

Exit status 0 when what was measured also did its work right, 1 when a check failed. Bars that were
missed are in the JSON; with ``--gate`` they fail the run too (status 3).
"""

import argparse
import sys
from pathlib import Path

from bench import clip, index, record, recovery
from bench.report import CheckFailed, emit, host, progress
from storage.base.timebase import parse_size

_DIRECTORY = Path("var/bench")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dir", type=Path, default=_DIRECTORY, help="on the disk to be measured")
    common.add_argument("--keep", action="store_true", help="leave the installation behind")
    common.add_argument("--gate", action="store_true", help="a missed bar fails the run")
    benches = parser.add_subparsers(dest="bench", required=True)
    one = benches.add_parser("record", parents=[common], help="P1 P2 P3 P5: feeds to disk")
    one.add_argument("--cameras", type=int, default=200)
    one.add_argument("--mbps", type=float, default=4.0)
    one.add_argument("--seconds", type=float, default=30.0)
    one.add_argument("--settle-seconds", type=float, default=3.0, help="before measuring")
    one.add_argument("--workers", type=int, default=1)
    one.add_argument("--floor", action="store_true", help="measure the naive floor in the same run")
    one.add_argument("--peer", choices=["ffmpeg"], help="measure a peer in the same run")
    one.add_argument("--peer-cameras", type=int, default=20)
    one.add_argument("--peer-seconds", type=float, default=20.0)
    one.set_defaults(run=record.run)
    one = benches.add_parser("clip", parents=[common], help="P7 P8: footage out over HTTP")
    one.add_argument("--cameras", type=int, default=500)
    one.add_argument("--days", type=int, default=30)
    one.add_argument("--fragment-seconds", type=float, default=0.6)
    one.add_argument("--index-bytes-max", type=parse_size, default=parse_size("20GB"))
    one.add_argument("--requests", type=int, default=500)
    one.add_argument("--clip-seconds", type=float, default=10.0)
    one.add_argument("--recent-seconds", type=int, default=30)
    one.add_argument("--recent-mbps", type=float, default=1.0)
    one.add_argument("--hour-seconds", type=int, default=3600)
    one.add_argument("--mbps", type=float, default=4.0)
    one.add_argument("--repeats", type=int, default=3)
    one.set_defaults(run=clip.run)
    one = benches.add_parser("index", parents=[common], help="P9: finding footage")
    one.add_argument("--cameras", type=int, default=1000)
    one.add_argument("--days", type=int, default=30)
    one.add_argument("--fragment-seconds", type=float, default=0.6)
    one.add_argument("--lookups", type=int, default=20_000)
    one.add_argument("--clip-seconds", type=float, default=10.0)
    one.add_argument("--index-bytes-max", type=parse_size, default=parse_size("30GB"))
    one.set_defaults(run=index.run)
    one = benches.add_parser("recovery", parents=[common], help="P11: start after kill -9")
    one.add_argument("--cameras", type=int, default=8)
    one.add_argument("--mbps", type=float, default=4.0)
    one.add_argument("--record-seconds", type=float, default=6.0, help="before and after the kill")
    one.add_argument("--sizes", type=parse_size, nargs="+", default=[4 << 30, 16 << 30])
    one.set_defaults(run=recovery.run)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run one bench."""
    options = parse(arguments)
    options.dir = options.dir.absolute()
    options.dir.mkdir(parents=True, exist_ok=True)
    machine = host()
    try:
        results, bars = options.run(options)
    except CheckFailed as failure:
        progress(f"FAILED: {failure}")
        return 1
    shown = {name: value for name, value in vars(options).items() if name not in ("run", "bench")}
    emit(options.bench, shown, machine, results, bars)
    missed = [bar.name for bar in bars if bar.value > bar.limit]
    if missed:
        progress(f"bars missed: {', '.join(missed)}")
    return 3 if missed and options.gate else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
