"""Times sppfast and its peers in turn, in one process, on the same work, with two threads each.

    python benchmarks/peers.py [--quick] [--rows REGEX] [--json FILE]

Every peer's result is compared with sppfast's before anything is timed. Times are medians in ms; a ratio is
the peer's time over sppfast's. Each row is timed with a fresh result and with `out=`. The bound is the memory
traffic that nobody can avoid, timed in the same run: NumPy reads the map once (pool) or fills the result with
a constant (RoI). Goals come from the project's design; nothing here knows whether they are met.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import sppfast

THREADS = 2
STRIDE = 16
MAP = (38, 63)  # of an image of 608 x 1008
RESULTS = ("fresh", "out=")
PAUSE = 0.005  # seconds, before each timing: the threads of the one before stop spinning
SAMPLE = 0.01  # seconds, at least, of calls in a row for one timing: an idle core takes a while to wake
SOURCE = Path(__file__).with_name("stand_ins.c")
THREAD_POOL = ThreadPoolExecutor(THREADS)


@dataclass
class Case:
    """One row's work: calls that take no arguments and compute the same, and its bare memory traffic."""

    ours: dict[str, Callable]
    peers: dict[str, Callable]
    bounds: dict[str, Callable]
    alone: dict[str, Callable] = field(default_factory=dict)  # sppfast on the finest level only
    tolerance: float = 0.0  # of a peer's values


@dataclass
class Row:
    """What to time, and the goals: `at_least` peer / sppfast, `at_most` sppfast / bound or 6x6 alone."""

    name: str
    build: Callable[[], Case]
    at_least: dict[str, float]
    at_most: dict[str, float] = field(default_factory=dict)


# ---- the work


def pool_case(shape: tuple[int, ...], levels: tuple[int, ...]) -> Case:
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    out = np.empty((shape[0], sppfast.Pyramid(levels).output_length(shape[1])), np.float32)
    return Case(
        ours={
            "fresh": lambda: sppfast.pool(x, levels, workers=THREADS),
            "out=": lambda: sppfast.pool(x, levels, workers=THREADS, out=out),
        },
        peers=installed({"torch": torch_pool, "openvino": openvino_pool}, x, levels),
        bounds=dict.fromkeys(RESULTS, lambda: read(x)),
    )


def roi_case(count: int, levels: tuple[int, ...]) -> Case:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 256, *MAP), dtype=np.float32)
    rois = random_rois(rng, count)
    roi_pool = partial(sppfast.roi_pool, x, rois, geometry=STRIDE, rounding="fast_rcnn", workers=THREADS)
    out = np.empty((count, sppfast.Pyramid(levels).output_length(256)), np.float32)
    part = np.empty((count, sppfast.Pyramid(levels[0]).output_length(256)), np.float32)
    peers = {"openvino": openvino_roi_pool, "onnxruntime": onnxruntime_roi_pool}
    return Case(
        ours={"fresh": lambda: roi_pool(levels=levels), "out=": lambda: roi_pool(levels=levels, out=out)},
        peers=installed(peers, x, rois, levels),
        bounds={"fresh": lambda: fill(np.empty_like(out)), "out=": lambda: fill(out)},
        alone={
            "fresh": lambda: roi_pool(levels=levels[0]),
            "out=": lambda: roi_pool(levels=levels[0], out=part),
        }
        if len(levels) > 1
        else {},
    )


