"""kernels.cu is compiled to machine code for every architecture, as it will be on a GPU; no GPU is needed for that."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from cuda_emulation.registers import ARCHITECTURES, OPTIONS, TYPES, compile_for, compile_kernels, instances, usage

pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")


def test_every_kernel_compiles_for_every_architecture():
    names = {kind: instances(kind) for kind in TYPES}
    with ThreadPoolExecutor(2) as pool:
        quick = "--Ofast-compile=max"  # a fifth of the time
        jobs = {(k, a): pool.submit(compile_kernels, names[k], a, quick) for k in TYPES for a in ARCHITECTURES}
        jobs |= {(k, "90"): pool.submit(compile_kernels, names[k], "90") for k in ("float", "Half")}
    for (kind, architecture), job in jobs.items():
        good, log = job.result()
        assert good, f"{kind}, sm_{architecture}: {log[:2000]}"
        found = usage(log)
        assert len(found) == len(names[kind]), f"{kind}, sm_{architecture}"
        assert max(registers for registers, _, _ in found.values()) <= 255


def test_options_are_those_of_the_launchers(cupy):
    from sppfast.cuda import launch

    assert (*launch.OPTIONS, "-ftz=true") == OPTIONS


def test_subnormal_numbers_are_not_zero():
    """CuPy adds an option that would make them so."""
    for kind in ("float", "BFloat"):
        good, log, ptx = compile_for(instances(kind), "compute_90")
        assert good, log
        assert ".target sm_90" in ptx and ".ftz" not in ptx


def test_an_error_is_seen():
    good, log = compile_kernels(["pool_tiles<float, NONE>"], "90")
    assert not good and "NONE" in log
