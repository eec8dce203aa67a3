"""How everything here is compiled: once for each machine, cached on disk where a disk can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

OPTIONS = {"error_model": "numpy"}


def compiled(signature: str) -> Callable[[Any], Any]:
    """Compile a function now, for one signature, without the GIL."""
    return lambda function: _cached(numba.njit, signature, function, nogil=True)


def c_function(signature: str, function: Any) -> Any:
    """Compile a function that is called by its address."""
    return _cached(numba.cfunc, signature, function)


def _cached(decorator: Any, signature: str, function: Any, **options: Any) -> Any:
    try:
        return decorator(signature, cache=True, **OPTIONS, **options)(function)
    except RuntimeError as error:  # Numba's word for a read-only home and package
        if "cannot cache" not in str(error):
            raise
        return decorator(signature, **OPTIONS, **options)(function)
