"""Measures the extension on this machine: make bench, make bench CASES="counting views", or make bench-quick.

A case is a file in bench/cases. Its docstring says what it measures, and its function run(options) yields tables and the
figures for targets (bench/targets.py). The case is named after its file. Tables go to stdout, progress to stderr.

The figures hold for one machine and one day. Compare ratios only, each to a baseline of the same run.
"""

import argparse
import importlib
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from . import measure, months, targets
from .server import BINDIR, ROOT, SETTINGS

CASES = sorted(file.stem for file in (Path(__file__).parent / "cases").glob("*.py") if file.stem != "__init__")

QUICK = {"entries": 100_000, "growth": 300_000, "rounds": 3, "seconds": 1, "copies": 2}


def main():
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; all of them if none is given")
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of a large cache")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each comparison")
    parser.add_argument("--seconds", type=int, default=3, help="time of each run of pgbench")
    parser.add_argument("--copies", type=int, default=3, help="new servers for cases that can run only once on each")
    parser.add_argument("--growth", type=int, default=10_000_000, help="entries of the largest cache")
    parser.add_argument("--quick", action="store_true", help="run only the cases of targets, on less data")
    parser.add_argument("--output", type=Path, help="directory for benchmark.md and benchmark.svg")
    options = parser.parse_args()
    if options.quick:
        parser.set_defaults(**QUICK)
        options = parser.parse_args()
        options.cases = options.cases or [name for name in CASES if any(target.split("/")[0] == name for target in targets.TARGETS)]
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")

    # Stops and removes the servers. Ignores a second SIGTERM, because make passes on the signal that its group got, too.
    def leave(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(143)

    signal.signal(signal.SIGTERM, leave)
    began = time.monotonic()
    printed, reached, failed = [], [], []

    def show(text):
        print(text, flush=True)
        printed.append(text)

    show(machine(options))
    for name in options.cases or CASES:
        case = importlib.import_module(f"bench.cases.{name}")
        measure.progress(f"{name} …")
        title, _, text = case.__doc__.strip().partition("\n\n")
        show(f"\n## {name}: {title}\n\n{text}\n")
        try:
            for result in case.run(options):
                if isinstance(result, targets.Reached):
                    reached.append(result)
                else:
                    show(f"{result}\n")
        except Exception:
            # Goes on, because the other cases take long.
            failed.append(name)
            show(f"This case has failed:\n\n```\n{traceback.format_exc().strip()}\n```\n")
    if reached:
        show(f"## Targets\n\n{targets.summary(reached)}\n")
    took = f"{time.monotonic() - began:.0f} s in all; load average at the end {os.getloadavg()[0]:.1f}"
    show(took)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}" + (f"; nothing is written to {options.output}" if options.output else ""))
    if options.output:
        publish(options.output, printed, reached)


def publish(directory, printed, reached):
    """Writes what was printed to benchmark.md, the table of targets and its chart first."""
    directory.mkdir(parents=True, exist_ok=True)
    head, *cases = printed
    lines = [head, "\n", *cases[-2:], "![How far from its target each one is](benchmark.svg)\n", *cases[:-2]]
    (directory / "benchmark.md").write_text("\n".join(lines).rstrip() + "\n")
    targets.chart(reached, directory / "benchmark.svg", head.splitlines()[2].removeprefix("- "))
    measure.progress(f"written to {directory}")


def machine(options):
    """Returns the machine, the versions and the settings that the figures hold for."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, capture_output=True)
    version = subprocess.check_output([str(BINDIR / "postgres"), "--version"], text=True).split(maxsplit=2)[2].strip()
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    return (
        f"# Benchmark of infinite_pages_cache {commit.stdout.strip()}\n\n"
        f"- {time.strftime('%Y-%m-%d %H:%M %Z')}, {os.cpu_count()} cores ({cpu}), {memory:.0f} GB of memory, "
        f"{platform.system()} {platform.release()}, load average {os.getloadavg()[0]:.1f} before it began\n"
        f"- PostgreSQL {version}; {settings};\n"
        f"  shared_buffers = {months.SETTINGS['shared_buffers']} for what is compared with tables and Redis\n"
        f"- {options.entries:,} entries where nothing else is said, {options.rounds} turns, {options.seconds} s each"
        f"{'; a quick run, which leaves out what no target needs' if options.quick else ''}\n"
        "- a ± b: the median of the runs, and half the width of the range in which the middle half of them lies. What is\n"
        "  compared runs in turns. A ratio or a difference is that of the runs of one turn."
    )


if __name__ == "__main__":
    sys.exit(main())
