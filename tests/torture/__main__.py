"""``python -m torture``: the long tests, one after another or by name."""

import argparse

from . import files, fuzz, soak
from .report import HEAD


def parser():
    """The command line: a test for each subcommand."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    tests = parser.add_subparsers(metavar="TEST")
    command = tests.add_parser("soak", help="mixed calls for an hour, with flat memory")
    command.add_argument("--calls", type=int, default=100_000)
    command.add_argument("--minutes", type=float, default=60)
    command.add_argument("--load", type=float, default=1.0, help="cores in use, on average")
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(run=lambda a: soak.run(a.calls, a.minutes, a.load, a.seed))
    command = tests.add_parser("fuzz", help="a million random calls, right and wrong")
    command.add_argument("--calls", type=int, default=1_000_000)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--first", type=int, default=0)
    command.set_defaults(run=lambda a: fuzz.run(a.calls, a.seed, a.first))
    command = tests.add_parser("files", help="damaged files, for the command line and the loaders")
    command.add_argument("--count", type=int, default=3000)
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(run=lambda a: files.run(a.count, a.seed))
    return parser


if __name__ == "__main__":
    arguments = parser().parse_args()
    print(HEAD)
    print(arguments.run(arguments))
