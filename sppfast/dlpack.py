"""Arrays of any library that exchanges them by DLPack, on the CPU or on a CUDA device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dispatch import Call
from .extras import require

# Of dlpack.h: devices whose memory the CPU reads as its own, and the names of some others.
CPU_DEVICES = (1, 3, 11, 13)
CUDA_DEVICE = 2
DEVICES = {4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI"}


def apply(call: Call, arrays: list[Any]) -> Any:
    """Call an operator with arrays of one library."""
    if _device(arrays[0])[0] == CUDA_DEVICE:
        return run_on_cuda(call, arrays, _importer(arrays[0]))
    return call.run(arrays, _to_numpy, _importer(arrays[0]))


def run_on_cuda(call: Call, arrays: Sequence[Any], from_cupy: Callable[[Any], Any], stream: int | None = None) -> Any:
    """Call an operator with arrays on a CUDA device, on a stream of another library if one is given."""
    require("an array on a CUDA device", "cuda13", "cupy")
    import cupy

    number = _device(arrays[0])[1]
    current = nullcontext() if stream is None else cupy.cuda.ExternalStream(stream)
    with cupy.cuda.Device(number), current:
        return call.run(arrays, _to_cupy, from_cupy, cupy.ndarray)


def _device(array: Any) -> tuple[int, int]:
    """Tell the type of device that an array is on, and its number."""
    device, number = map(int, array.__dlpack_device__())
    return device, number


def _to_cupy(name: str, array: Any) -> Any:
    """Take an array as CuPy's; one in the memory of the host, which windows may be in, as NumPy's."""
    import cupy

    if _device(array)[0] in CPU_DEVICES:
        return _to_numpy(name, array)
    try:
        return cupy.from_dlpack(array)
    except (BufferError, NotImplementedError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name}: CuPy cannot take {type(array).__name__} by DLPack: {error}") from error


def _to_numpy(name: str, array: Any) -> NDArray[Any]:
    device, number = _device(array)
    if device == CUDA_DEVICE:
        raise ValueError(f"{name}: is on CUDA device {number}, and x on the CPU; copy it to the CPU first")
    if device not in CPU_DEVICES:
        where = f"{DEVICES.get(device, f'DLPack device type {device}')}, number {number}"
        raise ValueError(f"{name}: is on a device that is not supported ({where}); copy it to the CPU first")
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name}: NumPy cannot take {type(array).__name__} by DLPack: {error}") from error


def _importer(array: Any) -> Callable[[NDArray[Any]], Any]:
    """Find the function that makes an array of the same library."""
    if hasattr(array, "__array_namespace__"):
        namespace = array.__array_namespace__()
    else:
        namespace = sys.modules[type(array).__module__.partition(".")[0]]
    importer: Callable[[NDArray[Any]], Any] | None = getattr(namespace, "from_dlpack", None)
    if importer is None:
        raise TypeError(f"x: {namespace.__name__} has no from_dlpack for the result; pass np.from_dlpack(x)")
    return importer
