"""Arrays of any library that exchanges them by DLPack, on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dispatch import Call

# Of dlpack.h: devices whose memory the CPU reads as its own, and the names of some others.
CPU_DEVICES = (1, 3, 11, 13)
DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI"}


def apply(call: Call, arrays: list[Any]) -> Any:
    """Call an operator with arrays of one library."""
    return call.run(arrays, _to_numpy, _importer(arrays[0]))


def _to_numpy(name: str, array: Any) -> NDArray[Any]:
    device, number = map(int, array.__dlpack_device__())
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
