"""Compile every kernel into the cache on disk, by all cores at once, so that the tests do not do it one by one."""

import itertools
import multiprocessing

from sppfast.arrays import DTYPES
from sppfast.cores import available_cores
from sppfast.cpu import halves, kernels, scatter, taps
from sppfast.cpu.descriptor import PARTS_WAY, RAW_WAY, ROWS_WAY, SHARED_WAY
from sppfast.cpu.lanes.reduction import NARROW
from sppfast.cpu.ways import kernel_of

LANES = range(NARROW + 1)
NUMBERS, WAYS = sorted(set(DTYPES) - {"bool"}), (SHARED_WAY, ROWS_WAY, PARTS_WAY)
PAIRED = [name for name in NUMBERS if "64" not in name]
HALVES, SINGLES = ("float16", "bfloat16"), ("float32", "float64")


def compile_kernel(dtype, mode, narrow, build, way):
    kernel_of(dtype, mode, narrow, build).address(way)


if __name__ == "__main__":
    asked = [
        *itertools.product(NUMBERS, ("max", "argmax", "avg"), LANES, [kernels.build], WAYS),
        *itertools.product(PAIRED, ("paired",), LANES, [kernels.build], (SHARED_WAY,)),
        *itertools.product((*HALVES, *SINGLES), ("avg", "peak"), LANES, [taps.build_gather], ("", RAW_WAY)),
        *itertools.product(SINGLES, ("avg", "peak"), (0,), [taps.build_tabulate], ("",)),
        *itertools.product(SINGLES, ("avg",), LANES, [taps.build_spread, taps.build_spread_map], ("",)),
        *itertools.product(SINGLES, ("avg",), (NARROW,), [scatter.build], ("",)),
        *itertools.product(HALVES, ("avg",), (0,), [halves.build], (halves.WIDEN, halves.NARROW)),
    ]
    jobs = {(*names, kernel_of(*names, narrow, build).narrow, build, way) for *names, narrow, build, way in asked}
    with multiprocessing.get_context("spawn").Pool(available_cores(), maxtasksperchild=48) as pool:
        pool.starmap(compile_kernel, jobs, chunksize=1)
