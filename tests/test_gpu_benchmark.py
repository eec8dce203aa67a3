"""benchmarks/gpu.py, as far as it goes without a GPU: its work and its report."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(cupy, monkeypatch):
    if hasattr(cupy, "is_available"):
        pytest.skip("the script itself is run on a GPU")
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "have", lambda name: False)
    return module


@pytest.mark.parametrize("make", ["pool_rows", "roi_rows"])
def test_rows(gpu, cupy, make):
    rows = list(getattr(gpu, make)(cupy, 0, 256))
    assert len(rows) == 12 if make == "roi_rows" else 24
    for row in rows:
        if "512" in row.name:
            continue
        results = row.runs["sppfast"](row.inputs[0])
        assert results.nbytes <= row.bytes
        times = iter(range(1, 100))
        gpu.measure(row, lambda run, inputs, count, times=times: next(times) / 1000)
        assert row.seconds == {"sppfast": 0.007}  # the median of nine, after two that warm up
        found = gpu.report(row, 1e9)
        assert found["launches"] and set(found["host_microseconds"]) == {"sppfast"}
        assert found["fraction_of_copy"] == pytest.approx(row.bytes / 0.007 / 1e9, abs=1e-3)
        json.dumps(found)


def test_a_peer_is_compared(gpu, cupy):
    row = gpu.Row("work", [None], {"sppfast": lambda x: 0.002, "torch": lambda x: 0.008}, 1000)
    gpu.time_row(row, lambda run, inputs, count: run(inputs[0]))
    assert gpu.report(row, 1e9)["ratio"] == {"torch": 4.0}


def test_results_are_compared(gpu, cupy, capsys):
    def fail(x):
        raise RuntimeError("no such device")

    x = cupy.asarray(np.arange(4.0))
    runs = {"sppfast": lambda x: x, "same": lambda x: x, "other": lambda x: cupy.asarray(np.ones(4)), "broken": fail}
    row = gpu.Row("work", [x], runs, 1000, tolerance=1e-5)
    gpu.compare(row)
    assert row.differ == {"same": 0, "other": pytest.approx(2 / 3)}
    assert set(row.runs) == {"sppfast", "same", "other"}
    printed = capsys.readouterr().out
    assert "other DIFFERS" in printed and "broken is left out: RuntimeError: no such device" in printed


def test_without_a_gpu():
    hide, run = (
        "import sys; sys.modules['cupy'] = None",
        "import runpy; runpy.run_path(sys.argv[1], run_name='__main__')",
    )
    command = [sys.executable, "-c", f"{hide}; {run}", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmarks/gpu.py needs CuPy and a GPU")
