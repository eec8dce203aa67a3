"""How everything here is compiled: once for each machine, cached on disk where a disk can be written."""

from __future__ import annotations

import gc
import inspect
import operator
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CellType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import numba
from numba.core import types
from numba.core.bytecode import FunctionIdentity
from numba.core.compiler import Compiler, Flags, StateDict
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.types.misc import unliteral
from numba.core.untyped_passes import ExtractByteCode, ReconstructSSA, TranslateByteCode
from numba.extending import intrinsic

# No rewrites: Numba looks in each function for array expressions, of which there are none here.
OPTIONS = {"error_model": "numpy", "no_rewrites": True}
# Nor closures, context managers, functions that are inlined before their types are known, or loops over literals: these
# passes go through each function for nothing.
UNUSED_PASSES = {
    "WithLifting",
    "InlineClosureLikes",
    "RewriteDynamicRaises",
    "MakeFunctionToJitFunction",
    "InlineInlinables",
    "FindLiterallyCalls",
    "LiteralUnroll",
    "LiteralPropagationSubPipelinePass",
    "InlineOverloads",
    "DumpParforDiagnostics",
}
LIFETIME_PASSES = {"IRProcessing", "IRLegalization"}  # of variables: to release what they refer to

OPERATORS = set(map(vars(operator).get, operator.__all__))

_compiled: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()  # functions, by the library that they are in


class ShortCompiler(Compiler):
    """Numba's compiler, less what it does for nothing here."""

    unused = UNUSED_PASSES

    def define_pipelines(self) -> list[Any]:
        """List the passes that a function is compiled by."""
        pipelines: list[Any] = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.passes = [entry for entry in pipeline.passes if entry[0].__name__ not in self.unused]
            pipeline.finalize()
        return pipelines


class RoutineCompiler(ShortCompiler):
    """That of routines, whose variables are numbers, vectors and tuples of them: there is nothing to release.

    Of an array that a routine took or made a reference would be left over with each call.
    """

    unused = UNUSED_PASSES | LIFETIME_PASSES | {"ReconstructSSA"}

    def compile_extra(self, function: Any) -> Any:
        """Compile a function from what was read of it, for the first of the kernels that it is a part of."""
        return self.compile_ir(_read(function).copy())


@cache
def _read(function: Any) -> Any:
    """Read a function as Numba does before it knows types: statements that assign to each variable once."""
    state = StateDict(func_id=FunctionIdentity.from_function(function))
    for step in (ExtractByteCode(), TranslateByteCode(), ReconstructSSA()):
        step.run_pass(state)
    return state.func_ir


def routine(
    returns: Any = types.void, only: Callable[[Any], bool] = lambda t: True, unroll: bool = True
) -> Callable[[Any], Any]:
    """Make a function of numbers, or vectors, that compiled code may call, compiled as part of what calls it.

    `numba.njit` would give each its own wrappers and machine code besides, which nobody calls, in twice the time.
    Kernels whose token, the last argument, `only` refuses go without: there it does nothing, and returns 0.
    Not to `unroll` is for loops that seldom go round more than a few times.
    """

    def decorate(function: Any) -> Any:
        def resolve(*arguments: Any) -> Any:
            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                if not only(arguments[-1]):
                    return context.get_constant_null(returns)
                return context.call_internal(builder, _compile_into(context, function, sig, unroll), sig, args)

            return returns(*map(unliteral, arguments)), codegen

        names = ", ".join(inspect.signature(function).parameters)  # Numba wants them named
        typing = eval(f"lambda typingctx, {names}: resolve({names})", {"resolve": resolve})
        typing.__name__ = function.__name__
        return intrinsic(typing)

    return decorate


def _compile_into(context: Any, function: Any, sig: Any, unroll: bool) -> Any:
    """Compile a function into the library that is being compiled, where it is not in it yet: find its descriptor.

    Numba's own way is a library for each, that is optimized and made machine code by itself, and all of it again
    wherever it is linked.
    """
    library = context.active_code_library
    known = _compiled.setdefault(library, {})
    if (function, sig) not in known:
        flags = Flags()
        for name, value in OPTIONS.items():
            setattr(flags, name, value)
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        typing_context = _remembering(context.typing_context)
        target = context.subtarget(typing_context=typing_context)
        compiler = RoutineCompiler(typing_context, target, library, sig.args, sig.return_type, flags, {})
        found = compiler.compile_extra(function)
        known[function, sig] = found.fndesc
        made = library.get_function(found.fndesc.mangled_name)
        made.linkage = "linkonce_odr"  # not kept where it is inlined
        if not unroll:
            made.add_function_attribute("optsize")
    return known[function, sig]


