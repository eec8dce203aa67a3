"""Arrays of JAX in and out; on the CPU also inside ``jit``, ``grad`` and ``vmap``.

In a compiled computation an operator is a callback, though not one of `jax.pure_callback`: that copies large arguments
by the threads that run its callbacks, and waits for itself forever where all of them are in callbacks; on one core
that is the first. The primitive below takes the memory of XLA as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from numpy.typing import NDArray

from .dispatch import Call, outline
from .dlpack import run_on_cuda, to_cupy

_operator = Primitive("sppfast")
_operator.multiple_results = True


def apply(call: Call, arrays: list[jax.Array]) -> Any:
    """Call an operator with arrays, or with what JAX puts in their place while it traces."""
    if call.arguments["out"] is not None:
        raise ValueError("out: arrays of JAX cannot be written to, expected None")
    if "flatten" not in call.arguments:
        gradients = _bind(call, *arrays)
        return gradients if isinstance(call.arguments["x"], list) else gradients[0]
    flat = call.changed(flatten=True)
    if _traced(arrays):
        forward = jax.custom_vjp(partial(_bind, flat))
        forward.defvjp(partial(_bind_with_indices, flat), partial(_pull_back, flat))
        return call.present(forward(*arrays), arrays[0])
    return call.present(_run(*arrays, call=flat), arrays[0])


def _traced(arrays: Iterable[Any]) -> bool:
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def _bind(call: Call, *arrays: jax.Array) -> list[jax.Array]:
    """Run the operator now, or as part of what JAX traces."""
    results: list[jax.Array] = _operator.bind(*arrays, call=call)
    return results


def _bind_with_indices(call: Call, *arrays: jax.Array) -> tuple[list[jax.Array], Any]:
    """Keep what the gradient is made with."""
    indexed = call.changed(return_indices=call.arguments["mode"] == "max")
    values, *indices = _bind(indexed, *arrays)
    results = [values, *indices] if call.arguments.get("return_indices") else [values]
    return results, (arrays, indices)


def _pull_back(call: Call, kept: Any, grads: list[jax.Array]) -> tuple[jax.Array | None, ...]:
    arrays, indices = kept
    backward = call.backward(len(arrays), bool(indices))
    gradients = _bind(backward, *arrays, grads[0], *indices)
    return *gradients, *(None,) * (len(arrays) - len(gradients))


def _run(*arrays: jax.Array, call: Call) -> list[jax.Array]:
    """Run the operator now."""
    if _platforms(call.first_map(arrays)) == {"gpu"}:
        results = run_on_cuda(call, arrays, _to_numpy, to_cupy, jax.dlpack.from_dlpack)
    else:
        results = call.run(arrays, _to_numpy, _from_numpy)
    return list(results) if isinstance(results, list | tuple) else [results]


def _abstract(*arrays: Any, call: Call) -> list[jax.core.ShapedArray]:
    """Tell the shapes and dtypes of the results, from those of the arrays."""
    zeros = [np.broadcast_to(np.zeros((), array.dtype), array.shape) for array in arrays]
    arguments = call.filled(lambda place: zeros[place.i])
    x = arguments["x"]
    if "grad" in arguments:
        return [jax.core.ShapedArray(item.shape, item.dtype) for item in (x if isinstance(x, list) else [x])]
    maps, windows, results = outline(call.function, arguments)
    rows = () if maps.single else (maps.count,)
    if windows is not None:
        rows = windows[1].shape
    return [
        jax.core.ShapedArray(rows + result.shape[1:], jax.dtypes.canonicalize_dtype(result.dtype)) for result in results
    ]


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, call: Call) -> Any:
    """Compile to a callback that is given the arrays of XLA as NumPy arrays."""

    def run(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
        results = call.run(arrays, lambda name, array: array, np.asarray)
        results = results if isinstance(results, list | tuple) else [results]
        return [np.asarray(result, aval.dtype) for result, aval in zip(results, ctx.avals_out, strict=True)]

    avals: Any = ctx.avals_in, ctx.avals_out
    results, *_ = mlir.emit_python_callback(ctx, run, None, operands, *avals, has_side_effect=False)
    return results


def _lower_on_cuda(ctx: mlir.LoweringRuleContext, *operands: Any, call: Call) -> Any:
    raise NotImplementedError(
        "sppfast: inside jit operators run on the CPU only; on a CUDA device call them outside jit"
    )


def _batch(arrays: Any, axes: Any, *, call: Call) -> Any:
    """Call the operator once for each item."""
    mapped = [axis is not None for axis in axes]

    def one(items: list[jax.Array]) -> list[jax.Array]:
        rest = iter(items)
        return _bind(call, *(next(rest) if m else array for array, m in zip(arrays, mapped, strict=True)))

    items = [jnp.moveaxis(array, axis, 0) for array, axis, m in zip(arrays, axes, mapped, strict=True) if m]
    with jax.disable_jit(not _traced(arrays)):  # what is compiled for one call is of no use to the next
        results: list[jax.Array] = jax.lax.map(one, items)
    return results, [0] * len(results)


def _refuse(*args: Any, **params: Any) -> None:
    raise NotImplementedError("sppfast: gradients of gradients are not supported")


_operator.def_impl(_run)
_operator.def_abstract_eval(_abstract)
mlir.register_lowering(_operator, _lower, platform="cpu")
mlir.register_lowering(_operator, _lower_on_cuda, platform="cuda")
batching.primitive_batchers[_operator] = _batch
ad.primitive_jvps[_operator] = _refuse


def _platforms(array: jax.Array) -> set[str]:
    return {device.platform for device in array.devices()}


def _to_numpy(name: str, array: jax.Array) -> NDArray[Any]:
    platforms = _platforms(array)
    if platforms != {"cpu"}:
        expected = "cpu or gpu" if name.startswith("x") else "cpu as x is"
        raise ValueError(f"{name}: is on {', '.join(sorted(platforms))}, expected {expected}")
    return np.asarray(array)


def _from_numpy(array: NDArray[Any]) -> jax.Array:
    if array.dtype.kind == "V":  # bfloat16, which NumPy does not export
        return jnp.asarray(array)
    taken: jax.Array = jax.dlpack.from_dlpack(array)
    return taken
