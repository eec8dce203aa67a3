"""``python -m torture``: the long tests, one after another or by name."""

import argparse
import sys

from . import files, fuzz, soak
from .report import HEAD


def parser():
    """The command line: a test for each subcommand; without one, all of them at full length."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    tests = parser.add_subparsers(metavar="TEST")

    command = tests.add_parser("fuzz", help="a million random calls, right and wrong")
    command.add_argument("--calls", type=int, default=1_000_000)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--first", type=int, default=0, help="number of the first call, to repeat one")
    command.set_defaults(run=lambda a: fuzz.run(a.calls, a.seed, a.first))

    command = tests.add_parser("files", help="damaged files, for the command line and the loaders")
    command.add_argument("--count", type=int, default=10_000, help="of each kind")
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(run=lambda a: files.run(a.count, a.seed))

    command = tests.add_parser("soak", help="mixed calls for an hour, with flat memory")
    command.add_argument("--calls", type=int, default=100_000, help="at least")
    command.add_argument("--minutes", type=float, default=60, help="at least")
    command.add_argument("--load", type=float, default=0.5, help="cores in use, on average")
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(run=lambda a: soak.run(a.calls, a.minutes, a.load, a.seed))
    return parser


if __name__ == "__main__":
    chosen = sys.argv[1:]
    print(HEAD, flush=True)
    for command in [chosen] if chosen else (["fuzz"], ["soak"], ["files"]):  # the last bounds the process's memory
        arguments = parser().parse_args(command)
        print(arguments.run(arguments), flush=True)
