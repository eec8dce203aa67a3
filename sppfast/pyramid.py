"""The geometry of a spatial pyramid: which cells each bin pools, and where its value lies in the result."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, islice
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

Level: TypeAlias = tuple[int, int]
Levels: TypeAlias = int | Iterable[int | tuple[int, int]]

BINS = ("adaptive", "sliding", "caffe")
MAX_LEVELS = 1024
MAX_BINS = 2**31 - 1
NO_NUMBERS = (str, bytes, memoryview)  # although they can be iterated over


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Check a string option; return it as a plain string, which it may be a subclass of."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {_quoted(choices)}, got {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is not one of {_quoted(choices)}")
    return choices[choices.index(value)]


def _quoted(choices: tuple[str, ...]) -> str:
    return ", ".join(map(repr, choices))


def bin_edges(lengths: NDArray[np.int64], n: int, bins: str = "adaptive") -> NDArray[np.int64]:
    """Bins of an axis: ``[start, stop)`` of each of `n` bins over each of `lengths`, in exact integers.

    Parameters
    ----------
    lengths : ndarray of int64, shape (...)
        Lengths in cells.
    n : int
        Number of bins.
    bins : {"adaptive", "sliding", "caffe", "fast_rcnn"}
        The rule, see `Pyramid`; ``"fast_rcnn"`` is adaptive in float32, as in Girshick's RoI pooling, and may reach
        past the length by a cell.

    Returns
    -------
    ndarray of int64, shape (2, ..., n)
        Starts and stops; a bin with ``stop <= start`` is empty.
    """
    length = np.asarray(lengths, dtype=np.int64)[..., None]
    i = np.arange(n, dtype=np.int64)
    if bins == "fast_rcnn":
        portion = length.astype(np.float32) / np.float32(n)
        step = np.arange(n + 1, dtype=np.float32)
        return np.stack([np.floor(step[:-1] * portion), np.ceil(step[1:] * portion)]).astype(np.int64)
    if bins == "adaptive":
        return np.stack([i * length // n, -(-(i + 1) * length // n)])
    size = -(-length // n)
    if bins == "sliding":
        start = i * (length // n)
        return np.stack([start, start + size])
    start = i * size - (size * n - length + 1) // 2
    return np.stack([np.clip(start, 0, length), np.clip(start + size, 0, length)])


@dataclass(frozen=True, init=False, slots=True)
class Pyramid:
    """A spatial pyramid: levels of bins over a map of any size.

    Parameters
    ----------
    levels : int or sequence of int or (rows, columns) pairs
        The grids, in any order, at most 1024; an int n is n x n.
    bins : {"adaptive", "sliding", "caffe"}
        The cells of bin i of n over a length L:

        - ``"adaptive"`` (the paper's appendix A.2, and torch's adaptive pooling): ``floor(i*L/n)`` to
          ``ceil((i+1)*L/n)``;
        - ``"sliding"`` (the paper's section 2.3): windows of ``ceil(L/n)`` with stride ``floor(L/n)``;
        - ``"caffe"`` (the SPP layer of Caffe and Chainer): kernel and stride ``k = ceil(L/n)``, padding
          ``(k*n - L + 1) // 2``, cells outside the map left out of the bin.

    Raises
    ------
    TypeError, ValueError
        If a level is not a positive integer or a pair of them, or `bins` is not a rule.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition,
    TPAMI 2015, section 2.2 and appendix A.

    Examples
    --------
    >>> import sppfast
    >>> pyramid = sppfast.Pyramid((4, 2, 1))
    >>> pyramid.size, pyramid.output_length(256)
    (21, 5376)
    >>> pyramid.edges(13, 4).tolist()
    [[0, 4], [3, 7], [6, 10], [9, 13]]
    >>> pyramid.windows(13, 13)[1][0, 1].tolist()  # the top right bin of the 2 x 2 level: x0, y0, x1, y1
    [6, 0, 13, 7]
    """

    levels: tuple[Level, ...]
    bins: str
    size: int = field(compare=False, repr=False)

    def __init__(self, levels: Levels, bins: str = "adaptive") -> None:
        object.__setattr__(self, "levels", _parse_levels(levels))
        object.__setattr__(self, "bins", one_of("bins", bins, BINS))
        object.__setattr__(self, "size", sum(rows * columns for rows, columns in self.levels))

    def output_length(self, channels: int) -> int:
        """Length of the vector that a map of `channels` channels is pooled into."""
        return channels * self.size

    def slices(self, channels: int) -> tuple[slice, ...]:
        """Where each level lies in a pooled vector of `channels` channels."""
        stops = list(accumulate(channels * rows * columns for rows, columns in self.levels))
        return tuple(slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False))

    def split(self, result: NDArray[Any], channels: int, layout: str = "NCHW") -> tuple[NDArray[Any], ...]:
        """Views of each level of a pooled result.

        Parameters
        ----------
        result : ndarray, shape (N, F) or (F,)
            What `pool` gives with ``flatten=True``.
        channels : int
            Number of channels, C.
        layout : {"NCHW", "NHWC"}
            The order of the axes of the views.

        Raises
        ------
        ValueError
            If the result's last axis has another length.

        Returns
        -------
        tuple of ndarray
            One view per level, ``([N,] C, rows, columns)`` or ``([N,] rows, columns, C)``.
        """
        one_of("layout", layout, ("NCHW", "NHWC"))
        length = self.output_length(channels)
        if result.shape[-1:] != (length,):
            raise ValueError(f"result: expected {length} values of {channels} channels, got shape {result.shape}")
        views = []
        for where, (rows, columns) in zip(self.slices(channels), self.levels, strict=True):
            view = result[..., where].reshape(*result.shape[:-1], channels, rows, columns)
            views.append(view if layout == "NCHW" else view.swapaxes(-3, -1).swapaxes(-3, -2))
        return tuple(views)

    def edges(self, length: int, n: int) -> NDArray[np.int64]:
        """Bins of an axis.

        Parameters
        ----------
        length : int
            Length of the axis in cells.
        n : int
            Number of bins.

        Returns
        -------
        ndarray of int64, shape (n, 2)
            ``[start, stop)`` of each bin, within ``[0, length]``.
        """
        return bin_edges(np.asarray(length), n, self.bins).T

    def windows(self, height: int, width: int) -> tuple[NDArray[np.int64], ...]:
        """Cells of every bin of a map of `height` x `width` cells.

        Returns
        -------
        tuple of ndarray of int64, shape (rows, columns, 4)
            For each level, ``x0, y0, x1, y1`` of each bin, half-open.
        """
        windows = []
        for rows, columns in self.levels:
            y0, y1 = bin_edges(np.asarray(height), rows, self.bins)
            x0, x1 = bin_edges(np.asarray(width), columns, self.bins)
            windows.append(np.stack(np.broadcast_arrays(x0, y0[:, None], x1, y1[:, None]), axis=-1))
        return tuple(windows)


@lru_cache(maxsize=256)
def _pyramid(levels: int | tuple[int, ...], bins: str) -> Pyramid:
    return Pyramid(levels, bins)


def as_pyramid(levels: Levels, bins: str = "adaptive") -> Pyramid:
    """Build the pyramid of `levels`, or look it up where it was built before."""
    one_of("bins", bins, BINS)
    return _pyramid(levels, bins) if are_plain(levels) else Pyramid(levels, bins)


def are_plain(levels: Any) -> TypeGuard[int | tuple[int, ...]]:
    """Tell whether levels may be looked up: integers alone, since 4.0 and True would find 4 and 1."""
    return type(levels) is int or (type(levels) is tuple and {*map(type, levels)} == {int})


def _parse_levels(levels: Any) -> tuple[Level, ...]:
    if isinstance(levels, NO_NUMBERS):
        raise TypeError(f"levels: expected integers or (rows, columns) pairs, got {levels!r}")
    if not isinstance(levels, Iterable):
        levels = (levels,)
    parsed = tuple(_parse_level(i, level) for i, level in enumerate(islice(levels, MAX_LEVELS + 1)))
    if not parsed:
        raise ValueError("levels: expected at least one level, got none")
    if len(parsed) > MAX_LEVELS:
        raise ValueError(f"levels: more than {MAX_LEVELS}")
    if sum(rows * columns for rows, columns in parsed) > MAX_BINS:
        raise ValueError(f"levels: more than {MAX_BINS} bins")
    return parsed


def _parse_level(i: int, level: Any) -> Level:
    several = isinstance(level, Iterable) and not isinstance(level, NO_NUMBERS)
    pair = tuple(islice(level, 3)) if several else (level, level)
    if len(pair) != 2:
        raise ValueError(f"levels[{i}]: expected n or (rows, columns), got {level!r}")
    try:
        if any(isinstance(n, bool | np.bool_) for n in pair):
            raise TypeError
        rows, columns = map(operator.index, pair)
    except TypeError:
        raise TypeError(f"levels[{i}]: expected integers, got {level!r}") from None
    if rows < 1 or columns < 1:
        raise ValueError(f"levels[{i}]: {level!r} is not positive")
    return rows, columns
