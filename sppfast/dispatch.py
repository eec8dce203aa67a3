"""Arrays of other libraries: found by their type, pooled as NumPy arrays, and given back as what they were."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arrays import Maps, is_sequence, take_maps
from .pyramid import MAX_LEVELS, as_pyramid
from .windows import parse_rois

ARRAYS = ("grad", "x", "rois", "batch_index", "indices", "out")  # the arguments that may be arrays
# The type of a framework's arrays, and the module that applies operators to them.
FRAMEWORKS = {
    "torch": ("Tensor", "torch"),
    "jax": ("Array", "jax"),
    "cupy": ("ndarray", "cuda"),
    "dask.array": ("Array", "dask"),
}


class SupportsDLPack(Protocol):
    """An array of any library that exchanges arrays by DLPack: NumPy, torch, JAX and others."""

    def __dlpack__(self) -> Any:
        """Give the memory, in a capsule."""


Arrays: TypeAlias = SupportsDLPack | Sequence[SupportsDLPack]


@dataclass(frozen=True, slots=True)
class Place:
    """Where array number `i` was taken out of the arguments of a call, such as ``"rois[1]"``."""

    i: int
    name: str


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """A call of an operator whose arrays were taken out of its arguments.

    Attributes
    ----------
    function : callable
        The operator.
    arguments : dict
        By name; a `Place`, or a sequence of them, where arrays were.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]

    def filled(self, view: Callable[[Place], Any]) -> dict[str, Any]:
        """Arguments with arrays in their places."""
        given = self.arguments
        return given | {name: map_items(view, given[name], Place) for name in ARRAYS if given.get(name) is not None}

    def first_map(self, arrays: Sequence[Any]) -> Any:
        """Find the maps among the arrays, or the first of them."""
        x = self.arguments["x"]
        return arrays[(x[0] if isinstance(x, list) else x).i]

    def run(
        self,
        arrays: Sequence[Any],
        to_native: Callable[[str, Any], Any],
        from_native: Callable[[Any], Any],
        native: type = np.ndarray,
    ) -> Any:
        """Run the operator on views of the arrays, and give back its own arrays, those of `out` as they came.

        `native` is the type of array that the operator is run with, NumPy's or CuPy's.
        """
        given = {}

        def view(place: Place) -> Any:
            array = to_native(place.name, arrays[place.i])
            given[id(array)] = arrays[place.i]
            return array

        arguments = self.filled(view)
        result = self.function(**arguments)
        return map_items(lambda array: given[id(array)] if id(array) in given else from_native(array), result, native)

    def changed(self, **options: Any) -> Call:
        """Change options, as far as the operator has them."""
        return Call(self.function, self.arguments | {k: v for k, v in options.items() if k in self.arguments})

    def backward(self, count: int, indices: bool) -> Call:
        """Make the call of the backward operator: after the `count` arrays come the gradient, and indices if any."""
        from . import gradients  # which imports this module

        arguments = {k: v for k, v in self.arguments.items() if k not in ("flatten", "return_indices")}
        arguments["grad"] = Place(count, "grad")
        if indices:
            arguments["indices"] = Place(count + 1, "indices")
        return Call(getattr(gradients, f"{self.function.__name__}_backward"), arguments)

    def present(self, results: Sequence[Any], x: Any) -> Any:
        """Give flat results of maps `x` the form asked for."""
        a = self.arguments
        if a["flatten"]:
            return results[0] if len(results) == 1 else tuple(results)
        from .pooling import present  # which imports this module

        pyramid = as_pyramid(a["levels"], a.get("bins", "adaptive"))
        channels = x.shape[-3] if a["layout"] == "NCHW" else x.shape[-1]
        return present(results, pyramid, channels, a["layout"], a["flatten"])


def outline(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Maps, Any, list[NDArray[Any]]]:
    """Check a call of which only the shapes and dtypes of arrays are known, with ``flatten=True``.

    Returns
    -------
    maps : Maps
        Of `x`.
    windows : tuple of ndarray, or None
        If it has windows: those, and the map of each.
    rows : list of ndarray
        The results, without rows.
    """
    x = arguments["x"]
    _, maps = take_maps(x, arguments["layout"])
    windows = None
    if "rois" in arguments:
        windows = parse_rois(arguments["rois"], arguments["batch_index"], maps.count)
        arguments = arguments | {"rois": np.empty((0, 4)), "batch_index": None}
    first = x[0] if maps.ragged else x
    none = function(**arguments | {"x": first[None][:0] if first.ndim == 3 else first[:0]})
    return maps, windows, list(none) if isinstance(none, tuple) else [none]


def is_foreign(x: Any) -> bool:
    """Whether `x`, maps or a sequence of them, is of another array library than NumPy."""
    if isinstance(x, np.ndarray):
        return False
    first = _first(x)
    if isinstance(first, np.ndarray):
        return False
    return hasattr(first, "__dlpack__") or _framework(first) is not None


def call_foreign(function: Callable[..., Any], /, **arguments: Any) -> Any:
    """Call an operator with arrays of another library, of the type of `x`; give back such arrays."""
    if isinstance(arguments["levels"], Iterator):
        arguments["levels"] = tuple(islice(arguments["levels"], MAX_LEVELS + 1))  # it is read more than once
    x = arguments["x"]
    kind, apply = _adapter(_first(x))
    if is_sequence(x):
        arguments["x"] = list(x)
        for i, item in enumerate(x):
            if not isinstance(item, kind):
                raise TypeError(f"x[{i}]: expected {kind.__name__} as x[0] is, got {type(item).__name__}")
    arrays: list[Any] = []
    for name in ARRAYS:
        if arguments.get(name) is not None:
            arguments[name] = _take_out(name, arguments[name], kind, arrays)
    return apply(Call(function, arguments), arrays)


def _first(x: Any) -> Any:
    """One map of a sequence, or what is not a sequence."""
    return x[0] if is_sequence(x) and len(x) else x


def _framework(array: Any) -> tuple[str, type] | None:
    """Find the module that applies operators to an array of a framework, and the type of its arrays."""
    for framework, (type_name, module) in FRAMEWORKS.items():
        known = getattr(sys.modules.get(framework), type_name, None)
        if known is not None and isinstance(array, known):
            return module, known
    return None


def _adapter(array: Any) -> tuple[type, Callable[[Call, list[Any]], Any]]:
    """Find what applies operators to arrays of this type, which are instances of the type returned."""
    name, kind = _framework(array) or ("dlpack", type(array))
    return kind, importlib.import_module(f".{name}", __package__).apply


def _take_out(name: str, value: Any, kind: type, arrays: list[Any]) -> Any:
    """Move the arrays of a type from an argument to a list, and leave their places."""
    if isinstance(value, kind):
        arrays.append(value)
        return Place(len(arrays) - 1, name)
    if isinstance(value, list | tuple) and any(isinstance(item, kind) for item in value):
        return type(value)(_take_out(f"{name}[{k}]", item, kind, arrays) for k, item in enumerate(value))
    return value


def map_items(function: Callable[[Any], Any], value: Any, kind: type) -> Any:
    """Apply a function to what is of a type, in lists and tuples too."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(map_items(function, item, kind) for item in value)
    return value