def sse_case(count: int, levels: tuple[int, ...]) -> Case:
    """One thread, the map's channels side by side, the windows already cells."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*MAP, 256), dtype=np.float32)
    cells = sppfast.ConvGeometry(STRIDE).cells(random_rois(rng, count)[:, 1:], *MAP)
    roi_pool = partial(sppfast.roi_pool, x, cells, levels, rounding="cells", layout="NHWC", workers=1)
    out = np.empty((count, sppfast.Pyramid(levels).output_length(256)), np.float32)
    return Case(
        ours={"fresh": roi_pool, "out=": lambda: roi_pool(out=out)},
        peers={"C": sse_pool(x, cells, levels)} if C_FUNCTIONS else {},
        bounds={"fresh": lambda: np.empty_like(out).fill(1.0), "out=": lambda: out.fill(1.0)},
    )


def align_case(count: int, size: tuple[int, int], stride: int) -> Case:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 256, *size), dtype=np.float32)
    rois = random_rois(rng, count, size, stride)
    roi_align = partial(sppfast.roi_align, x, rois, 7, geometry=stride, sampling_ratio=2, workers=THREADS)
    out = np.empty((count, 256 * 49), np.float32)
    peers = {"openvino": openvino_roi_align, "onnxruntime": onnxruntime_roi_align}
    return Case(
        ours={"fresh": roi_align, "out=": lambda: roi_align(out=out)},
        peers=installed(peers, x, rois, stride),
        bounds={"fresh": lambda: fill(np.empty_like(out)), "out=": lambda: fill(out)},
        tolerance=1e-5,
    )


def pool_backward_case(shape: tuple[int, ...], levels: tuple[int, ...], mode: str) -> Case:
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    places = {"indices": sppfast.pool(x, levels, return_indices=True)[1]} if mode == "max" else {}
    grad = np.random.default_rng(1).standard_normal(sppfast.pool(x, levels).shape, dtype=np.float32)
    call = partial(sppfast.pool_backward, grad, x, levels, mode=mode, **places)
    return backward(call, x, installed({"torch": torch_pool_backward}, x, grad, levels, mode))


def roi_backward_case(count: int) -> Case:
    rng = np.random.default_rng(0)
    x, rois = rng.standard_normal((1, 256, *MAP), dtype=np.float32), random_rois(rng, count)
    y, indices = sppfast.roi_pool(x, rois, 7, geometry=STRIDE, rounding="fast_rcnn", return_indices=True)
    grad = rng.standard_normal(y.shape, dtype=np.float32)
    call = partial(sppfast.roi_pool_backward, grad, x, rois, 7, geometry=STRIDE, rounding="fast_rcnn", indices=indices)
    peer = {"C": c_call("roi_pool_backward", grad, indices, rois, count, *x.shape[1:], 7, np.empty_like(x))}
    return backward(call, x, peer)


def align_backward_case(count: int) -> Case:
    rng = np.random.default_rng(0)
    x, rois = rng.standard_normal((1, 256, *MAP), dtype=np.float32), random_rois(rng, count)
    grad = rng.standard_normal((count, 256 * 49), dtype=np.float32)
    call = partial(sppfast.roi_align_backward, grad, x, rois, 7, geometry=STRIDE)
    scale = 1 / STRIDE
    peer = {"C": c_call("roi_align_backward", grad, rois, count, *x.shape[1:], 7, 2, scale, np.empty_like(x))}
    return backward(call, x, peer)


def backward(call: Callable, x: np.ndarray, peers: dict[str, Callable]) -> Case:
    """Gradients: the bound is to write them once."""
    out = np.empty_like(x)
    return Case(
        ours={"fresh": partial(call, workers=THREADS), "out=": partial(call, workers=THREADS, out=out)},
        peers=peers,
        bounds={"fresh": lambda: fill(np.empty_like(out)), "out=": lambda: fill(out)},
        tolerance=1e-4,  # sums in another order
    )


def random_rois(rng: np.random.Generator, count: int, size: tuple[int, int] = MAP, stride: int = STRIDE) -> np.ndarray:
    """Rows 0, x0, y0, x1, y1 in the image; sides from 32 pixels to the image's, evenly in the logarithm."""
    image = stride * np.array([size[1], size[0]])
    sides = np.exp(rng.uniform(np.log(32), np.log(image), (count, 2)))
    corners = rng.uniform(size=(count, 2)) * (image - sides)
    return np.hstack([np.zeros((count, 1)), corners, corners + sides - 1]).astype(np.float32)


def read(x: np.ndarray) -> list:
    if x.nbytes < 2**20:  # starting threads costs more
        return [x.max()]
    return list(THREAD_POOL.map(np.max, np.array_split(x.reshape(-1), THREADS)))


def fill(out: np.ndarray) -> list:
    return list(THREAD_POOL.map(lambda part: part.fill(1.0), np.array_split(out.reshape(-1), THREADS)))


