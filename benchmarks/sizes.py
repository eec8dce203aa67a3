"""Calls with a map of another size each time, as images of any size give them, and with one size; torch's beside them.

    python benchmarks/sizes.py [--seconds S]

A call's plan is remembered for 256 sizes: here there are more. Microseconds of a map, the least of the rounds.
"""

import argparse
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

import sppfast
from sppfast.progress import tracked

SIDES = 8, 64
COUNT = 2000
CHANNELS = 16
LEVELS = (4, 2, 1)
IN_LIST = 8
WINDOWS = np.array([[0, 0, 0, 100, 100], [0, 10, 20, 200, 300]])

Maps = Sequence[np.ndarray]


def in_lists(maps: Maps) -> None:
    for first in range(0, len(maps), IN_LIST):
        sppfast.pool([x[0] for x in maps[first : first + IN_LIST]], LEVELS)


def each(function: Callable[[np.ndarray], object], maps: Maps) -> None:
    for x in maps:
        function(x)


def build() -> dict[str, Callable[[Maps], None]]:
    """Build what is done with all maps."""
    pooled = partial(sppfast.pool, levels=LEVELS)
    calls = {
        "pool": partial(each, pooled),
        "pool, mean": partial(each, partial(pooled, mode="avg")),
        "pool, Caffe's bins": partial(each, partial(pooled, bins="caffe")),
        f"pool, lists of {IN_LIST}": in_lists,
        "roi_pool, 2 windows": partial(each, partial(sppfast.roi_pool, rois=WINDOWS)),
        "roi_align, 2 windows": partial(each, partial(sppfast.roi_align, rois=WINDOWS)),
    }
    return calls | ({"torch, pool": partial(each, torch_pool)} if importlib.util.find_spec("torch") else {})


def torch_pool(x: np.ndarray) -> object:
    """Pool each level, and put them together."""
    import torch
    from torch.nn.functional import adaptive_max_pool2d

    given = torch.from_numpy(x)
    return torch.cat([adaptive_max_pool2d(given, n).flatten(1) for n in LEVELS], 1)


def measure(call: Callable[[Maps], None], sets: Sequence[Maps], seconds: float) -> list[float]:
    """Time the call with each set of maps in turn: the least microseconds of a map."""
    call(sets[0][:IN_LIST])  # which may compile
    least, end = [math.inf] * len(sets), time.perf_counter() + seconds
    while least[-1] == math.inf or time.perf_counter() < end:
        for i, maps in enumerate(sets):
            start = time.perf_counter()
            call(maps)
            least[i] = min(least[i], 1e6 * (time.perf_counter() - start) / len(maps))
    return least


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="for each call")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    sides = rng.integers(*SIDES, (COUNT, 2))
    maps = [rng.standard_normal((1, CHANNELS, *size), dtype=np.float32) for size in sides.tolist()]
    middle = sorted(maps, key=np.size)[COUNT // 2]
    print(f"{'us':28}{'any size':>10}{'one size':>10}")
    for name, call in tracked(list(build().items()), "calls", "sizes"):
        times = measure(call, (maps, [middle] * COUNT), arguments.seconds)
        print(f"{name:28}{''.join(f'{us:10.1f}' for us in times)}")


if __name__ == "__main__":
    main()
