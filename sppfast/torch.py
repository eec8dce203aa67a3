"""Tensors of torch in and out, differentiable; and the operators as modules."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .dispatch import Call, Place
from .dlpack import run_on_cuda, to_cupy
from .geometry import ConvGeometry, as_geometry
from .pooling import MODES, pool, roi_align, roi_pool
from .pyramid import Levels, Pyramid, one_of
from .windows import ROUNDINGS


def apply(call: Call, tensors: list[torch.Tensor]) -> Any:
    """Call an operator with tensors; torch.compile is kept out of it."""
    if torch.compiler.is_compiling():
        return torch.compiler.disable(_apply)(call, tensors)
    return _apply(call, tensors)


def _apply(call: Call, tensors: list[torch.Tensor]) -> Any:
    """Call an operator with tensors, so that autograd knows of it."""
    arguments = call.arguments
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if arguments["out"] is not None:
        if recorded:
            raise ValueError("out: cannot be given where a tensor requires grad, except in torch.no_grad()")
        return _apply_into_out(call, tensors)
    if not recorded and not torch._C._are_functorch_transforms_active():  # what Function.apply asks itself
        return _run(call, tensors)  # past autograd, which would take most of the time of a small call
    ragged = isinstance(arguments["x"], list)
    if "flatten" not in arguments:
        gradients = _Backward.apply(call, *tensors)
        return list(gradients) if ragged else gradients[0]
    maps = len(arguments["x"]) if ragged else 1
    indices = arguments.get("return_indices", False)
    flat = call.changed(flatten=True, return_indices=indices or (recorded and arguments["mode"] == "max"))
    results = _Forward.apply(flat, *tensors[:maps], *(tensor.detach() for tensor in tensors[maps:]))
    return call.present(results if indices else results[:1], tensors[0])


def _apply_into_out(call: Call, tensors: list[torch.Tensor]) -> Any:
    """Call an operator that writes to tensors, and let autograd know that it did."""
    out = call.arguments["out"]
    places = [place for place in (out if isinstance(out, list | tuple) else [out]) if isinstance(place, Place)]
    results = _run(call, tensors)
    for place in places:
        torch.autograd.graph.increment_version(tensors[place.i])
    return results


class _Operator(torch.autograd.Function):
    """An operator of a `Call` and its tensors."""

    @staticmethod
    def forward(call: Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = _run(call, tensors)
        return tuple(results) if isinstance(results, list | tuple) else (results,)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], call: Call, *tensors: torch.Tensor) -> Any:
        """Call it once for each item."""
        pairs = list(zip(tensors, in_dims[1:], strict=True))
        items = [
            cls.apply(call, *(tensor if dim is None else tensor.select(dim, i) for tensor, dim in pairs))
            for i in range(info.batch_size)
        ]
        results = tuple(torch.stack(parts) for parts in zip(*items, strict=True))
        return results, (0,) * len(results)


class _Forward(_Operator):
    """A pooling operator: values, and the indices that its gradient is made with."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.call, *tensors = inputs
        ctx.count = len(tensors)
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None, *unused: None) -> Any:
        if grad is None:
            return (None,) * (1 + ctx.count)
        tensors, indices = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        with _checked_before(grad):
            gradients = _Backward.apply(ctx.call.backward(ctx.count, bool(indices)), *tensors, grad, *indices)
        return None, *gradients, *(None,) * (ctx.count - len(gradients))


class _Backward(_Operator):
    """A backward operator, which has no gradient itself."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> None:
        raise NotImplementedError("sppfast: gradients of gradients (double backward) are not supported")


def _checked_before(grad: torch.Tensor) -> AbstractContextManager[None]:
    """Leave out checks that wait for the device: of what the forward call checked, and autograd saw no change of."""
    if not grad.is_cuda:
        return nullcontext()
    from .cuda import unchecked  # which imports CuPy

    return unchecked()


def _run(call: Call, tensors: Sequence[torch.Tensor]) -> Any:
    """Run an operator where its maps are; on a CUDA device on torch's current stream."""
    x = call.first_map(tensors)
    if not x.is_cuda:
        return call.run(tensors, _to_numpy, _from_numpy)
    stream = torch.cuda.current_stream(x.device).cuda_stream
    return run_on_cuda(call, tensors, _to_numpy, _to_cupy, _from_cupy, stream)