ROWS = [
    Row("pool 64x256x13x13, levels 4,2,1", lambda: pool_case((64, 256, 13, 13), (4, 2, 1)), {"best peer": 10}),
    Row("pool 8x256x38x63, levels 6,3,2,1", lambda: pool_case((8, 256, *MAP), (6, 3, 2, 1)), {"best peer": 6}),
    Row("pool 8x256x38x63, levels 4,2,1", lambda: pool_case((8, 256, *MAP), (4, 2, 1)), {"best peer": 4}),
    Row(
        "pool 1x512x64x64, levels 6,3,2,1",
        lambda: pool_case((1, 512, 64, 64), (6, 3, 2, 1)),
        {"best peer": 6},
    ),
    Row("pool 1x512x64x64, levels 4,2,1", lambda: pool_case((1, 512, 64, 64), (4, 2, 1)), {"best peer": 4}),
    Row(
        "pool 1x64x512x512, levels 4,2,1",
        lambda: pool_case((1, 64, 512, 512), (4, 2, 1)),
        {"best peer": 4},
        {"bound": 1.5},
    ),
    Row("pool 1x8x13x13, levels 4,2,1", lambda: pool_case((1, 8, 13, 13), (4, 2, 1)), {"torch": 1}),
    Row(
        "RoI 7x7, 300 windows",
        lambda: roi_case(300, (7,)),
        {"openvino": 4, "onnxruntime": 30},
        {"bound": 2},
    ),
    Row(
        "RoI 7x7, 2000 windows",
        lambda: roi_case(2000, (7,)),
        {"openvino": 4, "onnxruntime": 30},
        {"bound": 2},
    ),
    Row(
        "RoI levels 6,3,2,1, 2000 windows",
        lambda: roi_case(2000, (6, 3, 2, 1)),
        {"best peer": 6},
        {"6x6 alone": 1.2},
    ),
    Row("the same, 1 thread, map NHWC", lambda: sse_case(2000, (6, 3, 2, 1)), {"C": 5}),
    Row("RoI align 7x7, 2000 windows", lambda: align_case(2000, MAP, STRIDE), {"best peer": 8}),
    Row("RoI align, map 256x200x304", lambda: align_case(2000, (200, 304), 4), {"best peer": 6}),
    *(
        Row(
            f"pool backward {mode} {'x'.join(map(str, shape))}, {','.join(map(str, levels))}",
            partial(pool_backward_case, shape, levels, mode),
            {"torch": 5},
        )
        for shape, levels in (((64, 256, 13, 13), (4, 2, 1)), ((8, 256, *MAP), (6, 3, 2, 1)))
        for mode in ("max", "avg")
    ),
    Row("RoI backward 7x7, 2000 windows", lambda: roi_backward_case(2000), {"C": 5}),
    Row("RoI align backward 7x7, 2000 windows", lambda: align_backward_case(2000), {"C": 5}),
]


# ---- the peers


def installed(peers: dict[str, Callable], *work) -> dict[str, Callable]:
    needs = {"torch": ("torch",), "openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx")}
    there = {name: all(map(importlib.util.find_spec, modules)) for name, modules in needs.items()}
    return {name: build(*work) for name, build in peers.items() if there[name]}


def torch_pool(x: np.ndarray, levels: tuple[int, ...]) -> Callable:
    import torch

    torch.set_num_threads(THREADS)
    adaptive_max_pool2d = torch.nn.functional.adaptive_max_pool2d
    tensor = torch.from_numpy(x)

    def call():
        with torch.inference_mode():
            return torch.cat([adaptive_max_pool2d(tensor, n).flatten(1) for n in levels], 1)

    return call


def openvino_pool(x: np.ndarray, levels: tuple[int, ...]) -> Callable:
    import openvino.opset8 as ops

    def pooled(inputs):
        return [ops.adaptive_max_pool(inputs[0], [n, n], "i32").output(0) for n in levels]

    return openvino_call([x], pooled)


def openvino_roi_pool(x: np.ndarray, rois: np.ndarray, levels: tuple[int, ...]) -> Callable:
    import openvino.opset8 as ops

    def pooled(inputs):
        return [ops.roi_pooling(*inputs, [n, n], 1 / STRIDE, "max").output(0) for n in levels]

    return openvino_call([x, rois], pooled)


def openvino_call(arrays: list[np.ndarray], pooled: Callable) -> Callable:
    """One model: the levels, each made flat, side by side. Its inputs and its result stay in place."""
    import openvino
    import openvino.opset8 as ops

    inputs = [ops.parameter(array.shape, np.float32) for array in arrays]
    rows = [ops.reshape(level, [level.get_shape()[0], -1], False) for level in pooled(inputs)]
    model = openvino.Model([ops.concat(rows, 1)], inputs)
    settings = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}  # not bfloat16, where it is fast
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    for i, array in enumerate(arrays):
        request.set_input_tensor(i, openvino.Tensor(array, shared_memory=True))

    def call(inputs=arrays):  # which nobody else may keep
        request.infer(share_outputs=True)
        return request.get_output_tensor().data

    return call


