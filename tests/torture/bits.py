"""The same bits for any number of workers, threads' layer, chunks, and from run to run."""

import itertools
import os
import sys

import numpy as np
from helpers import BINS, FLOATS, ROUNDINGS, make, make_map, make_rois
from processes import finish, start

import sppfast

from .matrix import has_tbb
from .report import Row, bar
from .scenarios import HANG, LAYERS, use_layer
from .soak import digest

WORKERS = (None, 1, 2, 3, 7, 1000)
SHAPES = ((6, 5, 9, 9), (3, 70, 13, 17), (4, 40, 60, 80), (2, 3, 200, 180))
WINDOWS = 150


def calls(seed, dtypes=FLOATS):
    """Functions of the maps' rows, and of the number of workers, that give an array; whose sums are not exact."""
    rng = np.random.default_rng(seed)
    for shape, dtype, mode in itertools.product(SHAPES, dtypes, ("max", "avg")):
        layout, bins, rounding = (str(rng.choice(names)) for names in (("NCHW", "NHWC"), BINS, ROUNDINGS))
        x, options = make_map(rng, shape, dtype, "spread", layout), {"mode": mode, "layout": layout}
        rois = np.rint(make_rois(rng, WINDOWS, (16 * shape[2], 16 * shape[3])))
        index = rng.integers(0, len(x), WINDOWS)
        yield len(x), of_maps(x, options | {"bins": bins})
        yield WINDOWS, of_windows(sppfast.roi_pool, x, rois, index, options | {"rounding": rounding})
        yield WINDOWS, of_windows(sppfast.roi_align, x, rois, index, options)
        grad = make(rng, (len(x), 10 * shape[1]), dtype, "spread")
        yield len(x), of_gradients(grad, x, options)
        grads = make(rng, (WINDOWS, 10 * shape[1]), dtype, "spread")
        for operator, more in ((sppfast.roi_pool_backward, {"rounding": rounding}), (sppfast.roi_align_backward, {})):
            yield 0, of_all(operator, grads, x, rois, index, options | more)


def of_maps(x, options):
    return lambda rows, workers: sppfast.pool(x[rows], (3, 1), workers=workers, **options)


def of_windows(operator, x, rois, index, options):
    return lambda rows, workers: operator(
        x, rois[rows], (3, 1), batch_index=index[rows], workers=workers, geometry=of_cells(options), **options
    )


def of_gradients(grad, x, options):
    return lambda rows, workers: sppfast.pool_backward(grad[rows], x[rows], (3, 1), workers=workers, **options)


def of_all(operator, grad, x, rois, index, options):
    """A sum over all windows, whose order is theirs: it cannot be had from parts of them."""
    options = options | {"batch_index": index, "geometry": of_cells(options)}
    return lambda rows, workers: operator(grad, x, rois, (3, 1), workers=workers, **options)


def of_cells(options):
    """The geometry that windows of cells have, or that of a network."""
    return 1 if options.get("rounding") == "cells" else 16


def by_parts(rng, count, call):
    """The same rows by calls for parts of them, of random sizes."""
    cuts = np.sort(rng.integers(0, count + 1, 3))
    return np.concatenate([call(slice(*cut), 2) for cut in itertools.pairwise([0, *cuts, count])])


def digests(seed, dtypes=FLOATS):
    """A digest for each call; any number of workers and any parts must give it."""
    rng, seen = np.random.default_rng(seed), []
    for number, (count, call) in enumerate(calls(seed, dtypes)):
        rows = slice(None)
        results = [call(rows, workers) for workers in WORKERS]
        results += [by_parts(rng, count, call)] if count else []
        assert len({digest(result) for result in results}) == 1, f"call {number} of seed {seed}"
        seen.append(digest(results[0]).hex())
    return seen


def run(rounds, seed):
    """All calls in processes with other layers, numbers of cores and hashes; one row of the table."""
    layers = [layer for layer in LAYERS if layer != "tbb" or has_tbb()]
    places = list(itertools.product(layers, ("0", "")))
    made = 0
    with bar(rounds * len(places), "processes", "bits") as shown:
        for number in range(seed, seed + rounds):
            seen = set()
            for layer, cores in places:
                child = start("-m", "torture.bits", str(number), cores, NUMBA_THREADING_LAYER=layer)
                seen.add(finish(child, 2 * HANG))
                shown.update()
            assert len(seen) == 1, f"seed {number}: another process, other bits"
            made += len(seen.pop().split())
    tried = (
        f"{made} calls of all operators, each with {', '.join(map(str, WORKERS))} workers, and by parts of its rows; "
        f"all again in {len(places)} processes: on one core and on all, beside {', '.join(layers)}"
    )
    return Row("Determinism", tried, "the same bits", f"bits --rounds {rounds} --seed {seed}")


if __name__ == "__main__":
    if sys.argv[2]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    use_layer()
    print(*digests(int(sys.argv[1])))