def _to_numpy(name: str, tensor: torch.Tensor) -> NDArray[Any]:
    if not tensor.is_cpu:
        expected = "cpu or cuda" if name.startswith("x") else "cpu as x is"
        raise ValueError(f"{name}: is on device {tensor.device}, expected {expected}; pass {name}.cpu()")
    plain = (tensor.detach() if tensor.requires_grad else tensor).resolve_neg()
    try:
        if tensor.dtype == torch.bfloat16:
            return plain.view(torch.int16).numpy().view(_bfloat16())
        return plain.numpy()
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"{name}: cannot be taken as a NumPy array: {error}") from error


def _from_numpy(array: NDArray[Any]) -> torch.Tensor:
    if array.dtype.kind == "V":  # bfloat16; the name takes a microsecond
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_cupy(name: str, tensor: torch.Tensor) -> Any:
    plain = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return to_cupy(name, plain.view(torch.int16)).view(_bfloat16())
    return to_cupy(name, plain)


def _from_cupy(array: Any) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.utils.dlpack.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
    return torch.utils.dlpack.from_dlpack(array)


def _bfloat16() -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16


class SpatialPyramidPool(torch.nn.Module):
    """Pool maps of any size into vectors of one length: `sppfast.pool` as a layer.

    Parameters
    ----------
    levels : int or sequence of int or (rows, columns)
        The grids of bins of the pyramid.
    mode : {"max", "avg"}
        Maximum or mean of the cells of a bin.
    bins : {"adaptive", "sliding", "caffe"}
        Which cells a bin has, see `sppfast.Pyramid`.

    Raises
    ------
    TypeError, ValueError
        If a parameter is none of the above.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    section 2.2.

    Examples
    --------
    >>> import torch, sppfast.torch
    >>> layer = sppfast.torch.SpatialPyramidPool((4, 2, 1))
    >>> layer(torch.zeros(2, 256, 13, 13)).shape, layer(torch.zeros(2, 256, 10, 7)).shape
    (torch.Size([2, 5376]), torch.Size([2, 5376]))
    >>> layer.pyramid.output_length(256)  # what a linear layer after it takes
    5376
    """

    def __init__(self, levels: Levels = (4, 2, 1), mode: str = "max", bins: str = "adaptive") -> None:
        super().__init__()
        self.pyramid = Pyramid(levels, bins)
        self.mode = one_of("mode", mode, MODES)

    def forward(self, x: torch.Tensor | list[torch.Tensor]) -> Any:
        """Pool maps (N, C, H, W), or a list of maps (C, Hi, Wi), into (N, F)."""
        return pool(x, self.pyramid.levels, mode=self.mode, bins=self.pyramid.bins)

    def extra_repr(self) -> str:
        """Options, as `repr` shows them."""
        return f"levels={self.pyramid.levels}, mode={self.mode!r}, bins={self.pyramid.bins!r}"


