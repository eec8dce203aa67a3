"""Arrays of any library that exchanges them by DLPack, on the CPU or on a CUDA device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dispatch import Call

# Of dlpack.h: devices whose memory the CPU reads as its own, and the names of some others.
CPU_DEVICES = (1, 3, 11, 13)
CUDA_DEVICE = 2
DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI"}
WINDOWS = ("rois", "batch_index")  # may be in the memory of the host where the maps are not


def apply(call: Call, arrays: list[Any]) -> Any:
    """Call an operator with arrays of one library."""
    x = call.first_map(arrays)
    if _device(x)[0] == CUDA_DEVICE:
        return run_on_cuda(call, arrays, _to_numpy, to_cupy, _importer(x))
    return call.run(arrays, _to_numpy, _importer(x))


@dataclass(frozen=True)
class _Stream:
    """A stream of another library, as CuPy takes it: by the CUDA stream protocol."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def run_on_cuda(
    call: Call,
    arrays: Sequence[Any],
    to_numpy: Callable[[str, Any], Any],
    to_cupy: Callable[[str, Any], Any],
    from_cupy: Callable[[Any], Any],
    stream: int | None = None,
) -> Any:
    """Call an operator with arrays of one library, on the CUDA device of its maps.

    It runs on a stream of the library, if one is given. If not, it runs on CuPy's, and waits for the end: the library
    does not know of that stream, and could use the memory of its arrays for something else meanwhile.
    """
    cupy = _load_cupy()
    device = _device(call.first_map(arrays))

    def view(name: str, array: Any) -> Any:
        own = _device(array)
        if own == device:
            return to_cupy(name, array)
        if own[0] in CPU_DEVICES and name.startswith(WINDOWS):
            return to_numpy(name, array)
        raise ValueError(f"{name}: is on {_shown(own)}, expected {_shown(device)} as x is")

    with (
        cupy.cuda.Device(device[1]),
        nullcontext() if stream is None else cupy.cuda.Stream.from_external(_Stream(stream)),
    ):
        results = call.run(arrays, view, from_cupy, cupy.ndarray)
        if stream is None:
            cupy.cuda.get_current_stream().synchronize()
    return results


def to_cupy(name: str, array: Any) -> Any:
    """Take an array on a CUDA device as one of CuPy."""
    import cupy

    try:
        return cupy.from_dlpack(array)
    except (BufferError, NotImplementedError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name}: CuPy cannot take {type(array).__name__} by DLPack: {error}") from error


def _load_cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        what = 'pip install "sppfast[cuda13]", or "sppfast[cuda12]" for a driver of CUDA 12'
        raise ImportError(f"x: an array on a CUDA device needs CuPy: {what} ({error})") from error
    try:
        cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        raise RuntimeError(f"x: is on a CUDA device, but CuPy finds no driver or device: {error}") from error
    return cupy


def _device(array: Any) -> tuple[int, int]:
    """Tell the type of device that an array is on, and its number."""
    device, number = map(int, array.__dlpack_device__())
    return device, number


def _shown(device: tuple[int, int]) -> str:
    kind, number = device
    if kind in CPU_DEVICES:
        return "the CPU"
    return f"{DEVICES.get(kind, f'DLPack device type {kind}')} device {number}"


def _to_numpy(name: str, array: Any) -> NDArray[Any]:
    device = _device(array)
    if device[0] not in CPU_DEVICES:
        expected = "the CPU, or a CUDA device" if name.startswith("x") else "the CPU as x is"
        raise ValueError(f"{name}: is on {_shown(device)}, expected {expected}; copy it to the CPU first")
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
