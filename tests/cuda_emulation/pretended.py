"""The GPU tests on the real CuPy, where there is no GPU: under it is a CUDA driver that is pretended.

    python tests/cuda_emulation/pretended.py [ARGUMENTS OF PYTEST]

CuPy compiles kernels.cu by NVRTC and looks up its kernels by their mangled names, as on a GPU. Its memory is the
host's, and a kernel that it launches, with the arguments as CuPy packed them, is that of the emulation, compiled by
g++ from the same source. Of CuPy's own kernels copies are there, which NumPy does.
"""

import ctypes
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MAJOR, MINOR = 75, 76  # attributes of a device
TYPES = {  # of kernels, by how names have them
    **{"a": "signed char", "h": "unsigned char", "s": "short", "t": "unsigned short", "i": "int", "j": "unsigned"},
    **{"x": "i64", "y": "unsigned long long", "4Half": "Half", "6BFloat": "BFloat", "f": "float", "d": "double"},
}
C_TYPES = {
    "PyObject *": ctypes.py_object,
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "intptr_t": ctypes.c_ssize_t,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
}


class Driver:
    """What CuPy calls of the CUDA runtime and driver, by the names that CuPy has for it."""

    def __init__(self):
        self.memory, self.modules, self.functions, self.launched, self.sources = {}, [], [], [], []
        self.emulated = None

    def runtime(self):
        """The runtime."""
        nothing = {
            name: lambda *args: None
            for name in (
                *("_ensure_context", "setDevice", "streamSynchronize", "deviceSynchronize", "streamWaitEvent"),
                *("eventRecord", "eventDestroy", "eventSynchronize", "eventQuery"),
            )
        }
        return nothing | {
            "getDevice": lambda: 0,
            "getDeviceCount": lambda: 1,
            "deviceGetAttribute": lambda which, device: {MAJOR: 9, MINOR: 0}.get(which, 0),
            "driverGetVersion": lambda: 13000,
            "memGetInfo": lambda: (2**34, 2**34),
            "pointerGetMemoryType": lambda at: 0,
            "streamIsCapturing": lambda stream: 0,
            "eventCreateWithFlags": lambda flags: 1,
            "malloc": self.malloc,
            "hostAlloc": lambda size, flags: self.malloc(size),
            "free": lambda at: self.memory.pop(at, None),
            "freeHost": lambda at: self.memory.pop(at, None),
            "memcpy": lambda to, at, size, kind: ctypes.memmove(to, at, size),
            "memcpyAsync": lambda to, at, size, kind, stream: ctypes.memmove(to, at, size),
            "memset": lambda at, value, size: ctypes.memset(at, value, size),
            "memsetAsync": lambda at, value, size, stream: ctypes.memset(at, value, size),
        }

    def driver(self):
        """The driver."""
        return {
            "ctxGetCurrent": lambda: 1,
            "moduleLoadData": self.load,
            "moduleUnload": lambda module: None,
            "moduleGetFunction": self.find,
            "launchKernel": self.launch,
        }

    def malloc(self, size):
        memory = ctypes.create_string_buffer(b"\xa5" * (size + 512))
        at = -(-ctypes.addressof(memory) // 512) * 512
        self.memory[at] = memory
        return at

    def load(self, binary):
        self.modules.append(self.sources[-1] if self.sources else "")
        return len(self.modules)

    def find(self, module, name):
        self.functions.append((name, self.modules[module - 1]))
        return len(self.functions)

    def launch(self, function, *arguments):
        name, source = self.functions[function - 1]
        grid, block, (shared, _, parameters, _) = arguments[:3], arguments[3:6], arguments[6:]
        assert grid[1:] == block[1:] == (1, 1)
        pointers = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))
        if name.startswith("cupy_copy__"):
            copy(name, source, pointers)
        elif name == "cupy_sum":
            total(source, pointers)
        elif name.startswith("cupy_"):
            print("not pretended:", name, re.findall(r"extern .*?\{", source, re.DOTALL), flush=True)
        else:
            self.launched.append(name)
            self.emulated(name, pointers[0], grid[0], block[0], shared)


def copy(name, source, pointers):
    """Copy an array as CuPy's kernel does, given its source."""
    kinds = [np.dtype(kind) for kind in name.removeprefix("cupy_copy__").split("_")]
    (signature,) = re.findall(rf"{name}\((.*?)\) \{{", source, re.DOTALL)
    parameters = re.findall(r"(\S.*?) _raw_", signature)
    arrays = [view(kind, text, pointer) for kind, text, pointer in zip(kinds, parameters, pointers, strict=False)]
    arrays[1][...] = arrays[0]


