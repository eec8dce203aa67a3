"""``python -m torture``: the long tests, all of them at full length, or one by name."""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from . import bits, files, fuzz, install, interrupts, limits, matrix, peaks, races, soak
from .report import HEAD

# What each takes: its function, and the defaults of its options.
TESTS = {
    "fuzz": (fuzz.run, {"calls": 1_000_000, "seed": 1, "first": 0}),
    "soak": (soak.run, {"calls": 100_000, "minutes": 60.0, "load": 0.5, "seed": 1}),
    "layers": (matrix.run_layers, {"count": 50}),
    "caches": (matrix.run_caches, {"rounds": 20}),
    "bits": (bits.run, {"rounds": 5, "seed": 1}),
    "interrupts": (interrupts.run, {"count": 10_000, "seed": 1}),
    "limits": (limits.run, {"count": 60, "seed": 1}),
    "allocations": (limits.run_each, {"step": 1, "seed": 1}),
    "peaks": (peaks.run, {}),
    "bounds": (matrix.run_bounds, {}),
    "races": (races.run, {"count": 100_000, "seed": 1}),
    "install": (install.run, {}),
    "files": (files.run, {"count": 10_000, "seed": 1}),
}
# At the same time: an hour's load does not fill a core.
LANES = (("fuzz",), ("soak",), tuple(name for name in TESTS if name not in ("fuzz", "soak")))


def parser():
    """The command line: a test for each subcommand."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    tests = parser.add_subparsers(metavar="TEST")
    for name, (function, options) in TESTS.items():
        command = tests.add_parser(name, help=" ".join(sys.modules[function.__module__].__doc__.split()))
        for option, default in options.items():
            command.add_argument(f"--{option}", type=type(default), default=default)
        if name == "install":
            command.add_argument("--extra", nargs="*", default=(), metavar="PYTHON", help="more interpreters")
        command.set_defaults(run=function)
    return parser


def run(chosen):
    """Run one test, and print its row of the table."""
    options = vars(parser().parse_args(chosen))
    print(options.pop("run")(**options), flush=True)


def run_lane(names):
    """Run tests one after another, each in a process of its own; whether all went well."""
    return [subprocess.run([sys.executable, "-m", "torture", name]).returncode == 0 for name in names]


if __name__ == "__main__":
    if sys.argv[1:]:
        run(sys.argv[1:])
    else:
        print(HEAD, flush=True)
        with ThreadPoolExecutor(len(LANES)) as lanes:
            sys.exit(not all(all(went) for went in lanes.map(run_lane, LANES)))
