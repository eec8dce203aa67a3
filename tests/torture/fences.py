"""Arrays at the edge of memory: every array that NumPy allocates ends, or begins, at a page nobody may touch.

A kernel that reads or writes one byte outside its arrays then ends the process with a segmentation fault. That is the
bounds-checked mode of kernels that compute addresses: Numba's ``boundscheck`` checks the indices of arrays, and they
have none. It works by NumPy's own hook for allocators (NEP 49), so that the tables, results and scratch memory inside
a call are fenced as well as its arguments. The hook holds for the thread that sets it, hence ``workers=1``.
"""

import contextlib
import ctypes
import mmap
from functools import cache

import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

PAGE = mmap.PAGESIZE
NOBODY, ANYBODY = 0, mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SIDES = ("end", "begin")
SET_HANDLER = 304  # of NumPy's table of C functions

HEADER = 2 * PAGE  # before an array's first page: a page with the size of it all, and one nobody may touch

_libc = ctypes.CDLL(None)
_mmap, _munmap, _mprotect, _memcpy = _libc.mmap, _libc.munmap, _libc.mprotect, _libc.memcpy
_mmap.restype, _mmap.argtypes = ctypes.c_int64, [ctypes.c_int64, ctypes.c_int64, *3 * [ctypes.c_int], ctypes.c_int64]
_munmap.restype, _munmap.argtypes = ctypes.c_int, 2 * [ctypes.c_int64]
_mprotect.restype, _mprotect.argtypes = ctypes.c_int, [ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
_memcpy.restype, _memcpy.argtypes = ctypes.c_int64, 3 * [ctypes.c_int64]


class _Handler(ctypes.Structure):
    """``PyDataMem_Handler`` of NumPy."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


@cache  # kept for ever: arrays may outlive every block
def _fences(side):
    """An allocator, compiled: in Python it would lose the exception during which an array is freed."""
    at_end = side == "end"

    def allocate(size):
        inside = (max(size, 1) + PAGE - 1) // PAGE * PAGE
        base = _mmap(0, HEADER + inside + PAGE, NOBODY, PRIVATE, -1, 0)
        if base == -1:
            return 0
        _mprotect(base, PAGE, ANYBODY)
        _mprotect(base + HEADER, inside, ANYBODY)
        header = carray(_pointer(base), 2)
        header[0], header[1] = HEADER + inside + PAGE, size
        return base + HEADER + (inside - size if at_end else 0)

    def release(address):
        base = address // PAGE * PAGE - HEADER
        _munmap(base, carray(_pointer(base), 2)[0])

    allocate, release = njit("int64(int64)")(allocate), njit("void(int64)")(release)

    @cfunc("int64(int64, int64)")
    def malloc(context, size):
        return allocate(size)

    @cfunc("int64(int64, int64, int64)")
    def calloc(context, count, size):
        return allocate(count * size)  # fresh pages are zeros

    @cfunc("int64(int64, int64, int64)")
    def realloc(context, address, size):
        new = allocate(size)
        if new and address:
            _memcpy(new, address, min(size, carray(_pointer(address // PAGE * PAGE - HEADER), 2)[1]))
            release(address)
        return new

    @cfunc("void(int64, int64, int64)")
    def free(context, address, size):
        if address:
            release(address)

    functions = malloc, calloc, realloc, free
    handler = _Handler(b"fences", 1, None, *(function.address for function in functions))
    return handler, functions, _capsule(ctypes.addressof(handler))


@intrinsic
def _pointer(typingctx, address):
    """An address as a pointer to int64."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(types.int64)(types.int64), codegen


def _capsule(address):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(address, b"mem_handler", None)


def _set_handler(capsule):
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.POINTER(ctypes.c_void_p), [ctypes.py_object, ctypes.c_char_p]
    table = get(np._core._multiarray_umath._ARRAY_API, None)
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[SET_HANDLER])(capsule)


@contextlib.contextmanager
def fenced(side):
    """Fence the arrays that this thread allocates in the block, at their ``"end"`` or where they ``"begin"``."""
    before = _set_handler(_fences(side)[-1])
    try:
        yield
    finally:
        _set_handler(before)
