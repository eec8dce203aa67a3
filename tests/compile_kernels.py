"""Compile every kernel into the cache on disk, by all cores at once, so that the tests do not do it one by one."""

import itertools
import multiprocessing

from sppfast.arrays import DTYPES
from sppfast.cores import available_cores
from sppfast.cpu.launch import kernel_of


def compile_kernel(dtype, mode, narrow):
    kernel_of(dtype, mode, narrow)  # what it returns cannot be sent to another process


if __name__ == "__main__":
    kernels = list(itertools.product(sorted(set(DTYPES) - {"bool"}), ("max", "argmax", "avg"), (0, 1)))
    with multiprocessing.get_context("spawn").Pool(available_cores(), maxtasksperchild=12) as pool:
        pool.starmap(compile_kernel, kernels, chunksize=1)
