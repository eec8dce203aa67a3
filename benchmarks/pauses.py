"""Small calls with one thread and with all, in a row and with pauses in which the threads fall asleep.

    python benchmarks/pauses.py [--seconds S] [--pause S]

A ratio is one thread's time over that of all of them: below 1, more threads make a call slower.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import sppfast
from sppfast.bench.work import maps_and_rois
from sppfast.progress import tracked

MAPS = (8, 16, 13, 13), (8, 64, 13, 13), (1, 64, 38, 63), (16, 64, 13, 13), (1, 256, 38, 63), (64, 64, 13, 13)
WINDOWS = (10, 16, 13), (10, 64, 38), (10, 256, 38), (100, 64, 38), (300, 256, 38)  # windows, channels, rows of the map
SIZES = {13: (13, 13), 38: (38, 63)}
BATCH = 10  # calls of a sample
THREADS = 1, None

Call = Callable[..., object]


def build() -> dict[str, Call]:
    """Build the calls, of `workers`."""
    rng, calls = np.random.default_rng(0), {}
    for shape in MAPS:
        name = f"pool {'x'.join(map(str, shape))}"
        calls[name] = partial(sppfast.pool, rng.standard_normal(shape, dtype=np.float32), (4, 2, 1))
    for count, channels, rows in WINDOWS:
        size = SIZES[rows]
        x, rois = maps_and_rois(count, size, channels=channels)
        name = f"{count} windows, 7x7, map {channels}x{size[0]}x{size[1]}"
        calls[name] = partial(sppfast.roi_pool, x, rois, 7, rounding="fast_rcnn")
    return calls


def sample(call: Call, pause: float) -> float:
    """Time a few calls, each after a pause awake: microseconds of one."""
    total = 0.0
    for _ in range(BATCH):
        end = time.perf_counter() + pause
        while time.perf_counter() < end:
            pass
        start = time.perf_counter()
        call()
        total += time.perf_counter() - start
    return 1e6 * total / BATCH


def measure(call: Call, pause: float, seconds: float) -> list[float]:
    """Time calls of one thread and of all in turn: the median of each."""
    calls = [partial(call, workers=workers) for workers in THREADS]
    found: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while not found[-1] or time.perf_counter() < end:
        for each, times in zip(calls, found, strict=True):
            each()  # does not count: it may compile, and comes after another
            times.append(sample(each, pause))
    return [statistics.median(times) for times in found]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1, help="for each call and pause")
    parser.add_argument("--pause", type=float, default=2e-4, help="before each call")
    arguments = parser.parse_args()
    print(f"{'us':36}{'in a row: 1':>12}{'all':>8}{f'pauses of {1e6 * arguments.pause:.0f}: 1':>20}{'all':>8}")
    for name, call in tracked(list(build().items()), "calls", "pauses"):
        row, apart = (measure(call, pause, arguments.seconds) for pause in (0, arguments.pause))
        columns = [
            f"{one:{width}.0f}{every:8.0f} {one / every:4.1f}x" for width, (one, every) in ((12, row), (14, apart))
        ]
        print(f"{name:36}{''.join(columns)}")


if __name__ == "__main__":
    main()
