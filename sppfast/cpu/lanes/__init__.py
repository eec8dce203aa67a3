"""Vectors of the target machine in Numba: one value per channel lane.

A `Lanes` value is an LLVM vector. LLVM splits it into the registers that the machine has (two of AVX2 for 64 bytes,
four of SSE or NEON, one of AVX-512), so the kernels are written once for every instruction set. Addresses are plain
integers: the kernels compute them, and the plan sets the bounds that keep them inside the arrays.

Everything that depends on the dtype or on what is computed hangs on one compile-time token, a `Reduction`, that the
functions here take as their last argument. Max works on *keys*: the bits of a number turned into a signed integer of
the same order, every NaN above infinity, so that one integer comparison does it all, for every dtype. What needs
arithmetic, avg and the weighted mean and peak of RoI align, works on float64.
"""
