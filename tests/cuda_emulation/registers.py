"""Compile kernels.cu as CuPy does, and tell the registers, spills and stack that each kernel takes.

python tests/cuda_emulation/registers.py [TYPE ...]
"""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "sppfast" / "cuda" / "kernels.cu"
MODES = ("MAX", "ARGMAX", "AVG", "MEAN", "PEAK")
TYPES = {
    **dict.fromkeys(("signed char", "unsigned char", "short", "unsigned short"), MODES),
    **dict.fromkeys(("int", "unsigned", "i64", "unsigned long long", "Half", "BFloat"), MODES),
    **dict.fromkeys(("float", "double"), (*MODES, "ARGPEAK")),
}
BYTES = dict(zip(TYPES, (1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8), strict=True))
SPECIFIC = ("plan_windows<{}>", "scatter_maxima<{}>", "gather_means<{}, false>", "gather_means<{}, true>")
ARCHITECTURES = ("75", "80", "90", "100", "120")
OPTIONS = ("--std=c++17", "--fmad=false", "-I", "-ftz=true")  # those of launch.py, and what CuPy adds


def instances(name):
    """All kernels of one type that the launchers can ask for."""
    vector = min(16 // BYTES[name], 8)
    kernels = [f"pack_maps<{name}>"]
    kernels += [f"pool_windows<{name}, {mode}, {size}>" for size in (vector, 1) for mode in TYPES[name]]
    kernels += [f"{kernel}<{name}, {mode}>" for kernel in ("pool_tiles", "merge_tiles") for mode in TYPES[name][:3]]
    return kernels + [kernel.format(name) for kernel in SPECIFIC if name in ("float", "double")]


def compile_kernels(names, architecture, *more):
    """Compile instances to machine code; return whether that succeeded, and the compiler's log."""
    good, log, _ = compile_for(names, f"sm_{architecture}", "--ptxas-options=-v", *more)
    return good, log


def compile_for(names, target, *more):
    """Compile instances for a target; return whether that succeeded, the compiler's log, and PTX."""
    from cuda.bindings import nvrtc

    source = KERNELS.read_text()  # below: bytes of one character are shared by all of Python, and NVRTC writes to them
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], [])
    for name in names:
        nvrtc.nvrtcAddNameExpression(program, name.encode())
    options = [option.encode() for option in (f"-arch={target}", *more, *OPTIONS)]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytes(size + 2)
    nvrtc.nvrtcGetProgramLog(program, log)
    _, size = nvrtc.nvrtcGetPTXSize(program)
    ptx = bytes(size + 2)
    nvrtc.nvrtcGetPTX(program, ptx)
    nvrtc.nvrtcDestroyProgram(program)
    return int(result) == 0, log.decode().rstrip("\0"), ptx.decode().rstrip("\0")


def usage(log):
    """For each kernel of a log: registers, bytes of stack, bytes spilled."""
    entry, stack = r"Compiling entry function '(\w+)'", r"(\d+) bytes stack frame, (\d+) bytes spill stores"
    pattern = rf"{entry}.*?{stack}.*?Used (\d+) registers"
    return {
        name: (int(registers), int(stack), int(spilled))
        for name, stack, spilled, registers in re.findall(pattern, log, re.DOTALL)
    }


def main():
    """Print a table: one row for each kernel, one column for each architecture."""
    names = [name for kind in sys.argv[1:] or ["float"] for name in instances(kind)]
    with ThreadPoolExecutor(2) as pool:
        jobs = {(n, a): pool.submit(compile_kernels, [n], a) for n in names for a in ARCHITECTURES}
    print("| kernel | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " |")
    print("|---|" + "---|" * len(ARCHITECTURES))
    for name in names:
        cells = []
        for architecture in ARCHITECTURES:
            ((registers, _, spilled),) = usage(jobs[name, architecture].result()[1]).values()
            cells.append(f"{registers}" + (f" ({spilled} B spilled)" if spilled else ""))
        print(f"| `{name}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
