"""Image pixels and feature-map cells: receptive-field arithmetic, windows to cells and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Layer: TypeAlias = tuple[int, int, int]

# (kernel, stride, padding) of the layers up to the last convolution, as in the paper's table 1.
_PRESETS: dict[str, tuple[Layer, ...]] = {
    "ZF-5": ((7, 2, 1), (3, 2, 1), (5, 2, 1), (3, 2, 0)) + 3 * ((3, 1, 1),),
    "Convnet*-5": ((11, 4, 2), (3, 2, 0), (5, 1, 2), (3, 2, 0)) + 3 * ((3, 1, 1),),
    "Overfeat-5": ((7, 2, 0), (3, 3, 0), (5, 1, 2), (2, 2, 0)) + 3 * ((3, 1, 1),),
    "Overfeat-7": ((7, 2, 0), (3, 3, 0), (5, 1, 2), (2, 2, 0)) + 5 * ((3, 1, 1),),
}


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Where the cells of a convolutional map lie in the image, the same along both axes.

    Cell x' is centred on image pixel ``stride * x' + offset`` and sees `receptive_field` pixels around it.

    Parameters
    ----------
    stride : float
        Image pixels from one cell to the next, positive.
    offset : float
        Image pixel at the centre of cell 0. 0 is the paper's approximation, exact where every layer of kernel k
        is padded by ``k // 2`` (appendix A).
    receptive_field : float
        Image pixels that one cell sees, at least 1.
    layers : tuple of (kernel, stride, padding)
        The layers, where they are known; `map_size` is then exact.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a finite number or is out of its range.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition,
    TPAMI 2015, appendix A.

    Examples
    --------
    >>> import sppfast
    >>> geometry = sppfast.ConvGeometry.from_layers([(7, 2, 3), (3, 2, 1), (5, 2, 2), (3, 2, 1)])
    >>> geometry.stride, geometry.offset, geometry.receptive_field
    (16.0, 0.0, 43.0)
    >>> geometry.map_size((480, 640))
    (30, 40)
    >>> geometry.cells([[0, 0, 223, 223]], height=30, width=40).tolist()
    [[1, 1, 14, 14]]
    """

    stride: float
    offset: float = 0.0
    receptive_field: float = 1.0
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        for name in ("stride", "offset", "receptive_field"):
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        if self.stride <= 0:
            raise ValueError(f"stride: {self.stride!r} is not positive")
        if self.receptive_field < 1:
            raise ValueError(f"receptive_field: {self.receptive_field!r} is less than 1")
        object.__setattr__(self, "layers", tuple(_layer(i, layer) for i, layer in enumerate(self.layers)))

    @classmethod
    def from_layers(cls, layers: Sequence[tuple[int, int, int]]) -> ConvGeometry:
        """Derive the geometry of a chain of convolution and pooling layers.

        Parameters
        ----------
        layers : sequence of (kernel, stride, padding)
            From the image to the map; a dilated kernel counts with its whole extent. Sizes are rounded down.
        """
        geometry = cls(1.0)
        for i, layer in enumerate(layers):
            kernel, stride, padding = checked = _layer(i, layer)
            step = cls(stride, (kernel - 1) / 2 - padding, kernel, (checked,))
            geometry = geometry.then(step)
        return geometry

    @classmethod
    def preset(cls, name: str) -> ConvGeometry:
        """Geometry of one of the paper's networks: ``"ZF-5"``, ``"Convnet*-5"``, ``"Overfeat-5"``, ``"Overfeat-7"``.

        The layers are those of the paper's table 1, whose maps of a 224 x 224 image are 13 x 13 (stride 16) and,
        for Overfeat, 18 x 18 (stride 12).
        """
        if name not in _PRESETS:
            raise ValueError(f"name: {name!r} is not one of {', '.join(map(repr, _PRESETS))}")
        return cls.from_layers(_PRESETS[name])

    def then(self, other: ConvGeometry) -> ConvGeometry:
        """Geometry of layers `other` run on this geometry's map."""
        known = all(geometry.layers or geometry == ConvGeometry(1.0) for geometry in (self, other))
        return ConvGeometry(
            self.stride * other.stride,
            self.offset + self.stride * other.offset,
            self.receptive_field + self.stride * (other.receptive_field - 1),
            self.layers + other.layers if known else (),
        )

    @overload
    def map_size(self, image_size: int) -> int: ...
    @overload
    def map_size(self, image_size: tuple[int, ...]) -> tuple[int, ...]: ...
    def map_size(self, image_size: int | tuple[int, ...]) -> int | tuple[int, ...]:
        """Cells of the map of an image.

        Parameters
        ----------
        image_size : int or tuple of int
            Pixels along one axis, or along several.

        Returns
        -------
        int or tuple of int
            As many cells as the layers give; without layers, the cells whose centre lies in the image. 0 for an
            image that is too small.
        """
        if isinstance(image_size, tuple):
            return tuple(map(self.map_size, image_size))
        if not self.layers:
            first = math.ceil(-self.offset / self.stride)  # cells before it lie left of the image
            return max(0, math.floor((image_size - 1 - self.offset) / self.stride) + 1 - max(0, first))
        size = image_size
        for kernel, stride, padding in self.layers:
            size = max(0, (size + 2 * padding - kernel) // stride + 1)
        return size

    def cells(self, rois: ArrayLike, height: int, width: int) -> NDArray[np.int64]:
        """Windows of the image to windows of the map, by the paper's appendix A.1.

        Left and top become ``floor(.) + 1``, right and bottom ``ceil(.) - 1``, both inclusive; where they cross,
        both become their rounded-down middle; then both are clamped to the map. Computed in float64.

        Parameters
        ----------
        rois : array_like, shape (R, 4)
            ``x0, y0, x1, y1`` in image pixels, corners inclusive.
        height, width : int
            Size of the map in cells.

        Returns
        -------
        ndarray of int64, shape (R, 4)
            ``x0, y0, x1, y1`` in cells, half-open, never empty.

        Raises
        ------
        ValueError
            If a window is not finite, or its right or bottom lies before its left or top.
        """
        windows = np.asarray(rois, dtype=np.float64)
        if windows.ndim != 2 or windows.shape[1] != 4:
            raise ValueError(f"rois: expected shape (R, 4), got {windows.shape}")
        from .cpu.windows import sppnet_cells  # and with it Numba

        return sppnet_cells(windows, height, width, self)

    def boxes(self, cells: ArrayLike) -> NDArray[np.float64]:
        """Windows of the map to the boxes of the image that they see.

        Parameters
        ----------
        cells : array_like, shape (..., 4)
            ``x0, y0, x1, y1`` in cells, half-open.

        Returns
        -------
        ndarray of float64, shape (..., 4)
            ``x0, y0, x1, y1`` in image pixels, corners inclusive: from the first cell's receptive field to the
            last one's. They may reach outside the image.
        """
        box = np.asarray(cells, dtype=np.float64) - np.array([0.0, 0.0, 1.0, 1.0])
        reach = (self.receptive_field - 1) / 2
        boxes: NDArray[np.float64] = box * self.stride + self.offset + np.array([-reach, -reach, reach, reach])
        return boxes


def as_geometry(geometry: float | ConvGeometry) -> ConvGeometry:
    """Take a stride or a `ConvGeometry`."""
    if isinstance(geometry, ConvGeometry):
        return geometry
    try:
        return _of_stride(geometry) if type(geometry) in (int, float) else ConvGeometry(geometry)
    except (TypeError, ValueError) as error:
        raise type(error)(f"geometry: expected a positive stride or a ConvGeometry, got {geometry!r}") from None


_of_stride = lru_cache(maxsize=256)(ConvGeometry)


def check_windows(windows: NDArray[Any], name: str) -> None:
    """Check that windows (R, 4) are finite and not inverted."""
    wrong = ~np.isfinite(windows)
    for i, k in np.argwhere(wrong)[:1] if wrong.any() else ():
        raise ValueError(f"{name}[{i}]: {('x0', 'y0', 'x1', 'y1')[k]} = {windows[i, k]} is not finite")
    x0, y0, x1, y1 = windows.T
    if not ((x1 < x0) | (y1 < y0)).any():
        return
    for low, high, side in ((0, 2, "x1 = {1} is left of x0 = {0}"), (1, 3, "y1 = {1} is above y0 = {0}")):
        for i in np.flatnonzero(windows[:, high] < windows[:, low])[:1]:
            raise ValueError(f"{name}[{i}]: " + side.format(windows[i, low], windows[i, high]))


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except TypeError:
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: {number!r} is not finite")
    return number


def _layer(i: int, layer: Any) -> Layer:
    try:
        kernel, stride, padding = (int(n) for n in layer)
        whole = (kernel, stride, padding) == tuple(layer)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"layers[{i}]: expected (kernel, stride, padding), got {layer!r}")
    if kernel < 1 or stride < 1 or padding < 0:
        raise ValueError(f"layers[{i}]: {layer!r} is out of range")
    return kernel, stride, padding
