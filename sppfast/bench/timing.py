"""Times of calls that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], Any]

PAUSE = 0.005  # seconds, before each sample: the threads of the one before stop spinning
SAMPLE = 0.01  # seconds, at least, of calls in a row for one sample: an idle core takes a while to wake
SLOW = 0.1  # seconds: a call that takes longer does not gain from what is in the cache
ROUNDS = 3  # at least


def samples(calls: Mapping[str, Call], budget: float, wait: Call) -> dict[str, list[float]]:
    """Time calls in turn.

    Parameters
    ----------
    calls : mapping of str to callable
    budget : float
        Seconds after which no further round begins, once there have been three.
    wait : callable
        Returns when all that was called is done: calls of a GPU return before.

    Returns
    -------
    dict of list of float
        Seconds of a call, one figure for each round; each is the mean of calls that follow one another.
    """
    # The best of the first: they also load kernels and take fresh pages.
    first = {name: min(_seconds(call, 1, wait) for _ in range(ROUNDS)) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < ROUNDS or time.perf_counter() < end:
        for name, call in calls.items():
            time.sleep(PAUSE)
            if first[name] < SLOW:
                call()  # does not count: others were in the cache before it
                wait()
            found[name].append(_seconds(call, max(1, round(SAMPLE / first[name])), wait))
        rounds += 1
    return found


def _seconds(call: Call, count: int, wait: Call) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - start) / count