class RoIPyramidPool(torch.nn.Module):
    """Pool windows of images out of their maps: `sppfast.roi_pool` as a layer.

    Parameters
    ----------
    levels : int or sequence of int or (rows, columns)
        The grids of bins that each window is divided into.
    geometry : float or ConvGeometry
        Where the cells of the maps lie in the image; a number is a stride with offset 0.
    rounding : {"sppnet", "fast_rcnn", "cells"}
        From pixels to cells, see `sppfast.roi_pool`.
    mode : {"max", "avg"}
        Maximum or mean of the cells of a bin.

    Raises
    ------
    TypeError, ValueError
        If a parameter is none of the above.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    section 4. Girshick: Fast R-CNN, ICCV 2015, section 2.1.

    Examples
    --------
    >>> import torch, sppfast.torch
    >>> layer = sppfast.torch.RoIPyramidPool((6, 3, 2, 1), geometry=16)
    >>> rois = torch.tensor([[0, 0, 0, 223, 223], [1, 100, 50, 400, 600]])
    >>> layer(torch.zeros(2, 256, 38, 63), rois).shape
    torch.Size([2, 12800])
    """

    def __init__(
        self,
        levels: Levels = (6, 3, 2, 1),
        geometry: float | ConvGeometry = 16,
        rounding: str = "sppnet",
        mode: str = "max",
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(levels)
        self.geometry = as_geometry(geometry)
        self.rounding = one_of("rounding", rounding, ROUNDINGS)
        self.mode = one_of("mode", mode, MODES)

    def forward(self, x: torch.Tensor | list[torch.Tensor], rois: Any, batch_index: ArrayLike | None = None) -> Any:
        """Pool windows (R, 5), or (R, 4) with their maps (R,), or a list of (Ri, 4), into (R, F)."""
        return roi_pool(
            x,
            rois,
            self.pyramid.levels,
            geometry=self.geometry,
            rounding=self.rounding,
            batch_index=batch_index,
            mode=self.mode,
        )

    def extra_repr(self) -> str:
        """Options, as `repr` shows them."""
        options = f"geometry={self.geometry}, rounding={self.rounding!r}, mode={self.mode!r}"
        return f"levels={self.pyramid.levels}, {options}"


class RoIAlign(torch.nn.Module):
    """Sample windows of images out of their maps, by bilinear interpolation: `sppfast.roi_align` as a layer.

    Parameters
    ----------
    levels : int or sequence of int or (rows, columns)
        The grids of bins that each window is divided into.
    geometry : float or ConvGeometry
        Where the cells of the maps lie in the image; a number is a stride with offset 0.
    sampling_ratio : int
        Samples along each side of a bin; 0: as many as it has cells, rounded up.
    aligned : bool
        Whether pixel coordinates are shifted by half a cell, see `sppfast.roi_align`.
    mode : {"avg", "max"}
        Mean or maximum of the samples of a bin.

    Raises
    ------
    TypeError, ValueError
        If a parameter is none of the above.

    References
    ----------
    He, Gkioxari, Dollar, Girshick: Mask R-CNN, ICCV 2017, section 3; ``torchvision.ops.RoIAlign``.

    Examples
    --------
    >>> import torch, sppfast.torch
    >>> layer = sppfast.torch.RoIAlign(7, geometry=16)
    >>> rois = torch.tensor([[0, 0, 0, 223, 223], [1, 100, 50, 400, 600]])
    >>> layer(torch.zeros(2, 256, 38, 63), rois).shape
    torch.Size([2, 12544])
    """

    def __init__(
        self,
        levels: Levels = (7,),
        geometry: float | ConvGeometry = 16,
        sampling_ratio: int = 2,
        aligned: bool = True,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(levels)
        self.geometry = as_geometry(geometry)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = one_of("mode", mode, MODES)

    def forward(self, x: torch.Tensor | list[torch.Tensor], rois: Any, batch_index: ArrayLike | None = None) -> Any:
        """Sample windows (R, 5), or (R, 4) with their maps (R,), or a list of (Ri, 4), into (R, F)."""
        return roi_align(
            x,
            rois,
            self.pyramid.levels,
            geometry=self.geometry,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            batch_index=batch_index,
            mode=self.mode,
        )

    def extra_repr(self) -> str:
        """Options, as `repr` shows them."""
        options = f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, mode={self.mode!r}"
        return f"levels={self.pyramid.levels}, geometry={self.geometry}, {options}"
