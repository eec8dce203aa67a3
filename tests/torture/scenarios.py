"""What user code does beside the operators, each in a process of its own: ``python -m torture.scenarios NAME COUNT``.

Numba's threading layer is chosen by ``NUMBA_THREADING_LAYER``. A scenario prints one digest of all right results, which
is the same in each; whatever goes wrong ends the process with an error.
"""

import contextlib
import faulthandler
import functools
import hashlib
import multiprocessing
import os
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from workload import wait_for

from .soak import MAPS, digest, kinds

LAYERS = ("omp", "tbb", "workqueue")
THREADS = 16
HANG = 600  # seconds
SMALL = {"maps": MAPS[:2], "dtypes": ("float32", "uint8")}  # a few calls of each operator
wanted = numba.config.THREADING_LAYER


@numba.njit(parallel=True)
def total(values):
    """User code that enters a parallel region of Numba's own threads."""
    result = 0
    for i in numba.prange(len(values)):
        result += values[i]
    return result


VALUES = np.arange(10**5)


def use_layer():
    """Use Numba's threads, which must be those of the layer that was asked for."""
    assert total(VALUES) == VALUES.sum()
    assert wanted == "default" or numba.threading_layer() == wanted


@functools.cache
def work():
    """Calls of every operator, and the digest of each result."""
    return [(call, digest(call())) for call in kinds(1, **SMALL)]


def right(numbers):
    """Whether these calls give what they gave at first."""
    made = work()
    return all(digest(made[i % len(made)][0]()) == made[i % len(made)][1] for i in numbers)


def together():
    """One digest of all results."""
    return hashlib.blake2b(b"".join(want for _, want in work()), digest_size=16).hexdigest()


def threads(count):
    """Sixteen threads call the operators while others, or where the layer permits it one, use Numba's own threads."""
    work()
    use_layer()
    stop = threading.Event()

    def user():
        while not stop.is_set():
            use_layer()

    users = [threading.Thread(target=user) for _ in range(1 if numba.threading_layer() == "workqueue" else 3)]
    for thread in users:
        thread.start()
    rng = np.random.default_rng(count)
    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(right, rng.integers(0, 10**6, (THREADS, count)).tolist()))
    stop.set()
    for thread in users:
        thread.join()


def fork(count):
    """A child after all that, its own child, and the parent.

    A child whose parent used Numba's threads may do so only in the workqueue layer: GNU OpenMP aborts, and TBB hangs in
    the child's next fork, sometimes even if the child did not use it.
    """
    threads(count)
    generations = 0 if numba.threading_layer() == "tbb" else 1

    def child(depth):
        pid = os.fork()
        if not pid:
            if numba.threading_layer() == "workqueue":
                use_layer()
            os._exit(0 if right(range(count)) and (not depth or child(depth - 1) == 0) else 3)
        return wait_for(pid, HANG)

    assert [child(generations) for _ in range(3)] == [0, 0, 0]
    use_layer()
    assert right(range(count))


def job(numbers):
    """What a worker does that is a fresh process."""
    use_layer()
    return right(numbers)


def started(method, count):
    """A pool of processes, started after use."""
    use_layer()
    assert right(range(count))
    with multiprocessing.get_context(method).Pool(3) as pool:
        assert all(pool.map(right if method == "fork" else job, [range(count)] * 6, chunksize=1))


def nested(outer, inner, count):
    """Joblib in joblib."""
    from joblib import Parallel, delayed

    assert all(Parallel(3, backend=outer)(delayed(inside)(inner, count) for _ in range(6)))


def inside(inner, count):
    """The jobs of one job."""
    from joblib import Parallel, delayed

    return all(Parallel(2, backend=inner)(delayed(right)(range(count)) for _ in range(4)))


SCENARIOS = {
    "threads": threads,
    "fork": fork,
    **{method: functools.partial(started, method) for method in ("spawn", "forkserver")},
    "pool of forks": functools.partial(started, "fork"),
    "loky in loky": functools.partial(nested, "loky", "loky"),
    "threading in loky": functools.partial(nested, "loky", "threading"),
    "threading in threading": functools.partial(nested, "threading", "threading"),
}


def main(name, count):
    """Run one scenario."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: that is what is tried
    with contextlib.redirect_stdout(sys.stderr):
        SCENARIOS[name](count)
    print(together())


if __name__ == "__main__":
    from torture.scenarios import main  # by its own name, so that processes find its functions

    main(sys.argv[1], int(sys.argv[2]))
