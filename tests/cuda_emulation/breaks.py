"""Break the kernels on purpose, one at a time, and see that the tests of the CUDA backend fail.

    python tests/cuda_emulation/breaks.py

A copy of the package is broken, never the package itself.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BREAKS = {
    "the first bin's stop is a cell short": ("return {(int)first, (int)smaller(larger(stop", "return {(int)first, (int)smaller(larger(stop - (i == 0)"),
    "no barrier after planes are loaded": ("    const T* planes = load_planes<T>(shared, map, channel, count);\n    __syncthreads();", "    const T* planes = load_planes<T>(shared, map, channel, count);"),
    "no barrier before staged results are written": ("            }\n    }\n    __syncthreads();\n    int first = 0;", "            }\n    }\n    int first = 0;"),
    "no barrier after a level is made from a finer one": ("first, channels);\n            __syncthreads();", "first, channels);"),
    "no barrier in the pack of a tile": ("    }\n    __syncthreads();\n    for (int k = threadIdx.x / WARP; k < WARP; k += THREADS / WARP) {\n        i64 own = cell + k", "    }\n    for (int k = threadIdx.x / WARP; k < WARP; k += THREADS / WARP) {\n        i64 own = cell + k"),
    "no barrier in the tree of states": ("states[thread].merge(states[thread + half]);\n        __syncthreads();", "states[thread].merge(states[thread + half]);"),
    "a barrier that not all threads reach": ("    if (lane == 0 && bin < bins && channel < call.channels)\n        write_bin", "    if (thread % 2) __syncthreads();\n    if (lane == 0 && bin < bins && channel < call.channels)\n        write_bin"),
    "one step of the shuffle is left out": ("for (int mask = lanes / 2; mask; mask /= 2)", "for (int mask = lanes / 2; mask > 1; mask /= 2)"),
    "a tie goes to the last place": ("same && place < at", "same && place > at"),
    "NaN is not propagated": ("if (other > value || is_nan(other)) value = other;", "if (other > value) value = other;"),
    "bfloat16 is rounded twice": ("| (near != value);", ";"),
    "a vector is loaded though its end is past the row": ("x + size <= columns.stop", "x < columns.stop"),
    "a window's channels are read past the last": ("smaller((i64)i, count - 1)", "(i64)i"),
    "32-bit steps": ("(const char*)call.base + n * call.batch_step", "(const char*)call.base + (int)(n * call.batch_step)"),
    "gradients of one cell are added at once": ("if (turn == now) plane[cell] += value;", "if (turn >= now) plane[cell] += value;"),
    "a part of the windows is left out": ("call.windows * (part + 1) / call.parts", "call.windows * (part + 1) / call.parts - 1"),
    "samples at the map's border lose a part": ("high = cell == side - 1 ? (double)side : (double)cell + 1;", "high = (double)cell;"),
    "halves are rounded to even": (">= 0.5f", "> 0.5f"),
    "windows of no map are pooled": ("window.map < 0 ? 0 : reducer", "reducer"),
}  # fmt: skip


def main():
    """Try all breaks, or those whose names contain the argument; exit with 1 if one is not noticed."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(HERE.parents[1] / "sppfast", root / "sppfast")
        shutil.copytree(HERE.parent, root / "tests")
        kernels = root / "sppfast" / "cuda" / "kernels.cu"
        source = kernels.read_text()
        for name, (sound, broken) in BREAKS.items():
            if wanted not in name:
                continue
            assert source.count(sound) == 1, name
            kernels.write_text(source.replace(sound, broken))
            failed = run(root)
            print(f"{'caught by ' + failed if failed else 'MISSED'}: {name}", flush=True)
            missed += [] if failed else [name]
    sys.exit(bool(missed))


def run(root):
    """Run the tests on a copy; return the first that fails."""
    tests = [root / "tests" / "test_cuda.py", root / "tests" / "test_cuda_sanitized.py"]
    for test in tests:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not gpu", str(test)]
        environment = os.environ | {"PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
            return lines[0].split("::")[1].split(" ")[0] if lines else "a crash"
    return ""


if __name__ == "__main__":
    main()