class Remembering:
    """Numba's typing context, which finds the types of an operation anew wherever it is used: here, once."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._known: dict[Any, Any] = {}
        self._operators: dict[Any, Operator] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
        """Find the signature of a call."""
        call = function, arguments, tuple(keywords.items())
        if call not in self._known:
            self._known[call] = self._context.resolve_function_type(function, arguments, keywords)
        return self._known[call]

    def resolve_value_type(self, value: Any) -> Any:
        """Find the type of a value that is no variable."""
        if value not in OPERATORS:
            return self._context.resolve_value_type(value)
        if value not in self._operators:
            self._operators[value] = Operator(self._context.resolve_value_type(value))
        return self._operators[value]


class Operator(types.Function):
    """Numba's type of an operator: it is asked again when the operation becomes machine code."""

    def __init__(self, function: Any) -> None:
        vars(self).update(vars(function))
        self._known: dict[Any, Any] = {}

    def get_call_type(self, context: Any, arguments: Any, keywords: Any) -> Any:
        """Find the signature of an operation."""
        if arguments not in self._known:
            self._known[arguments] = super().get_call_type(context, arguments, keywords)
        return self._known[arguments]


@cache
def _remembering(context: Any) -> Remembering:
    """Find the context that remembers for another: itself, for what is called by a routine."""
    return context if isinstance(context, Remembering) else Remembering(context)


@cache
def digest() -> int:
    """Tell one state of this folder's sources from another."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in sources))


def compiled(signature: str) -> Callable[[Any], Any]:
    """Compile a function that Python calls, now, for one signature, without the GIL."""
    return lambda function: _cached(numba.njit, signature, _dated(function), nogil=True, no_cfunc_wrapper=True)


def of_numbers(signature: str) -> Callable[[Any], Any]:
    """Compile a function of numbers as `compiled` does, called without a look at their types: in half the time."""

    def decorate(function: Any) -> Any:
        (found,) = compiled(signature)(function).overloads.values()
        return found.entry_point

    return decorate


def _dated(function: Any) -> Any:
    """Let a function close over the digest: Numba's cache looks at that, and otherwise only at the function's file."""
    code = function.__code__.replace(co_freevars=("digest",))
    return FunctionType(code, function.__globals__, function.__name__, closure=(CellType(digest()),))


def compiled_later(signature: str) -> Callable[[Any], Any]:
    """Compile a function of a module as `of_numbers` does when it is first called, and put it into its place there."""

    def decorate(function: Any) -> Callable[..., Any]:
        found = cache(lambda: of_numbers(signature)(function))

        def first(*arguments: Any) -> Any:
            function.__globals__[function.__name__] = found()
            return found()(*arguments)

        return first

    return decorate


def c_function(signature: str, function: Any) -> Any:
    """Compile a function that is called by its address."""
    return _cached(numba.cfunc, signature, function)


def _cached(decorator: Any, signature: str, function: Any, **options: Any) -> Any:
    options |= OPTIONS | {"pipeline_class": ShortCompiler}
    _name_files(function)
    with global_compiler_lock, _no_garbage_collection():
        try:
            return decorator(signature, cache=True, **options)(function)
        except RuntimeError as error:  # Numba's word for a read-only home and package
            if "cannot cache" not in str(error):
                raise
            return decorator(signature, **options)(function)


def _name_files(function: Any) -> None:
    """Give a function's files in Numba's cache a name of their own, of what it closes over and of the processor.

    Numba numbers the files of all that have the same name: two processes that compile at once may take one number for
    two kernels, and whoever loads the one from there gets the other. The digest is no part of it, so that files of
    sources that changed are written over.
    """
    cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    own = [str(cell.cell_contents) for name, cell in cells if name != "digest"]
    target = zlib.crc32(repr(cpu_target.target_context.codegen().magic_tuple()).encode())
    function.__qualname__ = ".".join([function.__qualname__, *own, f"{target:x}"])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Do without it while a kernel is compiled, of which it takes a sixth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles would wait for that thread's lock for ever: so the fork waits.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