def onnxruntime_roi_pool(x: np.ndarray, rois: np.ndarray, levels: tuple[int, ...]) -> Callable:
    operators = [("MaxRoiPool", {"pooled_shape": [n, n], "spatial_scale": 1 / STRIDE}) for n in levels]
    return onnxruntime_call({"x": x, "rois": rois}, operators)


def onnxruntime_call(arrays: dict[str, np.ndarray], operators: list[tuple[str, dict]]) -> Callable:
    """One model: the operators' results, each made flat, side by side."""
    import onnxruntime
    from onnx import helper

    nodes = []
    for i, (name, attributes) in enumerate(operators):
        nodes.append(helper.make_node(name, list(arrays), [f"level{i}"], **attributes))
        nodes.append(helper.make_node("Flatten", [f"level{i}"], [f"row{i}"]))
    nodes.append(helper.make_node("Concat", [f"row{i}" for i in range(len(operators))], ["result"], axis=1))
    kind = helper.np_dtype_to_tensor_dtype
    inputs = [helper.make_tensor_value_info(k, kind(v.dtype), v.shape) for k, v in arrays.items()]
    result = helper.make_tensor_value_info("result", kind(np.dtype(np.float32)), [None, None])
    graph = helper.make_graph(nodes, "levels", inputs, [result])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 16)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # while it is another's turn
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, arrays)[0]


def openvino_roi_align(x: np.ndarray, rois: np.ndarray, stride: int) -> Callable:
    import openvino.opset9 as ops

    windows, index = np.ascontiguousarray(rois[:, 1:]), rois[:, 0].astype(np.int64)

    def aligned(inputs):
        index_input = ops.constant(index)
        return [ops.roi_align(*inputs, index_input, 7, 7, 2, 1 / stride, "avg", "half_pixel_for_nn").output(0)]

    return openvino_call([x, windows], aligned)


def onnxruntime_roi_align(x: np.ndarray, rois: np.ndarray, stride: int) -> Callable:
    attributes = {"output_height": 7, "output_width": 7, "sampling_ratio": 2, "spatial_scale": 1 / stride}
    arrays = {"x": x, "rois": np.ascontiguousarray(rois[:, 1:]), "index": rois[:, 0].astype(np.int64)}
    call = onnxruntime_call(arrays, [("RoiAlign", attributes)])
    return lambda: call().reshape(len(rois), -1)


def torch_pool_backward(x: np.ndarray, grad: np.ndarray, levels: tuple[int, ...], mode: str) -> Callable:
    import torch

    torch.set_num_threads(THREADS)
    operator = getattr(torch.nn.functional, f"adaptive_{mode}_pool2d")
    tensor = torch.from_numpy(x).requires_grad_()
    y = torch.cat([operator(tensor, n).flatten(1) for n in levels], 1)
    return lambda: torch.autograd.grad(y, tensor, torch.from_numpy(grad), retain_graph=True)[0].numpy()


def c_functions() -> ctypes.CDLL | None:
    """Compile `stand_ins.c`, where there is a compiler."""
    if platform.machine() not in ("x86_64", "AMD64") or shutil.which("cc") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "stand_ins.so"
        subprocess.run(["cc", "-O3", "-shared", "-fPIC", SOURCE, "-o", library], check=True)
        return ctypes.CDLL(str(library))


C_FUNCTIONS = c_functions()


def c_call(name: str, *arguments) -> Callable:
    """Call a C function of arrays, whole numbers and float32; its last argument is its result."""
    types = {np.ndarray: lambda a: a.ctypes.data_as(ctypes.c_void_p), int: ctypes.c_long, float: ctypes.c_float}
    passed = [types[type(argument)](argument) for argument in arguments]

    def call():
        getattr(C_FUNCTIONS, name)(*passed)
        return arguments[-1]

    return call


def sse_pool(x: np.ndarray, cells: np.ndarray, levels: tuple[int, ...]) -> Callable:
    """Its result in sppfast's order is what is compared, and not timed."""
    result = np.empty((len(cells), sppfast.Pyramid(levels).size, x.shape[2]), np.float32)
    call = c_call("sse_pool", x, *x.shape[1:], cells, len(cells), np.array(levels), len(levels), result)
    return lambda: Rearranged(call(), levels)


