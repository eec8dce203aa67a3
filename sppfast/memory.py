"""Memory of results. A large one is a large part of a call: the system clears fresh pages before they are written.

So the memory of the last large results stays after them, for the next ones, down to half of their size: one image has
more windows than another. The system is told that it may take it back (``MADV_FREE``): it does when memory runs
short, and the next result then gets fresh pages. Results of some megabytes malloc would keep, unless it finds that it
has too much: they are kept here, when a size like theirs comes again, as it would keep them. Too much is what values
and indices free at once, which are smaller ones: those share a piece.

Nothing is kept through a fork: a huge page that a child has, too, is divided into small ones by who writes to it first.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from itertools import accumulate
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .arrays import LINE_BYTES, address_of

TOGETHER_BYTES = 2**15  # values and indices from here on, up to `REPEATED_BYTES`, lie in one piece of memory
ALIGNED_BYTES = 2**20  # from here on a result begins at a cache line, so that whole lines can be written
REPEATED_BYTES = 2**22  # from here on malloc may give memory back to the system
KEPT_BYTES = 2**25  # from here on it does so at once
SIZES = 8  # of results, that are remembered
HUGE_BYTES = 2**21  # a huge page: one that is given back in part is divided first, which takes longer than all others
KEPT_BLOCKS = 2  # values and indices: so many of the largest, or as many bytes
PLAN_BYTES, WINDOW_BYTES, EDGE_BYTES = 2**19, 512, 32  # of planning, more than it takes
LIKE = 2  # a block serves results that are less than so many times smaller

MADV_FREE = getattr(mmap, "MADV_FREE", 0)  # 0: the system has no such advice

_BYTE = np.dtype(np.uint8)
_kept: list[mmap.mmap] = []
_sizes: tuple[int, ...] = ()


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Allocate a result, uninitialised."""
    size = math.prod(shape) * dtype.itemsize
    if size < ALIGNED_BYTES:
        return np.empty(shape, dtype)
    block = _block(size) if _is_kept(size) else None
    if block is not None:
        owner = _Owner(shape, dtype, block)
        owner.kept = _kept
        return owner.view(np.ndarray)
    memory = np.empty(size + LINE_BYTES, dtype=np.uint8)
    begin = -address_of(memory) % LINE_BYTES
    return memory[begin : begin + size].view(dtype).reshape(shape)


def allocate_together(shape: tuple[int, ...], dtypes: tuple[np.dtype[Any], ...]) -> list[NDArray[Any]]:
    """Allocate results that are used, and given up, together."""
    if len(dtypes) == 1:
        return [allocate(shape, dtypes[0])]
    sizes = [math.prod(shape) * dtype.itemsize for dtype in dtypes]
    if not TOGETHER_BYTES <= max(sizes) < REPEATED_BYTES:
        return [allocate(shape, dtype) for dtype in dtypes]
    starts = list(accumulate((-(-size // LINE_BYTES) * LINE_BYTES for size in sizes), initial=0))
    memory = allocate((starts[-1],), _BYTE)
    pieces = zip(starts, sizes, dtypes, strict=False)
    return [memory[start : start + size].view(dtype).reshape(shape) for start, size, dtype in pieces]


def scratch(size: int) -> NDArray[np.uint8]:
    """Allocate bytes to work in, from an eighth of a huge page on in huge pages, if the system has them.

    A tile of small pages is more than the processor keeps addresses of: windows of it took up to 8% longer.
    """
    large = size >= HUGE_BYTES // 8 and hasattr(mmap, "MADV_HUGEPAGE")
    block = _map(size + HUGE_BYTES) if large else None
    if block is None:
        return np.empty(size, dtype=np.uint8)
    memory = np.frombuffer(block, dtype=np.uint8)
    begin = -address_of(memory) % HUGE_BYTES
    return memory[begin : begin + size]


def expect(windows: int, counts: int) -> None:
    """Raise MemoryError where there is none to plan so many windows, of so many bins along both axes.

    NumPy up to 2.4 ends the process where it finds none for the buffers of a ufunc: it raises without the GIL. It takes
    them to convert, to broadcast, and for arrays of two dimensions that are not contiguous.
    For much of it the system is asked itself: malloc, once it has taken so much back, keeps whatever is smaller.
    """
    size = PLAN_BYTES + windows * (WINDOW_BYTES + EDGE_BYTES * counts)
    try:
        np.empty(size, dtype=np.uint8) if size < ALIGNED_BYTES else mmap.mmap(-1, size).close()
    except OSError as error:
        raise MemoryError(f"no {size} bytes to plan {windows} windows") from error


def _is_kept(size: int) -> bool:
    """Tell whether a result of so many bytes leaves its memory to the next."""
    global _sizes
    if size < REPEATED_BYTES or not MADV_FREE:
        return False
    comes_again = any(_are_like(size, other) for other in _sizes)
    _sizes = (size, *_sizes[: SIZES - 1])
    return comes_again or size >= KEPT_BYTES


def _are_like(size: int, other: int) -> bool:
    """Tell whether one of two sizes is not much smaller than the other."""
    return size < LIKE * other and other < LIKE * size


def _block(size: int) -> mmap.mmap | None:
    """Take the kept block that fits best; or map a new one, instead of one like it that is too small; None: no memory.

    So the blocks become as large as the results do that come again.
    """
    for block in sorted(_kept, key=lambda block: (len(block) < size, abs(len(block) - size))):
        if _are_like(size, len(block)) and _claim(block):
            return block if len(block) >= size else _map(size)
    return _map(size)


def _claim(block: mmap.mmap) -> bool:
    """Take a block from those kept, unless another thread was faster."""
    try:
        _kept.remove(block)
    except ValueError:
        return False
    return True


def _keep(block: mmap.mmap) -> None:
    """Keep a block, and of those before it the last ones."""
    _kept.append(block)
    sizes = [len(kept) for kept in _kept]
    while sum(sizes) > KEPT_BLOCKS * max(sizes):
        with contextlib.suppress(IndexError):  # another thread was faster
            del _kept[0]
        del sizes[0]


def _map(size: int) -> mmap.mmap | None:
    """Map fresh memory, in huge pages if the system has them; None if it has none."""
    try:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None
    with contextlib.suppress(AttributeError, OSError):  # not every system has them
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


class _Owner(np.ndarray[Any, Any]):
    """What arrays of a block are views of: gives the block, its base, back when the last of them is gone."""

    kept: list[mmap.mmap]

    def __del__(self, advice: int = MADV_FREE) -> None:
        try:
            if self.kept is not _kept:
                return
            block, first = cast(mmap.mmap, self.base), -address_of(self) % HUGE_BYTES
            pages = (len(block) - first) // HUGE_BYTES if len(block) >= KEPT_BYTES else 0
            if pages > 0:
                block.madvise(advice, first, pages * HUGE_BYTES)
        except (OSError, AttributeError):  # locked memory cannot be given back, and Ctrl-C may come before there is any
            return
        _keep(block)


def _renew() -> None:
    """Keep nothing of what was allocated before a fork."""
    global _kept
    _kept = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_renew, after_in_child=_renew)
