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
    "no barrier after a tile is loaded": ("        __syncthreads();  // the cells are there, and what is known of finer levels\n", "        if (level.finer >= 0) __syncthreads();\n"),
    "no barrier before a level is made from a finer one": ("        __syncthreads();  // the cells are there, and what is known of finer levels\n", "        if (level.finer < 0) __syncthreads();\n"),
    "no barrier before other levels' bins are looked up": ("if (l) __syncthreads();", ""),
    "no barrier among the warps that reduce a bin": ("states[thread / WARP] = state;\n    __syncthreads();", "states[thread / WARP] = state;"),
    "a warp of a bin is left out": ("k < team / WARP; k++", "k < team / WARP - 1; k++"),
    "a tile's last row is left out": ("return {first, first + smaller(rows, height - first)};", "return {first, first + smaller(rows, height - first) - (first > 0)};"),
    "two tiles share their states": ("* call.tiles + tile];", "* call.tiles + tile / 2];"),
    "a bin's last tile is not merged": ("(ceil_divide(rows.stop, tiles.rows) - top) * wide : 0;", "(ceil_divide(rows.stop, tiles.rows) - top) * wide - (wide > 1) : 0;"),
    "tiles are as long as whole rows of a wider map": ("columns = smaller(map.width, room)", "columns = map.width"),
    "no barrier before staged results are written": ("            }\n    }\n    __syncthreads();\n    int first = 0;", "            }\n    }\n    int first = 0;"),
    "no barrier after a level is made from a finer one": ("first, channels);\n            __syncthreads();", "first, channels);"),
    "no barrier in the pack of a tile": ("    }\n    __syncthreads();\n    for (int k = threadIdx.x / WARP; k < WARP; k += THREADS / WARP) {\n        i64 own = cell + k", "    }\n    for (int k = threadIdx.x / WARP; k < WARP; k += THREADS / WARP) {\n        i64 own = cell + k"),
    "a barrier that not all threads reach": ("            if (t % team == 0 && t <", "            if (threadIdx.x % 2) __syncthreads();\n            if (t % team == 0 && t <"),
    "no barrier after the warps count windows": ("counts[thread / WARP] = __popc(all);\n    __syncthreads();", "counts[thread / WARP] = __popc(all);"),
    "no barrier after windows are listed": ("= thread;\n    __syncthreads();\n    return found;", "= thread;\n    return found;"),
    "windows of the warps before are overwritten": ("if (warp < thread / WARP) before +=", "if (warp + 1 < thread / WARP) before +="),
    "windows are looked for too near": ("double slack = 2 + rounding_error(begin, extent);", "double slack = -1;"),
    "one step of the shuffle is left out": ("for (int mask = smaller(team, WARP) / 2; mask; mask /= 2)", "for (int mask = smaller(team, WARP) / 2; mask > 1; mask /= 2)"),
    "a tie goes to the last place": ("same && place < at", "same && place > at"),
    "NaN is not propagated": ("if (other > value || is_nan(other)) value = other;", "if (other > value) value = other;"),
    "bfloat16 is rounded twice": ("| (near != value);", ";"),
    "a copy's tail is left out": ("i64 tail = head + 16 * body;", "i64 tail = size;"),
    "a copy by vectors begins before the first whole one": ("smaller((i64)((16 - ((i64)from & 15)) & 15), size)", "(i64)0"),
    "32-bit steps": ("(const char*)call.base + n * call.batch_step", "(const char*)call.base + (int)(n * call.batch_step)"),
    "no __syncwarp after the threads whose turn it is": ("plane[cell] += value;\n            __syncwarp();", "plane[cell] += value;"),
    "gradients of one cell are added at once": ("if (turn == now) plane[cell] += value;", "if (turn >= now) plane[cell] += value;"),
    "a part of the windows is left out": ("call.windows * (part + 1) / call.parts", "call.windows * (part + 1) / call.parts - 1"),
    "samples at the map's border lose a part": ("return cell == side - 1 ? (double)side : (double)cell + 1;", "return (double)cell;"),
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
    """Run the tests on a copy, those first that notice most; return the first that fails."""
    for file, only in (
        ("test_cuda.py", "float32 or tiles or many or levels"),
        ("test_cuda_sanitized.py", "tsan"),
        ("test_cuda.py", ""),
        ("test_cuda_sanitized.py", "asan"),
    ):
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not gpu", "-k", only]
        environment = os.environ | {"PYTHONPATH": str(root)}
        test = str(root / "tests" / file)
        done = subprocess.run([*command, test], cwd=root, env=environment, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
            return lines[0].split("::")[1].split(" ")[0] if lines else "a crash"
    return ""


if __name__ == "__main__":
    main()
