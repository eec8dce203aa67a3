"""What the suites share."""

import hashlib
import inspect
import multiprocessing
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

STRIDE = 16
CHANNELS = 256
LEVELS = (6, 3, 2, 1)
MAP = (38, 63)  # of an image of 608 x 1008 pixels


class _Calls:
    """Calls whose arrays are made, and whose kernels are compiled, by the first of them.

    There is no `setup`: asv would repeat it before every call, and time each call by itself.
    """

    number = 5
    repeat = (5, 20, 1.0)  # samples of a round: at least, at most, seconds; of fewer asv calls no two different

    def __init_subclass__(cls):
        """Results are compared with those of the same code, for which asv would take `time_call`."""
        cls.version = hashlib.sha256(inspect.getsource(cls).encode()).hexdigest()

    def build(self, *parameters: Any) -> tuple[Callable, tuple, dict[str, Any]]:
        """Choose an operator, its arrays and its options."""
        raise NotImplementedError

    def call(self, *parameters):
        return _built(self, *parameters)()

    def time_call(self, *parameters):
        self.call(*parameters)


class _Tracked(_Calls):
    """Their memory, too, and the bytes of the arrays and of the result, each read or written once."""

    def peakmem_call(self, *parameters):
        compiling = multiprocessing.get_context("fork").Process(target=self.call, args=parameters)
        compiling.start()  # whose memory does not count
        compiling.join()
        self.call(*parameters)

    def track_bandwidth(self, *parameters):
        moved = sum(array.nbytes for array in (*_built(self, *parameters).args, self.call(*parameters)))
        return rate(partial(self.call, *parameters), moved / 1e9)

    track_bandwidth.unit = "GB/s"


@cache
def _built(benchmark: _Calls, *parameters: Any) -> partial:
    operator, arrays, options = benchmark.build(*parameters)
    return partial(operator, *arrays, **options)


def make_maps(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Draw maps; whole numbers from -100 to 100, or from 0 to 200, are in the range of every dtype."""
    low, small = (0, np.uint8) if np.dtype(dtype).kind == "u" else (-100, np.int8)
    return np.random.default_rng(0).integers(low, low + 201, shape, small).astype(dtype)


def make_rois(count: int, size: tuple[int, int], stride: int = STRIDE) -> np.ndarray:
    """Draw windows of the first map; sides from 32 pixels to the image's, evenly in the logarithm."""
    rng = np.random.default_rng(1)
    image = stride * np.array([size[1], size[0]])
    sides = np.exp(rng.uniform(np.log(32), np.log(image), (count, 2)))
    corners = rng.uniform(size=(count, 2)) * (image - sides)
    return np.hstack([np.zeros((count, 1)), corners, corners + sides - 1])


def rate(call: Callable, amount: float, seconds: float = 0.3) -> float:
    """Compute `amount` per second at the best of calls in a row, three at least, to four digits."""
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(f"{amount / min(times):.4g}")
