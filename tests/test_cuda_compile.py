"""kernels.cu is compiled to machine code for every architecture, as it will be on a GPU; no GPU is needed for that."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from cuda_emulation.registers import ARCHITECTURES, TYPES, compile_kernels, instances, usage

pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")


def test_every_kernel_compiles_for_every_architecture():
    names = {kind: instances(kind) for kind in TYPES}
    with ThreadPoolExecutor(2) as pool:
        jobs = {(k, a): pool.submit(compile_kernels, names[k], a) for k in TYPES for a in ARCHITECTURES}
    for (kind, architecture), job in jobs.items():
        good, log = job.result()
        assert good, f"{kind}, sm_{architecture}: {log[:2000]}"
        found = usage(log)
        assert len(found) == len(names[kind]), f"{kind}, sm_{architecture}"
        assert max(registers for registers, _, _ in found.values()) <= 255


def test_an_error_is_seen():
    good, log = compile_kernels(["pool_planes<float, NONE>"], "90")
    assert not good and "NONE" in log
