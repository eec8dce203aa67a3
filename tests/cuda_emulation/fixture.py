"""Which CuPy the tests of the CUDA backend run on: the emulated one, or the real one on a GPU."""

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

EMULATED = Path(__file__).with_name("cupy.py")


def _forget():
    for name in [name for name in sys.modules if name == "sppfast.cuda" or name.startswith("sppfast.cuda.")]:
        del sys.modules[name]


def _load_emulated():
    spec = importlib.util.spec_from_file_location("cupy", EMULATED)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cupy"] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def emulation():
    """The emulated CuPy, in the place of any other."""
    before = sys.modules.pop("cupy", None)
    _forget()
    yield _load_emulated()
    _forget()
    del sys.modules["cupy"]
    if before is not None:
        sys.modules["cupy"] = before


def _load_real():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device: {error}")
    return cupy


@pytest.fixture(scope="module", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request):
    """A CuPy, in whose place no other is while a module's tests run."""
    if request.param == "emulated":
        with emulation() as module:
            yield module
    else:
        _forget()
        yield _load_real()
        _forget()