def total(source, pointers):
    """Sum an array along its first axis as CuPy's kernel does, which sees it flat."""
    kind = np.dtype(re.search(r"cupy_sum\(const CArray<(\w+), 1, ", source).group(1).replace("float", "float32"))
    array, result = (view(kind, "CArray<, 1, 1, 1>", pointer) for pointer in pointers[:2])
    array.reshape(-1, len(result)).sum(axis=0, out=result)


def view(dtype, text, pointer):
    """View a CArray, or a number, that is an argument of a kernel."""
    if "CArray" not in text:
        return np.frombuffer(ctypes.string_at(pointer, dtype.itemsize), dtype)[0]
    dimensions = int(re.search(r", (\d+), [01], [01]>", text).group(1))
    at, _, *fields = (ctypes.c_ssize_t * (2 + 2 * dimensions)).from_address(pointer)
    shape, strides = fields[:dimensions], fields[dimensions:]
    low = sum(min(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
    high = sum(max(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True)) + dtype.itemsize
    memory = (ctypes.c_char * (high - low)).from_address(at + low)
    return np.ndarray(shape, dtype, memory, -low, strides)


kept = []  # callbacks and names of capsules live as long as the modules


def replace(module, functions):
    """Put functions of Python into the place of a Cython module's, for Python and for other Cython modules."""
    capsules, pythonapi = module.__pyx_capi__, ctypes.pythonapi
    pythonapi.PyCapsule_GetName.restype = ctypes.c_char_p
    pythonapi.PyCapsule_New.restype = ctypes.py_object
    for name, function in functions.items():
        setattr(module, name, function)
        signature = pythonapi.PyCapsule_GetName(ctypes.py_object(capsules[name]))
        result, arguments = re.fullmatch(r"(.*?) ?\((.*)\)", signature.decode()).groups()
        types = [kind for kind in arguments.split(", ") if kind != "void"]
        own = [kind for kind in types if "__pyx" not in kind]

        def call(*args, function=function, own=own):
            try:
                return function(*args[: len(own)])
            except Exception:  # would not come through to CuPy
                traceback.print_exc()
                os._exit(3)

        others = [ctypes.c_int if "skip" in kind else ctypes.c_void_p for kind in types[len(own) :]]
        kind = C_TYPES.get(result, ctypes.py_object)
        callback = ctypes.PYFUNCTYPE(kind, *(C_TYPES[kind] for kind in own), *others)(call)
        kept.append((callback, signature))
        at = ctypes.cast(callback, ctypes.c_void_p)
        capsules[name] = pythonapi.PyCapsule_New(at, ctypes.c_char_p(signature), None)


def pretend():
    """Import the real CuPy over a pretended driver."""
    own = Driver()
    import cupy_backends.cuda.api.runtime as runtime

    replace(runtime, own.runtime())
    import cupy_backends.cuda.api.driver as driver

    replace(driver, own.driver())
    import cupy
    from cupy.cuda import compiler

    compile_with_cache = compiler._compile_with_cache_cuda

    def compile_noted(source, *args, **options):
        own.sources.append(source)
        return compile_with_cache(source, *args, **options)

    compiler._compile_with_cache_cuda = compile_noted
    return cupy, own


def main():
    """Run the GPU tests, or those of the arguments."""
    os.environ.setdefault("CUPY_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"sppfast-emulation-{os.getuid()}"))
    sys.path[0] = str(HERE.parent)  # not this folder, which has a cupy, too
    cupy, driver = pretend()
    from cuda_emulation import fixture

    emulated = fixture._load_emulated()
    sys.modules["cupy"] = cupy

    def run(name, call, blocks, threads, shared):
        kernels = emulated.library(TYPES[re.match(r"_Z\d+[a-z_]+I(\d[A-Za-z]+|[a-z])", name)[1]])
        at = ctypes.cast(getattr(kernels, name), ctypes.c_void_p)
        missing = kernels.run(None, at, ctypes.c_void_p(call), blocks, threads, ctypes.c_size_t(shared), 0)
        assert not missing, name

    driver.emulated = run
    import pytest

    code = pytest.main(["-m", "gpu", *(sys.argv[1:] or [str(HERE.parent / "test_cuda.py")])])
    sys.stdout.flush()
    os._exit(code)  # there is nothing that CuPy could close


if __name__ == "__main__":
    main()
