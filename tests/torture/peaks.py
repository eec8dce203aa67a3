"""The largest memory of a call, each in a process of its own: ``python -m torture.peaks NAME SCALE``."""

import ctypes
import gc
import sys

import numpy as np
from helpers import dtype_of
from processes import finish, start

import sppfast

from .report import Row, bar
from .scenarios import HANG

MOST = 1.1
SCALES = (1, 2, 4)


def random(shape, dtype="float32"):
    """An array whose pages are all in use; cheap."""
    return np.random.default_rng(0).integers(0, 100, shape, np.uint8).astype(dtype_of(dtype))


def maps(scale, channels=64, batch=4):
    """Maps whose pixels grow with the scale."""
    return random((batch, channels, 128 * scale, 128))


def windows(x, scale, count=1000):
    """Windows of maps, whose number grows with the scale."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1000, (count * scale, 2))
    return np.column_stack([np.arange(count * scale) % len(x), corner, corner + rng.uniform(20, 1000, corner.shape)])


def pool(options, change=lambda x: x):
    def build(scale):
        x = change(maps(scale))
        return lambda: sppfast.pool(x, (4, 2, 1), **options), [x]

    return build


def large(scale):
    """A result as large as the maps."""
    x = maps(scale)
    return lambda: sppfast.pool(x, 64, mode="avg"), [x]


def ragged(scale):
    x = [random((64, 100 * scale + i, 128)) for i in range(6)]
    return lambda: sppfast.pool(x, (4, 2, 1)), x


def of_windows(operator, levels=(6, 3, 2, 1), channels=256, count=1000, dtype="float32", **options):
    def build(scale):
        x = random((2, channels, 38, 63), dtype)
        rois = windows(x, scale, count)
        return lambda: operator(x, rois, levels, **options), [x, rois]

    return build


def backward(scale, mode="max"):
    x = maps(scale)
    grad = random((len(x), x.shape[1] * 21))
    return lambda: sppfast.pool_backward(grad, x, (4, 2, 1), mode=mode), [x, grad]


def backward_of_windows(operator, **options):
    def build(scale):
        x = random((2, 256, 76, 126))
        rois = windows(x, scale)
        grad = random((len(rois), 256 * 49))
        return lambda: operator(grad, x, rois, 7, **options), [x, rois, grad]

    return build


OPERATORS = {
    "pool": pool({}),
    "pool, mean": pool({"mode": "avg"}),
    "pool, indices": pool({"return_indices": True}),
    "pool, serial": pool({"workers": 1}),
    "pool, float16": pool({"mode": "avg"}, lambda x: x.astype(np.float16)),
    "pool, bytes": pool({"mode": "avg"}, lambda x: x.astype(np.uint8)),
    "pool, channels last": pool({"layout": "NHWC"}, lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1))),
    "pool, every other column": pool({}, lambda x: x[..., ::2]),
    "pool, a result as large": large,
    "pool, ragged": ragged,
    "roi_pool": of_windows(sppfast.roi_pool),
    "roi_pool, mean": of_windows(sppfast.roi_pool, mode="avg"),
    "roi_pool, indices": of_windows(sppfast.roi_pool, return_indices=True),
    "roi_pool, 16 channels": of_windows(sppfast.roi_pool, channels=16, count=20_000),
    "roi_align": of_windows(sppfast.roi_align),
    "roi_align, maxima": of_windows(sppfast.roi_align, mode="max"),
    "roi_align, bytes": of_windows(sppfast.roi_align, count=100, dtype="uint8"),
    "roi_align, 16 channels": of_windows(sppfast.roi_align, channels=16, count=20_000),
    "pool_backward": backward,
    "pool_backward, mean": lambda scale: backward(scale, "avg"),
    "roi_pool_backward": backward_of_windows(sppfast.roi_pool_backward),
    "roi_pool_backward, mean": backward_of_windows(sppfast.roi_pool_backward, mode="avg"),
    "roi_align_backward": backward_of_windows(sppfast.roi_align_backward),
    "roi_align_backward, maxima": backward_of_windows(sppfast.roi_align_backward, mode="max"),
}


def status(name):
    """A number of bytes from /proc/self/status."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(name))
    return 1024 * int(line.split()[1])


def measure(name, scale):
    """Bytes of the arguments, of the result, and how much more than before the call was in use at its worst moment."""
    call, _ = OPERATORS[name](1)
    for _ in range(3):
        call()  # code and threads are there, and the memory of each thread, which may have come too late for one call
    del call, _
    call, read = OPERATORS[name](scale)
    sppfast.memory._kept.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is from now on
    before = status("VmRSS")
    result = call()
    peak = status("VmHWM") - before
    results = result if isinstance(result, tuple | list) else [result]
    return sum(x.size * x.itemsize for x in read), sum(y.nbytes for y in results), peak


def of_child(name, scale):
    """The same, of a process of its own."""
    return tuple(map(int, finish(start("-m", "torture.peaks", name, str(scale)), 2 * HANG).split()))


def share(read, result, more):
    """The peak as a multiple of arguments and result."""
    return (read + more) / (read + result)


def run():
    """Measure every operator at every scale; one row of the table."""
    shares = {}
    with bar(len(OPERATORS) * len(SCALES), "processes", "peaks") as shown:
        for name in OPERATORS:
            shares[name] = [share(*of_child(name, scale)) for scale in SCALES]
            shown.update()
    worst = max(shares, key=lambda name: max(shares[name]))
    found = f"at most {max(shares[worst]):.3f} of arguments and result ({worst})"
    assert max(shares[worst]) <= MOST, found
    tried = f"{len(OPERATORS)} calls of all operators, each with 1, 2 and 4 times the pixels or windows"
    return Row("Peak memory", tried, found, "peaks")


if __name__ == "__main__":
    print(*measure(sys.argv[1], int(sys.argv[2])))
