"""What the benchmarks run on: where arrays lie, and how fast their memory is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .timing import Call

SMALL = 2**20  # bytes: reading less takes less than starting threads


class Cpu:
    """NumPy arrays, and threads that read and fill memory."""

    name = "cpu"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def put(self, array: NDArray[Any]) -> Any:
        """Give the array to the device."""
        return array

    def host(self, result: Any) -> NDArray[Any]:
        """Get a result as a NumPy array, the parts of a list one behind the other."""
        return np.concatenate(result) if isinstance(result, list) else np.asarray(result)

    def wait(self) -> None:
        """Return when all that was called is done: at once."""

    def read(self, x: NDArray[Any]) -> Call:
        """Build a call that reads an array once."""
        parts = np.array_split(x.reshape(-1), self.threads if x.nbytes >= SMALL else 1)
        return lambda: self._each(np.max, parts)

    def fill(self, out: NDArray[Any]) -> Call:
        """Build a call that writes an array once."""
        parts = np.array_split(out.reshape(-1), self.threads if out.nbytes >= SMALL else 1)
        return lambda: self._each(lambda part: part.fill(1), parts)

    def _each(self, function: Any, parts: list[NDArray[Any]]) -> None:
        if len(parts) == 1:
            function(parts[0])
        else:
            list(self._pool.map(function, parts))


class Gpu:
    """CuPy arrays, and copies on the card."""

    name = "cuda"
    threads = 1  # that call it

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy

    def put(self, array: NDArray[Any]) -> Any:
        """Give the array to the device."""
        return self._cupy.asarray(array)

    def host(self, result: Any) -> NDArray[Any]:
        """Get a result, of CuPy or of torch, as a NumPy array, the parts of a list one behind the other."""
        if isinstance(result, list):
            return np.concatenate([self.host(part) for part in result])
        array: NDArray[Any] = self._cupy.asnumpy(self._cupy.from_dlpack(result))
        return array

    def wait(self) -> None:
        """Return when all that was called is done."""
        self._cupy.cuda.Device().synchronize()

    def read(self, x: Any) -> Call:
        """Build a call with as much memory traffic as reading an array once: half of it is copied."""
        source = self._cupy.zeros(x.nbytes // 2, np.uint8)
        target = self._cupy.zeros_like(source)
        return lambda: self._cupy.copyto(target, source)

    fill = read


Device = Cpu | Gpu
