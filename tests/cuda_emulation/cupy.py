"""CuPy on the CPU, for tests: as much of it as sppfast.cuda uses, over the emulation of CUDA beside it.

Arrays are NumPy's in a thin shell that, as CuPy's, does not become a NumPy array by itself. New memory is filled with
garbage. Kernels are compiled by g++, all of one type at once, and kept in a folder for the next time.
"""

import ctypes
import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from cuda_emulation.registers import instances

import sppfast

__version__ = "14.0.0"
HERE = Path(__file__).parent
CUDA = Path(sppfast.__file__).parent / "cuda"
SANITIZERS = os.environ.get("SPPFAST_EMULATION_FLAGS", "").split()
FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-ffp-contract=off", "-DSPPFAST_EMULATION", *SANITIZERS]


class Device:
    """The one device that there is."""

    def __init__(self, device=None):
        self.id = 0

    def __eq__(self, other):
        return isinstance(other, Device)

    def __hash__(self):
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def synchronize(self):
        pass


class Memory(SimpleNamespace):
    """A pointer, and what owns the memory."""


class ndarray:
    """An array on the device."""

    def __init__(self, shape, dtype=float, memptr=None, strides=None):
        if memptr is None:
            self.array = np.empty(shape, dtype)
            self.array.view(np.uint8).reshape(-1)[...] = 0xA5
        else:
            offset = memptr.ptr - memptr.owner.ctypes.data
            self.array = np.ndarray(shape, dtype, memptr.owner.base_bytes, offset, strides)

    @property
    def data(self):
        return Memory(ptr=self.array.ctypes.data, owner=_Bytes(self.array))

    @property
    def device(self):
        return Device()

    def get(self):
        return self.array.copy()

    def __array__(self, *args, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __dlpack__(self, **options):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return 2, 0

    def __len__(self):
        return len(self.array)

    def __int__(self):
        return int(self.array)

    def __getitem__(self, key):
        return wrap(self.array[key])

    def __setitem__(self, key, value):
        self.array[unwrap(key)] = unwrap(value)

    def __getattr__(self, name):
        if name.startswith("__"):  # such as __array_interface__, which CuPy's have not
            raise AttributeError(name)
        value = getattr(self.array, name)
        return wrapped(value) if callable(value) else wrap(value)


class _Bytes:
    """The bytes around an array."""

    def __init__(self, array):
        low, high = np.lib.array_utils.byte_bounds(array)
        self.base_bytes = (ctypes.c_char * (high - low)).from_address(low)
        self.ctypes = SimpleNamespace(data=low)
        self.owner = array


def wrap(value):
    """Put NumPy arrays into shells."""
    if isinstance(value, np.ndarray):
        shell = ndarray.__new__(ndarray)
        shell.array = value
        return shell
    return type(value)(map(wrap, value)) if type(value) in (list, tuple) else value


def unwrap(value):
    """Take NumPy arrays out of their shells."""
    if isinstance(value, ndarray):
        return value.array
    return type(value)(map(unwrap, value)) if type(value) in (list, tuple) else value


def wrapped(function):
    """Make a function of NumPy one of CuPy."""

    def call(*args, **options):
        return wrap(function(*map(unwrap, args), **{name: unwrap(value) for name, value in options.items()}))

    return call


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return wrapped(getattr(np, name))


def empty(shape, dtype=float):
    """Uninitialised: garbage."""
    return ndarray(shape, dtype)


def asarray(value, dtype=None):
    """Copy to the device."""
    return value if isinstance(value, ndarray) else wrap(np.array(value, dtype))


def asnumpy(value):
    """Copy to the host."""
    return np.array(unwrap(value))


def from_dlpack(value):
    """Take an array of another library."""
    if isinstance(value, ndarray):
        return value
    return wrap(np.from_dlpack(value) if not hasattr(value, "array") else value.array)


# ---- kernels ----


@cache
def library(kind):
    """Build all kernels of a type, or find them built."""
    names = instances(kind)
    run = "[](const void* call) {{ {0}(*(const Call*)call); }}"
    table = ",\n".join(f'{{"{name}", (const void*)&{name}, {run.format(name)}}}' for name in names)
    source = f"""
        #include "kernels.cu"
        struct Entry {{ const char* name; const void* at; void (*run)(const void*); }};
        static const Entry entries[] = {{ {table} }};
        extern "C" int64_t call_size() {{ return sizeof(Call); }}
        extern "C" int run(
            const char* name, const void* at, const void* call, unsigned blocks, unsigned threads, size_t shared,
            unsigned seed) {{
            for (const Entry& entry : entries)
                if (name ? !std::strcmp(entry.name, name) : at == entry.at) {{
                    emulation::run_grid(entry.run, call, blocks, threads, shared, seed);
                    return 0;
                }}
            return 1;
        }}
    """
    parts = [source.encode(), *(path.read_bytes() for path in (CUDA / "kernels.cu", HERE / "emulation.h"))]
    digest = hashlib.sha256(b"".join([*parts, " ".join(FLAGS).encode()])).hexdigest()[:16]
    found = Path(tempfile.gettempdir()) / f"sppfast-emulation-{os.getuid()}" / f"{digest}.so"
    if not found.exists():
        found.parent.mkdir(exist_ok=True)
        built = found.with_suffix(f".{os.getpid()}")
        command = ["g++", *FLAGS, f"-I{CUDA}", f"-I{HERE}", "-x", "c++", "-", "-o", str(built)]
        subprocess.run(command, input=source, text=True, check=True, stdout=sys.stderr)
        built.rename(found)
    return ctypes.CDLL(str(found))


class RawModule:
    """Kernels by name."""

    def __init__(self, code, options=(), name_expressions=()):
        assert code == (CUDA / "kernels.cu").read_text()
        assert "--fmad=false" in options
        self.names = name_expressions

    def get_function(self, name):
        assert name in self.names
        kernels = library(re.match(r"\w+<([\w ]+)", name)[1])

        def call(grid, block, args, shared_mem=0):
            (fields,) = map(np.asarray, args)
            assert fields.nbytes == kernels.call_size()
            assert 1 <= grid[0] < 2**31 and 1 <= block[0] <= 1024 and shared_mem <= 48 * 1024
            launched.append(name)
            sizes = ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), ctypes.c_size_t(shared_mem)
            missing = kernels.run(
                name.encode(), None, ctypes.c_void_p(fields.ctypes.data), *sizes, ctypes.c_uint(random.getrandbits(32))
            )
            assert not missing, f"{name} is not among the instances of this module"

        return call


launched = []  # names of kernels, in the order of their launches
cuda = SimpleNamespace(
    Device=Device,
    runtime=SimpleNamespace(getDevice=lambda: 0, getDeviceCount=lambda: 1),
    get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
    Stream=SimpleNamespace(from_external=lambda stream: nullcontext()),
)