@dataclass
class Rearranged:
    """A result (R, bins, C) that becomes sppfast's row order when it is looked at."""

    result: np.ndarray
    levels: tuple[int, ...]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        parts = np.split(self.result, np.cumsum([n * n for n in self.levels])[:-1], axis=1)
        return np.concatenate([part.swapaxes(1, 2).reshape(len(part), -1) for part in parts], axis=1)


# ---- the timing


def differences(case: Case) -> dict[str, float]:
    """Share of values in which each peer's result, and the one in `out`, differs from sppfast's fresh one."""
    expected = case.ours["fresh"]()
    calls = case.peers | {"out=": case.ours["out="]}

    def same(result: np.ndarray) -> np.ndarray:
        return np.isclose(result, expected, rtol=0, atol=case.tolerance) if case.tolerance else result == expected

    return {name: 1 - float(np.mean(same(np.asarray(call())))) for name, call in calls.items()}


def medians(calls: dict[str, Callable], budget: float) -> dict[str, float]:
    """Median ms of each call; the calls take turns until `budget` seconds are over, five times at least."""
    counts = {name: max(1, round(SAMPLE / seconds(call, 1))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, call in calls.items():
            times[name].append(seconds(call, counts[name]))
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def seconds(call: Callable, count: int) -> float:
    """Mean time of `count` calls, after one that does not count: others were in the cache before it."""
    time.sleep(PAUSE)
    call()
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def measure(row: Row, budget: float) -> dict:
    case = row.build()
    differ = differences(case)
    calls = dict(case.peers)
    for name, pair in (("sppfast", case.ours), ("bound", case.bounds), ("6x6 alone", case.alone)):
        calls |= {f"{name} {result}": call for result, call in pair.items()}
    ms = medians(calls, budget)
    return {
        "row": row.name,
        "ms": ms,
        "at_least": row.at_least,
        "at_most": row.at_most,
        "differ": {name: share for name, share in differ.items() if share},
        "results": {result: ratios(ms, list(case.peers), result) for result in RESULTS},
    }


def ratios(ms: dict[str, float], peers: list[str], result: str) -> dict[str, float]:
    """Ratios of one line: each peer's time over sppfast's; sppfast's over the bound and over 6x6 alone."""
    ours = ms[f"sppfast {result}"]
    found = {name: ms[name] / ours for name in peers}
    best = {"best peer": min(found.values())} if found else {}
    others = {name: ours / ms[f"{name} {result}"] for name in ("bound", "6x6 alone") if f"{name} {result}" in ms}
    return found | best | others


# ---- the report


PEERS = ("torch", "openvino", "onnxruntime", "C")


def print_header() -> None:
    peers = "".join(f"{name:>18}" for name in PEERS)
    print(f"{'ms and ratio':<34}{'result':>6}{'sppfast':>10}{peers}{'best':>8}{'bound':>16}  goals")


def print_row(measured: dict) -> None:
    ms, name = measured["ms"], measured["row"]
    for result, found in measured["results"].items():
        peers = "".join(f"{f'{ms[k]:.3f} {found[k]:5.1f}x' if k in ms else '-':>18}" for k in PEERS)
        best = f"{found['best peer']:.1f}x" if "best peer" in found else "-"
        bound = f"{ms[f'bound {result}']:.3f} {found['bound']:5.2f}x"
        goals = [f"{k} {found[k]:.1f}x of {v:g}x" for k, v in measured["at_least"].items() if k in found]
        goals += [f"{k} {found[k]:.2f}x, at most {v:g}x" for k, v in measured["at_most"].items()]
        ours = ms[f"sppfast {result}"]
        print(f"{name:<34}{result:>6}{ours:>10.3f}{peers}{best:>8}{bound:>16}  {'; '.join(goals)}", flush=True)
        name = ""
    for name, share in measured["differ"].items():
        print(f"  {name}: {share:.3%} of the values differ from sppfast's", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time sppfast and its peers on the same work.")
    parser.add_argument("--quick", action="store_true", help="one second for each row instead of ten")
    parser.add_argument("--rows", default="", metavar="REGEX", help="only the rows whose name matches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()

    versions = sppfast.versions()
    print(", ".join(f"{name} {version}" for name, version in versions.items() if version != "not installed"))
    print(f"{THREADS} threads; load average before the start: {os.getloadavg()[0]:.2f}\n")
    print_header()
    measured = []
    for row in ROWS:
        if re.search(arguments.rows, row.name):
            measured.append(measure(row, budget=1 if arguments.quick else 10))
            print_row(measured[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps({"versions": versions, "rows": measured}, indent=2, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
